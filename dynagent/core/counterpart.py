"""The other side of an exchange: what a node says of its own trees, leaves and copies.

All of it is a look at what this node holds, bounded in rows and bytes because it is made on the
event loop. Nothing is kept between two requests: where to go on is the asker's to say. The one
thing remembered is soft: with whom each partition was compared of late (`Busy`), so that two
owners do not move the same records to a third at the same time.

Nor does it begin with a node to which hints are under way from here: most of what differs is on its
way then, and would be found leaf by leaf and moved twice.

The exchange itself (`core.exchange`) looks at its own side through the same functions, so that two
pages of the same leaves have the same form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from dynagent import limits
from dynagent.core.coordinator import SETTLED, Coordinator
from dynagent.core.entry import Record, encode_clock, encode_entry, flatten
from dynagent.core.merkle import ARITY, Forest
from dynagent.core.messages import (
    WANT_VALUE,
    Compare,
    CompareReply,
    LeafKeys,
    LeafKeysReply,
    Look,
    LookReply,
    Message,
    RingIs,
    Roots,
    RootsReply,
)
from dynagent.core.ports import LinkId, NodeId, PartitionId, Token
from dynagent.core.replica import Replica
from dynagent.core.ring import Ring, token_of
from dynagent.errors import BadRequest, CorruptRecord, NotReady, Unhealthy

TOKEN_BYTES = 16
_PLACE_BYTES_MAX = TOKEN_BYTES + limits.KEY_BYTES_MAX
_NUMBER_BYTES = 9  # the longest integer in CBOR

# A place and the digest of the copy there: b"" if that is unreadable or unknown.
Row = tuple[bytes, bytes]


class Busy:
    """Which partitions are under comparison beyond their roots, with whom, and until when: a node
    that we asked, or a link on which we were. Who was refused has the next turn: otherwise one that
    differs from us for long, because of a copy that cannot be read, would keep the others away."""

    def __init__(self) -> None:
        self._with: dict[int, tuple[NodeId | LinkId, float]] = {}
        self._next: dict[int, tuple[NodeId | LinkId, float]] = {}  # until then

    def begin(self, now: float, partition: int, peer: NodeId | LinkId) -> bool:
        """For `peer`, for a while; False if it is another's, or another's turn."""
        holder, until = self._with.get(partition, (peer, 0.0))
        waiting, until_turn = self._next.get(partition, (peer, 0.0))
        if holder != peer and now < until:
            if now >= until_turn:
                self._next[partition] = (peer, until + limits.EXCHANGE_TURN_S)
            return False
        if waiting != peer and now < until_turn:
            return False
        self._next.pop(partition, None)
        self._with[partition] = (peer, now + limits.EXCHANGE_BUSY_S)
        return True

    def go_on(self, now: float, partition: int, peer: NodeId | LinkId) -> None:
        """It is still under comparison with `peer`."""
        self._with[partition] = (peer, now + limits.EXCHANGE_BUSY_S)

    def end(self, partition: int, peer: NodeId | LinkId) -> None:
        if self._with.get(partition, (peer, 0.0))[0] == peer:
            self._with.pop(partition, None)


class Counterpart:
    """The node's handlers of `Compare`, `LeafKeys`, `Look` and `Roots`. `coordinator` is None
    before the bootstrap."""

    def __init__(self, replica: Replica) -> None:
        self.coordinator: Coordinator | None = None
        self.busy = Busy()
        self.is_serving: Callable[[NodeId], bool] = lambda _node: False  # `Delivery.is_serving`
        self._replica = replica

    def on_compare(
        self, now: float, link: LinkId, request_id: int, budget_ms: int, message: Message
    ) -> None:
        assert isinstance(message, Compare)
        coordinator, forest = self._checked(link, request_id, message), self._replica.forest
        if coordinator is None:
            return
        numbers, width = message.nodes, ARITY**message.level
        if message.level > forest.levels or len(numbers) != len(message.hashes):
            raise BadRequest("a Compare of no level of the trees, or without a hash for each node")
        self._check_owned(coordinator, {number // width for number in numbers})
        again: list[int] = []
        if message.level == 0:
            asker = NodeId(message.asker)
            if self.is_serving(asker):
                raise NotReady(hints_first(coordinator.ring, coordinator.node_id, asker))
            count = roots_at_once(forest, numbers)
            numbers, again = numbers[:count], numbers[count:]
        differ = [
            number
            for number, our, their in zip(
                numbers, hashes(forest, message.level, numbers), message.hashes, strict=False
            )
            if our != their or not our
        ]
        busy: set[int] = set()
        if message.level == 0:
            busy = {at for at in differ if not self.busy.begin(now, at, link)}
            differ = [at for at in differ if at not in busy]
        for partition in {number // width for number in differ}:
            self.busy.go_on(now, partition, link)
        later = [*sorted(busy), *again]
        coordinator.effects.answer(link, request_id, CompareReply(differ, later, again))

    def on_leaf_keys(
        self, now: float, link: LinkId, request_id: int, budget_ms: int, message: Message
    ) -> None:
        assert isinstance(message, LeafKeys)
        coordinator, forest = self._checked(link, request_id, message), self._replica.forest
        if coordinator is None:
            return
        leaves, after = message.leaves, message.after
        if sorted(set(leaves)) != leaves or len(leaves) > limits.EXCHANGE_LEAVES_MAX:
            raise BadRequest(f"leaves in no order, or over {limits.EXCHANGE_LEAVES_MAX} of them")
        if after and not TOKEN_BYTES < len(after) <= _PLACE_BYTES_MAX:
            raise BadRequest("not a place: a token of 16 bytes and a key")
        partitions = {leaf // forest.leaves for leaf in leaves}
        self._check_owned(coordinator, partitions)
        for partition in partitions:
            self.busy.go_on(now, partition, link)
        try:
            rows, position, size = leaf_page(self._replica, leaves, after)
        except CorruptRecord as exc:
            raise Unhealthy(f"the store of this agent cannot be read there: {exc}") from exc
        read_bytes = size // limits.EXCHANGE_READ_CHEAPER
        coordinator.budget.spend(now, max(read_bytes, limits.EXCHANGE_ROW_BYTES * len(rows)))
        named: list[list[object]] = [[place[TOKEN_BYTES:], digest] for place, digest in rows]
        coordinator.effects.answer(link, request_id, LeafKeysReply(named, position))

    def on_look(
        self, now: float, link: LinkId, request_id: int, budget_ms: int, message: Message
    ) -> None:
        assert isinstance(message, Look)
        coordinator = self._checked(link, request_id, message)
        if coordinator is None:
            return
        if not message.keys or len(message.keys) > limits.EXCHANGE_ROWS_MAX:
            raise BadRequest(f"a Look at 1 to {limits.EXCHANGE_ROWS_MAX} keys was expected")
        partitions = {coordinator.ring.partition_of(token_of(key)) for key in message.keys}
        self._check_owned(coordinator, partitions)
        for partition in partitions:
            self.busy.go_on(now, partition, link)
        if message.want == WANT_VALUE:
            reply, size = self._records(message.keys)
            coordinator.budget.spend(now, size, len(reply.entries))
        else:
            copies, size = versions(self._replica, message.keys)
            reply = LookReply(len(copies), copies)
            coordinator.budget.spend(now, max(size, limits.EXCHANGE_ROW_BYTES * reply.looked_at))
        coordinator.effects.answer(link, request_id, reply)

    def on_roots(
        self, now: float, link: LinkId, request_id: int, budget_ms: int, message: Message
    ) -> None:
        assert isinstance(message, Roots)
        if self.coordinator is None:
            raise NotReady("this agent belongs to no cluster yet; see: dynctl bootstrap")
        ring, forest = self.coordinator.ring, self._replica.forest
        if len(message.partitions) > limits.EXCHANGE_PARTITIONS_MAX:
            raise BadRequest(f"over {limits.EXCHANGE_PARTITIONS_MAX:,} partitions in one Roots")
        own = ring.owned_by(self.coordinator.node_id)
        roots: list[bytes] = []
        counts: list[int] = []
        stale = 0
        for number in message.partitions:
            ring.check_partition(number)
            partition = PartitionId(number)
            stale += forest.stale(partition) if partition in own else 0
            if roots and stale > limits.EXCHANGE_STALE_MAX:
                break  # as in `roots_at_once`
            roots.append(forest.root(partition) if partition in own else b"")
            counts.append(forest.counts(partition) if partition in own else 0)
        self.coordinator.effects.answer(link, request_id, RootsReply(ring.epoch, roots, counts))

    def _checked(
        self, link: LinkId, request_id: int, message: Compare | LeafKeys | Look
    ) -> Coordinator | None:
        """None if the asker's ring is another: that is answered here. Raises `NotReady`."""
        if self.coordinator is None:
            raise NotReady("this agent belongs to no cluster yet")
        ours = (self.coordinator.ring.epoch, SETTLED)
        if (message.stamp_change, message.stamp_phase) != ours:
            self.coordinator.effects.answer(link, request_id, RingIs(ours[0]))
            return None
        return self.coordinator

    def _check_owned(self, coordinator: Coordinator, partitions: Iterable[int]) -> None:
        ring = coordinator.ring
        for partition in partitions:
            ring.check_partition(partition)
            is_own = coordinator.node_id in ring.lists[partition]
            if not is_own or partition in ring.moves:
                raise BadRequest(f"partition {partition} is not of this agent, or it moves")

    def _records(self, keys: Sequence[bytes]) -> tuple[LookReply, int]:
        entries: list[list[object]] = []
        size = looked_at = 0
        keys = keys[: limits.EXCHANGE_PAGE_ROWS]
        self._replica.read_ahead(keys)
        for key in keys:
            record = self._replica.read(key, token_of(key))
            looked_at += 1
            if may_travel(record):
                entries.append(encode_entry(key, record))
                size += len(record.content)
            if size >= limits.EXCHANGE_PAGE_BYTES:
                break
        # All of one partition, and read in this call.
        barrier = self._replica.barriers.read_under(token_of(keys[0])) if keys else 0
        return LookReply(looked_at, [], entries, barrier), size


