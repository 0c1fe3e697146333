"""Run pure planning functions in processes that can be killed, so that a parse bomb costs its sender alone.

Also keeps the serving process's interpreter lock free: a thread that parses beside 1,000 durable appends a second cuts
them to a quarter (design house.md, Processes).
"""

from __future__ import annotations

import enum
import io
import itertools
import json
import pickle
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

from engine.frames import FRAME_BYTES_MAX, Frame, FrameError, Kind
from engine.process import Child
from engine.seats import Seats, error_of
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.frozen import frozen
from tidegate.core.limits import PLAN_DEADLINE_S

ADDRESS_SPACE_BYTES = 1 << 30  # beyond an idle process; a plan of 64 KiB of SQL takes tens of megabytes

P = ParamSpec("P")
R = TypeVar("R")

_MODULES = frozenset({"tidegate", "sqlglot", "datetime", "decimal", "collections", "uuid", "zoneinfo"})
_BUILTINS = frozenset(
    [
        "set",
        "frozenset",
        "bytearray",
        "complex",
        "range",
        "slice",
        "list",
        "dict",
        "tuple",
        "str",
        "bytes",
        "int",
        "float",
        "bool",
        "object",
    ]
)


class PlanningPool:
    """Processes that run module-level functions.

    Args:
        size: how many; one call each at a time.
        preload: modules to import at start, so that the first caller does not wait for them; a function must live in one
            of these or in ``tidegate``.
        address_space_bytes: RLIMIT_AS beyond what an idle process has reserved.
        sandbox_required: refuse to start where the kernel has no Landlock or no seccomp filter.
    """

    def __init__(
        self,
        size: int,
        *,
        preload: Sequence[str] = (),
        address_space_bytes: int = ADDRESS_SPACE_BYTES,
        sandbox_required: bool = False,
    ) -> None:
        spec = {
            "preload": list(preload),
            "address_space_bytes": address_space_bytes,
            "sandbox_required": sandbox_required,
        }
        first = Frame(Kind.SPEC, 0, json.dumps(spec).encode())
        self._modules = _MODULES | {name.partition(".")[0] for name in preload}
        self._numbers = itertools.count(1)
        self._seats = Seats(
            lambda: Child("engine.planning_worker", first),
            size,
            refuse=lambda data: error_of(json.loads(data)),
            clean=lambda _pid: None,
        )
        self.walls: dict[str, int] = json.loads(self._seats.first_ready)

    def run(
        self, function: Callable[..., R], *arguments: Any, deadline_s: float = PLAN_DEADLINE_S, owner: str = ""
    ) -> R:
        """Call ``function(*arguments)`` in a process; arguments and value go by pickle.

        Args:
            owner: for whom; one owner never holds every process (``engine.seats``).

        Raises:
            CallerError: PLAN_DEADLINE when it took too long (its process is killed), PLAN_TOO_LARGE when it took too much
                memory or depth.
            Overloaded: BUSY when no process came free before the deadline.
            TidegateError: what the function raised; INTERNAL for any other exception.
        """
        until_s = time.monotonic() + deadline_s
        call = pickle.dumps((function, arguments, deadline_s), protocol=5)
        if len(call) > FRAME_BYTES_MAX:
            raise error_for(Code.PLAN_TOO_LARGE, "the query is too large to plan")
        child = self._seats.take(until_s=until_s, owner=owner)
        try:
            good, value = self._exchange(child, Frame(Kind.CALL, next(self._numbers), call), until_s)
        except BaseException:
            child.kill()
            self._seats.discard(child)
            raise
        self._seats.give_back(child)
        if not good:
            raise value
        return value  # type: ignore[no-any-return]

    def _exchange(self, child: Child, call: Frame, until_s: float) -> tuple[bool, Any]:
        try:
            child.send(call)
            frame = child.receive(timeout_s=until_s - time.monotonic())
        except TimeoutError:
            raise error_for(Code.PLAN_DEADLINE) from None
        except (FrameError, OSError):
            raise self._died(child) from None
        if frame.kind is not Kind.RESULT or frame.job != call.job:
            raise error_for(Code.INTERNAL, detail="planning: unexpected frame")
        try:
            good, value = _Reader(frame.payload, self._modules).load()
        except Exception as error:
            raise error_for(Code.INTERNAL, detail=f"planning: result not readable: {type(error).__name__}") from error
        if not good and not isinstance(value, TidegateError):
            raise error_for(Code.INTERNAL, detail="planning: not an error")
        return bool(good), value

    @staticmethod
    def _died(child: Child) -> TidegateError:
        """Say why a process ended by itself: the kernel (memory, processor time) or the C stack."""
        return error_for(
            Code.PLAN_TOO_LARGE, "the query is too large to plan", detail=f"planning process: status {child.end()}"
        )

    @property
    def replaced(self) -> int:
        """How many processes were lost and replaced since the start."""
        return self._seats.replaced

    def close(self) -> None:
        """End all processes; calls that still run raise."""
        self._seats.close()


class _Reader(pickle.Unpickler):
    """Reads a result without importing anything that a planning function could not have meant.

    The process that wrote it has read a stranger's text. What it may name is values of ours and of sqlglot.
    """

    def __init__(self, data: bytes, modules: frozenset[str]) -> None:
        super().__init__(io.BytesIO(data))
        self._modules = modules

    def find_class(self, module: str, name: str) -> Any:
        """Resolve a class, from the closed list only; a function would be called with what the pickle likes."""
        if module == "copyreg" and name in ("_reconstructor", "__newobj__", "__newobj_ex__"):
            return super().find_class(module, name)
        if (module, name) == ("sqlglot.serde", "load"):
            return _tree
        if (module, name) == ("builtins", "getattr"):
            return _member
        if (module, name) == ("tidegate.core.frozen", "frozen"):
            return frozen
        if (module == "builtins" and name in _BUILTINS) or module.partition(".")[0] in self._modules:
            found = super().find_class(module, name)  # a dotted name may lead into what the module imports
            home = found.__module__ if isinstance(found, type) else ""
            if home.partition(".")[0] in self._modules or (home == "builtins" and found.__name__ in _BUILTINS):
                return found
        raise pickle.UnpicklingError(f"not allowed: {module}.{name}")


def _member(kind: Any, name: str) -> Any:
    """Give a member of an Enum by its name: so Python up to 3.11.3 (Debian 12) pickles one, as a call of ``getattr``."""
    if not (isinstance(kind, type) and issubclass(kind, enum.Enum)):
        raise pickle.UnpicklingError("not allowed: an attribute of what is no Enum")
    return kind[name]


def _tree(nodes: Any) -> Any:
    """Build a sqlglot tree from its pickled form, whose ``load`` would call any function of any module that a node names."""
    from sqlglot import expressions, serde

    waiting = [nodes]
    while waiting:
        for node in waiting.pop() or ():
            waiting.append(node.get(serde.TYPE))
            home, _, kind = node.get(serde.CLASS, serde.DATA_TYPE).rpartition(".")
            if f"{home}.{kind}" == serde.DATA_TYPE:
                continue
            module = (
                sys.modules.get(home or expressions.__name__)
                if home.startswith(("sqlglot.expressions", "tidegate.sql.")) or not home
                else None
            )
            found = getattr(module, kind, None)
            if not (isinstance(found, type) and issubclass(found, expressions.Expr)):
                raise pickle.UnpicklingError("not allowed: a node of another class")
    return serde.load(nodes)
