"""Making an exchange: CA, audit log, catalogue, configuration, the operator's invitation. Nothing is ever overwritten."""

from __future__ import annotations

import socket
from pathlib import Path

import tomli_w

from audit.log import AuditLog
from broker.administration import Administration
from broker.authority import Authority
from broker.config import parse_config
from broker.enrolment import Enrolment
from catalogue.database import open_database
from catalogue.members import MemberDirectory
from engine import landlock
from tidegate.core.clock import SystemClock, SystemIds
from tidegate.core.errors import Code, error_for
from tidegate.core.names import IdentityKind
from tidegate.identity.folder import ExchangeInfo
from tidegate.identity.keys import write_private

BROKER_NAME = "broker1"


def create_exchange(
    folder: Path,
    *,
    exchange: str,
    host: str,
    listen: str,
    port: int,
    operator: str,
    operator_name: str = "operator",
    database: str = "",
) -> str:
    """Make an exchange in a new folder; give the operator's join token.

    Args:
        port: of the callers' listener; nodes and enrolment take the next two. 0: three free ones.
        database: URL of a PostgreSQL database for the catalogue; empty: SQLite in the folder.

    Raises:
        CallerError: CONFIG_INVALID: the folder is not empty, or a value is not valid.
    """
    if folder.exists() and any(folder.iterdir()):
        raise error_for(Code.CONFIG_INVALID, "init: the folder is not empty; nothing is ever overwritten")
    ports = _free_ports() if port == 0 else (port, port + 1, port + 2)
    document: dict[str, dict[str, str]] = {
        "exchange": {"name": exchange, "broker": BROKER_NAME, "host": host},
        "listen": {
            name: f"{listen}:{number}" for name, number in zip(("callers", "nodes", "enrolment"), ports, strict=True)
        },
    }
    if landlock.abi() == 0:  # said by `tidegate init`; the file shows it, so that nobody has to remember
        document["limits"] = {"sandbox": "available"}
    if database:
        document["storage"] = {"database": database}
    config = parse_config(document, folder.absolute(), {})
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    clock, ids = SystemClock(), SystemIds()
    authority = Authority.create(config.authority_folder, exchange, clock)
    year = clock.now().year
    log = AuditLog.create(config.log_folder, f"{exchange}/{BROKER_NAME}/audit/{year}", clock, ids)
    engine = open_database(config.database_url)
    try:
        members = MemberDirectory(engine, clock, ids=ids)
        told = ExchangeInfo(
            exchange=exchange,
            callers=f"{host}:{ports[0]}",
            nodes=f"{host}:{ports[1]}",
            enrolment=f"{host}:{ports[2]}",
            log_origin=log.origin,
            log_verifier_key=log.verifier_key,
        )
        enrolment = Enrolment(
            authority=authority,
            members=members,
            clock=clock,
            ids=ids,
            record=Administration(log).record,
            exchange=told,
        )
        invitation = enrolment.invite(
            member=operator,
            kind=IdentityKind.PERSON,
            name=operator_name,
            roles=("operator",),
            clearance="public",
            title="Operator of the exchange",
            tier="government",
        )
    finally:
        engine.dispose()
        log.close()
    # Last: a folder in which this was interrupted holds no broker.toml and does not start.
    # Private: the database's URL may hold a password.
    write_private(folder / "broker.toml", tomli_w.dumps(document).encode())
    return invitation.token


def _free_ports() -> tuple[int, int, int]:
    sockets = [socket.socket() for _ in range(3)]
    try:
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        first, second, third = (int(item.getsockname()[1]) for item in sockets)
        return first, second, third
    finally:
        for item in sockets:
            item.close()
