"""Joining and renewal over gRPC: the four calls that hand in a signing request and bring back a certificate.

The only module of ``tidegate.identity`` that reads the generated messages. Each function makes one call on a channel
that its caller opened and closes.
"""

from __future__ import annotations

from typing import TypeVar

import grpc

from tidegate.core.errors import Code, error_for
from tidegate.core.limits import PROTOCOL_VERSION
from tidegate.v1 import common_pb2, member_service_pb2, member_service_pb2_grpc, node_service_pb2, node_service_pb2_grpc
from tidegate.wire import from_rpc_error

CALL_DEADLINE_S = 20.0

Issued = tuple[bytes, bytes]
_Reply = TypeVar("_Reply")


def join(
    channel: grpc.Channel, token: str, csr_pem: bytes, *, deadline_s: float = CALL_DEADLINE_S
) -> tuple[bytes, bytes, str]:
    """Hand in a join token; give certificate, chain and the exchange's description (JSON)."""
    stub = member_service_pb2_grpc.EnrolmentServiceStub(channel)
    request = member_service_pb2.JoinRequest(
        token=token, csr_pem=csr_pem, version=common_pb2.Version(protocol=PROTOCOL_VERSION)
    )
    try:
        reply = stub.Join(request, timeout=deadline_s)
    except grpc.RpcError as error:
        raise from_rpc_error(error) from error
    if reply.version.protocol != PROTOCOL_VERSION:
        raise error_for(
            Code.WIRE_VERSION, f"join: expected protocol version {PROTOCOL_VERSION}, got {reply.version.protocol}"
        )
    return reply.certificate_pem, reply.chain_pem, reply.exchange_json


def renew_expired(
    channel: grpc.Channel,
    certificate_pem: bytes,
    csr_pem: bytes,
    time: str,
    signature: bytes,
    *,
    deadline_s: float = CALL_DEADLINE_S,
) -> Issued:
    """Renew at the enrolment listener, with a request signed by the old key."""
    stub = member_service_pb2_grpc.EnrolmentServiceStub(channel)
    request = member_service_pb2.RenewRequest(
        certificate_pem=certificate_pem, csr_pem=csr_pem, time=time, signature=signature
    )
    try:
        reply = stub.Renew(request, timeout=deadline_s)
    except grpc.RpcError as error:
        raise from_rpc_error(error) from error
    return reply.certificate_pem, reply.chain_pem


def renew_as_caller(channel: grpc.Channel, csr_pem: bytes, *, deadline_s: float = CALL_DEADLINE_S) -> Issued:
    """Renew over the link to the callers' listener (services and persons)."""
    stub = member_service_pb2_grpc.MemberServiceStub(channel)
    try:
        reply = stub.RenewCertificate(member_service_pb2.RenewCertificateRequest(csr_pem=csr_pem), timeout=deadline_s)
    except grpc.RpcError as error:
        raise from_rpc_error(error) from error
    return reply.certificate_pem, reply.chain_pem


def renew_as_node(channel: grpc.Channel, csr_pem: bytes, *, deadline_s: float = CALL_DEADLINE_S) -> Issued:
    """Renew over the link to the nodes' listener."""
    stub = node_service_pb2_grpc.NodeServiceStub(channel)
    try:
        reply = stub.RenewLink(node_service_pb2.RenewLinkRequest(csr_pem=csr_pem), timeout=deadline_s)
    except grpc.RpcError as error:
        raise from_rpc_error(error) from error
    return reply.certificate_pem, reply.chain_pem
