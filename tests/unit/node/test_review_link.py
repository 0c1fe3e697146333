"""Found in review: a broker that asks and asks could make a node start threads without bound."""

from __future__ import annotations

import threading

from node.conversation import DescribeAsked
from node.link import SMALL_JOBS_MAX
from tests.unit.node.test_link import WAIT_S, linked, welcome
from tidegate.core.dataset import Dataset


def test_a_broker_that_asks_without_end_loses_its_link() -> None:
    with linked() as (_, dialler, work, _):

        def slow() -> tuple[Dataset, ...]:
            work.go.wait(WAIT_S)
            return ()

        work.describe = slow  # type: ignore[method-assign]
        line = dialler.next_line()
        line.down.put(welcome())
        for _ in range(SMALL_JOBS_MAX * 20):
            line.down.put(DescribeAsked())
        assert line.hung_up.wait(WAIT_S)
        small = [thread for thread in threading.enumerate() if thread.name == "node-small-job"]
        assert len(small) <= SMALL_JOBS_MAX
