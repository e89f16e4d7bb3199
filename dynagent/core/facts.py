"""A fact: what one node says about itself, and nobody else says for it.

A *value*. Its edition (run, version) orders the facts of one node: the run is counted up on its
disk at each start, before anything else happens (`store.identity`), the version at each assertion
of that run. So a newer fact has the higher edition, across crashes too.

A fact is encoded and **sealed** once, by its subject, and passed on as those bytes:

    seal (8 bytes)    BLAKE2b of the rest, keyed with the cluster id, person `dyn-fact`
    content           CBOR [node id, run, version, name, address, zone, host, release, ring epoch,
                      start (wall ms), draining, keys, bytes stored, requests per second, requests
                      in flight, hints owed, background share (1/1000), …]

Keys and bytes are null where they are not known. Fields are append-only; those of a newer release
travel on through an older one, and are sealed too. A damaged fact, or one of another cluster, does
not fit its seal. (It is no signature: a member that lies can make one. Only the subject itself
notices that, see gossip.py.)
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

from dynagent import limits
from dynagent.core.encoding import decode, encode
from dynagent.core.ports import NodeId
from dynagent.errors import ProtocolError

SEAL_BYTES = 8

Edition = tuple[int, int]  # run, version


@dataclass(frozen=True, slots=True, kw_only=True)
class Portrait:
    """What a node says of itself. Load is as of its last look, see `core.portrait`."""

    name: str
    address: str  # host:port
    zone: str
    host: str
    release: str
    epoch: int  # of the ring that it has
    started_ms: int  # wall clock; information only
    draining: bool
    keys: int | None  # in its store; an estimate
    stored_bytes: int | None
    requests_per_s: int  # gets and puts, of clients and passed on by other nodes
    in_flight: int  # operations under way
    hints: int  # keys of which it keeps a copy for an owner that was down
    background_permille: int  # the share of background work that clients leave room for


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One assertion of one node; `sealed` are the bytes that travel."""

    node: NodeId
    edition: Edition
    portrait: Portrait
    sealed: bytes

    @property
    def seal(self) -> int:
        """As a number, of which digests are made."""
        return int.from_bytes(self.sealed[:SEAL_BYTES], "big")


def assert_fact(node: NodeId, edition: Edition, portrait: Portrait, *, cluster_id: bytes) -> Fact:
    """A fact as its subject makes it."""
    content = encode(
        [
            node,
            *edition,
            portrait.name,
            portrait.address,
            portrait.zone,
            portrait.host,
            portrait.release,
            portrait.epoch,
            portrait.started_ms,
            portrait.draining,
            portrait.keys,
            portrait.stored_bytes,
            portrait.requests_per_s,
            portrait.in_flight,
            portrait.hints,
            portrait.background_permille,
        ]
    )
    return Fact(
        node=node, edition=edition, portrait=portrait, sealed=_seal(content, cluster_id) + content
    )


def read_fact(sealed: bytes, *, cluster_id: bytes) -> Fact:
    """The fact in these bytes; raises `ProtocolError` if it is none of this cluster."""
    if len(sealed) > limits.FACT_BYTES_MAX:
        raise ProtocolError(
            f"a fact of {len(sealed):,} bytes; the limit is {limits.FACT_BYTES_MAX:,}"
        )
    content = sealed[SEAL_BYTES:]
    if sealed[:SEAL_BYTES] != _seal(content, cluster_id):
        raise ProtocolError("a fact that does not fit its seal: damaged, or of another cluster")
    match decode(content):
        case [
            str(node),
            int(run),
            int(version),
            str(name),
            str(address),
            str(zone),
            str(host),
            str(release),
            int(epoch),
            int(started_ms),
            bool(draining),
            keys,
            stored_bytes,
            int(requests_per_s),
            int(in_flight),
            int(hints),
            int(background_permille),
            *_,
        ]:
            pass
        case _:
            raise ProtocolError("not a fact: malformed fields")
    edition = check_edition(run, version)
    numbers = (epoch, started_ms, requests_per_s, in_flight, hints, background_permille)
    estimates = _estimate(keys), _estimate(stored_bytes)
    if min(*numbers, *[number or 0 for number in estimates]) < 0 or not node:
        raise ProtocolError("not a fact: a negative number, or no node id")
    portrait = Portrait(
        name=name,
        address=address,
        zone=zone,
        host=host,
        release=release,
        epoch=epoch,
        started_ms=started_ms,
        draining=draining,
        keys=estimates[0],
        stored_bytes=estimates[1],
        requests_per_s=requests_per_s,
        in_flight=in_flight,
        hints=hints,
        background_permille=background_permille,
    )
    return Fact(node=NodeId(node), edition=edition, portrait=portrait, sealed=sealed)


def _estimate(number: object) -> int | None:
    if number is None or isinstance(number, int):
        return number
    raise ProtocolError("not a fact: malformed fields")


def check_edition(run: object, version: object) -> Edition:
    """A edition from the wire; raises `ProtocolError`."""
    if type(run) is not int or type(version) is not int:
        raise ProtocolError("not the edition of a fact: run and version are numbers")
    if not 0 < run <= limits.EDITION_MAX or not 0 < version <= limits.EDITION_MAX:
        raise ProtocolError(f"not the edition of a fact: run {run}, version {version}")
    return run, version


def _seal(content: bytes, cluster_id: bytes) -> bytes:
    return blake2b(content, digest_size=SEAL_BYTES, key=cluster_id, person=b"dyn-fact").digest()
