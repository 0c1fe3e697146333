"""The functions that a query may call, in the four groups that drivers ask for: numeric, string, date and time, the rest.

The groups only sort the planner's own allow-list; a function that leaves it leaves them.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from tidegate.sql.functions import FUNCTIONS
from tidegate.sql.words import words

_NUMERIC = words(
    """
    abs acos acosh add asin asinh atan atan2 atanh avg bin bit_and bit_count bit_or bit_xor cbrt ceil ceiling corr cos cosh
    cot count count_if count_star countif covar_pop covar_samp degrees divide entropy even exp factorial favg fdiv floor fmod
    fsum gamma gcd geomean geometric_mean greatest_common_divisor isfinite isinf isnan kahan_sum kurtosis kurtosis_pop lcm
    least_common_multiple lgamma ln log log10 log2 mad mean median mod multiply nextafter percentile_cont percentile_disc pi pow
    power product quantile quantile_cont quantile_disc radians random regr_avgx regr_avgy regr_count regr_intercept regr_r2
    regr_slope regr_sxx regr_sxy regr_syy round round_even sem sign signbit sin sinh skewness sqrt stddev stddev_pop stddev_samp
    subtract sum sumkahan tan tanh to_base trunc var_pop var_samp variance wavg weighted_avg xor
    """
)
_STRING = words(
    """
    ascii bar base64 bit_length char_length character_length chr concat concat_ws contains damerau_levenshtein decode editdist3
    encode ends_with format format_bytes from_base64 from_hex group_concat hamming hex ilike_escape instr jaccard
    jaro_similarity jaro_winkler_similarity lcase left length levenshtein like_escape listagg lower lpad ltrim md5 mismatches
    nfc_normalize not_ilike_escape not_like_escape octet_length ord parse_dirname parse_filename parse_path position prefix
    printf regexp_escape regexp_extract regexp_extract_all regexp_full_match regexp_matches regexp_replace
    regexp_split_to_array repeat replace reverse right rpad rtrim sha1 sha256 split split_part starts_with str_split
    str_split_regex string_agg string_split string_split_regex string_to_array strip_accents strlen strpos substr substring
    suffix to_base64 to_hex translate trim ucase unbin unhex unicode upper url_decode url_encode
    """
)
_DATETIME = words(
    """
    age ago century current_date current_timestamp date_add date_diff date_part date_sub date_trunc datediff datepart datesub
    datetrunc day dayname dayofmonth dayofweek dayofyear days_in_month decade epoch epoch_ms epoch_ns epoch_us era hour isodow
    isoyear julian last_day make_date make_time make_timestamp make_timestamptz microsecond millennium millisecond minute month
    monthname nanosecond now quarter second strftime strptime time_bucket timezone to_centuries to_days to_decades to_hours
    to_microseconds to_milliseconds to_minutes to_months to_quarters to_seconds to_timestamp to_weeks to_years today
    transaction_timestamp try_strptime week weekday weekofyear year yearweek
    """
)


def _groups() -> dict[str, tuple[str, ...]]:
    sorted_names = {"numeric": _NUMERIC, "string": _STRING, "datetime": _DATETIME}
    found = {group: tuple(sorted(names & FUNCTIONS.keys())) for group, names in sorted_names.items()}
    found["system"] = tuple(sorted(FUNCTIONS.keys() - _NUMERIC - _STRING - _DATETIME))
    return found


FUNCTION_GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(_groups())
"""``numeric``, ``string``, ``datetime``, ``system``: every function once."""
