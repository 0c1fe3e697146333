"""The link to one broker: dial out, attach, listen, attach again. Knows the order of a conversation, not its bytes.

The transport (``node.wire``) opens a ``Line``; a line gives what the broker says and takes what the node says. A link ends a
line by itself when the broker is silent for too long, when it drains, when the certificate was renewed, or at a stop; answers
under way are finished first, as far as the drain time allows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import assert_never

import structlog
import tenacity

from node.conversation import (
    AgreementPushed,
    Beat,
    Cancelled,
    DescribeAsked,
    Dialler,
    Drained,
    Heard,
    Line,
    Offered,
    Welcomed,
    Work,
)
from node.values import FragmentOffer, Session
from tidegate.core.clock import Clock, Ids
from tidegate.core.errors import Code, TidegateError, error_for

NONCE_BYTES = 16
BACKOFF_S_MIN = 0.2
BACKOFF_S_MAX = 30.0
SILENCE_BEATS_MAX = 3  # heartbeats that may be missed before a broker counts as gone
HEARTBEAT_S_MIN, HEARTBEAT_S_MAX = 0.2, 60.0
WELCOME_DEADLINE_S = 10.0
GOOD_SESSION_S = 30.0  # a session that lasted so long starts the back-off afresh
SMALL_JOBS_MAX = 32  # descriptions and agreements at once; a broker sends agreements one after the other


@dataclass(slots=True)
class LinkState:
    """What ``tidegate node status`` shows of one link."""

    address: str
    attached: bool = False
    broker: str = ""
    since: str = ""
    sessions: int = 0
    problem: str = ""


class Link:
    """One broker. ``run`` is the body of a thread and returns only after ``stop``."""

    def __init__(
        self,
        dialler: Dialler,
        *,
        work: Work,
        threads: ThreadPoolExecutor,
        slots: threading.Semaphore,
        drain_s: float,
        clock: Clock,
        ids: Ids,
        changed: Callable[[LinkState], None],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._dialler = dialler
        self._work = work
        self._threads = threads
        self._slots = slots
        self._drain_s = drain_s
        self._clock = clock
        self._ids = ids
        self._changed = changed
        self._log = log.bind(broker_address=dialler.address)
        self._stopping = threading.Event()
        self._session: _Session | None = None
        self._lock = threading.Lock()
        self.state = LinkState(dialler.address)

    def run(self) -> None:
        """Attach again and again until ``stop``."""
        attempt = 0
        while not self._stopping.is_set():
            started = self._clock.monotonic_s()
            wait_s, problem = self._attach_once()
            attempt = 0 if self._clock.monotonic_s() - started >= GOOD_SESSION_S or problem is None else attempt + 1
            self._note(attached=False, problem="" if problem is None else str(problem))
            if problem is not None:
                wait_s = backoff_s(attempt)
                self._log.warning(
                    "not attached", problem=str(problem), detail=problem.detail, again_in_s=round(wait_s, 1)
                )
            self._stopping.wait(wait_s)

    def stop(self) -> None:
        """Finish what is under way, as far as the drain time allows, then end; ``run`` returns."""
        self._stopping.set()
        with self._lock:
            session = self._session
        if session is not None:
            session.end_gracefully(self._drain_s)

    @property
    def open_fragments(self) -> int:
        """How many fragments are under way on this link."""
        with self._lock:
            session = self._session
        return session.open_fragments if session is not None else 0

    def _attach_once(self) -> tuple[float, TidegateError | None]:
        """Hold one session; gives the wait before the next, and what went wrong."""
        nonce = self._ids.nonce(NONCE_BYTES)
        try:
            line = self._dialler.dial(nonce, self._work.datasets)
        except TidegateError as error:
            return 0.0, error
        session = _Session(self, line, nonce.hex())
        with self._lock:
            self._session = session
        try:
            if self._stopping.is_set():
                return 0.0, None
            return session.run(), None
        except TidegateError as error:
            return 0.0, None if self._stopping.is_set() else error
        except Exception as error:  # noqa: BLE001 - whatever a broker provoked, the node attaches again
            self._log.exception("the link failed")
            return 0.0, error_for(Code.INTERNAL, detail=type(error).__name__)
        finally:
            with self._lock:
                self._session = None
            session.abandon()

    def _note(self, *, attached: bool, broker: str = "", since: str = "", problem: str = "") -> None:
        state = self.state
        state.attached, state.broker, state.since, state.problem = attached, broker, since, problem
        state.sessions += attached
        self._changed(state)


def backoff_s(attempt: int) -> float:
    """Give the wait before an attempt: exponential with full jitter, so that a restarted broker is not stormed."""
    wait = tenacity.wait_random_exponential(multiplier=BACKOFF_S_MIN, max=BACKOFF_S_MAX, exp_base=2)
    state = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
    state.attempt_number = attempt + 1
    return max(BACKOFF_S_MIN, wait(state))


def _seconds(said: float, low: float, high: float) -> float:
    """Hold a broker's time to bounds; what is not a number counts as the lowest, since ``min`` and ``max`` let it pass."""
    return min(said, high) if said >= low else low


