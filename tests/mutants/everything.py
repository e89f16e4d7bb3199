"""All mutants, in the order in which they are hunted."""

from __future__ import annotations

from tests.mutants.heal import HEAL_MUTANTS
from tests.mutants.identity import IDENTITY_MUTANTS
from tests.mutants.joint import JOINT_MUTANTS
from tests.mutants.level2 import LEVEL_2_MUTANTS
from tests.mutants.ring import RING_MUTANTS
from tests.mutants.ringlog import RINGLOG_MUTANTS
from tests.mutants.table import MUTANTS
from tests.mutants.trees import TREE_MUTANTS

ALL = (
    *MUTANTS,
    *TREE_MUTANTS,
    *HEAL_MUTANTS,
    *IDENTITY_MUTANTS,
    *RINGLOG_MUTANTS,
    *RING_MUTANTS,
    *JOINT_MUTANTS,
    *LEVEL_2_MUTANTS,
)
