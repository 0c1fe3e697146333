"""Tell the C library to keep the memory of freed batches for the next ones; for processes that pass large answers on.

By default glibc maps each buffer of more than a few hundred KB anew and gives it back when it is freed, so that every
page of every chunk costs a fault on each copy: a third of the time that a chunk takes (benchmarks.stream). The parent of
workers (``engine.process``) says the same to them by their environment.
"""

from __future__ import annotations

import ctypes

MAPPED_BYTES_MIN = 64 << 20  # above the largest message, so that only what is no message is mapped on its own
KEPT_BYTES = 32 << 20  # free memory at the end of each arena that is not given back
ARENAS_MAX = 2  # so that what is kept, and what lies between the pieces in use, stays bounded whatever the threads
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # glibc, malloc.h


def give_back() -> None:
    """Return what is free to the system, wherever it lies; takes milliseconds, so only when there is nothing else to do."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def keep_buffers() -> None:
    """Set the options for this process; without effect on a C library that does not know them."""
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_M_MMAP_THRESHOLD, MAPPED_BYTES_MIN)
        set_option(_M_TRIM_THRESHOLD, KEPT_BYTES)
        set_option(_M_ARENA_MAX, ARENAS_MAX)
