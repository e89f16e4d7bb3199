"""The ring log among real nodes: who wins, who is told what, and what a crash leaves."""

from __future__ import annotations

from dynagent.core.messages import Propose, Proposed
from dynagent.core.ports import NodeId
from dynagent.core.ringentry import Content, Entry, PolicyEntry, encode_log_entry
from tests.core.harness import IDS, Cluster, make_ring

A, B, C, D = IDS


def cluster(*, others: int = 1) -> Cluster:
    c = Cluster(make_ring(3, others=others, voters=(A, B, C)))
    c.settle()  # their starts are registered
    return c


def policy(value: str, number: int = 1) -> PolicyEntry:
    return PolicyEntry(id=number.to_bytes(16, "big"), name="auto-replace", value=value)


def propose(content: Content, epoch: int = 1, *, force: bool = False) -> Propose:
    entry = Entry(content=content, proposer=NodeId("client"), wall_ms=0)
    return Propose(encode_log_entry(entry), epoch, force)


def policies(c: Cluster) -> dict[NodeId, tuple[int, dict[str, str]]]:
    found = {}
    for id_, node in c.nodes.items():
        assert node.ring is not None
        found[id_] = (node.ring.epoch, dict(node.ring.policies))
    return found


def test_what_any_node_proposes_is_decided_and_everybody_has_it() -> None:
    c = cluster()
    assert c.ask(D, propose(policy("yes"))) == Proposed(2)
    assert policies(c) == dict.fromkeys(IDS, (2, {"auto-replace": "yes"}))
