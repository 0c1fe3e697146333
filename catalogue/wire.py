"""The catalogue's gRPC service: reads foreign messages, asks who calls, and says who may do what.

Errors leave as ``TidegateError``; the listener's guard turns them into a status. A dataset may be changed by a steward
of its owner, or by a node of its owner (one command registers what a node holds); purposes are the operator's;
agreements need the signature of a steward of the owner, and a steward of the owner brings them here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import grpc

from catalogue.agreements import StoredAgreement
from catalogue.purposes import Purpose, Record
from catalogue.search import SearchQuery
from catalogue.store import Catalogue
from tidegate.core.agreement import Agreement, SignedAgreement
from tidegate.core.caller import Caller
from tidegate.core.canonical import parse_json
from tidegate.core.dataset import Dataset
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.names import DatasetName, IdentityKind
from tidegate.v1 import catalogue_service_pb2 as pb
from tidegate.v1 import catalogue_service_pb2_grpc as pb_grpc

DATASET_BYTES_MAX: Final = 1 << 20
AGREEMENT_BYTES_MAX: Final = 256 * 1024

Identify = Callable[[grpc.ServicerContext], Caller]


class Nodes(Protocol):
    """What the catalogue needs of the attached nodes; ``broker.attachments`` has it."""

    def push_agreement(self, owner: str, signed: SignedAgreement, /) -> bool:
        """Send an agreement to the owner's nodes; True when one of them has stored it."""
        ...

    def push_revocation(self, owner: str, document: bytes, signature: bytes, chain_pem: bytes, /) -> bool:
        """Send a revocation to the owner's nodes; True when one of them has stored it."""
        ...

    def description(self, member: str, node: str, /) -> Sequence[Dataset]:
        """Give what the member's node says that it holds; an empty name means its only node."""
        ...


