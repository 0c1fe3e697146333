"""Admit: is this fragment under a genuine, fresh, unused grant, made for this node, with a receipt that verifies?

The order matters: nothing of a grant is read before its signature, nothing of a fragment is parsed before its digest stands
under that signature, and a grant's id is used up last, so that nobody can burn a genuine grant with a forged one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from audit.entries import opens
from node.values import AdmittedFragment, AdmittedKeys, FragmentOffer, Session
from tidegate import ipc
from tidegate.core.caller import BY_CERTIFICATE
from tidegate.core.canonical import parse_json, sha256_hex
from tidegate.core.clock import Clock, parse_timestamp
from tidegate.core.dataset import Dataset
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.grant import GRANT_LIFETIME_S_MAX, GRANT_SIZE_BYTES_MAX, Grant, GrantedKeys, fragment_bytes
from tidegate.core.limits import (
    ENTRY_BYTES_MAX,
    KEYS_BYTES_MAX,
    KEYS_MAX,
    QUERY_DEADLINE_S_MAX,
    REDUCTIONS_MAX,
    SQL_BYTES_MAX,
    SQL_PARAMETERS_MAX,
)
from tidegate.core.names import DatasetName, IdentityKind, SpiffeId
from tidegate.core.values import Value, decode
from tidegate.identity.certificates import CertificateFacts
from tidegate.identity.documents import verify_document
from tidegate.sql.model import BoundQuery
from tidegate.tlog.merkle import leaf_hash
from tidegate.tlog.receipt import verify_receipt

CLOCK_SKEW_S = 5.0  # how far ahead of ours a broker's clock may be; NTP keeps servers within milliseconds
USED_MAX = 100_000  # remembered grants; 60 s of more than 1,000 a second, beyond which a node is busy
_FRAGMENT_SQL_BYTES_MAX = 16 * SQL_BYTES_MAX  # our own rendering of a caller's text is longer than the text
_PARAMETERS_BYTES_MAX = 4 << 20
KEYS_OVERHEAD_BYTES = 1 << 20  # what Arrow's messages may add to the keys' own bytes


class Binder(Protocol):
    """Parses and binds a fragment in a process that is killed at its deadline."""

    def bind(
        self, sql: str, schema: Mapping[DatasetName, Dataset], parameters: tuple[Value, ...], deadline_s: float
    ) -> BoundQuery:
        """Give the bound fragment."""
        ...


class UsedGrants:
    """Remembers used grant ids until they expire; thread-safe. In memory: a new process has a new session nonce."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._used: dict[str, datetime] = {}
        self._lock = threading.Lock()

    def use(self, grant_id: str, expires_at: datetime) -> None:
        """Use up an id.

        Raises:
            Refused: NODE_REPLAY when it was used before.
            Overloaded: BUSY when too many are remembered: to forget one early would let it in twice.
        """
        now = self._clock.now()
        with self._lock:
            if grant_id in self._used:
                raise error_for(Code.NODE_REPLAY)
            if len(self._used) >= USED_MAX:
                self._used = {key: end for key, end in self._used.items() if end > now}
            if len(self._used) >= USED_MAX:
                raise error_for(Code.BUSY, retry_after_s=float(GRANT_LIFETIME_S_MAX))
            self._used[grant_id] = expires_at + timedelta(seconds=CLOCK_SKEW_S)


@dataclass(frozen=True, slots=True)
class Trust:
    """What the node believes without being told by a broker: who it is, the exchange's root, the log's key.

    The key is a signed-note verifier key, so it also names the log: ``verify_receipt`` refuses a receipt of another.
    """

    node: SpiffeId
    root_pem: bytes
    log_verifier_key: str


