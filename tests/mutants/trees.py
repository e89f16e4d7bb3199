"""Mistakes in the Merkle trees: what their sums leave out, forget, or remember wrongly."""

from __future__ import annotations

from tests.mutants.table import of_one_file

TREE_MUTANTS = (
    of_one_file(
        "M13",
        "tombstones are in no leaf",
        "core/replica.py",
        (
            "                after = record.digest\n",
            "                after = _digest_before(record)\n",
        ),
        ("    return None if old is ABSENT else", "    return None if not old.value.siblings else"),
        seed=2,
    ),
    of_one_file(
        "M13-clock",
        "a leaf covers the siblings of its records, not their clocks",
        "core/replica.py",
        (
            "                after = record.digest\n",
            "                after = _digest_before(record)\n",
        ),
        (
            "    return None if old is ABSENT else old.digest",
            "    told = b''.join(sibling.data for sibling in old.value.siblings)\n"
            "    return None if old is ABSENT else Record(old.value, content=told).digest",
        ),
        seed=0,
    ),
    of_one_file(
        "F1",
        "the digest of a record that is replaced stays in the sum of its leaf",
        "core/merkle.py",
        ('                total -= from_bytes(hashed.digest(), "big")\n', ""),
        seed=0,
    ),
    of_one_file(
        "F2",
        "the digest of the newest copy is subtracted, not of the one that the last batch left",
        "core/replica.py",
        (
            "        if key not in self._open_keys:\n            self",
            "        if True:\n            self",
        ),
        seed=6,
    ),
    of_one_file(
        "F3",
        "the sums keep what a refused batch would have changed",
        "core/merkle.py",
        ("        self._sums.reload()\n", ""),
        seed=5,
    ),
    of_one_file(
        "F4",
        "an unreadable record is taken for absent by its leaf",
        "core/replica.py",
        ("        return UNREADABLE_DIGEST\n", "        return None\n"),
        seed=0,
    ),
    of_one_file(
        "F5",
        "an unknown leaf is reckoned with, and has a hash, as if it were known",
        "core/merkle.py",
        ("            if entry >= _LEAST_UNKNOWN:\n", "            if False:\n"),
        seed=18,
    ),
    of_one_file(
        "F6",
        "a leaf is rebuilt from the disk as it is, not as the batch under way will leave it",
        "core/merkle.py",
        (
            "        records = self._under_way.records if self._under_way is not None else []\n",
            "        records = []\n",
        ),
        seed=2,
    ),
    of_one_file(
        "F7",
        "a slot of the journal is overwritten before what stands in it is folded",
        "core/sums.py",
        ("            age = self._sequence - since\n", "            age = 0\n"),
        seed=0,
    ),
    of_one_file(
        "F8",
        "a new slot forgets the partitions that a fold is still due for",
        "core/sums.py",
        (
            '        self._sequence += 1\n        self._slot = b""\n',
            '        self._sequence += 1\n        self._slot = b""\n        self._dirty.clear()\n',
        ),
        seed=0,
    ),
    of_one_file(
        "F9",
        "a slot keeps the entries of its newest batch only",
        "core/sums.py",
        (
            "        entries: list[bytes | bytearray] = [self._slot]\n",
            "        entries: list[bytes | bytearray] = []\n",
        ),
        seed=5,
    ),
    of_one_file(
        "F10",
        "after a start the slots are numbered anew",
        "core/sums.py",
        ("        self._sequence = last\n", "        self._sequence = 0\n"),
        seed=0,
    ),
    of_one_file(
        "F11",
        "after a start nobody knows which partitions must be folded",
        "core/sums.py",
        ("                self._dirty.setdefault(partition, sequence)\n", ""),
        seed=15,
    ),
    of_one_file(
        "F12",
        "unknown leaves stay unknown",
        "core/rebuild.py",
        ("        if now < self._due or not forest.unknown:\n", "        if True:\n"),
        seed=0,
    ),
    of_one_file(
        "F13",
        "the hashes above a leaf are kept when it changes",
        "core/merkle.py",
        (
            "                groups[partition][(place & mask) // ARITY] = None\n",
            "                pass\n",
        ),
        seed=0,
    ),
)
