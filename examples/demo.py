"""The demo: four departments, one catalogue, federated questions, receipts, and an auditor; nothing in it is a mock-up.

Run it with ``scripts/demo``. ``--keep`` leaves the exchange running; ``--json FILE`` writes a summary and, beside it, the
evidence that the summary names: the log, the receipts, the answers.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table

from examples.departments import OVERLAY, Department, departments
from examples.local import LocalExchange, StartError
from examples.nycflights import DataError, tables
from examples.postgres import PostgresError, postgres_server
from examples.questions import QUESTIONS, REFUSED, Question
from tidegate.client.receipts import save_note
from tidegate.client.session import Session
from tidegate.core.agreement import Agreement
from tidegate.core.clock import SystemClock, SystemIds, timestamp
from tidegate.core.dataset import Dataset
from tidegate.core.errors import TidegateError
from tidegate.identity.documents import sign_document
from tidegate.tlog.verify import folder_source, verify_log

PURPOSES = (
    ("research.statistics", "Statistics and research in the public interest", "statistics.act.5"),
    ("operations.planning", "Planning of public operations", "city.charter.12"),
)
ANALYST = ("city", "planning")
AUDITOR = ("audit_office", "auditor")
ROWS_SHOWN = 12
# The broker holds the overlay as a hint, so that it can say before asking what will be filtered; in force is the node's.
BROKER = {"policy": {"overlays": [str(OVERLAY)]}}


class Demo:
    """One run of the demo."""

    def __init__(self, exchange: LocalExchange, evidence: Path, console: Console, *, postgres_url: str | None) -> None:
        self._exchange = exchange
        self._evidence = evidence
        self._console = console
        self._postgres_url = postgres_url
        self.summary: dict[str, Any] = {"queries": [], "refusals": []}

    def run(self) -> None:
        """Do everything, in the order in which a city would."""
        started = time.monotonic()
        files = tables()
        self._step("Making the exchange: its CA, its log, its catalogue")
        self._exchange.start()
        self.open(files)
        self._console.print(f"  up in {time.monotonic() - started:.1f} s")
        analyst = self._exchange.session(*ANALYST)
        self._show_catalogue(analyst)
        for question in QUESTIONS:
            self._ask(analyst, question)
        self._refuse(analyst, REFUSED)
        self._audit()

    # the exchange

    def open(self, files: dict[str, Path]) -> None:
        """Let the departments join, register what they hold, and sign the agreements."""
        exchange = self._exchange
        held = departments(files, exchange.folder / "data", self._postgres_url)
        self._step("Four departments join, each with a node that dials out; no department opens a port")
        operator = exchange.operator()
        for code, title, legal_basis in PURPOSES:
            operator.transport.add_purpose(code, title, [legal_basis], SystemIds().request_id())
        for department in held:
            self._join_department(department)
        exchange.join(*ANALYST, roles=["analyst"], title="City Planning Office")
        exchange.join(*AUDITOR, kind="person", roles=["auditor"], title="Court of Audit")
        exchange.wait_attached([department.member for department in held])
        self._step("Each steward registers what the own node holds, and signs the agreements")
        for department in held:
            steward = exchange.session(department.member, "steward")
            for dataset in steward.catalogue.held_by_node():
                steward.catalogue.register(dataset)
        self._agree("aviation", "aviation.flights", "research.statistics", "rows")
        self._agree("aviation", "aviation.flights", "operations.planning", "rows")
        self._agree("registry", "registry.planes", "research.statistics", "aggregate")
        self.summary["members"] = sorted(item["name"] for item in operator.transport.members())

    def _join_department(self, department: Department) -> None:
        exchange, member = self._exchange, department.member
        exchange.join(member, "node1", kind="node", title=department.title)
        exchange.join(member, "steward", kind="person", roles=["steward"])
        exchange.start_node(
            member, department.datasets, settings=department.settings, environment=department.environment
        )
        kinds = ", ".join(f"{item['name']} ({item['source']})" for item in department.datasets)
        self._console.print(f"  [bold]{department.title}[/]  {kinds}")

    def _agree(self, owner: str, dataset: str, purpose: str, mode: str) -> None:
        steward = self._exchange.session(owner, "steward")
        described: Dataset = steward.catalogue[dataset]
        now = SystemClock().now()
        agreement = Agreement(
            id=SystemIds().request_id(),
            dataset=described.name,
            owner=owner,
            grantee=ANALYST[0],
            purposes=(purpose,),
            legal_basis=next(basis for code, _, basis in PURPOSES if code == purpose),
            columns=tuple(column.name for column in described.columns),
            mode=mode,
            min_group_size=10,
            row_filter={},
            issued_at=timestamp(now),
            expires_at=timestamp(now.replace(year=now.year + 1)),
            granted_by=str(steward.identity.spiffe),
        )
        document = agreement.signed_bytes()
        at_node = steward.transport.grant_agreement(
            document, *sign_document(steward.identity, document), SystemIds().request_id()
        )
        where = "stored at the owner's node" if at_node else "on its way to the owner's node"
        self._console.print(f"  {dataset} for {ANALYST[0]}, purpose {purpose}, mode {mode}: signed, {where}")

    # the questions

    def _show_catalogue(self, analyst: Session) -> None:
        self._step("What the analyst finds in the shared catalogue")
        found = list(analyst.catalogue)
        table = Table("dataset", "class", "rows", "title", show_edge=False)
        for dataset in found:
            table.add_row(str(dataset.name), dataset.dataset_class.value, f"{dataset.rows or 0:,}", dataset.title)
        self._console.print(table)
        self.summary["datasets"] = [str(dataset.name) for dataset in found]

    def _ask(self, analyst: Session, question: Question) -> None:
        self._headline(question)
        started = time.monotonic()
        folder = self._evidence / f"query-{len(self.summary['queries']) + 1}"
        result = analyst.query(question.sql, purpose=question.purpose, keep=folder)
        answer = result.to_arrow()
        elapsed_ms = (time.monotonic() - started) * 1000
        for item in result.disclosure["departments"]:
            self._console.print(f"  asked [bold]{item['member']}[/]: {_short(item['asked'])}", highlight=False)
        for line in result.banner() or ["nothing was filtered, masked or held back"]:
            self._console.print(f"  rule  {line}", highlight=False)
        for reason in result.disclosure["reasons"]:
            self._console.print(f"  why   {reason['text']}", highlight=False)
        self._console.print(_table(answer))
        result.verify()
        receipt = result.receipt
        self._console.print(
            f"  {answer.num_rows} rows in {elapsed_ms:.0f} ms; receipts {receipt.index} and {result.outcome.index} verified: "
            "signed, of this request, in the log, and of these very bytes",
            style="green",
        )
        result.save()
        pq.write_table(answer, folder / "answer.parquet", write_page_checksum=True)
        self.summary["queries"].append(
            {
                "title": question.title,
                "sql": question.sql.strip(),
                "purpose": question.purpose,
                "departments": sorted({item["member"] for item in result.disclosure["departments"]}),
                "rows": answer.num_rows,
                "receipt_verified": True,
                "rules": result.banner(),
                "reasons": [reason["code"] for reason in result.disclosure["reasons"]],
                "request_id": result.request_id,
                "evidence": str(folder),  # the answer's very bytes beside both receipts: `tidegate receipt verify`
                "result_file": str(folder / "answer.parquet"),
                "result_digest": result.finished.result_digest,
                "result_digest_salt": result.finished.digest_nonce,
                "receipts": {"decision": str(folder / "decision"), "outcome": str(folder / "outcome")},
            }
        )

    def _refuse(self, analyst: Session, question: Question) -> None:
        self._headline(question)
        try:
            analyst.query(question.sql, purpose=question.purpose).to_arrow()
        except TidegateError as error:
            refusal = error
        else:
            raise SystemExit("the demo's refused question was answered; this must never happen")
        self._console.print(f"  refused: {refusal}", style="red", highlight=False)
        for reason in refusal.reasons:
            self._console.print(f"  why      {reason.code}: {reason.text}", highlight=False)
            if reason.ask_for:
                self._console.print(f"  ask for  {reason.ask_for}", highlight=False)
            if reason.decided_by:
                self._console.print(f"  decided  by {reason.decided_by}", highlight=False)
        verified = analyst.verify_refusal(refusal)
        folder = self._evidence / f"refusal-{len(self.summary['refusals']) + 1}"
        save_note(folder, refusal.receipt, verified)
        self._console.print(
            f"  receipt {verified.index} verified: signed, and the refusal is in the log", style="green"
        )
        self.summary["refusals"].append(
            {
                "sql": question.sql.strip(),
                "purpose": question.purpose,
                "code": refusal.code.value,
                "receipt_verified": True,
                "receipt": str(folder),
                "reasons": [reason.code for reason in refusal.reasons],
                "request_id": refusal.request_id,
            }
        )

    # the auditor

    def _audit(self) -> None:
        self._step("The auditor searches the log (the search is recorded too) and verifies all of it")
        auditor = self._exchange.session(*AUDITOR)
        found, _ = auditor.transport.audit_search({"member": ANALYST[0], "page_size": 100})
        table = Table("entry", "time", "type", "purpose", "datasets", "what", show_edge=False)
        for item in reversed(found):
            table.add_row(*_entry_row(item))
        self._console.print(table)
        self._export(auditor)
        verified = verify_log(
            folder_source(self._evidence / "log"), auditor.identity.exchange.log_verifier_key, progress=None
        )
        self._console.print(
            f"  verified: every one of {verified.size} entries, {verified.tiles} tiles, the signed checkpoint of "
            f"{verified.origin}",
            style="green",
        )
        self.summary |= {
            "audit_entries": verified.size,
            "audit_verified": True,
            "audit_found": len(found),
            "log_folder": str(self._evidence / "log"),
            "log_verifier_key": auditor.identity.exchange.log_verifier_key,
            "data_files": {name: str(path) for name, path in tables().items()},
        }

    def _export(self, auditor: Session) -> None:
        """Copy the log as the auditor's `tidegate audit export` does: read over the wire, verified on the way."""
        folder = self._evidence / "log"
        checkpoint, _ = auditor.transport.checkpoint()

        def keep(path: str) -> bytes:
            data = checkpoint if path == "checkpoint" else auditor.transport.tile(path)
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
            return data

        verify_log(keep, auditor.identity.exchange.log_verifier_key, progress=None)

    def _step(self, text: str) -> None:
        self._console.print(f"\n[bold cyan]>[/] {text}")

    def _headline(self, question: Question) -> None:
        self._console.print()
        self._console.print(Panel(question.says, title=question.title, title_align="left", border_style="cyan"))
        self._console.print(Syntax(question.sql.strip(), "sql", background_color="default", word_wrap=True))
        self._console.print(f"  purpose {question.purpose}", highlight=False)


