"""Bits flipped at random in the files of one of three stores, while the agents are stopped: no read
ever returns a wrong value, and each flip that hit data is named and healed from the others.

A round stops all agents (every other time with kill -9, so that there is a log to hit), flips some
bits of all the bits in the files of one of them, and starts all again. Where that agent refuses to
start, or stops because its engine does, the message must name the remedy, `dynagent store rebuild`,
and the remedy must work. Then every key is read through that agent, and its store is scrubbed. At
the end of the round nothing may be unknown any more, and its copies are those of the others.

What a flip has hit is seen without our checksums: what the engine has of each key before and after.

A flip may also hit what no record needs, such as the engine's list of free pages: that is met by
some later write or start, if at all. It must not wait there until another store is hit, for two of
three damaged at once are more than anybody promises. So a round ends with `dynagent store check`,
which may find such things and nothing else, and with its remedy.

Each round has dice of its own, so a number tells which agent, and how many bits. Where they fall
depends on files that are never twice the same: of a round that fails they are kept as they were
after the flips, and the failure says where.
"""

from __future__ import annotations

import json
import random
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from dynagent.client.blocking import Client
from dynagent.client.bootstrap import status_of
from dynagent.core.messages import JOB_START, JobRequest
from dynagent.core.ring import Ring, token_of
from dynagent.core.salvage import Gap, salvage
from dynagent.errors import ConnectionLost, DynagentError, NotReady, Unreachable
from dynagent.store.datadir import DataDir
from dynagent.store.drill import Damage, files_of, flip_anywhere
from tests.acceptance.points import Failed, Parts, Say, hold, run_parts
from tests.real.cluster import ROOT, WAIT_S_MAX, RealAgent, RealCluster, wait_for

FLIPS = 200
# Of the rounds, one after the other: many hit several layers of one store at once, and RocksDB, the
# files of which are small here, then has to be rebuilt; one or two leave it to reads, healing and
# scrub. An odd number of them, so that each size meets stores with a log and without.
FLIPS_A_ROUND = (25, 2, 25, 1, 5)
KEYS = 1_000
PARTITIONS = 64
_CLIENT_S = 2 * WAIT_S_MAX  # of one request: nothing is timed here
_HEAL_S = 4 * WAIT_S_MAX
_REBUILDS_MAX = 4  # of one agent in one round: each write may meet another damaged page
_STRUCTURE = {"store", "structure", "range"}  # what a check finds that no read of a record meets


def _run(engine: str, share: float, say: Say) -> dict[str, object]:
    flips = max(4, round(FLIPS * share))
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as directory,
        RealCluster(Path(directory), 3, "--engine", engine, partitions=PARTITIONS) as cluster,
    ):
        trial = _Trial(engine, cluster)
        while trial.counts["flips"] < flips:
            many = FLIPS_A_ROUND[trial.counts["rounds"] % len(FLIPS_A_ROUND)]
            trial.round(min(many, flips - trial.counts["flips"]))
            say(f"rot: {engine}: {dict(sorted(trial.counts.items()))}")
    figures = {name: trial.counts[name] for name in sorted(trial.counts)}
    return {"keys": KEYS, **figures, "seconds": round(time.monotonic() - began)}


PARTS: Parts = {engine: partial(_run, engine) for engine in ("sqlite", "rocksdb")}


def run(share: float, say: Say, parts: Sequence[str] = tuple(PARTS)) -> dict[str, object]:
    """The figures of these engines; raises `Failed` with all that do not hold."""
    return run_parts(PARTS, parts, share, say)