class Admit:
    """The first step. Thread-safe."""

    def __init__(
        self,
        *,
        trust: Callable[[], Trust],
        schema: Callable[[], Mapping[DatasetName, Dataset]],
        binder: Binder,
        used: UsedGrants,
        clock: Clock,
    ) -> None:
        self._trust = trust
        self._schema = schema
        self._binder = binder
        self._used = used
        self._clock = clock

    def admit(self, offer: FragmentOffer, session: Session) -> AdmittedFragment:
        """Check everything.

        Trust: whoever holds the link wrote the offer.

        Raises:
            Refused: NODE_GRANT, NODE_REPLAY. IntegrityError: NODE_RECEIPT. PeerError: NODE_FRAGMENT.
        """
        trust = self._trust()
        now = self._clock.now()
        grant = self._genuine(offer, session, trust, now)
        expires_at = _fresh(grant, now)
        parameters = _fragment(offer, grant)
        index, said = _receipt(grant, trust, now)
        keys = _keys(offer, grant)
        bound = self._bind(offer, parameters)
        _check_refs(grant, bound)
        _check_keys(keys, bound)
        _check_datasets(said, bound)
        self._used.use(grant.id, expires_at)
        return AdmittedFragment(offer, grant, parameters, bound, index, keys)

    def _genuine(self, offer: FragmentOffer, session: Session, trust: Trust, now: datetime) -> Grant:
        if len(offer.grant) > GRANT_SIZE_BYTES_MAX:
            raise error_for(Code.NODE_GRANT, "grant: too large")
        signer = _signer(offer, trust, now)
        if signer.identity.kind is not IdentityKind.BROKER or signer.identity.exchange != trust.node.exchange:
            raise error_for(Code.NODE_GRANT, "grant: not signed by a broker of this exchange")
        grant = Grant.parse(offer.grant)
        if grant.broker != str(signer.identity) or grant.broker != session.broker:
            raise error_for(
                Code.NODE_GRANT, "grant: not signed by the broker that it names, or not the one on this link"
            )
        if grant.node != str(trust.node):
            raise error_for(Code.NODE_GRANT, "grant: made for another node")
        if grant.session != session.nonce:
            raise error_for(Code.NODE_GRANT, "grant: made for another attachment")
        return grant

    def _bind(self, offer: FragmentOffer, parameters: tuple[Value, ...]) -> BoundQuery:
        try:
            return self._binder.bind(offer.sql, self._schema(), parameters, offer.deadline_s)
        except TidegateError as error:
            if error.code in (Code.QUERY_CANCELLED, Code.BUSY):
                raise
            raise error_for(
                Code.NODE_FRAGMENT, "fragment: this node does not accept it", detail=f"{error} {error.detail}"
            ) from error


def _signer(offer: FragmentOffer, trust: Trust, now: datetime) -> CertificateFacts:
    try:
        return verify_document(offer.grant, offer.signature, offer.chain_pem, trust.root_pem, now)
    except TidegateError as error:
        raise error_for(Code.NODE_GRANT, "grant: its signature does not verify", detail=str(error)) from error


def _fresh(grant: Grant, now: datetime) -> datetime:
    try:
        issued, expires = parse_timestamp(grant.issued_at), parse_timestamp(grant.expires_at)
    except ValueError as error:
        raise error_for(Code.NODE_GRANT, "grant: its times are not valid") from error
    if len(grant.id) != 32 or not set(grant.id) <= set("0123456789abcdef"):
        raise error_for(Code.NODE_GRANT, "grant: its id is not of 128 bits")
    if not timedelta() < expires - issued <= timedelta(seconds=GRANT_LIFETIME_S_MAX):
        raise error_for(Code.NODE_GRANT, f"grant: valid for longer than {GRANT_LIFETIME_S_MAX} s")
    if now >= expires:
        raise error_for(Code.NODE_GRANT, "grant: expired")
    if issued > now + timedelta(seconds=CLOCK_SKEW_S):
        raise error_for(Code.NODE_GRANT, "grant: issued in the future; compare the clocks of broker and node")
    return expires


def _fragment(offer: FragmentOffer, grant: Grant) -> tuple[Value, ...]:
    """Check that the text and the parameters are those that the grant names, and read the parameters."""
    if len(offer.sql.encode()) > _FRAGMENT_SQL_BYTES_MAX:
        raise error_for(Code.NODE_FRAGMENT, "fragment: too large")
    try:
        encoded = parse_json(offer.parameters_json, size_bytes_max=_PARAMETERS_BYTES_MAX)
        if not isinstance(encoded, list) or len(encoded) > SQL_PARAMETERS_MAX:
            raise error_for(Code.NODE_FRAGMENT, "fragment: its parameters are not a list")
        digest = sha256_hex(fragment_bytes(offer.sql, encoded, offer.reductions))
        parameters = tuple(decode(item) for item in encoded)
    except TidegateError as error:
        raise error_for(Code.NODE_FRAGMENT, "fragment: its parameters are not valid", detail=str(error)) from error
    if digest != grant.fragment:
        raise error_for(Code.NODE_GRANT, "grant: made for another fragment")
    return parameters


def _keys(offer: FragmentOffer, grant: Grant) -> tuple[AdmittedKeys, ...]:
    """Hold the key batches to the grant and to the reductions that the fragment's digest covers. No chunk is read here.

    Raises:
        Refused: NODE_GRANT. PeerError: NODE_FRAGMENT.
    """
    if not offer.keys and not grant.keys:
        return ()
    if len(offer.reductions) > REDUCTIONS_MAX or len(offer.keys) != len(grant.keys):
        raise error_for(Code.NODE_GRANT, "grant: made for other keys")
    places = [item.reduction for item in offer.keys]
    if len(set(places)) < len(places) or any(not 0 <= place < len(offer.reductions) for place in places):
        raise error_for(Code.NODE_FRAGMENT, "fragment: its keys are not those of its reductions")
    if sum(len(chunk) for item in offer.keys for chunk in item.chunks) > KEYS_BYTES_MAX + KEYS_OVERHEAD_BYTES:
        raise error_for(Code.NODE_FRAGMENT, "fragment: more bytes of keys than the limit")
    admitted = []
    for item, said in zip(offer.keys, grant.keys, strict=True):
        granted = GrantedKeys.from_json(said)
        if granted.terms != offer.reductions[item.reduction] or granted.digest != ipc.digest(item.chunks):
            raise error_for(Code.NODE_GRANT, "grant: made for other keys")
        admitted.append(AdmittedKeys(granted, item.chunks))
    if sum(item.granted.count for item in admitted) > KEYS_MAX:
        raise error_for(Code.NODE_FRAGMENT, "fragment: more keys than the limit")
    return tuple(admitted)


