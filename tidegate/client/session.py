"""A session: one identity at one exchange."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tidegate.channel import open_channel
from tidegate.client.catalogue import CatalogueClient
from tidegate.client.contexts import Context, Contexts, with_environment
from tidegate.client.explained import Explained, explained
from tidegate.client.expressions import IbisTables, statement
from tidegate.client.facts import ExplainedFacts
from tidegate.client.receipts import VerifiedReceipt, verify_note
from tidegate.client.result import Result
from tidegate.client.wire import Transport
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.limits import QUERY_DEADLINE_S
from tidegate.core.values import Value
from tidegate.identity.folder import IdentityFolder, LocalIdentity
from tidegate.identity.joining import renew_if_due

if TYPE_CHECKING:
    from ibis.expr.types import Expr


class Session:
    """A connection under one identity. Close it, or use it as a context manager."""

    def __init__(
        self, identity: LocalIdentity, transport: Transport, *, purpose: str = "", legal_basis: str = ""
    ) -> None:
        self.identity = identity
        self.transport = transport
        self.purpose = purpose
        self.legal_basis = legal_basis
        self.catalogue = CatalogueClient(transport)

    @property
    def ibis(self) -> IbisTables:
        """Tables for ibis expressions: ``exchange.query(exchange.ibis.table("health.visits").count())``."""
        return IbisTables(self.catalogue)

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self.transport.close()

    def query(
        self,
        query: str | Expr,
        *,
        purpose: str | None = None,
        legal_basis: str | None = None,
        params: Sequence[Value] | Mapping[Any, Value] | None = None,
        deadline_s: float = QUERY_DEADLINE_S,
        keep: Path | None = None,
    ) -> Result:
        """Ask the exchange.

        Args:
            query: SQL, or an unbound ibis expression (``session.ibis.table``), which is compiled here and sent as SQL.
            params: values for ``?`` and ``$1`` (a sequence) or ``$name`` (a mapping); of an expression, a mapping from
                ``ibis.param`` to its value.
            keep: folder to keep the answer's very bytes in; ``result.save()`` then puts the verified receipts beside them.

        Raises:
            Refused: with reasons; the refusal is recorded and carries its receipt.
            CallerError, Overloaded, PeerError: see docs/ERRORS.md.
        """
        sql, params = statement(query, params)
        if explained(sql) is not None:
            raise error_for(Code.CLIENT_INPUT, "EXPLAIN: ask for the plan with explain(), which runs nothing")
        stream = self.transport.execute(
            sql,
            purpose=self.purpose if purpose is None else purpose,
            legal_basis=self.legal_basis if legal_basis is None else legal_basis,
            parameters=params,
            deadline_s=deadline_s,
        )
        return Result(stream, self.identity.exchange.log_verifier_key, self.transport.prove, keep=keep)

    def explain(
        self,
        query: str | Expr,
        *,
        purpose: str | None = None,
        legal_basis: str | None = None,
        params: Sequence[Value] | Mapping[Any, Value] | None = None,
        analyze: bool = False,
        deadline_s: float = QUERY_DEADLINE_S,
    ) -> ExplainedFacts:
        """Ask for the plan: who would be asked what, what would be filtered or masked. Runs nothing; is recorded.

        The statement may begin with EXPLAIN or EXPLAIN ANALYZE, or be the query alone; or it is an ibis expression.

        Args:
            analyze: run the query, decided, recorded and limited as any; its rows are thrown away at the broker, and what
                it cost is in the plan: rows and bytes where they may be told, and times.
        """
        sql, params = statement(query, params)
        asked = explained(sql) or Explained(sql, analyze=False)
        return self.transport.explain(
            asked.sql,
            analyze=analyze or asked.analyze,
            deadline_s=deadline_s,
            purpose=self.purpose if purpose is None else purpose,
            legal_basis=self.legal_basis if legal_basis is None else legal_basis,
            parameters=params,
        )

    def verify_refusal(self, error: TidegateError) -> VerifiedReceipt:
        """Check the receipt that a refusal carries: the log signed it, and the refusal is in the log.

        Raises:
            IntegrityError: AUDIT_VERIFICATION. CallerError: CLIENT_INPUT; the error carries none, so nothing was recorded.
        """
        if not error.receipt:
            raise error_for(Code.CLIENT_INPUT, "receipt: the error carries none")
        return verify_note(error.receipt, self.identity.exchange.log_verifier_key, self.transport.prove)

    def whoami(self) -> dict[str, Any]:
        """Ask how the broker sees this identity."""
        return self.transport.whoami()


def open_session(context: str | None, *, identity: str | None, purpose: str | None) -> Session:
    """Open a session by context name or identity folder; see ``tidegate.connect``."""
    chosen = with_environment(Context("", Path(identity))) if identity else Contexts().find(context)
    local = renew_if_due(IdentityFolder(chosen.identity))
    channel = open_channel(local.exchange.callers, local)
    return Session(local, Transport(channel), purpose=purpose or chosen.purpose, legal_basis=chosen.legal_basis)
