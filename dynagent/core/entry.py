"""How a record is written down: one encoding for the disk, the wire, the digest and the client.

    sibling   CBOR [actor, counter, wall ms, flags, type, expiry ms, op-id, meta, value]
    content   CBOR [[actor, counter, …] sorted, [sibling, …] sorted by dot]: the clock, the siblings
    digest    BLAKE2b-256 of the content
    entry     [key, content, superseded op-ids]                         what a Merge carries
    stored    CRC-32 (4 bytes, of cluster id ‖ key ‖ the rest) ‖ head ‖ index ‖ op-ids ‖ content
    head      form 1 (1 byte) ‖ flags (1) ‖ number of superseded op-ids (2), of actors in the clock
              (4), of siblings (4) ‖ mark actor (8) ‖ mark counter (8) ‖ mark run (8) ‖ since (8)
              ‖ digest (32)
    index     of each sibling: actor (8 bytes) ‖ counter (8) ‖ op-id (16)
    op-ids    16 bytes each, one behind the other: a list of byte strings costs CBOR a µs
    context   CRC-32 of key ‖ clock (4 bytes) ‖ clock as CBOR [actor, counter, …]

A sibling is encoded once, by its coordinator, and its bytes never change again; unknown trailing
fields of it are kept and hashed. So is the content, for as long as a merge adds nothing to it: the
bytes that came are hashed, stored and passed on (to write them anew was a sixth of a put). What it
leaves out is local to a copy: flags, the actor mark, the op-ids of superseded siblings, `since`
(the purge barrier under which it last changed). The checksum is seeded with cluster id and key, so
a record that landed under another key or in another cluster's store reads as corrupt.

The head and what follows it have all that a merge must know of a copy, but for the clock, which
begins the content. So a put that supersedes a copy, and whoever asks for its digest, look at its
first 300 bytes and leave the value alone (decision 0016). As CBOR the head cost 1 µs more to write,
and half of that to read. The checksum is checked where a copy comes from the engine; one in the
cache has been, or has just been written.

This file is on the path of every put and get: lists are indexed and types compared by hand, which
is 3 times as fast as `match`.
"""

from __future__ import annotations

from hashlib import blake2b
from itertools import chain
from struct import Struct, error
from zlib import crc32

from dynagent import limits
from dynagent.core.cbor import CBORDecodeError, loads
from dynagent.core.encoding import decode, encode
from dynagent.core.siblings import EMPTY, Clock, Dot, Sibling, Siblings
from dynagent.core.version import sibling_fields
from dynagent.errors import BadRequest, CorruptRecord, ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FLAG_UNKNOWN = 1  # lost its past (unreadable once): not yet merged with N−W+1 other owners

Mark = tuple[int, int, int]  # (actor, last counter minted here, run): the right to go on with it
NO_MARK: Mark = (0, 0, 0)

_ID_BYTES = limits.OP_ID_BYTES
_OP_IDS = [Struct(f"{_ID_BYTES}s" * count) for count in range(limits.OP_IDS_KEPT + 1)]
_PLACE = Struct(f">QQ{_ID_BYTES}s")  # of a sibling, in the index
_LENGTH = Struct(">H")
_CHECKSUM = Struct(">I")
_FORM = 1
_HEAD = Struct(">BBHII4Q32s")
_HEAD_AT = _CHECKSUM.size
_INDEX_AT = _HEAD_AT + _HEAD.size
_PAIR = b"\x82"  # how a content begins
_CLOCK_BYTES, _ACTOR_BYTES = 9, 18  # of a clock's encoding: a head, and two numbers an actor


