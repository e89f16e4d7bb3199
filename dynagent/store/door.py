"""The one door of a stopped agent's store, for tools that change its records: trees, tombstones and
what is unknown go along, as if the agent had done it."""

from __future__ import annotations

from dynagent.core.ports import Dice, NodeId
from dynagent.core.replica import Replica
from dynagent.errors import ConfigError
from dynagent.store.datadir import DataDir
from dynagent.store.examine import read_ring
from dynagent.store.protocol import Store


def open_replica(data_dir: DataDir, dice: Dice) -> Replica:
    """Raises `ConfigError` if it has never been in a cluster."""
    ring = read_ring(data_dir.store)
    if ring is None:
        raise ConfigError(f"{data_dir.path} has no ring: it has never been in a cluster")
    value = data_dir.identity_file.value
    replica = Replica(
        reader=data_dir.store,
        effects=_NoEffects(),  # type: ignore[arg-type]
        dice=dice,
        cluster_id=ring.cluster_id,
        run=value.run,
        clean_from_run=value.clean_from_run,
        cache_bytes=0,
    )
    replica.serve(ring, NodeId(value.node_id))
    return replica


def commit(replica: Replica, store: Store) -> None:
    """Makes durable what has been changed, if anything has."""
    batch = replica.take_batch()
    if batch is not None:
        store.write(batch)
        replica.on_committed(batch)


class _NoEffects:
    """A replica that answers nobody."""

    def note(self, event: str, **fields: object) -> None:
        pass