def may_travel(record: Record) -> bool:
    """May this committed copy be given to others? Not one that is absent, unreadable or unknown, or
    (decision 0010) too large until somebody settles the key."""
    is_sound = bool(record.value.clock) and not record.unknown
    return is_sound and len(record.content) <= limits.RECORD_BYTES_MERGED_MAX


def versions(replica: Replica, keys: Sequence[bytes]) -> tuple[list[list[object]], int]:
    """What a LookReply says of the first of these keys, as many as it may; and the bytes of it."""
    copies: list[list[object]] = []
    size = read_bytes = 0
    replica.read_ahead(keys)
    for key in keys:
        record = replica.read(key, token_of(key))
        clock, dots = encode_clock(record.value.clock), flatten(record.value.dots())
        if record.unknown:
            copies.append([])
        else:
            copies.append([record.digest if clock else b"", clock, dots])
        size += 32 + _NUMBER_BYTES * (len(clock) + len(dots))
        read_bytes += len(record.content)
        if size >= limits.EXCHANGE_ROWS_BYTES_MAX or read_bytes >= limits.EXCHANGE_LOOK_BYTES_MAX:
            break
    return copies, size


def hints_first(ring: Ring, source: NodeId, target: NodeId) -> str:
    """Why these two are not compared now."""
    names = [ring.member(node) for node in (source, target)]
    giver, taker = (member.name if member is not None else "?" for member in names)
    return f"{giver} delivers hints to {taker}: they are compared when those have arrived"