class _Trial:
    """One cluster, what it must answer, and what has been counted."""

    def __init__(self, engine: str, cluster: RealCluster) -> None:
        self.counts: Counter[str] = Counter()
        self._engine = engine
        self._cluster = cluster
        dice = random.Random(f"rot {engine}")
        self._values = {b"key %d" % number: _value(dice) for number in range(KEYS)}
        with self._client() as client:
            for key, value in self._values.items():
                client.put(key, value, w=3)

    def round(self, flips: int) -> None:
        self.counts["rounds"] += 1
        number = self.counts["rounds"]
        dice = random.Random(f"rot {self._engine} {number}")
        ring = self._cluster.ring()
        victim = dice.choice(self._cluster.agents)
        self._stop(dice, with_log=not number % 2)
        since = len(victim.log_text())
        hit, damage = self._flip(victim, dice, flips)
        with _kept(victim, f"{self._engine}-{number}", damage):
            self._start(victim)
            self._read(victim)
            self._scrub_until_whole(victim)
            self._read(victim)
            self._check_named(victim.log_text()[since:], ring, hit)
            self._check_equal(victim)
            self._leave_sound(victim)

    def _stop(self, dice: random.Random, *, with_log: bool) -> None:
        if not with_log:
            self._cluster.stop()
            return
        with self._client() as client:
            for key in dice.sample(sorted(self._values), 100):
                self._values[key] = _value(dice)
                client.put(key, self._values[key], w=3)
        for agent in self._cluster.agents:
            agent.kill()

    def _client(self, *addresses: str) -> Client:
        """Of these agents, or of all."""
        return Client(
            list(addresses) or self._cluster.addresses,
            timeout_s=_CLIENT_S,
            learn_ring=not addresses,
        )

    # --- damage ----------------------------------------------------------------------------------

    def _flip(
        self, victim: RealAgent, dice: random.Random, flips: int
    ) -> tuple[set[bytes] | None, list[Damage]]:
        """The keys of which the engine has something else now (None if it cannot be opened), and
        what was done."""
        before = _contents(victim.directory)
        files = files_of(victim.directory)
        damage = [flip_anywhere(files, dice) for _ in range(flips)]
        self.counts["flips"] += flips
        after = _contents(victim.directory)
        if before is None or after is None:
            return None, damage
        return {key for key in {**before, **after} if before.get(key) != after.get(key)}, damage

    # --- what the agents make of it --------------------------------------------------------------

    def _start(self, victim: RealAgent) -> None:
        """Starts all; where the victim refuses, its message names the remedy, and that works."""
        for _ in range(_REBUILDS_MAX):
            try:
                self._cluster.start()
                self._cluster.wait_ready()
                return
            except RuntimeError as exc:
                hold(_has_ended(victim), f"not {victim.name}, whose store was hit, but {exc}")
                self._rebuild(victim, "refused to start")
        hold(False, f"{victim.name} does not start after {_REBUILDS_MAX} rebuilds")

    def _rebuild(self, victim: RealAgent, why: str) -> None:
        """Of an agent that has ended, or was stopped because doctor said so."""
        status = victim.wait_exit() if victim.process is not None else 1
        last = victim.log_text()[-20_000:]
        hold(status != 0, f"{victim.name} {why} with status 0")
        named = "dynagent store rebuild" in last
        hold(named, f"{victim.name} {why}, names no remedy: {last[-500:]}")
        self._rebuild_stopped(victim, why)

    def _rebuild_stopped(self, victim: RealAgent, why: str) -> None:
        others = [agent.address for agent in self._cluster.agents if agent is not victim]
        # It may have lost the ring.
        done = _store_tool("rebuild", victim, "--from", others[0], "--yes")
        hold(done.returncode == 0, f"the remedy does not work: {done.stderr}")
        self.counts[why] += 1
        self.counts["rebuilt"] += 1

    def _read(self, victim: RealAgent) -> None:
        """Every key through the victim; a refusal is no wrong value, and is tried at the others."""
        with self._client(victim.address, *self._cluster.addresses) as client:
            for key, value in self._values.items():
                found = client.get(key)
                self.counts["reads"] += 1
                got = [version.value for version in found.versions]
                hold(got == [value], f"{key!r} reads as {got!r}, not {value!r}")
        if _has_ended(victim):
            self._rebuild(victim, "stopped")
            self._start(victim)

    def _scrub_until_whole(self, victim: RealAgent) -> None:
        for _ in range(_REBUILDS_MAX):
            if _scrub(victim):
                return
            self._rebuild(victim, "stopped")
            self._start(victim)
        hold(False, f"{victim.name} does not get whole")

    def _leave_sound(self, victim: RealAgent) -> None:
        """Rids its store of damage that is beside all data; its records are sound by now."""
        victim.stop()
        done = _store_tool("check", victim, "-o", "jsonl")
        findings = [json.loads(line) for line in done.stdout.splitlines()]
        hold(done.returncode == (12 if findings else 0), f"the check fails: {done.stderr}")
        beyond = [found for found in findings if found["kind"] not in _STRUCTURE]
        hold(not beyond, f"{victim.name} was whole, and yet a check finds: {beyond[:5]}")
        if findings:
            self._rebuild_stopped(victim, "damaged beside all data, and so rebuilt")
        self._start(victim)
        if findings:
            self._scrub_until_whole(victim)

    # --- what must hold --------------------------------------------------------------------------

    def _check_named(self, log: str, ring: Ring, hit: set[bytes] | None) -> None:
        """Each key that was hit is named itself, or its partition is, or all of the store."""
        counts = self.counts
        if hit is None or "store rebuild" in log:
            counts["rounds in which the whole store was named"] += 1
            return
        counts["keys hit"] += len(hit)
        partitions = {int(number) for number in re.findall(r"partition=(\d+)", log)}
        for key in hit:
            where = ring.partition_of(token_of(key))
            if f'key="{key.decode()}"' in log:
                counts["keys named"] += 1
            elif where in partitions:
                counts["keys named by their partition"] += 1
            elif "event=tree.unknown" in log:
                # Several flips at once: one has hit the journal of the trees, and only that could
                # tell that a row of the same leaf is missing. The journal is named, and the row
                # came back.
                counts["keys healed unnamed, their journal being hit too"] += 1
            else:
                told = [line for line in log.splitlines() if "level=warning" in line][-20:]
                hold(False, f"{key!r} of partition {where} was hit, and nobody names it: {told}")

    def _check_equal(self, victim: RealAgent) -> None:
        """A read that needs all three, through each: the victim's copies are good and the same."""
        with self._client(victim.address) as client:
            for key, value in self._values.items():
                got = [version.value for version in client.get(key, r=3, strict=True).versions]
                hold(got == [value], f"{key!r} reads as {got!r} at R=3, not {value!r}")


