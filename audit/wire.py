"""``AuditService`` over gRPC: checkpoints, proofs and hash tiles for every member, entries and search for auditors.

The only module of ``audit`` that reads generated code. Each search is itself recorded, before it is answered.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from typing import TypeVar

import grpc
import structlog

from audit import entries
from audit.index import PAGE_SIZE_DEFAULT, AuditQuery
from audit.log import AuditLog, FoundEntry
from tidegate.core.caller import Caller
from tidegate.core.canonical import canonical
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.limits import CONTROL_MESSAGE_BYTES_MAX
from tidegate.v1 import audit_service_pb2 as pb
from tidegate.v1 import audit_service_pb2_grpc as rpc
from tidegate.wire import abort

AUDITOR = "auditor"
PROVE_WAIT_S = 5.0  # a checkpoint comes every second
_PATH_CHARS_MAX = 100
# A page ends early rather than exceed a control message; one entry with its side material always fits.
_PAGE_BYTES_MAX = CONTROL_MESSAGE_BYTES_MAX // 2
_FILTERS = ("type", "member", "identity", "dataset", "purpose", "legal_basis", "reason", "request_id", "since", "until")

_Answer = TypeVar("_Answer")
_log = structlog.get_logger("tidegate.audit")


class AuditServicer(rpc.AuditServiceServicer):
    """The service over one log.

    Args:
        identify: gives the caller of a call, or raises or aborts.
    """

    def __init__(self, log: AuditLog, identify: Callable[[grpc.ServicerContext], Caller]) -> None:
        self._log = log
        self._identify = identify

    def Checkpoint(self, request: pb.CheckpointRequest, context: grpc.ServicerContext) -> pb.CheckpointResponse:
        """Give the newest signed checkpoint to any member."""
        return self._answer(context, lambda caller: self._checkpoint())

    def Prove(self, request: pb.ProveRequest, context: grpc.ServicerContext) -> pb.ProveResponse:
        """Give an inclusion proof to any member; an index tells nothing."""
        return self._answer(
            context, lambda caller: pb.ProveResponse(tlog_proof=self._log.prove(request.index, PROVE_WAIT_S))
        )

    def ReadTile(self, request: pb.ReadTileRequest, context: grpc.ServicerContext) -> pb.ReadTileResponse:
        """Give a hash tile to any member, a bundle of entries to an auditor."""
        return self._answer(context, lambda caller: self._read_tile(request, caller))

    def Search(self, request: pb.AuditSearchRequest, context: grpc.ServicerContext) -> pb.AuditSearchResponse:
        """Give matching entries to an auditor."""
        return self._answer(context, lambda caller: self._search(request, caller))

    def _answer(self, context: grpc.ServicerContext, work: Callable[[Caller], _Answer]) -> _Answer:
        caller: Caller | None = None
        try:
            caller = self._identify(context)
            return work(caller)
        except TidegateError as error:
            return abort(context, error)
        except Exception:
            if caller is None:
                raise  # the guard's own abort, which is an exception too
            error_id = secrets.token_hex(8)
            _log.exception("audit service failed", error_id=error_id)
            return abort(context, error_for(Code.INTERNAL, f"an internal error, id {error_id}"))

    def _checkpoint(self) -> pb.CheckpointResponse:
        return pb.CheckpointResponse(checkpoint=self._log.checkpoint(), verifier_key=self._log.verifier_key)

    def _read_tile(self, request: pb.ReadTileRequest, caller: Caller) -> pb.ReadTileResponse:
        if len(request.path) > _PATH_CHARS_MAX:
            raise error_for(Code.WIRE_INVALID, f"tile path: longer than {_PATH_CHARS_MAX} characters")
        if request.path.startswith("tile/entries/"):
            _need_auditor(caller)
        data = self._log.read_tile(request.path)
        return pb.ReadTileResponse(data=data)

    def _search(self, request: pb.AuditSearchRequest, caller: Caller) -> pb.AuditSearchResponse:
        _need_auditor(caller)
        filters = {name: getattr(request, name) for name in _FILTERS if getattr(request, name)}
        query = AuditQuery(
            **filters,
            page_size=request.page_size or PAGE_SIZE_DEFAULT,
            page_token=request.page_token,
        )
        # What the auditor looked for may name a person, so the entry commits to it and the side store keeps it.
        self._log.append(
            entries.admin(
                "search",
                action="search_with_side" if request.with_side else "search",
                actor=caller,
                details={"filters": ",".join(sorted(filters)), "page_token": request.page_token},
            ),
            entries.side_of(caller, filters=filters),
            commit={"query": canonical(filters)},
        )
        found, token = self._log.search(query)
        answer = pb.AuditSearchResponse(next_page_token=token)
        size = 0
        for item in found:
            entry = self._to_wire(item, with_side=request.with_side)
            size += entry.ByteSize()
            if answer.entries and size > _PAGE_BYTES_MAX:
                answer.next_page_token = str(answer.entries[-1].index)
                break
            answer.entries.append(entry)
        return answer

    def _to_wire(self, found: FoundEntry, *, with_side: bool) -> pb.AuditEntry:
        side = self._log.side(found.index) if with_side else None
        side_json = "" if side is None else json.dumps(side, ensure_ascii=False, sort_keys=True)
        return pb.AuditEntry(index=found.index, entry_json=found.entry.decode(), side_json=side_json)


def _need_auditor(caller: Caller) -> None:
    if AUDITOR not in caller.roles:
        raise error_for(Code.ID_ROLE_MISSING, "reading the log's entries needs the role auditor")