class CatalogueServicer(pb_grpc.CatalogueServiceServicer):
    """CatalogueService over one catalogue.

    Args:
        identify: gives the caller of a call, or raises.
        record: writes an administrative entry of the audit log, durably; raises when it cannot.
        nodes: the attached nodes.
    """

    def __init__(
        self, catalogue: Catalogue, identify: Identify, record: Callable[[dict[str, Any]], None], nodes: Nodes
    ) -> None:
        self._catalogue = catalogue
        self._identify = identify
        self._record = record
        self._nodes = nodes

    # --- datasets -------------------------------------------------------------------------------------------------

    def Register(self, request: pb.RegisterRequest, context: grpc.ServicerContext) -> pb.RegisterResponse:
        """Add a dataset of the caller's own member."""
        caller = self._identify(context)
        dataset = _dataset(request.dataset_json)
        _require_keeper(caller, dataset.owner)
        done = self._catalogue.register(
            dataset,
            actor=str(caller.identity),
            idempotency_key=request.idempotency_key,
            record=self._recorder(caller),
        )
        return pb.RegisterResponse(dataset_json=_json(done.dataset), notices=done.notices)

    def Update(self, request: pb.UpdateRequest, context: grpc.ServicerContext) -> pb.UpdateResponse:
        """Change a dataset of the caller's own member."""
        caller = self._identify(context)
        dataset = _dataset(request.dataset_json)
        self._require_keeper_of(caller, dataset.name)
        _require_keeper(caller, dataset.owner)
        done = self._catalogue.update(
            dataset,
            expected_version=request.expected_version,
            actor=str(caller.identity),
            idempotency_key=request.idempotency_key,
            record=self._recorder(caller),
        )
        return pb.UpdateResponse(dataset_json=_json(done))

    def Withdraw(self, request: pb.WithdrawRequest, context: grpc.ServicerContext) -> pb.WithdrawResponse:
        """Take a dataset of the caller's own member out of sight."""
        caller = self._identify(context)
        name = _name(request.name)
        self._require_keeper_of(caller, name)
        self._catalogue.withdraw(
            caller.member,
            name,
            reason=request.reason,
            actor=str(caller.identity),
            idempotency_key=request.idempotency_key,
            record=self._recorder(caller),
        )
        return pb.WithdrawResponse()

    def Get(self, request: pb.GetRequest, context: grpc.ServicerContext) -> pb.GetResponse:
        """Give a dataset that the caller may know about."""
        caller = self._identify(context)
        name = _name(request.name)
        dataset = self._catalogue.dataset(caller.member, name, request.version)
        versions = [version.number for version in self._catalogue.versions(caller.member, name)]
        return pb.GetResponse(dataset_json=_json(dataset), versions=versions)

    def List(self, request: pb.ListRequest, context: grpc.ServicerContext) -> pb.ListResponse:
        """Give a page of the datasets that the caller may know about."""
        caller = self._identify(context)
        page = self._catalogue.list_datasets(
            caller.member, owner=request.owner, page_size=request.page_size, page_token=request.page_token
        )
        return pb.ListResponse(dataset_json=map(_json, page.datasets), next_page_token=page.next_page_token)

    def Search(self, request: pb.SearchRequest, context: grpc.ServicerContext) -> pb.SearchResponse:
        """Find datasets that the caller may know about."""
        caller = self._identify(context)
        query = SearchQuery(
            words=request.words,
            column=request.column,
            element=request.element,
            dataset_class=request.dataset_class,
            owner=request.owner,
        )
        found = self._catalogue.search(caller.member, query, page_size=request.page_size, page_token=request.page_token)
        return pb.SearchResponse(
            dataset_json=map(_json, found.datasets),
            next_page_token=found.next_page_token,
            total=found.total,
            facets_json=json.dumps(found.facets, ensure_ascii=False),
        )

    def NodeDescription(
        self, request: pb.NodeDescriptionRequest, context: grpc.ServicerContext
    ) -> pb.NodeDescriptionResponse:
        """Give what a node of the caller's own member says that it holds."""
        caller = self._identify(context)
        _require_keeper(caller, caller.member)
        datasets = self._nodes.description(caller.member, request.node)
        return pb.NodeDescriptionResponse(dataset_json=map(_json, datasets))

    # --- purposes -------------------------------------------------------------------------------------------------

    def ListPurposes(self, request: pb.ListPurposesRequest, context: grpc.ServicerContext) -> pb.ListPurposesResponse:
        """Give the registry of purposes to any caller."""
        self._identify(context)
        purposes = [
            pb.Purpose(code=purpose.code, title=purpose.title, legal_bases=purpose.legal_bases)
            for purpose in self._catalogue.purposes()
        ]
        return pb.ListPurposesResponse(purposes=purposes)

    def AddPurpose(self, request: pb.AddPurposeRequest, context: grpc.ServicerContext) -> pb.AddPurposeResponse:
        """Add or change a purpose; the operator's."""
        caller = self._identify(context)
        _require_role(caller, "operator")
        purpose = request.purpose
        # The same purpose again changes nothing, so this write needs no idempotency key.
        self._catalogue.add_purpose(
            Purpose(purpose.code, purpose.title, tuple(purpose.legal_bases)), record=self._recorder(caller)
        )
        return pb.AddPurposeResponse()

    # --- agreements -----------------------------------------------------------------------------------------------

    def GrantAgreement(
        self, request: pb.GrantAgreementRequest, context: grpc.ServicerContext
    ) -> pb.GrantAgreementResponse:
        """Take a signed agreement on a dataset of the caller's own member, and pass it on to the owner's node."""
        caller = self._identify(context)
        document = parse_json(request.agreement_json, size_bytes_max=AGREEMENT_BYTES_MAX)
        signed = SignedAgreement(Agreement.from_json(document), request.signature, request.chain_pem)
        owner = signed.agreement.owner
        if owner != caller.member:
            raise error_for(Code.CAT_NOT_FOUND)
        _require_role(caller, "steward")
        stored = self._catalogue.put_agreement(signed, record=self._recorder(caller))
        return pb.GrantAgreementResponse(at_node=self._pushed(stored))

    def ListAgreements(
        self, request: pb.ListAgreementsRequest, context: grpc.ServicerContext
    ) -> pb.ListAgreementsResponse:
        """Give agreements of the caller's own member, as owner or grantee; an auditor sees all."""
        caller = self._identify(context)
        page = self._catalogue.list_agreements(
            "" if "auditor" in caller.roles else caller.member,
            dataset=request.dataset,
            grantee=request.grantee,
            page_size=request.page_size,
            page_token=request.page_token,
        )
        return pb.ListAgreementsResponse(
            agreements=map(_stored_agreement, page.agreements), next_page_token=page.next_page_token
        )

    def RevokeAgreement(
        self, request: pb.RevokeAgreementRequest, context: grpc.ServicerContext
    ) -> pb.RevokeAgreementResponse:
        """End an agreement of the caller's own member, and tell the owner's node."""
        caller = self._identify(context)
        document = request.revocation_json.encode()
        content = parse_json(document, size_bytes_max=AGREEMENT_BYTES_MAX)
        agreement_id = content.get("revoke") if isinstance(content, dict) else None
        if not isinstance(agreement_id, str):
            raise error_for(Code.CAT_AGREEMENT, "revocation: expected the fields revoke, at and reason")
        if self._catalogue.agreement(agreement_id).signed.agreement.owner != caller.member:
            raise error_for(Code.CAT_NOT_FOUND)
        _require_role(caller, "steward")
        stored = self._catalogue.revoke_agreement(
            document, request.signature, request.chain_pem, record=self._recorder(caller)
        )
        return pb.RevokeAgreementResponse(at_node=self._pushed(stored))

    # --- inside ---------------------------------------------------------------------------------------------------

    def _pushed(self, stored: StoredAgreement) -> bool:
        """Pass the present state on to the owner's node; one that is away gets it when it attaches."""
        agreement, revocation = stored.signed.agreement, stored.revocation
        if stored.at_node:
            return True
        try:
            if revocation is None:
                there = self._nodes.push_agreement(agreement.owner, stored.signed)
            else:
                there = self._nodes.push_revocation(
                    agreement.owner, revocation.document, revocation.signature, revocation.chain_pem
                )
        except TidegateError:
            return False  # the change is committed and recorded; that the node lacks it is what the answer says
        if there:
            self._catalogue.acknowledge(agreement.id, revoked=revocation is not None)
        return there

    def _recorder(self, caller: Caller) -> Record:
        def record(entry: Mapping[str, Any]) -> None:
            self._record({**entry, "member": caller.member, "identity": str(caller.identity), "person": caller.person})

        return record

    def _require_keeper_of(self, caller: Caller, name: DatasetName) -> None:
        """Refuse unless the dataset is the caller's own; one that the caller may not know about is not there."""
        owner = self._catalogue.dataset(caller.member, name).owner
        _require_keeper(caller, owner)


