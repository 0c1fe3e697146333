"""The broker's services over one channel: takes and gives plain values."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

import grpc

from tidegate.client.facts import ExplainedFacts
from tidegate.client.wire.reading import json_object, text
from tidegate.client.wire.stream import Stream, receipt_facts
from tidegate.client.wire.stream import item as stream_item
from tidegate.core.errors import TidegateError
from tidegate.core.limits import FEATURE_WHOLE, PROTOCOL_VERSION
from tidegate.core.values import Value, encode
from tidegate.telemetry import NO_TRACE, Trace, client_trace, metadata_of
from tidegate.v1 import (
    audit_service_pb2,
    audit_service_pb2_grpc,
    catalogue_service_pb2,
    catalogue_service_pb2_grpc,
    common_pb2,
    member_service_pb2,
    member_service_pb2_grpc,
    query_service_pb2,
    query_service_pb2_grpc,
)
from tidegate.wire import from_rpc_error

CALL_DEADLINE_S = 30.0  # of every call but a query's
_Answer = TypeVar("_Answer")


def _parameters(parameters: Sequence[Value] | Mapping[str, Value] | None) -> str:
    if not parameters:
        return ""
    if isinstance(parameters, Mapping):
        return json.dumps({name: encode(value) for name, value in parameters.items()})
    return json.dumps([encode(value) for value in parameters])


class Transport:
    """The broker's services over one channel."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self._query = query_service_pb2_grpc.QueryServiceStub(channel)
        self._execute = channel.unary_stream(
            "/tidegate.v1.QueryService/Execute",
            request_serializer=query_service_pb2.ExecuteRequest.SerializeToString,
            response_deserializer=stream_item,
        )
        self._catalogue = catalogue_service_pb2_grpc.CatalogueServiceStub(channel)
        self._audit = audit_service_pb2_grpc.AuditServiceStub(channel)
        self._members = member_service_pb2_grpc.MemberServiceStub(channel)

    def __enter__(self) -> Transport:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    @staticmethod
    def _call(
        method: Callable[..., _Answer], request: Any, deadline_s: float = CALL_DEADLINE_S, trace: Trace = NO_TRACE
    ) -> _Answer:
        try:
            return method(request, timeout=deadline_s, metadata=metadata_of(trace))
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    def _traced(self, name: str, method: Callable[..., _Answer], request: Any, deadline_s: float) -> _Answer:
        trace, code = client_trace(name), ""
        try:
            return self._call(method, request, deadline_s, trace)
        except TidegateError as error:
            code = error.code.value
            raise
        finally:
            trace.end(code)

    # queries

    def execute(
        self,
        sql: str,
        *,
        purpose: str,
        legal_basis: str,
        parameters: Sequence[Value] | Mapping[str, Value] | None,
        deadline_s: float,
    ) -> Stream:
        """Start a query."""
        request = query_service_pb2.ExecuteRequest(
            sql=text(sql, "SQL"),
            purpose=purpose,
            legal_basis=legal_basis,
            parameters_json=_parameters(parameters),
            deadline_s=deadline_s,
            version=common_pb2.Version(protocol=PROTOCOL_VERSION, features=(FEATURE_WHOLE,)),
        )
        # A second more than the broker's own deadline, so that its clear error arrives rather than ours.
        trace = client_trace("tidegate.query")
        call = self._execute(request, timeout=deadline_s + 1.0, metadata=metadata_of(trace))
        return Stream(call, trace)

    def explain(
        self,
        sql: str,
        *,
        purpose: str,
        legal_basis: str,
        parameters: Sequence[Value] | Mapping[str, Value] | None,
        analyze: bool = False,
        deadline_s: float = CALL_DEADLINE_S,
    ) -> ExplainedFacts:
        """Ask for the plan; with ``analyze``, for its cost too, which takes as long as the query does."""
        answer = self._traced(
            "tidegate.explain",
            self._query.Explain,
            query_service_pb2.ExplainRequest(
                sql=text(sql, "SQL"),
                purpose=purpose,
                legal_basis=legal_basis,
                parameters_json=_parameters(parameters),
                analyze=analyze,
                deadline_s=deadline_s,
            ),
            deadline_s + 1.0,  # a second more than the broker's own, as ``execute``
        )
        return ExplainedFacts(
            json_object(answer.plan_json, "plan"),
            answer.picture,
            answer.request_id,
            receipt_facts(answer.receipt),
            receipt_facts(answer.outcome) if answer.HasField("outcome") else None,
        )

    # catalogue

    def register(self, dataset: Mapping[str, Any], key: str) -> tuple[dict[str, Any], list[str]]:
        """Register a dataset."""
        answer = self._call(
            self._catalogue.Register,
            catalogue_service_pb2.RegisterRequest(dataset_json=json.dumps(dataset), idempotency_key=key),
        )
        return json_object(answer.dataset_json, "dataset"), list(answer.notices)

    def update(self, dataset: Mapping[str, Any], expected_version: int, key: str) -> dict[str, Any]:
        """Register a changed description."""
        answer = self._call(
            self._catalogue.Update,
            catalogue_service_pb2.UpdateRequest(
                dataset_json=json.dumps(dataset), expected_version=expected_version, idempotency_key=key
            ),
        )
        return json_object(answer.dataset_json, "dataset")

    def withdraw(self, name: str, reason: str, key: str) -> None:
        """Withdraw a dataset."""
        self._call(
            self._catalogue.Withdraw,
            catalogue_service_pb2.WithdrawRequest(name=name, reason=reason, idempotency_key=key),
        )

    def dataset(self, name: str, version: int = 0) -> tuple[dict[str, Any], list[int]]:
        """Get one dataset, and the numbers of its versions."""
        answer = self._call(self._catalogue.Get, catalogue_service_pb2.GetRequest(name=name, version=version))
        return json_object(answer.dataset_json, "dataset"), list(answer.versions)

    def datasets(self, owner: str, page_token: str) -> tuple[list[dict[str, Any]], str]:
        """List datasets, a page at a time."""
        answer = self._call(
            self._catalogue.List,
            catalogue_service_pb2.ListRequest(owner=owner, page_size=500, page_token=page_token),
        )
        return [json_object(item, "dataset") for item in answer.dataset_json], answer.next_page_token

    def search(
        self, words: str, *, column: str, element: str, dataset_class: str, owner: str, page_size: int, page_token: str
    ) -> tuple[list[dict[str, Any]], int, dict[str, Any], str]:
        """Search: datasets best first, how many in all, facets, next page's token."""
        answer = self._call(
            self._catalogue.Search,
            catalogue_service_pb2.SearchRequest(
                words=words,
                column=column,
                element=element,
                dataset_class=dataset_class,
                owner=owner,
                page_size=page_size,
                page_token=page_token,
            ),
        )
        found = [json_object(item, "dataset") for item in answer.dataset_json]
        return found, answer.total, json_object(answer.facets_json, "facets"), answer.next_page_token

    def node_description(self, node: str) -> list[dict[str, Any]]:
        """Ask what the caller's own node says that it holds."""
        answer = self._call(self._catalogue.NodeDescription, catalogue_service_pb2.NodeDescriptionRequest(node=node))
        return [json_object(item, "dataset") for item in answer.dataset_json]

    def purposes(self) -> list[dict[str, Any]]:
        """List the registered purposes."""
        answer = self._call(self._catalogue.ListPurposes, catalogue_service_pb2.ListPurposesRequest())
        return [
            {"code": item.code, "title": item.title, "legal_bases": list(item.legal_bases)} for item in answer.purposes
        ]

    def add_purpose(self, code: str, title: str, legal_bases: Sequence[str], key: str) -> None:
        """Register a purpose."""
        purpose = catalogue_service_pb2.Purpose(code=code, title=title, legal_bases=legal_bases)
        self._call(
            self._catalogue.AddPurpose,
            catalogue_service_pb2.AddPurposeRequest(purpose=purpose, idempotency_key=key),
        )

    def grant_agreement(self, document: bytes, signature: bytes, chain_pem: bytes, key: str) -> bool:
        """Store a signed agreement; True when the owner's node has it already."""
        answer = self._call(
            self._catalogue.GrantAgreement,
            catalogue_service_pb2.GrantAgreementRequest(
                agreement_json=document.decode(), signature=signature, chain_pem=chain_pem, idempotency_key=key
            ),
        )
        return answer.at_node

    def agreements(self, dataset: str, grantee: str) -> list[dict[str, Any]]:
        """List agreements that the caller may see."""
        found: list[dict[str, Any]] = []
        token = ""
        while True:
            answer = self._call(
                self._catalogue.ListAgreements,
                catalogue_service_pb2.ListAgreementsRequest(
                    dataset=dataset, grantee=grantee, page_size=500, page_token=token
                ),
            )
            found += [
                {**json_object(item.agreement_json, "agreement"), "state": item.state} for item in answer.agreements
            ]
            token = answer.next_page_token
            if not token:
                return found

    def revoke_agreement(self, document: bytes, signature: bytes, chain_pem: bytes, key: str) -> bool:
        """Revoke an agreement; True when the owner's node knows already."""
        answer = self._call(
            self._catalogue.RevokeAgreement,
            catalogue_service_pb2.RevokeAgreementRequest(
                revocation_json=document.decode(), signature=signature, chain_pem=chain_pem, idempotency_key=key
            ),
        )
        return answer.at_node

    # members

    def add_member(self, fields: Mapping[str, Any], key: str) -> tuple[str, str, str]:
        """Prepare a member's joining: (token, identity, expiry)."""
        answer = self._call(self._members.AddMember, member_service_pb2.AddMemberRequest(idempotency_key=key, **fields))
        return answer.token, answer.identity, answer.expires_at

    def members(self) -> list[dict[str, Any]]:
        """List members with their identities."""
        found: list[dict[str, Any]] = []
        token = ""
        while True:
            answer = self._call(
                self._members.ListMembers, member_service_pb2.ListMembersRequest(page_size=200, page_token=token)
            )
            found += [_member(item) for item in answer.members]
            token = answer.next_page_token
            if not token:
                return found

    def revoke(self, *, member: str, identity: str, serial: str, reason: str, key: str) -> None:
        """Revoke a member, an identity or one certificate."""
        self._call(
            self._members.Revoke,
            member_service_pb2.RevokeRequest(
                member=member, identity=identity, serial=serial, reason=reason, idempotency_key=key
            ),
        )

    def set_roles(self, identity: str, roles: Sequence[str], clearance: str, key: str) -> None:
        """Set the roles of an identity."""
        self._call(
            self._members.SetRoles,
            member_service_pb2.SetRolesRequest(
                identity=identity, roles=roles, clearance=clearance, idempotency_key=key
            ),
        )

    def renew(self, csr_pem: bytes) -> tuple[bytes, bytes]:
        """Renew the caller's certificate: (certificate, chain)."""
        answer = self._call(self._members.RenewCertificate, member_service_pb2.RenewCertificateRequest(csr_pem=csr_pem))
        return answer.certificate_pem, answer.chain_pem

    def issue_token(self, lifetime_s: int) -> tuple[str, str, str]:
        """Get a bearer token: the token, when it ends, and the address of the listener that takes it."""
        answer = self._call(self._members.IssueToken, member_service_pb2.IssueTokenRequest(lifetime_s=lifetime_s))
        return answer.token, answer.expires_at, answer.address

    def whoami(self) -> dict[str, Any]:
        """Ask how the broker sees the caller."""
        answer = self._call(self._members.WhoAmI, member_service_pb2.WhoAmIRequest())
        return {
            "identity": answer.identity,
            "roles": list(answer.roles),
            "clearance": answer.clearance,
            "tier": answer.tier,
            "not_after": answer.not_after,
            "protocol": answer.version.protocol,
            "software": answer.version.software,
            "exchange": json_object(answer.exchange_json, "exchange"),
        }

    # the log

    def checkpoint(self) -> tuple[bytes, str]:
        """Get the newest checkpoint and the verifier key."""
        answer = self._call(self._audit.Checkpoint, audit_service_pb2.CheckpointRequest())
        return answer.checkpoint, answer.verifier_key

    def prove(self, index: int) -> bytes:
        """Get an inclusion proof as a .tlog-proof."""
        return self._call(self._audit.Prove, audit_service_pb2.ProveRequest(index=index)).tlog_proof

    def tile(self, path: str) -> bytes:
        """Read one file of the log."""
        return self._call(self._audit.ReadTile, audit_service_pb2.ReadTileRequest(path=path)).data

    def audit_search(self, fields: Mapping[str, Any]) -> tuple[list[dict[str, Any]], str]:
        """Search the log: entries newest first, next page's token."""
        answer = self._call(self._audit.Search, audit_service_pb2.AuditSearchRequest(**fields))
        entries = [
            {
                "index": item.index,
                "entry": json_object(item.entry_json, "entry"),
                "side": json_object(item.side_json, "side") if item.side_json else None,
            }
            for item in answer.entries
        ]
        return entries, answer.next_page_token


def _member(item: member_service_pb2.Member) -> dict[str, Any]:
    return {
        "name": item.name,
        "title": item.title,
        "tier": item.tier,
        "revoked": item.revoked,
        "attached": item.attached,
        "identities": [
            {
                "spiffe_id": identity.spiffe_id,
                "roles": list(identity.roles),
                "clearance": identity.clearance,
                "revoked": identity.revoked,
                "not_after": identity.not_after,
            }
            for identity in item.identities
        ],
    }
