"""The hall: the only module that knows the order of the rooms. Rooms 1 to 5 are ``prepare``, 6 to 8 are ``run``.

Both doors call the same two halves. Nothing below may be reordered: the types see to it, and a spy at the transport proves
that a refusal, or a request that could not be recorded, asks no node for anything.
"""

from __future__ import annotations

from collections.abc import Mapping

from broker.analysis import Analysis, Stopwatch
from broker.decide import Decide
from broker.deliver import Answer, Deliver
from broker.fetch import Fetch
from broker.join import Join
from broker.plan import Plan
from broker.record import Record
from broker.rewrite import Rewrite
from broker.values import DecidedPlan, RecordedPlan, Request
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
    ) -> None:
        self._plan = plan
        self._decide = decide
        self._rewrite = rewrite
        self._record = record
        self._fetch = fetch
        self._join = join
        self._deliver = deliver

    def prepare(self, request: Request, watch: Stopwatch | None = None) -> RecordedPlan:
        """Plan, decide, rewrite and record; a refusal is recorded before it is raised.

        Raises:
            Refused: with the reasons and the refusal's receipt.
            CallerError: PLAN_*; recorded as a refusal too.
        """
        watch = watch or Stopwatch()
        try:
            with watch.room("plan"):
                plan = self._plan.plan(request)  # 2
        except TidegateError as error:
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
                restricted = self._rewrite.rewrite(decided)  # 4
        except TidegateError as error:
            raise self._refused(request, decided, error) from error
        with watch.room("record"):
            return self._record.record(restricted)  # 5: no receipt, no data

    def _refused(self, request: Request, decided: DecidedPlan | None, error: TidegateError) -> TidegateError:
        """Record a refusal; when even that fails, the caller hears that nothing could be recorded."""
        error.request_id = request.id
        error.receipt = self._record.refusal(request, decided, error)
        return error

    def run(self, recorded: RecordedPlan, watch: Stopwatch | None = None) -> Answer:
        """Fetch, join and deliver a recorded plan."""
        watch = watch or Stopwatch()
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
        return self._deliver.deliver(recorded, joined)  # 8

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
        with watch.room("deliver"):
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
