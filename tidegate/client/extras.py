"""What the client can use and does not need: loaded when it is used, and when it is missing the error says what to install."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from tidegate.core.errors import Code, error_for


def load(module: str, extra: str) -> Any:
    """Load a module of an extra of the wheel ``tidegate``.

    Raises:
        CallerError: CLIENT_INPUT; the package is not installed, and this is the command that installs it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or module).partition(".")[0]
        raise error_for(
            Code.CLIENT_INPUT,
            f"{missing} is not installed in this Python environment; pip install 'tidegate[{extra}]'",
            detail=repr(error),
        ) from error
