"""Look-ups that wait for the same form are run as one statement with many keys; each caller gets its own rows.

A look-up is a restricted fragment of one instance, one condition ``column = $1`` on an integer or text column, and no function.
It was admitted, decided and recorded before it comes here; what is shared is the execution alone, and only among fragments
whose restricted SQL is the same to the letter, views of row filters and masks included. While one statement runs, the next
gathers: no timer, and nobody waits when there is nobody to wait for. If the common statement fails for any reason, each of its
callers is run alone, so nobody's error is another's.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
from sqlglot import exp

from engine.pool import WorkerPool
from engine.spec import Job
from tidegate import ipc
from tidegate.core.clock import Clock
from tidegate.core.dataset import Dataset
from tidegate.core.errors import TidegateError
from tidegate.core.names import DatasetName
from tidegate.core.values import Value
from tidegate.sql import wall
from tidegate.sql.families import family
from tidegate.sql.model import BoundQuery, RenderedSql
from tidegate.sql.nodes import aliased, column, identifier, table_alias
from tidegate.sql.render import render
from tidegate.sql.restrict import RestrictedQuery

KEYS_MAX = 256  # of one statement; more callers at once are not admitted anyway
ROWS_MAX = 10_000  # of one statement: a form that gives more is no look-up, and is run alone for a while
BYTES_MAX = 8 << 20
STATEMENT_S = 5.0  # a statement that takes longer is no look-up
ALONE_S = 60.0
FORMS_MAX = 4_096
_RELATION, _KEY, _PLACE = "tg_look", "k", "i"
_PLAIN = frozenset({"kind", "expressions", "from_", "where"})
_TYPES: Mapping[str, tuple[type, pa.DataType]] = {"integer": (int, pa.int64()), "text": (str, pa.string())}


@dataclass(frozen=True, slots=True)
class LookupForm:
    """The common statement of a form of look-up.

    Args:
        setup, text: identify the form: what would run for one caller.
        sql: for many; its last column says whose row it is.
        key_type: of the keys.
    """

    setup: tuple[str, ...]
    text: str
    sql: str
    tables: frozenset[str]
    python_type: type
    key_type: pa.DataType

    def fits(self, value: Value) -> bool:
        """Say whether a value can be one of the keys."""
        return type(value) is self.python_type and (not isinstance(value, int) or -(1 << 62) < value < 1 << 62)


def lookup_form(
    bound: BoundQuery, restricted: RestrictedQuery, schema: Mapping[DatasetName, Dataset]
) -> LookupForm | None:
    """Give the common statement of a restricted fragment; None when it is no look-up."""
    select = restricted.tree
    if len(bound.leaves) != 1 or restricted.floors or len(restricted.query.parameters) != 1:
        return None
    if not isinstance(select, exp.Select) or {name for name, value in select.args.items() if value} - _PLAIN:
        return None
    if not all(isinstance(item.unalias(), exp.Column) for item in select.expressions):
        return None
    condition = select.args["where"].this.unnest() if select.args.get("where") is not None else None
    if not isinstance(condition, exp.EQ):
        return None
    sides = (condition.this.unnest(), condition.expression.unnest())
    compared = next((side for side in sides if isinstance(side, exp.Column)), None)
    asked = next((side for side in sides if isinstance(side, exp.Parameter)), None)
    held = schema[bound.leaves[0].dataset].column(compared.name) if compared is not None else None
    known = _TYPES.get(str(family(held.type))) if held is not None else None
    if asked is None or compared is None or known is None:
        return None
    return _form(select, compared, restricted, known)


def _form(
    select: exp.Select, compared: exp.Column, restricted: RestrictedQuery, known: tuple[type, pa.DataType]
) -> LookupForm | None:
    many = select.copy()
    keys = exp.Table(this=identifier(_RELATION), alias=table_alias(_RELATION))
    many.set("where", exp.Where(this=exp.EQ(this=compared.copy(), expression=column(_RELATION, _KEY))))
    many.set("joins", [exp.Join(this=keys, kind="CROSS")])
    many.append("expressions", aliased(column(_RELATION, _PLACE), "tg_place"))
    tables = restricted.tables | {_RELATION}
    try:
        printed = render(many, ())
        wall.check(printed, tables)
    except TidegateError:
        return None  # then each is run alone, in the form that did pass
    return LookupForm(restricted.setup, restricted.query.text, printed.text, tables, *known)


@dataclass(eq=False, slots=True)
class _Caller:
    """One look-up that waits. ``woken`` is set once its answer is there, or once it is to lead a ``batch``."""

    key: Value
    until_s: float
    woken: threading.Event = field(default_factory=threading.Event)
    batch: list[_Caller] = field(default_factory=list)
    chunks: list[bytes] | None = None


@dataclass(eq=False, slots=True)
class _Group:
    waiting: list[_Caller] = field(default_factory=list)
    running: bool = False
    alone_until_s: float = 0.0


class Lookups:
    """The gathering place of one node. Thread-safe."""

    def __init__(self, pool: WorkerPool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock
        self._lock = threading.Lock()  # owns everything below
        self._groups: dict[tuple[tuple[str, ...], str], _Group] = {}
        self.statements = 0
        self.answers = 0

    def run(self, form: LookupForm, key: Value, deadline_s: float) -> list[bytes] | None:
        """Give the chunks of one caller's answer; None: run it alone.

        Nothing is raised: what went wrong in common is found again, in its caller's own words, by the one who runs it alone.
        """
        now_s = self._clock.monotonic_s()
        caller = _Caller(key, now_s + deadline_s)
        with self._lock:
            group = self._group((form.setup, form.text))
            if group is None or now_s < group.alone_until_s:
                return None
            if group.running:
                group.waiting.append(caller)
            else:
                group.running, caller.batch = True, [caller]
        if not caller.batch:
            self._wait(group, caller, deadline_s)
        if caller.batch:
            try:
                self._run(form, group, caller.batch)
            finally:
                self._hand_on(group, caller.batch)
        return caller.chunks

    def _group(self, name: tuple[tuple[str, ...], str]) -> _Group | None:
        """Find or make a group. Holds the lock."""
        group = self._groups.get(name)
        if group is None:
            if len(self._groups) >= FORMS_MAX:
                self._groups = {key: item for key, item in self._groups.items() if item.running}
            if len(self._groups) >= FORMS_MAX:
                return None
            group = self._groups[name] = _Group()
        return group

    def _wait(self, group: _Group, caller: _Caller, deadline_s: float) -> None:
        if caller.woken.wait(max(deadline_s, 0.0)):
            return
        with self._lock:
            if caller in group.waiting:  # else it was chosen this very moment, to lead or to be answered
                group.waiting.remove(caller)
                return
        caller.woken.wait()

    def _hand_on(self, group: _Group, batch: list[_Caller]) -> None:
        """Wake those who were answered, and let the first of those who gathered meanwhile lead the rest."""
        for answered in batch[1:]:
            answered.woken.set()
        with self._lock:
            self.statements += 1
            self.answers += len(batch)
            following, group.waiting = group.waiting[:KEYS_MAX], group.waiting[KEYS_MAX:]
            group.running = bool(following)
        if following:
            following[0].batch = following
            following[0].woken.set()

    def _run(self, form: LookupForm, group: _Group, batch: list[_Caller]) -> None:
        deadline_s = max(caller.until_s for caller in batch) - self._clock.monotonic_s()
        try:
            if len(batch) == 1:
                job = Job(form.setup, RenderedSql(form.text, (batch[0].key,)), rows_max=ROWS_MAX, bytes_max=BYTES_MAX)
                batch[0].chunks = list(self._pool.run(job, deadline_s=min(deadline_s, STATEMENT_S)).chunks)
                return
            keys = pa.record_batch(
                [pa.array([caller.key for caller in batch], form.key_type), pa.array(range(len(batch)), pa.int64())],
                names=[_KEY, _PLACE],
            )
            inputs = {_RELATION: ipc.cut(keys.schema, [keys])}
            job = Job(form.setup, RenderedSql(form.sql, ()), inputs, rows_max=ROWS_MAX, bytes_max=BYTES_MAX)
            _deal(batch, self._pool.run(job, deadline_s=min(deadline_s, STATEMENT_S)).chunks)
        except TidegateError:
            with self._lock:
                group.alone_until_s = self._clock.monotonic_s() + ALONE_S


def _deal(batch: list[_Caller], chunks: Iterator[bytes]) -> None:
    """Give each caller the rows of its own place, under the schema of a single answer."""
    schema, batches = ipc.read(chunks)
    table = pa.Table.from_batches(list(batches), schema)
    places, rows = table.column(table.num_columns - 1), table.drop_columns([schema.names[-1]])
    answers = []
    for place in range(len(batch)):
        mine = rows.filter(pc.equal(places, place)).combine_chunks().to_batches()
        answers.append(list(ipc.cut(rows.schema, mine)))
    for caller, answer in zip(batch, answers, strict=True):  # all or none
        caller.chunks = answer
