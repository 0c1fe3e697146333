"""Frames: what goes in comes out, and each way to be malformed is refused."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.frames import Frame, FrameError, Kind, receive, send


@given(st.sampled_from(list(Kind)), st.integers(0, 2**64 - 1), st.integers(0, 2**16 - 1), st.binary(max_size=2_000))
def test_round_trip(kind: Kind, number: int, index: int, payload: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        frame = Frame(kind, number, payload, index)
        send(ours, frame)
        assert receive(theirs) == frame


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00" * 14,
        struct.pack(">IBHQ", 5, Kind.JOB, 0, 1) + b"abcd",
        struct.pack(">IBHQ", 0, 99, 0, 1),
        struct.pack(">IBHQ", 2**32 - 1, Kind.JOB, 0, 1),
    ],
    ids=["closed", "short head", "short payload", "unknown kind", "too long"],
)
def test_what_is_no_frame_is_refused(data: bytes) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        with ours:
            ours.sendall(data)
        with pytest.raises(FrameError):
            receive(theirs)
