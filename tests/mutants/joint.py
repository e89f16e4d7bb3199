"""One mistake for each rule by which owners change and who they are is known (design §6).

docs/simulation.md has the rules, and which mutant or which search stands for each. The numbers M…
are those of the reliability catalogue; J… break a rule of joint ownership, V… one of the log.
"""

from __future__ import annotations

from tests.mutants.table import _mutant, of_one_file

JOINT_MUTANTS = (
    of_one_file(
        "M19",
        "what is asked under a stamp below the fence is taken",
        "core/stamps.py",
        ("    return minimum <= stamp <= known\n", "    return stamp <= known\n"),
        seed=2,
    ),
    _mutant(
        "J2",
        "a fence runs ahead of the log",
        (
            "core/sources.py",
            "        if any(ring.stamps[partition] != stamp for partition in partitions):\n",
            "        if any(ring.stamps[partition] > stamp for partition in partitions):\n",
        ),
        ("core/stamps.py", "        assert stamp <= self._known[partition]\n", ""),
        seeds=(1,),
    ),
    of_one_file(
        "J3",
        "a minimum does not outlive the process",
        "core/stamps.py",
        (
            "        for row in sorted(changed):\n            first = row",
            "        for row in sorted(changed)[:0]:\n            first = row",
        ),
        seed=1,
    ),
    of_one_file(
        "J4",
        "who is fenced says so before that, and what it had taken, is on its disk",
        "core/sources.py",
        (
            "        Wait(coordinator, now, number, answer)\n",
            "        answer(now, True)\n",
        ),
        seed=1,
    ),
    of_one_file(
        "J5",
        "who is new among the owners coordinates before it has copied",
        "core/node.py",
        (
            "        if self.serves_as not in aim.readers and not",
            "        if self.serves_as not in aim.owners and not",
        ),
        seed=1,
    ),
    of_one_file(
        "J6",
        "in phase 1 a put needs W of the new owners only",
        "core/ring.py",
        (
            "        return (self.lists[partition],) if move is None else (self.lists[partition], "
            "move.owners)\n",
            "        if move is None:\n            return (self.lists[partition],)\n"
            "        old = (self.lists[partition],) if move.phase == JOINT_OLD else ()\n"
            "        return (*old, move.owners)\n",
        ),
        seed=57,
    ),
    of_one_file(
        "J7",
        "a former owner does not push what its owners lack",
        "core/covering.py",
        (
            "                self._to_push.append(key)\n        del self._looked",
            "                self.covered.discard(key)\n        del self._looked",
        ),
        seed=58,
    ),
    of_one_file(
        "J8",
        "what is taken back goes on under the stamp that it had before",
        "core/ringentry.py",
        ("            changed[move.partition] = index\n", "            pass\n"),
        seed=1,
    ),
    of_one_file(
        "J9",
        "a leaver goes while it still keeps hints and copies",
        "core/driver.py",
        (
            "            if not self._is_proposing and self._may_retire():\n",
            "            if not self._is_proposing:\n",
        ),
        seed=1,
    ),
    of_one_file(
        "J10",
        "owners change for good without a fence against the reads of the old ones",
        "core/fences.py",
        (
            "    return min(ring.n - ring.r + 1, len(old_owners(ring, partition)))\n",
            "    return 0\n",
        ),
        seed=1105,
    ),
    of_one_file(
        "J11",
        "one new owner that has copied is enough for phase 1",
        "core/driver.py",
        (
            "        return all(partition in self._ready.get(node, ())",
            "        return any(partition in self._ready.get(node, ())",
        ),
        seed=218,
    ),
    of_one_file(
        "V1",
        "a proposer carries its own entry although a voter has accepted another",
        "core/acceptor.py",
        ("    return own if newest.accepted == NEVER else newest.entry\n", "    return own\n"),
        seed=3,
    ),
    of_one_file(
        "V2",
        "a voter answers before its vote is on its disk",
        "core/ringlog.py",
        (
            "        self._when_durable(now, batch, answer, reply)\n",
            "        answer(now, reply)\n",
        ),
        seed=1,
    ),
    of_one_file(
        "V3",
        "a voter forgets at its end how it has voted",
        "core/acceptor.py",
        (
            "            self.standing = standing if voted_for == index else Standing()\n",
            "            self.standing = Standing()\n",
        ),
        seed=12,
    ),
    of_one_file(
        "V4",
        "one voter decides",
        "core/acceptor.py",
        (
            "    return 2 * len(set(voters).intersection(nodes)) > len(voters)\n",
            "    return not set(voters).isdisjoint(nodes)\n",
        ),
        seed=92,
    ),
)
