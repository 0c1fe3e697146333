"""``tidegate connection-options``: what another tool has to be told to reach the exchange under this identity."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tidegate.cli.common import ContextOption, IdentityOption
from tidegate.cli.output import failing, lines, say

if TYPE_CHECKING:
    from tidegate.client.tools import ToolOptions


class TextOrJson(StrEnum):
    """Formats of this verb."""

    TEXT = "text"
    JSON = "json"


def connection_options(
    purpose: Annotated[
        str | None, typer.Option("--purpose", "-p", help="A registered purpose; default: the context's.")
    ] = None,
    legal_basis: Annotated[str | None, typer.Option(help="A legal basis of that purpose.")] = None,
    context: ContextOption = None,
    identity: IdentityOption = None,
    output: Annotated[TextOrJson, typer.Option("--output", "-o", help="Format on stdout.")] = TextOrJson.TEXT,
) -> None:
    """Print what ADBC, JDBC and other tools need: address, files, call headers. Renews the certificate when it is due.

    Names files and never prints a key. The tool reads the files itself, as you, whenever it connects.

    Example: tidegate connection-options --purpose transport.planning -o json
    """
    from tidegate.client.contexts import Context, Contexts, with_environment
    from tidegate.client.tools import tool_options, write_ca
    from tidegate.identity.folder import IdentityFolder
    from tidegate.identity.joining import renew_if_due

    with failing():
        chosen = with_environment(Context("", Path(identity))) if identity else Contexts().find(context)
        local = renew_if_due(IdentityFolder(chosen.identity))
        options = tool_options(
            chosen.identity,
            local,
            purpose=chosen.purpose if purpose is None else purpose,
            legal_basis=chosen.legal_basis if legal_basis is None else legal_basis,
        )
        write_ca(options, local)
        if output is TextOrJson.JSON:
            lines(json.dumps(options.to_json(), indent=2))
        else:
            lines(as_text(options))
        say(
            f"certificate until {options.not_after:%Y-%m-%d %H:%M} UTC; run this again, or any query, to renew it in time"
        )
        if not options.headers:
            say("no purpose: the tool has to send the header x-tidegate-purpose itself; or give --purpose")


def as_text(options: ToolOptions) -> str:
    """Give the options for a person, tool by tool."""
    document = options.to_json()
    adbc, jdbc = document["adbc"], document["jdbc"]
    pairs = [
        ("exchange", options.exchange),
        ("address", options.address),
        ("certificate", f"{options.certificate}  (PEM, with the issuing CA's)"),
        ("key", f"{options.key}  (PEM, the same file: private, never copy it)"),
        ("root CA", f"{options.ca}  (PEM, public)"),
        *((f"header {name}", value) for name, value in options.headers.items()),
        None,
        ("ADBC uri", adbc["uri"]),
        *((name, f"content of {file}") for name, file in adbc["options_from_files"].items()),
        *((name, value) for name, value in adbc["options"].items()),
        None,
        ("JDBC url", jdbc["url"]),
        ("JDBC driver", f"{jdbc['maven']} (Maven), class {jdbc['class']}"),
        ("Java option", jdbc["jvm"]),
        None,
        ("ODBC", "its driver shows no certificate: run `tidegate proxy`"),
    ]
    width = max(len(pair[0]) for pair in pairs if pair)
    return "\n".join("" if pair is None else f"{pair[0]:{width}}  {pair[1]}" for pair in pairs)
