"""Frames on the socket between a parent and its worker process.

A frame is a head of 15 bytes (length, kind, input, job number; network order) and a payload. The job number lets either side
drop what belongs to a job that is over, so an aborted job needs no handshake. Only the two ends of one socketpair speak this.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from enum import IntEnum

from tidegate.core.limits import MESSAGE_BYTES_MAX

FRAME_BYTES_MAX = MESSAGE_BYTES_MAX + (1 << 20)
_HEAD = struct.Struct(">IBHQ")


class Kind(IntEnum):
    """What a frame carries."""

    SPEC = 1  # JSON, parent to worker, first
    READY = 2  # JSON, worker to parent: which walls stand
    JOB = 3  # JSON: setup, sql, parameters, names of inputs, limits
    CHUNK = 4  # one chunk of input number `input`
    CHUNKS_END = 5  # that input is complete
    CANCEL = 6  # stop the job; answered by FAILED, or by ENDED when it was over already
    ANSWER = 7  # one chunk of the answer, schema first
    ENDED = 8  # JSON: rows, bytes
    FAILED = 9  # JSON: code, message, detail
    CALL = 10  # pickle: function and arguments (planning)
    RESULT = 11  # pickle (planning)
    TAKEN = 12  # worker to parent: one more chunk of the streamed input `input` was taken


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame."""

    kind: Kind
    job: int
    payload: bytes
    input: int = 0


class FrameError(ConnectionError):
    """The other side is gone, or does not speak this protocol (it is then treated as gone)."""


def send(channel: socket.socket, frame: Frame) -> None:
    """Write one frame; blocks while the other side does not read. The caller holds the channel's send lock."""
    send_chunk(channel, frame.kind, frame.job, frame.payload, frame.input)


def send_chunk(channel: socket.socket, kind: Kind, job: int, payload: bytes | memoryview, number: int = 0) -> None:
    """Write one frame whose payload may lie anywhere; as ``send``."""
    head = _HEAD.pack(len(payload), kind, number, job)
    if len(payload) < 65_536:
        channel.sendall(b"".join((head, payload)))
    else:  # no copy of a large payload
        channel.sendall(head)
        channel.sendall(payload)


def receive(channel: socket.socket, *, bytes_max: int = FRAME_BYTES_MAX) -> Frame:
    """Read one frame; blocks.

    Raises:
        FrameError: the other side closed, or the frame is not valid.
    """
    length, kind, number, job = _HEAD.unpack(_exactly(channel, _HEAD.size))
    if length > bytes_max:
        raise FrameError("frame: too long")
    try:
        known = Kind(kind)
    except ValueError:
        raise FrameError("frame: unknown kind") from None
    return Frame(known, job, _exactly(channel, length), number)


def _exactly(channel: socket.socket, size: int) -> bytes:
    """Read that many bytes; in one call that needs no copy, unless a signal or a time limit cuts it short."""
    whole = channel.recv(size, socket.MSG_WAITALL) if size else b""
    if len(whole) == size:
        return whole
    parts, left = [whole], size - len(whole)
    while left:
        part = channel.recv(left, socket.MSG_WAITALL) if parts[-1] else b""
        if not part:
            raise FrameError("the other side closed")
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
