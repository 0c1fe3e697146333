"""``tidegate context``: the exchanges that this user has joined."""

from __future__ import annotations

from typing import Annotated

import typer

from tidegate.cli.common import OutputOption
from tidegate.cli.output import Format, failing, records, say

app = typer.Typer(no_args_is_help=True, help="The exchanges that you have joined, as kubectl has clusters.")


@app.command("list")
def list_(output: OutputOption = Format.TABLE) -> None:
    """List the contexts; the current one is marked."""
    from tidegate.client.contexts import Contexts

    with failing():
        contexts = Contexts()
        rows = []
        for name in contexts.names():
            found = contexts.find(name)
            rows.append({"current": "*" if name == contexts.current else "", "name": name, "purpose": found.purpose})
        records(rows, ("current", "name", "purpose"), output)


@app.command()
def use(name: Annotated[str, typer.Argument(help="Name of the context.")]) -> None:
    """Make a context the current one."""
    from tidegate.client.contexts import Contexts

    with failing():
        Contexts().use(name)
        say(f"context {name}")


@app.command()
def purpose(
    code: Annotated[str, typer.Argument(help="Default purpose of queries, from `tidegate purposes list`.")],
    legal_basis: Annotated[str, typer.Option("--legal-basis", help="Default legal basis.")] = "",
) -> None:
    """Set the current context's default purpose."""
    from tidegate.client.contexts import Contexts

    with failing():
        contexts = Contexts()
        contexts.set_purpose(contexts.find().name, code, legal_basis)
        say(f"default purpose {code}")
