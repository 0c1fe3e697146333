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
from tidegate.cli.common import ContextOption, IdentityOption, session
from tidegate.cli.output import Format, err, failing, say, shows_progress
from tidegate.client.explained import explained
from tidegate.client.explained import table as table_of
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.limits import QUERY_DEADLINE_S
from tidegate.core.values import Value

if TYPE_CHECKING:
    from tidegate.client.facts import ExplainedFacts
    from tidegate.client.result import Result
    from tidegate.client.session import Session


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
    analyze: Annotated[
        bool,
        typer.Option("--analyze", help="Run it, throw its rows away at the broker, show the plan and what it cost."),
    ] = False,
    deadline: Annotated[float, typer.Option(min=0.1, max=600.0, help="Seconds.")] = QUERY_DEADLINE_S,
    receipt: Annotated[
        Path | None, typer.Option(help="New folder to save the answer's bytes and the verified receipts in.")
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Verify both receipts and the answer's digest.")] = False,
    context: ContextOption = None,
    identity: IdentityOption = None,
    output: Annotated[
        Format | None,
        typer.Option("--output", "-o", help="Format of the data on stdout; default: a table, and a picture of a plan."),
    ] = None,
) -> None:
    """Ask several departments one question.

    The answer goes to stdout; what was filtered, masked or held back, and the receipt, to stderr. Nothing is printed before the
    answer has come to its end and its digest fits.

    Example: tidegate query "SELECT origin, count(*) FROM aviation.flights GROUP BY origin" --purpose transport.planning
    """
    with failing(), session(context, identity) as exchange:
        text = _stdin() if sql == "-" else sql
        params = parameters(param or [])
        if explain or analyze or explained(text) is not None:
            if verify or receipt is not None:
                raise error_for(
                    Code.CLIENT_INPUT, "EXPLAIN: there is no answer to keep or verify; leave out --receipt, --verify"
                )
            plan = exchange.explain(
                text, purpose=purpose, legal_basis=legal_basis, params=params, analyze=analyze, deadline_s=deadline
            )
            _explain(plan, output)
            return
        try:
            with _progress() as update:
                result = exchange.query(
                    text, purpose=purpose, legal_basis=legal_basis, params=params, deadline_s=deadline, keep=receipt
                )
                table = _read(result, update)
        except TidegateError as error:
            if error.receipt and (verify or receipt is not None):
                _refusal(exchange, error, receipt)
            raise
        out.arrow(table, output or Format.TABLE)
        for line in result.banner():
            say(f"note: {line}")
        if verify or receipt is not None:
            result.verify()
            say(f"verified: receipts {result.receipt.index} and {result.outcome.index}, and the answer's digest")
        if receipt is not None:
            result.save()
            say(f"receipts and answer saved; anybody can check them offline: tidegate receipt verify {receipt}")
        say(f"{table.num_rows} rows; request {result.request_id}; receipt {result.receipt.index}")


def _refusal(exchange: Session, error: TidegateError, folder: Path | None) -> None:
    """Verify the receipt of a refusal, and keep it: that nothing was given is worth a proof too."""
    from tidegate.client.receipts import save_note

    verified = exchange.verify_refusal(error)
    say(f"verified: the refusal is entry {verified.index} of the log")
    if folder is not None:
        save_note(folder / "refusal", error.receipt, verified)
        say(f"receipt saved in {folder / 'refusal'}")


def _stdin() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise error_for(Code.CLIENT_INPUT, "stdin: expected SQL as UTF-8 text") from error


def _explain(plan: ExplainedFacts, output: Format | None) -> None:
    """Show a plan: as a picture, as JSON with everything in it, or as a table of its fragments in any other format."""
    match output:
        case None:
            out.lines(plan.picture)
        case Format.JSON:
            out.lines(json.dumps(plan.plan, indent=2))
        case _:
            table = table_of(plan.plan)
            if output is Format.TABLE:  # on a screen, what is empty everywhere takes the room of the rest
                table = table.select([name for name in table.column_names if table[name].null_count < table.num_rows])
            out.arrow(table, output)
    if plan.outcome is None:
        say(f"nothing was run; request {plan.request_id}; receipt {plan.receipt.index}")
    else:
        say(
            f"it was run, and its rows were thrown away; request {plan.request_id}; "
            f"receipts {plan.receipt.index} and {plan.outcome.index}"
        )


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
    if not shows_progress(console):
        yield lambda rows: None
        return
    with console.status("asking the departments ...") as status:
        yield lambda rows: status.update(f"{rows} rows ...")


def parameters(texts: list[str]) -> list[Value] | dict[str, Value] | None:
    """Read ``--param`` options: all named, or all positional. A positional text such as ``a=b`` is given as JSON: ``"a=b"``.

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
    except (ValueError, RecursionError):
        return text
    if isinstance(parsed, dict):
        return text
    result: Value = parsed
    return result
