"""The functions that a query may call, by DuckDB's own lower-case names, with what the planner must know of each.

An allow-list: a name that is not in ``FUNCTIONS`` does not exist. What is missing is missing for a reason: whatever reads
files, network, settings, catalogues, the session, the clock of the engine's internals or other callers' state; whatever runs
SQL or a function by name; whatever writes; whatever returns statistics of a base column (``stats``) or bits of it
(``bitstring_agg``); and functions whose value can be far larger than their arguments without a bound that can be checked here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from tidegate.sql.words import words


class Kind(Enum):
    """Where a function may stand."""

    SCALAR = "scalar"
    AGGREGATE = "aggregate"
    WINDOW = "window"


class Bound(Enum):
    """How the size of a function's value is bounded at admission."""

    NONE = "none"
    COUNT = "count"  # one argument is a count that must be a small literal (repeat, lpad, to_binary ...)
    SERIES = "series"  # range, generate_series: literal bounds, few elements
    FORMAT = "format"  # a format text that must be a short literal
    UNIT = "unit"  # the first argument is a date unit of the closed list, written as a literal


@dataclass(frozen=True, slots=True)
class Function:
    """What the planner knows of one function.

    Args:
        deterministic: equal arguments give equal values, on every engine instance.
        cannot_raise: no argument of a fitting type makes it raise an error.
        bound: what is checked about its arguments; ``bound_argument`` says which one (0-based).
        arguments: fewest and most arguments.
        lambdas: True when an argument may be a lambda.
    """

    name: str
    kind: Kind
    deterministic: bool = True
    cannot_raise: bool = False
    bound: Bound = Bound.NONE
    bound_argument: int = 0
    arguments: tuple[int, int] = (0, 255)
    lambdas: bool = False


COUNT_MAX = 10_000  # characters or elements that one call of repeat, lpad, list_resize ... may ask for
SERIES_MAX = 10_000  # elements of a literal range
FORMAT_CHARS_MAX = 1_000
FORMAT_WIDTH_MAX = 1_000  # of one placeholder: format('{:>999999999}', x) is a memory bomb

UNITS = words(
    """
    century day dayofmonth dayofweek dayofyear decade dow doy epoch era hour isodow isoyear julian
    microsecond microseconds millennium millisecond milliseconds minute month nanosecond quarter second
    timezone timezone_hour timezone_minute week weekday weekofyear year yearweek years months days hours
    minutes seconds weeks quarters decades centuries d h m s w y mon ms us min sec
    """
)
INTERVAL_UNITS: Mapping[str, str] = MappingProxyType(
    {
        spelling: unit
        for unit in (
            "YEAR",
            "MONTH",
            "DAY",
            "HOUR",
            "MINUTE",
            "SECOND",
            "MILLISECOND",
            "MICROSECOND",
            "WEEK",
            "QUARTER",
            "DECADE",
            "CENTURY",
            "MILLENNIUM",
        )
        for spelling in (unit, unit + "S")
    }
)

