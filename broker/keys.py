"""Keys of one department's answer on their way to another's node: gathered as the answer passes, united, cut to size.

What a plan says about keys is here in the words of grant and record (``terms``, ``fragment_digest``, ``destinations``). The
rest is about values: distinct, without NULLs, in the order of their values (so that nothing of the rows' order shows), or no
keys at all when there are too many or their type is none that is compared without a cast that could fail.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from broker.values import FragmentReport, KeysGiven
from tidegate import ipc
from tidegate.core.canonical import sha256_hex
from tidegate.core.decision import Decision
from tidegate.core.errors import Code, error_for
from tidegate.core.grant import GrantedKeys, KeySource, KeyTerms, fragment_bytes
from tidegate.core.limits import KEYS_BYTES_MAX, KEYS_MAX, REDUCTIONS_MAX
from tidegate.core.values import encode
from tidegate.sql.model import FederatedPlan, Fragment

KEY = "k"  # the one column of a batch
_UNITE_ROWS = 1 << 18  # how many distinct values of single batches may pile up before they are made distinct together


@dataclass(frozen=True, slots=True)
class SentKeys:
    """One batch as it is sent: ``place`` is that of its reduction in the fragment."""

    place: int
    granted: GrantedKeys
    chunks: tuple[bytes, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of all chunks."""
        return sum(map(len, self.chunks))


def terms(plan: FederatedPlan) -> dict[str, tuple[KeyTerms, ...]]:
    """Give each fragment's reductions in the words of grant and record.

    Raises:
        InternalError: a source does not come before the fragment that waits for it; such a plan would wait for itself.
    """
    members: dict[str, str] = {}
    found = {}
    for fragment in plan.fragments:
        if len(fragment.reductions) > REDUCTIONS_MAX or any(
            source not in members for item in fragment.reductions for source, _ in item.sources
        ):
            raise error_for(Code.INTERNAL, detail=f"plan: reductions of {fragment.id}")
        found[fragment.id] = tuple(
            KeyTerms(
                item.ref, item.column, tuple(KeySource(source, name, members[source]) for source, name in item.sources)
            )
            for item in fragment.reductions
        )
        members[fragment.id] = fragment.member
    return found


def fragment_digest(fragment: Fragment, reductions: Sequence[KeyTerms]) -> str:
    """Give the digest by which the entry's commitments and the grant name a fragment."""
    encoded = [encode(value) for value in fragment.sql.parameters]
    return sha256_hex(fragment_bytes(fragment.sql.text, encoded, reductions))


def destinations(plan: FederatedPlan, decision: Decision) -> dict[str, tuple[str, ...]]:
    """Give for each fragment the members to whose nodes its keys are meant to go, as far as the decision permits.

    A fragment that was made smaller by keys shows them in what it answers, so those keys go wherever its own go.
    """
    found: dict[str, set[str]] = {fragment.id: set() for fragment in plan.fragments}
    for fragment in reversed(plan.fragments):
        for item in fragment.reductions:
            for source, _ in item.sources:
                found[source] |= {fragment.member} | found[fragment.id]
    return {
        fragment.id: tuple(
            sorted(
                member
                for member in found[fragment.id]
                if member != fragment.member and decision.keys_may_go(fragment.refs, member)
            )
        )
        for fragment in plan.fragments
    }


class Distinct:
    """The distinct values of one column of an answer, batch by batch. Used by one thread.

    Values pile up as copies (a batch's memory is let go) and are made distinct together: by a hash table where many are
    equal, by sorting where most differ, which is what they have to be in the end.

    Attributes:
        usable: False once there are more than a fragment may be given, or the type is none of ``kind``.
    """

    def __init__(self) -> None:
        self._parts: list[pa.Array] = []
        self._piled = 0  # values in the parts, and how many of them were made distinct together
        self._united = 0
        self._mostly_equal = True  # so far
        self._ordered = False
        self._empty = pa.array([], pa.null())
        self.usable = True

    def begin(self, data_type: pa.DataType) -> None:
        """Take the column's type, first: an answer without rows has keys too, none."""
        if pa.types.is_dictionary(data_type):
            data_type = data_type.value_type
        if kind(data_type):
            self._empty = pa.array([], data_type)
        else:
            self._give_up()

    def add(self, column: pa.Array) -> None:
        """Take a batch's column. Trust: a node's, validated in full (``ipc.read``)."""
        if not self.usable:
            return
        values = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
        if values.null_count:
            values = values.drop_null()
        self._parts.append(pa.concat_arrays([values, self._empty]))
        self._piled += len(values)
        fresh = self._piled - self._united
        if fresh > max(_UNITE_ROWS, self._united) or self._parts[-1].nbytes > KEYS_BYTES_MAX:
            self._unite()

    def values(self) -> pa.Array | None:
        """Give the values in their order; None when they are not to be used."""
        if self.usable and not (self._ordered and self._piled == self._united):
            self._mostly_equal = False
            self._unite()
        return self._parts[0] if self.usable else None

    def _unite(self) -> None:
        piled = pa.concat_arrays([*self._parts, self._empty])
        self._ordered = not self._mostly_equal
        united = _sorted_distinct(piled) if self._ordered else pc.unique(piled)
        self._mostly_equal = self._mostly_equal and 2 * len(united) <= len(piled)
        self._parts = [united]
        self._piled = self._united = len(united)
        if len(united) > KEYS_MAX or united.nbytes > KEYS_BYTES_MAX:
            self._give_up()

    def _give_up(self) -> None:
        self.usable = False
        self._parts.clear()


