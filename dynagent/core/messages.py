"""The catalogue of messages: plain values that cross between nodes and clients.

A class body here is the one table of the protocol: the field order is the order on the wire, the
annotation names the schema that `wire.registry` checks, a default marks a field that an older peer
may leave out. (If all such fields have their defaults, none is sent: so rare ones cost nothing.)
Fields are append-only and codes are never reused (`tests/wire/lock.txt` holds it);
`docs/protocol.md` and the CDDL file are generated from these classes.

The classes are slotted and built by a metaclass: frozen dataclasses cost 8 times as much to make
and 30 ms of import, and the hot path and `dynctl get` would pay for both (design §9).
"""

from __future__ import annotations

TYPE_CHECKING = False  # mypy takes it as true; `typing` itself would cost the command line 5 ms
if TYPE_CHECKING:
    from typing import dataclass_transform
else:

    def dataclass_transform():
        return lambda cls: cls


# The schemas: what a field may hold. `wire.registry.SCHEMAS` has the bounds for each name.
Key = bytes  # 1 .. 1,024 bytes
Value = bytes | None  # 0 .. 8 MiB; None is a put of nothing: a delete
ContextBytes = bytes  # opaque; empty: nothing seen
OpId = bytes  # 16 bytes, or empty where the field says so
Uint = int  # 0 .. 2^64-1
Small = int  # 0 .. 65,535
Flag = bool
Text = str
Blob = bytes
Texts = list[str]
Meta = dict[bytes, bytes]
RequestIds = list[int]
Keys = list[bytes]
Replies = list[list[object]]  # [request id, fields of a ReadReply…]
Flat = list[int]  # a clock or a set of dots: actor, counter, actor, counter, …
SiblingBytes = list[bytes]  # each the one encoding of a sibling (core/entry.py)
Entries = list[list[object]]  # whole records: [key, clock, siblings, op-ids]
MaybeEntry = list[object] | None
Uints = list[int]
FactBytes = list[bytes]  # each a sealed fact (core/facts.py)
Editions = list[list[object]]  # which facts a node has: [node id, run, version]
NodeIds = list[str]
LogEntries = list[bytes]  # of the ring log, each encoded (core/ringentry.py)
Nonces = list[bytes]  # of starts of a node: 8 bytes each
TombstoneRows = list[list[object]]  # [key, digest, barrier]
Rows = list[list[object]]  # what an owner holds of each key: [key, clock, dots]
Hashes = list[bytes]  # of nodes of Merkle trees: 32 bytes, or empty where one is not known
LeafRows = list[list[object]]  # a key and the digest of its record: [key, digest]
Looks = list[list[object]]  # copies of keys: [digest, clock, dots]


class MessageType(type):
    """Turns annotations into slots, an `__init__` of that order, and its row of the table."""

    code: int
    field_names: tuple[str, ...]
    schema_names: tuple[str, ...]
    defaults: tuple[object, ...]  # of the trailing fields that have one

    def __new__(
        mcls, name: str, bases: tuple[type, ...], body: dict[str, object], code: int = 0
    ) -> MessageType:
        annotations = body.get("__annotations__", {})
        assert isinstance(annotations, dict)
        names = tuple(annotations)
        defaults = {field: body.pop(field) for field in names if field in body}
        body["__slots__"] = names
        if names:
            body["__init__"] = _first_init
        cls = super().__new__(mcls, name, bases, body)
        cls.code = code
        cls.field_names = names
        cls.schema_names = tuple(str(annotation) for annotation in annotations.values())
        cls.defaults = tuple(defaults.values())
        return cls

    def __init__(
        cls, name: str, bases: tuple[type, ...], body: dict[str, object], code: int = 0
    ) -> None:
        super().__init__(name, bases, body)


