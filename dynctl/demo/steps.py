"""The steps of the tour, in order. A new one is a function here and a row of `STEPS`.

Each changes the cluster only through `Tour`, leaves all agents running and linked (the last one
excepted), and checks what it claims.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from threading import Event

from dynagent.client.blocking import Client
from dynagent.client.bootstrap import status_of
from dynagent.core.messages import Inspect, InspectReply
from dynagent.core.ring import Ring, token_of
from dynctl.demo.tour import Step, Tour

_ORDERS = 100
_WRITES = 150  # before a kill, and as many after it
_HINTS_S = 30.0  # until all hints are delivered: usually one or two
_LOST = 20  # records that vanish from a disk
_HEALED_S = 30.0  # until they are back
_HANDED_S = 30.0  # until a new owner has the last writes that went around it: usually none


def _start(tour: Tour) -> str:
    tour.dynctl("up", "--dir", str(tour.home), "--port", "0")
    tour.dynctl("health")
    return "three agents run, serve and are linked with each other"


def _write_and_read(tour: Tour) -> str:
    first, second, third = tour.cluster().endpoints
    tour.dynctl("put", "cart/7", "apples, pears", "--endpoint", first)
    tour.expect_value("cart/7", "apples, pears", "--endpoint", second)
    tour.expect_value("cart/7", "apples, pears", "--endpoint", third)
    tour.written[b"cart/7"] = b"apples, pears"
    return "written through one agent, read through both others"


def _places(tour: Tour) -> str:
    with tour.client() as client:
        ring = client.ring()
        first: Counter[str] = Counter()
        for number in range(_ORDERS):
            key = b"order/%d" % number
            _put(tour, client, key)
            first[_owners(ring, key)[0]] += 1
        told = ", ".join(f"{name} {count}" for name, count in sorted(first.items()))
        tour.tell.note(f"{_ORDERS} keys order/0 … are written; first in preference: {told}.")
        partition = ring.partition_of(token_of(b"order/0"))
        tour.tell.note(f"order/0 lies in partition {partition} of {ring.partitions}:")
        row = tour.dynctl("ring", "show", "--partition", str(partition)).stdout.decode()
        owners = row.strip().split("\t")[2].split(", ")
        computed = _owners(ring, b"order/0")
        tour.expect(owners == computed, f"the owners {computed}, as a client computes them", owners)
        tour.expect(len(set(owners)) == ring.n, f"{ring.n} different owners", owners)
        for key in tour.written:
            result = client.get(key, r=ring.n)
            tour.expect(result.answered == ring.n, f"{ring.n} owners answer", result.answered)
        tour.check_written(client)
    return f"each of the {_ORDERS} keys is answered for by all {ring.n} owners"


def _kill_one(tour: Tour) -> str:
    with tour.client() as client:
        victim = _owners(client.ring(), b"cart/7")[0]
        for number in range(_WRITES):
            _put(tour, client, b"visit/%d" % number)
        tour.tell.note(f"{_WRITES} keys are written, then {victim} dies: cart/7 was first its own.")
        tour.kill(victim)
        for number in range(_WRITES, 2 * _WRITES):
            _put(tour, client, b"visit/%d" % number)
        tour.tell.note(f"{_WRITES} more are written.")
        tour.expect_value("cart/7", "apples, pears")
        tour.dynctl("health", status=8)
        tour.check_written(client)
    return f"writes and reads went on; all {len(tour.written)} acknowledged keys are there"


def _bring_back(tour: Tour) -> str:
    cluster = tour.cluster()
    (name,) = [name for name in cluster.addresses if cluster.holder(name) is None]
    tour.dynctl("up", "--dir", str(tour.home))
    tour.dynctl("health")
    with tour.client(name) as client:
        tour.check_written(client)
        delivered = _await_hints(tour, client)
        own = cluster.addresses[name]
        held = len(tour.written) - _not_held(client, own, tour.written)
    every = len(tour.written)
    tour.expect(held == every, f"{name} holds all {every} keys itself", f"only {held}")
    return f"{delivered} hints were delivered; {name} itself holds all {held} keys again"


def _lose_records(tour: Tour) -> str:
    name = list(tour.cluster().addresses)[1]
    tour.kill(name)
    lost = tour.store_tool(
        *("damage", str(tour.home / name), "lose", "--count", str(_LOST), "--seed", "1", "--yes")
    )
    told = len(lost.stdout.splitlines())
    tour.expect(told == _LOST, f"{_LOST} records are lost", told)
    tour.dynctl("up", "--dir", str(tour.home))
    tour.dynctl("scrub", name, status=12)
    with tour.client() as client:
        own = tour.cluster().addresses[name]
        missing = _await_held(client, own, tour.written, within_s=_HEALED_S)
        tour.expect(not missing, f"all keys on {name} again", f"not {missing}")
        tour.check_written(client)
    tour.dynctl("verify")
    return f"{_LOST} lost records were found by scrub, and came back from the other owners"


def _not_held(client: Client, address: str, keys: Collection[bytes]) -> int:
    """How many of the keys are not on the disk of that agent."""
    copies = [client.ask(address, Inspect(key)) for key in keys]
    return sum(not (isinstance(copy, InspectReply) and copy.dots) for copy in copies)


def _await_held(client: Client, address: str, keys: Collection[bytes], *, within_s: float) -> int:
    """Waits until that agent has all these keys on its disk; returns how many it still has not."""
    end = time.monotonic() + within_s
    while (missing := _not_held(client, address, keys)) and time.monotonic() < end:
        time.sleep(0.1)
    return missing


def _await_hints(tour: Tour, client: Client) -> int:
    """Waits until no agent owes anybody anything; returns how many hints have been delivered."""
    end = time.monotonic() + _HINTS_S
    while True:
        documents = [status_of(client, at) for at in tour.cluster().addresses.values()]
        owed = sum(sum(document["hints"].values()) for document in documents)
        if not owed:
            return sum(document["delivery"]["delivered"] for document in documents)
        tour.expect(time.monotonic() < end, f"no hint is left after {_HINTS_S} s", f"{owed} are")
        time.sleep(0.1)


def _conflict(tour: Tour) -> str:
    tour.dynctl("put", "cart/9", "milk")
    tour.tell.note("Two people look at the cart, and both change what they have seen:")
    look = ["get", "cart/9", "--print-context"]
    context = tour.dynctl(*look, shown="C=$(dynctl get cart/9 --print-context)").stdout.decode()
    for value in ("milk, bread", "milk, eggs"):
        shown = f"dynctl put cart/9 '{value}' --context \"$C\""
        tour.dynctl("put", "cart/9", value, "--context", context.strip(), shown=shown)
    tour.tell.note("Neither has seen the other's write, so neither may overwrite it:")
    tour.dynctl("get", "cart/9", status=4)
    rows = tour.dynctl("get", "cart/9", "--all", "-o", "plain").stdout.decode().splitlines()
    values = {row.split("\t")[-1] for row in rows}
    tour.expect(values == {"milk, bread", "milk, eggs"}, "both values as siblings", values)
    tour.tell.note("Who has seen both may replace both, with the context that says so:")
    look.append("--all")
    shown = "C=$(dynctl get cart/9 --print-context --all)"
    context = tour.dynctl(*look, shown=shown).stdout.decode()
    merged = "milk, bread, eggs"
    shown = f"dynctl put cart/9 '{merged}' --context \"$C\""
    tour.dynctl("put", "cart/9", merged, "--context", context.strip(), shown=shown)
    tour.expect_value("cart/9", merged)
    tour.written[b"cart/9"] = merged.encode()
    return "two concurrent writes were both kept, and merged by someone who had seen them"


def _delete(tour: Tour) -> str:
    tour.dynctl("delete", "cart/7")
    del tour.written[b"cart/7"]
    tour.dynctl("get", "cart/7", status=3)
    tour.dynctl("delete", "cart/7")
    return "deleted is not found (exit 3); deleting it again succeeds"


def _refuse(tour: Tour) -> str:
    _first, *others = tour.cluster().addresses
    tour.kill(*others)
    tour.dynctl("put", "cart/9", "too late", status=5)
    tour.dynctl("get", "cart/9", "--strict", status=5)
    tour.tell.note("Exit status 5 is definite: nothing was written, and it never will appear.")
    tour.dynctl("up", "--dir", str(tour.home))
    tour.expect_value("cart/9", tour.written[b"cart/9"].decode())
    tour.dynctl("put", "cart/9", "in time")
    tour.written[b"cart/9"] = b"in time"
    with tour.client() as client:
        tour.check_written(client)
    return "refused while it could not be kept, and nothing of it was written"


def _kill_all(tour: Tour) -> str:
    tour.kill(*tour.cluster().addresses)
    tour.dynctl("get", "cart/9", status=7)
    tour.dynctl("up", "--dir", str(tour.home))
    with tour.client() as client:
        tour.check_written(client)
    tour.dynctl("get", "cart/7", status=3)
    return f"all {len(tour.written)} acknowledged keys are there; what was deleted is not"


def _grow(tour: Tour) -> str:
    tour.dynctl("up", "--dir", str(tour.home), "--spare", "1")
    name, address = list(tour.cluster().addresses.items())[-1]
    with tour.client() as client:
        tour.tell.note("Somebody writes all the while.")
        stop = Event()
        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(_keep_writing, tour, client, stop)
            try:
                tour.dynctl("join", address, "--yes", "--wait")
            finally:
                stop.set()
            during = writing.result()
        tour.dynctl("ring", "history", "-o", "table")
        ring = client.ring()
        held = sum(name in _owners(ring, key) for key in tour.written)
        tour.expect(held > 0, f"{name} owns keys", f"it owns {held}")
        own = [key for key in tour.written if name in _owners(ring, key)]
        # W others have every write that it could not take at once, before it had fenced the old
        # owners, say. A hint brings it, which the end of the change does not wait for.
        missing = _await_held(client, address, own, within_s=_HANDED_S)
        seen = f"after {_HANDED_S:g} s hints still owe it {missing}"
        tour.expect(not missing, f"{name} holds its {held} keys itself", seen)
        tour.check_written(client)
    return (
        f"{during} writes were acknowledged meanwhile and none refused; {name} holds its {held} of "
        f"{len(tour.written)} keys, and nothing else moved"
    )


def _keep_writing(tour: Tour, client: Client, stop: Event) -> int:
    """Puts one key after the other until it is told to stop; how many. Raises what a put does."""
    count = 0
    while not stop.is_set():
        _put(tour, client, b"meanwhile/%d" % count)
        count += 1
    return count


def _end(tour: Tour) -> str:
    cluster = tour.cluster()
    flags = [] if tour.keep else ["--purge"]
    tour.dynctl("down", "--dir", str(tour.home), *flags)
    running = [name for name in cluster.addresses if cluster.holder(name) is not None]
    tour.expect(not running, "no agent runs", running)
    tour.expect(tour.home.exists() == tour.keep, f"{tour.home} is kept: {tour.keep}", "otherwise")
    return "all agents stopped" + ("; the data stays" if tour.keep else ", nothing is left")


def _put(tour: Tour, client: Client, key: bytes) -> None:
    """A put that must be acknowledged, and is looked for from then on."""
    value = b"value of " + key
    client.put(key, value)
    tour.written[key] = value


def _owners(ring: Ring, key: bytes) -> list[str]:
    """The names of a key's owners, in order of preference."""
    names = {member.id: member.name for member in ring.members}
    return [names[node] for node in ring.lists[ring.partition_of(token_of(key))]]


