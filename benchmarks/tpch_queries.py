"""The 22 queries of TPC-H with the validation parameters of the specification, over ``department.dataset`` names.

Source: TPC Benchmark H, Standard Specification, revision 3.0.1, clause 2.4. The only departures: the names of the tables, the
view of Q15 as a common table expression (clause 2.4.15.3 permits it where views are not allowed; 2.2.4 the wording), and
LIMIT for the number of rows to return (clause 2.1.2.9).
"""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import dedent

Q11_FRACTION = 0.0001  # at scale 1; clause 2.4.11.3: 0.0001 / SF


@dataclass(frozen=True, slots=True)
class TpchQuery:
    """One query.

    Args:
        number: 1 to 22.
        title: the specification's name of the business question.
        sql: one SELECT over ``department.dataset``.
        ordered_by: positions of the answer's columns whose sequence ORDER BY fixes; empty where it fixes none. Rows that
            tie in them may come in any order.
    """

    number: int
    title: str
    sql: str
    ordered_by: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """Its name in tables: ``Q1`` to ``Q22``."""
        return f"Q{self.number}"


def queries(scale: float) -> tuple[TpchQuery, ...]:
    """Give all 22 for one scale factor (Q11's threshold depends on it)."""
    return tuple(
        TpchQuery(number, title, dedent(sql).strip().replace(":fraction", f"{Q11_FRACTION / scale:.10f}"), ordered_by)
        for number, (title, ordered_by, sql) in sorted(_QUERIES.items())
    )


