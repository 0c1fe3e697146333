"""Run a generated query in every way that must give the same answer, and say where it does not.

``python -m tests.fakes.differential_generator_checks SEED ...`` runs the queries of these seeds alone and prints what they do.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from datetime import date
from decimal import Decimal
from functools import cache
from types import MappingProxyType, ModuleType
from typing import Any

import duckdb
import pyarrow as pa

from tests.fakes.differential_generator import Generated, Triple, question
from tests.fakes.differential_generator_world import Statistics, generated_world, types_of
from tests.fakes.sql_world import ROWS, Answer, Decide, Table, World, decide, hmac_text, load, rows_of, view
from tidegate.core.decision import ColumnRule, Decision, Mask, ResourceDecision
from tidegate.core.errors import Refused
from tidegate.sql import partial, reduce, split, units
from tidegate.sql.model import FederatedPlan, Fragment
from tidegate.sql.passes import ALL, Passes
from tidegate.sql.restrict import KeyRelation, RestrictedQuery

Row = tuple[Any, ...]
SWITCHES = tuple(field.name for field in fields(Passes))
MEMBERS = ("air", "sea", "land", "north", "south", "east")


class Caching(World):
    """A world that does the same work once per query: most plans of one query have most fragments in common."""

    def __post_init__(self) -> None:
        """Set up the parties."""
        super().__post_init__()
        self.forget({})

    def forget(self, prepared: dict[str, RestrictedQuery]) -> None:
        """Begin a query. What is ``prepared`` depends on no rows, so worlds may share it."""
        self.asked: dict[str, tuple[pa.Table, int]] = {}
        self.prepared = prepared

    def ask(
        self, fragment: Fragment, decision: Decision, answers: Mapping[str, pa.Table] = MappingProxyType({})
    ) -> tuple[pa.Table, int]:
        """Ask, or give what was answered before; with keys always ask."""
        if fragment.reductions and answers:
            return super().ask(fragment, decision, answers)
        key = _identity(fragment)
        if key not in self.asked:
            self.asked[key] = super().ask(fragment, decision, answers)
        return self.asked[key]

    def prepare(self, fragment: Fragment, decision: Decision, reductions: tuple[KeyRelation, ...]) -> RestrictedQuery:
        """Restrict, or give what was restricted before."""
        key = repr((_identity(fragment), reductions))
        if key not in self.prepared:
            self.prepared[key] = super().prepare(fragment, decision, reductions)
        return self.prepared[key]


def _identity(fragment: Fragment) -> str:
    return repr((fragment.sql, sorted(fragment.refs.items()), fragment.floors, fragment.whole))


# -- policies ---------------------------------------------------------------------------------------------------------

FILTER = {
    "type": "compound",
    "operator": "or",
    "value": [
        {"type": "field", "field": "n", "operator": "lt", "value": 24},
        {"type": "field", "field": "s", "operator": "in", "value": ["JFK", "it's", "Ö", ""]},
    ],
}
MASKS = {
    "s": Mask("pseudonym", {"key": "shared:city"}),
    "d": Mask("truncate_date", {"unit": "month"}),
    "m": Mask("bucket", {"width": 2}),
}


def passes_filter(row: Mapping[str, Any]) -> bool:
    """Mirror FILTER in Python, NULL as unknown."""
    return (row["n"] is not None and row["n"] < 24) or row["s"] in ("JFK", "it's", "Ö", "")


def masked(name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """Mirror MASKS in Python; ``m`` is never negative here."""
    month: date | None = None if row["d"] is None else row["d"].replace(day=1)
    money = None if row["m"] is None else row["m"] // 2 * 2
    return {**row, "s": hmac_text(MASKS["s"], name, "s", row["s"]), "d": month, "m": money}


@dataclass(frozen=True)
class Policy:
    """What is decided: row filters, masks, and where keys may go."""

    filtered: bool
    masked: bool
    keys_may_go_to: tuple[str, ...]

    @property
    def decide(self) -> Decide:
        """Give the decision point."""
        rules = {name: ColumnRule("plain") for name in types_of("air.p")}
        if self.masked:
            rules |= {name: ColumnRule("masked", mask) for name, mask in MASKS.items()}
        constraints = replace(ROWS, keys_may_go_to=self.keys_may_go_to)
        resource = ResourceDecision(True, FILTER if self.filtered else {}, rules, constraints)
        return decide(dict.fromkeys(world("right").tables, resource))


def policy_of(seed: int) -> Policy:
    """Give the policy of a seed: a third with row filters and masks; keys may go nowhere, to some members, or everywhere."""
    keys = ((), ("air", "land"), MEMBERS, ("*",))[seed // 3 % 4]
    return Policy(filtered=seed % 3 == 2, masked=seed % 6 == 5, keys_may_go_to=keys)


@cache
def world(statistics: Statistics, dealt: int | None = None) -> Caching:
    """Give a world; those of different statistics hold the same rows."""
    return generated_world(statistics=statistics, dealt=dealt, make=Caching)


@cache
def reference(filtered: bool, masked_too: bool) -> duckdb.DuckDBPyConnection:
    """Give the database that a caller under the policy would think is all there is."""
    database = duckdb.connect(config={"threads": 1})
    database.execute("SET GLOBAL TimeZone = 'UTC'")
    for name, item in world("right").tables.items():
        rows = [dict(zip(types_of(name), row, strict=True)) for row in item.rows]
        kept = [row for row in rows if not filtered or passes_filter(row)]
        seen = [masked(name, row) if masked_too else row for row in kept]
        load(database, Table(item.dataset, tuple(tuple(row.values()) for row in seen)))
    for name, parts in world("right").collections.items():
        view(database, name, parts)
    return database


# -- comparing ----------------------------------------------------------------------------------------------------------


def same(expected: Sequence[Row], found: Sequence[Row], *, ordered: bool) -> bool:
    """Say whether two answers are equal: integers, decimals, texts and times exactly, floats to nine digits.

    Two plans may add floats in a different order, so the last digits may differ; -0.0 is 0.0, NaN is itself.
    """
    if len(expected) != len(found):
        return False
    ours, theirs = ([_rounded(row, 9) for row in rows] for rows in (expected, found))
    if ours == theirs if ordered else Counter(ours) == Counter(theirs):
        return True
    left, right = list(expected), list(found)
    if not ordered:  # what differs in the ninth digit only stands at the same place when sorted by six
        left, right = (sorted(rows, key=lambda row: _rounded(row, 6)) for rows in (left, right))
    return all(_close(a, b) for a, b in zip(left, right, strict=True))


def _rounded(value: Any, digits: int) -> str:
    if isinstance(value, float):
        return "nan" if math.isnan(value) else f"{value:.{digits - 1}e}" if value else "0"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_rounded(item, digits) for item in value) + "]"
    if isinstance(value, Decimal):
        return f"{value.normalize():f}" if value else "0.d"
    return repr(value)


def _close(first: Any, second: Any) -> bool:
    if isinstance(first, float) and isinstance(second, float):
        return math.isclose(first, second, rel_tol=1e-9, abs_tol=1e-9) or (math.isnan(first) and math.isnan(second))
    if isinstance(first, tuple | list) and isinstance(second, tuple | list):
        return len(first) == len(second) and all(_close(a, b) for a, b in zip(first, second, strict=True))
    return type(first) is type(second) and _rounded(first, 9) == _rounded(second, 9)


# -- checks ----------------------------------------------------------------------------------------------------------------


@dataclass
class Report:
    """What came of some seeds."""

    wrong: list[str]
    queries: int = 0
    full: int = 0
    refused: int = 0
    plans: int = 0
    reduced: int = 0

    def merge(self, other: Report) -> None:
        """Add another report."""
        self.wrong += other.wrong
        for name in ("queries", "full", "refused", "plans", "reduced"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


def plans_of(made: Generated, policy: Policy, *, every: bool = True) -> dict[str, tuple[FederatedPlan, Decision]]:
    """Plan a query with every pass and several statistics, and, as if all were worth it, with every pass and each pass off.

    Args:
        every: all statistics; else one of them, chosen by the seed.
    """
    here = world("right")
    bound = here.bind(made.sql, made.parameters)
    decision = policy.decide(bound)

    def plan(statistics: Statistics, passes: Passes = ALL) -> tuple[FederatedPlan, Decision]:
        return split.split(bound, decision, here.placement, schema=world(statistics).schema, passes=passes), decision

    found = {"all passes": plan("right")}
    if found["all passes"][0].final is None:
        return found  # one node is asked the whole query, and no pass has a say
    others: tuple[Statistics, ...] = ("none", "over", "under")
    for statistics in others if every else (others[made.seed % 3],):
        found[f"statistics {statistics}"] = plan(statistics)
    with eager():
        found["eager"] = plan("right")
        for name in SWITCHES:
            found[f"eager, without {name}"] = plan("right", replace(ALL, **{name: False}))
        if every:
            found["eager, statistics under"] = plan("under")
    return found


@contextmanager
def eager() -> Iterator[None]:
    """Plan as if whatever can be done at a node were worth it: with a dozen rows in a table, hardly anything is."""
    places: tuple[tuple[ModuleType, str, float], ...] = (
        (reduce, "_STAGE_BYTES", 0.0),
        (reduce, "_KEY_BYTES", -1.0),  # a key less than nothing, so that one that spares no row pays too
        (units, "FAN_OUT_MAX", float("inf")),
        (partial, "GROUPS_SHARE_MAX", float("inf")),
    )
    before = [getattr(module, name) for module, name, _ in places]
    for module, name, value in places:
        setattr(module, name, value)
    try:
        yield
    finally:
        for (module, name, _), value in zip(places, before, strict=True):
            setattr(module, name, value)


def check(made: Generated, policy: Policy | None = None, *, every: bool = True) -> Report:
    """Run a query in every way.

    Args:
        every: with all statistics, and every plan with the rows dealt anew; else with one, and the eager plan alone.
    """
    policy = policy or policy_of(made.seed)
    database = reference(policy.filtered, policy.masked)
    expected = database.sql(made.sql, params=list(made.parameters)).to_arrow_table()
    within = database.sql(made.within, params=list(made.parameters)).to_arrow_table() if made.within else None
    report = Report([], queries=1, full=int(expected.num_rows > 0))
    try:
        plans = plans_of(made, policy, every=every)
    except Refused:
        report.refused = int(policy.masked)
        if not policy.masked:
            report.wrong.append(_told(made, "planning", "refused, with no mask"))
        return report
    except Exception as error:
        report.wrong.append(_told(made, "planning", f"{error!r} {getattr(error, 'detail', '')}"))
        return report
    done: set[str] = set()
    prepared: dict[str, RestrictedQuery] = {}
    wrong: dict[str, list[str]] = {}
    for dealt in (None, made.seed % 5):
        here = world("right", dealt)
        here.forget(prepared)
        for way, (plan, decision) in plans.items():
            if dealt is not None and not every and way != "eager":
                continue
            known = repr((dealt, plan))
            if known in done:
                continue
            done.add(known)
            report.plans += 1
            reduced = any(fragment.reductions for fragment in plan.fragments)
            report.reduced += reduced
            faults = not_permitted(plan, decision)
            for keys in (True, False) if reduced else (True,):
                faults.append(_difference(here, made, plan, decision, expected, within, keys=keys))
            for fault in filter(None, faults):
                wrong.setdefault(fault, []).append(way if dealt is None else f"{way}, rows dealt anew ({dealt})")
    report.wrong += [_told(made, "; ".join(ways), what) for what, ways in wrong.items()]
    return report


def _difference(
    here: World,
    made: Generated,
    plan: FederatedPlan,
    decision: Decision,
    expected: pa.Table,
    within: pa.Table | None,
    *,
    keys: bool,
) -> str:
    """Execute a plan, with the keys of its reductions or without; say how its answer differs, or nothing."""
    try:
        answer: Answer = here.execute(plan, decision, keys=keys)
    except Exception as error:
        return f"{error!r} {getattr(error, 'detail', '')}"
    if answer.types != tuple(expected.schema.types):
        return f"types: expected {list(map(str, expected.schema.types))}, got {list(map(str, answer.types))}"
    wanted = rows_of(expected)
    if within is None:
        good = same(wanted, answer.rows, ordered=made.ordered)
    else:
        every = Counter(_rounded(row, 9) for row in rows_of(within))
        good = len(wanted) == len(answer.rows) and Counter(_rounded(row, 9) for row in answer.rows) <= every
    return "" if good else f"expected {_shown(wanted)}\n    got      {_shown(answer.rows)}"


def not_permitted(plan: FederatedPlan, decision: Decision) -> list[str]:
    """Give the reductions that send keys to a member to whom a department did not let them go.

    Keys of an answer that was itself made smaller by keys tell of those too, so whoever gave any of them must permit it.
    """
    fragments = {fragment.id: fragment for fragment in plan.fragments}
    found = []
    for number, fragment in enumerate(plan.fragments):
        before = {item.id for item in plan.fragments[:number]}
        for name in _reducing(fragment):
            if name not in before:
                found.append(f"{fragment.id} takes keys of {name}, which does not come before it")
                continue
            for source in _behind(fragments, name):
                closed = [ref for ref in source.refs if not _may_go(decision, ref, fragment.member)]
                if closed and source.member != fragment.member:
                    to = fragment.member
                    found.append(
                        f"{fragment.id} takes keys of {source.id}: {source.member} does not let them go to {to}"
                    )
    return found


def _may_go(decision: Decision, ref: str, member: str) -> bool:
    permitted = decision.resources[ref].constraints.keys_may_go_to
    return member in permitted or "*" in permitted


def _reducing(fragment: Fragment) -> list[str]:
    return [name for reduction in fragment.reductions for name, _ in reduction.sources]


def _behind(fragments: Mapping[str, Fragment], name: str) -> list[Fragment]:
    """Give a fragment and all whose keys made it smaller."""
    return [fragments[name], *(item for source in _reducing(fragments[name]) for item in _behind(fragments, source))]


def check_triple(triple: Triple, policy: Policy | None = None) -> Report:
    """Check that the answers of the three parts together are the answer of the whole, and the local one."""
    policy = policy or policy_of(triple.seed)
    here = world("right")
    here.forget({})
    report = Report([], queries=1)
    made = Generated(triple.whole, (), False, triple.seed)
    try:
        whole, *parts = (here.run(sql, (), policy.decide).rows for sql in (triple.whole, *triple.parts))
    except Refused:
        report.refused = 1
        return report
    except Exception as error:
        report.wrong.append(_told(made, triple.parts[0], f"{error!r} {getattr(error, 'detail', '')}"))
        return report
    report.full = int(bool(whole))
    together = [row for part in parts for row in part]
    if not same(whole, together, ordered=False):
        counts = [len(part) for part in parts]
        report.wrong.append(_told(made, triple.parts[0], f"whole {len(whole)} rows, parts {counts}"))
    local = rows_of(reference(policy.filtered, policy.masked).sql(triple.whole).to_arrow_table())
    if not same(local, whole, ordered=False):
        report.wrong.append(_told(made, "local", f"expected {len(local)} rows, got {len(whole)}"))
    return report


def _shown(rows: Sequence[Row]) -> str:
    text = f"{len(rows)} rows: {rows[:4]}"
    return text if len(text) < 600 else text[:600] + " ..."


def _told(made: Generated, way: str, what: str) -> str:
    return f"seed {made.seed} ({way})\n    {made.sql}\n    parameters {made.parameters}\n    {what}"


def main(words: Sequence[str]) -> int:
    """Run the seeds that are named, with their plans."""
    for word in words:
        made = question(int(word))
        policy = policy_of(made.seed)
        print(f"-- seed {made.seed}, {policy}\n{made.sql}\n   {made.parameters}")
        for way, (plan, _) in plans_of(made, policy).items():
            if way in ("all passes", "eager"):
                print(f"   {way}:")
                for fragment in plan.fragments:
                    print(f"   {fragment.id} {fragment.member}: {fragment.sql.text} {fragment.reductions}")
                print(f"   final: {plan.final.text if plan.final is not None else '-'}")
        report = check(made, policy)
        print("\n".join(report.wrong) or f"   equal in {report.plans} plans")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
