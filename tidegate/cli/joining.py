"""``tidegate join``, ``renew``, ``whoami``: becoming and staying a member."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tidegate.cli.common import ContextOption, IdentityOption, OutputOption, session
from tidegate.cli.output import Format, failing, records, say


def join(
    token: Annotated[str, typer.Argument(help="The one-time token that the operator's `tidegate member add` printed.")],
    folder: Annotated[
        Path | None, typer.Option("--identity", help="Where to keep key and certificate; default: a new context.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the context; default: the folder's name, else `exchange`.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace an identity that lies there already.")] = False,
) -> None:
    """Join an exchange: make a key here, have it certified, remember the exchange.

    The private key never leaves this machine. The token holds the fingerprint of the exchange's CA, so nobody between can
    pretend to be the exchange.
    """
    from tidegate.client.contexts import Contexts
    from tidegate.identity.folder import IdentityFolder
    from tidegate.identity.joining import join as join_exchange

    with failing():
        contexts = Contexts()
        chosen = name or (folder.resolve().name if folder else "") or "exchange"
        default = contexts.folder(chosen)  # refuses a bad name before the token is spent
        place = folder or default
        identity = join_exchange(token, IdentityFolder(place), replace=replace)
        contexts.add(chosen, place.resolve(), make_current=folder is None)
        say(f"joined {identity.exchange.exchange} as {identity.spiffe}")
        say(
            f"certificate until {identity.facts.not_after:%Y-%m-%d %H:%M} UTC; it is renewed by itself while it is used"
        )
        say(f"context {chosen}; try: tidegate whoami" + ("" if folder is None else f" --context {chosen}"))


def renew(context: ContextOption = None, identity: IdentityOption = None) -> None:
    """Renew the certificate now; also works for 30 days after it has ended."""
    from tidegate.client.contexts import Contexts
    from tidegate.core.clock import SystemClock
    from tidegate.identity.folder import IdentityFolder
    from tidegate.identity.joining import renew_expired

    with failing():
        folder = IdentityFolder(Path(identity) if identity else Contexts().find(context).identity)
        renewed = renew_expired(folder.load(), SystemClock().now())
        folder.save(renewed)
        say(f"certificate until {renewed.facts.not_after:%Y-%m-%d %H:%M} UTC")


def whoami(context: ContextOption = None, identity: IdentityOption = None, output: OutputOption = Format.TABLE) -> None:
    """Say how the exchange sees you: identity, roles, clearance."""
    with failing(), session(context, identity) as exchange:
        seen = exchange.whoami()
        fields = ("identity", "roles", "clearance", "tier", "not_after")
        if output is Format.TABLE:
            records([{"field": key, "value": seen[key]} for key in fields], ("field", "value"), output)
        else:
            records([seen], fields, output)