_QUERIES: dict[int, tuple[str, tuple[int, ...], str]] = {
    1: (
        "Pricing summary report",
        (0, 1),
        """
        SELECT l_returnflag, l_linestatus, sum(l_quantity) AS sum_qty, sum(l_extendedprice) AS sum_base_price,
               sum(l_extendedprice * (1 - l_discount)) AS sum_disc_price,
               sum(l_extendedprice * (1 - l_discount) * (1 + l_tax)) AS sum_charge,
               avg(l_quantity) AS avg_qty, avg(l_extendedprice) AS avg_price, avg(l_discount) AS avg_disc,
               count(*) AS count_order
        FROM shipping.lineitem
        WHERE l_shipdate <= DATE '1998-12-01' - INTERVAL '90' DAY
        GROUP BY l_returnflag, l_linestatus
        ORDER BY l_returnflag, l_linestatus
        """,
    ),
    2: (
        "Minimum cost supplier",
        (0, 2, 1, 3),
        """
        SELECT s_acctbal, s_name, n_name, p_partkey, p_mfgr, s_address, s_phone, s_comment
        FROM supply.part, supply.supplier, supply.partsupp, geo.nation, geo.region
        WHERE p_partkey = ps_partkey AND s_suppkey = ps_suppkey AND p_size = 15 AND p_type LIKE '%BRASS'
          AND s_nationkey = n_nationkey AND n_regionkey = r_regionkey AND r_name = 'EUROPE'
          AND ps_supplycost = (
              SELECT min(ps_supplycost)
              FROM supply.partsupp, supply.supplier, geo.nation, geo.region
              WHERE p_partkey = ps_partkey AND s_suppkey = ps_suppkey AND s_nationkey = n_nationkey
                AND n_regionkey = r_regionkey AND r_name = 'EUROPE')
        ORDER BY s_acctbal DESC, n_name, s_name, p_partkey
        LIMIT 100
        """,
    ),
    3: (
        "Shipping priority",
        (1, 2),
        """
        SELECT l_orderkey, sum(l_extendedprice * (1 - l_discount)) AS revenue, o_orderdate, o_shippriority
        FROM sales.customer, sales.orders, shipping.lineitem
        WHERE c_mktsegment = 'BUILDING' AND c_custkey = o_custkey AND l_orderkey = o_orderkey
          AND o_orderdate < DATE '1995-03-15' AND l_shipdate > DATE '1995-03-15'
        GROUP BY l_orderkey, o_orderdate, o_shippriority
        ORDER BY revenue DESC, o_orderdate
        LIMIT 10
        """,
    ),
    4: (
        "Order priority checking",
        (0,),
        """
        SELECT o_orderpriority, count(*) AS order_count
        FROM sales.orders
        WHERE o_orderdate >= DATE '1993-07-01' AND o_orderdate < DATE '1993-07-01' + INTERVAL '3' MONTH
          AND EXISTS (SELECT * FROM shipping.lineitem WHERE l_orderkey = o_orderkey AND l_commitdate < l_receiptdate)
        GROUP BY o_orderpriority
        ORDER BY o_orderpriority
        """,
    ),
    5: (
        "Local supplier volume",
        (1,),
        """
        SELECT n_name, sum(l_extendedprice * (1 - l_discount)) AS revenue
        FROM sales.customer, sales.orders, shipping.lineitem, supply.supplier, geo.nation, geo.region
        WHERE c_custkey = o_custkey AND l_orderkey = o_orderkey AND l_suppkey = s_suppkey
          AND c_nationkey = s_nationkey AND s_nationkey = n_nationkey AND n_regionkey = r_regionkey
          AND r_name = 'ASIA'
          AND o_orderdate >= DATE '1994-01-01' AND o_orderdate < DATE '1994-01-01' + INTERVAL '1' YEAR
        GROUP BY n_name
        ORDER BY revenue DESC
        """,
    ),
    6: (
        "Forecasting revenue change",
        (),
        """
        SELECT sum(l_extendedprice * l_discount) AS revenue
        FROM shipping.lineitem
        WHERE l_shipdate >= DATE '1994-01-01' AND l_shipdate < DATE '1994-01-01' + INTERVAL '1' YEAR
          AND l_discount BETWEEN 0.06 - 0.01 AND 0.06 + 0.01 AND l_quantity < 24
        """,
    ),
    7: (
        "Volume shipping",
        (0, 1, 2),
        """
        SELECT supp_nation, cust_nation, l_year, sum(volume) AS revenue
        FROM (
            SELECT n1.n_name AS supp_nation, n2.n_name AS cust_nation, extract(year FROM l_shipdate) AS l_year,
                   l_extendedprice * (1 - l_discount) AS volume
            FROM supply.supplier, shipping.lineitem, sales.orders, sales.customer, geo.nation n1, geo.nation n2
            WHERE s_suppkey = l_suppkey AND o_orderkey = l_orderkey AND c_custkey = o_custkey
              AND s_nationkey = n1.n_nationkey AND c_nationkey = n2.n_nationkey
              AND ((n1.n_name = 'FRANCE' AND n2.n_name = 'GERMANY')
                OR (n1.n_name = 'GERMANY' AND n2.n_name = 'FRANCE'))
              AND l_shipdate BETWEEN DATE '1995-01-01' AND DATE '1996-12-31') AS shipping
        GROUP BY supp_nation, cust_nation, l_year
        ORDER BY supp_nation, cust_nation, l_year
        """,
    ),
    8: (
        "National market share",
        (0,),
        """
        SELECT o_year, sum(CASE WHEN nation = 'BRAZIL' THEN volume ELSE 0 END) / sum(volume) AS mkt_share
        FROM (
            SELECT extract(year FROM o_orderdate) AS o_year, l_extendedprice * (1 - l_discount) AS volume,
                   n2.n_name AS nation
            FROM supply.part, supply.supplier, shipping.lineitem, sales.orders, sales.customer,
                 geo.nation n1, geo.nation n2, geo.region
            WHERE p_partkey = l_partkey AND s_suppkey = l_suppkey AND l_orderkey = o_orderkey
              AND o_custkey = c_custkey AND c_nationkey = n1.n_nationkey AND n1.n_regionkey = r_regionkey
              AND r_name = 'AMERICA' AND s_nationkey = n2.n_nationkey
              AND o_orderdate BETWEEN DATE '1995-01-01' AND DATE '1996-12-31'
              AND p_type = 'ECONOMY ANODIZED STEEL') AS all_nations
        GROUP BY o_year
        ORDER BY o_year
        """,
    ),
    9: (
        "Product type profit measure",
        (0, 1),
        """
        SELECT nation, o_year, sum(amount) AS sum_profit
        FROM (
            SELECT n_name AS nation, extract(year FROM o_orderdate) AS o_year,
                   l_extendedprice * (1 - l_discount) - ps_supplycost * l_quantity AS amount
            FROM supply.part, supply.supplier, shipping.lineitem, supply.partsupp, sales.orders, geo.nation
            WHERE s_suppkey = l_suppkey AND ps_suppkey = l_suppkey AND ps_partkey = l_partkey
              AND p_partkey = l_partkey AND o_orderkey = l_orderkey AND s_nationkey = n_nationkey
              AND p_name LIKE '%green%') AS profit
        GROUP BY nation, o_year
        ORDER BY nation, o_year DESC
        """,
    ),
    10: (
        "Returned item reporting",
        (2,),
        """
        SELECT c_custkey, c_name, sum(l_extendedprice * (1 - l_discount)) AS revenue, c_acctbal, n_name, c_address,
               c_phone, c_comment
        FROM sales.customer, sales.orders, shipping.lineitem, geo.nation
        WHERE c_custkey = o_custkey AND l_orderkey = o_orderkey
          AND o_orderdate >= DATE '1993-10-01' AND o_orderdate < DATE '1993-10-01' + INTERVAL '3' MONTH
          AND l_returnflag = 'R' AND c_nationkey = n_nationkey
        GROUP BY c_custkey, c_name, c_acctbal, c_phone, n_name, c_address, c_comment
        ORDER BY revenue DESC
        LIMIT 20
        """,
    ),
    11: (
        "Important stock identification",
        (1,),
        """
        SELECT ps_partkey, sum(ps_supplycost * ps_availqty) AS value
        FROM supply.partsupp, supply.supplier, geo.nation
        WHERE ps_suppkey = s_suppkey AND s_nationkey = n_nationkey AND n_name = 'GERMANY'
        GROUP BY ps_partkey
        HAVING sum(ps_supplycost * ps_availqty) > (
            SELECT sum(ps_supplycost * ps_availqty) * :fraction
            FROM supply.partsupp, supply.supplier, geo.nation
            WHERE ps_suppkey = s_suppkey AND s_nationkey = n_nationkey AND n_name = 'GERMANY')
        ORDER BY value DESC
        """,
    ),
    12: (
        "Shipping modes and order priority",
        (0,),
        """
        SELECT l_shipmode,
               sum(CASE WHEN o_orderpriority = '1-URGENT' OR o_orderpriority = '2-HIGH' THEN 1 ELSE 0 END)
                   AS high_line_count,
               sum(CASE WHEN o_orderpriority <> '1-URGENT' AND o_orderpriority <> '2-HIGH' THEN 1 ELSE 0 END)
                   AS low_line_count
        FROM sales.orders, shipping.lineitem
        WHERE o_orderkey = l_orderkey AND l_shipmode IN ('MAIL', 'SHIP') AND l_commitdate < l_receiptdate
          AND l_shipdate < l_commitdate
          AND l_receiptdate >= DATE '1994-01-01' AND l_receiptdate < DATE '1994-01-01' + INTERVAL '1' YEAR
        GROUP BY l_shipmode
        ORDER BY l_shipmode
        """,
    ),
    13: (
        "Customer distribution",
        (1, 0),
        """
        SELECT c_count, count(*) AS custdist
        FROM (
            SELECT c_custkey, count(o_orderkey) AS c_count
            FROM sales.customer LEFT OUTER JOIN sales.orders
              ON c_custkey = o_custkey AND o_comment NOT LIKE '%special%requests%'
            GROUP BY c_custkey) AS c_orders
        GROUP BY c_count
        ORDER BY custdist DESC, c_count DESC
        """,
    ),
    14: (
        "Promotion effect",
        (),
        """
        SELECT 100.00 * sum(CASE WHEN p_type LIKE 'PROMO%' THEN l_extendedprice * (1 - l_discount) ELSE 0 END)
               / sum(l_extendedprice * (1 - l_discount)) AS promo_revenue
        FROM shipping.lineitem, supply.part
        WHERE l_partkey = p_partkey
          AND l_shipdate >= DATE '1995-09-01' AND l_shipdate < DATE '1995-09-01' + INTERVAL '1' MONTH
        """,
    ),
    15: (
        "Top supplier",
        (0,),
        """
        WITH revenue AS (
            SELECT l_suppkey AS supplier_no, sum(l_extendedprice * (1 - l_discount)) AS total_revenue
            FROM shipping.lineitem
            WHERE l_shipdate >= DATE '1996-01-01' AND l_shipdate < DATE '1996-01-01' + INTERVAL '3' MONTH
            GROUP BY l_suppkey)
        SELECT s_suppkey, s_name, s_address, s_phone, total_revenue
        FROM supply.supplier, revenue
        WHERE s_suppkey = supplier_no AND total_revenue = (SELECT max(total_revenue) FROM revenue)
        ORDER BY s_suppkey
        """,
    ),
    16: (
        "Parts/supplier relationship",
        (3, 0, 1, 2),
        """
        SELECT p_brand, p_type, p_size, count(DISTINCT ps_suppkey) AS supplier_cnt
        FROM supply.partsupp, supply.part
        WHERE p_partkey = ps_partkey AND p_brand <> 'Brand#45' AND p_type NOT LIKE 'MEDIUM POLISHED%'
          AND p_size IN (49, 14, 23, 45, 19, 3, 36, 9)
          AND ps_suppkey NOT IN (SELECT s_suppkey FROM supply.supplier WHERE s_comment LIKE '%Customer%Complaints%')
        GROUP BY p_brand, p_type, p_size
        ORDER BY supplier_cnt DESC, p_brand, p_type, p_size
        """,
    ),
    17: (
        "Small-quantity-order revenue",
        (),
        """
        SELECT sum(l_extendedprice) / 7.0 AS avg_yearly
        FROM shipping.lineitem, supply.part
        WHERE p_partkey = l_partkey AND p_brand = 'Brand#23' AND p_container = 'MED BOX'
          AND l_quantity < (SELECT 0.2 * avg(l_quantity) FROM shipping.lineitem WHERE l_partkey = p_partkey)
        """,
    ),
    18: (
        "Large volume customer",
        (4, 3),
        """
        SELECT c_name, c_custkey, o_orderkey, o_orderdate, o_totalprice, sum(l_quantity) AS quantity
        FROM sales.customer, sales.orders, shipping.lineitem
        WHERE o_orderkey IN (SELECT l_orderkey FROM shipping.lineitem GROUP BY l_orderkey HAVING sum(l_quantity) > 300)
          AND c_custkey = o_custkey AND o_orderkey = l_orderkey
        GROUP BY c_name, c_custkey, o_orderkey, o_orderdate, o_totalprice
        ORDER BY o_totalprice DESC, o_orderdate
        LIMIT 100
        """,
    ),
    19: (
        "Discounted revenue",
        (),
        """
        SELECT sum(l_extendedprice * (1 - l_discount)) AS revenue
        FROM shipping.lineitem, supply.part
        WHERE (p_partkey = l_partkey AND p_brand = 'Brand#12'
               AND p_container IN ('SM CASE', 'SM BOX', 'SM PACK', 'SM PKG')
               AND l_quantity >= 1 AND l_quantity <= 1 + 10 AND p_size BETWEEN 1 AND 5
               AND l_shipmode IN ('AIR', 'AIR REG') AND l_shipinstruct = 'DELIVER IN PERSON')
           OR (p_partkey = l_partkey AND p_brand = 'Brand#23'
               AND p_container IN ('MED BAG', 'MED BOX', 'MED PKG', 'MED PACK')
               AND l_quantity >= 10 AND l_quantity <= 10 + 10 AND p_size BETWEEN 1 AND 10
               AND l_shipmode IN ('AIR', 'AIR REG') AND l_shipinstruct = 'DELIVER IN PERSON')
           OR (p_partkey = l_partkey AND p_brand = 'Brand#34'
               AND p_container IN ('LG CASE', 'LG BOX', 'LG PACK', 'LG PKG')
               AND l_quantity >= 20 AND l_quantity <= 20 + 10 AND p_size BETWEEN 1 AND 15
               AND l_shipmode IN ('AIR', 'AIR REG') AND l_shipinstruct = 'DELIVER IN PERSON')
        """,
    ),
    20: (
        "Potential part promotion",
        (0,),
        """
        SELECT s_name, s_address
        FROM supply.supplier, geo.nation
        WHERE s_suppkey IN (
                SELECT ps_suppkey
                FROM supply.partsupp
                WHERE ps_partkey IN (SELECT p_partkey FROM supply.part WHERE p_name LIKE 'forest%')
                  AND ps_availqty > (
                      SELECT 0.5 * sum(l_quantity)
                      FROM shipping.lineitem
                      WHERE l_partkey = ps_partkey AND l_suppkey = ps_suppkey
                        AND l_shipdate >= DATE '1994-01-01' AND l_shipdate < DATE '1994-01-01' + INTERVAL '1' YEAR))
          AND s_nationkey = n_nationkey AND n_name = 'CANADA'
        ORDER BY s_name
        """,
    ),
    21: (
        "Suppliers who kept orders waiting",
        (1, 0),
        """
        SELECT s_name, count(*) AS numwait
        FROM supply.supplier, shipping.lineitem l1, sales.orders, geo.nation
        WHERE s_suppkey = l1.l_suppkey AND o_orderkey = l1.l_orderkey AND o_orderstatus = 'F'
          AND l1.l_receiptdate > l1.l_commitdate
          AND EXISTS (
              SELECT * FROM shipping.lineitem l2
              WHERE l2.l_orderkey = l1.l_orderkey AND l2.l_suppkey <> l1.l_suppkey)
          AND NOT EXISTS (
              SELECT * FROM shipping.lineitem l3
              WHERE l3.l_orderkey = l1.l_orderkey AND l3.l_suppkey <> l1.l_suppkey
                AND l3.l_receiptdate > l3.l_commitdate)
          AND s_nationkey = n_nationkey AND n_name = 'SAUDI ARABIA'
        GROUP BY s_name
        ORDER BY numwait DESC, s_name
        LIMIT 100
        """,
    ),
    22: (
        "Global sales opportunity",
        (0,),
        """
        SELECT cntrycode, count(*) AS numcust, sum(c_acctbal) AS totacctbal
        FROM (
            SELECT substring(c_phone FROM 1 FOR 2) AS cntrycode, c_acctbal
            FROM sales.customer
            WHERE substring(c_phone FROM 1 FOR 2) IN ('13', '31', '23', '29', '30', '18', '17')
              AND c_acctbal > (
                  SELECT avg(c_acctbal)
                  FROM sales.customer
                  WHERE c_acctbal > 0.00
                    AND substring(c_phone FROM 1 FOR 2) IN ('13', '31', '23', '29', '30', '18', '17'))
              AND NOT EXISTS (SELECT * FROM sales.orders WHERE o_custkey = c_custkey)) AS custsale
        GROUP BY cntrycode
        ORDER BY cntrycode
        """,
    ),
}
