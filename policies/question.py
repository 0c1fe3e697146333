"""The question: everything that one decision needs, as one JSON document (schemas/question.schema.json).

The broker asks once about a caller's whole query; a node asks again about its fragment, with the caller, request and
query of the grant but its OWN dataset metadata and its OWN agreements. A recorded question can be evaluated again.

A steward declares the mask of a column in the catalogue entry, as ``extra["mask.<column>"]``: ``<kind>[:<argument>]``
and optionally ``;in_predicate=deny``: ``pseudonym``, ``hash:shared:traffic``, ``truncate_date:month``, ``bucket:10``,
``last_n:4``, ``constant:hidden``, ``null``, ``redact``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from tidegate.core.agreement import Agreement
from tidegate.core.caller import Caller
from tidegate.core.clock import parse_timestamp, timestamp
from tidegate.core.dataset import Dataset
from tidegate.core.decision import MASK_ARGUMENTS
from tidegate.core.errors import Code, TidegateError, error_for
from tidegate.core.grant import Grant
from tidegate.core.names import RESERVED_PREFIX, DatasetName, RequestId
from tidegate.sql.model import BoundQuery, Leaf

MASK_KEY = "mask."


def build(
    caller: Caller,
    *,
    request_id: RequestId | str,
    time: datetime | str,
    purpose: str,
    legal_basis: str,
    door: str,
    bound: BoundQuery,
    datasets: Mapping[DatasetName, Dataset],
    agreements: Iterable[Agreement],
    registered: bool | None = None,
) -> dict[str, Any]:
    """Build the broker's question about a whole query.

    Args:
        registered: what the catalogue's registry says about purpose and legal basis; None leaves it to the bundle's
            vocabulary.

    Raises:
        InternalError: POLICY_UNAVAILABLE when a dataset of the query has no metadata, or metadata that cannot be read.
    """
    request = {
        "id": request_id,
        "time": _moment(time),
        "purpose": purpose,
        "legal_basis": legal_basis,
        "door": door,
        "emergency": None,
    }
    resources = _resources(bound, datasets)
    return {
        "version": 1,
        "caller": caller.to_question(),
        "request": request,
        "registered": registered,
        "resources": resources,
        "agreements": _agreements(agreements, datasets, {resource["dataset"] for resource in resources}),
        "query": dict(bound.shape),
    }


def build_from_grant(
    grant: Grant,
    bound: BoundQuery,
    datasets: Mapping[DatasetName, Dataset],
    agreements: Iterable[Agreement],
    *,
    now: datetime | None = None,
) -> dict[str, Any]:
    """Build a node's question about its fragment.

    Caller, request and query are the broker's word, under its signature; datasets and agreements must be the node's own.
    That the purpose is registered is the broker's word too (the registry is the exchange's, not the department's).

    Args:
        now: the node's own time, so that a broker's late clock revives no expired agreement.

    Raises:
        InternalError: POLICY_UNAVAILABLE when the fragment's instances are not the grant's, or metadata is missing.
    """
    refs = {leaf.ref: str(leaf.dataset) for leaf in bound.leaves}
    if refs != dict(grant.refs):
        raise _unavailable("question: the fragment's instances are not those of the grant")
    request = dict(grant.request)
    if now is not None:
        request["time"] = max(_moment(str(request.get("time", ""))), timestamp(now))
    resources = _resources(bound, datasets)
    return {
        "version": 1,
        "caller": dict(grant.caller),
        "request": request,
        "registered": True,
        "resources": resources,
        "agreements": _agreements(agreements, datasets, set(refs.values())),
        "query": dict(grant.query),
    }


def column_mask(dataset: Dataset, column: str) -> tuple[dict[str, Any] | None, bool]:
    """Give the mask that the steward declared for a column, and whether predicates may read it.

    Raises:
        InternalError: POLICY_UNAVAILABLE for a declaration that names no mask of the library: a rule that was meant to
            hide something must not fall silent.
    """
    text = dataset.extra.get(MASK_KEY + column)
    if text is None:
        return None, False
    declared, _, option = text.partition(";")
    if option.strip() not in ("", "in_predicate=deny"):
        raise _unavailable(f"mask of {dataset.name}.{column}: unknown option")
    kind, colon, argument = declared.strip().partition(":")
    names = MASK_ARGUMENTS.get(kind)
    if names is None or (colon and not names) or (names and not colon and kind not in ("hash", "pseudonym")):
        raise _unavailable(f"mask of {dataset.name}.{column}: not a mask of the library")
    mask: dict[str, Any] = {"kind": kind}
    for name in names:
        if colon:
            mask[name] = _whole(dataset, column, argument) if name in ("width", "n") else argument
        else:  # the decision names the key always, so that two answers about one column compare equal
            mask[name] = "recipient" if kind == "pseudonym" else "node"
    return mask, bool(option.strip())


def _whole(dataset: Dataset, column: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise _unavailable(f"mask of {dataset.name}.{column}: expected a whole number")
    return int(text)


def _resources(bound: BoundQuery, datasets: Mapping[DatasetName, Dataset]) -> list[dict[str, Any]]:
    fields: dict[DatasetName, dict[str, str]] = {}
    return [_resource(leaf, datasets, fields) for leaf in bound.leaves]


def _resource(
    leaf: Leaf, datasets: Mapping[DatasetName, Dataset], fields: dict[DatasetName, dict[str, str]]
) -> dict[str, Any]:
    dataset = datasets.get(leaf.dataset)
    if dataset is None or dataset.withdrawn:
        raise _unavailable(f"question: no metadata of {leaf.dataset}")
    if leaf.dataset not in fields:
        fields[leaf.dataset] = {column.name: column.type for column in dataset.columns}
    # Reserved columns (the subject's pseudonym in a fragment) are made by the node under its own rules.
    names = sorted(name for name in leaf.columns if not name.startswith(RESERVED_PREFIX))
    masks = {name: column_mask(dataset, name) for name in names}
    return {
        "ref": leaf.ref,
        "dataset": str(dataset.name),
        "owner": dataset.owner,
        "class": dataset.dataset_class.value,
        "citation": dataset.citation,
        "subject_column": dataset.subject_column,
        "bearer_ok": dataset.bearer_ok,
        "columns": [_column(dataset, name, leaf) for name in names],
        "masks": {name: mask for name, (mask, _) in masks.items() if mask is not None},
        "predicate_deny": [name for name, (_, denied) in masks.items() if denied],
        "fields": fields[leaf.dataset],
    }


def _column(dataset: Dataset, name: str, leaf: Leaf) -> dict[str, Any]:
    column = dataset.column(name)
    if column is None:
        raise _unavailable(f"question: {dataset.name} has no such column as the query reads")
    roles = sorted(role.value for role in leaf.columns[name])
    return {
        "name": name,
        "type": column.type,
        "sensitivity": column.sensitivity,
        "element": column.element,
        "used_as": roles,
    }


def _agreements(
    agreements: Iterable[Agreement], datasets: Mapping[DatasetName, Dataset], wanted: set[str]
) -> list[dict[str, Any]]:
    """Give those that concern the query, were granted by the owner, and whose time can be read; sorted by id."""
    owners = {str(name): dataset.owner for name, dataset in datasets.items()}
    result: dict[str, dict[str, Any]] = {}
    for agreement in agreements:
        name = str(agreement.dataset)
        if name not in wanted or agreement.owner != owners.get(name):
            continue
        try:
            expires_at = timestamp(parse_timestamp(agreement.expires_at))
        except (ValueError, OverflowError):
            continue  # an agreement whose end cannot be read permits nothing
        result[agreement.id] = {**agreement.to_question(), "expires_at": expires_at}
    return [result[key] for key in sorted(result)]


def _moment(time: datetime | str) -> str:
    try:
        return timestamp(parse_timestamp(time) if isinstance(time, str) else time)
    except (ValueError, OverflowError) as error:
        raise _unavailable("question: the time of the request cannot be read") from error


def _unavailable(detail: str) -> TidegateError:
    return error_for(Code.POLICY_UNAVAILABLE, detail=detail)


def refs_of(question: Mapping[str, Any]) -> Sequence[str]:
    """Give the refs that an answer must be about."""
    return [resource["ref"] for resource in question["resources"]]
