"""The root of the command line: global options, and the verbs of every room that is installed here."""

from __future__ import annotations

import io
import sys
from importlib.metadata import entry_points
from typing import Annotated

import typer

from tidegate.cli import access, audit, catalogue, connection, contexts, doctor, joining, members, proxy, query
from tidegate.cli.output import say
from tidegate.core.errors import Exit

app = typer.Typer(
    name="tidegate",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Ask several departments one question, under rules that are checked and recorded on every request.",
    epilog="Exit codes: 0 ok, 1 error, 2 usage, 3 unauthenticated, 4 denied, 5 not found, 6 needs approval, "
    "7 unavailable, 8 verification failed. Start with: tidegate join TOKEN",
)
_SERVER_VERBS = {
    "init": "Make a new exchange: its CA, log, catalogue and configuration.",
    "up": "Run the broker of an exchange.",
    "node": "Serve a department's data from behind its own gate.",
}
_ANY_ARGUMENTS = {"ignore_unknown_options": True, "allow_extra_args": True}


def _version(value: bool) -> None:
    if value:
        from tidegate import __version__

        typer.echo(f"tidegate {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Ask several departments one question, under rules that are checked and recorded on every request."""
    del version


app.command("join")(joining.join)
app.command("renew")(joining.renew)
app.command("whoami")(joining.whoami)
app.add_typer(contexts.app, name="context")
app.add_typer(members.app, name="member")
app.add_typer(catalogue.app, name="dataset")
app.command("search")(catalogue.search)
app.add_typer(catalogue.purposes, name="purposes")
app.command("query")(query.query)
app.add_typer(access.app, name="access")
app.add_typer(audit.app, name="audit")
app.add_typer(audit.receipts, name="receipt")
app.command("connection-options")(connection.connection_options)
app.command("proxy")(proxy.proxy)
app.command("token")(proxy.token)
app.command("doctor")(doctor.doctor)


def _missing(verb: str) -> None:
    def command() -> None:
        say(f"tidegate {verb}: this part is not installed here; pip install tidegate-exchange (in its own environment)")
        raise typer.Exit(int(Exit.USAGE))

    app.command(verb, help=_SERVER_VERBS[verb], context_settings=_ANY_ARGUMENTS)(command)


def _serving_verbs() -> None:
    """Add the verbs that serve, each found by entry point in the room that it belongs to."""
    found = {entry.name: entry for entry in entry_points(group="tidegate.commands")}
    for verb in sorted(_SERVER_VERBS.keys() | found.keys()):
        if verb not in found:
            _missing(verb)
            continue
        loaded = found[verb].load()
        if isinstance(loaded, typer.Typer):
            app.add_typer(loaded, name=verb)
        else:
            app.command(verb)(loaded)


_serving_verbs()


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name in any script is printed, whatever the machine's code page is
            stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors="backslashreplace")
    app()