class Record:
    """One node's copy of a key. (By keyword its arguments cost twice as much: 0.4 µs.)"""

    __slots__ = (
        *("_content", "clock_bytes", "digest"),
        *("mark", "op_ids", "since", "unknown", "value"),
    )

    def __init__(
        self,
        value: Siblings,
        op_ids: tuple[bytes, ...] = (),
        mark: Mark = NO_MARK,
        since: int = 0,
        unknown: bool = False,
        content: bytes | None = None,
        digest: bytes | None = None,
    ) -> None:
        self.value = value
        self.op_ids = op_ids  # of superseded siblings and of deletes, newest last
        self.mark = mark
        self.since = since
        self.unknown = unknown
        self.clock_bytes = b""  # the encoded clock; only if the content was encoded here
        if content is None:
            self.clock_bytes = encode(encode_clock(value.clock))
            content = _encode_content(self.clock_bytes, value.siblings)
        self._content = content  # clock and siblings as bytes: equal on equal copies
        self.digest = digest or blake2b(content, digest_size=32).digest()  # over the content

    @property
    def content(self) -> bytes:
        return self._content


def _encode_content(clock: bytes, siblings: tuple[Sibling, ...]) -> bytes:
    """What `encode` would write; but each list costs that 0.3 µs, and a value one more copy."""
    if len(siblings) == 1 and 255 < len(data := siblings[0].data) < 65_536:
        return b"".join((_PAIR, clock, b"\x81\x59", _LENGTH.pack(len(data)), data))
    return b"".join((_PAIR, clock, encode([sibling.data for sibling in siblings])))


# --- siblings ------------------------------------------------------------------------------------


def encode_sibling(
    *,
    dot: Dot,
    wall_ms: int,
    content: int,
    expiry_ms: int,
    op_id: bytes,
    meta: dict[bytes, bytes],
    value: bytes,
) -> Sibling:
    """Writes a sibling down, once and for all."""
    data = encode([*dot, wall_ms, 0, content, expiry_ms, op_id, meta, value])
    return Sibling(dot[0], dot[1], op_id, data)


def decode_sibling(data: object) -> Sibling:
    """The dot and op-id of an encoded sibling; raises `ProtocolError` if it is none."""
    fields = sibling_fields(data)
    if len(fields[6]) != _ID_BYTES:
        raise ProtocolError("a sibling with a malformed op-id")
    return Sibling(fields[0], fields[1], fields[6], data)  # type: ignore[arg-type]


# --- clocks and dots -----------------------------------------------------------------------------


def flatten(pairs: list[Dot]) -> list[int]:
    return list(chain.from_iterable(pairs))


def unflatten(numbers: object) -> list[Dot]:
    """Pairs again; raises `ProtocolError` unless they are positive and even in number."""
    if type(numbers) is not list or len(numbers) % 2:
        raise ProtocolError("not a list of actor and counter pairs")
    for number in numbers:
        if type(number) is not int or number <= 0:
            raise ProtocolError("an actor or counter that is not a positive integer")
    pairs = iter(numbers)
    return list(zip(pairs, pairs, strict=True))


def decode_clock(numbers: object) -> Clock:
    """A clock again; raises `ProtocolError` for what `encode_clock` would not write. One loop for
    all of it: with `unflatten` it cost half a µs more, of the nine of an entry."""
    if type(numbers) is not list or len(numbers) % 2:
        raise ProtocolError("not a list of actor and counter pairs")
    clock: Clock = {}
    last_actor = 0
    for actor, counter in zip(numbers[::2], numbers[1::2], strict=True):
        if type(actor) is not int or type(counter) is not int or counter <= 0:
            raise ProtocolError("an actor or counter that is not a positive integer")
        if actor <= last_actor:
            raise ProtocolError("a clock that is not sorted")
        clock[actor] = counter
        last_actor = actor
    return clock


def encode_clock(clock: Clock) -> list[int]:
    pairs = clock.items()
    return flatten(sorted(pairs) if len(clock) > 1 else list(pairs))


ABSENT = Record(EMPTY)
UNREADABLE = Record(EMPTY, unknown=True)  # a copy that fails its checksum


# --- entries -------------------------------------------------------------------------------------


