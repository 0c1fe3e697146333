"""Found in review: CTEs that mention the one before twice made checks of 2^n steps, in the serving process of broker and node.

Each has enough steps to take a minute where paths are walked one by one, and takes milliseconds where each is walked once.
"""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.fakes.sql_world import KEYS, ROWS, World, decide, whole
from tests.unit.sql.test_structure import PEOPLE, PROTECTED, WORLD, resource
from tidegate.core.decision import ColumnRule, Mask
from tidegate.core.errors import Code, TidegateError
from tidegate.sql import explain, restrict, structure
from tidegate.sql.split import split

STEPS = 20
CPU_S_MAX = 10.0


def chain(base: str, column: str, step: str) -> str:
    parts = [f"t0 AS (SELECT {column} AS c FROM {base})"]
    parts += [f"t{number} AS ({step.format(f't{number - 1}')})" for number in range(1, STEPS)]
    return f"WITH {', '.join(parts)} SELECT count(c) FROM t{STEPS - 1} WHERE c > 3"


UNION = "SELECT c FROM {0} UNION ALL SELECT c FROM {0}"
JOIN = "SELECT a.c FROM {0} a JOIN {0} b ON a.c = b.c"
BOTH = "SELECT coalesce(a.c, b.c) AS c FROM {0} a JOIN {0} b ON a.c = b.c"
MASKED = decide({"air.a": resource(ROWS, n=ColumnRule("masked", Mask("bucket", {"width": 10})))})
CASES: dict[str, tuple[World, str, Any]] = {
    "rows, union": (WORLD, chain("air.a", "n", UNION), whole),
    "rows, join": (WORLD, chain("air.a", "n", JOIN), whole),
    "rows, both": (WORLD, chain("air.a", "n", BOTH), whole),
    "masked, union": (WORLD, chain("air.a", "n", UNION), MASKED),
    "aggregate, union": (PEOPLE, chain("home.patients", "cost", UNION), PROTECTED),
    "aggregate, join": (PEOPLE, chain("home.patients", "cost", JOIN), PROTECTED),
    "aggregate, parts": (PEOPLE, chain("city.patients", "cost", UNION), PROTECTED),
    "rows, collection": (PEOPLE, chain("city.patients", "cost", BOTH), whole),
}


@pytest.mark.parametrize("name", CASES)
def test_what_runs_in_the_serving_processes_does_not_grow_with_the_paths(name: str) -> None:
    world, sql, policy = CASES[name]
    bound = world.bind(sql)
    decision = policy(bound)
    places = {leaf.dataset: (leaf.dataset.department, "main") for leaf in bound.leaves}
    started = time.process_time()
    try:
        structure.check(bound, decision, schema=world.schema)
        plan = split(bound, decision, places, schema=world.schema)
        explain.explain(plan, decision, bound)
        explain.picture(plan, decision, bound)
        if plan.final is None:
            restrict.restrict(bound, decision, KEYS, schema=world.schema)
    except TidegateError as error:
        assert error.code in (Code.PLAN_TOO_LARGE, Code.POLICY_STRUCTURE)  # noqa: PT017 - either end is an end
    assert time.process_time() - started < CPU_S_MAX