def _check_keys(keys: tuple[AdmittedKeys, ...], bound: BoundQuery) -> None:
    """Keys are for a column that the fragment reads: on one that it does not read this node decides nothing."""
    read = {leaf.ref: leaf.columns for leaf in bound.leaves}
    if any(item.granted.terms.column not in read.get(item.granted.terms.ref, {}) for item in keys):
        raise error_for(Code.NODE_FRAGMENT, "fragment: keys for a column that it does not read")


def _receipt(grant: Grant, trust: Trust, now: datetime) -> tuple[int, Mapping[str, Any]]:
    """Check that the broker's log holds the decision that this grant stands on; give its index, and what it says.

    Raises:
        IntegrityError: NODE_RECEIPT. No receipt, no data: the department itself enforces it.
    """
    entry = grant.entry.encode()
    try:
        receipt = verify_receipt(grant.receipt.encode(), trust.log_verifier_key)
        said = parse_json(entry, size_bytes_max=ENTRY_BYTES_MAX)
    except TidegateError as error:
        raise error_for(Code.NODE_RECEIPT, "receipt: does not verify", detail=str(error)) from error
    if receipt.leaf_hash != leaf_hash(entry):
        raise error_for(Code.NODE_RECEIPT, "receipt: for another entry than the one in the grant")
    recorded = parse_timestamp(receipt.time)
    if not -CLOCK_SKEW_S <= (now - recorded).total_seconds() <= QUERY_DEADLINE_S_MAX + GRANT_LIFETIME_S_MAX:
        raise error_for(Code.NODE_RECEIPT, "receipt: not of this request's time")
    if not isinstance(said, dict):
        raise error_for(Code.NODE_RECEIPT, "receipt: its entry is not a decision")
    _check_entry(said, grant)
    return receipt.index, said


def _check_entry(said: Mapping[str, Any], grant: Grant) -> None:
    """Compare what was recorded with what the grant says: the same request, caller, purpose, and this very fragment."""
    if said.get("type") != "decision":
        raise error_for(Code.NODE_RECEIPT, "receipt: its entry is not a decision")
    pairs = (
        (said.get("request_id"), grant.request.get("id")),
        (said.get("purpose"), grant.request.get("purpose")),
        (said.get("legal_basis"), grant.request.get("legal_basis")),
        (said.get("member"), grant.caller.get("member")),
        (said.get("bound", BY_CERTIFICATE), grant.caller.get("bound")),  # an entry says only what is not the rule
    )
    if any(recorded is None or recorded != granted for recorded, granted in pairs) or not _names(said, grant):
        raise error_for(Code.NODE_RECEIPT, "receipt: its entry records another request than the grant's")
    if not _commits(said, grant):
        raise error_for(Code.NODE_RECEIPT, "receipt: its entry does not commit to this fragment")


def _names(said: Mapping[str, Any], grant: Grant) -> bool:
    """Say whether the entry names this very caller."""
    try:
        recorded = SpiffeId.parse(str(said.get("identity")))
    except TidegateError:
        return False
    known = (recorded.member, recorded.kind.value, recorded.name)
    return known == (grant.caller.get("member"), grant.caller.get("kind"), grant.caller.get("name"))


def _commits(said: Mapping[str, Any], grant: Grant) -> bool:
    """Say whether the grant's salt opens one of the entry's plan commitments to this fragment's digest."""
    try:
        return opens(said, "plan", bytes.fromhex(grant.plan_nonce), grant.fragment.encode())
    except (ValueError, AttributeError, TypeError, TidegateError):
        return False


def _check_refs(grant: Grant, bound: BoundQuery) -> None:
    found = {leaf.ref: str(leaf.dataset) for leaf in bound.leaves}
    if found != grant.refs:
        raise error_for(Code.NODE_FRAGMENT, "fragment: its datasets are not those that the grant names")


def _check_datasets(said: Mapping[str, Any], bound: BoundQuery) -> None:
    """Hold the entry to the fragment's datasets: the plan's commitment is salted, and who searches the log must find them."""
    try:
        recorded = {str(item["name"]) for item in said["datasets"]}
    except (KeyError, TypeError):
        recorded = set()
    if not {str(leaf.dataset) for leaf in bound.leaves} <= recorded:
        raise error_for(Code.NODE_RECEIPT, "receipt: its entry does not name the fragment's datasets")
