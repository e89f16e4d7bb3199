"""The algebra of siblings, against a model that writes every single dot down."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynagent.core.entry import Record, decode_sibling, encode_entry, encode_sibling
from dynagent.core.siblings import EMPTY, Clock, Dot, Sibling, Siblings, join
from dynagent.core.version import Version


def covers(one: Clock, other: Clock) -> bool:
    """Does `one` claim every dot that `other` claims?"""
    return all(counter <= one.get(actor, 0) for actor, counter in other.items())


def sibling(dot: Dot, value: bytes | None = None) -> Sibling:
    text = repr(dot).encode() if value is None else value
    return encode_sibling(
        dot=dot, wall_ms=1, content=0, expiry_ms=0, op_id=b"o" * 16, meta={}, value=text
    )


# --- reachable states ----------------------------------------------------------------------------


@dataclass(frozen=True)
class State:
    """A copy, and beside it the truth: every dot it ever knew, and those not superseded."""

    value: Siblings
    known: frozenset[Dot]
    live: frozenset[Dot]

    def merge(self, other: State) -> State:
        live = (self.live & other.live) | (self.live - other.known) | (other.live - self.known)
        return State(self.value.merge(other.value), self.known | other.known, live)

    def forget(self, context: State) -> State:
        """A delete with what `context` has seen."""
        value = self.value.delete(context.value.clock)
        return State(value, self.known | context.known, self.live - context.known)

    def put(self, context: State, dot: Dot) -> State:
        value = self.value.write(context.value.clock, sibling(dot))
        return State(value, self.known | context.known | {dot}, (self.live - context.known) | {dot})

    def check(self) -> None:
        """The clock claims exactly what the copy knew, the siblings are exactly what is left."""
        claimed = {
            (a, count) for a, last in self.value.clock.items() for count in range(1, last + 1)
        }
        assert claimed == self.known
        assert self.value.dots() == sorted(self.live)


NOTHING = State(EMPTY, frozenset(), frozenset())


@dataclass
class History:
    """Three replicas of one key; an actor lives in a copy and dies with it."""

    copies: list[State] = field(default_factory=lambda: [NOTHING] * 3)
    marks: list[Dot | None] = field(default_factory=lambda: [None] * 3)
    seen: list[State] = field(default_factory=lambda: [NOTHING])
    actors: int = 0

    def put(self, at: int, context: State) -> None:
        mark = self.marks[at]
        if mark is None:
            self.actors += 1
            mark = (self.actors, 0)
        self.marks[at] = mark = (mark[0], mark[1] + 1)
        self.keep(at, self.copies[at].put(context, mark))

    def lose(self, at: int) -> None:
        self.marks[at] = None
        self.keep(at, NOTHING)

    def keep(self, at: int, state: State) -> None:
        self.copies[at] = state
        self.seen.append(state)


STEPS = st.tuples(
    st.sampled_from(["put", "put", "put", "delete", "merge", "merge", "merge", "lose"]),
    st.integers(0, 2),
    st.integers(0, 1_000),
    st.sampled_from(["nothing", "own", "any", "any"]),
)


@st.composite
def histories(draw: st.DrawFn) -> list[State]:
    """Every state that some replica went through: puts and deletes with any context ever handed
    out, merges with any record ever sent (delayed and repeated), lost copies."""
    history = History()
    for step, at, which, context_kind in draw(st.lists(STEPS, min_size=1, max_size=20)):
        other = history.seen[which % len(history.seen)]
        context = {"nothing": NOTHING, "own": history.copies[at], "any": other}[context_kind]
        match step:
            case "put":
                history.put(at, context)
            case "delete":
                history.keep(at, history.copies[at].forget(context))
            case "merge":
                history.keep(at, history.copies[at].merge(other))
            case "lose":
                history.lose(at)
    return history.seen


@st.composite
def three_reachable(draw: st.DrawFn) -> tuple[State, State, State]:
    states = draw(histories())
    one, two, three = (draw(st.integers(0, len(states) - 1)) for _ in range(3))
    return states[-1 - one], states[-1 - two], states[-1 - three]


@st.composite
def well_formed(draw: st.DrawFn) -> Siblings:
    """Any clock, and any of the dots that it claims."""
    clock = draw(st.dictionaries(st.integers(1, 3), st.integers(1, 3), max_size=3))
    claimed = [(actor, n) for actor, last in sorted(clock.items()) for n in range(1, last + 1)]
    kept = [dot for dot in claimed if draw(st.booleans())]
    return Siblings(clock, tuple(sibling(dot) for dot in kept))


clocks = st.dictionaries(st.integers(1, 4), st.integers(1, 4), max_size=4)


@settings(max_examples=500)
@given(histories())
def test_every_reachable_copy_claims_exactly_what_it_knew_and_shows_what_is_left(
    states: list[State],
) -> None:
    for state in states:
        state.check()


def assert_laws(x: Siblings, y: Siblings, z: Siblings) -> None:
    assert x.merge(y) == y.merge(x)
    assert x.merge(x) == x
    assert x.merge(y).merge(y) == x.merge(y)
    assert x.merge(y).merge(z) == x.merge(y.merge(z))
    assert x.merge(EMPTY) == x
    assert x.clashes(y) == 0


@settings(max_examples=300)
@given(three_reachable())
def test_merge_commutes_associates_and_repeats_on_reachable_copies(
    states: tuple[State, State, State],
) -> None:
    x, y, z = states
    assert_laws(x.value, y.value, z.value)
    x.merge(y).merge(z).check()


@settings(max_examples=300)
@given(well_formed(), well_formed(), well_formed())
def test_merge_commutes_associates_and_repeats_on_any_well_formed_copies(
    x: Siblings, y: Siblings, z: Siblings
) -> None:
    assert_laws(x, y, z)


@settings(max_examples=300)
@given(well_formed(), well_formed())
def test_merge_keeps_a_sibling_unless_the_other_side_knows_it_to_be_superseded(
    x: Siblings, y: Siblings
) -> None:
    merged = x.merge(y)
    for one, other in ((x, y), (y, x)):
        for s in one.siblings:
            superseded = covers(other.clock, dict([s.dot])) and s not in other.siblings
            assert (s in merged.siblings) is not superseded
    assert set(merged.siblings) <= {*x.siblings, *y.siblings}
    assert merged.clock == join(x.clock, y.clock)
    assert covers(merged.clock, x.clock)
    assert covers(merged.clock, y.clock)


@settings(max_examples=300)
@given(well_formed(), well_formed())
def test_merging_what_is_known_of_a_copy_equals_merging_the_copy_or_asks_for_it(
    x: Siblings, y: Siblings
) -> None:
    has_news = bool({*x.merge(y).siblings} - {*x.siblings})
    known = x.merge_known(y.clock, y.dots())
    assert (known is None) is has_news
    assert has_news or known == x.merge(y)


@settings(max_examples=300)
@given(well_formed(), clocks)
def test_a_put_removes_exactly_what_its_context_covers(x: Siblings, context: Clock) -> None:
    dot = (9, 1)
    after = x.write(context, sibling(dot))
    left = {s for s in x.siblings if not covers(context, dict([s.dot]))}
    assert set(after.siblings) == left | {sibling(dot)}
    assert after.clock == join(join(x.clock, context), dict([dot]))
    assert after.dots() == sorted(after.dots())


@settings(max_examples=300)
@given(well_formed(), clocks)
def test_a_delete_removes_exactly_what_its_context_covers(x: Siblings, context: Clock) -> None:
    after = x.delete(context)
    assert after.siblings == tuple(s for s in x.siblings if not covers(context, dict([s.dot])))
    assert after.clock == join(x.clock, context)
    assert after == x.merge(Siblings(context, ())).merge(after)


def test_a_delete_with_the_clock_of_the_copy_leaves_a_tombstone() -> None:
    copy = EMPTY.write({}, sibling((1, 1))).write({}, sibling((1, 2)))
    assert copy.delete(copy.clock) == Siblings({1: 2}, ())


def test_two_blind_puts_of_one_actor_are_both_siblings() -> None:
    copy = EMPTY.write({}, sibling((1, 1))).write({}, sibling((1, 2)))
    assert copy.dots() == [(1, 1), (1, 2)]
    assert copy.write({1: 1}, sibling((2, 1))).dots() == [(1, 2), (2, 1)]


def test_a_value_never_changes_once_it_is_made() -> None:
    before = EMPTY.write({}, sibling((1, 1)))
    before.write({1: 1}, sibling((1, 2)))
    before.merge(Siblings({1: 5}, ()))
    before.delete({2: 2})
    assert before == Siblings({1: 1}, (sibling((1, 1)),))
    assert Siblings({}, ()) == EMPTY


# --- one dot, different bytes --------------------------------------------------------------------


@st.composite
def clashing(draw: st.DrawFn) -> Siblings:
    """Copies of two cloned stores: a dot may stand for one of three values."""
    base = draw(well_formed())
    values = [draw(st.sampled_from([b"x", b"y", b"z"])) for _ in base.siblings]
    return Siblings(
        base.clock, tuple(sibling(s.dot, v) for s, v in zip(base.siblings, values, strict=True))
    )


def values_of(copy: Siblings) -> list[bytes]:
    return sorted(Version(s.data).value for s in copy.siblings)


@settings(max_examples=300)
@given(clashing(), clashing())
def test_a_clash_keeps_both_values_the_same_way_on_both_sides(x: Siblings, y: Siblings) -> None:
    merged = x.merge(y)
    assert merged == y.merge(x)
    assert merged.merge(x) == merged
    assert merged.merge(y) == merged
    assert x.clashes(y) == y.clashes(x)
    for s in x.siblings:
        twin = next((t for t in y.siblings if t.dot == s.dot and t.data != s.data), None)
        if twin is not None:
            rescued = values_of(merged)
            assert Version(s.data).value in rescued
            assert Version(twin.data).value in rescued


def test_a_clash_of_three_clones_keeps_three_values_in_every_order() -> None:
    one, two, three = (
        Siblings({1: 1}, (sibling((1, 1), value),)) for value in (b"one", b"two", b"three")
    )
    merged = one.merge(two).merge(three)
    assert values_of(merged) == [b"one", b"three", b"two"]
    assert merged == three.merge(one).merge(two) == two.merge(three.merge(one))


def test_the_rescued_value_is_a_sibling_like_any_other_and_can_be_superseded() -> None:
    one = Siblings({1: 1}, (sibling((1, 1), b"one"),))
    two = Siblings({1: 1}, (sibling((1, 1), b"two"),))
    merged = one.merge(two)
    assert one.clashes(two) == 1
    for s in merged.siblings:
        decoded = decode_sibling(s.data)
        assert (decoded.dot, decoded.op_id) == (s.dot, s.op_id)
    assert encode_entry(b"key", Record(merged))
    resolved = merged.write(merged.clock, sibling((2, 1)))
    assert resolved.dots() == [(2, 1)]
    assert resolved.merge(one).merge(two).merge(merged) == resolved


@pytest.mark.parametrize("other", ["text", None, 5, (1, 1)])
def test_a_sibling_and_a_copy_equal_only_their_like(other: object) -> None:
    assert sibling((1, 1)) != other
    assert other != EMPTY
