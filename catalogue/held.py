"""Asked twice: which columns of a new dataset another department holds already, and how to get them.

Forms kept asking people for what an office next door knew (design catalogue.md: one district counted 468 forms). A
registration is never stopped by this; whoever registers is told, and the log keeps that they were.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, assert_never

from tidegate.core.dataset import Dataset, DatasetClass
from tidegate.core.names import DatasetName

NOTICES_MAX: Final = 20
COLUMNS_SHOWN_MAX: Final = 5


@dataclass(frozen=True, slots=True)
class Notice:
    """One dataset of another owner that holds some of the same."""

    dataset: DatasetName
    text: str


def already_held(new: Dataset, known: Iterable[Dataset]) -> tuple[Notice, ...]:
    """Compare by data element, and by name and type where the new column has no element.

    Keys are left out: two datasets about the same persons must share ``person.id`` to be joined at all.

    Args:
        known: what the owner of the new dataset may know about.
    """
    if new.parts:
        return ()
    joining = {*new.keys, new.subject_column}
    wanted = [column for column in new.columns if column.name not in joining]
    elements = {column.element for column in wanted if column.element}
    profiles = {(column.name.casefold(), column.type) for column in wanted if not column.element}
    names = {name for name, _ in profiles}
    found = []
    for other in known:
        if other.owner == new.owner or other.parts:
            continue
        theirs = {column.element for column in other.columns if column.element in elements}
        alike = {
            (column.name.casefold(), column.type) for column in other.columns if column.name.casefold() in names
        } & profiles
        if not theirs and not alike:
            continue
        same = [
            column.name
            for column in wanted
            if (column.element in theirs if column.element else (column.name.casefold(), column.type) in alike)
        ]
        # One column of an equal name says little; an equal element, or half of the columns, says much.
        if theirs or 2 * len(same) >= len(wanted):
            found.append((-len(same), str(other.name), Notice(other.name, _text(same, other))))
    found.sort(key=lambda item: item[:2])
    return tuple(item[2] for item in found[:NOTICES_MAX])


def _text(columns: list[str], other: Dataset) -> str:
    shown = ", ".join(columns[:COLUMNS_SHOWN_MAX]) + (" and more" if len(columns) > COLUMNS_SHOWN_MAX else "")
    return f"{shown}: already held by {other.owner} in {other.name}; {_how(other)}"


def _how(other: Dataset) -> str:
    match other.dataset_class:
        case DatasetClass.OPEN:
            return "it is open: query it with `tidegate query`"
        case DatasetClass.CONDITIONAL:
            return f"ask a steward of {other.owner} for an agreement"
        case DatasetClass.CLOSED:
            return f"it is closed ({other.citation})"
    assert_never(other.dataset_class)
