"""Sessions of the second door: which department an unqualified table name means, until the client goes away.

A session is found by Flight's cookie where a client keeps cookies, else by the connection that a call came over; in both
cases together with the caller's certificate, so that no caller ever meets another's. A session grants nothing: every query is
decided as if its names had been written out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import grpc

from catalogue.store import Catalogue
from tidegate.core.cache import BoundedCache
from tidegate.core.caller import Caller
from tidegate.core.clock import Clock, Ids
from tidegate.core.errors import Code, error_for
from tidegate.sql.functions import fold
from tidegate.v1 import flight_pb2 as flight

COOKIE = "arrow_flight_session_id"  # Apache Arrow, Flight RPC, sessions: the cookie that its own servers set
CATALOG, SCHEMA = "catalog", "schema"  # the names of the options that drivers set and read
IDLE_S = 1_800.0  # a session that no call has used for as long is over
SESSIONS_MAX = 10_000  # beyond, the oldest of the member that holds the most goes
OPTIONS_MAX = 32  # of one request

_TOKEN = re.compile(r"[0-9a-f]{32}\Z")
_INVALID_NAME = flight.FlightSetSessionOptionsResult.ERROR_VALUE_INVALID_NAME
_INVALID_VALUE = flight.FlightSetSessionOptionsResult.ERROR_VALUE_INVALID_VALUE


@dataclass(frozen=True, slots=True)
class Link:
    """How a call came: the transport's name of the peer, and the session id in its cookie, or nothing.

    Trust: the peer's address is the transport's word; the cookie is anybody's, and means nothing with another certificate.
    """

    peer: str
    cookie: str = ""

    @classmethod
    def of(cls, context: grpc.ServicerContext) -> Link:
        """Read it off a call."""
        return cls(str(context.peer()), next(_session_ids(context), ""))


def _session_ids(context: grpc.ServicerContext) -> Iterator[str]:
    for key, value in context.invocation_metadata() or ():
        if key != "cookie" or not isinstance(value, str):
            continue
        for part in value.split(";"):
            name, _, token = part.strip().partition("=")
            if name == COOKIE and _TOKEN.match(token.strip('"')):
                yield token.strip('"')


@dataclass(frozen=True, slots=True)
class _Session:
    """What one client has set. ``until_s``: on the broker's monotonic clock."""

    department: str
    until_s: float


class Sessions:
    """All sessions of one broker. Thread-safe; lost when the broker ends, and with the certificate that made them."""

    def __init__(self, catalogue: Catalogue, exchange: str, *, clock: Clock, ids: Ids) -> None:
        self._catalogue = catalogue
        self._exchange = exchange
        self._clock = clock
        self._ids = ids
        # By (certificate, session id), and by (certificate, connection) the id for clients that keep no cookies.
        self._held: BoundedCache[_Session] = BoundedCache(entries_max=SESSIONS_MAX, bytes_max=1)
        self._by_peer: BoundedCache[str] = BoundedCache(entries_max=SESSIONS_MAX, bytes_max=1)

    def department(self, caller: Caller, link: Link) -> str:
        """Give the department that an unqualified table name means; empty: none."""
        token = self._token(caller, link)
        session = self._held.get((caller.fingerprint, token)) if token else None
        if session is None:
            return ""
        now = self._clock.monotonic_s()
        if now >= session.until_s:
            self._forget(caller, link, token)
            return ""
        self._keep(caller, token, replace(session, until_s=now + IDLE_S))
        return session.department

    def set_options(
        self, request: flight.FlightSetSessionOptionsRequest, caller: Caller, link: Link
    ) -> tuple[flight.FlightSetSessionOptionsResult, tuple[tuple[str, str], ...]]:
        """Set options; those that cannot be set are named in the result, and the others hold.

        Trust: the caller may have written anything.

        Returns:
            The result, and the response headers (``set-cookie``) that go with it.

        Raises:
            CallerError: WIRE_INVALID, more options than the limit.
        """
        options = request.session_options
        if len(options) > OPTIONS_MAX:
            raise error_for(Code.WIRE_INVALID, f"session: more than {OPTIONS_MAX} options in one request")
        result = flight.FlightSetSessionOptionsResult()
        headers: tuple[tuple[str, str], ...] = ()
        for name, value in options.items():
            if name not in (CATALOG, SCHEMA):
                result.errors[name].value = _INVALID_NAME
                continue
            given = self._given(name, value, caller)
            if given is None:
                result.errors[name].value = _INVALID_VALUE
            elif name == SCHEMA:
                headers = self._set(given, caller, link)
        return result, headers

    def get_options(self, caller: Caller, link: Link) -> flight.FlightGetSessionOptionsResult:
        """Give the options in force; both are always there, since drivers ask for them by name."""
        result = flight.FlightGetSessionOptionsResult()
        result.session_options[CATALOG].string_value = self._exchange
        result.session_options[SCHEMA].string_value = self.department(caller, link)
        return result

    def close(self, caller: Caller, link: Link) -> flight.FlightCloseSessionResult:
        """End the session; a client without one has nothing to end, and that is as well."""
        self._forget(caller, link, self._token(caller, link))
        return flight.FlightCloseSessionResult(status=flight.FlightCloseSessionResult.STATUS_CLOSED)

    def _given(self, name: str, value: flight.FlightSessionOptionValue, caller: Caller) -> str | None:
        """Read an option's value; empty removes it, None is none that the option can have.

        A department that must not be known to the caller is as good as one that does not exist.
        """
        kind = value.WhichOneof("option_value")
        text = value.string_value if kind == "string_value" else ""
        if kind not in (None, "string_value"):
            return None
        if not text:
            return ""
        if name == CATALOG:
            return text if text == self._exchange else None
        known = {key.department for key in self._catalogue.glance(caller.member).schema}
        if text in known:
            return text
        alike = [department for department in known if fold(department) == fold(text)]
        return alike[0] if len(alike) == 1 else None

    def _set(self, department: str, caller: Caller, link: Link) -> tuple[tuple[str, str], ...]:
        session = _Session(department, self._clock.monotonic_s() + IDLE_S)
        token = self._token(caller, link)
        if token and self._held.get((caller.fingerprint, token)) is not None:
            self._keep(caller, token, session)
            return ()
        if not department:
            return ()
        token = self._ids.request_id()
        self._keep(caller, token, session)
        self._by_peer.put((caller.fingerprint, link.peer), token, owner=caller.member)
        return (("set-cookie", f"{COOKIE}={token}; Path=/; Secure; HttpOnly"),)

    def _token(self, caller: Caller, link: Link) -> str:
        peer = (caller.fingerprint, link.peer)
        if not link.cookie:
            return self._by_peer.get(peer) or ""
        if self._by_peer.get(peer) == link.cookie:
            # This client keeps cookies, so its connection speaks for it no longer: a proxy may carry others on the same one.
            self._by_peer.drop(peer)
        return link.cookie

    def _keep(self, caller: Caller, token: str, session: _Session) -> None:
        self._held.put((caller.fingerprint, token), session, owner=caller.member)

    def _forget(self, caller: Caller, link: Link, token: str) -> None:
        peer = (caller.fingerprint, link.peer)
        self._held.drop((caller.fingerprint, token))
        if self._by_peer.get(peer) == token:
            self._by_peer.drop(peer)
