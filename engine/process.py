"""The parent's end of one child process: start it with nothing inherited, talk to it, end it, say how it ended.

A child gets one end of a socketpair, a bare environment and no other descriptor. It ends by itself when this end is closed,
so a parent that is killed leaves none behind.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

from engine.frames import Frame, FrameError, Kind, receive, send
from engine.memory import ARENAS_MAX, KEPT_BYTES, MAPPED_BYTES_MIN
from tidegate.core.errors import Code, error_for

START_DEADLINE_S = 60.0  # 0.4 s on an idle machine; a loaded one may take long, and a start blocks no caller
_STDERR_TAIL_BYTES = 2_000


class Child:
    """One running child. ``mark`` is its maker's, to tell a child that was made from what no longer is.

    ``send`` may be called from any thread (a lock keeps frames whole); ``receive`` by one thread at a time, the child's
    user; ``kill`` from any thread.
    """

    def __init__(self, module: str, first: Frame, *, mark: object = None) -> None:
        ours, theirs = socket.socketpair()
        self._channel = ours
        self._send_lock = threading.Lock()
        self._end_lock = threading.Lock()
        self.mark = mark
        self._stderr, errors = os.pipe()
        os.set_blocking(self._stderr, False)
        os.set_blocking(errors, False)  # a child that says more than a pipe holds must not wait for a reader
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-P", "-m", module, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                cwd="/",
                env=_environment(),
            )
        except BaseException:
            ours.close()
            os.close(self._stderr)
            raise
        finally:
            theirs.close()
            os.close(errors)
        self.pid = self._process.pid
        with contextlib.suppress(OSError):  # a child that is dead already is found by wait_ready
            send(ours, first)

    def wait_ready(self) -> Frame:
        """Wait until the child says that it is ready.

        Raises:
            TidegateError: what the child reported, or CONFIG_INVALID when it ended or stayed silent.
        """
        self._channel.settimeout(START_DEADLINE_S)
        try:
            frame = receive(self._channel)
        except OSError as error:
            words = f"status {self._status()}: {self._last_words()}"
            self.kill()
            raise error_for(Code.CONFIG_INVALID, "engine: a worker process did not start", detail=words) from error
        self._channel.settimeout(None)
        if frame.kind not in (Kind.READY, Kind.FAILED):
            self.kill()
            raise error_for(Code.CONFIG_INVALID, "engine: a worker process did not start", detail="not ready")
        return frame

    def send(self, frame: Frame) -> None:
        """Write a frame."""
        with self._send_lock:
            send(self._channel, frame)

    def try_send(self, frame: Frame) -> bool:
        """Write a small frame unless another thread is stuck in writing; False when it was not written."""
        if not self._send_lock.acquire(blocking=False):
            return False
        try:
            send(self._channel, frame)
        except OSError:
            return False
        finally:
            self._send_lock.release()
        return True

    def receive(self, timeout_s: float | None = None) -> Frame:
        """Read a frame.

        Raises:
            FrameError: the child is gone.
            TimeoutError: nothing came in time; the child must be killed, a frame may be half read.
        """
        if timeout_s is not None:
            self._channel.settimeout(max(timeout_s, 0.001))
        try:
            return receive(self._channel)
        except (FrameError, TimeoutError):
            raise
        except OSError as error:
            raise FrameError("the child is gone") from error
        finally:
            if timeout_s is not None:
                with contextlib.suppress(OSError):  # another thread may have ended the child
                    self._channel.settimeout(None)

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def kill(self) -> None:
        """End the process at once and wake whoever reads from it."""
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)

    def end(self) -> int | None:
        """Kill, release what the parent holds, and give the exit status as ``Popen.returncode``."""
        self._status()  # one that ends by itself keeps its own status
        self.kill()
        with self._end_lock:
            self._channel.close()
            if self._stderr >= 0:
                os.close(self._stderr)
                self._stderr = -1
        return self._process.returncode

    def _status(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=0.2)
        return self._process.returncode

    def _last_words(self) -> str:
        if self._stderr < 0:
            return ""
        with contextlib.suppress(BlockingIOError):
            return os.read(self._stderr, 65_536)[-_STDERR_TAIL_BYTES:].decode(errors="replace")
        return ""


def _environment() -> dict[str, str]:
    """Give the child's whole environment; nothing of the parent's (it may hold secrets) but where libraries lie."""
    kept = {key: os.environ[key] for key in ("LD_LIBRARY_PATH", "VIRTUAL_ENV") if key in os.environ}
    return kept | {
        "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
        "PYTHONNOUSERSITE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "MALLOC_MMAP_THRESHOLD_": str(MAPPED_BYTES_MIN),
        "MALLOC_TRIM_THRESHOLD_": str(KEPT_BYTES),
        "MALLOC_ARENA_MAX": str(ARENAS_MAX),  # glibc reserves 64 MiB of address space an arena, and RLIMIT_AS counts it
        "ARROW_DEFAULT_MEMORY_POOL": "system",  # mimalloc reserves 1 GiB at once
        "OMP_NUM_THREADS": "1",
    }
