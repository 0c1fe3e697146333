"""The inputs of one job on their way to a worker, a thread each; those that pass through go only as fast as they are taken."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping

from engine.frames import Frame, Kind
from tidegate.core.errors import Code, TidegateError, error_for

STREAMED_CHUNKS_MAX = (
    4  # of a streamed input, at the worker and not taken; at most 4 MiB each, so that it costs little memory
)


class Inputs:
    """See the module.

    Args:
        send: gives a frame to the worker; OSError when it is gone.
        failed: told of what an input raised.
    """

    def __init__(
        self,
        number: int,
        send: Callable[[Frame], None],
        failed: Callable[[TidegateError], None],
        streamed: frozenset[str],
    ) -> None:
        self._number = number
        self._send = send
        self._failed = failed
        self._streamed = streamed
        self._stopped = False
        self._room: dict[int, threading.Semaphore] = {}  # input -> chunks that it may still be given

    def start(self, inputs: Mapping[str, Iterator[bytes]]) -> None:
        """Begin to read every input."""
        for index, (name, chunks) in enumerate(inputs.items()):
            if name in self._streamed:
                self._room[index] = threading.Semaphore(STREAMED_CHUNKS_MAX)
            threading.Thread(target=self._pump, args=(index, chunks), name=f"engine-input-{index}", daemon=True).start()

    def taken(self, index: int) -> None:
        """Note that the worker took a chunk of a streamed input."""
        room = self._room.get(index)
        if room is not None:
            room.release()

    def stop(self) -> None:
        """Read no more: the job is over, or condemned. From any thread, more than once."""
        self._stopped = True
        for room in list(self._room.values()):
            room.release()

    def _pump(self, index: int, chunks: Iterator[bytes]) -> None:
        try:
            for chunk in chunks:
                if not self._has_room(index) or not self._feed(Frame(Kind.CHUNK, self._number, chunk, index)):
                    return
            self._feed(Frame(Kind.CHUNKS_END, self._number, b"", index))
        except TidegateError as error:
            self._failed(error)
        except Exception as error:  # noqa: BLE001 - whatever an input raises ends the job, and must not vanish in this thread
            self._failed(error_for(Code.INTERNAL, detail=f"input: {type(error).__name__}"))
        finally:
            close = getattr(chunks, "close", None)
            if close is not None:
                close()

    def _has_room(self, index: int) -> bool:
        """Wait until the worker took what it was given of a streamed input; False when the job is over."""
        room = self._room.get(index)
        if room is not None and not self._stopped:
            room.acquire()
        return not self._stopped

    def _feed(self, frame: Frame) -> bool:
        try:
            self._send(frame)
        except OSError:
            return False  # the worker is gone; the reader finds out by itself
        return True
