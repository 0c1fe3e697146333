"""The client's wire package: the only place in the client that reads generated messages."""

from __future__ import annotations

from tidegate.client.wire.details import from_status_details
from tidegate.client.wire.stream import Stream
from tidegate.client.wire.transport import Transport

__all__ = ["Stream", "Transport", "from_status_details"]
