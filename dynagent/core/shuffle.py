"""An order of the dice's choice, for whoever visits the members in turn."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from dynagent.core.ports import Dice

T = TypeVar("T")


def shuffled(dice: Dice, items: Iterable[T]) -> list[T]:
    """All of them once (Fisher and Yates)."""
    order = list(items)
    for place in range(len(order) - 1, 0, -1):
        other = dice.getrandbits(16) % (place + 1)
        order[place], order[other] = order[other], order[place]
    return order
