"""Of what may rot: nothing that is then nowhere else (`dynagent/testing/swarm.py`)."""

from __future__ import annotations

from dynagent.testing.copies import NO_COPY, adds_to, merge_copies

VALUE = ({1: 2}, frozenset({(1, 2)}))
TOMBSTONE = ({1: 2}, frozenset[tuple[int, int]]())
NEWER = ({1: 2, 2: 1}, frozenset({(2, 1)}))


def test_copies_together_hold_what_none_of_them_knows_to_be_superseded() -> None:
    assert merge_copies([VALUE, NO_COPY]) == VALUE
    assert merge_copies([VALUE, TOMBSTONE]) == TOMBSTONE
    assert merge_copies([NEWER, VALUE]) == NEWER


def test_a_copy_is_spare_if_the_others_hold_all_of_it() -> None:
    assert not adds_to(VALUE, [NO_COPY, NEWER])
    assert not adds_to(NO_COPY, [])
    assert adds_to(VALUE, [NO_COPY])


def test_a_tombstone_is_not_spare_beside_the_value_that_it_supersedes() -> None:
    """Seed 12: of a delete that reached W=2 the node that held one copy was gone for good, then
    the other one rotted, since a stale copy has the same clock; so the value was back."""
    assert adds_to(TOMBSTONE, [VALUE])
    assert not adds_to(TOMBSTONE, [VALUE, TOMBSTONE])
