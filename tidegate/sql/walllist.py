"""The second wall's lists: nodes of DuckDB 2.0's serialised tree, their keys, and functions.

Written from DuckDB's own tree and its list of functions, not from ``functions.FUNCTIONS``: a mistake in one must not be in
both. A key that a new version of DuckDB adds is refused until somebody has read what it means.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from tidegate.sql.words import words

EVERYWHERE = frozenset({"class", "type", "alias", "query_location", "query_location_length"})

QUERIES: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "SELECT_NODE": words(
            """
    type modifiers cte_map select_list from_table where_clause group_expressions group_sets
    aggregate_handling having qualify
    """
        ),
        "SET_OPERATION_NODE": frozenset(["type", "modifiers", "cte_map", "setop_type", "setop_all", "children"]),
    }
)
CTE_KEYS = frozenset({"materialized", "query_node"})
MODIFIERS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "ORDER_MODIFIER": frozenset({"type", "orders"}),
        "LIMIT_MODIFIER": frozenset({"type", "limit", "offset"}),
        "DISTINCT_MODIFIER": frozenset({"type", "distinct_on_targets"}),
    }
)
ORDER_KEYS = frozenset({"type", "null_order", "expression"})
TABLES: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "BASE_TABLE": words(
            """
    type alias query_location query_location_length schema_name table_name qualified_name column_name_alias
    """
        ),
        "SUBQUERY": frozenset(
            ["type", "alias", "query_location", "query_location_length", "subquery", "column_name_alias"]
        ),
        "JOIN": words(
            """
    type alias query_location query_location_length left right condition join_type ref_type is_implicit
    """
        ),
        "EXPRESSION_LIST": frozenset(
            [
                "type",
                "alias",
                "query_location",
                "query_location_length",
                "values",
                "expected_names",
                "column_name_alias",
            ]
        ),
        "EMPTY": frozenset({"type", "query_location", "query_location_length"}),
    }
)
JOINS = frozenset({"INNER", "LEFT", "RIGHT", "FULL", "OUTER", "SEMI", "ANTI"})

_COMPARISON = frozenset({"left", "right"})
_CHILDREN = frozenset({"children"})
_WINDOW = words(
    """
    function_name qualified_name arguments partitions orders start end start_expr end_expr offset_expr
    default_expr filter_expr ignore_nulls has_ignore_nulls distinct exclude_clause children arg_orders order_bys
    """
)
EXPRESSIONS: Mapping[tuple[str, str], frozenset[str]] = MappingProxyType(
    {
        ("COLUMN_REF", "COLUMN_REF"): frozenset({"column_names"}),
        ("CONSTANT", "VALUE_CONSTANT"): frozenset({"literal"}),
        ("PARAMETER", "VALUE_PARAMETER"): frozenset({"identifier"}),
        ("BETWEEN", "COMPARE_BETWEEN"): frozenset({"input", "lower", "upper"}),
        ("CASE", "CASE_EXPR"): frozenset({"case_checks", "else_expr"}),
        ("CAST", "OPERATOR_CAST"): frozenset({"child", "type_expr", "try_cast"}),
        ("CONJUNCTION", "CONJUNCTION_AND"): _CHILDREN,
        ("CONJUNCTION", "CONJUNCTION_OR"): _CHILDREN,
        ("FUNCTION", "FUNCTION"): frozenset(
            ["function_name", "qualified_name", "arguments", "filter", "order_bys", "distinct", "is_operator"]
        ),
        ("LAMBDA", "LAMBDA"): frozenset({"lhs", "expr", "syntax_type"}),
        ("SUBQUERY", "SUBQUERY"): frozenset({"subquery", "subquery_type", "child", "comparison_type"}),
        **{
            ("COMPARISON", f"COMPARE_{name}"): _COMPARISON
            for name in (
                "EQUAL",
                "NOTEQUAL",
                "LESSTHAN",
                "GREATERTHAN",
                "LESSTHANOREQUALTO",
                "GREATERTHANOREQUALTO",
                "DISTINCT_FROM",
                "NOT_DISTINCT_FROM",
            )
        },
        **{
            ("OPERATOR", name): _CHILDREN
            for name in (
                "ARRAY_EXTRACT",
                "ARRAY_SLICE",
                "STRUCT_EXTRACT",
                "COMPARE_IN",
                "COMPARE_NOT_IN",
                "GROUPING_FUNCTION",
                "OPERATOR_COALESCE",
                "OPERATOR_IS_NULL",
                "OPERATOR_IS_NOT_NULL",
                "OPERATOR_NOT",
                "OPERATOR_NULLIF",
            )
        },
        **{
            ("WINDOW", f"WINDOW_{name}"): _WINDOW
            for name in (
                "AGGREGATE",
                "ROW_NUMBER",
                "RANK",
                "RANK_DENSE",
                "PERCENT_RANK",
                "CUME_DIST",
                "NTILE",
                "LAG",
                "LEAD",
                "FIRST_VALUE",
                "LAST_VALUE",
                "NTH_VALUE",
            )
        },
    }
)
CHILDREN = (
    "children", "left", "right", "input", "lower", "upper", "else_expr", "child", "lhs", "expr", "filter", "filter_expr",
    "partitions", "start_expr", "end_expr", "offset_expr", "default_expr",
)  # fmt: skip
"""Keys of an expression that hold an expression or a list of them."""

VALUE_NAMES = words(
    """
    current_user session_user user current_role current_catalog current_schema current_database localtime
    localtimestamp current_time current_timestamp current_date
    """
)
"""Bare names that DuckDB takes for a function when no column has them; its tree shows a column."""

LITERALS = frozenset({"INTEGER", "NUMERIC", "STRING", "NULL_LITERAL", "BOOLEAN"})
TYPE_KEYS = frozenset({"type_name", "qualified_name", "children"})
TYPES = words(
    """
    BOOLEAN TINYINT SMALLINT INTEGER INT BIGINT HUGEINT UTINYINT USMALLINT UINTEGER UBIGINT UHUGEINT FLOAT
    DOUBLE DECIMAL NUMERIC VARCHAR TEXT BLOB DATE TIME TIMESTAMP TIMESTAMPTZ TIMESTAMP_S TIMESTAMP_MS
    TIMESTAMP_NS INTERVAL UUID JSON LIST ARRAY STRUCT MAP
    """
)

_OPERATORS = "+ - * / // % ** ^ & | << >> ~ || ~~ !~~ ~~* !~~* ~~~ ^@"
_NUMBERS = """
abs acos acosh asin asinh atan atan2 atanh bit_count bit_length cbrt ceil ceiling cos cosh cot degrees divide even exp
factorial fdiv floor fmod gamma gcd greatest greatest_common_divisor isfinite isinf isnan lcm least
least_common_multiple lgamma ln log log10 log2 mod multiply nextafter pi pow power radians random round round_even sign
signbit sin sinh sqrt subtract add tan tanh trunc xor
"""
_TEXTS = """
ascii bar base64 bin char_length character_length chr concat concat_ws contains damerau_levenshtein editdist3 ends_with
format format_bytes from_base64 from_hex hamming hash hex ilike_escape instr jaccard jaro_similarity
jaro_winkler_similarity lcase left length levenshtein like_escape lower lpad ltrim md5 mismatches nfc_normalize
not_ilike_escape not_like_escape octet_length ord parse_dirname parse_filename parse_path position prefix printf
regexp_escape regexp_split_to_array
regexp_extract regexp_extract_all regexp_full_match regexp_matches regexp_replace regexp_split_to_table
repeat replace reverse right rpad rtrim sha1 sha256 split split_part starts_with str_split str_split_regex strip_accents
string_split string_split_regex string_to_array strlen strpos substr substring suffix to_base to_base64 to_hex translate
trim ucase unbin unhex unicode upper url_decode url_encode encode decode get_bit set_bit
"""
_TIMES = """
age ago century current_date current_timestamp date_add date_diff date_part date_sub date_trunc datediff datepart datesub
datetrunc day dayname dayofmonth dayofweek dayofyear days_in_month decade epoch epoch_ms epoch_ns epoch_us era
generate_series hour isodow isoyear julian last_day make_date make_time make_timestamp make_timestamptz microsecond
millennium millisecond minute month monthname nanosecond now quarter range second strftime strptime time_bucket timezone
to_centuries to_days to_decades to_hours to_microseconds to_millennia to_milliseconds to_minutes to_months to_quarters
to_seconds to_timestamp to_weeks to_years today transaction_timestamp try_strptime week weekday weekofyear year yearweek
"""
_NESTED = """
array_append array_apply array_cat array_concat array_contains array_cosine_distance array_cosine_similarity
array_distance array_distinct array_dot_product array_extract array_filter array_grade_up array_has array_has_all
array_has_any array_indexof array_inner_product array_intersect array_length array_pop_back array_pop_front
array_position array_prepend array_push_back array_push_front array_reduce array_resize array_reverse
array_reverse_sort array_select array_slice array_sort array_to_json array_to_string array_transform array_unique
array_value array_where array_zip cardinality element_at flatten from_json json json_array json_array_length
json_contains json_exists json_extract json_extract_path json_extract_path_text json_extract_string json_keys
json_merge_patch json_object json_pretty json_quote json_structure json_type json_valid json_value len list_any_value
list_append list_apply list_approx_count_distinct list_avg list_bit_and list_bit_or list_bit_xor list_bool_and
list_bool_or list_cat list_concat list_contains list_cosine_distance list_cosine_similarity list_count list_distance
list_distinct list_dot_product list_element list_entropy list_extract list_filter list_first list_grade_up list_has
list_has_all list_has_any list_histogram list_indexof list_inner_product list_intersect list_kurtosis list_last list_mad
list_max list_median list_min list_mode list_position list_prepend list_product list_reduce list_resize list_reverse
list_reverse_sort list_select list_sem list_skewness list_slice list_sort list_stddev_pop list_stddev_samp
list_string_agg list_sum list_transform list_unique list_value list_var_pop list_var_samp list_where list_zip map
map_concat map_contains map_contains_entry map_contains_value map_entries map_extract map_extract_value map_from_entries
map_keys map_values row row_to_json struct_concat struct_extract struct_pack to_json unnest
"""
_OTHERS = (
    "coalesce constant_or_null gen_random_uuid if ifnull nullif typeof uuid uuid_extract_timestamp uuid_extract_version"
)
_AGGREGATES = """
any_value approx_count_distinct approx_quantile approx_top_k arbitrary arg_max arg_max_null arg_min arg_min_null argmax
argmin array_agg avg bit_and bit_or bit_xor bool_and bool_or corr count count_if count_star countif covar_pop covar_samp
entropy favg first fsum geomean geometric_mean group_concat histogram json_group_array json_group_object kahan_sum
kurtosis kurtosis_pop last list listagg mad max max_by mean median min min_by mode product quantile quantile_cont
quantile_disc regr_avgx regr_avgy regr_count regr_intercept regr_r2 regr_slope regr_sxx regr_sxy regr_syy sem skewness
stddev stddev_pop stddev_samp string_agg sum sumkahan var_pop var_samp variance wavg weighted_avg
"""
_WINDOWS = (
    "row_number rank dense_rank rank_dense percent_rank cume_dist ntile lag lead first_value last_value nth_value"
)

FUNCTIONS = frozenset(f"{_OPERATORS} {_NUMBERS} {_TEXTS} {_TIMES} {_NESTED} {_OTHERS} {_AGGREGATES} {_WINDOWS}".split())
"""Names as DuckDB's tree has them, after its own grammar turned LIKE into ``~~`` and INTERVAL into ``to_days``."""
