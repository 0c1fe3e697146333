"""What holds for every test: a property is about answers, never about the speed of the machine that asks."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("tidegate", deadline=None)
settings.load_profile("tidegate")