STEPS = (
    Step(
        title="Three agents, one cluster",
        why="Real processes on this machine, each with its own disk directory. All are equal: no "
        "leader, no special node (Dynamo §2.3).",
        run=_start,
    ),
    Step(
        title="Write here, read there",
        why="Any agent takes any request and passes it to the owners of the key. A write is "
        "acknowledged once W=2 of N=3 owners have it fsynced; a read asks R=2 of them (§4.5).",
        run=_write_and_read,
    ),
    Step(
        title="Where keys live",
        why="The hash of a key is its place on a ring that is cut into equal partitions; each has "
        "its preference list of N owners, and everybody can compute it (§4.2, §4.3, §6.2).",
        run=_places,
    ),
    Step(
        title="An agent dies, nobody waits",
        why="kill -9, no warning. Two owners of every key are left, which is enough for R and W: "
        'the store is "always writeable" as long as a quorum is there (§2.3, §4.5).',
        run=_kill_one,
    ),
    Step(
        title="It comes back",
        why="It has its own disk, and has missed some writes. For each of these another agent has "
        "kept a hint, and hands it over now: hinted handoff (§4.6).",
        run=_bring_back,
    ),
    Step(
        title="A disk forgets",
        why="Rot and lost writes show only to those who look. Each agent reads all that it has "
        "again and again, holds it against its Merkle trees, and has what is missing healed by "
        "the other owners; the owners compare their trees with each other (§4.7).",
        run=_lose_records,
    ),
    Step(
        title="Two write at once",
        why="No clock can tell which write was right, so both are kept as siblings until someone "
        "who has seen both decides. Version clocks know the difference (§4.4).",
        run=_conflict,
    ),
    Step(
        title="Delete",
        why="A delete is a write that leaves a tombstone, so that an owner that missed it cannot "
        "bring the value back.",
        run=_delete,
    ),
    Step(
        title="Two of three are gone",
        why="One owner cannot promise what two should keep. It says so at once and definitely, "
        "before anything is written, instead of accepting what might be lost (§4.5).",
        run=_refuse,
    ),
    Step(
        title="All are gone",
        why="kill -9 of every agent at the same moment. An acknowledgement was given only after "
        "the fsync of two owners, so it holds. Dynamo may trade that for speed, with a buffer in "
        "memory (§6.1); here nobody can.",
        run=_kill_all,
    ),
    Step(
        title="A fourth agent joins",
        why="It is told to by an operator, never by itself (§4.8.1). Each partition that moves is "
        "written to its old and its new owners until the new one has all of it; no more partitions "
        "move than must. Nobody waits for it (§6.2).",
        run=_grow,
    ),
    Step(
        title="Tidy up",
        why="A stop drains what is under way first.",
        run=_end,
    ),
)
