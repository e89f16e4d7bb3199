"""What is still to be listed of a cluster's keys, and its form as a token that people can keep.

A token is opaque, checksummed, and of one cluster and prefix:

    CRC-32 (4 bytes, of body) ‖ body
    body    CBOR [format 1, cluster id, Q, prefix, [first, last, place, first, last, place, …]]

Each (first, last, place) is a run of partitions; in its first one the listing goes on behind that
place. There are several where some partitions could not be listed and later ones could.
"""

from __future__ import annotations

from zlib import crc32

from dynagent.core.encoding import decode, encode
from dynagent.core.ring import Ring
from dynagent.errors import BadRequest, ProtocolError, Refused, WrongCluster

Run = tuple[int, int, bytes]


def joined(runs: list[Run]) -> list[Run]:
    """The same runs; neighbours are one, unless the second goes on somewhere in its middle."""
    found: list[Run] = []
    for first, last, after in runs:
        if found and not after and found[-1][1] + 1 == first:
            found[-1] = (found[-1][0], last, found[-1][2])
        else:
            found.append((first, last, after))
    return found


class Cursor:
    """What is still to be listed: runs of partitions, in ring order, and where to go on in each."""

    _FORMAT = 1

    __slots__ = ("_cluster_id", "_partitions", "prefix", "todo")

    def __init__(
        self,
        *,
        cluster_id: bytes,
        partitions: int,
        prefix: bytes,
        todo: list[Run],
    ) -> None:
        self._cluster_id = cluster_id
        self._partitions = partitions
        self.prefix = prefix
        self.todo = todo  # (first, last, place in the first to go on behind)

    @classmethod
    def start(cls, ring: Ring, prefix: bytes) -> Cursor:
        """Everything."""
        todo = [(0, ring.partitions - 1, b"")]
        return cls(cluster_id=ring.cluster_id, partitions=ring.partitions, prefix=prefix, todo=todo)

    def left(self, todo: list[Run]) -> Cursor:
        """The same listing with this much left."""
        return Cursor(
            cluster_id=self._cluster_id,
            partitions=self._partitions,
            prefix=self.prefix,
            todo=joined(todo),
        )

    def encode(self) -> bytes:
        """As a token; opaque, and of this cluster and prefix only."""
        runs = [part for run in self.todo for part in run]
        body = encode([self._FORMAT, self._cluster_id, self._partitions, self.prefix, runs])
        return crc32(body).to_bytes(4, "big") + body

    @classmethod
    def decode(cls, token: bytes, ring: Ring, prefix: bytes | None) -> Cursor:
        """The cursor again. `prefix` None: the token's own. Raises `BadRequest` for a token that
        was cut or is of another prefix, `WrongCluster` for one of another cluster, `Refused` if
        the ring has another number of partitions now."""
        body = token[4:]
        if crc32(body).to_bytes(4, "big") != token[:4]:
            raise BadRequest("not a resume token (cut or mistyped); copy it whole")
        try:
            fields = decode(body)
        except ProtocolError as exc:
            raise BadRequest(f"not a resume token: {exc.message}") from exc
        match fields:
            case [1, bytes(cluster_id), int(partitions), bytes(own_prefix), list(runs)]:
                pass
            case _:
                raise BadRequest("not a resume token of this version")
        if cluster_id != ring.cluster_id:
            raise WrongCluster(f"this resume token is of cluster {cluster_id.hex()}")
        if prefix is not None and prefix != own_prefix:
            raise BadRequest("this resume token is of another prefix; leave --prefix out")
        if partitions != ring.partitions:
            raise Refused(
                f"the ring had {partitions} partitions then; start again without --resume"
            )
        return cls(
            cluster_id=cluster_id,
            partitions=partitions,
            prefix=own_prefix,
            todo=_runs(runs, partitions),
        )


def _runs(flat: list[object], partitions: int) -> list[Run]:
    """Runs of partitions, checked: a forged token must not send anybody around in circles."""
    runs: list[Run] = []
    before = -1
    for place in range(0, len(flat), 3):
        match flat[place : place + 3]:
            case [int(first), int(last), bytes(after)] if before < first <= last < partitions:
                runs.append((first, last, after))
                before = last
            case _:
                raise BadRequest("not a resume token: its partitions are out of order")
    return runs
