"""``tidegate dataset``, ``search``, ``purposes``: what there is, and under which terms."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

import typer

from tidegate.cli.common import ContextOption, IdentityOption, OutputOption, YesOption, new_key, session
from tidegate.cli.output import Format, failing, records, say
from tidegate.core.dataset import Dataset
from tidegate.core.errors import Code, TidegateError, error_for

app = typer.Typer(no_args_is_help=True, help="Datasets in the shared catalogue.")
purposes = typer.Typer(no_args_is_help=True, help="The registry of purposes and legal bases.")
_COLUMNS = ("name", "class", "owner", "rows", "title")


def _row(dataset: Dataset) -> dict[str, Any]:
    return dataset.to_json()


@app.command()
def register(
    contract: Annotated[
        Path | None, typer.Argument(help="ODCS data contract (YAML); left out: everything that your own node holds.")
    ] = None,
    node: Annotated[str, typer.Option(help="Name of the node that holds the data; default: your only one.")] = "",
    context: ContextOption = None,
    identity: IdentityOption = None,
) -> None:
    """Register datasets: from a data contract, or everything that your own node says that it holds. Idempotent."""
    with failing(), session(context, identity) as exchange:
        if contract is not None:
            datasets = [_placed(exchange, _contract(contract), node)]
        else:
            datasets = list(exchange.catalogue.held_by_node(node))
        if not datasets:
            raise error_for(Code.CAT_NOT_FOUND, "register: the node describes no dataset")
        for dataset in datasets:
            say(_register(exchange, dataset))


def _contract(path: Path) -> Dataset:
    """Read a data contract with the reader that tidegate-exchange brings (entry point group ``tidegate.readers``)."""
    found = tuple(entry_points(group="tidegate.readers", name="odcs"))
    if not found:
        message = "register: reading a data contract needs tidegate-exchange; pip install tidegate-exchange"
        raise error_for(Code.CONFIG_INVALID, message)
    dataset: Dataset = found[0].load()(path)
    return dataset


def _placed(exchange: Any, dataset: Dataset, node: str) -> Dataset:
    """Say which node holds the data: the one asked for, the contract's, else the one that answers for this member."""
    if dataset.parts or (dataset.node and not node):
        return dataset
    return replace(dataset, node=node or next((held.node for held in exchange.catalogue.held_by_node()), ""))


def _register(exchange: Any, dataset: Dataset) -> str:
    """Register, or update what is there already; the same description changes nothing."""
    try:
        stored = exchange.catalogue[str(dataset.name)]
    except TidegateError as error:
        if error.code is not Code.CAT_NOT_FOUND:
            raise
        stored, notices = exchange.catalogue.register(dataset)
        return "\n".join([f"registered {stored.name}", *(f"  note: {notice}" for notice in notices)])
    wanted = replace(dataset, version=stored.version)
    if wanted.to_json() == stored.to_json():
        return f"unchanged {stored.name} (version {stored.version})"
    stored = exchange.catalogue.update(wanted)
    return f"updated {stored.name} (version {stored.version})"


@app.command("list")
def list_(
    owner: Annotated[str, typer.Option(help="Only datasets of this member.")] = "",
    context: ContextOption = None,
    identity: IdentityOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """List the datasets that you may know about."""
    with failing(), session(context, identity) as exchange:
        records([_row(item) for item in exchange.catalogue.datasets(owner)], _COLUMNS, output)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="department.dataset")],
    context: ContextOption = None,
    identity: IdentityOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Show one dataset: terms and columns."""
    with failing(), session(context, identity) as exchange:
        dataset = exchange.catalogue[name]
        if output is not Format.TABLE:
            records([_row(dataset)], tuple(_row(dataset)), output)
            return
        facts = {
            "title": dataset.title,
            "description": dataset.description,
            "class": dataset.dataset_class.value,
            "citation": dataset.citation,
            "legal basis": dataset.legal_basis,
            "owner": dataset.owner,
            "subject": dataset.subject_column,
            "rows": dataset.rows,
            "version": dataset.version,
            "parts": [str(part) for part in dataset.parts],
        }
        for key, value in facts.items():
            if value not in ("", None, []):
                say(f"{key:12} {', '.join(value) if isinstance(value, list) else value}")
        columns = _row(dataset)["columns"]
        records(
            columns, ("name", "type", "sensitivity", "element", "distinct", "minimum", "maximum", "description"), output
        )


@app.command()
def withdraw(
    name: Annotated[str, typer.Argument(help="department.dataset")],
    reason: Annotated[str, typer.Option(help="Why; it is recorded.")] = "",
    yes: YesOption = False,
    context: ContextOption = None,
    identity: IdentityOption = None,
) -> None:
    """Withdraw a dataset; nobody can query it any more, its history stays."""
    with failing(), session(context, identity) as exchange:
        if not yes:
            typer.confirm(f"Withdraw {name}?", abort=True, err=True)
        exchange.catalogue.withdraw(name, reason)
        say(f"withdrew {name}")


def search(
    words: Annotated[str, typer.Argument(help="Words to look for, in any script.")] = "",
    column: Annotated[str, typer.Option(help="Only datasets that have a column of this name.")] = "",
    element: Annotated[str, typer.Option(help="Only datasets with this standard data element (person.id).")] = "",
    dataset_class: Annotated[str, typer.Option("--class", help="open, conditional or closed.")] = "",
    owner: Annotated[str, typer.Option(help="Only datasets of this member.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many to show.")] = 20,
    context: ContextOption = None,
    identity: IdentityOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Search the catalogue: by words, column, data element, class, owner; best first."""
    with failing(), session(context, identity) as exchange:
        found = exchange.catalogue.search(
            words, column=column, element=element, dataset_class=dataset_class, owner=owner, limit=limit
        )
        records([_row(item) for item in found], _COLUMNS, output)
        if not found:
            say("nothing found; try fewer or other words")


@purposes.command("list")
def list_purposes(
    context: ContextOption = None, identity: IdentityOption = None, output: OutputOption = Format.TABLE
) -> None:
    """List the registered purposes; every query names one."""
    with failing(), session(context, identity) as exchange:
        records(exchange.catalogue.purposes(), ("code", "title", "legal_bases"), output)


@purposes.command("add")
def add_purpose(
    code: Annotated[str, typer.Argument(help="Dotted lower-case words: transport.planning")],
    title: Annotated[str, typer.Option(help="What it is, in plain words.")] = "",
    legal_basis: Annotated[
        list[str] | None, typer.Option(help="A legal basis of this purpose; may be repeated.")
    ] = None,
    context: ContextOption = None,
    identity: IdentityOption = None,
) -> None:
    """Register a purpose (operator)."""
    with failing(), session(context, identity) as exchange:
        exchange.transport.add_purpose(code, title, legal_basis or [], new_key())
        say(f"purpose {code}")
