"""The walls that the operating system builds around a worker: limits, capabilities, Landlock, seccomp.

Called by a worker on its only thread, after its imports and before an engine exists. What a child gives up here it cannot
take back. Nothing here depends on what SQL says.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import struct
from collections.abc import Iterable
from pathlib import Path

from engine import landlock, seccomp
from tidegate.core.errors import Code, error_for

# What DuckDB reads while it connects (strace): how many processors and how much memory its control group has.
SYSTEM_READS: tuple[tuple[str, int], ...] = (
    ("/proc/self/cgroup", landlock.READ_FILES),
    ("/proc/self/statm", landlock.READ_FILES),  # limit_memory
    ("/sys/fs/cgroup", landlock.READ_TREE),
    ("/sys/devices/system/cpu", landlock.READ_TREE),
)
_FILES_OPEN_MAX = 512  # parquet readers hold one descriptor per file and thread
_KEPT_CAPABILITIES = 0b110  # DAC_OVERRIDE, DAC_READ_SEARCH: a node run by root must still read its own data sets' files
_CAPABILITY_VERSION = 0x20080522


def enter(rules: Iterable[tuple[str, int]], *, file_bytes_max: int, required: bool) -> dict[str, int]:
    """Give up everything that a worker does not need.

    Args:
        rules: paths and Landlock rights beyond ``SYSTEM_READS``.
        file_bytes_max: of any file that it may write; 0 for none.
        required: fail where the kernel has no Landlock or no seccomp.

    Returns:
        Which walls stand: ``landlock`` (ABI, 0 for none), ``seccomp`` (1 or 0).
    """
    with contextlib.suppress(OSError):  # the kernel shall end a worker before it ends the broker
        Path("/proc/self/oom_score_adj").write_text("1000")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold rows
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes_max, file_bytes_max))
    files_max = min(_FILES_OPEN_MAX, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (files_max, files_max))
    _drop_capabilities()
    version = landlock.restrict([*SYSTEM_READS, *rules])
    filtered = seccomp.restrict()
    if required and not (version and filtered):
        raise error_for(
            Code.CONFIG_INVALID,
            "worker: this kernel offers no Landlock or no seccomp, and the configuration requires them",
        )
    return {"landlock": version, "seccomp": int(filtered)}


def limit_memory(beyond_now_bytes: int) -> None:
    """Set RLIMIT_AS to what is reserved now (code, thread stacks, pools) and this much more."""
    limit = reserved_bytes() + beyond_now_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def reserved_bytes() -> int:
    """Say how much address space the process has reserved: what RLIMIT_AS counts."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def limit_cpu(seconds: float) -> None:
    """Let the process use this much more processor time; SIGXCPU ends it beyond.

    The second wall behind the parent's clock: it holds when the parent is gone or stuck.
    """
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime + seconds) + 1
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _drop_capabilities() -> None:
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION, 0))
    kept = _KEPT_CAPABILITIES & _permitted()
    data = ctypes.create_string_buffer(struct.pack("=6I", kept, kept, 0, 0, 0, 0))
    libc.capset(header, data)  # a failure leaves root's rights; Landlock and seccomp still stand


def _permitted() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapPrm:"):
            return int(line.split()[1], 16)
    return 0
