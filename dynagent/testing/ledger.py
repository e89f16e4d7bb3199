"""God's view: what every copy of every key has held, kept while a run goes on.

The ledger reads what nodes send (whole records in a Merge or a ReadReply) and what their disks make
durable. From that it knows every dot that was ever minted and by which operation, the moment each
copy came to cover it, and which copies are rotten. The checkers that live here speak of an instant:
a dot is one write (`dots_unique`), an acknowledgement means W durable copies (`ack_is_durable`) on
W machines (`acks_stand_apart`), what is read is on a disk (`read_is_durable`), at W owners if the
get shall repair first (`repair_is_durable`), a copy never forgets (`copies_grow`), and no actor has
more siblings of a record than a put may leave (`siblings_are_bounded`). The others read the ledger
afterwards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf

from dynagent import limits
from dynagent.core.entry import Record, decode_entry, unflatten
from dynagent.core.messages import Put, PutReply
from dynagent.core.ports import NodeId
from dynagent.core.siblings import Clock, Dot, join
from dynagent.core.version import Version
from dynagent.errors import ProtocolError
from dynagent.testing.history import History, decode_value
from dynagent.testing.world import World


def is_covered(dot: Dot, clock: Clock) -> bool:
    return dot[1] <= clock.get(dot[0], 0)


def covers(clock: Clock, other: Clock) -> bool:
    return all(counter <= clock.get(actor, 0) for actor, counter in other.items())


Lists = Sequence[Sequence[NodeId]]  # where a put needs W: the owners, or the old and the new ones


class Sighting:
    """A dot, as it was seen first: the earliest record that held it is the one it was minted in."""

    __slots__ = ("clock", "data", "dot", "durable", "order", "present", "time", "writer")

    def __init__(
        self,
        dot: Dot,
        *,
        writer: int,
        data: bytes,
        time: float,
        order: int,
        clock: Clock,
        present: frozenset[Dot],
    ) -> None:
        self.dot = dot
        self.writer = writer  # the number of the operation
        self.data = data
        self.time = time
        self.order = order
        self.clock = clock  # of that first record
        self.present = present  # the dots of its siblings
        self.durable: dict[NodeId, float] = {}  # since when a copy covers it


class Ledger:
    """Every dot, every copy."""

    def __init__(
        self,
        world: World,
        history: History,
        *,
        siblings_max: int = limits.SIBLINGS_DEFAULT_MAX,
        hosts: Mapping[NodeId, str] | None = None,
    ) -> None:
        self._world = world
        self._history = history
        self._siblings_max = siblings_max
        self._hosts = hosts or {}  # of nodes that share one; others have a host for themselves
        self._parsed: dict[tuple[bytes, bytes], tuple[Dot, int]] = {}
        self.sightings: dict[bytes, dict[Dot, Sighting]] = {}  # by key
        self.minted: dict[int, list[Sighting]] = {}  # by operation, in order of sight
        self.applied: dict[int, int] = {}  # deletes that a record tells of → when (order)
        self.known: dict[int, dict[NodeId, float]] = {}  # by operation: disks with its op-id
        self.acknowledged: dict[int, float] = {}  # by operation: when first
        self.rotten: dict[tuple[NodeId, bytes], int] = {}  # → since when (order)
        self.ever_rotten: set[bytes] = set()  # keys of which a copy has rotted, or was lost
        self.spoiled: dict[tuple[NodeId, bytes], int] = {}  # rotten or lost, when last (order)
        self.lost: set[tuple[NodeId, bytes]] = set()  # rows that vanished, and may not be found yet
        self._copies: dict[tuple[NodeId, bytes], Clock] = {}  # durable, as of now
        self._debts: dict[tuple[NodeId, NodeId, bytes], Clock] = {}  # node, target, key
        self._op_ids: dict[tuple[NodeId, bytes], frozenset[int]] = {}  # likewise
        self._ever: dict[bytes, dict[NodeId, Clock]] = {}  # durable, at any time
        self._purges: dict[bytes, list[tuple[int, float, Clock]]] = {}  # order, time, what it knew

    # --- what is seen ----------------------------------------------------------------------------

    def see_entry(self, node: NodeId, entry: list[object]) -> None:
        """A whole record in a message that `node` sends."""
        key, record = decode_entry(entry)
        forgets = len(record.op_ids) >= limits.OP_IDS_KEPT
        datas = [sibling.data for sibling in record.value.siblings]
        self.see(key, datas, record.value.clock, minter=None if forgets else node)
        self._see_applied(int.from_bytes(op_id, "big") for op_id in record.op_ids)

    def _see_applied(self, numbers: Iterable[int]) -> None:
        """Operations that a record says to have taken effect. (Not all do: it keeps the newest.)"""
        for number in numbers:
            if number not in self.applied and number not in self.minted:
                self.applied[number] = self._world.order()

    def see(
        self, key: bytes, datas: list[bytes], clock: object, *, minter: NodeId | None = None
    ) -> None:
        """The siblings of a record; `clock` flat or as it is. What is new has just been minted;
        by `minter`, if that is known and its copy has not begun to forget op-ids."""
        places = [self._parse(key, data) for data in datas]
        known = self.sightings.setdefault(key, {})
        for (dot, writer), data in zip(places, datas, strict=True):
            sighting = known.get(dot)
            if sighting is not None:
                if sighting.data is not data:
                    self._world.verdicts.check(
                        "dots_unique", sighting.data == data, f"{name_dot(dot)} of {key!r} is both",
                        f"operation {sighting.writer} and {writer}",
                    )  # fmt: skip
                continue
            as_dict = dict(clock) if isinstance(clock, dict) else dict(unflatten(clock))
            present = frozenset(dot for dot, _ in places)
            known[dot] = sighting = Sighting(
                dot,
                writer=writer,
                data=data,
                time=self._world.now,
                order=self._world.order(),
                clock=as_dict,
                present=present,
            )
            self.minted.setdefault(writer, []).append(sighting)
            self._world.verdicts.evaluations["dots_unique"] += 1
            if minter is not None and (minter, key) not in self.rotten:
                self._world.verdicts.check(
                    "retried_once",
                    writer not in self._op_ids.get((minter, key), ()),
                    f"{minter} mints put {writer} as {name_dot(dot)}, and its disk knows it",
                )

    def _parse(self, key: bytes, data: bytes) -> tuple[Dot, int]:
        """(dot, operation) of a sibling; every new one must be what its operation wrote."""
        place = self._parsed.get((key, data))
        if place is None:
            writer, dot = 0, (0, 0)
            try:
                version = Version(data)
                dot = (version.actor, version.counter)
                writer = decode_value(version.value) or 0
                is_sound = version.op_id == writer.to_bytes(16, "big")
            except ProtocolError:
                is_sound = False
            operation = self._history.operations.get(writer)
            self._world.verdicts.check(
                "no_phantom",
                is_sound and operation is not None and operation.key == key,
                f"{key!r} holds a sibling that nobody wrote: {data!r}",
            )
            place = self._parsed[key, data] = (dot, writer)
        return place

    # --- disks -----------------------------------------------------------------------------------

    def on_durable(
        self, node: NodeId, key: bytes, record: Record, *, may_be_anew: bool = False
    ) -> None:
        """A copy has reached the disk. `may_be_anew`: the batch may have dropped one before."""
        clock = record.value.clock
        before = {} if may_be_anew else self._copies.get((node, key), {})
        if record.unknown:
            self.rotten.setdefault((node, key), self._world.order())
        else:
            if self.rotten.pop((node, key), None) is None:
                self._world.verdicts.check(
                    "copies_grow", covers(clock, before), f"{node} forgot a part of {key!r}"
                )
        minted = Counter([sibling.actor for sibling in record.value.siblings])
        self._world.verdicts.check(
            "siblings_are_bounded",
            max(minted.values(), default=0) <= self._siblings_max,
            f"{node} holds {dict(minted)} siblings of {key!r} by actor",
        )
        if key in self._purges and not record.unknown:
            purged = self.purged(key)
            back = [dot for dot in record.value.dots() if is_covered(dot, purged)]
            self._world.verdicts.check(
                "no_resurrection",
                not back,
                f"{node} holds {', '.join(map(name_dot, back))} of {key!r}, which was purged",
            )
        self._copies[node, key] = clock
        ever = self._ever.setdefault(key, {}).setdefault(node, {})
        grown = [actor for actor, counter in clock.items() if counter > ever.get(actor, 0)]
        if grown:
            for actor in grown:
                ever[actor] = clock[actor]
            for dot, sighting in self.sightings.get(key, {}).items():
                if node not in sighting.durable and is_covered(dot, clock):
                    sighting.durable[node] = self._world.now
        present = [sibling.op_id for sibling in record.value.siblings]
        numbers = [int.from_bytes(op_id, "big") for op_id in (*present, *record.op_ids)]
        self._op_ids[node, key] = frozenset(numbers)
        for number in numbers:
            self.known.setdefault(number, {}).setdefault(node, self._world.now)
        self._see_applied(numbers)

    def on_dropped(self, node: NodeId, key: bytes, *, owes: bool) -> None:
        """A copy is gone from a disk, on purpose: nobody must be owed it any more."""
        self._world.verdicts.check(
            "hint_is_data",
            not owes or key in self.ever_rotten,  # healed from owners none of whom has any
            f"{node} drops {key!r}, which it still owes somebody",
        )
        self._world.faults["drop"] += 1
        self.rotten.pop((node, key), None)
        self._copies.pop((node, key), None)
        self._op_ids.pop((node, key), None)

    def on_handed_over(self, node: NodeId, key: bytes, owners: Sequence[NodeId]) -> None:
        """`node`, which does not own the key, drops its copy, that no hint explains: all `owners`
        have it."""
        own, purged = self._copies.get((node, key), {}), self.purged(key)
        lacking = [
            owner
            for owner in owners
            if not covers(join(self._ever.get(key, {}).get(owner, {}), purged), own)
            and (owner, key) not in self.rotten
        ]
        self._world.verdicts.check(
            "handed_over_first",
            not lacking,
            f"{node} drops {key!r}, which {', '.join(lacking)} has not got",
        )

    def on_purged(self, node: NodeId, key: bytes) -> None:
        """A tombstone is gone from an owner's disk, and with it all that it knew."""
        self._world.faults["purge"] += 1
        known = self._copies.pop((node, key), {})
        self._op_ids.pop((node, key), None)
        self.rotten.pop((node, key), None)
        self._purges.setdefault(key, []).append((self._world.order(), self._world.now, known))

    def purged(self, key: bytes, before_order: int = 1 << 62) -> Clock:
        """All that was known of a key when its tombstones were purged."""
        known: Clock = {}
        for order, _, clock in self._purges.get(key, ()):
            if order < before_order:
                known = join(known, clock)
        return known

    def first_purged(self, key: bytes) -> float:
        """When that happened first."""
        return min((time for _, time, _ in self._purges.get(key, ())), default=inf)

    def on_hint_removed(
        self, node: NodeId, target: NodeId, key: bytes, *, owners: Sequence[NodeId] = ()
    ) -> None:
        """`node` owes `target` nothing any more: whatever it held of the key is durable there. Or
        that owns the key no more, and `owners` do: then `on_handed_over` sees to it."""
        if owners and target not in owners:
            return
        own = self._copies.get((node, key), {})
        self._world.verdicts.check(
            "hint_is_data",
            # A copy that has rotted, and was healed from owners none of whom has any, is gone.
            self._has_had(target, key, own) or (node, key) in self.rotten,
            f"{node} settles its hint of {key!r} for {target}, which lacks some of it",
        )

    def _has_had(self, node: NodeId, key: bytes, clock: Clock) -> bool:
        """All of this has been on its disk, or is there in a copy that has rotted since."""
        return covers(self._ever.get(key, {}).get(node, {}), clock) or (node, key) in self.rotten

    def on_owed(self, node: NodeId, target: NodeId, key: bytes) -> None:
        """`node` keeps, durably, that it owes its copy to `target`."""
        self._debts[node, target, key] = self._copies.get((node, key), {})

    def check_debts_are_paid(
        self, owners: Callable[[bytes], Sequence[NodeId]] | None = None
    ) -> None:
        """All is quiet: whatever was owed is where it belongs."""
        for (node, target, key), owed in self._debts.items():
            if owners is not None and target not in owners(key):
                continue  # it owns the key no more; `no_lost_write` sees to the others
            if key not in self.ever_rotten:
                self._world.verdicts.check(
                    "owed_arrives",
                    covers(join(self._copies.get((target, key), {}), self.purged(key)), owed),
                    f"{target} lacks some of {key!r} that {node} owed it",
                )

    def copy_of(self, node: NodeId, key: bytes) -> Clock:
        """What the disk of `node` has of it now."""
        return self._copies.get((node, key), {})

    def on_gone(self, node: NodeId, key: bytes) -> None:
        """A node is gone for good, and with it its copy, be it rotten or not."""
        self.rotten.pop((node, key), None)
        self.lost.discard((node, key))
        self._copies.pop((node, key), None)
        self._op_ids.pop((node, key), None)

    def on_lost(self, node: NodeId, key: bytes) -> None:
        """A copy is gone from a disk that does not know it."""
        self.spoiled[node, key] = self._world.order()
        self._copies.pop((node, key), None)
        self._op_ids.pop((node, key), None)

    def on_rot(self, node: NodeId, key: bytes) -> None:
        self.rotten[node, key] = self.spoiled[node, key] = self._world.order()
        self.ever_rotten.add(key)

    def on_row_lost(self, node: NodeId, key: bytes) -> None:
        """A row has vanished from a disk, and only a scrub can find that."""
        self.ever_rotten.add(key)
        self.spoiled[node, key] = self._world.order()
        self.lost.add((node, key))
        self._copies.pop((node, key), None)
        self._op_ids.pop((node, key), None)

    def check_all_is_known(self, owners: Callable[[bytes], Sequence[NodeId]]) -> None:
        """All is quiet: what has rotted is healed, and what was lost is back, with whatever the
        other owners hold."""
        for node, key in self.rotten:
            self._world.verdicts.check("rot_is_healed", False, f"{node} has not healed {key!r}")
        for node, key in sorted(self.lost):
            own = self._copies.get((node, key), {})
            for other in owners(key):
                its = self._copies.get((other, key), {})
                self._world.verdicts.check(
                    "lost_rows_return",
                    covers(own, its),
                    f"{node} has lost {key!r}, and lacks some of what {other} holds of it",
                )
        self.lost.clear()
        self._world.verdicts.evaluations["rot_is_healed"] += len(self.ever_rotten)

    def copies_covering(self, key: bytes, clock: Clock) -> list[NodeId]:
        """Who has made everything that `clock` claims durable."""
        return [node for node, ever in self._ever.get(key, {}).items() if covers(ever, clock)]

    # --- acknowledgements ------------------------------------------------------------------------

    def on_put_reply(
        self,
        node: NodeId,
        put: Put,
        reply: PutReply,
        *,
        w: int,
        reply_clock: Clock | None,
        lists: Sequence[Lists] = (),
    ) -> None:
        """`node` is about to tell somebody that W copies are durable: are they, now? `lists`: in
        each list of one of these there must be W of them."""
        number = int.from_bytes(put.op_id, "big")
        self.acknowledged.setdefault(number, self._world.now)
        claims = [reply_clock] if reply_clock else []
        if reply.dot:
            dot = (int.from_bytes(reply.dot[:8], "big"), int.from_bytes(reply.dot[8:], "big"))
            claims.append({dot[0]: dot[1]})
        elif put.value is not None and number in self.minted:
            copies = max((sighting.durable for sighting in self.minted[number]), key=len)
            self._check_ack(node, number, list(copies), w, lists)
        elif put.value is None:
            claims.append(self._history.operations[number].clock)
        for claim in claims:
            if claim:
                self._check_ack(node, number, self.copies_covering(put.key, claim), w, lists)

    def on_get_reply(self, node: NodeId, key: bytes, datas: list[bytes]) -> None:
        """`node` is about to tell somebody what it has read: is that on any disk yet?"""
        for data in datas:
            dot, writer = self._parse(key, data)
            sighting = self.sightings.get(key, {}).get(dot)
            self._world.verdicts.check(
                "read_is_durable",
                sighting is not None and bool(sighting.durable),
                f"{node} returns {name_dot(dot)} of put {writer}, which no disk holds",
            )

    def on_repaired(
        self, node: NodeId, key: bytes, clock: Clock, *, lists: Sequence[Lists], w: int
    ) -> None:
        """`node` is about to tell somebody that W owners have what it has read: do they?"""
        holders = self.copies_covering(key, clock)
        self._world.verdicts.check(
            "repair_is_durable",
            not clock or any(_are_enough(holders, w, one) for one in lists),
            f"{node} answers a repairing get of {key!r} with {holders} of W={w} copies",
        )

    def _check_ack(
        self, node: NodeId, number: int, copies: list[NodeId], w: int, lists: Sequence[Lists]
    ) -> None:
        self._world.verdicts.check(
            "ack_is_durable",
            len(copies) >= w,
            f"{node} acknowledges operation {number} with {len(copies)} of W={w} durable copies",
        )
        machines = {self._hosts.get(copy, copy) for copy in copies}
        self._world.verdicts.check(
            "acks_stand_apart",
            len(machines) >= min(w, len(copies)),
            f"{node} acknowledges operation {number} with {copies}, on {len(machines)} machines",
        )
        if lists:
            self._world.verdicts.check(
                "ack_is_joint",
                any(_are_enough(copies, w, one) for one in lists),
                f"{node} acknowledges operation {number} with {copies}, not W={w} of each list in",
                lists,
            )


def _are_enough(copies: Sequence[NodeId], w: int, lists: Lists) -> bool:
    return all(len(set(copies).intersection(owners)) >= min(w, len(owners)) for owners in lists)


def name_dot(dot: Dot) -> str:
    return f"{dot[0]:016x}"[:5] + f":{dot[1]}"
