"""What ran where: the machine, the versions, and what the processes of an exchange used, read from ``/proc``."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGES = ("duckdb", "pyarrow", "grpcio", "adbc-driver-flightsql", "sqlglot", "cryptography", "psycopg")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_RESET_PEAK = "5"  # proc(5), /proc/pid/clear_refs: reset the peak resident set size


@dataclass(frozen=True, slots=True)
class Usage:
    """What one group of processes used.

    Args:
        cpu_s: user and system time, of ended children too.
        rss_bytes_peak: the sum of each process's own peak, so an upper bound of the group's.
    """

    cpu_s: float
    rss_bytes_peak: int

    def since(self, earlier: Usage, runs: int = 1) -> Usage:
        """Give the CPU time per run since an earlier reading, and the peak as it is now."""
        return Usage((self.cpu_s - earlier.cpu_s) / max(runs, 1), self.rss_bytes_peak)


def machine() -> dict[str, Any]:
    """Describe the machine."""
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "cpu": _cpu_model(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
        "load_average_start": round(os.getloadavg()[0], 2),
    }


def versions() -> dict[str, str]:
    """Give the versions of Python and of the packages that the time depends on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def tree(root: int) -> list[int]:
    """Give a process and all of its descendants that are alive."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = _stat(int(entry.name))
            if fields is not None:
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting += children.get(pid, [])
    return found


def usage(roots: Iterable[int]) -> Usage:
    """Read what the trees below these processes have used so far."""
    cpu, peak = 0, 0
    for root in roots:
        for pid in tree(root):
            fields = _stat(pid)
            if fields is not None:
                cpu += sum(int(fields[position]) for position in (11, 12, 13, 14))  # utime, stime, cutime, cstime
                peak += _peak(pid)
    return Usage(cpu / _TICKS_PER_S, peak)


def usages(groups: Mapping[str, int]) -> dict[str, Usage]:
    """Read the usage of each named tree."""
    return {name: usage([root]) for name, root in groups.items()}


def reset_peaks(roots: Iterable[int]) -> None:
    """Let the peaks begin anew."""
    for root in roots:
        for pid in tree(root):
            try:
                Path(f"/proc/{pid}/clear_refs").write_text(_RESET_PEAK)
            except OSError:
                continue  # gone, or a kernel that refuses: then the peak is the process's whole life's, still true


def _stat(pid: int) -> list[str] | None:
    """Give the fields of /proc/pid/stat after the name (which may hold spaces): state, ppid, ..."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None  # it has ended


def _peak(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:")), 0)


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
