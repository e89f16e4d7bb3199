"""The mutants of healing and scrub (`core.heal`, `core.scrub`, `core.unknown`, `core.survey`)."""

from __future__ import annotations

from tests.mutants.table import Mutant, _mutant

HEAL_MUTANTS: tuple[Mutant, ...] = (
    _mutant(
        "R1",
        "a copy is healed from N-W others instead of N-W+1",
        (
            "core/heal.py",
            "ring.n - ring.w + (1 if own in owners else 2)",
            "ring.n - ring.w + (0 if own in owners else 1)",
        ),
        seeds=(48, 410),
    ),
    _mutant(
        "R2",
        "healing takes what others hold and forgets what came in meanwhile",
        (
            "core/replica.py",
            "        value = old.value.merge(others.value)\n        if not value.clock:\n",
            "        value = others.value\n        if not value.clock:\n",
        ),
        seeds=(21,),
    ),
    _mutant(
        "R3",
        "a scrub trusts the sums of the tree instead of the disk",
        (
            "core/scrub.py",
            "        found = self._forest.recompute(partition, leaf)\n",
            "        found = expected\n",
        ),
        seeds=(0,),
    ),
    _mutant(
        "R4",
        "in a hollow partition no record is an answer",
        (
            "core/replica.py",
            "return UNREADABLE if self._is_lost(token) else ABSENT",
            "return ABSENT",
        ),
        seeds=(0,),
    ),
    _mutant(
        "R5",
        "a row where its key does not belong stays there",
        ("core/scrub.py", "                    replica.remove_row(token, key)\n", ""),
        seeds=(0,),
    ),
    _mutant(
        "R6",
        "rot that a scrub meets is counted and not healed",
        (
            "core/survey.py",
            "            self._forget(key)  # the cache has what was meant to be there\n",
            "            pass\n",
        ),
        (
            "core/survey.py",
            "            self._meet(key, token, exc)\n            return UNREADABLE\n",
            "            return UNREADABLE\n",
        ),
        seeds=(448,),
    ),
    _mutant(
        "R7",
        "the others' copies are taken without merging them with each other",
        (
            "core/heal.py",
            "                merged.value.merge(record.value),\n",
            "                record.value,\n",
        ),
        seeds=(31,),
    ),
    _mutant(
        "M14-heal",
        "healing copies bytes that nobody has verified: an unreadable copy is handed out and taken",
        (
            "core/copies.py",
            "        if record.unknown:\n            return ReadReply(STATE_UNREADABLE",
            "        if record.unknown and not value.clock:\n"
            "            return ReadReply(STATE_UNREADABLE",
        ),
        seeds=(6,),
    ),
)
