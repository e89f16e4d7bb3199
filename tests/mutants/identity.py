"""Mistakes about who a store is (`core.registration`, `core.registrar`)."""

from __future__ import annotations

from tests.mutants.table import Mutant, _mutant

IDENTITY_MUTANTS: tuple[Mutant, ...] = (
    _mutant(
        "I1",
        "a node serves before its start is registered",
        (
            "core/registration.py",
            "        if not self._others():\n",
            "        if True:\n",
        ),
        seeds=(9, 11, 19),
    ),
    _mutant(
        "M25",
        "two nodes with one id: a voter looks at the run of a start, not at its past",
        (
            "core/registrar.py",
            "    return known.run < first or (known.run <= run and "
            "starts[known.run - first] == known.nonce)\n",
            "    return known.run <= run or first < 0\n",
        ),
        seeds=(11, 38),
    ),
    _mutant(
        "I2",
        "a voter takes any start after its own restart: it has forgotten the others",
        (
            "core/registrar.py",
            'decode_start(self._reader.get_meta(f"{ROW}{node}"))\n',
            "None\n",
        ),
        seeds=(9, 19, 30),
    ),
)