def _sorted_distinct(values: pa.Array) -> pa.Array:
    """Sort values without NULLs, and leave out those that equal the one before.

    A key column often comes in order already (measured: to look costs a fiftieth of sorting 147,000 keys).
    """
    if len(values) < 2:
        return values
    in_order = pc.all(pc.less_equal(values.slice(0, len(values) - 1), values.slice(1))).as_py()
    ordered = values if in_order else values.sort()
    differs = pc.not_equal(ordered.slice(1), ordered.slice(0, len(ordered) - 1))
    if pc.all(differs).as_py():
        return ordered
    return pa.concat_arrays([ordered.slice(0, 1), ordered.slice(1).filter(differs)])


def kind(data_type: pa.DataType) -> str:
    """Give the kind of a key's type: ``integer``, ``text``, ``date``; empty for any other."""
    if pa.types.is_integer(data_type):
        return "integer"
    if pa.types.is_string(data_type) or pa.types.is_large_string(data_type) or pa.types.is_string_view(data_type):
        return "text"
    return "date" if pa.types.is_date32(data_type) else ""


@dataclass(frozen=True, slots=True)
class Packed:
    """The united keys of one set of sources, ready to travel; ``counts`` by source."""

    counts: tuple[int, ...]
    count: int
    digest: str
    chunks: tuple[bytes, ...]

    def sent(self, place: int, reduction: KeyTerms) -> SentKeys:
        """Give them as the batch of a reduction."""
        return SentKeys(place, GrantedKeys(reduction, self.counts, self.count, self.digest), self.chunks)


def pack(parts: Sequence[pa.Array | None]) -> Packed | None:
    """Unite the keys of a reduction's sources; None when one source has none to use: then the rest would be wrong."""
    held = [part for part in parts if part is not None]
    if len(held) < len(parts):
        return None
    united = _united(held)
    if united is None or len(united) > KEYS_MAX or united.nbytes > KEYS_BYTES_MAX:
        return None
    data = pa.record_batch([united], names=[KEY])
    chunks = tuple(ipc.cut(data.schema, [data]))
    return Packed(tuple(map(len, held)), len(united), ipc.digest(chunks), chunks)


def _united(parts: Sequence[pa.Array]) -> pa.Array | None:
    kinds = {kind(part.type) for part in parts}
    if len(kinds) != 1:
        return None
    wanted = {"integer": pa.int64(), "text": pa.string(), "date": pa.date32()}[kinds.pop()]
    if len({part.type for part in parts}) == 1 and wanted != pa.string():
        wanted = parts[0].type
    try:
        same = [part if part.type == wanted else part.cast(wanted) for part in parts]
        return same[0] if len(same) == 1 else _sorted_distinct(pa.concat_arrays(same))
    except pa.ArrowException:  # an unsigned value beyond a signed one, say: the fragment goes without
        return None


def given(fragment: Fragment, sent: Sequence[SentKeys]) -> tuple[KeysGiven, ...]:
    """Say what a fragment was given, in names and counts."""
    return tuple(
        KeysGiven(
            f"{fragment.refs[item.granted.terms.ref]}.{item.granted.terms.column}",
            tuple(
                (source.fragment, source.member, count)
                for source, count in zip(item.granted.terms.sources, item.granted.counts, strict=True)
            ),
        )
        for item in sent
    )


def lines(reports: Sequence[FragmentReport]) -> list[Mapping[str, Any]]:
    """Give what the record says of keys: a line for each set of sources, with whom it went to; no value.

    The parts of one collection that are given the keys of another's parts share one line, so that five by five are ten names
    and not twenty-five lines.
    """
    found: dict[tuple[tuple[str, str, int], ...], list[dict[str, str]]] = {}
    for report in reports:
        for item in report.keys_given:
            found.setdefault(item.sources, []).append(destination(report.fragment, report.member, item))
    return [{**origin(sources), "to": to} for sources, to in found.items()]


def origin(sources: Sequence[tuple[str, str, int]]) -> dict[str, Any]:
    """Give the first half of a line: how many keys of each member's answers, and which fragments those answers are.

    A member that answered two of the fragments is named once, with the sum.
    """
    counts: dict[str, int] = {}
    for _, member, count in sources:
        counts[member] = counts.get(member, 0) + count
    return {"from": counts, "sources": [fragment for fragment, _, _ in sources]}


def destination(fragment: str, member: str, item: KeysGiven) -> dict[str, str]:
    """Give an item of the second half: which fragment of whom was given the keys, for which column."""
    return {"fragment": fragment, "member": member, "column": item.column}
