"""Generated queries: every way to plan one gives the answer that one local DuckDB gives over all rows, types included.

Ways: every pass on; each pass of ``tidegate.sql.passes`` off; as if every reduction and join at a node were worth it; with the
keys of reductions and without; with the catalogue's statistics right, missing, and wrong by 1000x; with the rows of the
collections dealt anew among their parts. A third of the queries has row filters and masks. ``scripts/test`` runs the shorter
half of the queries; the long run (``-m long``) runs them all. One seed alone:
``python -m tests.fakes.differential_generator_checks SEED``.
"""

from __future__ import annotations

from functools import cache
from itertools import count, islice

import pytest

from tests.fakes.differential_generator import Generated, question, triple
from tests.fakes.differential_generator_checks import Report, check, check_triple

SHORT, LONG, BLOCK = 300, 2_400, 25
SHORT_CHARS_MAX = 190  # a query of the short run: planning time grows with the text
TRIPLES_SHORT, TRIPLES_LONG = 30, 1_000


@cache
def short_seeds() -> list[int]:
    """Give the seeds of the short run."""
    return list(islice((seed for seed in count() if len(question(seed).sql) <= SHORT_CHARS_MAX), SHORT))


def proven(reports: list[Report]) -> Report:
    """Fail with the queries that went wrong, or when too few of them say anything."""
    total = Report([])
    for report in reports:
        total.merge(report)
    assert not total.wrong, f"{len(total.wrong)} faults\n" + "\n".join(total.wrong[:10])
    assert total.full + total.refused >= total.queries * 0.3, "too many answers are empty to prove anything"
    assert total.refused <= total.queries * 0.2, "too many queries are refused to prove anything"
    return total


@pytest.mark.parametrize("block", range(SHORT // BLOCK))
def test_every_plan_of_a_query_gives_the_local_answer(block: int) -> None:
    found = proven([check(question(seed), every=False) for seed in short_seeds()[block * BLOCK : (block + 1) * BLOCK]])
    assert found.plans > found.queries, "the plans do not differ"


@pytest.mark.long
@pytest.mark.parametrize("block", range(LONG // BLOCK))
def test_every_plan_of_a_query_gives_the_local_answer_long(block: int) -> None:
    proven([check(question(seed)) for seed in range(block * BLOCK, (block + 1) * BLOCK)])


def test_query_is_cut_in_three_by_any_condition() -> None:
    made = (triple(seed) for seed in count())
    proven(
        [check_triple(item) for item in islice((it for it in made if len(it.whole) <= SHORT_CHARS_MAX), TRIPLES_SHORT)]
    )


@pytest.mark.long
@pytest.mark.parametrize("block", range(TRIPLES_LONG // BLOCK))
def test_query_is_cut_in_three_by_any_condition_long(block: int) -> None:
    proven([check_triple(triple(seed)) for seed in range(block * BLOCK, (block + 1) * BLOCK)])


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT stddev(h), avg(h), median(h), sum(h), bit_xor(h) FROM city.five",
        "SELECT h // 3, h & 3, h % 7, h / 3, typeof(h) FROM city.five",
        "SELECT s.t // 2, s.t & 3, typeof(s.t) FROM (SELECT k, sum(n) AS t FROM air.q GROUP BY k) s JOIN sea.q b ON b.k = s.k",
        "SELECT x.v, typeof(x.v) FROM (SELECT h AS v FROM air.p UNION ALL SELECT m FROM sea.p) x WHERE x.v < 1000",
        "SELECT b, sum(n) // 2, typeof(sum(n)), avg(m), avg(d), avg(t) FROM city.five GROUP BY b",
        "SELECT x.i, typeof(x.i), y.u FROM (SELECT md5(s)::UUID AS i, j FROM air.p) x JOIN sea.p y ON x.j = y.j",
        "SELECT count(*), sum(n), max(s), bool_or(b), stddev(y), string_agg(s, ',' ORDER BY s) FROM city.five WHERE u < 0",
        "WITH w AS (SELECT CAST(NULL AS INTEGER) AS k, s FROM sea.q) SELECT b.s, w.s FROM w JOIN land.q b ON w.k = b.k",
    ],
)
def test_answer_and_types_do_not_depend_on_the_plan(sql: str) -> None:
    """What went wrong once: HUGEINT and UUID on their way through Arrow, means of dates, no rows, keys that are all NULL."""
    assert not check(Generated(sql, (), False, 6)).wrong


def test_queries_are_all_different_and_say_all_that_they_should() -> None:
    texts = {question(seed).sql for seed in range(LONG)}
    assert len(texts) >= 2_000
    words = (
        "LEFT JOIN", "RIGHT JOIN", "FULL JOIN", "SEMI JOIN", "ANTI JOIN", "USING", "WHERE NOT EXISTS", " IN (SELECT",
        " NOT IN (SELECT", "= ANY", ">= ALL", "(SELECT count(*)", "(SELECT avg(", "WITH w0", "w1 AS", "UNION ALL", "VALUES",
        " UNION SELECT", "INTERSECT", "EXCEPT", "GROUP BY", "HAVING", "ROLLUP", "CUBE", "GROUPING SETS", "SELECT DISTINCT ",
        "DISTINCT ON", "OVER (", "QUALIFY", "ORDER BY", "LIMIT", "OFFSET", "FILTER (WHERE", "$1", "stddev_samp", "median",
        "string_agg", "count(DISTINCT", "arg_max", "histogram", "date_trunc", "strftime", "TIMESTAMPTZ", "::DOUBLE", "city.one",
        "town.five", "GROUP BY ALL", "::UUID", "typeof",
    )  # fmt: skip
    rare = {word: found for word in words if (found := sum(word in text for text in texts)) < 5}
    assert not rare


def test_seed_gives_the_same_query_for_ever() -> None:
    assert [question(seed) for seed in range(40)] == [question(seed) for seed in range(40)]