def encode_entry(key: bytes, record: Record) -> list[object]:
    return [key, record.content, b"".join(record.op_ids)]


def decode_entry(entry: list[Any]) -> tuple[bytes, Record]:
    """(key, record without local parts); raises `ProtocolError` unless it is well-formed."""
    if len(entry) < 3 or not type(entry[0]) is type(entry[1]) is type(entry[2]) is bytes:
        raise ProtocolError("not an encoded entry")
    key, content, op_ids = entry[:3]
    count, rest = divmod(len(op_ids), _ID_BYTES)
    if not 0 < len(key) <= limits.KEY_BYTES_MAX or rest or count > limits.OP_IDS_KEPT:
        raise ProtocolError("an entry with a key or op-ids over their limit")
    value = _decode_content(content)
    return key, Record(value, _OP_IDS[count].unpack(op_ids), NO_MARK, 0, False, content)


def _decode_content(content: bytes) -> Siblings:
    """Clock and siblings from the wire; raises `ProtocolError` unless both are sorted, without
    repetitions, and the clock claims every sibling."""
    parts = decode(content) if content[:1] == _PAIR else None
    if type(parts) is not list or len(parts) != 2 or type(parts[1]) is not list:
        raise ProtocolError("not the content of an entry")
    clock = decode_clock(parts[0])
    siblings: list[Sibling] = []
    last_dot = (0, 0)
    for data in parts[1]:
        sibling = decode_sibling(data)
        dot = (sibling.actor, sibling.counter)
        if sibling.counter > clock.get(sibling.actor, 0):
            raise ProtocolError("an entry whose clock does not claim its own siblings")
        if dot <= last_dot:
            raise ProtocolError("an entry whose siblings are not sorted by dot")
        siblings.append(sibling)
        last_dot = dot
    return Siblings(clock, tuple(siblings))


# --- the stored form -----------------------------------------------------------------------------


def encode_stored(record: Record, *, cluster_id: bytes, key: bytes) -> bytes:
    value, op_ids = record.value, record.op_ids
    siblings = value.siblings
    head = _HEAD.pack(
        _FORM,
        FLAG_UNKNOWN if record.unknown else 0,
        len(op_ids),
        len(value.clock),
        len(siblings),
        *record.mark,
        record.since,
        record.digest,
    )
    index = [_PLACE.pack(one.actor, one.counter, one.op_id) for one in siblings]
    rest = b"".join((head, *index, *op_ids, record.content))
    return _CHECKSUM.pack(crc32(rest, crc32(cluster_id + key))) + rest


def decode_stored(stored: bytes, *, cluster_id: bytes, key: bytes) -> Record:
    """The record; raises `CorruptRecord` if the checksum does not hold or the form is unknown."""
    check_stored(stored, cluster_id=cluster_id, key=key)
    return read_stored(stored, key=key)


def check_stored(stored: bytes, *, cluster_id: bytes, key: bytes) -> None:
    """Raises `CorruptRecord` if the checksum does not hold."""
    if crc32(stored[4:], crc32(cluster_id + key)).to_bytes(4, "big") != stored[:4]:
        raise CorruptRecord(f"the record of key {key[:64]!r} does not match its checksum")


