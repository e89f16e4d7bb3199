"""Values and their writes: `get --all`, and the lines of `mput`, `mget` and `mdelete`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from dynagent.client.requests import Result
from dynagent.core.version import Version
from dynctl.views.base import Document, Text, text_of


class Sibling(msgspec.Struct, frozen=True, kw_only=True):
    """One concurrent value."""

    dot: Annotated[str, Meta(description="actor:counter, the identity of this write")]
    written_at: Annotated[str, Meta(description="clock of its coordinator; information only")]
    op_id: Annotated[str, Meta(description="of the put that wrote it, 32 hex digits")]
    value: Text


class SiblingsDocument(Document, frozen=True, kw_only=True):
    """`get --all`: every concurrent value of a key."""

    ROWS: ClassVar[str] = "siblings"
    LINE_FIELDS: ClassVar[tuple[str, ...]] = ("schema_version", "key", "context", "partial")

    key: Text
    status: Annotated[str, Meta(description="ok: one value; conflict: several")]
    context: Annotated[str, Meta(description="base64url; a put with it supersedes all of these")]
    partial: Annotated[bool, Meta(description="fewer than R owners answered")]
    siblings: list[Sibling]


class PutRecord(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A line of `mput` and `mdelete`, for a line of the input."""

    key: Annotated[Text | None, Meta(description="null if the input line does not tell it")]
    status: Annotated[str, Meta(description="ok, unknown (it may still appear) or failed")]
    context: Annotated[
        str | None, Meta(description="base64url, for the next put; none while siblings are left")
    ] = None
    error: Annotated[str | None, Meta(description="why it is not ok, and the remedy")] = None
    op_id: Annotated[
        str | None, Meta(description="of an unknown one: the line may be repeated with it, safely")
    ] = None


class GetRecord(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A line of `mget`, for a line of the input."""

    key: Annotated[Text | None, Meta(description="null if the input line does not tell it")]
    status: Annotated[str, Meta(description="ok, not_found, conflict or failed")]
    value: Annotated[Text | None, Meta(description="of a key that is ok")] = None
    context: Annotated[
        str | None, Meta(description="base64url; a put with it supersedes what was read")
    ] = None
    siblings: Annotated[
        list[Sibling] | None, Meta(description="all values of a key in conflict")
    ] = None
    partial: Annotated[bool, Meta(description="fewer than R owners answered")] = False
    error: Annotated[str | None, Meta(description="why it failed, and the remedy")] = None


def siblings_view(key: bytes, result: Result) -> SiblingsDocument:
    from dynctl.streams import encode_base64url

    return SiblingsDocument(
        key=text_of(key),
        status="conflict" if len(result.versions) > 1 else "ok",
        context=encode_base64url(result.context),
        partial=result.partial,
        siblings=[sibling_view(version) for version in result.versions],
    )


def sibling_view(version: Version) -> Sibling:
    return Sibling(
        dot=dot_text(version.actor, version.counter),
        written_at=_moment(version.wall_ms),
        op_id=version.op_id.hex(),
        value=text_of(version.value),
    )


def dot_text(actor: int, counter: int) -> str:
    """A dot, or an entry of a clock, as people see it."""
    return f"{actor:016x}:{counter}"


def _moment(wall_ms: int) -> str:
    try:
        moment = datetime.fromtimestamp(wall_ms / 1000, UTC)
    except (OverflowError, ValueError, OSError):  # a coordinator's clock may be anything
        return f"{wall_ms}ms"
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
