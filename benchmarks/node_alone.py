"""A node that runs each look-up alone, for comparison: the ordinary node with its gathering place taken out, here alone.

``python -m benchmarks.node_alone`` takes the words of ``tidegate``. Nothing of this can be configured in the product.
"""

from __future__ import annotations

from node.lookup import LookupForm, Lookups
from tidegate.cli.main import main
from tidegate.core.values import Value


def _alone(_self: Lookups, _form: LookupForm, _key: Value, _deadline_s: float) -> list[bytes] | None:
    return None


if __name__ == "__main__":
    Lookups.run = _alone  # type: ignore[method-assign,assignment]
    main()