def roots_at_once(forest: Forest, partitions: Iterable[int]) -> int:
    """Of how many of these, the first ones, the roots can be told without a stall: after writes all
    over the ring each takes hundreds of hashes. One at least, if there are any."""
    stale = count = 0
    for number in partitions:
        stale += forest.stale(PartitionId(number))
        if count and stale > limits.EXCHANGE_STALE_MAX:
            break
        count += 1
    return count


def hashes(forest: Forest, level: int, numbers: Sequence[int]) -> list[bytes]:
    """Of these nodes of a level, numbered as in Compare."""
    if level == 0:
        return [forest.root(PartitionId(number)) for number in numbers]
    found: list[bytes] = []
    parent, children = -1, []
    for number in numbers:
        if number // ARITY != parent:
            parent = number // ARITY
            partition, index = divmod(parent, ARITY ** (level - 1))
            children = forest.children(PartitionId(partition), level - 1, index)
        found.append(children[number % ARITY])
    return found


def first_keys(keys: Sequence[bytes], rows: int) -> list[bytes]:
    """As many of the first of these as one question takes: so many, and of a control frame."""
    size = 0
    for place, key in enumerate(keys[:rows]):
        size += len(key)
        if size > limits.EXCHANGE_ROWS_BYTES_MAX:
            return [*keys[: max(1, place)]]
    return [*keys[:rows]]


def leaf_ranges(forest: Forest, leaves: Iterable[int]) -> list[tuple[Token, Token]]:
    """The first and the last token of these leaves, in ascending order; of those that adjoin, as
    all do of which a node has lost its copies, as one: a scan costs as much as ten records."""
    ranges: list[tuple[Token, Token]] = []
    before = -2
    for number in leaves:
        partition, leaf = divmod(number, forest.leaves)
        first, last = forest.leaf_range(PartitionId(partition), leaf)
        if number == before + 1:
            first, _ = ranges.pop()
        ranges.append((first, last))
        before = number
    return ranges


def leaf_page(
    replica: Replica, leaves: Sequence[int], after: bytes
) -> tuple[list[Row], bytes, int]:
    """The committed copies of these leaves behind a place: rows, the place up to which was looked
    (b"": to the end), and the bytes that it took. Raises `CorruptRecord` if the engine cannot
    read on."""
    forest = replica.forest
    rows: list[Row] = []
    looked = size = 0
    for first, last in leaf_ranges(forest, leaves):
        if after[:TOKEN_BYTES] > last:
            continue
        for place, digest, stored_bytes in replica.survey.digests(first, last, after):
            rows.append((place, digest))
            looked += stored_bytes
            size += len(place) + len(digest)
            if (
                len(rows) >= limits.EXCHANGE_ROWS_MAX
                or looked >= limits.EXCHANGE_LOOK_BYTES_MAX
                or size >= limits.EXCHANGE_ROWS_BYTES_MAX
            ):
                return rows, place, looked
    return rows, b"", looked
