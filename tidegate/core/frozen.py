"""Frozen mappings that can be pickled between our own processes (the planning pool): the values of this folder hold them."""

from __future__ import annotations

import copyreg
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any


def frozen(data: Mapping[Any, Any]) -> MappingProxyType[Any, Any]:
    """Give a read-only copy."""
    return MappingProxyType(dict(data))


def _reduce(data: MappingProxyType[Any, Any]) -> tuple[Any, tuple[dict[Any, Any]]]:
    return frozen, (dict(data),)


copyreg.pickle(MappingProxyType, _reduce)
