"""Found in review: an answer with other rows than its node signed went into the log as the node said."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from broker.join import Join
from broker.values import FetchedStreams, FragmentReport, FragmentStream
from tests.unit.broker.test_review_callers_door import recorded
from tidegate import ipc
from tidegate.core.clock import SystemClock
from tidegate.core.errors import Code, TidegateError


def relayed(table: pa.Table, *, signed_rows: int) -> Iterator[tuple[bytes, int]]:
    """Give what the broker relays of a single fragment's answer to ``SELECT name, region``."""
    plan = recorded("SELECT name, region FROM land.regions")
    (fragment,) = plan.restricted.federated.fragments
    report = FragmentReport(fragment.id, fragment.member, fragment.node, rows=signed_rows)
    stream = FragmentStream(fragment.id, ipc.cut(table.schema, table.to_batches()), report)
    unused: Any = None
    joined = Join(pool=unused, clock=SystemClock()).join(plan, FetchedStreams({fragment.id: stream}, lambda: None))
    return joined.chunks


GOOD = pa.table({"c0": ["a", "b"], "c1": ["c", "d"]})
WRONG = {
    "one too few": GOOD.select(["c0"]),
    "one too many": GOOD.append_column("c2", pa.array([1, 2])),
}


def test_what_was_asked_for_passes() -> None:
    assert sum(rows for _, rows in relayed(GOOD, signed_rows=2)) == 2


@pytest.mark.parametrize("name", WRONG)
def test_other_columns_end_the_query_by_the_departments_name(name: str) -> None:
    with pytest.raises(TidegateError) as caught:
        list(relayed(WRONG[name], signed_rows=2))
    assert caught.value.code is Code.FETCH_INVALID_DATA and "land" in caught.value.message


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_rows_are_those_that_the_node_signed(rows: int) -> None:
    with pytest.raises(TidegateError) as caught:
        list(relayed(GOOD, signed_rows=rows))
    assert caught.value.code is Code.FETCH_INVALID_DATA and "land" in caught.value.message
