"""``tidegate proxy`` and ``tidegate token``: for tools that cannot present a certificate."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from tidegate.cli.common import ContextOption, IdentityOption, session
from tidegate.cli.output import failing, say
from tidegate.core.errors import Code, error_for

LISTEN = "127.0.0.1:7446"


def proxy(
    listen: Annotated[str, typer.Option(help="Address of the loopback; port 0 takes a free one.")] = LISTEN,
    purpose: Annotated[
        str | None, typer.Option("--purpose", "-p", help="For clients that name none; default: the context's.")
    ] = None,
    legal_basis: Annotated[
        str | None, typer.Option(help="A legal basis of that purpose, for clients that name none.")
    ] = None,
    secret_file: Annotated[
        Path | None,
        typer.Option(help="Keep the secret in this file (mode 0600), so that it stays the same; default: a new one."),
    ] = None,
    no_secret: Annotated[
        bool, typer.Option("--no-secret", help="Let every program of every user of this machine act as you.")
    ] = False,
    tls_certificate: Annotated[
        Path | None, typer.Option(help="Serve TLS, and write the certificate that clients are to trust to this file.")
    ] = None,
    context: ContextOption = None,
    identity: IdentityOption = None,
) -> None:
    """Listen on this machine's loopback and forward to the exchange under your certificate, until told to stop.

    For tools that cannot present a certificate (ODBC, some BI tools): they connect to the printed address with any user and
    the printed secret as the password, or with the secret as a bearer token. It is printed on stdout, once.

    Example: tidegate proxy --purpose transport.planning
    """
    from tidegate.client.contexts import Context, Contexts, with_environment
    from tidegate.client.proxy import secret
    from tidegate.client.proxy.forward import Defaults
    from tidegate.client.proxy.serve import Proxy, Settings

    with failing():
        if no_secret and secret_file is not None:
            raise error_for(Code.CLIENT_INPUT, "proxy: --no-secret and --secret-file exclude each other")
        chosen = with_environment(Context("", Path(identity))) if identity else Contexts().find(context)
        asked = secret.none() if no_secret else secret.made(secret_file)
        if purpose is None:
            defaults = Defaults(chosen.purpose, chosen.legal_basis if legal_basis is None else legal_basis)
        else:  # the context's legal basis is one of its own purpose
            defaults = Defaults(purpose, legal_basis or "")
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        running = Proxy(Settings(listen, chosen.identity, asked, defaults, tls_certificate), say)
        try:
            say(f"proxy for {running.identity.spiffe} at {running.uri}; Ctrl-C ends it")
            say(f"purpose of clients that name none: {defaults.purpose or 'none, so they must name one'}")
            if no_secret:
                say(
                    "warning: no secret is asked for; every program and every user of this machine acts as this identity"
                )
            elif secret_file is not None:
                say(f"the secret is in {secret_file}")
            else:
                say("the secret, shown once: a password for any user, or a bearer token")
                typer.echo(asked.value)
            stop.wait()
        finally:
            running.stop()


def token(
    minutes: Annotated[int, typer.Option(min=1, max=15, help="How long it works.")] = 15,
    context: ContextOption = None,
    identity: IdentityOption = None,
) -> None:
    """Print a bearer token for you, a person, where the exchange has a listener for such tokens.

    Whoever holds the token acts as you until it ends, on the datasets whose owners marked them for it; `tidegate proxy` needs
    no such mark. Send it as `authorization: Bearer TOKEN`.

    Example: tidegate token --minutes 5
    """
    with failing(), session(context, identity) as exchange:
        text, expires_at, address = exchange.transport.issue_token(minutes * 60)
        say(f"a token for {address}, until {expires_at}; it is shown once:")
        typer.echo(text)
