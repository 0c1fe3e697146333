"""Statements that try to learn of hidden rows: by an error, by a count, by an order, by what a function remembers.

RAISING are expressions over one row of T (``t``) that fail on a hidden row and on no other, or whose failure would quote one.
PLACES are queries that hold such an expression ``{e}`` (or the condition ``{p}`` made of it) wherever a query may hold one.
``statements`` crosses them. TELLING are whole statements whose answer hidden rows would change.
"""

from __future__ import annotations

T, T2 = "north.staff_@state", "south.claims"

RAISING: dict[str, str] = {
    "narrow cast": "CAST(t.amount AS TINYINT)",
    "unsigned cast": "CAST(t.amount AS UTINYINT)",
    "text to number": "CASE WHEN t.amount = 424242 THEN CAST(t.region AS INTEGER) ELSE 1 END",
    "masked text to number": "CASE WHEN t.amount = 424242 THEN CAST(t.person AS INTEGER) ELSE 1 END",
    "square root": "sqrt(400000 - t.amount)",
    "logarithm": "ln(424242 - t.amount)",
    "decimal logarithm": "log10(424242 - t.amount)",
    "arc cosine": "acos(t.amount / 424241.0)",
    "factorial": "factorial(CASE WHEN t.amount = 424242 THEN 99 ELSE 3 END)",
    "date of parts": "year(make_date(2024, CASE WHEN t.amount = 424242 THEN 13 ELSE 1 END, 1))",
    "date parse": "year(strptime(CASE WHEN t.amount = 424242 THEN t.region ELSE '2024' END, '%Y'))",
    "date cast": "year(CAST(CASE WHEN t.amount = 424242 THEN t.region ELSE '2024-01-01' END AS DATE))",
    "date arithmetic": "year(DATE '2024-01-01' + CAST(t.amount * 5000 AS INTEGER))",
    "multiplication": "CAST(t.amount AS INTEGER) * 100000",
    "addition": "CAST(t.amount AS INTEGER) + 2147200000",
    "uuid": "length(CAST(CAST(CASE WHEN t.amount = 424242 THEN t.region ELSE "
    "'00000000-0000-0000-0000-000000000000' END AS UUID) AS VARCHAR))",
    "json": "length(json_extract_string(CASE WHEN t.amount = 424242 THEN '{' || t.region ELSE '{\"a\": \"b\"}' END, '$.a'))",
    "pattern": "length(regexp_replace(t.region, CASE WHEN t.amount = 424242 THEN '(' ELSE 'n' END, 'x'))",
    "interval": "year(DATE '2024-01-01' + to_years(CAST(t.amount * 100 AS INTEGER)))",
    "decimal cast": "CAST(t.amount AS DECIMAL(4, 0))",
    "boolean cast": "CASE WHEN CAST(CASE WHEN t.amount = 424242 THEN t.region ELSE 'true' END AS BOOLEAN) THEN 1 ELSE 0 END",
    "scalar sub-query": f"(SELECT b.id FROM {T2} AS b WHERE b.id <= CASE WHEN t.amount = 424242 THEN 99 ELSE 0 END)",
}

