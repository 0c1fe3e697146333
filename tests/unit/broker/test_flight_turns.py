"""Turns of listings: one works at a time, and a member that asks for many does not put the others at the end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from broker.wire.flight.turns import Turns
from tidegate.core.errors import Code, TidegateError, error_for


def test_items_are_given_in_order_and_errors_pass_without_holding_anybody_up() -> None:
    turns = Turns()
    assert list(turns.taken("a", lambda: iter("xyz"))) == ["x", "y", "z"]

    def fails() -> Iterator[str]:
        raise error_for(Code.FETCH_LIMIT)

    def fails_later() -> Iterator[str]:
        yield "x"
        raise error_for(Code.FETCH_LIMIT)

    with pytest.raises(TidegateError):
        turns.taken("a", fails)  # at once, before the first item is asked for
    with pytest.raises(TidegateError):
        list(turns.taken("a", fails_later))
    assert list(turns.taken("a", lambda: iter("x"))) == ["x"]


def test_a_reader_that_stops_holds_up_nobody() -> None:
    turns = Turns()
    slow = turns.taken("a", lambda: iter("xyz"))
    assert next(slow) == "x"
    assert list(turns.taken("a", lambda: iter("uv"))) == ["u", "v"]
    assert list(turns.taken("b", lambda: iter("w"))) == ["w"]
    assert list(slow) == ["y", "z"]


def test_one_works_at_a_time_and_another_member_comes_next() -> None:
    """Eight listings of ``many`` wait; ``other`` comes last and is served after at most two more of theirs."""
    turns, working, order = Turns(), [0], []
    begun, go = threading.Event(), threading.Event()

    def items(member: str) -> Iterator[int]:
        for number in range(5):
            working[0] += 1
            assert working[0] == 1
            begun.set()
            go.wait(30)
            order.append(member)
            working[0] -= 1
            yield number

    def listing(member: str) -> None:
        assert list(turns.taken(member, lambda: items(member))) == list(range(5))

    threads = [threading.Thread(target=listing, args=("many",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert begun.wait(30)
    last = threading.Thread(target=listing, args=("other",))
    last.start()
    go.set()
    for thread in (*threads, last):
        thread.join(30)
        assert not thread.is_alive()
    assert order.count("many") == 40 and order.count("other") == 5
    assert working == [0]


def test_after_a_start_no_array_waits_for_a_library() -> None:
    """In a process of its own: what Arrow loads late is loaded by ``warm_arrow``, and nothing more comes with an array."""
    program = (
        "import sys\nfrom broker.warm import warm_arrow\nimport pyarrow as pa\nwarm_arrow()()\nbefore = set(sys.modules)\n"
        "pa.array(['a'], pa.string())\npa.Table.from_pylist([{'a': 'x'}], schema=pa.schema([('a', pa.string())]))\n"
        "pa.schema([('a', pa.int32())]).empty_table()\n"
        "late = {name.partition('.')[0] for name in set(sys.modules) - before}\nprint(sorted(late & {'pandas', 'numpy'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120, env=dict(os.environ)
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
