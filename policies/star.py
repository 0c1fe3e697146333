"""What ``*`` stands for, and a list of columns shows: what of a dataset its reader may see. A hint, never a permission.

Whoever writes ``SELECT *`` asks for what there is to see, not for a column that is withheld; whoever names such a column is
refused with the reason. The policy decides on every column that the bound query reads, so a wrong hint can only refuse.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tidegate.core.agreement import Agreement
from tidegate.core.caller import Caller
from tidegate.core.dataset import SENSITIVITIES, Column, Dataset, DatasetClass
from tidegate.core.names import DatasetName


def unlisted(
    caller: Caller,
    purpose: str,
    legal_basis: str,
    datasets: Mapping[DatasetName, Dataset],
    agreements: Iterable[Agreement],
) -> dict[DatasetName, frozenset[str]]:
    """Give the columns of each dataset that a star leaves out: above the caller's clearance, or in no agreement.

    Where nothing would be left, a star keeps every column, so that the policy refuses with its reasons.
    """
    held = [item for item in agreements if _covers(item, caller, purpose, legal_basis)]
    found = {}
    for name, dataset in datasets.items():
        every = {column.name for column in dataset.columns}
        seen = {column.name for column in dataset.columns if _cleared(caller, column.sensitivity)}
        if dataset.dataset_class is DatasetClass.CONDITIONAL:
            given = [every & set(item.columns) for item in held if item.dataset == name]
            seen &= max(
                given, key=len, default=set()
            )  # one agreement covers one instance; the widest is the policy's too
        if seen and seen != every:
            found[name] = frozenset(every - seen)
    return found


def listed(caller: Caller, dataset: Dataset, agreements: Iterable[Agreement]) -> tuple[Column, ...]:
    """Give the columns that some query of the caller could read, for whatever purpose: what a list of columns shows.

    A conditional dataset without an agreement shows what the caller is cleared for, so that there is something to ask for.
    """
    seen = [column for column in dataset.columns if _cleared(caller, column.sensitivity)]
    if dataset.dataset_class is DatasetClass.CONDITIONAL:
        own = [item for item in agreements if item.dataset == dataset.name and item.grantee == caller.member]
        given = {name for item in own for name in item.columns}
        seen = [column for column in seen if column.name in given] if own else seen
    return tuple(seen)


def _cleared(caller: Caller, sensitivity: str) -> bool:
    return caller.clearance in SENSITIVITIES and SENSITIVITIES.index(sensitivity) <= SENSITIVITIES.index(
        caller.clearance
    )


def _covers(agreement: Agreement, caller: Caller, purpose: str, legal_basis: str) -> bool:
    basis_fits = legal_basis in ("", agreement.legal_basis)
    return agreement.grantee == caller.member and purpose in agreement.purposes and basis_fits
