# ruff: noqa: E501 - one query a line reads better than a wrapped one
"""The queries of the differential suite, in groups. Every one must give the same answer federated and local.

Answers are compared as multisets, or in order where ``ordered``. What is not deterministic in SQL itself (ties) is not used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Question:
    """One query with its parameters."""

    sql: str
    parameters: Any = ()
    ordered: bool = False


JOINS = ("INNER JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN")
_SIDES = {
    "left": "a.n > 12",
    "left_is_null": "a.n IS NULL",
    "left_text": "a.s = 'LGA'",
    "right": "b.n < 20",
    "right_is_null": "b.n IS NULL",
    "right_not": "NOT b.n = 5",
    "right_in": "b.s IN ('JFK', 'EWR', '')",
    "coalesce": "coalesce(b.n, 0) < 10",
    "or_both": "(a.n > 20 AND b.n > 3) OR (a.n < 5 AND b.s = 'JFK')",
    "or_one": "(b.n > 30 OR b.n < 5)",
    "distinct_from": "b.n IS DISTINCT FROM 7",
    "is_true": "b.b IS TRUE",
    "is_not_true": "b.b IS NOT TRUE",
    "not_in": "b.k NOT IN (1, 2)",
    "not_null": "b.n IS NOT NULL",
    "cross": "a.n <> b.n",
}
_ONS = {
    "plain": "",
    "left": " AND a.n > 12",
    "right": " AND b.n > 12",
    "right_null": " AND b.n IS NULL",
    "left_null": " AND a.n IS NULL",
}


def join_matrix() -> Iterator[Question]:
    """Every join, with a condition on each side in WHERE and in ON."""
    for join in JOINS:
        for where in _SIDES.values():
            yield Question(f"SELECT a.k, a.n, b.s, b.n FROM air.a a {join} sea.b b ON a.k = b.k WHERE {where}")
        for on in _ONS.values():
            yield Question(f"SELECT a.k, a.n, b.s, b.n FROM air.a a {join} sea.b b ON a.k = b.k{on}")
            yield Question(
                f"SELECT a.k, a.n, b.n FROM air.a a {join} sea.b b ON a.k = b.k{on} WHERE b.n < 30 OR a.n IS NULL"
            )
    for join in ("SEMI JOIN", "ANTI JOIN"):
        for on in _ONS.values():
            yield Question(f"SELECT a.k, a.n, a.s FROM air.a a {join} sea.b b ON a.k = b.k{on}")
            yield Question(f"SELECT a.k, a.n, a.s FROM air.a a {join} sea.b b ON a.k = b.k{on} WHERE a.n < 25")
    for where in ("a.n > 12", "b.n > 12", "a.k = b.k AND b.s = 'JFK'", "a.n < b.n AND b.b"):
        yield Question(f"SELECT a.k, b.n FROM air.a a CROSS JOIN sea.b b WHERE {where}")
        yield Question(f"SELECT a.k, b.n FROM air.a a, sea.b b WHERE {where}")


def chains() -> Iterator[Question]:
    """Three datasets: a later outer join null-extends everything before it."""
    conditions = ("a.n > 15", "b.n > 15", "c.n > 15", "b.n IS NULL", "c.n IS NULL", "(b.n > 5 OR b.n IS NULL)")
    for first in JOINS:
        for second in JOINS:
            for where in conditions[: 3 if "INNER" in first else 6]:
                yield Question(
                    f"SELECT a.k, a.n, b.n, c.n FROM air.a a {first} sea.b b ON a.k = b.k {second} land.c c ON c.p = b.p WHERE {where}"
                )
            yield Question(
                f"SELECT a.k, b.n, c.n FROM air.a a {first} sea.b b ON a.k = b.k {second} land.c c ON c.k = a.k AND b.n > 10 AND c.n < 30"
            )
    for join in ("SEMI JOIN", "ANTI JOIN"):
        for other in JOINS:
            yield Question(
                f"SELECT a.k, c.n FROM air.a a {join} sea.b b ON a.k = b.k AND a.n > 9 {other} land.c c ON c.k = a.k WHERE a.n < 35"
            )
    yield Question(
        "SELECT a.k, b.k, c.k FROM air.a a LEFT JOIN (sea.b b JOIN land.c c ON b.k = c.k) ON a.k = b.k WHERE c.n > 3"
    )
    yield Question(
        "SELECT k, a.n, b.n, c.n FROM air.a a JOIN sea.b b USING (k) FULL JOIN land.c c USING (k) WHERE k > 2"
    )
    yield Question("SELECT k, n, x.q FROM air.a NATURAL JOIN (SELECT k, n AS q FROM rail.d WHERE n > 4) x WHERE n > 9")
    yield Question("SELECT count(*) FROM air.a a JOIN void.e e ON a.k = e.k")
    yield Question("SELECT a.k, e.n FROM air.a a LEFT JOIN void.e e ON a.k = e.k WHERE e.n IS NULL AND a.n > 5")
    yield Question("SELECT a.k, e.n FROM air.a a FULL JOIN void.e e ON a.k = e.k WHERE a.n > 5")
    yield Question(
        "SELECT x.n, y.n FROM air.a x JOIN air.a y ON x.k = y.k AND x.n < y.n JOIN sea.b b ON b.k = x.k WHERE y.n > 12"
    )
    yield Question("SELECT x.n, y.n FROM air.a x JOIN air.a y ON x.k = y.k JOIN sea.b b ON b.k = x.k WHERE x.n > 20")
    yield Question(
        "SELECT x.n, y.n FROM air.a x LEFT JOIN air.a y ON x.k = y.n LEFT JOIN sea.b b ON b.k = y.k WHERE y.n > 3"
    )


def null_logic() -> Iterator[Question]:
    """Conditions with three values, NaN, -0.0, look-alike texts, dates."""
    for where in (
        "a.n = NULL", "a.n <> 5", "NOT (a.n > 5)", "NOT (a.n > 5 AND a.k < 3)", "NOT (a.n > 5 OR a.k < 3)", "a.n BETWEEN 3 AND 20",
        "a.n NOT BETWEEN 3 AND 20", "a.x > 1", "a.x = 0", "a.x <> a.x", "a.x >= 7", "a.x IS NULL", "a.s = ''", "a.s <> 'JFK'",
        "a.s > 'K'", "a.s LIKE 'J%'", "a.s ILIKE 'j%'", "a.s NOT LIKE '%G%'", "a.s IN ('JFK', NULL)", "a.s NOT IN ('JFK', NULL)",
        "a.s = 'it''s'", "a.s = 'LGA '", "lower(a.s) = 'jfk'", "length(a.s) = 0", "a.d >= DATE '2024-03-01'",
        "a.d < '2024-03-01'", "a.t BETWEEN TIMESTAMP '2024-01-02' AND TIMESTAMP '2024-02-01'", "year(a.d) = 2024 AND month(a.d) = 3",
        "date_trunc('month', a.d) = DATE '2024-02-01'", "extract(year FROM a.t) = 2024", "a.b", "NOT a.b", "a.b IS NULL",
        "a.b = FALSE", "a.m > 2.5", "a.m = 1.25", "a.n % 2 = 0", "a.n + a.k > 20", "CASE WHEN a.n > 9 THEN TRUE ELSE a.b END",
        "a.n = a.k", "a.d = a.t", "a.n IS NOT DISTINCT FROM NULL", "a.n > 5 IS TRUE", "TRUE", "FALSE", "NULL", "a.n IN (SELECT 5)",
        "a.k IN (1, 2) AND (a.s = 'JFK' OR b.s = 'JFK')", "(a.k, a.n) = (1, 5)", "contains(a.s, 'F')", "a.s || 'x' = 'JFKx'",
        "try_cast(a.s AS INTEGER) IS NULL", "nullif(a.n, 5) IS NULL", "abs(a.n) > 5", "greatest(a.n, 5) = 5", "a.n::VARCHAR = '5'",
    ):  # fmt: skip
        yield Question(f"SELECT a.k, a.s, a.n, b.n FROM air.a a JOIN sea.b b ON a.k = b.k WHERE {where}")


def subqueries() -> Iterator[Question]:
    """Sub-queries in every position, correlated and not."""
    for where in (
        "EXISTS (SELECT 1 FROM sea.b b WHERE b.k = a.k AND b.n > 10)",
        "NOT EXISTS (SELECT 1 FROM sea.b b WHERE b.k = a.k AND b.n > 10)",
        "a.k IN (SELECT b.k FROM sea.b b WHERE b.n > 10)",
        "a.k NOT IN (SELECT b.k FROM sea.b b WHERE b.k IS NOT NULL AND b.n > 10)",
        "a.k NOT IN (SELECT b.k FROM sea.b b)",
        "a.n > (SELECT avg(b.n) FROM sea.b b)",
        "a.n > (SELECT avg(b.n) FROM sea.b b WHERE b.k = a.k)",
        "a.n = (SELECT max(b.n) FROM sea.b b WHERE b.k = a.k AND b.n < 30)",
        "a.n >= ALL (SELECT b.n FROM sea.b b WHERE b.n < 10)",
        "a.n = ANY (SELECT b.n FROM sea.b b WHERE b.s = 'JFK')",
        "(a.k, a.n) IN (SELECT b.k, b.n FROM sea.b b)",
        "EXISTS (SELECT 1 FROM sea.b b LEFT JOIN land.c c ON b.k = c.k AND c.n > 3 WHERE b.k = a.k AND c.n IS NULL)",
        "EXISTS (SELECT 1 FROM city.t2 t WHERE t.k = a.k AND t.n > 20)",
        "a.k IN (SELECT k FROM city.t5 WHERE n > 20 UNION SELECT k FROM land.c WHERE n < 3)",
        "a.n > 3 AND (a.s = 'JFK' OR EXISTS (SELECT 1 FROM sea.b b WHERE b.k = a.k))",
        "(SELECT count(*) FROM sea.b b WHERE b.k = a.k AND b.n > a.n) > 1",
    ):
        yield Question(f"SELECT a.k, a.n, a.s FROM air.a a WHERE {where}")
    yield Question(
        "SELECT a.k, (SELECT count(*) FROM sea.b b WHERE b.k = a.k AND b.n > 4) AS c FROM air.a a WHERE a.n > 7"
    )
    yield Question("SELECT a.k, (SELECT max(b.n) FROM sea.b b) - a.n FROM air.a a")
    yield Question(
        "SELECT x.k, x.c FROM (SELECT k, count(*) AS c FROM air.a GROUP BY k) x JOIN sea.b b ON x.k = b.k WHERE x.k > 2 AND x.c > 1"
    )
    yield Question(
        "SELECT x.k, x.n FROM (SELECT k, n FROM air.a WHERE n > 3) x JOIN (SELECT k, n FROM sea.b) y ON x.k = y.k WHERE x.n < 30 AND y.n < 30"
    )
    yield Question("SELECT x.k FROM (SELECT k, n + 1 AS n FROM air.a) x JOIN sea.b b ON x.k = b.k WHERE x.n > 20")
    yield Question("SELECT x.k, x.f FROM air.a a LEFT JOIN (SELECT k, 1 AS f FROM sea.b) x ON a.k = x.k WHERE x.f = 1")
    yield Question(
        "SELECT a.k, x.f FROM air.a a LEFT JOIN (SELECT k, 1 AS f FROM sea.b WHERE n > 5) x ON a.k = x.k WHERE x.f IS NULL"
    )
    yield Question(
        "SELECT a.k, x.big FROM air.a a, LATERAL (SELECT a.n > 20 AS big) AS x WHERE x.big AND a.k IN (SELECT k FROM sea.b)"
    )
    yield Question(
        "SELECT a.k, x.m FROM air.a a, LATERAL (SELECT max(b.n) AS m FROM sea.b b WHERE b.k = a.k) x WHERE x.m > 9"
    )
    yield Question("SELECT s, count(*) FROM air.a GROUP BY s HAVING count(*) > (SELECT count(*) FROM void.e)")
    yield Question("SELECT k FROM air.a WHERE k IN (SELECT k FROM sea.b) GROUP BY k HAVING k > 3 AND sum(n) > 10")
    yield Question(
        "SELECT x.k, x.n FROM (SELECT k, n FROM air.a ORDER BY n DESC NULLS LAST, k, s LIMIT 5) x JOIN void.e e ON TRUE WHERE x.n > 3"
    )
    yield Question(
        "SELECT x.n FROM (SELECT n FROM air.a ORDER BY n NULLS FIRST LIMIT 6) x WHERE x.n > 3 UNION ALL SELECT n FROM void.e"
    )
    yield Question(
        "SELECT x.n FROM (SELECT n FROM air.a ORDER BY n NULLS FIRST OFFSET 6) x WHERE x.n > 3 UNION ALL SELECT n FROM void.e"
    )


def set_operations() -> Iterator[Question]:
    """UNION, INTERSECT, EXCEPT, with and without ALL, conditions above them."""
    for word in ("UNION", "UNION ALL", "INTERSECT", "INTERSECT ALL", "EXCEPT", "EXCEPT ALL"):
        yield Question(f"SELECT k, s FROM air.a {word} SELECT k, s FROM sea.b")
        yield Question(
            f"SELECT x.k FROM (SELECT k, n FROM air.a {word} SELECT k, n FROM sea.b) x WHERE x.n > 10 AND x.k < 6"
        )
        yield Question(
            f"SELECT x.k FROM (SELECT k, n FROM air.a WHERE n < 30 {word} SELECT n, k FROM sea.b) x WHERE x.n IS NULL OR x.n > 3"
        )
        yield Question(
            f"WITH u AS (SELECT k, s FROM air.a {word} SELECT n, s FROM sea.b) SELECT s, count(*) FROM u WHERE s = 'JFK' GROUP BY s"
        )
    yield Question(
        "SELECT x.v FROM (SELECT s AS v FROM air.a UNION ALL SELECT n::VARCHAR FROM sea.b) x WHERE x.v < '2'"
    )
    yield Question("SELECT x.v FROM (SELECT s AS v FROM air.a UNION ALL SELECT n FROM sea.b) x WHERE x.v < '2'")
    yield Question("SELECT x.v FROM (SELECT n AS v FROM air.a UNION ALL SELECT x FROM sea.b) x WHERE x.v > 3")
    yield Question(
        "SELECT x.v FROM (SELECT d AS v FROM air.a UNION ALL SELECT t FROM sea.b) x WHERE x.v > '2024-02-01'"
    )
    yield Question(
        "SELECT x.v FROM (SELECT n AS v FROM air.a UNION ALL SELECT 7) x JOIN sea.b b ON b.n = x.v WHERE x.v > 3"
    )
    yield Question(
        "(SELECT n FROM air.a ORDER BY n NULLS LAST LIMIT 3) UNION ALL (SELECT n FROM sea.b ORDER BY n NULLS LAST LIMIT 2)"
    )
    yield Question(
        "SELECT x.n FROM (SELECT n FROM air.a UNION ALL SELECT n FROM sea.b ORDER BY 1 NULLS LAST LIMIT 7) x WHERE x.n > 2"
    )
    yield Question("SELECT k, n FROM air.a WHERE n < 10 UNION ALL BY NAME SELECT n, k FROM sea.b WHERE n > 30")
    yield Question("SELECT k FROM air.a EXCEPT SELECT k FROM sea.b WHERE n > 10 UNION SELECT k FROM land.c WHERE n < 5")


def ctes_and_windows() -> Iterator[Question]:
    """CTEs (mentioned once, twice, shadowing a dataset's name), windows, QUALIFY, DISTINCT, DISTINCT ON, grouping sets."""
    yield Question("WITH q AS (SELECT * FROM air.a) SELECT q.k, b.n FROM q JOIN sea.b b ON q.k = b.k WHERE q.n > 10")
    yield Question(
        "WITH q AS (SELECT k, n FROM air.a) SELECT x.n, y.n FROM q x JOIN q y ON x.k = y.k JOIN sea.b b ON b.k = x.k WHERE x.n > 20 AND y.n < 9"
    )
    yield Question(
        "WITH a AS (SELECT k, n FROM sea.b WHERE n > 5) SELECT a.k, o.n FROM a JOIN air.a o ON a.k = o.k WHERE a.n < 30"
    )
    yield Question(
        "WITH p AS (SELECT k, n FROM air.a WHERE n > 3), q AS (SELECT k, n FROM p WHERE n < 30) SELECT q.k, b.s FROM q LEFT JOIN sea.b b ON q.k = b.k WHERE q.k > 1"
    )
    yield Question(
        "WITH q AS MATERIALIZED (SELECT k, sum(n) AS t FROM air.a GROUP BY k) SELECT q.k, q.t, b.n FROM q JOIN sea.b b ON b.k = q.k WHERE q.k = 3 AND q.t > 1"
    )
    yield Question(
        "WITH unread AS (SELECT * FROM land.c) SELECT a.k, b.k FROM air.a a JOIN sea.b b ON a.k = b.k WHERE a.n = 15"
    )
    for where in ("x.k = 3", "x.n > 10", "x.r <= 2", "x.k > 2 AND x.n < 20", "x.n IS NULL"):
        yield Question(
            f"SELECT x.k, x.n, x.r FROM (SELECT k, n, rank() OVER (PARTITION BY k ORDER BY n) AS r FROM air.a) x JOIN sea.b b ON x.k = b.k WHERE {where}"
        )
        yield Question(
            f"SELECT x.k, x.r FROM (SELECT k, n, sum(n) OVER (PARTITION BY k) AS r FROM city.t2) x WHERE {where}"
        )
        yield Question(f"SELECT x.k, x.r FROM (SELECT k, n, count(*) OVER () AS r FROM city.t2) x WHERE {where}")
        yield Question(f"SELECT x.k, x.r FROM (SELECT k, n, count(*) AS r FROM city.t2 GROUP BY k, n) x WHERE {where}")
        yield Question(
            f"SELECT x.k, x.r FROM (SELECT k, n, count(*) AS r FROM city.t2 GROUP BY ROLLUP (k, n)) x WHERE {where}"
        )
        yield Question(
            f"SELECT x.k, x.n FROM (SELECT k, n, count(*) OVER (PARTITION BY k) AS r FROM city.t2 QUALIFY count(*) OVER (PARTITION BY k) > 1) x WHERE {where.replace('x.r', 'x.k')}"
        )
        yield Question(
            f"SELECT x.k, x.n, 1 AS r FROM (SELECT DISTINCT k, n FROM city.t2) x WHERE {where.replace('x.r', 'x.k')}"
        )
        yield Question(
            f"SELECT x.k, x.n FROM (SELECT DISTINCT ON (k) k, n, s FROM city.t2 ORDER BY k, n DESC NULLS LAST, s) x WHERE {where.replace('x.r', 'x.n')}"
        )
    yield Question("SELECT k, n FROM city.t5 QUALIFY rank() OVER (PARTITION BY k ORDER BY n DESC) <= 2")
    yield Question(
        "SELECT DISTINCT ON (a.k) a.k, b.n FROM air.a a JOIN sea.b b ON a.k = b.k WHERE b.n > 4 ORDER BY a.k, b.n",
        ordered=True,
    )
    yield Question(
        "SELECT a.s, grouping(a.s) AS g, sum(b.n) FROM air.a a JOIN sea.b b ON a.k = b.k WHERE a.s = 'JFK' OR a.s = 'LGA' GROUP BY CUBE (a.s)"
    )
    yield Question(
        "SELECT a.k, sum(b.n) FILTER (WHERE b.n > 10), count(DISTINCT b.s) FROM air.a a JOIN sea.b b ON a.k = b.k GROUP BY a.k"
    )
    yield Question(
        "SELECT a.k, a.n, lag(a.n) OVER (PARTITION BY a.k ORDER BY a.n, b.n) FROM air.a a JOIN sea.b b ON a.k = b.k WHERE a.k = 4 AND a.n IS NOT NULL"
    )
    yield Question(
        "SELECT a.k, list(b.n ORDER BY b.n) FROM air.a a JOIN sea.b b ON a.k = b.k WHERE b.n < 20 GROUP BY a.k"
    )
    yield Question(
        "SELECT a.k, b.n FROM air.a a JOIN sea.b b ON a.k = b.k ORDER BY a.k NULLS FIRST, b.n DESC NULLS LAST, a.n, a.s LIMIT 9",
        ordered=True,
    )
    yield Question(
        "SELECT a.k AS z, b.n AS k FROM air.a a JOIN sea.b b ON a.k = b.k ORDER BY z DESC NULLS LAST, 2 NULLS LAST",
        ordered=True,
    )


def parameters() -> Iterator[Question]:
    """Parameters by position and by name, of several types."""
    from datetime import date

    yield Question("SELECT a.k, b.n FROM air.a a JOIN sea.b b ON a.k = b.k WHERE a.n > $1 AND b.s = $2", [9, "JFK"])
    yield Question(
        "SELECT a.k, b.n FROM air.a a JOIN sea.b b ON a.k = b.k WHERE b.s = $s AND a.n BETWEEN $low AND $high",
        {"s": "it's", "low": 1, "high": 30},
    )
    yield Question("SELECT a.k, b.d FROM air.a a JOIN sea.b b ON a.k = b.k WHERE b.d >= $1", [date(2024, 3, 1)])
    yield Question("SELECT a.k, $1 AS word FROM air.a a JOIN sea.b b ON a.k = b.k WHERE a.s = $1", ["LGA"])


def collections() -> Iterator[Question]:
    """Collections in one, two and five parts."""
    for name in ("city.t1", "city.t2", "city.t5"):
        yield Question(f"SELECT k, n FROM {name} WHERE n > 10 AND s = 'JFK'")
        yield Question(f"SELECT count(*), sum(n), avg(n), min(d), max(t) FROM {name}")
        yield Question(f"SELECT k, count(*), count(n), sum(m) FROM {name} WHERE n IS NOT NULL GROUP BY k")
        yield Question(f"SELECT a.k, t.n FROM air.a a JOIN {name} t ON a.k = t.k WHERE t.n > 10 AND a.n < 20")
        yield Question(f"SELECT a.k, t.n FROM air.a a LEFT JOIN {name} t ON a.k = t.k AND t.n > 10")
        yield Question(f"SELECT a.k, t.n FROM air.a a LEFT JOIN {name} t ON a.k = t.k WHERE t.n IS NULL")
        yield Question(f"SELECT a.k, t.n FROM {name} t RIGHT JOIN air.a a ON a.k = t.k WHERE t.n > 10 OR t.n < 3")
        yield Question(f"SELECT a.k, t.n FROM {name} t FULL JOIN air.a a ON a.k = t.k WHERE a.n > 10")
        yield Question(f"SELECT x.n, y.n FROM {name} x JOIN {name} y ON x.k = y.k AND x.n > 20 WHERE y.n < 10")
        yield Question(f"SELECT k FROM {name} WHERE n > (SELECT avg(n) FROM {name})")
        yield Question(
            f"SELECT k, n FROM {name} ORDER BY n DESC NULLS LAST, k NULLS LAST, s NULLS LAST LIMIT 5", ordered=True
        )
        yield Question(f"SELECT count(DISTINCT s), count(DISTINCT k) FROM {name} WHERE b")
        yield Question(f"SELECT k, n FROM {name} EXCEPT SELECT k, n FROM air.a WHERE n > 5")


GROUPS: dict[str, Callable[[], Iterator[Question]]] = {
    "join_matrix": join_matrix,
    "chains": chains,
    "null_logic": null_logic,
    "subqueries": subqueries,
    "set_operations": set_operations,
    "ctes_and_windows": ctes_and_windows,
    "parameters": parameters,
    "collections": collections,
}
