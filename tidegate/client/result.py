"""The answer of a query: read it once as a stream, or as a table as often as you like."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tidegate import ipc
from tidegate.client.evidence import DECISION, OUTCOME, AnswerFile, save_digest
from tidegate.client.extras import load
from tidegate.client.facts import FinishedFacts
from tidegate.client.preview import error_page, page
from tidegate.client.receipts import Prove, Receipt
from tidegate.client.wire import Stream
from tidegate.core.errors import Code, TidegateError, error_for

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow as pa


class Result:
    """An answer under way or read.

    ``disclosure`` says before the first row what was filtered, masked or held back, who is asked what, and by which rule.
    """

    def __init__(self, stream: Stream, verifier_key: str, prove: Prove, *, keep: Path | None = None) -> None:
        self._stream = stream
        self._keep = keep
        self._verifier_key = verifier_key
        self._prove = prove
        self._table: pa.Table | None = None
        self._taken = False
        self._digest = ipc.Digest()
        self.request_id = stream.started.request_id
        self.disclosure = stream.started.disclosure

    @property
    def receipt(self) -> Receipt:
        """The receipt of the decision: who asked what for which purpose, and what was permitted."""
        return Receipt(self._stream.started.receipt, self._verifier_key, self.request_id, self._prove)

    @property
    def outcome(self) -> Receipt:
        """The receipt of the outcome; there once the answer was read to its end."""
        return Receipt(self.finished.receipt, self._verifier_key, self.request_id, self._prove)

    @property
    def report(self) -> list[dict[str, Any]]:
        """What each department's part was: rows, bytes, time; there once the answer was read to its end."""
        return self.finished.report

    @property
    def finished(self) -> FinishedFacts:
        """The last word of the answer: counts and digest; reads the answer to its end."""
        if self._stream.finished is None:
            self.to_arrow()
        if self._stream.finished is None:
            raise error_for(Code.CLIENT_INPUT, "answer: it was not read to its end")
        return self._stream.finished

    def _chunks(self) -> Iterator[bytes]:
        checked = self._checked_chunks()
        return checked if self._keep is None else AnswerFile(self._keep).keep(checked)

    def _checked_chunks(self) -> Iterator[bytes]:
        for chunk in self._stream.chunks():
            self._digest.update(chunk)
            yield chunk
        done = self._stream.finished
        if done is not None and done.result_digest != self._digest.hexdigest():
            raise error_for(Code.AUDIT_VERIFICATION, "answer: its bytes are not those that the broker recorded")

    def reader(self) -> pa.RecordBatchReader:
        """Give a stream of record batches, read once; memory stays small however large the answer is."""
        import pyarrow as pa

        if self._table is not None:
            return self._table.to_reader()
        if self._taken:
            raise error_for(Code.CLIENT_INPUT, "answer: its stream was taken before; use to_arrow() to read it twice")
        self._taken = True
        schema, batches = ipc.read(self._chunks())
        return pa.RecordBatchReader.from_batches(schema, batches)

    def to_arrow(self) -> pa.Table:
        """Read everything into a pyarrow.Table."""
        if self._table is None:
            import pyarrow as pa

            if self._taken:
                raise error_for(Code.CLIENT_INPUT, "answer: its stream was taken before by reader()")
            self._taken = True
            schema, batches = ipc.read(self._chunks())
            self._table = pa.Table.from_batches(batches, schema)
        return self._table

    def to_pandas(self) -> pandas.DataFrame:
        """Read everything into a pandas DataFrame (``pip install 'tidegate[pandas]'``).

        Types are pandas' own, as ``pyarrow.Table.to_pandas`` makes them: integers with NULL become floats.
        ``pandas.DataFrame.from_arrow(result)`` of pandas 3 makes the same.
        """
        load("pandas", "pandas")
        return self.to_arrow().to_pandas()

    def to_polars(self) -> polars.DataFrame:
        """Read everything into a polars DataFrame (``pip install 'tidegate[polars]'``)."""
        frame: polars.DataFrame = load("polars", "polars").from_arrow(self.to_arrow())
        return frame

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Hand the answer to any library that takes Arrow's C stream: polars, DuckDB, pandas, ibis ...

        Reads everything first: an answer that is cut short, or whose digest does not fit, is an error here, before anybody sees
        a row of it; and it may be taken as often as a library likes. For an answer that does not fit into memory give the
        library ``reader()``, which streams.
        """
        stream: object = self.to_arrow().__arrow_c_stream__(requested_schema)
        return stream

    def verify(self) -> None:
        """Check both receipts, and that the bytes received are those whose commitment the log holds.

        Raises:
            IntegrityError: AUDIT_VERIFICATION.
        """
        done = self.finished
        self.receipt.verify()
        outcome = self.outcome
        outcome.verify()
        if not outcome.opens("result", done.digest_nonce, done.result_digest.encode()):
            raise error_for(Code.AUDIT_VERIFICATION, "answer: the outcome entry commits to another result")

    def save(self) -> Path:
        """Verify, and write both receipts beside the answer's bytes, in the folder that the query was told to keep it in.

        Raises:
            IntegrityError: AUDIT_VERIFICATION.
            CallerError: CLIENT_INPUT; the query was not told where: ``query(..., keep=folder)``.
        """
        if self._keep is None:
            raise error_for(Code.CLIENT_INPUT, "answer: its bytes were not kept; ask with query(..., keep=folder)")
        self.verify()
        self.receipt.save(self._keep / DECISION)
        self.outcome.save(self._keep / OUTCOME)
        save_digest(self._keep, self.finished.result_digest, self.finished.digest_nonce)
        return self._keep

    def cancel(self) -> None:
        """Give the answer up; the departments are told to stop."""
        self._stream.cancel()

    def banner(self) -> list[str]:
        """Say in plain lines what was filtered, masked or held back."""
        lines = []
        for item in self.disclosure.get("datasets", []):
            parts = []
            if item.get("row_filter"):
                parts.append(f"rows filtered by {', '.join(item['row_filter'])}")
            if item.get("masked"):
                parts.append("masked: " + ", ".join(f"{name} ({kind})" for name, kind in item["masked"].items()))
            if item.get("not_shown"):
                parts.append(f"not shown, and not in *: {', '.join(item['not_shown'])}")
            if item.get("mode") != "rows":
                parts.append(f"{item['mode']}s only, groups of at least {item['min_group_size']} subjects")
            if parts:
                lines.append(f"{item['dataset']}: {'; '.join(parts)}")
        if self._stream.finished is not None:
            said = "\n".join(lines)
            for part in self.report:
                lines += [
                    f"{part['member']}, at its own gate: {rule}" for rule in part.get("rules", []) if rule not in said
                ]
        return lines

    def __repr__(self) -> str:
        read = (
            f"{self._table.num_rows} rows, {self._table.num_columns} columns"
            if self._table is not None
            else "not read yet"
        )
        return "\n".join(
            [f"<answer to request {self.request_id}: {read}>", *(f"  note: {line}" for line in self.banner())]
        )

    def _repr_html_(self) -> str:
        """Show the answer in a notebook: what was filtered, masked or held back, and the first rows; reads it to its end."""
        try:
            table = self.to_arrow()
            receipts = (self._stream.started.receipt.index, self.finished.receipt.index)
        except TidegateError as error:
            return error_page(error)
        return page(table, self.banner(), request_id=self.request_id, receipts=receipts)
