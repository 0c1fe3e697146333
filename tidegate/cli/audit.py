"""``tidegate audit`` and ``receipt``: search the log, verify it, prove an entry; trust nobody."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from tidegate.cli.common import ContextOption, IdentityOption, OutputOption, session
from tidegate.cli.output import Format, err, failing, records, say, shows_progress
from tidegate.core.errors import Code, error_for

app = typer.Typer(no_args_is_help=True, help="The log that nobody can rewrite, and that anybody can check.")
receipts = typer.Typer(no_args_is_help=True, help="Receipts that were saved with `tidegate query --receipt`.")
_COLUMNS = ("index", "time", "type", "member", "purpose", "datasets", "reason", "request")


@app.command()
def search(
    type_: Annotated[str, typer.Option("--type", help="decision, refusal, outcome, orphan, admin ...")] = "",
    member: Annotated[str, typer.Option(help="Only requests of this member.")] = "",
    dataset: Annotated[str, typer.Option(help="Only this dataset.")] = "",
    purpose: Annotated[str, typer.Option(help="Only this purpose.")] = "",
    legal_basis: Annotated[str, typer.Option(help="Only this legal basis.")] = "",
    reason: Annotated[str, typer.Option(help="Only refusals with this reason code.")] = "",
    request: Annotated[str, typer.Option(help="Only this request id.")] = "",
    since: Annotated[str, typer.Option(help="From this time on (RFC 3339).")] = "",
    until: Annotated[str, typer.Option(help="Before this time (RFC 3339).")] = "",
    side: Annotated[bool, typer.Option("--side", help="With SQL text and names, where they were not erased.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many entries.")] = 50,
    context: ContextOption = None,
    identity: IdentityOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Search the log (auditor's role); the search is itself recorded."""
    fields = {
        "type": type_,
        "member": member,
        "dataset": dataset,
        "purpose": purpose,
        "legal_basis": legal_basis,
        "reason": reason,
        "request_id": request,
        "since": since,
        "until": until,
        "page_size": limit,
        "with_side": side,
    }
    with failing(), session(context, identity) as exchange:
        found, more = _search(exchange, fields, limit)
        if output is Format.TABLE:
            records([_line(item) for item in found], _COLUMNS, output)
            if side:
                for item in found:
                    if item["side"]:
                        say(f"{item['index']}: {json.dumps(item['side'], ensure_ascii=False)}")
        else:
            records(found, ("index", "entry", "side"), output)
        if more:
            say("there are more; narrow the search or raise --limit")


def _search(exchange: Any, fields: dict[str, Any], limit: int) -> tuple[list[dict[str, Any]], bool]:
    """Search page after page (a page is cut where a message would grow too large); say whether there is more."""
    found, token = exchange.transport.audit_search(fields)
    while token and len(found) < limit:
        page, token = exchange.transport.audit_search({**fields, "page_size": limit - len(found), "page_token": token})
        found += page
    return found, bool(token)


def _line(item: dict[str, Any]) -> dict[str, Any]:
    entry = item["entry"]
    return {
        "index": item["index"],
        "time": str(entry.get("ts", ""))[:19],
        "type": entry.get("type", ""),
        "member": entry.get("member", ""),
        "purpose": entry.get("purpose", ""),
        "datasets": [named["name"] for named in entry.get("datasets", []) if isinstance(named, dict)],
        "reason": entry.get("reasons") or entry.get("error") or " ".join(_change(entry)),
        "request": str(entry.get("request_id", ""))[:8],
    }


def _change(entry: dict[str, Any]) -> Iterator[str]:
    """Say in words what an administrative entry did: kind, action, and what it was about."""
    for key in ("kind", "action", "subject"):
        if entry.get(key):
            yield str(entry[key])


