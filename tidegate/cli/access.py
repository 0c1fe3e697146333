"""``tidegate access``: agreements, signed by a steward of the owner with the steward's own key."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Annotated, Any

import typer

from tidegate.cli.common import ContextOption, IdentityOption, OutputOption, new_key, session
from tidegate.cli.output import Format, failing, records, say
from tidegate.core.agreement import Agreement
from tidegate.core.canonical import canonical
from tidegate.core.clock import SystemClock, timestamp
from tidegate.core.errors import Code, error_for
from tidegate.core.names import DatasetName

app = typer.Typer(no_args_is_help=True, help="Agreements: who may use which dataset for which purpose.")


@app.command()
def grant(
    dataset: Annotated[str, typer.Argument(help="department.dataset, of your own member.")],
    grantee: Annotated[str, typer.Argument(help="The member that may use it.")],
    purpose: Annotated[list[str], typer.Option("--purpose", "-p", help="A purpose; may be repeated.")],
    column: Annotated[
        list[str] | None, typer.Option("--column", help="A column that may be seen; default: all of them.")
    ] = None,
    mode: Annotated[str, typer.Option(help="rows or aggregate.")] = "rows",
    min_group_size: Annotated[int, typer.Option(min=1, help="For aggregate: distinct subjects in a group.")] = 10,
    row_filter: Annotated[str, typer.Option(help="UCAST filter as JSON; {} means every row.")] = "{}",
    legal_basis: Annotated[
        str, typer.Option(help="Legal basis; default: the only one that is registered for every purpose named.")
    ] = "",
    keys_may_go_to: Annotated[
        list[str] | None,
        typer.Option(
            "--keys-may-go-to",
            help="A member whose node may be given values of these columns, so that it sends only rows that join with them; "
            "may be repeated; '*' for every member. Default: none.",
        ),
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=3660, help="How long it holds.")] = 365,
    context: ContextOption = None,
    identity: IdentityOption = None,
) -> None:
    """Grant access: sign an agreement and send it to the catalogue and to your own node."""
    with failing(), session(context, identity) as exchange:
        from tidegate.identity.documents import sign_document

        found = exchange.catalogue[dataset]
        now = SystemClock().now()
        agreement = Agreement(
            id=new_key(),
            dataset=DatasetName.parse(dataset),
            owner=exchange.identity.spiffe.member,
            grantee=grantee,
            purposes=tuple(purpose),
            legal_basis=legal_basis or _only_basis(exchange.catalogue.purposes(), purpose),
            columns=tuple(column) if column else tuple(item.name for item in found.columns),
            mode=mode,
            min_group_size=min_group_size,
            row_filter=_filter(row_filter),
            issued_at=timestamp(now),
            expires_at=timestamp(now + timedelta(days=days)),
            granted_by=str(exchange.identity.spiffe),
            keys_may_go_to=tuple(keys_may_go_to or ()),
        )
        document = agreement.signed_bytes()
        signature, chain = sign_document(exchange.identity, document)
        at_node = exchange.transport.grant_agreement(document, signature, chain, new_key())
        where = "your node has it" if at_node else "your node gets it when it attaches"
        say(f"granted {dataset} to {grantee} until {agreement.expires_at[:10]}; {where}")
        typer.echo(agreement.id)


def _only_basis(registered: Iterable[Mapping[str, Any]], purposes: Sequence[str]) -> str:
    """Give the one legal basis that all these purposes share; more than one is a choice that a person must make.

    Raises:
        CallerError: CLIENT_INPUT.
    """
    known = {str(item["code"]): set(item["legal_bases"]) for item in registered}
    unknown = [code for code in purposes if code not in known]
    if unknown:
        message = f"--purpose: {', '.join(unknown)} is not registered; see `tidegate purposes list`"
        raise error_for(Code.CLIENT_INPUT, message)
    shared = set.intersection(*(known[code] for code in purposes))
    if len(shared) != 1:
        choice = ", ".join(sorted(shared)) or "none is shared by all purposes; grant them one by one"
        raise error_for(Code.CLIENT_INPUT, f"--legal-basis: name one of: {choice}")
    return str(shared.pop())


def _filter(text: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise error_for(Code.CLIENT_INPUT, "--row-filter: expected a JSON object; {} means every row")
    return data


@app.command("list")
def list_(
    dataset: Annotated[str, typer.Option(help="Only of this dataset.")] = "",
    grantee: Annotated[str, typer.Option(help="Only with this member.")] = "",
    context: ContextOption = None,
    identity: IdentityOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """List the agreements that you may see: as owner, or as grantee."""
    with failing(), session(context, identity) as exchange:
        rows = exchange.transport.agreements(dataset, grantee)
        records(rows, ("id", "dataset", "grantee", "mode", "purposes", "state", "expires_at"), output)


@app.command()
def revoke(
    agreement: Annotated[str, typer.Argument(help="Id of the agreement.")],
    reason: Annotated[str, typer.Option(help="Why; it is recorded.")],
    context: ContextOption = None,
    identity: IdentityOption = None,
) -> None:
    """Revoke an agreement: signed, and it bites on the next request."""
    with failing(), session(context, identity) as exchange:
        from tidegate.identity.documents import sign_document

        document = canonical({"revoke": agreement, "at": timestamp(SystemClock().now()), "reason": reason})
        signature, chain = sign_document(exchange.identity, document)
        at_node = exchange.transport.revoke_agreement(document, signature, chain, new_key())
        say(f"revoked {agreement}; " + ("your node knows" if at_node else "your node hears it when it attaches"))
