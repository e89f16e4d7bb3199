"""The trees of a real node on real engines: after any end of the process they are what the disk is,
and a store of before there were trees gets them."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from math import inf
from pathlib import Path

import pytest

from dynagent.core.budget import Budget
from dynagent.core.entry import Record
from dynagent.core.merkle import Forest
from dynagent.core.ports import Batch, NodeId
from dynagent.core.rebuild import Rebuilder
from dynagent.core.replica import Replica
from dynagent.core.ring import Member, Ring
from dynagent.core.siblings import Siblings
from dynagent.core.sums import Shape
from dynagent.store.datadir import ENGINES
from dynagent.store.protocol import Store
from dynagent.testing.trees import check_trees
from dynagent.testing.world import World

NODE = NodeId("a" * 16)
RING = Ring(
    epoch=1,
    cluster_id=b"c" * 16,
    n=1,
    r=1,
    w=1,
    members=(Member(id=NODE, name="n", address="", zone="", host="h", capacity=1),),
    lists=((NODE,),) * 8,
)
SHORT = Shape(slots=3, entries=8)


@pytest.fixture(params=sorted(ENGINES))
def engine(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def open_store(path: Path, engine: str) -> Store:
    return ENGINES[engine].open(path / "store")


def replica_of(store: Store) -> Replica:
    replica = Replica(
        reader=store,
        effects=Silent(),  # type: ignore[arg-type]
        dice=random.Random(1),
        cluster_id=RING.cluster_id,
        run=1,
        clean_from_run=1,
        cache_bytes=0,
        tree_shape=SHORT,
    )
    replica.serve(RING, NODE)
    return replica


class Silent:
    def note(self, event: str, **fields: object) -> None: ...


def work(store: Store, replica: Replica, turn: int) -> None:
    """One batch: some keys change, and some go."""
    dice = random.Random(turn)
    for number in dice.sample(range(60), dice.randint(1, 9)):
        record = Record(Siblings({1 + turn: 1 + turn}, ()))
        replica.merge([(b"key %d" % number, record)], barrier=replica.barriers.highest_least)
    batch = replica.take_batch()
    assert batch is not None
    store.write(batch)
    replica.on_committed(batch)


def run_for_ever(path: str, engine: str) -> None:
    """The process that will be killed: says so after each batch."""
    store = open_store(Path(path), engine)
    replica = replica_of(store)
    for turn in range(1_000_000):
        work(store, replica, turn)
        sys.stdout.write(".")
        sys.stdout.flush()


def wrong(forest: Forest, store: Store, *, is_quiet: bool) -> list[str]:
    verdicts = World(0).verdicts
    check_trees(verdicts, forest, store, RING, NODE, is_quiet=is_quiet)
    assert verdicts.evaluations["trees_are_current"] > 10
    return verdicts.violations


@pytest.mark.parametrize("batches", [3, 25, 60])
def test_after_kill_9_the_trees_are_what_the_disk_holds(
    tmp_path: Path, engine: str, batches: int
) -> None:
    code = (
        "import sys; from tests.store.test_trees import run_for_ever; run_for_ever(*sys.argv[1:])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), engine], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert len(process.stdout.read(batches)) == batches
        process.send_signal(signal.SIGKILL)
    store = open_store(tmp_path, engine)
    replica = replica_of(store)
    assert not replica.forest.unknown
    assert not wrong(replica.forest, store, is_quiet=True)
    work(store, replica, 1_000)
    store.close()


@pytest.mark.plain
def test_a_store_of_before_there_were_trees_gets_them(tmp_path: Path, engine: str) -> None:
    store = open_store(tmp_path, engine)
    replica = replica_of(store)
    for turn in range(30):
        replica.forest.apply = lambda batch, changes: None  # type: ignore[method-assign]
        work(store, replica, turn)
    assert not store.sums()
    store.close()

    store = open_store(tmp_path, engine)
    replica = replica_of(store)
    forest = replica.forest
    assert len(forest.unknown) == 8 * 256
    assert {forest.root(partition) for partition in forest.partitions} == {b""}
    work(store, replica, 100)  # life goes on
    _rebuild(store, replica)
    assert not wrong(forest, store, is_quiet=True)
    store.close()

    store = open_store(tmp_path, engine)
    replica = replica_of(store)
    assert not replica.forest.unknown
    assert not wrong(replica.forest, store, is_quiet=True)
    store.close()


def _rebuild(store: Store, replica: Replica) -> None:
    rebuilder = Rebuilder(replica.forest, Budget(threshold_s=1.0, bytes_per_s_max=1 << 25))
    now = 0.0
    while (due := rebuilder.due) < inf:
        now = max(now, due)
        rebuilder.on_tick(now)
        batch: Batch | None = replica.take_batch()
        if batch is not None:
            store.write(batch)
            replica.on_committed(batch)
    assert now < 10.0
