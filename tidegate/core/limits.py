"""Every limit that more than one room shares, with unit and reason. A limit of one room alone stands in that room."""

from __future__ import annotations

SQL_BYTES_MAX = 64 * 1024  # longer texts are programs' output; the planner's cost grows with them
SQL_DEPTH_MAX = 100  # nesting, counted on tokens before anything is parsed (design planner.md, two parsers)
SQL_JOINS_MAX = 40
SQL_CTES_MAX = 40
SQL_PARAMETERS_MAX = 1_000
PLAN_DEADLINE_S = 5.0  # a planning process that takes longer is killed

QUERY_DEADLINE_S = 60.0  # default
QUERY_DEADLINE_S_MAX = 600.0
ROWS_MAX = 10_000_000  # of a result, when policy says nothing stricter
LEAF_ROWS_MAX = 50_000_000
LEAF_BYTES_MAX = 4 << 30
BATCH_BYTES_MAX = 4 << 20  # ADBC's default receive limit is 16 MiB; 4 MB keeps flow control fine-grained (doors.md)
BATCH_ROWS_MAX = 65_536
KEYS_MAX = 1_000_000  # keys that one fragment is given; beyond, its answer is rather larger
KEYS_BYTES_MAX = (
    10 << 20
)  # of them, as Arrow: in the fragment's own message (MESSAGE_BYTES_MAX) beside up to 4 MiB of parameters
REDUCTIONS_MAX = 64  # of one fragment
FEATURE_WHOLE = "whole"  # a caller that takes a small answer as one message says so
SMALL_ANSWER_BYTES_MAX = 256 * 1024  # up to here an answer rides the Attach stream (house.md, Who dials whom)

MESSAGE_BYTES_MAX = 16 << 20  # gRPC messages that carry Arrow batches
CONTROL_MESSAGE_BYTES_MAX = 4 << 20
METADATA_BYTES_MAX = 8 << 10
ENTRY_BYTES_MAX = 8 << 10  # of a log entry (design evidence.md)
PAGE_SIZE_MAX = 1_000

LEAF_CERTIFICATE_HOURS = 24
RENEWAL_GRACE_DAYS = 30
JOIN_TOKEN_HOURS = 24
PROTOCOL_VERSION = 1