def read_stored(stored: bytes, *, key: bytes) -> Record:
    """The record, without a look at its checksum; raises `CorruptRecord` if its form is unknown."""
    try:
        form, flags, ids, actors, count, actor, counter, run, since, digest = _HEAD.unpack_from(
            stored, _HEAD_AT
        )
        if form != _FORM:
            raise _unknown_form(key, form)
        ids_at = _INDEX_AT + count * _PLACE.size
        at = ids_at + ids * _ID_BYTES
        # Plain `loads`: these are our own bytes, as the checksum has shown. It ignores what follows
        # an item, so the clock needs no length.
        numbers = loads(stored[at + 1 : at + 1 + _CLOCK_BYTES + _ACTOR_BYTES * actors])
        if count == 1:  # the usual case
            place = _PLACE.unpack_from(stored, _INDEX_AT)
            siblings: tuple[Sibling, ...] = (_StoredSibling(place, stored, at),)
        else:
            datas = loads(stored[at:])[1]
            places = zip(_PLACE.iter_unpack(stored[_INDEX_AT:ids_at]), datas, strict=True)
            siblings = tuple([Sibling(*place, data) for place, data in places])  # type: ignore[call-arg]
        return _StoredRecord(
            Siblings(dict(zip(numbers[::2], numbers[1::2], strict=True)), siblings),
            _OP_IDS[ids].unpack_from(stored, ids_at),
            (actor, counter, run),
            since,
            bool(flags & FLAG_UNKNOWN),
            digest,
            stored,
            at,
        )
    except (CBORDecodeError, error, ValueError, TypeError, IndexError) as exc:
        raise _unknown_form(key, exc) from exc


def stored_digest(stored: bytes, *, cluster_id: bytes, key: bytes) -> bytes:
    """Only the digest of a stored record, b"" if the record is flagged unknown; raises
    `CorruptRecord` as `decode_stored`."""
    check_stored(stored, cluster_id=cluster_id, key=key)
    try:
        form, flags, *_, digest = _HEAD.unpack_from(stored, _HEAD_AT)
    except error as exc:
        raise _unknown_form(key, exc) from exc
    if form != _FORM:
        raise _unknown_form(key, form)
    return b"" if flags & FLAG_UNKNOWN else digest


def _unknown_form(key: bytes, what: object) -> CorruptRecord:
    return CorruptRecord(f"the record of key {key[:64]!r} has an unknown form: {what}")


class _StoredRecord(Record):
    """A record as it was stored. Its content is taken out when somebody asks for it: a put that
    supersedes it does not."""

    __slots__ = ("_at", "_stored")

    def __init__(
        self,
        value: Siblings,
        op_ids: tuple[bytes, ...],
        mark: Mark,
        since: int,
        unknown: bool,
        digest: bytes,
        stored: bytes,
        at: int,
    ) -> None:
        self.value = value
        self.op_ids = op_ids
        self.mark = mark
        self.since = since
        self.unknown = unknown
        self.clock_bytes = b""
        self.digest = digest
        self._stored = stored
        self._content = b""
        self._at = at  # of the content

    @property
    def content(self) -> bytes:
        return self._stored[self._at :]


class _StoredSibling(Sibling):
    """The only sibling of a stored record. Its bytes are taken out likewise."""

    __slots__ = ("_at", "_stored")

    def __init__(self, place: tuple[int, int, bytes], stored: bytes, at: int) -> None:
        self.actor, self.counter, self.op_id = place
        self._data = b""
        self._stored = stored
        self._at = at  # of the content

    @property
    def data(self) -> bytes:
        if not self._data:
            (self._data,) = loads(self._stored[self._at :])[1]
        return self._data


# --- context -------------------------------------------------------------------------------------


def encode_context(clock: Clock, *, key: bytes, encoded: bytes = b"") -> bytes:
    """What a client hands back with its next put of this key; empty for an empty clock. `encoded`:
    the clock, where that is known already."""
    if not clock:
        return b""
    encoded = encoded or encode(encode_clock(clock))
    return crc32(encoded, crc32(key)).to_bytes(4, "big") + encoded


def decode_context(context: bytes, *, key: bytes) -> Clock:
    """Raises `BadRequest` for a context that was cut, mistyped or is of another key."""
    if not context:
        return {}
    encoded = context[4:]
    if crc32(encoded, crc32(key)).to_bytes(4, "big") != context[:4]:
        raise BadRequest("this context is not one of this key (cut, mistyped, or another key's)")
    try:
        return decode_clock(decode(encoded))
    except ProtocolError as exc:  # a forged checksum: our own contexts decode
        raise BadRequest(f"not a context: {exc}") from exc