# Safe means: no value of a fitting type makes it raise. Left out are trigonometry (infinity), patterns and formats (malformed),
# JSON read from text, and whatever can overflow. sum and avg widen (HUGEINT, DECIMAL(38)), so they overflow on no real table.
_SCALAR_SAFE = """
asinh atan atan2 bit_count bit_length char_length character_length concat concat_ws contains
damerau_levenshtein day dayname dayofmonth dayofweek dayofyear decade century editdist3 ends_with era greatest
hash hour isfinite isinf isnan isodow isoyear jaro_similarity jaro_winkler_similarity lcase least left length
levenshtein lower ltrim md5 millennium microsecond millisecond minute month monthname nanosecond nfc_normalize
octet_length ord ascii pi position prefix quarter regexp_escape replace reverse right rtrim second sha1 sha256
sign signbit starts_with strip_accents strlen strpos instr substr substring suffix tanh trim ucase unicode
upper week weekday weekofyear year yearweek typeof coalesce nullif ifnull if len list_contains list_has
list_position list_indexof list_distinct list_unique list_reverse list_sort list_reverse_sort list_has_any
list_has_all list_any_value list_count array_contains array_has array_has_any array_has_all array_length
array_position array_indexof array_distinct array_unique array_reverse array_sort array_reverse_sort
list_first list_last list_min list_max list_mode list_median list_bool_and list_bool_or list_entropy
list_intersect array_intersect list_value array_value list_concat list_cat array_concat array_cat list_append
list_prepend array_append array_prepend array_push_back array_push_front array_pop_back array_pop_front
struct_concat row flatten cardinality map_keys map_values json_valid constant_or_null split string_split
str_split string_to_array split_part array_to_string regexp_split_to_array base64 to_base64
"""
_SCALAR_MAY_RAISE = """
add age decode divide factorial fmod fdiv gamma lgamma gcd greatest_common_divisor lcm least_common_multiple
ln log log10 log2 make_date make_time make_timestamp map map_from_entries mod multiply pow power sqrt strptime
subtract xor to_timestamp timezone time_bucket date_add unhex from_hex from_base64 unbin chr
map_contains_value map_contains_entry list_transform list_filter list_reduce list_apply array_transform
array_filter array_reduce array_apply list_distance list_cosine_similarity list_cosine_distance
list_inner_product list_dot_product array_distance array_cosine_similarity array_cosine_distance
array_inner_product array_dot_product list_grade_up array_grade_up to_days to_hours to_minutes to_seconds
to_months to_years to_weeks to_quarters to_milliseconds to_microseconds to_decades to_centuries url_decode
from_json json unnest get_bit set_bit ago uuid_extract_version uuid_extract_timestamp make_timestamptz abs
acos acosh asin atanh cbrt ceil ceiling cos cosh cot days_in_month degrees epoch epoch_ms epoch_ns epoch_us
even exp floor hamming jaccard julian last_day mismatches radians round round_even sin sinh tan translate
trunc regexp_matches regexp_full_match regexp_extract regexp_replace list_avg list_slice array_slice list_zip
array_zip list_where list_select array_where array_select list_extract list_element array_extract element_at
struct_extract map_entries map_contains map_extract map_extract_value map_concat json_array_length json_type
json_keys json_extract json_extract_string json_extract_path json_extract_path_text json_exists json_value
json_contains json_structure to_json json_object json_array json_quote row_to_json array_to_json
json_merge_patch json_pretty not_like_escape like_escape ilike_escape not_ilike_escape string_split_regex
str_split_regex regexp_extract_all url_encode encode try_strptime hex to_hex bin parse_filename parse_dirname
parse_path list_sum list_product list_stddev_pop list_stddev_samp list_var_pop list_var_samp list_histogram
list_string_agg list_approx_count_distinct list_sem list_kurtosis list_skewness list_mad list_bit_and
list_bit_or list_bit_xor format_bytes nextafter
"""
_SCALAR_UNSTABLE = "now current_date current_timestamp today transaction_timestamp random uuid gen_random_uuid"
_LAMBDAS = words(
    """
    list_transform list_filter list_reduce list_apply array_transform array_filter array_reduce array_apply
    """
)
_COUNTS = {
    "repeat": 1,
    "lpad": 1,
    "rpad": 1,
    "list_resize": 1,
    "array_resize": 1,
    "bar": 3,
    "to_base": 2,
}
_AGGREGATE_SAFE = """
avg mean sum
any_value approx_count_distinct approx_quantile approx_top_k arbitrary arg_max arg_max_null arg_min arg_min_null
argmax argmin array_agg bit_and bit_or bit_xor bool_and bool_or count count_if count_star countif
entropy first group_concat histogram last list listagg mad max max_by median min min_by mode
quantile quantile_cont quantile_disc string_agg
"""
_AGGREGATE_MAY_RAISE = """
corr covar_pop covar_samp favg fsum kahan_sum sumkahan kurtosis kurtosis_pop product regr_avgx regr_avgy
regr_count regr_intercept regr_r2 regr_slope regr_sxx regr_sxy regr_syy sem skewness stddev stddev_pop stddev_samp
var_pop var_samp variance geomean geometric_mean percentile_cont percentile_disc weighted_avg wavg json_group_array
json_group_object
"""
_WINDOW = "row_number rank dense_rank percent_rank cume_dist ntile lag lead first_value last_value nth_value"


def _rows() -> Iterable[Function]:
    for name in _SCALAR_SAFE.split():
        yield Function(name, Kind.SCALAR, cannot_raise=True)
    for name in _SCALAR_MAY_RAISE.split():
        yield Function(name, Kind.SCALAR, lambdas=name in _LAMBDAS)
    for name in _SCALAR_UNSTABLE.split():
        yield Function(name, Kind.SCALAR, deterministic=False)
    for name, argument in _COUNTS.items():
        yield Function(name, Kind.SCALAR, bound=Bound.COUNT, bound_argument=argument)
    for name in ("range", "generate_series"):
        yield Function(name, Kind.SCALAR, bound=Bound.SERIES)
    for name, argument in (("format", 0), ("printf", 0), ("strftime", 1)):
        yield Function(name, Kind.SCALAR, bound=Bound.FORMAT, bound_argument=argument)
    for name in ("date_trunc", "datetrunc", "date_part", "datepart", "date_diff", "datediff", "date_sub", "datesub"):
        yield Function(name, Kind.SCALAR, bound=Bound.UNIT)
    for name in _AGGREGATE_SAFE.split():
        yield Function(name, Kind.AGGREGATE, cannot_raise=True)
    for name in _AGGREGATE_MAY_RAISE.split():
        yield Function(name, Kind.AGGREGATE)
    for name in _WINDOW.split():
        yield Function(name, Kind.WINDOW, cannot_raise=True)
    yield Function("grouping", Kind.SCALAR, cannot_raise=True)
    yield Function("grouping_id", Kind.SCALAR, cannot_raise=True)


FUNCTIONS: Mapping[str, Function] = MappingProxyType({row.name: row for row in _rows()})
"""The whole allow-list."""


def fold(name: str) -> str:
    """Fold ASCII letters only, as DuckDB does: a dotless i stays what it is, and so is not on any list."""
    return "".join(chr(ord(char) + 32) if "A" <= char <= "Z" else char for char in name)


def function(name: str) -> Function | None:
    """Find a function by any ASCII spelling."""
    return FUNCTIONS.get(fold(name))
