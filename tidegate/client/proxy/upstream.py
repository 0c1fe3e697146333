"""The proxy's side to the broker: a channel under the own identity, as fresh as its certificate.

A channel shows the certificate that it was opened with for as long as it lives; so after a renewal a new one is opened, and
the old one closes when its last call has ended. The same when the broker cannot be reached: a fresh channel dials at once,
where the old one would wait for its next attempt.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import grpc

from tidegate.channel import open_channel
from tidegate.core.clock import Clock
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.names import IdentityKind
from tidegate.identity.folder import IdentityFolder, LocalIdentity
from tidegate.identity.joining import renew_if_due

RENEWAL_CHECK_S = 30.0
REDIAL_S = 0.5  # between two fresh channels to a broker that is away


@dataclass(eq=False, slots=True)
class Dialled:
    """One channel and how many calls use it. Owned by the lock of its ``Upstream``."""

    channel: grpc.Channel
    calls: int = 0
    retired: bool = False


class Upstream:
    """See the module. Thread-safe; close it at the end."""

    def __init__(self, folder: IdentityFolder, clock: Clock) -> None:
        """Load the identity, renew it when that is due, and open the first channel.

        Raises:
            CallerError: the identity is not there, is a node's, has ended and cannot be renewed.
        """
        self._folder = folder
        self._clock = clock
        self._lock = threading.Lock()
        self._renewing = threading.Lock()
        self._problem: TidegateError | None = None
        self.identity = renew_if_due(folder, clock=clock)
        if self.identity.spiffe.kind not in (IdentityKind.SERVICE, IdentityKind.PERSON):
            raise error_for(Code.ID_WRONG_KIND, "proxy: expected the identity of a service or a person")
        self._dialled = self._dial(self.identity)
        self._dialled_s = clock.monotonic_s()
        self._looked_s = self._dialled_s

    @contextmanager
    def call(self) -> Iterator[Dialled]:
        """Lend the channel for one call.

        Raises:
            CallerError: the own certificate has ended and could not be renewed.
        """
        if self._clock.now() > self.identity.facts.not_after:  # the machine slept, or the exchange was away for long
            if self._problem is None or self._clock.monotonic_s() - self._looked_s >= REDIAL_S:
                self._look(wait=True)
            if self._problem is not None and self._clock.now() > self.identity.facts.not_after:
                problem = self._problem
                raise error_for(problem.code, f"proxy: {problem.message}", detail=problem.detail)
        with self._lock:
            dialled = self._dialled
            dialled.calls += 1
        try:
            yield dialled
        finally:
            with self._lock:
                dialled.calls -= 1
                last = dialled.retired and not dialled.calls
            if last:
                dialled.channel.close()

    def unreachable(self, dialled: Dialled) -> None:
        """Hear that a call over this channel found nobody: the next one dials afresh."""
        with self._lock:
            now_s = self._clock.monotonic_s()
            if dialled is not self._dialled or now_s - self._dialled_s < REDIAL_S:
                return
        with suppress(TidegateError):  # the own certificate has ended: the next call renews it, or says so
            self._replace(self.identity)

    def look(self) -> TidegateError | None:
        """Renew when that is due; give what keeps it from being done, if that is news."""
        if self._clock.monotonic_s() - self._looked_s < RENEWAL_CHECK_S:
            return None
        before = self._problem
        self._look(wait=False)
        problem = self._problem
        return problem if problem is not None and (before is None or before.code is not problem.code) else None

    def close(self) -> None:
        """Close the channel; calls that are open are cancelled."""
        with self._lock:
            self._dialled.channel.close()

    def _look(self, *, wait: bool) -> None:
        """Let one thread renew; others wait for it, or go on with the certificate that still lives."""
        if not self._renewing.acquire(blocking=wait):
            return
        try:
            self._looked_s = self._clock.monotonic_s()
            shown = self.identity.facts
            identity = renew_if_due(self._folder, clock=self._clock)
            self._problem = None
            if identity.facts.fingerprint != shown.fingerprint:  # by us, or by another program of the same owner
                self._replace(identity)
        except TidegateError as error:
            self._problem = error
        finally:
            self._renewing.release()

    def _replace(self, identity: LocalIdentity) -> None:
        fresh = self._dial(identity)
        with self._lock:
            old, self._dialled, self.identity = self._dialled, fresh, identity
            self._dialled_s = self._clock.monotonic_s()
            old.retired = True
            idle = not old.calls
        if idle:
            old.channel.close()

    def _dial(self, identity: LocalIdentity) -> Dialled:
        return Dialled(open_channel(identity.exchange.callers, identity, clock=self._clock))
