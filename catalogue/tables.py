"""The tables of the catalogue's database, the same on SQLite and PostgreSQL.

Documents (datasets, agreements) are JSON texts: the database indexes what it must find, the value classes of
``tidegate.core`` say what is valid. Times are ``tidegate.core.clock.timestamp`` texts, which sort as they read.
The search index differs by dialect and stands in ``catalogue.search``.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
)

METADATA = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# One row for each part that caches; every writing transaction counts its row up first, which also serialises writers.
COUNTERS = Table(
    "counters",
    METADATA,
    Column("name", Text, nullable=False),
    Column("value", BigInteger, nullable=False),
    PrimaryKeyConstraint("name"),
)

DATASETS = Table(
    "datasets",
    METADATA,
    Column("id", Integer, nullable=False, autoincrement=True),
    Column("name", Text, nullable=False),
    Column("folded", Text, nullable=False),  # case-folded name: DuckDB compares identifiers without case
    Column("department", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("generation", BigInteger, nullable=False),  # of its last change: readers load only what is newer
    Column("document", Text, nullable=False),
    PrimaryKeyConstraint("id"),
    UniqueConstraint("name"),
    UniqueConstraint("folded"),
    Index(None, "department"),
    Index(None, "generation"),
)

DATASET_VERSIONS = Table(
    "dataset_versions",
    METADATA,
    Column("dataset_id", Integer, ForeignKey("datasets.id"), nullable=False),
    Column("version", Integer, nullable=False),
    Column("document", Text, nullable=False),
    Column("actor", Text, nullable=False),  # SPIFFE id
    Column("at", Text, nullable=False),
    Column("reason", Text, nullable=False),
    PrimaryKeyConstraint("dataset_id", "version"),
)

PURPOSES = Table(
    "purposes",
    METADATA,
    Column("code", Text, nullable=False),
    Column("title", Text, nullable=False),
    PrimaryKeyConstraint("code"),
)

PURPOSE_BASES = Table(
    "purpose_bases",
    METADATA,
    Column("purpose", Text, ForeignKey("purposes.code"), nullable=False),
    Column("basis", Text, nullable=False),
    PrimaryKeyConstraint("purpose", "basis"),
)

AGREEMENTS = Table(
    "agreements",
    METADATA,
    Column("id", Text, nullable=False),
    Column("dataset", Text, nullable=False),
    Column("owner", Text, nullable=False),
    Column("grantee", Text, nullable=False),
    Column("document", Text, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("chain_pem", LargeBinary, nullable=False),
    Column("issued_at", Text, nullable=False),
    Column("expires_at", Text, nullable=False),
    Column("revoked_at", Text),
    Column("revocation", Text),
    Column("revocation_signature", LargeBinary),
    Column("revocation_chain_pem", LargeBinary),
    Column("at_node", Boolean, nullable=False),  # the owner's node has acknowledged the present state
    PrimaryKeyConstraint("id"),
    Index(None, "dataset"),
    Index(None, "owner"),
    Index(None, "grantee"),
)

# Answers to writes that carried an idempotency key, so that a retry gets the first answer and changes nothing.
REQUESTS = Table(
    "requests",
    METADATA,
    Column("member", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("answer", Text, nullable=False),
    Column("at", Text, nullable=False),
    PrimaryKeyConstraint("member", "key"),
    Index(None, "at"),
)

MEMBERS = Table(
    "members",
    METADATA,
    Column("name", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("tier", Text, nullable=False),
    Column("joined_at", Text, nullable=False),
    Column("revoked_at", Text),
    Column("reason", Text, nullable=False),
    PrimaryKeyConstraint("name"),
)

IDENTITIES = Table(
    "identities",
    METADATA,
    Column("spiffe_id", Text, nullable=False),
    Column("member", Text, ForeignKey("members.name"), nullable=False),
    Column("roles", Text, nullable=False),  # JSON list
    Column("clearance", Text, nullable=False),
    Column("person", Text, nullable=False),  # opaque; empty for services and nodes
    Column("revoked_at", Text),
    Column("reason", Text, nullable=False),
    PrimaryKeyConstraint("spiffe_id"),
    Index(None, "member"),
)

# No foreign key to identities: a broker has certificates too and is no member.
CERTIFICATES = Table(
    "certificates",
    METADATA,
    Column("serial", Text, nullable=False),
    Column("spiffe_id", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("not_after", Text, nullable=False),
    Column("revoked_at", Text),
    Column("reason", Text, nullable=False),
    PrimaryKeyConstraint("serial"),
    Index(None, "spiffe_id"),
)

TOKENS = Table(
    "tokens",
    METADATA,
    Column("sha256", Text, nullable=False),
    Column("spiffe_id", Text, nullable=False),
    Column("roles", Text, nullable=False),
    Column("clearance", Text, nullable=False),
    Column("expires_at", Text, nullable=False),
    Column("taken_at", Text),
    PrimaryKeyConstraint("sha256"),
    Index(None, "spiffe_id"),
)
