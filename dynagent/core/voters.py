"""Who votes on the next entry of the ring log: two pure choices (decision 0025).

    choose_voters      who should vote in the long run; `core.electors` proposes them in peace
    replace_voters     who votes from an entry on that takes voters away (`core.ringentry`)

The first knows who is up and has all entries, and spreads voters over zones. The second is part of
folding an entry, so it knows nothing but the ring. It changes as little as it can, and never makes
the log depend on a node that may not have come yet.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from dynagent import limits
from dynagent.core.ports import NodeId
from dynagent.core.ring import Member


def choose_voters(
    members: Sequence[Member], *, present: Sequence[NodeId] = (), staying_out: Sequence[NodeId] = ()
) -> tuple[NodeId, ...]:
    """Who should vote: an odd number, at most `limits.VOTERS_MAX`, spread over zones, then hosts.

    Of nodes with capacity that are not `staying_out`, the `present` voters first. Sorted by id.
    """
    able = [m for m in members if m.capacity > 0 and m.id not in staying_out]
    count = min(len(able), limits.VOTERS_MAX)
    count -= count % 2 == 0 and count > 0
    chosen = _spread([], able, count, present=present)
    return tuple(sorted(member.id for member in chosen))


def replace_voters(
    voters: tuple[NodeId, ...],
    members: Sequence[Member],
    *,
    gone: Collection[NodeId],
    leaving: Collection[NodeId],
    joined: Collection[NodeId],
) -> tuple[NodeId, ...]:
    """`voters` without those that are `gone`, and who takes their places. Sorted by id.

    An odd number, as many as before if there are so many. Neither `leaving` ones come in, nor those
    without capacity. Who `joined` comes in only behind the others, and they stay fewer than these,
    which so are a majority by themselves: it may have no entry yet, and cannot vote before it has.
    """
    if not any(voter in gone for voter in voters):
        return voters
    kept = [m for m in members if m.id in voters and m.id not in gone]
    kept.sort(key=lambda m: (m.id in leaving, m.id))
    able = [m for m in members if m.capacity > 0 and m.id not in gone and m.id not in leaving]
    chosen = _spread(kept, [m for m in able if m.id not in joined], len(voters))
    chosen = _spread(chosen, able, min(len(voters), 2 * len(chosen) - 1))
    if len(chosen) % 2 == 0:
        # Two of which both must agree are worse than one. The last is who joined, or is leaving.
        chosen = chosen[:-1]
    return tuple(sorted(member.id for member in chosen))


def _spread(
    chosen: Sequence[Member], able: Iterable[Member], count: int, *, present: Sequence[NodeId] = ()
) -> list[Member]:
    """`chosen` and as many of the `able` that there are `count`, in zones and hosts that have the
    fewest of them."""
    chosen = list(chosen)
    left = [member for member in able if member not in chosen]
    while left and len(chosen) < count:
        zones = [member.zone for member in chosen]
        hosts = [member.host for member in chosen]
        best = min(
            left,
            key=lambda m: (zones.count(m.zone), hosts.count(m.host), m.id not in present, m.id),
        )
        chosen.append(best)
        left.remove(best)
    return chosen
