"""How other tools reach the exchange's Arrow Flight SQL door under this identity: ADBC, JDBC, and what ODBC has to do instead.

Here are addresses, names of options and paths of files; never a key's content. Certificate, issuing CA and key lie together in
``identity.pem``, one file that a renewal replaces as a whole: a tool that reads it for both never meets half of a pair. The
exchange's root, which is public and does not change, is written beside it as ``ca.pem``.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tidegate.core.clock import timestamp
from tidegate.core.errors import Code, error_for
from tidegate.identity.folder import LocalIdentity

PURPOSE_HEADER = "x-tidegate-purpose"
LEGAL_BASIS_HEADER = "x-tidegate-legal-basis"
HEADER_CHARS_MAX = 200

JDBC_DRIVER = "org.apache.arrow:flight-sql-jdbc-driver"
JDBC_CLASS = "org.apache.arrow.driver.jdbc.ArrowFlightJdbcDriver"
JDBC_JVM = "--add-opens=java.base/java.nio=ALL-UNNAMED"
ADBC_DRIVER = "adbc_driver_flightsql"
_ADBC = "adbc.flight.sql."
ADBC_CERTIFICATE = f"{_ADBC}client_option.mtls_cert_chain"
ADBC_KEY = f"{_ADBC}client_option.mtls_private_key"
ADBC_CA = f"{_ADBC}client_option.tls_root_certs"
ADBC_HEADER = f"{_ADBC}rpc.call_header."


@dataclass(frozen=True, slots=True)
class ToolOptions:
    """What a tool has to be told.

    Args:
        address: ``host:port`` of the callers' listener.
        certificate, key, ca: files; the first two are one file, and it is private.
        not_after: end of the certificate; a tool reads the file again when it connects again.
        headers: purpose and legal basis as call headers; empty when there is no default.
    """

    exchange: str
    address: str
    certificate: Path
    key: Path
    ca: Path
    not_after: datetime
    headers: dict[str, str]

    @property
    def adbc_uri(self) -> str:
        """URI for ADBC drivers of any language."""
        return f"grpc+tls://{self.address}"

    @property
    def jdbc_url(self) -> str:
        """URL for the Arrow Flight SQL JDBC driver: parameters that it does not know travel as call headers."""
        pairs = {
            "useEncryption": "true",
            "tlsRootCerts": str(self.ca),
            "clientCertificate": str(self.certificate),
            "clientKey": str(self.key),
            **self.headers,
        }
        query = "&".join(f"{name}={quote(value, safe='/')}" for name, value in pairs.items())
        return f"jdbc:arrow-flight-sql://{self.address}/?{query}"

    def to_json(self) -> dict[str, Any]:
        """Give everything as a document; options whose value is a file's content name the file."""
        return {
            "exchange": self.exchange,
            "address": self.address,
            "certificate": {"file": str(self.certificate), "not_after": timestamp(self.not_after)},
            "key": {"file": str(self.key)},
            "ca": {"file": str(self.ca)},
            "headers": self.headers,
            "adbc": {
                "driver": ADBC_DRIVER,
                "uri": self.adbc_uri,
                "options": {f"{ADBC_HEADER}{name}": value for name, value in self.headers.items()},
                "options_from_files": {
                    ADBC_CERTIFICATE: str(self.certificate),
                    ADBC_KEY: str(self.key),
                    ADBC_CA: str(self.ca),
                },
            },
            "jdbc": {"url": self.jdbc_url, "maven": JDBC_DRIVER, "class": JDBC_CLASS, "jvm": JDBC_JVM},
        }


def call_headers(purpose: str, legal_basis: str) -> dict[str, str]:
    """Give the call headers of a purpose and a legal basis; what is empty is left out.

    Raises:
        CallerError: CLIENT_INPUT; a text that no header can carry.
    """
    pairs = ((PURPOSE_HEADER, "purpose", purpose), (LEGAL_BASIS_HEADER, "legal basis", legal_basis))
    for _, what, value in pairs:
        if len(value) > HEADER_CHARS_MAX or not value.isascii() or not value.isprintable() or value != value.strip():
            raise error_for(Code.CLIENT_INPUT, f"{what}: expected at most {HEADER_CHARS_MAX} plain ASCII letters")
    return {name: value for name, _, value in pairs if value}


def tool_options(folder: Path, identity: LocalIdentity, *, purpose: str = "", legal_basis: str = "") -> ToolOptions:
    """Say what a tool has to be told to act under this identity.

    Args:
        folder: where the identity lies.
    """
    private = (folder / "identity.pem").resolve()
    return ToolOptions(
        exchange=identity.exchange.exchange,
        address=identity.exchange.callers,
        certificate=private,
        key=private,
        ca=(folder / "ca.pem").resolve(),
        not_after=identity.facts.not_after,
        headers=call_headers(purpose, legal_basis),
    )


def write_ca(options: ToolOptions, identity: LocalIdentity) -> None:
    """Write the exchange's root certificate, which is public, where the options say that it lies.

    Raises:
        CallerError: CONFIG_INVALID; the folder cannot be written.
    """
    try:
        if not options.ca.exists() or options.ca.read_bytes() != identity.root_pem:
            temporary = options.ca.with_suffix(".new")
            temporary.write_bytes(identity.root_pem)
            temporary.replace(options.ca)
    except OSError as error:
        raise error_for(Code.CONFIG_INVALID, "identity folder: it cannot be written", detail=str(error)) from error
