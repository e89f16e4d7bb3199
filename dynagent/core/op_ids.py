"""The op-ids that a record keeps of writes which are gone from it (decision 0002), newest last."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from dynagent import limits
from dynagent.core.siblings import Siblings


def superseded(now: Siblings, *before: Siblings) -> list[bytes]:
    """The op-ids of siblings that were there before and are gone now."""
    left = {(s.actor, s.counter) for s in now.siblings}
    return [s.op_id for value in before for s in value.siblings if (s.actor, s.counter) not in left]


def with_superseded(op_ids: tuple[bytes, ...], gone: list[bytes]) -> tuple[bytes, ...]:
    """What `newest` makes of the two, at a third of its cost where `gone` is one."""
    if len(gone) == 1 and gone[0] not in op_ids:
        return (*op_ids, gone[0])[-limits.OP_IDS_KEPT :]
    return newest(op_ids, gone) if gone else op_ids


def newest(*lists: Iterable[bytes]) -> tuple[bytes, ...]:
    """One list without repetitions, oldest first, cut to the newest `limits.OP_IDS_KEPT`."""
    return tuple(dict.fromkeys(chain.from_iterable(lists)))[-limits.OP_IDS_KEPT :]
