"""Turn what an engine raises into the exchange's errors, without one word of the engine's text in the public message.

An engine's message quotes values of rows that the caller may not see. The private detail carries the exception's class, and
the text only for classes that are raised before any row is read.
"""

from __future__ import annotations

import signal

import duckdb
import pyarrow as pa

from tidegate.core.errors import Code, TidegateError, error_for

_MEMORY = (MemoryError, pa.ArrowMemoryError, duckdb.OutOfMemoryException)
_BEFORE_ROWS = (duckdb.CatalogException, duckdb.ParserException, duckdb.PermissionException)
_LIMIT_SIGNALS = frozenset(
    {signal.SIGKILL, signal.SIGXCPU, signal.SIGABRT, signal.SIGXFSZ}
)  # abort: C++ without memory


def of_engine(error: BaseException) -> TidegateError:
    """Translate an exception that was raised while a job ran."""
    kind = type(error).__name__
    if isinstance(error, TidegateError):
        return error
    if isinstance(error, duckdb.InterruptException):
        return error_for(Code.QUERY_CANCELLED)
    if isinstance(error, _MEMORY) or (isinstance(error, duckdb.Error) and "Out of Memory" in str(error)[:200]):
        return error_for(Code.JOIN_LIMIT, "the query needs more memory than it may have", detail=kind)
    if isinstance(error, _BEFORE_ROWS):
        return error_for(Code.JOIN_FAILED, detail=f"{kind}: {str(error).splitlines()[0][:300]}")
    return error_for(Code.JOIN_FAILED, detail=kind)


def of_stream(error: Exception) -> TidegateError:
    """Translate an exception of an Arrow stream that an engine feeds: OSError and a text that begins with the kind."""
    kind = str(error).partition(":")[0][:40]
    if kind.startswith("INTERRUPT"):
        return error_for(Code.QUERY_CANCELLED)
    if kind.startswith("Out of Memory") or isinstance(error, _MEMORY):
        return error_for(Code.JOIN_LIMIT, "the query needs more memory than it may have", detail="while streaming")
    known = kind if kind.endswith(" Error") and kind.replace(" ", "").isalpha() else type(error).__name__
    return error_for(Code.JOIN_FAILED, detail=f"while streaming: {known}")


def of_death(status: int | None) -> TidegateError:
    """Translate the end of a worker that ended by itself while a job ran; ``status`` as ``Popen.returncode``."""
    number = -status if status is not None and status < 0 else 0
    name = signal.Signals(number).name if number in signal.valid_signals() else f"exit {status}"
    if number in _LIMIT_SIGNALS:
        return error_for(
            Code.JOIN_LIMIT, "the query took more memory or time than it may have", detail=f"worker: {name}"
        )
    return error_for(Code.JOIN_FAILED, "the engine ended while it worked on the query", detail=f"worker: {name}")