PLACES: dict[str, str] = {
    "output": f"SELECT t.id, {{e}} AS v FROM {T} AS t",
    "where": f"SELECT t.id FROM {T} AS t WHERE {{p}}",
    "where with a filter that a leaf could take first": f"SELECT t.id FROM {T} AS t WHERE {{p}} AND t.id > 3",
    "where for hidden rows alone": f"SELECT count(*) FROM {T} AS t WHERE t.amount = 424242 AND {{p}}",
    "inner join": f"SELECT t.id, b.amount FROM {T} AS t JOIN {T2} AS b ON t.id = b.id WHERE {{p}}",
    "join condition": f"SELECT count(*) FROM {T} AS t JOIN {T2} AS b ON t.id = b.id AND {{p}}",
    "left join": f"SELECT count(*), count(t.id) FROM {T2} AS b LEFT JOIN {T} AS t ON t.id = b.id AND {{p}}",
    "full join": f"SELECT count(*) FROM {T} AS t FULL JOIN {T2} AS b ON t.id = b.id WHERE b.id IS NULL OR {{p}}",
    "group key": f"SELECT {{e}} AS k, count(*) FROM {T} AS t GROUP BY k",
    "aggregate": f"SELECT sum({{e}}), max({{e}}) FROM {T} AS t",
    "aggregate filter": f"SELECT count(*) FILTER (WHERE {{p}}) FROM {T} AS t",
    "having": f"SELECT t.region, count(*) FROM {T} AS t GROUP BY t.region HAVING min({{e}}) > -1000000",
    "order": f"SELECT t.id FROM {T} AS t ORDER BY {{e}}, t.id LIMIT 5",
    "window": f"SELECT t.id, sum({{e}}) OVER (PARTITION BY t.region ORDER BY t.id) AS s FROM {T} AS t",
    "qualify": f"SELECT t.id FROM {T} AS t QUALIFY row_number() OVER (PARTITION BY {{e}} ORDER BY t.id) = 1",
    "distinct on": f"SELECT DISTINCT ON ({{e}}) t.region FROM {T} AS t ORDER BY {{e}}, t.id",
    "exists": f"SELECT b.id FROM {T2} AS b WHERE EXISTS (SELECT 1 FROM {T} AS t WHERE t.id = b.id AND {{p}})",
    "in": f"SELECT count(*) FROM {T2} AS b WHERE b.id IN (SELECT t.id FROM {T} AS t WHERE {{p}})",
    "not in": f"SELECT count(*) FROM {T2} AS b WHERE b.id NOT IN (SELECT t.id FROM {T} AS t WHERE {{p}})",
    "scalar": f"SELECT (SELECT count(*) FROM {T} AS t WHERE {{p}}) AS n",
    "derived table": f"SELECT count(*) FROM (SELECT t.id, {{e}} AS v FROM {T} AS t) AS q WHERE q.v > 0 AND q.id > 2",
    "with": f"WITH q AS (SELECT t.id, {{e}} AS v FROM {T} AS t) SELECT count(*), max(v) FROM q JOIN {T2} AS b ON b.id = q.id",
    "union": f"SELECT {{e}} AS v FROM {T} AS t UNION SELECT b.id FROM {T2} AS b WHERE b.id < 9",
    "except": f"SELECT b.id FROM {T2} AS b EXCEPT SELECT t.id FROM {T} AS t WHERE {{p}}",
    "lateral": f"SELECT t.id, x.v FROM {T} AS t, LATERAL (SELECT {{e}} AS v) AS x",
    "self join": f"SELECT count(*) FROM {T} AS t JOIN {T} AS u ON t.id = u.id WHERE {{p}} AND u.region = 'north'",
    "rollup": f"SELECT t.region, sum({{e}}) FROM {T} AS t GROUP BY ROLLUP (t.region)",
    "case in order": f"SELECT t.region FROM {T} AS t ORDER BY CASE WHEN {{p}} THEN t.id ELSE -t.id END",
    "list": f"SELECT list_sum(list_transform([1, 2], LAMBDA x : x + {{e}})) FROM {T} AS t",
}