def _short(sql: str) -> str:
    text = " ".join(sql.split())
    return text if len(text) <= 150 else text[:147] + "..."


def _table(answer: pa.Table) -> Table:
    table = Table(*answer.schema.names, show_edge=False)
    for row in answer.slice(0, ROWS_SHOWN).to_pylist():
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    if answer.num_rows > ROWS_SHOWN:
        table.add_row(*["..."] * answer.num_columns)
    return table


def _entry_row(item: dict[str, Any]) -> tuple[str, ...]:
    entry = item["entry"]
    what = ", ".join(entry.get("reasons", [])) or entry.get("error", "") or f"{entry.get('rows', '')} rows"
    names = ", ".join(named["name"] for named in entry.get("datasets", []))
    return (str(item["index"]), entry["ts"][11:19], entry["type"], entry.get("purpose", ""), names, what)


def _next_steps(exchange: LocalExchange, console: Console) -> None:
    analyst = exchange.identity(*ANALYST)
    auditor = exchange.identity(*AUDITOR)
    console.print("\nTry next (in another terminal, in this folder):", style="bold")
    for line in (
        f'.venv/bin/tidegate query "SELECT origin, count(*) FROM aviation.flights GROUP BY origin" '
        f"-p research.statistics --identity {analyst}",
        f".venv/bin/tidegate search weather --identity {analyst}",
        f".venv/bin/tidegate audit search --identity {auditor}",
    ):
        console.print(f"  {line}", highlight=False, soft_wrap=True)


