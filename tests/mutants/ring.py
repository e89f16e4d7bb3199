"""Mistakes about rings that change: who votes, who is fenced, who must have what before who may go.

The numbers M… are those of the reliability catalogue; J… break a rule of the joint ownership of a
partition that moves (design §6).
"""

from __future__ import annotations

from tests.mutants.table import of_one_file

RING_MUTANTS = (
    of_one_file(
        "M10",
        "a former owner drops its copies without asking whether the owners have them",
        "core/clearing.py",
        (
            "                self._owners = [node for node in owners if node != self._coordi"
            "nator.node_id]\n",
            "                self._owners, self._to_drop = [], list(window.keys)\n",
        ),
        seed=31,
    ),
    of_one_file(
        "M10-fsync",
        "an owner says that its tree has what is not yet on its disk",
        "core/sources.py",
        (
            "        Wait(coordinator, now, self._replica.newest_batch, answer)\n",
            "        answer(now, True)\n",
        ),
        seed=2,
    ),
    of_one_file(
        "M17",
        "a new owner copies from one old owner, not from a quorum",
        "core/fences.py",
        (
            "    return min(ring.n - ring.w + 1, len(old_owners(ring, partition)))\n\n\ndef reads",
            "    return 1\n\n\ndef reads",
        ),
        seed=1646,
    ),
    of_one_file(
        "M18",
        "what is written while a partition is copied does not go to its new owners",
        "core/aim.py",
        (
            "        self.lists = ring.write_lists(partition)  # in",
            "        self.lists = ring.write_lists(partition)[:1]  # in",
        ),
        (
            "        self.owners = ring.all_owners(partition)  # everybody",
            "        self.owners = ring.lists[partition]  # everybody",
        ),
        seed=1,
    ),
    of_one_file(
        "M28",
        "a new owner is read while it copies",
        "core/ring.py",
        (
            "        if move is None or move.phase == JOINT_OLD:\n            return self.lists",
            "        if move is None:\n            return self.lists",
        ),
        seed=1,
    ),
    of_one_file(
        "J1",
        "W of the old owners are enough while a partition moves",
        "core/quorum.py",
        (
            "        if min(counted) >= self.needed:\n",
            "        if counted[0] >= self.needed:\n",
        ),
        seed=19,
    ),
    of_one_file(
        "W4",
        "a removed node hears no answer any more to what it has passed on for clients",
        "core/node.py",
        (
            "                operation.on_reply(now, source, message)\n                self._hang",
            "                self._hang",
        ),
        seed=784,
    ),
    of_one_file(
        "W5",
        "all of a partition is handed over to who does not own it, for ever",
        "core/delivery.py",
        (
            "        its_own = [partition for partition in dirty if ring.owns(node, partition)]\n",
            "        its_own = list(dirty)\n",
        ),
        seed=2828,
    ),
    of_one_file(
        "W6",
        "who is gray is tried by a Read without a stamp, which is refused once a fence has passed",
        "core/detector.py",
        ("probe = Read(*self._probe_stamp(), ", "probe = Read(0, 0, "),
        seed=1961,
    ),
)