def _value(dice: random.Random) -> bytes:
    return dice.randbytes(dice.randint(50, 250))


# --- the victim's files --------------------------------------------------------------------------


def _contents(directory: Path) -> dict[bytes, bytes] | None:
    """What its engine has of each key; None if it cannot be opened."""
    try:
        data_dir = DataDir.open_stopped(directory, dice=random.Random(1))
    except DynagentError:
        return None
    try:
        rows = [row for row in salvage(data_dir.store.scan) if not isinstance(row, Gap)]
        return {key: stored for token, key, stored in rows if key and token == token_of(key)}
    finally:
        data_dir.close(clean=False)


@contextmanager
def _kept(victim: RealAgent, name: str, damage: Sequence[Damage]) -> Iterator[None]:
    """A copy of its data directory as it is now, for whoever looks into a failure."""
    copy = Path(tempfile.mkdtemp(prefix=f"rot-{name}-")) / victim.name
    shutil.copytree(victim.directory, copy)
    try:
        yield
    except Exception as exc:
        flips = [(Path(flip.file).name, flip.offset, flip.bit) for flip in damage]
        shutil.copy(victim.log, copy.parent)
        raise Failed(
            f"{name}: {exc or type(exc).__name__} (flips: {flips}; the store as it was then and "
            f"the log: {copy.parent})"
        ) from exc
    shutil.rmtree(copy.parent)


def _store_tool(verb: str, agent: RealAgent, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dynagent.main", "store", verb, str(agent.directory), *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


# --- the victim's state --------------------------------------------------------------------------


def _has_ended(agent: RealAgent) -> bool:
    return agent.process is not None and agent.process.poll() is not None


def _scrub(victim: RealAgent) -> bool:
    """Twice: the second time nothing is left. False if the agent has stopped meanwhile."""
    for _ in range(2):
        try:
            with Client([], learn_ring=False, timeout_s=_CLIENT_S) as client:
                job = secrets.token_hex(8)
                client.ask(victim.address, JobRequest(JOB_START, job, "scrub"))
            wait_for(lambda: _has_ended(victim) or _is_whole(victim), "healing", wait_s=_HEAL_S)
            if not _has_ended(victim) and _is_damaged(victim):
                victim.kill()  # as doctor says: stop it, rebuild, start it
                return False
        except (Unreachable, ConnectionLost, NotReady):
            wait_for(lambda: _has_ended(victim), f"{victim.name} to end")
        if _has_ended(victim):
            return False
    return True


def _is_whole(victim: RealAgent) -> bool:
    try:
        with Client([], learn_ring=False, timeout_s=_CLIENT_S) as client:
            status = status_of(client, victim.address)
    except DynagentError:
        return False
    if status["scrub"]["damaged"]:
        return True  # ranges that the engine cannot read: no healing helps, see `_is_damaged`
    unknown = status["unknown"]
    waiting = unknown["waiting"] + unknown["suspect"] + unknown["hollow"]
    return bool(status["jobs"] == 0 and waiting == 0 and status["trees"]["unknown"] == 0)


def _is_damaged(victim: RealAgent) -> bool:
    with Client([], learn_ring=False, timeout_s=_CLIENT_S) as client:
        return bool(status_of(client, victim.address)["scrub"]["damaged"])
