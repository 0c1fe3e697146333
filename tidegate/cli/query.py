"""``tidegate query``: ask, and see what was filtered, masked or held back."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tidegate.cli import output as out
from tidegate.cli.common import ContextOption, IdentityOption, OutputOption, session
from tidegate.cli.output import Format, err, failing, say
from tidegate.core.errors import Code, error_for
from tidegate.core.limits import QUERY_DEADLINE_S
from tidegate.core.values import Value

if TYPE_CHECKING:
    from tidegate.client.result import Result


def query(
    sql: Annotated[str, typer.Argument(help="One SELECT over department.dataset tables; - reads it from stdin.")],
    purpose: Annotated[
        str | None, typer.Option("--purpose", "-p", help="A registered purpose; default: the context's.")
    ] = None,
    legal_basis: Annotated[str | None, typer.Option(help="A legal basis of that purpose.")] = None,
    param: Annotated[
        list[str] | None, typer.Option("--param", help="name=value for $name, or a value for ? (JSON, else text).")
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Show the plan and run nothing.")] = False,
    deadline: Annotated[float, typer.Option(min=0.1, max=600.0, help="Seconds.")] = QUERY_DEADLINE_S,
    receipt: Annotated[Path | None, typer.Option(help="Folder to save the verified receipts in.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Verify both receipts and the answer's digest.")] = False,
    context: ContextOption = None,
    identity: IdentityOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Ask several departments one question.

    Example: tidegate query "SELECT origin, count(*) FROM aviation.flights GROUP BY origin" --purpose transport.planning
    """
    with failing(), session(context, identity) as exchange:
        text = sys.stdin.read() if sql == "-" else sql
        params = parameters(param or [])
        if explain:
            plan = exchange.explain(text, purpose=purpose, legal_basis=legal_basis, params=params)
            if output is Format.TABLE:
                typer.echo(plan.picture)
            else:
                typer.echo(json.dumps(plan.plan, indent=2, ensure_ascii=False))
            return
        with _progress() as update:
            result = exchange.query(text, purpose=purpose, legal_basis=legal_basis, params=params, deadline_s=deadline)
            table = _read(result, update)
        out.arrow(table, output)
        for line in result.banner():
            say(f"note: {line}")
        if verify or receipt is not None:
            result.verify()
            say(f"verified: receipts {result.receipt.index} and {result.outcome.index}, and the answer's digest")
        if receipt is not None:
            result.receipt.save(receipt / "decision")
            result.outcome.save(receipt / "outcome")
            say(f"receipts saved in {receipt}")
        say(f"{table.num_rows} rows; request {result.request_id}; receipt {result.receipt.index}")


def _read(result: Result, update: Any) -> Any:
    import pyarrow as pa

    reader = result.reader()
    batches = []
    rows = 0
    for batch in reader:
        batches.append(batch)
        rows += batch.num_rows
        update(rows)
    return pa.Table.from_batches(batches, reader.schema)


@contextmanager
def _progress() -> Iterator[Any]:
    """Show rows as they come, on a terminal only."""
    console = err()
    if not console.is_terminal:
        yield lambda rows: None
        return
    with console.status("asking the departments ...") as status:
        yield lambda rows: status.update(f"{rows} rows ...")


def parameters(texts: list[str]) -> list[Value] | dict[str, Value] | None:
    """Read ``--param`` options: all named, or all positional.

    Raises:
        CallerError: CLIENT_INPUT.
    """
    if not texts:
        return None
    named = [text.partition("=") for text in texts]
    if all(name.isidentifier() and equals for name, equals, _ in named):
        return {name: value(text) for name, _, text in named}
    if any(name.isidentifier() and equals for name, equals, _ in named):
        raise error_for(Code.CLIENT_INPUT, "--param: give all parameters by name, or all by position")
    return [value(text) for text in texts]


def value(text: str) -> Value:
    """Read one value: JSON where it is JSON (numbers stay exact), else the text itself."""
    try:
        parsed: Any = json.loads(text, parse_float=Decimal)
    except ValueError:
        return text
    if isinstance(parsed, dict):
        return text
    result: Value = parsed
    return result