class _Session:
    """One attachment. Its listening thread owns ``line.hear``; a beating thread watches over it."""

    def __init__(self, link: Link, line: Line, nonce: str) -> None:
        self._link = link
        self._line = line
        self._nonce = nonce
        self._heard_s = link._clock.monotonic_s()
        self._heartbeat_s = HEARTBEAT_S_MAX
        self._welcomed = threading.Event()
        self._running: dict[str, FragmentOffer] = {}
        self._idle = threading.Condition()
        self._ended = threading.Event()
        self._draining = False
        self._again_after_s = 0.0
        self._silent = False
        self._small_jobs = threading.Semaphore(SMALL_JOBS_MAX)

    def run(self) -> float:
        """Listen until the line ends; gives the wait before the next attachment."""
        beating = threading.Thread(target=self._beat, name="node-beat", daemon=True)
        beating.start()
        try:
            session: Session | None = None
            for heard in self._line.hear():
                self._heard_s = self._link._clock.monotonic_s()
                session = self._take(heard, session)
        except TidegateError:
            if not (self._silent or self._draining):  # else the node hung up by itself
                raise
        finally:
            self._ended.set()
            self._welcomed.set()
            beating.join()
        if self._silent:
            raise error_for(Code.CLIENT_UNREACHABLE, "the broker has been silent for too long")
        if not self._draining:
            raise error_for(Code.CLIENT_UNREACHABLE, "the broker ended the link")
        return self._again_after_s

    def _take(self, heard: Heard, session: Session | None) -> Session | None:
        if isinstance(heard, Welcomed):
            if session is not None:
                raise error_for(Code.WIRE_INVALID, "attach: a second welcome")
            self._heartbeat_s = _seconds(heard.heartbeat_s, HEARTBEAT_S_MIN, HEARTBEAT_S_MAX)
            self._welcomed.set()
            link = self._link
            link._note(attached=True, broker=heard.broker, since=link._clock.now().isoformat(timespec="seconds"))
            link._log.info("attached", broker=heard.broker)
            return Session(heard.broker, self._nonce)
        if session is None:
            raise error_for(Code.WIRE_INVALID, "attach: expected a welcome first")
        match heard:
            case Offered(offer):
                self._start(offer, session)
            case Cancelled(fragment_id):
                self._cancel(fragment_id)
            case DescribeAsked():
                self._submit(lambda: self._line.say_description(self._link._work.describe()))
            case AgreementPushed():
                self._submit(lambda: self._agreement(heard))
            case Drained(reconnect_after_s):
                self._again_after_s = _seconds(reconnect_after_s, 0.0, BACKOFF_S_MAX)
                self._submit(lambda: self.end_gracefully(self._link._drain_s))
            case Beat():
                pass
            case _:
                assert_never(heard)
        return session

    @property
    def open_fragments(self) -> int:
        """How many fragments are under way."""
        return len(self._running)

    def _submit(self, job: Callable[[], None]) -> None:
        """Run a small job off the listening thread, so that a slow disk never delays a cancel."""
        if not self._small_jobs.acquire(blocking=False):
            raise error_for(Code.WIRE_INVALID, "attach: the broker asks for more at once than a node does")

        def guarded() -> None:
            try:
                job()
            except TidegateError as error:
                self._link._log.warning("could not do what the broker asked", problem=str(error), detail=error.detail)
            finally:
                self._small_jobs.release()

        threading.Thread(target=guarded, name="node-small-job", daemon=True).start()

    def _start(self, offer: FragmentOffer, session: Session) -> None:
        with self._idle:
            if offer.id in self._running:
                raise error_for(Code.WIRE_INVALID, "attach: a fragment's id is used twice")
            if self._draining or not self._link._slots.acquire(blocking=False):
                self._line.say_failure(offer.id, error_for(Code.BUSY, "the node is busy", retry_after_s=1.0))
                return
            self._running[offer.id] = offer
        self._link._threads.submit(self._serve, offer, session)

    def _serve(self, offer: FragmentOffer, session: Session) -> None:
        try:
            self._link._work.serve(offer, session, self._line)
        finally:
            self._link._slots.release()
            with self._idle:
                self._running.pop(offer.id, None)
                self._idle.notify_all()

    def _cancel(self, fragment_id: str) -> None:
        with self._idle:
            offer = self._running.get(fragment_id)
        if offer is not None:
            offer.cancel.set()

    def _agreement(self, pushed: AgreementPushed) -> None:
        problem: TidegateError | None = None
        try:
            self._link._work.take_agreement(pushed)
        except TidegateError as error:
            self._link._log.warning("agreement not accepted", problem=str(error), detail=error.detail)
            problem = error
        self._line.say_acknowledged(pushed.agreement_id, problem)

    def _beat(self) -> None:
        """Say that the node lives; end a line on which nothing is heard; renew when due."""
        if not self._welcomed.wait(WELCOME_DEADLINE_S):
            self._silent = True
            self._line.hang_up()
            return
        count = 0
        while not self._ended.wait(self._heartbeat_s):
            if self._link._clock.monotonic_s() - self._heard_s > self._heartbeat_s * SILENCE_BEATS_MAX:
                self._silent = True
                self._line.hang_up()
                return
            count += 1
            self._line.say_beat(count)
            with suppress(TidegateError, OSError):  # a full disk must not silence the beat
                if not self._draining and self._line.renew():
                    # The stream lives no longer than the certificate that opened it: attach again with the new one.
                    self._submit(lambda: self.end_gracefully(self._link._drain_s))

    def end_gracefully(self, drain_s: float) -> None:
        """Take no more work, wait for what is under way, hang up."""
        with self._idle:
            self._draining = True
            self._idle.wait_for(lambda: not self._running or self._ended.is_set(), timeout=drain_s)
        self._line.hang_up()

    def abandon(self) -> None:
        """The line is gone: nobody can take the answers any more."""
        self._line.hang_up()
        with self._idle:
            running = list(self._running.values())
        for offer in running:
            offer.cancel.set()
