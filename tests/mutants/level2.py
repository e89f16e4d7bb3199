"""Mistakes outside the core, which only level 2 can see: sessions, links, turns, disk, client."""

from __future__ import annotations

from tests.mutants.table import Mutant, Patch


def _mutant(name: str, what: str, file: str, old: str, new: str, seed: int) -> Mutant:
    patches = (Patch(file=file, old=old, new=new),)
    return Mutant(name=name, what=what, patches=patches, seeds=(seed,), level=2)


LEVEL_2_MUTANTS = (
    _mutant(
        "B1",
        "a batch whose write failed is acknowledged",
        "agent/agent.py",
        "        elif error is not None:\n            self._stop_failed(error)\n"
        "        else:\n            self.node.on_committed",
        "        else:\n            self.node.on_committed",
        15,
    ),
    _mutant(
        "B2",
        "an agent goes on after its disk has failed",
        "agent/agent.py",
        "        self._failure = error\n        self.stop()",
        "        self._failure = error",
        15,
    ),
    _mutant(
        "B3",
        "every stop counts as clean",
        "agent/agent.py",
        "is_clean = self._drained and self._failure is None",
        "is_clean = True",
        35,
    ),
    _mutant(
        "B4",
        "the runs before a crash count as joined to the present one",
        "store/identity.py",
        "identity.clean_from_run if identity.clean_stop else run",
        "identity.clean_from_run",
        8,
    ),
    _mutant(
        "B5",
        "the cluster id is made durable before the ring",
        "agent/agent.py",
        "        self.data_dir.store.write(batch)\n"
        "        file = self.data_dir.identity_file\n"
        "        file.write(replace(file.value, cluster_id=ring.cluster_id))",
        "        file = self.data_dir.identity_file\n"
        "        file.write(replace(file.value, cluster_id=ring.cluster_id))\n"
        "        self.data_dir.store.write(batch)",
        6,
    ),
    _mutant(
        "B6",
        "the identity is written into one of its slots only",
        "store/identity.py",
        "for index in (self._first_slot, 1 - self._first_slot):",
        "for index in (0,):",
        70,
    ),
    _mutant(
        "B7",
        "bytes behind a whole frame are forgotten",
        "wire/framing.py",
        "            del self._rest[:start]",
        "            self._rest.clear()",
        0,
    ),
    _mutant(
        "B8",
        "a bad frame ends the agent",
        "agent/links.py",
        "        except DynagentError as error:\n            self.end(error)\n"
        "            return\n        size",
        "        except ZeroDivisionError:\n            return\n        size",
        0,
    ),
    _mutant(
        "B9",
        "a greeted connection stays among those that are not",
        "agent/links.py",
        "                self._links.greeting.pop(self.id, None)\n",
        "",
        0,
    ),
    _mutant(
        "B10",
        "a closed connection is not forgotten",
        "agent/links.py",
        "        self._links.by_id.pop(self.id, None)\n",
        "",
        0,
    ),
    _mutant(
        "B11",
        "a new connection gets the id of an older one: answers go to the wrong client",
        "agent/links.py",
        "        self._last_id += 1\n",
        "        self._last_id = len(self.by_id) + 1\n",
        0,
    ),
    _mutant(
        "B12",
        "a batch is submitted while another is under way",
        "agent/agent.py",
        "if self._in_flight is None and self._failure is None:",
        "if self._failure is None:",
        0,
    ),
    _mutant(
        "B13",
        "the timer is armed once and never moved",
        "agent/agent.py",
        "        if due < self._timer_scope.deadline:",
        "        if False:",
        10,
    ),
    _mutant(
        "B14",
        "a peer that has been lost is not dialled again",
        "agent/peers.py",
        "                await link.closed.wait()\n",
        "                await link.closed.wait()\n                return\n",
        2,
    ),
    _mutant(
        "B16",
        "a client repeats a put of unknown outcome as if it were the first attempt",
        "client/routing.py",
        "            self.attempt += 1\n",
        "            pass\n",
        32,
    ),
    _mutant(
        "B17",
        "a client reports its last try's definite error although an earlier one may have worked",
        "client/routing.py",
        "        if self._indefinite is None or not last.definite:",
        "        if True:",
        1,
    ),
    _mutant(
        "B18",
        "of the merges in one frame only the first waits for the disk",
        "core/copies.py",
        "                replica.when_durable(number, (link, also))\n",
        "                self._effects.answer(link, also, MergeAck([]))\n",
        31,
    ),
    _mutant(
        "M14",
        "bytes are read from the disk, and handed to others, without looking at their checksum",
        "core/entry.py",
        '    if crc32(stored[4:], crc32(cluster_id + key)).to_bytes(4, "big") != stored[:4]:',
        "    if not stored:",
        42,
    ),
    _mutant(
        "M15",
        "the log is cut at its first bad batch, whatever stands behind it",
        "testing/level2/logstore.py",
        "            if _whole_batch(data, at, None):",
        "            if False:",
        15,
    ),
    _mutant(
        "M16",
        "a failed fsync is tried again",
        "testing/level2/logstore.py",
        "        self._disk.fsync(self._file)\n\n    def fold_log",
        "        try:\n"
        "            self._disk.fsync(self._file)\n"
        "        except OSError:\n"
        "            self._disk.fsync(self._file)\n\n    def fold_log",
        2,
    ),
    _mutant(
        "M20",
        "nobody looks to which cluster the other end belongs",
        "wire/session.py",
        "        if ours and theirs and ours != theirs:\n",
        "        if False:\n",
        3,
    ),
    _mutant(
        "M21",
        "cbor2 runs with its default options",
        "core/encoding.py",
        "            max_depth=_DEPTH_MAX + 1,  # the pair\n            allow_indefinite=False,\n"
        "            allow_duplicate_keys=False,\n",
        "            max_depth=_DEPTH_MAX + 1,\n",
        1,
    ),
    _mutant(
        "M22",
        "a new connection goes on with the half-received frame of the one before it",
        "agent/peers.py",
        "        self._session = Session(peers.hello(), dialled=True)\n",
        "        self._session = peers.__dict__.setdefault(\n"
        "            member.id, Session(peers.hello(), dialled=True)\n        )\n",
        4,
    ),
    _mutant(
        "M24",
        "the wall clock decides about time-outs",
        "agent/agent.py",
        "        self.config = config\n        self.env = env\n",
        "        self.config = config\n"
        "        wall_ms = env.wall_ms\n"
        "        self.env = env = replace(env, monotonic=lambda: wall_ms() / 1000)\n",
        98,
    ),
    _mutant(
        "I4",
        "a voter that had met another start of a store, and is gone, keeps this one waiting",
        "core/registration.py",
        "        elif not self._is_linked(node):\n",
        "        elif False:\n",
        368,
    ),
)