@app.command()
def verify(
    folder: Annotated[
        Path | None, typer.Argument(help="A log's folder (with checkpoint and tile/); left out: the exchange's log.")
    ] = None,
    key: Annotated[str, typer.Option(help="Verifier key of the log; default: the one from joining.")] = "",
    context: ContextOption = None,
    identity: IdentityOption = None,
) -> None:
    """Verify a whole log: signature, every entry, every tile re-derived."""
    from tidegate.tlog.verify import folder_source, verify_log

    with failing():
        if folder is not None:
            verifier = key or _verifier_key(context, identity)
            source = folder_source(folder)
            verified = _with_progress(lambda progress: verify_log(source, verifier, progress=progress))
        else:
            with session(context, identity) as exchange:
                verifier = key or exchange.identity.exchange.log_verifier_key
                read = _remote(exchange)
                verified = _with_progress(lambda progress: verify_log(read, verifier, progress=progress))
        say(f"verified: {verified.origin}")
        typer.echo(
            json.dumps(
                {"origin": verified.origin, "size": verified.size, "root": verified.root.hex(), "tiles": verified.tiles}
            )
        )


def _with_progress(run: Any) -> Any:
    console = err()
    if not shows_progress(console):
        return run(None)
    with console.status("verifying ...") as status:
        return run(lambda done, total: status.update(f"verifying: {done} of {total} entries"))


def _remote(exchange: Any) -> Any:
    """Read the exchange's log over the wire: the entries need the auditor's role."""
    checkpoint, _ = exchange.transport.checkpoint()
    return lambda path: checkpoint if path == "checkpoint" else exchange.transport.tile(path)


@app.command()
def prove(
    index: Annotated[int, typer.Argument(min=0, help="Index of the entry.")],
    file: Annotated[Path, typer.Argument(help="Where to write the .tlog-proof.")],
    context: ContextOption = None,
    identity: IdentityOption = None,
) -> None:
    """Write the inclusion proof of an entry, which verifies offline with any C2SP tlog-proof verifier."""
    with failing(), session(context, identity) as exchange:
        file.write_bytes(exchange.transport.prove(index))
        say(f"proof of entry {index} written to {file}")


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="Folder to write checkpoint, tiles and the verifier key to.")],
    context: ContextOption = None,
    identity: IdentityOption = None,
) -> None:
    """Copy the whole log, verified while it is copied, so that others can verify it without the exchange."""
    from tidegate.tlog.verify import verify_log

    with failing(), session(context, identity) as exchange:
        if folder.exists() and any(folder.iterdir()):
            raise error_for(Code.CLIENT_INPUT, "export: the folder is not empty")
        read = _remote(exchange)
        verifier = exchange.identity.exchange.log_verifier_key

        def keep(path: str) -> bytes:
            data: bytes = read(path)
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
            return data

        verified = _with_progress(lambda progress: verify_log(keep, verifier, progress=progress))
        (folder / "log.vkey").write_text(verifier + "\n", encoding="utf-8")
        say(f"exported {verified.size} entries of {verified.origin} to {folder}; verify with:")
        say(f"  tidegate audit verify {folder} --key '{verifier}'")


@receipts.command("verify")
def verify_receipt(
    folder: Annotated[
        Path,
        typer.Argument(help="What `tidegate query --receipt` saved, or one receipt's folder (decision/, outcome/)."),
    ],
    key: Annotated[str, typer.Option(help="Verifier key of the log; default: the one from joining.")] = "",
    context: ContextOption = None,
    identity: IdentityOption = None,
) -> None:
    """Verify a saved receipt, or a saved answer with both of its receipts, offline: nothing but the folder is needed."""
    from tidegate.client.evidence import ANSWER, verify_evidence
    from tidegate.client.receipts import verify_saved

    with failing():
        verifier = key or _verifier_key(context, identity)
        if (folder / ANSWER).exists() or (folder / "decision").exists():
            answer = verify_evidence(folder, verifier)
            say(f"verified: the answer is the one that entry {answer.outcome.index} of the log commits to")
            say(f"verified: it was decided in entry {answer.decision.index}; request {answer.request_id}")
        else:
            verified = verify_saved(folder, verifier)
            say(
                f"verified: entry {verified.index}, promised at {verified.time}, is in the log of "
                f"{verified.tree_size} entries"
            )


def _verifier_key(context: str | None, identity: str | None) -> str:
    """Give the log's verifier key from joining; needs no connection."""
    from tidegate.client.contexts import Contexts
    from tidegate.identity.folder import IdentityFolder

    folder = Path(identity) if identity else Contexts().find(context).identity
    return IdentityFolder(folder).load().exchange.log_verifier_key
