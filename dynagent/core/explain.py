"""What this node's own copy of a key looks like, for people who ask why (`dynctl explain`).

Not a quorum's answer: one copy, as it lies on this disk, whether or not this node is an owner.
"""

from __future__ import annotations

from dynagent.core.entry import encode_clock, flatten
from dynagent.core.hints import DURABLE
from dynagent.core.messages import (
    STATE_ABSENT,
    STATE_PRESENT,
    STATE_UNREADABLE,
    InspectReply,
)
from dynagent.core.ports import Reader, Token
from dynagent.core.replica import Replica
from dynagent.core.ring import token_of
from dynagent.core.version import Version
from dynagent.errors import CorruptRecord, Overloaded


def inspect_copy(
    replica: Replica, reader: Reader, key: bytes, *, now: float, draining: bool
) -> InspectReply:
    """The committed copy of `key`, without its values, and for whom it is kept."""
    token = token_of(key)
    owed = _owed(replica, key, token)
    replica.forget(key)  # what the disk has is asked
    record = replica.read(key, token)
    pending = replica.batch_of(key) != DURABLE
    writable = not draining and _has_room(replica, now)
    try:
        stored_bytes = len(reader.get(token, key) or b"")
    except CorruptRecord:
        stored_bytes = 0
    if record.unknown or not record.value.clock:
        state = STATE_UNREADABLE if record.unknown else STATE_ABSENT
        return InspectReply(state, b"", [], [], [], stored_bytes, pending, writable, owed)
    value = record.value
    return InspectReply(
        STATE_PRESENT,
        record.digest,
        encode_clock(value.clock),
        flatten(value.dots()),
        [len(Version(sibling.data).value) for sibling in value.siblings],
        stored_bytes,
        pending,
        writable,
        owed,
    )


def _owed(replica: Replica, key: bytes, token: Token) -> list[str]:
    try:
        return list(replica.hints.owed(token, key))
    except CorruptRecord:
        return []  # the delivery meets it too, and says so in the log


def _has_room(replica: Replica, now: float) -> bool:
    try:
        replica.check_room(now)
    except Overloaded:
        return False
    return True
