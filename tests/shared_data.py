"""Where the team's shared test data lies, when it is there; the project stands alone without it."""

from __future__ import annotations

from pathlib import Path


def shared_dir() -> Path | None:
    """Give the folder ``shared`` beside the project's checkout, or None."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    return folder if folder.is_dir() else None
