"""``tidegate init`` and ``tidegate up``: making an exchange, and running its broker."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from tidegate.cli.output import failing, say


def init(
    folder: Annotated[Path, typer.Argument(help="New folder for the exchange.")],
    exchange: Annotated[str, typer.Option(help="Name of the exchange; the trust domain of every certificate.")],
    host: Annotated[str, typer.Option(help="Name or address under which members reach the broker.")] = "localhost",
    listen: Annotated[str, typer.Option(help="Address to listen on.")] = "0.0.0.0",  # noqa: S104 - a broker is there to be reached
    port: Annotated[int, typer.Option(min=0, max=65_533, help="First of three ports; 0 takes free ones.")] = 7443,
    operator: Annotated[str, typer.Option(help="Member that operates the exchange.")] = "operator",
    database: Annotated[
        str,
        typer.Option(
            help="postgresql://... for several brokers; default: SQLite in FOLDER.", envvar="TIDEGATE_DATABASE"
        ),
    ] = "",
) -> None:
    """Make a new exchange: its CA, audit log, catalogue, configuration, and a join token for its operator.

    Nothing is ever overwritten. Move FOLDER/authority/offline away afterwards: it is the root's key, needed only to make a
    new issuing CA.
    """
    from broker.setup import create_exchange
    from engine import landlock

    with failing():
        token = create_exchange(
            folder, exchange=exchange, host=host, listen=listen, port=port, operator=operator, database=database
        )
        say(f"made exchange {exchange} in {folder}")
        if landlock.abi() == 0:
            say("note: this kernel has no Landlock, so workers run with fewer walls (limits.sandbox in broker.toml)")
        say("next:")
        say(f"  tidegate up {folder}")
        say("  tidegate join TOKEN      (in another terminal, with the operator's token below; it is shown once)")
        say(f"keep {folder / 'authority' / 'offline'} somewhere else: it holds the root's key")
        typer.echo(token)


def up(
    folder: Annotated[Path, typer.Argument(help="The exchange's folder, or its broker.toml.")],
) -> None:
    """Run the broker until it is told to stop (SIGTERM, Ctrl-C); then drain and close."""
    import os

    from broker.app import Broker
    from broker.config import load_config
    from engine.logs import configure_logs

    with failing():
        config = load_config(folder, os.environ)
        configure_logs(config.log_level)
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        broker = Broker(config)
        try:
            exchange = broker.start()
            say(
                f"exchange {exchange.exchange}: callers {exchange.callers}, nodes {exchange.nodes}, "
                f"enrolment {exchange.enrolment}"
            )
            stop.wait()
        finally:
            broker.stop()
