"""Siblings do not grow without bound: what a put may leave beside its own, and who is near it.

A key whose writers never read gathers a sibling with each write, and each write sends all of them
to all owners. So a coordinator refuses, before anything is written, a put after which its own copy
would hold more than `siblings_max` siblings, or more bytes than its share. A put that supersedes
what is there always passes, and so does a delete: both need only clocks. A Merge is never refused,
or copies would stay apart.

What follows for a record, however it came about: **no actor has more than `siblings_max` of its
siblings.** An actor's dots are minted by one copy, which held all of its earlier ones each time
(`Replica._mint`); so when the newest was minted they were at most that many, and later a merge can
only take some away. Usually only owners mint, each under one actor: N × `siblings_max` siblings and
N shares of bytes, which fit one frame (`limits.RECORD_BYTES_MERGED_MAX`). See decision 0010.

`Crowd` remembers which keys have the most, for `stats`.
"""

from __future__ import annotations

from dynagent import limits
from dynagent.core.entry import Record
from dynagent.core.messages import Put
from dynagent.core.siblings import Clock
from dynagent.errors import NotReady, TooLarge, TooManySiblings


def record_bytes_max(n: int) -> int:
    """A coordinator's share of a record: what N owners allow at once still fits one frame."""
    return min(limits.RECORD_BYTES_MAX, limits.RECORD_BYTES_MERGED_MAX // n)


def check_crowd(
    put: Put, old: Record, context: Clock, *, siblings_max: int, bytes_max: int
) -> None:
    """Raises `TooManySiblings` if the siblings that would stay leave no room for this value,
    `TooLarge` if it has none by itself, and `NotReady` if `old` is a copy that no reader sees: with
    what it hides in the way no context could ever be enough, so another owner must take the put."""
    if put.value is None:
        return
    siblings = old.value.siblings
    kept = [s for s in siblings if s.counter > context.get(s.actor, 0)] if siblings else []
    size = len(put.value)
    if not kept:
        if size > bytes_max:
            raise TooLarge(
                f"the value has {size:,} bytes; with so many owners the limit of a key is "
                f"{bytes_max:,}"
            )
        return
    size += sum([len(sibling.data) for sibling in kept])
    if len(kept) < siblings_max and size <= bytes_max:
        return
    if old.unknown:
        raise NotReady("this owner's copy of the key is unreadable; another owner can take the put")
    shown = put.key[:64].decode("utf-8", "backslashreplace")
    what = f"may be {siblings_max}"
    if len(kept) < siblings_max:
        what = f"would have {size:,} bytes of {bytes_max:,}"
    raise TooManySiblings(
        f"key {shown!r} has {len(kept)} concurrent values that this put does not supersede; with "
        f"its own they {what}. Keep one of them: dynctl get --all KEY, then dynctl resolve KEY"
    )


class Crowd:
    """The keys with the most siblings, of those that have changed here since the start."""

    __slots__ = ("keys",)

    def __init__(self) -> None:
        self.keys: dict[bytes, tuple[int, int]] = {}  # → siblings, and bytes of the record

    def note(self, key: bytes, count: int, size: int) -> None:
        """A copy has changed; with one sibling or none it is no longer of interest."""
        keys = self.keys
        if count < 2:
            keys.pop(key, None)
            return
        keys[key] = (count, size)
        if len(keys) > limits.CROWDED_KEPT:
            del keys[min(keys, key=keys.__getitem__)]

    def document(self) -> dict[str, object]:
        """For the status of this node."""
        if not self.keys:
            return {"most": 0, "bytes": 0, "key": b""}
        key = max(self.keys, key=self.keys.__getitem__)
        return {
            "most": self.keys[key][0],
            "bytes": max(size for _, size in self.keys.values()),
            "key": key,
        }
