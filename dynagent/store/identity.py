"""Who this store is: the file `identity` beside the engine (design §6, "Identity").

The ids are random, minted with the data directory, and die with it. The run number counts starts;
`clean_from_run` is the first of the runs that lead to the present one by clean stops only: a mark
made in any of them may be trusted.

The file holds two slots of 4 KiB. A slot is magic, slot format, sequence number, payload and a
checksum over all of it, padding included. `write` puts the new identity into *both*, one after the
other with an fsync between, beginning with the slot that is damaged or older:

- torn in the first slot: the second still holds the identity before, and the write never returned;
- torn in the second: the first holds the new one;
- at rest both are the same, so one that rots later costs nothing. (Were the slots written in turn,
  a rotten newest slot would bring back the identity before it, whose run number has been used.)

A process that finds both bad refuses to start: it cannot prove which store this is.
"""

import struct
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

from dynagent import limits
from dynagent.core.encoding import decode, encode
from dynagent.core.ports import Dice, NodeId
from dynagent.errors import DataDirError, ProtocolError, StoreFailed
from dynagent.store.files import Files, OsFiles, reason

FILE_NAME = "identity"
FORMAT = 4  # of the data directory as a whole; 1 to 3 had other records, before the first release

SLOT_BYTES = 4096  # a page: the drive does not tear one slot while it writes the other
_MAGIC = b"dyn-node"
_SLOT_FORMAT = 1
_HEADER = struct.Struct(">8sHQI")  # magic, slot format, sequence number, payload bytes
_CHECKSUM_BYTES = 16
_PAYLOAD_BYTES_MAX = SLOT_BYTES - _HEADER.size - _CHECKSUM_BYTES
_OS_FILES = OsFiles()


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The identity of a store. In the file the fields are positional and append-only."""

    node_id: NodeId  # 16 hex digits
    voter_id: str  # 16 hex digits
    name: str = ""  # an attribute: the last name under which the node ran
    cluster_id: bytes = b""  # empty: in no cluster yet
    run: int = 0  # 0: never started
    clean_from_run: int = 0
    clean_stop: bool = False
    engine: str
    format: int = FORMAT
    store_id: str = ""  # 32 hex digits, also in the engine (`binding`); empty: not bound yet
    closing: bool = False  # the run is ending: from here on the engine may delete its log
    starts: tuple[bytes, ...] = ()  # nonces of the last runs, this one's last (core.registration)
    replaces: str = ""  # node id of the store that was set aside for this one; "": none
    enters: bytes = b""  # the cluster of that one
    newer_fields: tuple[object, ...] = ()  # of a newer release; carried along as they are


def start_run(identity: Identity, *, dice: Dice) -> Identity:
    """The identity of the next run, to be written before anything else is done in it."""
    run = identity.run + 1
    nonce = dice.getrandbits(8 * limits.NONCE_BYTES).to_bytes(limits.NONCE_BYTES, "big")
    return replace(
        identity,
        run=run,
        clean_from_run=identity.clean_from_run if identity.clean_stop else run,
        clean_stop=False,
        closing=False,
        starts=(*identity.starts, nonce)[-limits.STARTS_KEPT :],
    )


def stop_clean(identity: Identity) -> Identity:
    """The identity of a run that has ended well, to be written after everything else."""
    return replace(identity, clean_stop=True)


def bad_slots(path: Path) -> list[int]:
    """Which of the two slots of an identity file are torn or damaged; raises `OSError`."""
    data = path.read_bytes()
    slots = (data[:SLOT_BYTES], data[SLOT_BYTES : 2 * SLOT_BYTES])
    return [at for at, slot in enumerate(slots) if _decode_slot(path, slot) is None]


class IdentityFile:
    """The identity on disk; `value` is what was last written durably."""

    def __init__(
        self, path: Path, value: Identity, *, sequence: int, first_slot: int, files: Files
    ) -> None:
        self._path = path
        self._files = files
        self._value = value
        self._sequence = sequence
        self._first_slot = first_slot  # to be written first: not the only good one
        self._failed = False

    @classmethod
    def open_or_create(
        cls, directory: Path, *, dice: Dice, engine: str, files: Files = _OS_FILES
    ) -> "IdentityFile":
        """The identity of `directory`, a new one (run 0, in no cluster) if it has none.

        `engine` is that of a new identity; `files` the file system. Raises `DataDirError` if the
        file is damaged, of a newer format or cannot be read or written.
        """
        path = directory / FILE_NAME
        try:
            data = files.read(path)
        except FileNotFoundError:
            return cls._create(path, dice=dice, engine=engine, files=files)
        except OSError as exc:
            raise DataDirError(f"{path}: cannot read it: {reason(exc)}") from exc
        slots = [_decode_slot(path, data[at : at + SLOT_BYTES]) for at in (0, SLOT_BYTES)]
        good = [(slot[0], index) for index, slot in enumerate(slots) if slot is not None]
        if not good:
            raise DataDirError(
                f"{path}: both copies of the identity are damaged, so this store cannot prove which"
                " node it is; move the data directory away and start as a new node"
            )
        sequence, newest = max(good)
        slot = slots[newest]
        assert slot is not None
        return cls(path, slot[1], sequence=sequence, first_slot=1 - newest, files=files)

    @classmethod
    def _create(cls, path: Path, *, dice: Dice, engine: str, files: Files) -> "IdentityFile":
        value = _mint(dice, engine)
        _create(path, value, files)
        return cls(path, value, sequence=1, first_slot=0, files=files)

    @property
    def value(self) -> Identity:
        return self._value

    def write(self, identity: Identity) -> None:
        """Makes `identity` durable. Raises `StoreFailed`; then every later write does."""
        if self._failed:
            raise StoreFailed(f"{self._path}: an earlier write failed; restart the agent")
        slot = _encode_slot(self._sequence + 1, identity)
        try:
            for index in (self._first_slot, 1 - self._first_slot):
                self._files.overwrite(self._path, slot, offset=index * SLOT_BYTES)
        except OSError as exc:
            self._failed = True
            raise StoreFailed(f"{self._path}: cannot write it: {reason(exc)}") from exc
        self._sequence += 1
        self._value = identity


def succeed(directory: Path, old: Identity, *, dice: Dice, files: Files = _OS_FILES) -> Identity:
    """Puts a new identity into the place of one whose store was set aside, at once or not at all.

    Raises `DataDirError`.
    """
    value = replace(
        _mint(dice, old.engine),
        replaces=old.node_id if old.cluster_id else old.replaces,
        enters=old.cluster_id or old.enters,
    )
    _create(directory / FILE_NAME, value, files)
    return value


def _mint(dice: Dice, engine: str) -> Identity:
    return Identity(
        node_id=NodeId(f"{dice.getrandbits(64):016x}"),
        voter_id=f"{dice.getrandbits(64):016x}",
        engine=engine,
    )


def _create(path: Path, value: Identity, files: Files) -> None:
    try:
        files.create(path, _encode_slot(1, value) * 2)
    except OSError as exc:
        raise DataDirError(f"{path}: cannot create it: {reason(exc)}") from exc


def _checksum(data: bytes) -> bytes:
    return blake2b(data, digest_size=_CHECKSUM_BYTES, person=b"dyn-identity").digest()


def _encode_slot(sequence: int, identity: Identity) -> bytes:
    payload = encode(
        [
            identity.node_id,
            identity.voter_id,
            identity.name,
            identity.cluster_id,
            identity.run,
            identity.clean_from_run,
            identity.clean_stop,
            identity.engine,
            identity.format,
            identity.store_id,
            identity.closing,
            list(identity.starts),
            identity.replaces,
            identity.enters,
            *identity.newer_fields,
        ]
    )
    assert len(payload) <= _PAYLOAD_BYTES_MAX
    body = _HEADER.pack(_MAGIC, _SLOT_FORMAT, sequence, len(payload)) + payload
    body = body.ljust(SLOT_BYTES - _CHECKSUM_BYTES, b"\0")
    return body + _checksum(body)


def _decode_slot(path: Path, slot: bytes) -> tuple[int, Identity] | None:
    """(sequence number, identity), or None if the slot is torn or damaged."""
    body, checksum = slot[:-_CHECKSUM_BYTES], slot[-_CHECKSUM_BYTES:]
    if len(slot) != SLOT_BYTES or checksum != _checksum(body):
        return None
    magic, slot_format, sequence, size = _HEADER.unpack_from(body)
    if magic != _MAGIC:
        return None
    if slot_format != _SLOT_FORMAT:
        raise _newer(path, slot_format)
    try:
        fields = decode(body[_HEADER.size : _HEADER.size + size])
    except ProtocolError:
        return None
    match fields:
        case [
            str(node_id),
            str(voter_id),
            str(name),
            bytes(cluster_id),
            int(run),
            int(clean_from_run),
            bool(clean_stop),
            str(engine),
            int(format_),
            *rest,
        ]:
            pass
        case _:
            return None
    # A release before 0.1 knew nothing of these.
    match [*rest, *["", False, [], "", b""][len(rest) :]]:
        case [str(store_id), bool(closing), list(starts), str(replaces), bytes(enters), *newer]:
            pass
        case _:
            return None
    if any(type(nonce) is not bytes for nonce in starts):
        return None
    if format_ != FORMAT:
        raise _newer(path, format_) if format_ > FORMAT else _older(path, format_)
    identity = Identity(
        node_id=NodeId(node_id),
        voter_id=voter_id,
        name=name,
        cluster_id=cluster_id,
        run=run,
        clean_from_run=clean_from_run,
        clean_stop=clean_stop,
        engine=engine,
        format=format_,
        store_id=store_id,
        closing=closing,
        starts=tuple(starts),
        replaces=replaces,
        enters=enters,
        newer_fields=tuple(newer),
    )
    return sequence, identity


def _newer(path: Path, found: int) -> DataDirError:
    return DataDirError(
        f"{path.parent} was made by a newer release (format {found}, this agent knows {FORMAT}):"
        " upgrade the agent"
    )


def _older(path: Path, found: int) -> DataDirError:
    return DataDirError(
        f"{path.parent} was made before the first release (format {found}, this agent reads "
        f"{FORMAT}): use the agent that made it, or start with an empty directory"
    )
