"""The shapes of broken networks are what their names say."""

import random

import pytest

from tests.real.shapes import (
    SHAPES,
    component,
    majorities_ring,
    partial,
    reachable,
    swizzle_clog,
)

SEEDS = range(20)


def nodes_of(count: int) -> list[str]:
    return [f"n{number}" for number in range(1, count + 1)]


@pytest.mark.parametrize("count", [3, 5, 7])
def test_in_a_ring_of_majorities_everybody_sees_a_majority_and_no_two_the_same(count: int) -> None:
    nodes = nodes_of(count)
    for seed in SEEDS:
        shape = majorities_ring(nodes, random.Random(seed))
        views = [frozenset(reachable(shape, nodes, node)) for node in nodes]
        assert all(len(view) > count // 2 for view in views)
        assert count == 3 or len(set(views)) == count
        assert component(shape, nodes, "n1") == set(nodes)


@pytest.mark.parametrize(
    "name, sizes",
    [
        ("one", [1, 4, 4, 4, 4]),
        ("majority", [2, 2, 3, 3, 3]),
        ("minority third", [1, 2, 2, 2, 2]),
        ("one way", [2, 2, 3, 3, 3]),
        ("partial", [3, 3, 3, 3, 5]),
    ],
)
def test_of_five_nodes_each_sees_as_many_as_the_shape_says(name: str, sizes: list[int]) -> None:
    nodes = nodes_of(5)
    for seed in SEEDS:
        shape = SHAPES[name](nodes, random.Random(seed))
        assert sorted(len(reachable(shape, nodes, node)) for node in nodes) == sizes


def test_only_the_one_way_shape_cuts_in_one_direction() -> None:
    nodes = nodes_of(5)
    for name, make in SHAPES.items():
        shape = make(nodes, random.Random(1))
        mirrored = {(target, source) for source, target in shape}
        assert (mirrored == shape) == (name != "one way")


def test_a_partial_cut_leaves_a_way_around() -> None:
    nodes = nodes_of(5)
    assert component(partial(nodes, random.Random(1)), nodes, "n1") == set(nodes)


def test_swizzle_clog_cuts_one_by_one_and_ends_whole() -> None:
    nodes = nodes_of(5)
    for seed in SEEDS:
        steps = swizzle_clog(nodes, random.Random(seed))
        alone = [sum(reachable(step, nodes, node) == {node} for node in nodes) for step in steps]
        most = len(steps) // 2
        assert alone[-1] == 0 and steps[-1] == frozenset()
        # Cut off one by one (of five, four cut off leave the fifth alone too), then restored.
        assert [min(count, 4) for count in alone] == [
            *range(1, most + 1),
            *range(most - 1, -1, -1),
        ]
