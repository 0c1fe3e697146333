"""What a start loads before the listeners open, so that no caller's request waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pyarrow as pa


def warm_arrow() -> Callable[[], None]:
    """Have Arrow load what it loads late, beside what else a start waits for; gives a function that waits for the end.

    With the first array that it makes of Python's values Arrow imports pandas, where there is one: seconds.
    """
    thread = threading.Thread(target=pa.array, args=([], pa.null()), name="warm", daemon=True)
    thread.start()
    return thread.join
