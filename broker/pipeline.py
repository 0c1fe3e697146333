"""The hall: the only module that knows the order of the rooms. Rooms 1 to 5 are ``prepare``, 6 to 8 are ``run``.

Both doors call the same two halves. Nothing below may be reordered: the types see to it, and a spy at the transport proves
that a refusal, or a request that could not be recorded, asks no node for anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from broker.analysis import Analysis, Stopwatch
from broker.announce import Announce
from broker.decide import Decide
from broker.deliver import Answer, Deliver
from broker.fetch import Fetch
from broker.join import Join
from broker.plan import Plan
from broker.record import Record
from broker.rewrite import Rewrite
from broker.telemetry import Telemetry
from broker.values import Announced, DecidedPlan, Preview, RecordedPlan, Request, RestrictedPlan
from engine.announced import Expected
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.sql.barriers import Barrier


class Pipeline:
    """The eight rooms in their order; ``identify`` is called by the doors' guard, before there is a request."""

    def __init__(
        self,
        *,
        plan: Plan,
        decide: Decide,
        rewrite: Rewrite,
        record: Record,
        fetch: Fetch,
        join: Join,
        deliver: Deliver,
        announce: Announce,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._plan = plan
        self._decide = decide
        self._rewrite = rewrite
        self._record = record
        self._fetch = fetch
        self._join = join
        self._deliver = deliver
        self._announce = announce
        self._telemetry = telemetry or Telemetry()

    def watch(self, request: Request) -> Stopwatch:
        """Give a stopwatch for a request whose caller is told what it cost."""
        return self._telemetry.watch(request, always=True)

    def prepare(
        self, request: Request, watch: Stopwatch | None = None, announced: Announced | None = None
    ) -> RecordedPlan:
        """Plan, decide, rewrite and record; a refusal is recorded before it is raised.

        Args:
            announced: what the caller was told before; when it no longer holds, the request is refused.

        Raises:
            Refused: with the reasons and the refusal's receipt.
            CallerError: PLAN_*, FLIGHT_STALE; recorded as a refusal too.
        """
        watch = watch or self._telemetry.watch(request)
        restricted = self._restricted(request, watch)
        if announced is not None:
            self._hold(restricted, announced, watch)
        try:
            with watch.room("record"):
                return self._record.record(restricted)  # 5: no receipt, no data
        except TidegateError as error:
            self._telemetry.refused(request, error)
            raise

    def expected(self, request: Request) -> Expected:
        """Say which parameters a text wants; a text that cannot be read is refused, and that is recorded.

        Raises:
            CallerError: PLAN_*.
        """
        try:
            return self._plan.expected(request)
        except TidegateError as error:
            raise self._refused(request, None, error) from error

    def preview(self, request: Request, tentative: frozenset[Code] = frozenset()) -> Preview:
        """Plan, decide, rewrite, and say what the answer will look like; nothing is asked of anybody.

        What was permitted is no access yet, and is recorded when it becomes one: ``prepare`` decides again.

        Args:
            tentative: with these codes it fails unrecorded, because the values are stand-ins for the caller's, and with
                those the text may be planned and permitted. What policy refuses whatever the values are is not among them.

        Raises:
            TidegateError: as ``prepare``; a refusal is recorded before it is raised.
        """
        watch = self._telemetry.watch(request)
        restricted = self._restricted(request, watch, tentative)
        try:
            with watch.room("announce"):
                return Preview(restricted, self._announce.announce(restricted))
        except TidegateError as error:
            if error.code in tentative:
                raise
            raise self._refused(request, restricted.decided, error) from error

    def refused(self, request: Request, error: TidegateError) -> TidegateError:
        """Record a refusal that came before there was a plan; gives the error, with its receipt, for the caller.

        Raises:
            InternalError: AUDIT_UNAVAILABLE.
        """
        return self._refused(request, None, error)

    def _hold(self, restricted: RestrictedPlan, announced: Announced, watch: Stopwatch) -> None:
        """Hold a plan to what was said of its answer."""
        decided = restricted.decided
        try:
            with watch.room("announce"):
                if self._announce.announce(restricted) != announced:
                    raise error_for(Code.FLIGHT_STALE)
        except TidegateError as error:
            raise self._refused(decided.plan.request, decided, error) from error

    def _restricted(
        self, request: Request, watch: Stopwatch, tentative: frozenset[Code] = frozenset()
    ) -> RestrictedPlan:
        """Go through rooms 2 to 4; a refusal is recorded before it is raised."""
        try:
            with watch.room("plan"):
                plan = self._plan.plan(request)  # 2
        except TidegateError as error:
            if error.code in tentative:
                raise
            raise self._refused(request, None, error) from error
        with watch.room("decide"):
            decided = self._decide.decide(plan)  # 3
        if not decided.decision.allow:
            reasons = decided.decision.reasons
            code = decided.refusal or Code.POLICY_REFUSED
            message = reasons[0].text if reasons else ""
            raise self._refused(request, decided, error_for(code, message, reasons=reasons))
        try:
            with watch.room("rewrite"):
                return self._rewrite.rewrite(decided)  # 4
        except TidegateError as error:
            if error.code in tentative:
                raise
            raise self._refused(request, decided, error) from error

    def _refused(self, request: Request, decided: DecidedPlan | None, error: TidegateError) -> TidegateError:
        """Record a refusal; when even that fails, the caller hears that nothing could be recorded."""
        error.request_id = request.id
        self._telemetry.refused(request, error)
        error.receipt = self._record.refusal(request, decided, error)
        return error

    def run(self, recorded: RecordedPlan, watch: Stopwatch | None = None, announced: Announced | None = None) -> Answer:
        """Fetch, join and deliver a recorded plan; its answer has the schema that was announced, if one was."""
        watch = watch or self._telemetry.watch(recorded.request)
        try:
            with watch.room("fetch"):
                fetched = self._fetch.fetch(recorded)  # 6
        except TidegateError as error:
            self._deliver.failed(recorded, error)
            raise
        try:
            with watch.room("join"):
                joined = self._join.join(recorded, fetched)  # 7
        except BaseException as error:  # whatever it is, the departments are told to stop
            fetched.close()
            if isinstance(error, TidegateError):
                self._deliver.failed(recorded, error, fetched.reports)
            raise
        leave = watch.enter("deliver")  # until the answer was read, failed or was given up

        def close() -> None:
            joined.close()
            leave()

        schema = announced.schema if announced is not None else b""
        return self._deliver.deliver(recorded, replace(joined, close=close), schema)  # 8

    def explain(self, request: Request) -> tuple[RecordedPlan, Mapping[str, Barrier]]:
        """Do everything up to the record, and run nothing; what was explained is recorded, and closed at once."""
        recorded = self.prepare(request)
        barriers = self._barriers(recorded)
        self._deliver.explained(recorded)
        return recorded, barriers

    def analyze(self, request: Request, watch: Stopwatch) -> tuple[RecordedPlan, Mapping[str, Barrier], Analysis]:
        """Answer a request as any other, read the answer to its end, and keep what it cost in place of its rows.

        Raises:
            TidegateError: as ``prepare`` and ``run``, and what reading the answer raises: limits hold as for the query.
        """
        recorded = self.prepare(request, watch)
        barriers = self._barriers(recorded)
        answer = self.run(recorded, watch)
        for _ in answer.chunks():
            pass
        if answer.closing is None or answer.record is None:
            raise error_for(Code.INTERNAL, detail="an answer ended without closing its record")
        return recorded, barriers, Analysis(answer.closing, answer.record, watch.rooms)

    def _barriers(self, recorded: RecordedPlan) -> Mapping[str, Barrier]:
        try:
            return self._rewrite.barriers(recorded.restricted)
        except TidegateError as error:
            self._deliver.failed(recorded, error)
            raise
