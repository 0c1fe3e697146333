"""``tidegate member``: who takes part. The operator's role is needed."""

from __future__ import annotations

from typing import Annotated

import typer

from tidegate.cli.common import ContextOption, IdentityOption, OutputOption, YesOption, new_key, session
from tidegate.cli.output import Format, failing, records, say
from tidegate.core.errors import Code, error_for
from tidegate.core.names import member_name

app = typer.Typer(no_args_is_help=True, help="Members, their identities, roles and certificates.")


@app.command()
def add(
    member: Annotated[str, typer.Argument(help="Name of the member: health, transport, telco_a ...")],
    kind: Annotated[str, typer.Option(help="What joins: service, person or node.")] = "service",
    name: Annotated[str, typer.Option(help="Name of the service, person or node.")] = "main",
    title: Annotated[str, typer.Option(help="The member's full name.")] = "",
    tier: Annotated[str, typer.Option(help="government or external.")] = "government",
    role: Annotated[
        list[str] | None, typer.Option(help="analyst, steward, auditor, operator; may be repeated.")
    ] = None,
    clearance: Annotated[str, typer.Option(help="public, internal, restricted or secret.")] = "internal",
    context: ContextOption = None,
    identity: IdentityOption = None,
) -> None:
    """Prepare an identity of a member and print its one-time join token (24 hours)."""
    with failing(), session(context, identity) as exchange:
        member_name(member)  # said here, for the exchange could only say that some identity is not of its form
        fields = {
            "member": member,
            "title": title,
            "tier": tier,
            "kind": kind,
            "name": name,
            "roles": role or [],
            "clearance": clearance,
        }
        token, spiffe, expires_at = exchange.transport.add_member(fields, new_key())
        say(f"{spiffe} may join until {expires_at}; give it this token, by a way that you trust:")
        typer.echo(token)


@app.command("list")
def list_(context: ContextOption = None, identity: IdentityOption = None, output: OutputOption = Format.TABLE) -> None:
    """List members with their identities."""
    with failing(), session(context, identity) as exchange:
        rows = [
            {
                "member": member["name"],
                "tier": member["tier"],
                "attached": member["attached"],
                "identity": item["spiffe_id"],
                "roles": item["roles"],
                "clearance": item["clearance"],
                "revoked": member["revoked"] or item["revoked"],
                "until": item["not_after"],
            }
            for member in exchange.transport.members()
            for item in member["identities"]
            or [{"spiffe_id": "", "roles": [], "clearance": "", "revoked": False, "not_after": ""}]
        ]
        records(rows, ("member", "tier", "attached", "identity", "roles", "clearance", "revoked", "until"), output)


@app.command()
def revoke(
    member: Annotated[str, typer.Argument(help="Member to revoke; or use --only-identity or --serial.")] = "",
    only_identity: Annotated[str, typer.Option(help="Revoke one identity (SPIFFE id).")] = "",
    serial: Annotated[str, typer.Option(help="Revoke one certificate (hexadecimal serial).")] = "",
    reason: Annotated[str, typer.Option(help="Why; it is recorded.")] = "",
    yes: YesOption = False,
    context: ContextOption = None,
    identity: IdentityOption = None,
) -> None:
    """Revoke a member, an identity or a certificate; open streams end within a second."""
    with failing(), session(context, identity) as exchange:
        named = [item for item in (member, only_identity, serial) if item]
        if len(named) != 1:
            raise error_for(Code.CLIENT_INPUT, "revoke: name one member, or one --only-identity, or one --serial")
        what = named[0]
        if not yes:
            typer.confirm(f"Revoke {what}?", abort=True, err=True)
        exchange.transport.revoke(member=member, identity=only_identity, serial=serial, reason=reason, key=new_key())
        say(f"revoked {what}")


@app.command()
def role(
    who: Annotated[str, typer.Argument(help="Identity (SPIFFE id).")],
    role: Annotated[list[str] | None, typer.Option(help="A role that it has from now on; may be repeated.")] = None,
    clearance: Annotated[str, typer.Option(help="public, internal, restricted or secret.")] = "internal",
    context: ContextOption = None,
    identity: IdentityOption = None,
) -> None:
    """Set the roles and the clearance of an identity; a role that is not named is lost."""
    with failing(), session(context, identity) as exchange:
        exchange.transport.set_roles(who, role or [], clearance, new_key())
        say(f"{who}: roles {', '.join(role or []) or 'none'}, clearance {clearance}")