def _first_init(self: Message, *values: object, **named: object) -> None:
    """The first message of its class writes the real `__init__`, here: a command that meets five
    classes need not compile thirty (4 ms)."""
    cls = type(self)
    names = cls.field_names
    required = len(names) - len(cls.defaults)
    defaults = dict(zip(names[required:], cls.defaults, strict=True))
    signature = ", ".join(
        f"{name}=_defaults[{name!r}]" if name in defaults else name for name in names
    )
    lines = "\n".join(f"    self.{name} = {name}" for name in names)
    scope: dict[str, object] = {"_defaults": defaults}
    exec(f"def __init__(self, {signature}):\n{lines}\n", scope)
    cls.__init__ = scope["__init__"]  # type: ignore[method-assign,assignment]
    cls.__init__(self, *values, **named)


@dataclass_transform()
class Message(metaclass=MessageType):
    """A message; two are equal when they are of one class and all fields are."""

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and all(
            getattr(self, field) == getattr(other, field) for field in type(self).field_names
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        fields = ", ".join(f"{field}={getattr(self, field)!r}" for field in type(self).field_names)
        return f"{type(self).__name__}({fields})"


# --- any connection ------------------------------------------------------------------------------

ROLE_CLIENT, ROLE_PEER = 0, 1


class Hello(Message, code=1):
    """The first frame in both directions: who speaks, and what it understands.

    The version used is the highest that both know. `cluster_id` is empty for a client that does not
    care and for an agent that has no cluster yet; two that differ close the connection.
    """

    version_min: Small
    version_max: Small
    role: Small  # 0 client, 1 peer
    cluster_id: Blob
    node_id: Text  # empty for a client
    boot_id: Blob  # the nonce of this start (Register): tells a restart from a new connection
    features: Texts
    frame_bytes_max: Uint
    wall_ms: Uint


class Error(Message, code=2):
    """The reply to a request that failed; `error` is a code of the error table."""

    error: Small
    text: Text
    trace: Blob = b""  # if it was asked for
    epoch: Uint = 0  # see GetReply


class Ping(Message, code=3):
    """Is the way there and back open? Answered by Pong."""


class Pong(Message, code=4):
    """The answer to Ping."""


class PingFor(Message, code=5):
    """Ping another member for me, I have no answer from it. Answered by Pong if it has answered
    you, else by an Error: either way I know that you are well (SWIM's indirect probe)."""

    target: Text  # a node id


# --- clients to any agent ------------------------------------------------------------------------

MODE_CONTEXT, MODE_OVERWRITE, MODE_BLIND = 0, 1, 2


class Get(Message, code=10):
    """Read a key. Answered by GetReply, or by an Error: QuorumNotMet, NotReady, BadRequest."""

    key: Key
    r: Small = 0  # owners that must answer; 0: the ring's R
    strict: Flag = False  # only owners count, no stand-ins
    trace: Flag = False  # tell which node answered what and when, see The trace
    hops: Small = 0  # agents that have passed it on
    repair: Flag = False  # answer only when W owners have on disk what is returned


class GetReply(Message, code=11):
    """All concurrent values of a key; no siblings means that it has no value."""

    context: ContextBytes  # hand it back with the next put of this key
    siblings: SiblingBytes
    partial: Flag  # fewer than R copies count (never of a strict read): there may be newer ones
    answered: Small  # copies that count: of owners, and of stand-ins that hold the key
    trace: Blob = b""  # if it was asked for
    held: Small = 0  # owners that have it on disk, if repair was asked for (0: a version without)
    epoch: Uint = 0  # of the ring of the agent that was asked, if it had to pass the request on


class Put(Message, code=12):
    """Write a key, or delete it (value null). Answered by PutReply or an Error.

    Mode 0 supersedes what `context` has seen, 1 what R owners and the coordinator hold, 2 nothing.
    `attempt` above 1 marks a retry: its coordinator looks for `op_id` before it writes.
    """

    key: Key
    value: Value
    mode: Small
    context: ContextBytes
    op_id: OpId
    attempt: Small = 1
    r: Small = 0  # for the read of mode 1 and of retries; 0: the ring's R
    w: Small = 0  # nodes that must have fsynced; 0: the ring's W
    strict: Flag = False  # only owners count, no stand-ins
    content: Small = 0  # type of the value, free for applications
    expiry_ms: Uint = 0  # wall milliseconds since 1970; 0: never
    meta: Meta = {}  # noqa: RUF012 - never changed; small headers kept with the value
    trace: Flag = False  # as for Get
    hops: Small = 0  # as for Get


class PutReply(Message, code=13):
    """W nodes have fsynced the write."""

    context: ContextBytes  # what the writer has now seen; empty while siblings are left: read first
    siblings: Small  # values the key has at the coordinator, this one included
    dot: Blob  # actor and counter, 8 bytes each; empty for a delete or a retry found superseded
    trace: Blob = b""  # if it was asked for
    epoch: Uint = 0  # see GetReply


class List(Message, code=14):
    """Which keys does this owner hold in a partition? Answered by ListReply; by RingIs if the stamp
    is not that of your ring (see Merge; 0, 0: any will do); or by an Error: Unhealthy if records of
    it may be missing, or cannot be read.

    A place is a token (16 bytes) and its key: the order in which an owner keeps its records. Ask N
    owners less W, and one more, and merge what they hold of each key as siblings are merged: then
    an acknowledged write is not missed, and a deleted key is not shown.
    """

    partition: Small
    after: Blob = b""  # go on behind this place; empty: at the first key of the partition
    prefix: Blob = b""  # only keys that begin so
    look_max: Small = 0  # records to look at; 0: as many as the owner likes
    stamp_change: Uint = 0
    stamp_phase: Small = 0


class ListReply(Message, code=15):
    """A page of committed records: every one with that prefix up to `position`.

    A page may be empty and still not be the last: it is bounded by what had to be looked at.
    """

    rows: Rows  # sorted by place; a row with an empty clock is a copy that cannot be read
    position: Blob  # the place up to which was looked; empty: the partition ends here
    looked_at: Small  # records
    unreadable: Small = 0  # records so damaged that not even their key is known


class Inspect(Message, code=16):
    """What is your own copy of this key? For people; any agent answers. By InspectReply."""

    key: Key


class InspectReply(Message, code=17):
    """The committed copy of one node, without its values.

    `state` as in ReadReply; present without dots is a tombstone.
    """

    state: Small
    digest: Blob  # 32 bytes over clock and siblings; empty unless present
    clock: Flat
    dots: Flat
    sizes: Uints  # of the siblings' values in bytes, in the order of the dots
    stored_bytes: Uint  # of the record as it lies on the disk
    pending: Flag  # a newer copy waits for its fsync
    writable: Flag  # this node takes writes now: it does not stop, and its disk is not full
    owed: Texts = []  # noqa: RUF012 - never changed; ids of nodes for which it keeps this key
    # Milliseconds since this node compared the key's partition with all owners that come after it
    # in the preference list, and found or made it equal; 0: not since its start, or it is the last.
    verified_ms: Uint = 0


# --- between owners ------------------------------------------------------------------------------


class Merge(Message, code=20):
    """Whole records to be merged (replication, repair, hints, transfer). Answered by MergeAck.

    `stamp_change` and `stamp_phase` say under which change of the ring it is asked (design §6), the
    same for all entries. Answered by RingIs if that is too old here, or not known, and with
    NotYetOwner by an owner to be.

    `barrier` says under which purge barrier the content was read (§7); where the entries differ in
    that, `barriers` has that of each, and `barrier` the least. What has become too old is refused
    with StaleBarrier: read it again, and send that. A frame may carry the merges of several
    requests; `also` are the ids of the others, each of which is answered.
    """

    stamp_change: Uint
    stamp_phase: Small
    barrier: Uint
    entries: Entries
    also: RequestIds = []  # noqa: RUF012 - never changed
    hint_for: Text = ""  # keep them for this owner, who is down, and hand them over when it is back
    barriers: Uints = []  # noqa: RUF012 - never changed; empty: `barrier` is that of each entry


class MergeAck(Message, code=21):
    """Everything in that Merge is fsynced here, and in those of the other request ids."""

    also: RequestIds = []  # noqa: RUF012 - never changed; one frame answers a whole group commit


WANT_DIGEST, WANT_VALUE = 0, 1


class Read(Message, code=22):
    """What does this owner hold? Answered by ReadReply; by RingIs if the stamp (see Merge) is too
    old here, or not known.

    A frame may carry several requests that differ in nothing but their id and key; each of them is
    answered.
    """

    stamp_change: Uint
    stamp_phase: Small
    key: Key
    want: Small  # 0 digest, 1 the record itself
    op_id: Blob = b""  # also tell whether this op-id is known
    also: RequestIds = []  # noqa: RUF012 - never changed
    keys: Keys = []  # noqa: RUF012 - never changed; one for each of these ids


STATE_ABSENT, STATE_PRESENT, STATE_UNREADABLE = 0, 1, 2
OP_NOT_ASKED, OP_UNKNOWN, OP_PRESENT, OP_SUPERSEDED, OP_FORGOTTEN = 0, 1, 2, 3, 4


class ReadReply(Message, code=23):
    """The committed copy of one owner. `state` 2 (unreadable) is neither a value nor its absence.

    `op`: 0 not asked, 1 unknown, 2 a present sibling, 3 superseded, 4 unknown but older op-ids
    have been forgotten. A frame may carry the replies to several requests.
    """

    state: Small
    digest: Blob  # 32 bytes over clock and siblings; empty unless present
    clock: Flat
    dots: Flat
    entry: MaybeEntry
    op: Small = 0
    also: Replies = []  # noqa: RUF012 - never changed
    barrier: Uint = 0  # under which this copy was read: it goes with its content, see Merge


# --- the ring and the state of a node ------------------------------------------------------------


class RingRequest(Message, code=30):
    """Send me the ring if yours is not of this epoch. Answered by RingReply."""

    epoch: Uint = 0  # the epoch that the asker has; 0: none


class RingReply(Message, code=31):
    """The ring, encoded (core/ring.py); empty if the asker's epoch is the present one."""

    epoch: Uint
    ring: Blob


class Install(Message, code=32):
    """Bootstrap: become the named member of this first ring. Answered by Installed once durable."""

    ring: Blob


class Installed(Message, code=33):
    """The first ring is durable here."""


class StatusRequest(Message, code=34):
    """How is this node, as it sees itself and its peers? Answered by StatusReply."""

    facts: Flag = False  # also tell what gossip says of each member
    tombstones: Flag = False  # also tell of each partition with tombstones
    transfers: Flag = False  # also tell of each partition that it gains


class StatusReply(Message, code=35):
    """An encoded map; its fields are in docs/protocol.md and may grow."""

    document: Blob


HINTS_PAUSE, HINTS_RESUME, HINTS_NOW = 1, 2, 3


class HintOrder(Message, code=36):
    """Pause or resume the delivery of hints, or try it at once. Answered by StatusReply.

    A pause lasts until it is resumed or the agent restarts.
    """

    action: Small  # 1 pause, 2 resume, 3 deliver what is owed without waiting (and resume)
    target: Text = ""  # to that node only; empty: to all


class DrainOrder(Message, code=105):
    """Take no more requests of clients, and let background work rest; or serve again. Answered by
    StatusReply.

    It is still an owner: it answers other nodes, and votes. A restart ends it.
    """

    on: Flag = True


# --- gossip --------------------------------------------------------------------------------------


class Gossip(Message, code=40):
    """Do you know what I know? Answered by GossipReply.

    The facts about all members are spread over 16 buckets by the first byte of BLAKE2b-8 of the
    node id, modulo 16; the digest of a bucket is the XOR of its facts' seals.
    """

    digests: Blob  # 8 bytes for each bucket, in order


class GossipReply(Message, code=41):
    """Which facts I have in those buckets that differ; go on with Facts if that is news to one of
    us. Nothing: we know the same."""

    editions: Editions = []  # noqa: RUF012 - never changed
    differ: Small = 0  # bit i: bucket i


class Facts(Message, code=42):
    """Facts that you lack, and the ids of those that I lack. Answered by FactsReply, or by an Error
    if one of them is malformed, damaged or of another cluster: then none of them is taken."""

    facts: FactBytes
    wanted: NodeIds


class FactsReply(Message, code=43):
    """The facts that were wanted, as many as one message takes."""

    facts: FactBytes


# --- Merkle exchange (core/exchange.py) ----------------------------------------------------------


class Compare(Message, code=50):
    """Which of these nodes have other hashes in your trees? Answered by CompareReply; by RingIs if
    our rings differ; or by an Error: NotReady, also to roots while you deliver hints to the asker;
    BadRequest if you are no owner of one of the partitions, or it moves.

    Level 0 has the roots, and each node sixteen children at the next. A node's number is
    partition × 16^level + its place in that level of its tree.
    """

    stamp_change: Uint
    stamp_phase: Small
    level: Small
    nodes: Uints
    hashes: Hashes  # one for each; an empty one (not known) is equal to none
    asker: Text = ""  # its node id


class CompareReply(Message, code=51):
    """Those that differ. Nothing: all are equal."""

    differ: Uints = []  # noqa: RUF012 - never changed; numbers, as they were asked
    later: Uints = []  # noqa: RUF012 - never changed; not these: they differ, and are under
    # comparison with another owner (what that one moves need not be moved twice), or are in `again`
    again: Uints = []  # noqa: RUF012 - never changed; of `later`: roots that were not looked at, as
    # all at once would have kept clients waiting; ask for them at once. The first is always told


class LeafKeys(Message, code=52):
    """Which keys have you committed in these leaves? Answered by LeafKeysReply, or as Compare.

    Leaves are numbered as in Compare, in ascending order: that of places (token and key).
    """

    stamp_change: Uint
    stamp_phase: Small
    leaves: Uints
    after: Blob = b""  # go on behind this place; empty: at the beginning


class LeafKeysReply(Message, code=53):
    """A page: every key of these leaves up to `position`."""

    rows: LeafRows  # sorted by place; without a digest: a copy that is unreadable, or unknown
    position: Blob  # the place up to which was looked; empty: to the end


class Look(Message, code=54):
    """What are your copies of these keys, all of one partition? Answered by LookReply, or as
    Compare."""

    stamp_change: Uint
    stamp_phase: Small
    keys: Keys
    want: Small  # 0 the versions, 1 the records themselves


class LookReply(Message, code=55):
    """The committed copies of the first so many of these keys: one of them at least.

    A copy is [digest, clock, dots]; [] if it is unreadable or unknown. An absent one has nothing
    in the three. Records that were asked for are in `entries`, if there and sound.
    """

    looked_at: Small
    copies: Looks = []  # noqa: RUF012 - never changed; if versions were wanted
    entries: Entries = []  # noqa: RUF012 - never changed
    barrier: Uint = 0  # the purge barrier under which they were read, as in Merge


class Roots(Message, code=56):
    """What are the roots of your trees? For verify; any agent answers, by RootsReply."""

    partitions: Uints  # 1,024 at most


class RootsReply(Message, code=57):
    """One hash and one count for each of the first so many of these partitions, one at least: all
    at once would keep clients waiting where writes have made many stale. Of a partition that is not
    its own, an empty hash and 0."""

    epoch: Uint
    roots: Hashes
    counts: Uints  # records, tombstones too


# --- jobs ----------------------------------------------------------------------------------------

JOBS_TELL, JOB_START, JOB_CANCEL = 0, 1, 2


class JobRequest(Message, code=58):
    """Start or cancel this agent's part of a job, or tell of it. Answered by JobsReply, or by an
    Error: BadRequest for an unknown kind or scope, Overloaded if too many are under way.

    A job of the whole cluster is one id, started on every agent. To start an id again, or to
    cancel one that has ended, changes nothing.
    """

    action: Small  # 0 tell, 1 start, 2 cancel
    job: Text = ""  # 16 hex digits; empty: all of them
    kind: Text = ""  # to start: repair, verify, …
    node: Text = ""  # the scope: only what concerns this node id,
    partitions: Uints = []  # noqa: RUF012 - never changed; only these,
    prefix: Blob = b""  # only keys that begin so
    preview: Flag = False  # nothing is changed


class JobsReply(Message, code=59):
    """An encoded map: jobs, a list of maps with the fields given under Jobs, newest first."""

    document: Blob


# --- export --------------------------------------------------------------------------------------


class Export(Message, code=60):
    """Which records do you hold in a partition? Like List, but with all that is in them. Answered
    by ExportReply, by RingIs or an Error."""

    partition: Small
    after: Blob = b""  # go on behind this place (see List); empty: at the first key
    stamp_change: Uint = 0  # as in List
    stamp_phase: Small = 0


class ExportReply(Message, code=61):
    """A page of committed records, tombstones too, every one up to `position`.

    It is bounded by the bytes that were looked at; a single record may be larger.
    """

    entries: Entries  # sorted by place; without op-ids
    position: Blob  # the place up to which was looked; empty: the partition ends here
    unreadable: Keys = []  # noqa: RUF012 - never changed; copies that are unreadable or unknown


# --- the end of deletes (core.tombstones) --------------------------------------------------------


class BarrierRequest(Message, code=70):
    """Where do you stand in these partitions? Answered by BarrierReply; by RingIs if our rings
    differ; or by an Error: NotReady."""

    stamp_change: Uint
    stamp_phase: Small
    partitions: Uints  # 256 at most


class BarrierReply(Message, code=71):
    """The barrier of each of these partitions, on the disk."""

    barriers: Uints
    holding: Uints = []  # noqa: RUF012 - never changed; partitions of which it keeps copies for
    # others: it cannot move before they are delivered
    void: Uints = []  # noqa: RUF012 - never changed; partitions where it has not moved to that
    # barrier since members or lists have changed


class BarrierMove(Message, code=72):
    """All that may hold copies of these partitions stand just before the barrier given for each, or
    have moved: move to it, if you may. Or, if `closes`, they all stand there: refuse what was read
    under less. Answered by MergeAck once that is on the disk (ask where you stand to know whether
    you have moved), or as BarrierRequest; also Overloaded and DiskFull."""

    stamp_change: Uint
    stamp_phase: Small
    partitions: Uints  # 256 at most
    barriers: Uints  # one for each
    closes: Flag = False


class TombstoneQuery(Message, code=73):
    """Do you hold just these tombstones? Answered by TombstoneReply, or as BarrierRequest."""

    stamp_change: Uint
    stamp_phase: Small
    rows: TombstoneRows  # 256 at most, each with the barrier under which it shall be purged


class TombstoneReply(Message, code=74):
    """A byte for each: 0 no; 1 yes, on the disk, since before the move to that barrier, and what
    was read before it is refused; 2 yes, but not that long."""

    states: Blob


class Purge(Message, code=75):
    """All owners have answered 1 for these: drop each that is unchanged. Answered by MergeAck once
    that is on the disk, or as BarrierMove."""

    stamp_change: Uint
    stamp_phase: Small
    rows: TombstoneRows  # as in TombstoneQuery


# --- the ring log (core/ringlog.py) --------------------------------------------------------------


class Propose(Message, code=80):
    """Have this decided as the next entry of the ring log. Any agent takes it. Answered by Proposed
    once it is decided and durable there, or by an Error: Refused if it does not fit the ring (any
    more), QuorumNotMet if nothing was sent out, NotReady if this agent's ring is older than
    `epoch`, Overloaded; WriteOutcomeUnknown if it may still be decided.

    The content is an encoded entry, of which time and proposer are not looked at. One with the id
    of an entry after `epoch` is answered as decided, so it may be proposed again.
    """

    content: Blob
    epoch: Uint = 0  # of the ring that it was planned on; 0: not on any
    force: Flag = False  # voters only: a majority of the present ones is lost for good. Decided by
    # this agent alone; what it gives up is told under The ring and its log


class Proposed(Message, code=81):
    """It is decided. A ring of `epoch` has it."""

    epoch: Uint


class Ballot(Message, code=82):
    """Single-decree Paxos for the entry of that index, among the voters of the ring before it.
    Without an entry: promise to take part in no older ballot (prepare); with one: accept it.

    Answered by Vote once that is on the disk; by LogReply if the entry is decided already; by
    RingIs if this voter lacks entries before it; by an Error: Refused by who is no voter, DiskFull.
    """

    index: Uint
    round: Uint  # ballots are ordered by round,
    proposer: Uint  # then by this: random for each start of an agent
    entry: Blob = b""


class Vote(Message, code=83):
    """Where a voter stands, for good. The ballot asked about is granted if it is the one promised
    and, if it had an entry, the one accepted."""

    round: Uint  # of the ballot promised
    proposer: Uint
    accepted_round: Uint = 0  # of the last ballot accepted, and its entry
    accepted_proposer: Uint = 0
    entry: Blob = b""


class RingIs(Message, code=84):
    """My ring is of this epoch: the answer to a request whose stamp does not fit it, and to
    LogReply. If that is newer than yours ask me for the log, if it is older tell me of yours."""

    epoch: Uint


class LogRequest(Message, code=85):
    """The entries of the ring log after that index, as far as they are durable. By LogReply."""

    after: Uint
    kept: Flag = False  # for people: if they are not kept any more, those that are; never a ring


class LogReply(Message, code=86):
    """Entries of the ring log, one after the other: as many as fit, the first one at least.

    Sent unasked too, to who lacks them: then answered by RingIs, once they are durable there.
    """

    epoch: Uint  # of the sender's ring
    first: Uint = 0  # index of the first of them
    entries: LogEntries = []  # noqa: RUF012 - never changed; the next ones have the next indexes
    ring: Blob = b""  # instead of entries that are kept no longer: a newer ring


# --- the start of a node (core.registration) -----------------------------------------------------


class Register(Message, code=96):
    """This store has started: record it. Answered by MergeAck once that is on the disk; by
    StartRefused; by RingIs if one of us must learn a newer ring first; or by an Error: DiskFull.

    `starts` are the nonces of the last runs of this store, `run` being the last of them. Who keeps
    another nonce for one of these runs, or knows a later one, knows another store under that id.
    """

    node: Text  # its node id
    run: Uint  # the number of this start
    starts: Nonces
    address: Text  # where it is reached
    epoch: Uint  # of the ring that it has


class StartRefused(Message, code=97):
    """This store must not serve under that node id; or (3) not while another one does."""

    kind: Small  # 1 another store has started under it, 2 it is no member of the ring (any more),
    # 3 another agent is up under it, at `address`: ask again, or look who that is
    run: Uint  # of that other start
    address: Text  # where that one was reached
    epoch: Uint  # of the ring that says so


class Enter(Message, code=98):
    """My store is lost, and this is a new one: put me into the places of my old self. Any member
    takes it. Answered by RingReply once I am a member, or by an Error: Refused with what to do by
    hand, NotReady, QuorumNotMet; WriteOutcomeUnknown if it may still happen. It may be repeated."""

    node: Text  # the new node id
    name: Text
    address: Text
    zone: Text
    host: Text
    capacity: Uint
    replaces: Text = ""  # the old node id; empty: whoever has this name


# --- transfers: partitions that change their owners (core.transfer) ------------------------------


class Fence(Message, code=90):
    """Refuse from now on, and for good, whatever comes under a lower stamp for these partitions.
    Answered by FenceReply once that and all that was accepted before is on the disk; by RingIs if
    your ring has another stamp for one of them; or by an Error: BadRequest if you are no owner of
    one, Overloaded, DiskFull."""

    stamp_change: Uint
    stamp_phase: Small
    partitions: Uints  # 1,024 at most


class FenceReply(Message, code=91):
    """Done. For each partition, as of then:"""

    barriers: Uints  # the purge barrier of this node
    floors: Uints  # what was read under less it refuses
    records: Uints  # that it holds, as far as its trees know


PULL_ROWS, PULL_VERSIONS, PULL_RECORDS = 0, 1, 2


class Pull(Message, code=92):
    """What have you of this partition, which you own and were fenced for? Answered by PullReply; by
    RingIs; or by an Error: Unhealthy if records of it may be missing, or cannot be read."""

    stamp_change: Uint
    stamp_phase: Small
    partition: Small
    want: Small  # 0 keys with digests, 1 versions of these `keys`, 2 records
    leaves: Uints = []  # noqa: RUF012 - never changed; only of these leaves, ascending, 64 at most
    after: Blob = b""  # go on behind this place (token and key); empty: at the beginning
    keys: Keys = []  # noqa: RUF012 - never changed; only these, 256 at most


class PullReply(Message, code=93):
    """A page of what is committed: all up to `position`, or the first `looked_at` of these keys."""

    position: Blob = b""  # the place up to which was looked; empty: to the end
    looked_at: Small = 0  # of the keys that were given
    barrier: Uint = 0  # the purge barrier under which all of it was read, as in Merge
    rows: LeafRows = []  # noqa: RUF012 - never changed; sorted by place, as in LeafKeysReply
    copies: Looks = []  # noqa: RUF012 - never changed; one for each key, as in LookReply
    entries: Entries = []  # noqa: RUF012 - never changed
    excepted: Keys = []  # noqa: RUF012 - never changed; copies that are unreadable, unknown or too
    # large to travel: no source, another must be asked for them


class Sift(Message, code=94):
    """Which of these nodes have other hashes in your tree of this partition? Answered by SiftReply
    once all that your tree speaks of is on the disk; otherwise as Pull.

    Level 0 is the root, and each node has sixteen children at the next. A node's number is its
    place in its level.
    """

    stamp_change: Uint
    stamp_phase: Small
    partition: Small
    level: Small
    nodes: Uints
    hashes: Hashes  # one for each; an empty one (not known) is equal to none


class SiftReply(Message, code=95):
    """Those that differ."""

    differ: Uints = []  # noqa: RUF012 - never changed; numbers, as they were asked
    counts: Uints = []  # noqa: RUF012 - never changed; records of each of them, if it is a leaf


class TransferRequest(Message, code=100):
    """Which partitions that you gain by this change have you copied? Answered by TransferReply; by
    RingIs if that is not the change under way."""

    index: Uint  # of the change


class TransferReply(Message, code=101):
    """Those that may enter phase 1, as far as this new owner is concerned."""

    ready: Uints = []  # noqa: RUF012 - never changed


class Invite(Message, code=87):
    """You are a member of this ring: to a fresh agent, from whoever has had the change decided.

    Answered by Installed once it is durable, also if it was before; or by an Error: Refused if the
    ring does not name this agent, or if it belongs to another cluster, BadRequest.
    """

    ring: Blob


def catalogue() -> list[type[Message]]:
    """Every message class, by code."""
    return sorted(Message.__subclasses__(), key=lambda cls: cls.code)
