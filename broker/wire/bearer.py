"""The guard of the bearer listener: the caller is whose token it shows, and is known as bound by nothing more.

Off unless the operator names its address. Server TLS only, Flight SQL and health alone; everything else is as on the
callers' listener: limits, the watch of open calls, clean errors, recorded refusals. No password is taken here.
"""

from __future__ import annotations

from typing import Any

import grpc
import structlog

from broker.config import BrokerConfig
from broker.identify import TLS_VERSION
from broker.listeners import BEARER_LONG_MAX
from broker.tokens import Failures, Tokens
from broker.wire.guard import CallLimits, Guard, credentials
from tidegate.core.clock import Clock, Ids
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.names import IdentityKind
from tidegate.identity.certificates import CertificateFacts

_HOW = "get a token with `tidegate token`, where your certificate is, and send it as `authorization: Bearer TOKEN`"


class BearerGuard(Guard):
    """See the module."""

    def __init__(self, *, tokens: Tokens, clock: Clock, **more: Any) -> None:
        super().__init__(clock=clock, kinds=frozenset({IdentityKind.PERSON}), **more)
        self._tokens = tokens
        self._bearer_log = structlog.get_logger(__name__)
        self.failures = Failures(clock)

    def read(self, context: grpc.ServicerContext) -> CertificateFacts:
        """Say for which certificate the call's token was issued.

        Raises:
            CallerError: ID_BEARER, ID_TLS_VERSION. Overloaded: BUSY, this address has shown too many that are none.
        """
        if credentials(context).tls_version != TLS_VERSION:
            raise error_for(Code.ID_TLS_VERSION)
        given = [value for key, value in context.invocation_metadata() if key == "authorization"]
        if len(given) == 1 and isinstance(given[0], str):
            scheme, _, token = given[0].strip().partition(" ")
            shown = self._tokens.find(token.strip()) if scheme.lower() == "bearer" else None
            if shown is not None:
                return shown
        raise self._problem(context, given)

    def _problem(self, context: grpc.ServicerContext, given: list[Any]) -> TidegateError:
        address = context.peer().rpartition(":")[0]
        count, left_s = self.failures.count(address)
        if count == Failures.PER_WINDOW_MAX + 1:
            self._bearer_log.warning("many calls without a good bearer token from one address", count=count)
        if count > Failures.PER_WINDOW_MAX:
            return error_for(Code.BUSY, "too many calls without a good bearer token", retry_after_s=max(left_s, 1.0))
        if any(isinstance(value, str) and value.strip().lower().startswith("basic") for value in given):
            return error_for(Code.ID_BEARER, f"no password is taken here; {_HOW}")
        return error_for(Code.ID_BEARER, f"the bearer token is missing, unknown or has ended; {_HOW}")


def bearer_door(
    config: BrokerConfig, *, clock: Clock, ids: Ids, long_methods: frozenset[str], **shared: Any
) -> tuple[Tokens | None, BearerGuard | None]:
    """Make the tokens and the guard of the bearer listener, where the operator named its address."""
    if not config.listen.bearer:
        return None, None
    tokens = Tokens(clock=clock, ids=ids)
    limits = CallLimits(
        long_methods=long_methods,
        long_max=BEARER_LONG_MAX,
        per_caller_max=max(config.limits.requests_per_member_max * 2, 8),
    )
    return tokens, BearerGuard(tokens=tokens, clock=clock, ids=ids, limits=limits, **shared)