def _require_keeper(caller: Caller, owner: str) -> None:
    if caller.member != owner:
        raise error_for(Code.ID_ROLE_MISSING, "dataset: only its owner may change it")
    if caller.identity.kind is not IdentityKind.NODE:
        _require_role(caller, "steward")


def _require_role(caller: Caller, role: str) -> None:
    if role not in caller.roles:
        raise error_for(Code.ID_ROLE_MISSING, f"this call needs the role {role}")


def _dataset(text: str) -> Dataset:
    data = parse_json(text.encode(), size_bytes_max=DATASET_BYTES_MAX)
    if not isinstance(data, dict):
        raise error_for(Code.CAT_INVALID, "dataset: expected a JSON object")
    return Dataset.from_json(data)


def _name(text: str) -> DatasetName:
    try:
        return DatasetName.parse(text)
    except TidegateError as error:
        raise error_for(Code.CAT_NOT_FOUND) from error  # no dataset can have such a name


def _json(dataset: Dataset) -> str:
    return json.dumps(dataset.to_json(), ensure_ascii=False)


def _stored_agreement(stored: StoredAgreement) -> pb.StoredAgreement:
    signed = stored.signed
    return pb.StoredAgreement(
        agreement_json=signed.agreement.signed_bytes().decode(),
        signature=signed.signature,
        chain_pem=signed.chain_pem,
        state=stored.state,
    )
