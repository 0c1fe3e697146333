"""What processes used, read from the kernel."""

from __future__ import annotations

import os
import subprocess
import sys

from benchmarks.machine import Usage, machine, reset_peaks, tree, usage, versions

# A parent with one child; the child burns some CPU and holds 64 MiB, then both wait for their input to end.
PROGRAM = """
import subprocess, sys
child = "import sys; held = bytearray(64 << 20); sum(range(5_000_000)); print('ready', flush=True); sys.stdin.read()"
worker = subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE)
sys.stdin.read()
worker.stdin.close()
worker.wait()
"""


def test_a_tree_is_measured_whole() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    try:
        assert len(tree(parent.pid)) == 2
        used = usage([parent.pid])
        assert used.cpu_s > 0
        assert used.rss_bytes_peak > 64 << 20
        reset_peaks([parent.pid])
        assert usage([parent.pid]).rss_bytes_peak <= used.rss_bytes_peak
    finally:
        parent.communicate()
    assert usage([parent.pid]) == Usage(0.0, 0)


def test_usage_is_told_per_run() -> None:
    assert Usage(7.0, 100).since(Usage(1.0, 50), runs=3) == Usage(2.0, 100)


def test_the_machine_and_the_versions_are_named() -> None:
    assert machine()["cpus"] == len(os.sched_getaffinity(0))
    assert machine()["memory_bytes"] > 0
    assert versions()["duckdb"]
