"""Keys: `keys` lists them, `explain` shows the copies of one."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from dynctl.views.base import Document, Text


class KeyRow(msgspec.Struct, frozen=True, kw_only=True):
    """A key that has a value."""

    key: Text
    siblings: Annotated[
        int,
        Meta(description="concurrent writes left; a get shows one that was sent twice only once"),
    ]


class KeysDocument(Document, frozen=True, kw_only=True):
    """`keys`."""

    ROWS: ClassVar[str] = "keys"

    prefix: Annotated[Text | None, Meta(description="null: that of the resume token, or none")]
    keys: list[KeyRow]
    complete: Annotated[bool, Meta(description="nothing is left to be listed")]
    resume: Annotated[str | None, Meta(description="for --resume: lists what is left")]


class CopyRow(msgspec.Struct, frozen=True, kw_only=True):
    """An owner of the key, and its own copy. Null where it does not answer, or holds none."""

    place: Annotated[int, Meta(description="in the preference list, from 1")]
    name: str
    id: str
    address: str
    liveness: Annotated[
        str,
        Meta(
            description="as in node ls, with the links of the agent that answered: up, down, "
            "unlinked, unreachable, suspect, dead or gray"
        ),
    ]
    state: Annotated[str, Meta(description="present, tombstone, absent, unreadable, unreachable")]
    siblings: int | None
    value_bytes: Annotated[int | None, Meta(description="of all its values together")]
    stored_bytes: Annotated[int | None, Meta(description="of the record on its disk")]
    digest: Annotated[str | None, Meta(description="64 hex digits; equal on equal copies")]
    dots: Annotated[list[str] | None, Meta(description="actor:counter of each value")]
    clock: Annotated[list[str] | None, Meta(description="actor:counter, all that it has seen")]
    pending: Annotated[bool | None, Meta(description="a newer copy waits for its fsync")]
    writable: Annotated[bool | None, Meta(description="it takes writes now")]
    verified_s: Annotated[
        float | None,
        Meta(
            description="seconds since it compared the key's partition with all owners after it, "
            "and found or made it equal; null: not since its start, or it is the last of them"
        ),
    ]
    problem: Annotated[str, Meta(description="why it is unreachable; else empty")]


class KeyHintRow(msgspec.Struct, frozen=True, kw_only=True):
    """A hint of the key: a copy that is kept for an owner that has missed a write."""

    node: Annotated[str, Meta(description="who keeps it")]
    target: Annotated[str, Meta(description="whom it is for")]


class ExplainDocument(Document, frozen=True, kw_only=True):
    """`explain`."""

    TABLE_OMITS: ClassVar[tuple[str, ...]] = (
        *("id", "address", "stored_bytes", "digest", "dots", "pending", "writable"),
    )

    key: Text
    token: Annotated[str, Meta(description="128 bits, 32 hex digits")]
    partition: int
    epoch: int
    n: int
    r: int
    w: int
    agent: Annotated[str, Meta(description="the agent that answered")]
    agree: Annotated[bool, Meta(description="all owners answered, and their copies are equal")]
    r_passes: Annotated[bool, Meta(description="R owners are up, and can read their copies")]
    w_passes: Annotated[bool, Meta(description="W owners are up, and take writes")]
    owners: Annotated[list[CopyRow], Meta(description="in order of preference")]
    hints: Annotated[list[KeyHintRow], Meta(description="pending, of all members that answer")]
    silent: Annotated[
        list[str], Meta(description="members without an answer: what hints they keep is unknown")
    ]