def _wait_for_stop(console: Console) -> None:
    console.print("\nThe exchange runs until Ctrl-C.", style="bold")
    try:
        signal.pause()
    except KeyboardInterrupt:
        console.print("stopping")


def main() -> int:
    """Run the demo."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the exchange running until Ctrl-C")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write a summary, and the evidence beside it")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="keep all state and logs in this new folder")
    chosen = parser.parse_args()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with ExitStack() as stack:
        folder = chosen.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tidegate-demo-")))
        evidence = folder / "evidence"
        if chosen.json:
            evidence = chosen.json.absolute().with_suffix("").with_name(chosen.json.stem + "-evidence")
            shutil.rmtree(evidence, ignore_errors=True)
        try:
            url = stack.enter_context(postgres_server())
            exchange = stack.enter_context(LocalExchange(folder, name="nyc", broker_settings=BROKER))
            demo = Demo(exchange, evidence, console, postgres_url=url)
            demo.run()
        except (DataError, PostgresError, StartError, TidegateError) as error:
            console.print(f"\nthe demo failed: {error}", style="red", markup=False)
            return 1
        if chosen.json:
            chosen.json.write_text(json.dumps(demo.summary, indent=2) + "\n", encoding="utf-8")
            console.print(f"\nsummary {chosen.json}; evidence {evidence}")
        _next_steps(exchange, console)
        if chosen.keep:
            _wait_for_stop(console)
        else:
            console.print("\n(The exchange ends now; scripts/demo --keep leaves it running.)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
