"""Structured logs of the serving processes: one JSON line an event on stderr, never a row value, SQL text or person."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


# Without local variables: they hold SQL texts and rows.
_TRACEBACKS = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))


def _without_texts(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Take the texts of exceptions out: a driver's or a parser's quotes rows and SQL. Classes and places say what broke."""
    for item in event.get("exception") or ():
        item.update(exc_value="", exc_notes=[], syntax_error=None)
        for part in item.get("exceptions") or ():
            _without_texts(_logger, _name, {"exception": part if isinstance(part, list) else [part]})
    return event


def configure_logs(level: str) -> None:
    """Set the process's structured log; called once, by a command, before anything is made."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _TRACEBACKS,
            _without_texts,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
