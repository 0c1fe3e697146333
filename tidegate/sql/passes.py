"""Which optional passes of the planner run. Every answer is the same with any of them off: tests switch them one by one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Passes:
    """Switches; all on by default.

    Args:
        copies: conjuncts are copied to the leaves (design planner.md, pass 7).
        subtrees: what lies with one node goes there whole, joins and sub-queries included (pass 8).
        partial: aggregates over a collection are computed part by part (pass 9).
        top: LIMIT and TopN go into each part of a collection (pass 10).
        reduction: keys of one department's answer make another's smaller, where policy permits (pass 11).
        sharing: mentions that need the same rows are fetched once.
    """

    copies: bool = True
    subtrees: bool = True
    partial: bool = True
    top: bool = True
    reduction: bool = True
    sharing: bool = True


ALL = Passes()
