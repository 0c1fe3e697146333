"""What leaves the node: count it, hash it, hold it to the limits, sign it.

Chunks are those of ``tidegate.ipc``; every batch is validated in full on its way out, because a worker has run a query over
data that only the department has vetted. The digest is ``tidegate.ipc.Digest``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pyarrow as pa

from node.values import Trailer
from tidegate import ipc
from tidegate.core.canonical import canonical
from tidegate.core.clock import Clock
from tidegate.core.errors import Code, error_for

Signer = Callable[[bytes], bytes]
"""Signs with the node's current certificate key (ECDSA P-256, SHA-256, DER)."""


class Answer:
    """One answer on its way out. Read once, by one thread; ``trailer`` only after the last chunk.

    Args:
        suppressed: gives the number of suppressed groups once everything was read.
        close: frees the worker; called once the answer was read, failed or was given up.
    """

    def __init__(
        self,
        chunks: Iterator[bytes],
        *,
        fragment_id: str,
        grant_id: str,
        entry_index: int,
        rows_max: int,
        bytes_max: int,
        suppressed: Callable[[], int],
        close: Callable[[], None],
        clock: Clock,
        started_s: float,
        rules: tuple[str, ...] = (),
        keys_may_go_to: tuple[str, ...] = (),
    ) -> None:
        self.fragment_id = fragment_id
        self.grant_id = grant_id
        self._chunks = chunks
        self._entry_index = entry_index
        self._rows_max, self._bytes_max = rows_max, bytes_max
        self._suppressed = suppressed
        self._close = close
        self._clock = clock
        self._started_s = started_s
        self._rules = rules
        self._keys_may_go_to = keys_may_go_to
        self._digest = ipc.Digest()
        self._ended = False
        self.rows = 0
        self.size_bytes = 0

    def chunks(self) -> Iterator[bytes]:
        """Give the chunks, schema first, validated and counted.

        Raises:
            CallerError: FETCH_LIMIT. IntegrityError: FETCH_INVALID_DATA. And whatever the engine raises.
        """
        tape: list[bytes] = []

        def taped() -> Iterator[bytes]:
            for chunk in self._chunks:
                tape.append(chunk)
                yield chunk

        try:
            _, batches = ipc.read(taped())
            yield self._out(tape.pop(0))
            for batch in batches:
                self._count(batch)
                # One batch, one chunk: `read` never reads beyond the chunk that it has.
                while tape:
                    yield self._out(tape.pop(0))
            self._ended = True
        finally:
            self._close()

    def _count(self, batch: pa.RecordBatch) -> None:
        self.rows += batch.num_rows
        if self.rows > self._rows_max:
            raise error_for(Code.FETCH_LIMIT, f"answer: more rows than the limit of {self._rows_max}")

    def _out(self, chunk: bytes) -> bytes:
        self.size_bytes += len(chunk)
        if self.size_bytes > self._bytes_max:
            raise error_for(Code.FETCH_LIMIT, f"answer: more bytes than the limit of {self._bytes_max}")
        self._digest.update(chunk)
        return chunk

    def close(self) -> None:
        """Give the answer up."""
        self._close()

    def trailer(self, sign: Signer) -> Trailer:
        """Sign what was sent."""
        if not self._ended:
            raise error_for(Code.INTERNAL, detail="trailer asked for before the end of the answer")
        digest = self._digest.hexdigest()
        return Trailer(
            rows=self.rows,
            size_bytes=self.size_bytes,
            digest=digest,
            signature=sign(trailer_bytes(digest, self.fragment_id, self.grant_id, self.rows)),
            suppressed_groups=self._suppressed(),
            entry_index=self._entry_index,
            elapsed_s=self._clock.monotonic_s() - self._started_s,
            rules=self._rules,
            keys_may_go_to=self._keys_may_go_to,
        )


def trailer_bytes(digest: str, fragment_id: str, grant_id: str, rows: int) -> bytes:
    """Give the bytes under a trailer's signature."""
    return canonical({"digest": digest, "fragment_id": fragment_id, "grant_id": grant_id, "rows": rows})