TELLING: tuple[str, ...] = (
    f"SELECT count(*), count(amount), count(DISTINCT region), count(DISTINCT person) FROM {T}",
    f"SELECT min(amount), max(amount), sum(amount), avg(amount), stddev(amount), var_pop(amount) FROM {T}",
    f"SELECT min(region), max(region), min(person), max(person) FROM {T}",
    f"SELECT mode(region), mode(amount), entropy(region), entropy(amount), mad(amount) FROM {T}",
    f"SELECT approx_count_distinct(region), approx_count_distinct(amount), approx_quantile(amount, 0.99) FROM {T}",
    f"SELECT quantile_disc(amount, [0.5, 0.99, 1.0]), quantile_cont(amount, 1.0), median(amount) FROM {T}",
    f"SELECT arg_max(region, amount), arg_min(person, amount), max_by(person, id) FROM {T}",
    f"SELECT list(amount ORDER BY amount DESC)[1], string_agg(region, ',' ORDER BY id) FROM {T}",
    f"SELECT histogram(amount) FROM {T}",
    f"SELECT bit_or(amount), bit_xor(amount), bool_or(amount = 424242), count_if(amount > 1000) FROM {T}",
    f"SELECT region, count(*) FROM {T} GROUP BY ROLLUP (region) ORDER BY ALL",
    f"SELECT region, count(*), grouping(region) FROM {T} GROUP BY CUBE (region) ORDER BY ALL",
    f"SELECT region FROM {T} GROUP BY region HAVING count(*) = 0 OR max(amount) = 424242",
    f"SELECT id, rank() OVER (ORDER BY amount DESC), ntile(7) OVER (ORDER BY id), cume_dist() OVER (ORDER BY amount) FROM {T}",
    f"SELECT id, lag(amount) OVER (ORDER BY id), lead(region) OVER (ORDER BY id) FROM {T}",
    f"SELECT id, first_value(region) OVER (ORDER BY amount DESC, id), count(*) OVER () FROM {T}",
    f"SELECT id, max(amount) OVER (ORDER BY id ROWS BETWEEN 3 PRECEDING AND 3 FOLLOWING) FROM {T}",
    f"SELECT id FROM {T} ORDER BY amount DESC, id LIMIT 3",
    f"SELECT id FROM {T} ORDER BY id OFFSET 250",
    f"SELECT * FROM {T} ORDER BY ALL LIMIT 20",
    f"SELECT * FROM {T} WHERE amount > 1000",
    f"SELECT * FROM {T} WHERE NOT (amount < 1000)",
    f"SELECT * FROM {T} WHERE region NOT IN ('north', 'south', 'east')",
    f"SELECT * FROM {T} WHERE region LIKE '%CANARY%' OR person LIKE '%CANARY%'",
    f"SELECT * FROM {T} WHERE person = 'MASK_CANARY1' OR person IN ('MASK_CANARY2', 'MASK_CANARY3')",
    f"SELECT * FROM {T} WHERE 1 = 1 OR region = 'north'",
    f"SELECT count(*) FROM {T} WHERE true",
    f"SELECT count(*) FROM {T} AS a, {T} AS b WHERE a.id = b.id + 1",
    f"SELECT count(*) FROM {T} AS a FULL JOIN {T} AS b ON a.id = b.id + 1",
    f"SELECT b.id FROM {T2} AS b ANTI JOIN {T} AS t ON b.id = t.id ORDER BY 1",
    f"SELECT b.id FROM {T2} AS b SEMI JOIN {T} AS t ON b.id = t.id ORDER BY 1",
    f"SELECT b.id, t.region FROM {T2} AS b LEFT JOIN {T} AS t USING (id) ORDER BY ALL",
    f"SELECT b.id, t.id FROM {T} AS t RIGHT JOIN {T2} AS b ON t.id = b.id WHERE t.amount IS NULL ORDER BY ALL",
    f"SELECT b.id FROM {T2} AS b WHERE b.id NOT IN (SELECT id FROM {T}) ORDER BY 1",
    f"SELECT b.id FROM {T2} AS b WHERE NOT EXISTS (SELECT 1 FROM {T} AS t WHERE t.id = b.id) ORDER BY 1",
    f"SELECT b.id FROM {T2} AS b WHERE b.id >= ALL (SELECT id FROM {T} WHERE id < 100) ORDER BY 1",
    f"SELECT b.id FROM {T2} AS b WHERE b.amount < ANY (SELECT amount FROM {T}) ORDER BY 1",
    f"SELECT id FROM {T2} EXCEPT SELECT id FROM {T} ORDER BY 1",
    f"SELECT id FROM {T} INTERSECT SELECT id FROM {T2} ORDER BY 1",
    f"SELECT region FROM {T} UNION SELECT region FROM {T2} ORDER BY 1",
    f"SELECT count(*) FROM (SELECT DISTINCT region, amount FROM {T}) AS q",
    f"SELECT count(*) FROM (FROM {T} LIMIT 270) AS q",
    f"WITH q AS MATERIALIZED (FROM {T}) SELECT count(*), max(amount) FROM q",
    f"SELECT (SELECT max(amount) FROM {T}) AS a, (SELECT count(*) FROM {T}) AS b",
    f"SELECT EXISTS (SELECT 1 FROM {T} WHERE amount = 424242) AS a",
    f"SELECT CASE WHEN (SELECT count(*) FROM {T} WHERE amount = 424242) > 0 THEN CAST('x' AS INTEGER) ELSE 1 END AS a",
    f"SELECT length(person), left(person, 4), md5(person), sha256(person), reverse(person) FROM {T} ORDER BY ALL",
    f"SELECT person, count(*) FROM {T} GROUP BY person ORDER BY ALL",
    f"SELECT t.person = u.person FROM {T} AS t JOIN {T} AS u ON t.id = u.id + 40",
)


def statements() -> dict[str, str]:
    """Give every expression in every place, by a name."""
    found = {}
    for number, (kind, expression) in enumerate(RAISING.items()):
        for where, query in PLACES.items():
            condition = f"{expression} {('> -1', 'IS NOT NULL', '>= 0')[number % 3]}"
            found[f"{kind}, {where}"] = query.replace("{e}", expression).replace("{p}", condition)
    return found


def sample() -> dict[str, str]:
    """Give a part in which each expression stands in three places, and each place holds at least two expressions."""
    everything, places = statements(), list(PLACES)
    chosen = {}
    for number, kind in enumerate(RAISING):
        for step in range(3):
            name = f"{kind}, {places[(number + step * 10) % len(places)]}"
            chosen[name] = everything[name]
    return chosen
