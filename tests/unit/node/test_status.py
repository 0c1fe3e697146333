"""The status file: whole or absent, and stale when its process is gone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from node.link import LinkState
from node.status import STATUS_FILE, StatusFile, read_status
from tests.fakes.exchange import ManualClock
from tidegate.core.errors import PeerError, TidegateError


def test_shows_facts_and_links_and_is_removed_at_the_end(tmp_path: Path) -> None:
    status = StatusFile(tmp_path, ManualClock())
    status.describe({"node": "n"})
    state = LinkState("broker:7444", attached=True, broker="b")
    status.link(state)
    state.attached = False  # a later change of the link is not in the file until the link says so
    found = read_status(tmp_path)
    assert (found["node"], [item["attached"] for item in found["brokers"]]) == ("n", [True])
    status.link(state)
    assert [item["attached"] for item in read_status(tmp_path)["brokers"]] == [False]
    status.remove()
    with pytest.raises(PeerError, match="not running"):
        read_status(tmp_path)


def test_a_file_of_a_process_that_is_gone_is_stale(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (tmp_path / STATUS_FILE).write_text(json.dumps({"pid": gone.pid}), encoding="utf-8")
    with pytest.raises(PeerError, match="stale"):
        read_status(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"pid": "x"}', '{"pid": -1}', "{}"])
def test_a_file_of_no_form_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / STATUS_FILE).write_text(text, encoding="utf-8")
    with pytest.raises(TidegateError):
        read_status(tmp_path)
