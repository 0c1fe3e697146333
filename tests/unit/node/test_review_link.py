"""Found in review: how a broker could make a node start threads without bound, or end its link for ever."""

from __future__ import annotations

import threading

import pytest

from node.conversation import Beat, DescribeAsked, Drained
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


@pytest.mark.parametrize("again_after_s", [float("nan"), float("-inf"), -1.0])
def test_times_that_are_no_numbers_do_not_end_the_link_for_ever(again_after_s: float) -> None:
    with linked() as (_, dialler, _work, _):
        for _round in range(2):
            line = dialler.next_line()
            line.down.put(welcome(heartbeat_s=float("nan")))
            assert line.next_said("beat") == ("beat", 1)  # the beating thread lives as well
            line.down.put(Beat())
            line.down.put(Drained(again_after_s))
