"""The client's wire package: the only place in the client that reads generated messages."""

from __future__ import annotations

from tidegate.client.wire.stream import Stream
from tidegate.client.wire.transport import Transport

__all__ = ["Stream", "Transport"]
