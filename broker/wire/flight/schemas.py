"""The Arrow schemas of Flight SQL's metadata answers, as its protocol documents them.

Drivers find columns by these names and compare the announced schema with the stream's, so nothing here is a matter of taste.
Source: Apache Arrow, FlightSql.proto, the comment above each command.
"""

from __future__ import annotations

import pyarrow as pa
from google.protobuf.message import Message

from tidegate.core.errors import Code, error_for
from tidegate.v1 import flight_sql_pb2 as sql


def _schema(*fields: tuple[str, pa.DataType] | tuple[str, pa.DataType, bool]) -> pa.Schema:
    """Make a schema; a third element says whether a column may be null, which it may unless said otherwise."""
    return pa.schema([pa.field(name, data_type, *nullable) for name, data_type, *nullable in fields])


_TEXT, _INT, _UINT8 = pa.string(), pa.int32(), pa.uint8()
_NOT_NULL = False

SQL_INFO_VALUE = pa.dense_union(
    [
        pa.field("string_value", pa.string()),
        pa.field("bool_value", pa.bool_()),
        pa.field("bigint_value", pa.int64()),
        pa.field("int32_bitmask", pa.int32()),
        pa.field("string_list", pa.list_(pa.field("string_data", pa.string()))),
        pa.field("int32_to_int32_list_map", pa.map_(pa.int32(), pa.list_(pa.field("$data$", pa.int32())))),
    ]
)
SQL_INFO = _schema(("info_name", pa.uint32(), _NOT_NULL), ("value", SQL_INFO_VALUE, _NOT_NULL))
CATALOGS = _schema(("catalog_name", _TEXT, _NOT_NULL))
DB_SCHEMAS = _schema(("catalog_name", _TEXT), ("db_schema_name", _TEXT, _NOT_NULL))
TABLES = _schema(
    ("catalog_name", _TEXT),
    ("db_schema_name", _TEXT),
    ("table_name", _TEXT, _NOT_NULL),
    ("table_type", _TEXT, _NOT_NULL),
)
TABLES_WITH_SCHEMA = TABLES.append(pa.field("table_schema", pa.binary(), _NOT_NULL))
TABLE_TYPES = _schema(("table_type", _TEXT, _NOT_NULL))
PRIMARY_KEYS = _schema(
    ("catalog_name", _TEXT),
    ("db_schema_name", _TEXT),
    ("table_name", _TEXT, _NOT_NULL),
    ("column_name", _TEXT, _NOT_NULL),
    ("key_name", _TEXT),
    ("key_sequence", _INT, _NOT_NULL),
)
FOREIGN_KEYS = _schema(
    ("pk_catalog_name", _TEXT),
    ("pk_db_schema_name", _TEXT),
    ("pk_table_name", _TEXT, _NOT_NULL),
    ("pk_column_name", _TEXT, _NOT_NULL),
    ("fk_catalog_name", _TEXT),
    ("fk_db_schema_name", _TEXT),
    ("fk_table_name", _TEXT, _NOT_NULL),
    ("fk_column_name", _TEXT, _NOT_NULL),
    ("key_sequence", _INT, _NOT_NULL),
    ("fk_key_name", _TEXT),
    ("pk_key_name", _TEXT),
    ("update_rule", _UINT8, _NOT_NULL),
    ("delete_rule", _UINT8, _NOT_NULL),
)
XDBC_TYPES = _schema(
    ("type_name", _TEXT, _NOT_NULL),
    ("data_type", _INT, _NOT_NULL),
    ("column_size", _INT),
    ("literal_prefix", _TEXT),
    ("literal_suffix", _TEXT),
    ("create_params", pa.list_(pa.field("item", _TEXT, nullable=False))),
    ("nullable", _INT, _NOT_NULL),
    ("case_sensitive", pa.bool_(), _NOT_NULL),
    ("searchable", _INT, _NOT_NULL),
    ("unsigned_attribute", pa.bool_()),
    ("fixed_prec_scale", pa.bool_(), _NOT_NULL),
    ("auto_increment", pa.bool_()),
    ("local_type_name", _TEXT),
    ("minimum_scale", _INT),
    ("maximum_scale", _INT),
    ("sql_data_type", _INT, _NOT_NULL),
    ("datetime_subcode", _INT),
    ("num_prec_radix", _INT),
    ("interval_precision", _INT),
)

_BY_COMMAND: dict[type[Message], pa.Schema] = {
    sql.CommandGetSqlInfo: SQL_INFO,
    sql.CommandGetXdbcTypeInfo: XDBC_TYPES,
    sql.CommandGetCatalogs: CATALOGS,
    sql.CommandGetDbSchemas: DB_SCHEMAS,
    sql.CommandGetTables: TABLES,
    sql.CommandGetTableTypes: TABLE_TYPES,
    sql.CommandGetPrimaryKeys: PRIMARY_KEYS,
    sql.CommandGetExportedKeys: FOREIGN_KEYS,
    sql.CommandGetImportedKeys: FOREIGN_KEYS,
    sql.CommandGetCrossReference: FOREIGN_KEYS,
}
COMMANDS = frozenset(_BY_COMMAND)
"""The types of the commands that ask for metadata."""


def schema_of(command: Message) -> pa.Schema:
    """Give the schema of a command's answer; nothing is looked up for it.

    Raises:
        CallerError: WIRE_UNSUPPORTED, not a command that asks for metadata.
    """
    if isinstance(command, sql.CommandGetTables) and command.include_schema:
        return TABLES_WITH_SCHEMA
    found = _BY_COMMAND.get(type(command))
    if found is None:
        raise error_for(Code.WIRE_UNSUPPORTED, "Flight SQL: not a command that asks for metadata")
    return found
