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
    head = _HEAD.pack(len(frame.payload), frame.kind, frame.input, frame.job)
    if len(frame.payload) < 65_536:
        channel.sendall(head + frame.payload)
    else:  # no copy of a large payload
        channel.sendall(head)
        channel.sendall(frame.payload)


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
    buffer = bytearray(size)
    view = memoryview(buffer)
    done = 0
    while done < size:
        got = channel.recv_into(view[done:])
        if got == 0:
            raise FrameError("the other side closed")
        done += got
    return bytes(buffer)
