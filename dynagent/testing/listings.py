"""A client that lists keys now and then, while all else goes on and goes wrong.

It is the real merge (`client/listing.py`) over the real pages (`core/listing.py`): it asks owners
of a partition in an order of its own, page by page, often one record at a time; some requests are
lost, some owners are dead or stopping, and another owner takes over. What it has decided about each
key is kept, for the judge (`checkers.py`): a listing is a quorum read.

Everything here has its own dice and its own way to the nodes, so that no message, timer or die of
the rest of the world is touched by it: a seed means the same with and without it. A page is made at
once and changes nothing, so a node needs no turn for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from dynagent.client.listing import Listed, PartitionMerge, owners_needed
from dynagent.core.messages import List, ListReply, Message
from dynagent.core.ports import NodeId, PartitionId
from dynagent.core.ring import Ring, token_of
from dynagent.core.siblings import Dot
from dynagent.errors import ProtocolError
from dynagent.testing.profile import Profile
from dynagent.testing.rings import Rings
from dynagent.testing.world import World

PATIENCE_S = 0.5  # until a lost page is given up


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one listing has decided about one key; no dots: it is not listed."""

    listing: int
    key: bytes
    dots: frozenset[Dot]
    needed: int  # owners that had to decide
    began_order: int
    ended_order: int


class Host(Protocol):
    """A node as it looks from here. `life` is 0 while its process is dead."""

    life: int

    def list_page(self, message: List) -> Message | None:
        """Its answer, at once; None if it hangs."""


class Lister:
    """One listing at a time, of all partitions that a key of the run lies in."""

    def __init__(
        self,
        *,
        world: World,
        hosts: Mapping[NodeId, Host],
        rings: Rings,
        profile: Profile,
        keys: Sequence[bytes],
    ) -> None:
        self.is_retired = False
        self.verdicts: list[Verdict] = []
        self._world = world
        self._hosts = hosts
        self._rings = rings
        self._profile = profile
        self._keys: dict[PartitionId, list[bytes]] = {}
        for key in keys:
            self._keys.setdefault(rings.present.partition_of(token_of(key)), []).append(key)
        ring = rings.present
        self._needed = owners_needed(n=ring.n, r=ring.r, w=ring.w)
        # The rule told again, for the judge: what the listing itself makes of it may be wrong.
        self._promised = ring.n - ring.w + 1
        self._dice = world.stream("listings")
        self._count = 0

    def think(self) -> None:
        if self._profile.lists_s and not self.is_retired:
            delay_s = self._dice.expovariate(1 / self._profile.lists_s)
            self._world.after(delay_s, self._begin)

    def _begin(self) -> None:
        self._count += 1
        self._world.log(f"listing {self._count} begins")
        _Listing(self, self._count, sorted(self._keys)).go_on()

    # --- what a listing asks of its surroundings -------------------------------------------------

    def merge_of(self, partition: PartitionId) -> PartitionMerge:
        owners = list(self._rings.present.lists[partition])
        self._dice.shuffle(owners)
        return PartitionMerge(
            partition, partitions=self._rings.present.partitions, owners=owners, needed=self._needed
        )

    def ask(self, listing: _Listing, merge: PartitionMerge) -> None:
        """The next page of a partition; `on_page` or `on_failure` is called some time later."""
        asked = merge.next_request(look_max=self._dice.choice((0, 1)))
        assert asked is not None
        node, request = asked
        if self._dice.random() < self._profile.loss:
            self._world.after(PATIENCE_S, listing.on_failure, merge, node)
        else:
            self._world.after(self._delay_s(), self._arrive, listing, merge, node, request)

    def _arrive(
        self, listing: _Listing, merge: PartitionMerge, node: NodeId, request: List
    ) -> None:
        host = self._hosts[node]
        reply = host.list_page(request) if host.life else None
        if isinstance(reply, ListReply):
            self._world.after(self._delay_s(), listing.on_page, merge, node, reply)
        else:
            self._world.after(self._delay_s(), listing.on_failure, merge, node)

    def _delay_s(self) -> float:
        delay_s = self._profile.delay_s * (0.5 + self._dice.random())
        if self._dice.random() < self._profile.tail:
            delay_s += self._profile.tail_s * self._dice.random()
        return delay_s

    def note(self, listing: _Listing, merge: PartitionMerge, found: Mapping[bytes, Listed]) -> None:
        """A partition is at its end: what it has decided becomes verdicts, unless its owners have
        changed meanwhile: then a listing promises nothing."""
        ended = self._world.order()
        if self._rings.present is not listing.ring or not self._rings.is_settled:
            return
        for key in self._keys[merge.partition]:
            listed = found.get(key)
            is_decided = token_of(key) + key <= merge.decided
            if not is_decided or (listed is not None and listed.doubtful):
                continue
            dots = frozenset(listed.dots) if listed is not None else frozenset()
            self._world.log(f"listing {listing.number}: {key.decode()} has {len(dots)} siblings")
            self.verdicts.append(
                Verdict(
                    listing=listing.number,
                    key=key,
                    dots=dots,
                    needed=self._promised,
                    began_order=listing.began_order,
                    ended_order=ended,
                )
            )

    def order(self) -> int:
        return self._world.order()

    @property
    def ring(self) -> Ring:
        return self._rings.present


class _Listing:
    """One listing under way."""

    def __init__(self, lister: Lister, number: int, partitions: list[PartitionId]) -> None:
        self.number = number
        self.began_order = lister.order()
        self.ring = lister.ring
        self._lister = lister
        self._left = partitions
        self._found: dict[bytes, Listed] = {}

    def go_on(self) -> None:
        """The next partition, or the end."""
        if not self._left:
            self._lister.think()
            return
        merge = self._lister.merge_of(self._left.pop(0))
        self._found = {}
        self._lister.ask(self, merge)

    def on_page(self, merge: PartitionMerge, node: NodeId, page: ListReply) -> None:
        try:
            merge.add_page(node, page)
        except ProtocolError as exc:
            raise AssertionError(f"{node} sends a page that is none: {exc.message}") from exc
        for listed in merge.take():
            assert listed.key not in self._found, f"{listed.key!r} is listed twice"
            self._found[listed.key] = listed
        self._step(merge)

    def on_failure(self, merge: PartitionMerge, node: NodeId) -> None:
        merge.add_failure(node)
        self._step(merge)

    def _step(self, merge: PartitionMerge) -> None:
        if merge.is_complete or merge.is_stuck:
            self._lister.note(self, merge, self._found)
            self.go_on()
        else:
            self._lister.ask(self, merge)
