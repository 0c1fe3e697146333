"""``tidegate doctor``: check a running set-up from where you stand, and say what to do about what is wrong."""

from __future__ import annotations

from collections.abc import Callable

import typer

from tidegate.cli.common import ContextOption, IdentityOption, OutputOption
from tidegate.cli.output import Format, records
from tidegate.core.clock import SystemClock
from tidegate.core.errors import Code, Exit, TidegateError, error_for


def doctor(context: ContextOption = None, identity: IdentityOption = None, output: OutputOption = Format.TABLE) -> None:
    """Check certificate, connection, log and purposes; exits with the code of the first thing that is wrong."""
    from tidegate.client.session import Session, open_session
    from tidegate.tlog.checkpoint import open_checkpoint

    rows: list[dict[str, str]] = []
    worst = Exit.OK
    opened: list[Session] = []

    def check(name: str, run: Callable[[], str]) -> bool:
        nonlocal worst
        try:
            rows.append({"check": name, "state": "ok", "detail": run(), "next": ""})
        except TidegateError as error:
            worst = worst or error.info.exit
            rows.append({"check": name, "state": "wrong", "detail": str(error), "next": error.info.next_step})
            return False
        return True

    def certificate() -> str:
        session = open_session(context, identity=identity, purpose=None)
        opened.append(session)
        facts = session.identity.check(SystemClock().now())
        return f"{facts.identity} until {facts.not_after:%Y-%m-%d %H:%M} UTC"

    def connection() -> str:
        seen = opened[0].whoami()
        return f"{opened[0].identity.exchange.callers}, roles: {', '.join(seen['roles']) or 'none'}"

    def log() -> str:
        session = opened[0]
        data, _ = session.transport.checkpoint()
        checkpoint = open_checkpoint(data, session.identity.exchange.log_verifier_key)
        return f"{checkpoint.origin}, {checkpoint.size} entries, signed by the key from joining"

    def purposes() -> str:
        found = opened[0].catalogue.purposes()
        if not found:
            raise error_for(
                Code.POLICY_PURPOSE, "no purpose is registered, so every query is refused; the operator adds one"
            )
        return f"{len(found)} registered"

    if check("certificate", certificate) and check("connection", connection):
        check("log", log)
        check("purposes", purposes)
    for session in opened:
        session.close()
    records(rows, ("check", "state", "detail", "next"), output)
    raise typer.Exit(int(worst))
