"""The magic ``%%tidegate`` for Jupyter and IPython: SQL in a cell, the answer as a page with what was filtered or masked.

``%load_ext tidegate`` adds it. IPython is not imported here: it hands in its shell. A session is opened when it is first
needed and again when its certificate is due for renewal, for a notebook may stay open for days. An error ends the cell (so
that "run all" stops there), shown as one block with its code and the next step instead of a traceback.
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NoReturn

from tidegate.client.result import Result
from tidegate.client.session import Session, open_session
from tidegate.client.telling import error_lines
from tidegate.core.clock import Clock, SystemClock
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.limits import QUERY_DEADLINE_S, QUERY_DEADLINE_S_MAX

NAME = "tidegate"
_LOADED = "_tidegate_notebook"
_FORMS = ("result", "arrow", "pandas", "polars")

USAGE = """%%tidegate [--purpose P] [--legal-basis B] [--context C] [--params X] [--out NAME] [--as FORM] [--deadline S]
SELECT ...

    Ask several departments one question; the cell is the SQL, and shows the answer with what was filtered or masked.
    --params  the name of a variable, or JSON: a list for ?, a mapping for $name
    --out     the variable that gets the answer
    --as      what --out gets: result (default), arrow, pandas, polars

%tidegate connect [--context C] [--identity FOLDER] [--purpose P] [--legal-basis B]

    Choose the exchange, and the purpose of the cells that name none.

%tidegate close
"""


class _Arguments(argparse.ArgumentParser):
    """A parser whose error is one of ours, and which never ends the notebook's process."""

    def error(self, message: str) -> NoReturn:
        raise error_for(Code.CLIENT_INPUT, f"%{NAME}: {message}; `%{NAME}?` shows the options")


def _parser(*, cell: bool) -> _Arguments:
    parser = _Arguments(prog=NAME, add_help=False, allow_abbrev=False)
    parser.add_argument("--context", "-c")
    parser.add_argument("--identity")
    parser.add_argument("--purpose", "-p")
    parser.add_argument("--legal-basis")
    if cell:
        parser.add_argument("--params")
        parser.add_argument("--out", "-o")
        parser.add_argument("--as", dest="form", choices=_FORMS, default="result")
        parser.add_argument("--deadline", type=float, default=QUERY_DEADLINE_S)
    return parser


class Notebook:
    """One notebook's state: which exchange, which purpose, and the open session."""

    def __init__(self, shell: Any, clock: Clock | None = None) -> None:
        self._shell = shell
        self._clock = clock or SystemClock()
        self._context: str | None = None
        self._identity: str | None = None
        self._purpose: str | None = None
        self._legal_basis: str | None = None
        self._opened: tuple[tuple[str | None, str | None], Session] | None = None

    def line(self, line: str) -> str:
        """Run ``%tidegate connect ...`` or ``%tidegate close``; give one sentence on what is now so."""
        verb, *rest = self._words(line) or [""]
        match verb:
            case "connect":
                options = _parser(cell=False).parse_args(rest)
                session = self._session(options.context, options.identity)  # raises before anything is changed
                self._context, self._identity = options.context, options.identity
                self._purpose, self._legal_basis = options.purpose, options.legal_basis
                purpose = self._purpose or session.purpose or "none: name one in each cell"
                return f"{session.identity.spiffe} at {session.identity.exchange.callers}; purpose {purpose}"
            case "close":
                self.close()
                return "closed"
        raise error_for(
            Code.CLIENT_INPUT, f"%{NAME}: expected connect or close; a query is a cell that begins with %%{NAME}"
        )

    def cell(self, line: str, text: str) -> Result:
        """Run a cell and give its answer, read to its end."""
        options = _parser(cell=True).parse_args(self._words(line))
        if options.out is not None and not options.out.isidentifier():
            raise error_for(Code.CLIENT_INPUT, "--out: expected the name of a variable")
        if not 0 < options.deadline <= QUERY_DEADLINE_S_MAX:
            raise error_for(Code.CLIENT_INPUT, f"--deadline: expected at most {QUERY_DEADLINE_S_MAX:g} seconds")
        result = self._session(options.context, options.identity).query(
            text,
            purpose=options.purpose or self._purpose,
            legal_basis=options.legal_basis or self._legal_basis,
            params=self._parameters(options.params),
            deadline_s=options.deadline,
        )
        try:
            value = _as(result, options.form)
        except KeyboardInterrupt:
            result.cancel()  # the departments stop too
            raise
        if options.out is not None:
            self._shell.user_ns[options.out] = value
        return result

    def close(self) -> None:
        """Close the session; the next cell opens one."""
        if self._opened is not None:
            self._opened[1].close()
            self._opened = None

    def _session(self, context: str | None, identity: str | None) -> Session:
        asked = (context, identity) if context or identity else (self._context, self._identity)
        if self._opened is not None:
            key, session = self._opened
            if key == asked and not session.identity.facts.renewal_due(self._clock.now()):
                return session
            self.close()
        self._opened = (asked, open_session(asked[0], identity=asked[1], purpose=None))
        return self._opened[1]

    def _words(self, line: str) -> list[str]:
        try:
            return shlex.split(line)
        except ValueError as error:
            raise error_for(Code.CLIENT_INPUT, f"%{NAME}: a quotation mark is not closed") from error

    def _parameters(self, text: str | None) -> Any:
        if text is None:
            return None
        if text.isidentifier():
            if text not in self._shell.user_ns:
                raise error_for(Code.CLIENT_INPUT, f"--params: there is no variable {text}")
            value = self._shell.user_ns[text]
        else:
            try:
                value = json.loads(text, parse_float=Decimal)
            except (ValueError, RecursionError) as error:
                raise error_for(Code.CLIENT_INPUT, "--params: expected the name of a variable, or JSON") from error
        if not isinstance(value, Mapping | list | tuple):
            raise error_for(Code.CLIENT_INPUT, "--params: expected a mapping for $name, or a list for ?")
        return value


def _as(result: Result, form: str) -> Any:
    match form:
        case "arrow":
            return result.to_arrow()
        case "pandas":
            return result.to_pandas()
        case "polars":
            return result.to_polars()
    result.to_arrow()  # read here, so that an answer which breaks off is the cell's error
    return result


def _in_one_block(error: TidegateError) -> TidegateError:
    """Have IPython show the error as its lines alone: it asks an exception for this method before it makes a traceback."""
    error._render_traceback_ = lambda: error_lines(error)  # type: ignore[attr-defined]
    return error


def load(shell: Any) -> None:
    """Add the magic to a shell of IPython."""
    unload(shell)
    notebook = Notebook(shell)

    def tidegate(line: str, cell: str | None = None) -> Any:
        try:
            return notebook.line(line) if cell is None else notebook.cell(line, cell)
        except TidegateError as error:
            raise _in_one_block(error) from None

    tidegate.__doc__ = USAGE
    # IPython would put variables into {"day": "Mon"}: the line is ours as it stands. The name is IPython's.
    tidegate._ipython_magic_no_var_expand = True  # type: ignore[attr-defined]
    shell.register_magic_function(tidegate, "line_cell", NAME)
    setattr(shell, _LOADED, notebook)


def unload(shell: Any) -> None:
    """Take the magic out of a shell and close its session."""
    notebook: Notebook | None = getattr(shell, _LOADED, None)
    if notebook is None:
        return
    notebook.close()
    delattr(shell, _LOADED)
    for kind in ("line", "cell"):
        shell.magics_manager.magics[kind].pop(NAME, None)
