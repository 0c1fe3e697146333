"""``python -m benchmarks.shim``: a slow line on one machine: TCP proxies that add delay and limit bandwidth.

Loopback hides what it costs to move data, so a benchmark puts the shim between nodes and broker. TLS passes through untouched.
Each link is a line of its own: all of its connections share the bandwidth of each direction.

example:
  python -m benchmarks.shim --to 127.0.0.1:7444 --links 4 --delay-ms 20 --mbit 100

Prints one line of JSON, the list of ports, one per link (listening on 127.0.0.1), and runs until its input ends.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

CHUNK_BYTES_MAX = 64 << 10
Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]
_CHECKOUT = Path(__file__).resolve().parents[1]
QUEUED_BYTES_MAX = 1 << 20  # beyond what is on its way: a router's buffer; a sender that fills it has to wait


class Line:
    """One direction of a link: what is sent leaves it in order, at its rate, and arrives after its delay.

    Args:
        bytes_per_s: 0 for no limit.
    """

    def __init__(self, delay_s: float, bytes_per_s: float) -> None:
        self._delay_s = delay_s
        self._bytes_per_s = bytes_per_s
        self._free_at = 0.0

    def due(self, size: int, now: float) -> float:
        """Give the time at which these bytes, handed over now, have arrived."""
        begin = max(now, self._free_at)
        self._free_at = begin + (size / self._bytes_per_s if self._bytes_per_s else 0.0)
        return self._free_at + self._delay_s

    @property
    def window_bytes(self) -> int:
        """How much may be under way at once: what the line holds, and a buffer."""
        return int(self._bytes_per_s * self._delay_s) + QUEUED_BYTES_MAX if self._bytes_per_s else 64 << 20


class Transit:
    """One direction of one connection: what was read is on its way for a while, then it is written.

    Raises (from ``run``):
        ConnectionError: the receiver is gone.
    """

    def __init__(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, line: Line) -> None:
        self._source = source
        self._sink = sink
        self._line = line
        self._under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        self._held = 0
        self._room = asyncio.Event()

    async def run(self) -> None:
        """Carry until the sender has ended and all that it sent has arrived."""
        reading = asyncio.create_task(self._read())
        try:
            await self._write()
        finally:
            reading.cancel()

    async def _read(self) -> None:
        now = asyncio.get_running_loop().time
        data = b"-"
        while data:
            try:
                data = await self._source.read(CHUNK_BYTES_MAX)
            except ConnectionError:
                data = b""  # the sender is gone: what it sent before is still delivered
            self._held += len(data)
            self._under_way.put_nowait((self._line.due(len(data), now()), data))
            while data and self._held > self._line.window_bytes:
                self._room.clear()
                await self._room.wait()

    async def _write(self) -> None:
        now = asyncio.get_running_loop().time
        while True:
            due, data = await self._under_way.get()
            await asyncio.sleep(max(0.0, due - now()))
            if not data:
                self._sink.write_eof()
                return
            self._sink.write(data)
            await self._sink.drain()
            self._held -= len(data)
            self._room.set()


async def carry(near: Ends, far: Ends, there: Line, back: Line) -> None:
    """Carry a connection until both directions have ended, or one receiver is gone."""
    directions = [Transit(near[0], far[1], there), Transit(far[0], near[1], back)]
    tasks = [asyncio.create_task(direction.run()) for direction in directions]
    try:
        with suppress(OSError):
            await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        near[1].close()
        far[1].close()


async def serve(target: tuple[str, int], links: int, delay_s: float, bytes_per_s: float) -> None:
    """Listen for every link, tell the ports, and carry until the input ends."""
    servers = []
    for _ in range(links):
        there, back = Line(delay_s / 2, bytes_per_s), Line(delay_s / 2, bytes_per_s)

        async def connected(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter, there: Line = there, back: Line = back
        ) -> None:
            try:
                far = await asyncio.open_connection(*target)
            except OSError:
                writer.close()
                return
            await carry((reader, writer), far, there, back)

        servers.append(await asyncio.start_server(connected, "127.0.0.1", 0))
    print(json.dumps([server.sockets[0].getsockname()[1] for server in servers]), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    for server in servers:
        server.close()


@contextmanager
def links(target: str, count: int, *, delay_ms: float, mbit: float) -> Iterator[list[int]]:
    """Run a shim as a process of its own for the length of the block; give the ports of its links."""
    command = [sys.executable, "-m", "benchmarks.shim", "--to", target, "--links", str(count)]
    command += ["--delay-ms", str(delay_ms), "--mbit", str(mbit)]
    process = subprocess.Popen(command, cwd=_CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        ports: list[int] = json.loads(process.stdout.readline() if process.stdout else "")
        yield ports
    finally:
        process.kill()
        process.communicate()


def main(texts: Sequence[str] | None = None) -> None:
    """Run the shim."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.shim", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--to", required=True, metavar="HOST:PORT", help="where each link leads")
    parser.add_argument("--links", type=int, default=1, metavar="N", help="how many lines, each on a port of its own")
    parser.add_argument("--delay-ms", type=float, default=20.0, metavar="MS", help="added round trip time (default 20)")
    parser.add_argument(
        "--mbit", type=float, default=100.0, metavar="N", help="Mbit/s per direction (default 100, 0: no limit)"
    )
    options = parser.parse_args(texts)
    host, _, port = options.to.rpartition(":")
    asyncio.run(serve((host, int(port)), options.links, options.delay_ms / 1000, options.mbit * 125_000))


if __name__ == "__main__":
    main()
