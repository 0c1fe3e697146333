"""``tidegate node``: serve the department's data, and show how the node is doing."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from tidegate.cli.output import Format, failing, records, say

app = typer.Typer(no_args_is_help=True, help="The department's own gate: serve data to the exchange.")

ConfigArgument = Annotated[Path, typer.Argument(help="The node's TOML file, or the folder that holds node.toml.")]
CONFIG_FILE = "node.toml"


@app.command()
def serve(config: ConfigArgument = Path(CONFIG_FILE)) -> None:
    """Attach to the exchange and serve until told to stop (SIGTERM, Ctrl-C); then finish what is under way and close."""
    import os

    from engine.logs import configure_logs
    from node.app import Node
    from node.config import load_config

    with failing():
        loaded = load_config(_file(config), os.environ)
        configure_logs(loaded.log_level)
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        node = Node(loaded)
        try:
            node.start()
            say(f"node serves {len(loaded.datasets)} datasets; `tidegate node status` shows its links")
            stop.wait()
        finally:
            node.stop()


@app.command()
def status(
    config: ConfigArgument = Path(CONFIG_FILE),
    output: Annotated[Format, typer.Option("--output", "-o", help="Form of the output.")] = Format.TABLE,
) -> None:
    """Show the links of the node that serves from this configuration, and what it serves."""
    import os

    from node.config import load_config
    from node.status import read_status

    with failing():
        found = read_status(load_config(_file(config), os.environ).state)
        say(
            f"{found['node']}: pid {found['pid']}, certificate until {found['certificate_not_after']}, "
            f"{found['log_entries']} log entries, {found['agreements']} agreements"
        )
        datasets = found["datasets"]
        say(f"datasets: {', '.join(str(item['name']) for item in datasets) or 'none'}")
        copies = [item for item in datasets if "as_of" in item]
        if copies:
            records(copies, ("name", "as_of", "refresh", "promise", "stale", "bytes", "problem"), output)
        records(found["brokers"], ("address", "attached", "broker", "since", "sessions", "problem"), output)


def _file(config: Path) -> Path:
    return config / CONFIG_FILE if config.is_dir() else config
