"""The tour: `demo`."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from dynctl.views.base import Document


class DemoStep(msgspec.Struct, frozen=True, kw_only=True):
    """A step of the tour."""

    step: int
    title: str
    ok: bool
    seconds: float
    problem: Annotated[str, Meta(description="what was expected and what was seen; empty if ok")]


class DemoDocument(Document, frozen=True, kw_only=True):
    """`demo`."""

    ROWS: ClassVar[str] = "steps"

    ok: Annotated[bool, Meta(description="every step held")]
    directory: Annotated[str, Meta(description="what was kept for inspection; else empty")]
    steps: list[DemoStep]
