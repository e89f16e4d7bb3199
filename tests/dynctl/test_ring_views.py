"""What people are told of a ring that changes: documents made from what agents say."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dynagent.client.changes import ChangePlan, plan_join, plan_leave, plan_replace
from dynagent.client.forecast import Load, cost, risks
from dynagent.core.ports import NodeId
from dynagent.core.ring import JOINT_NEW, Ring
from dynagent.core.ringentry import AbortEntry, Content, Entry, PhaseEntry, VotersEntry, fold
from dynagent.errors import BadRequest, Unhealthy
from dynctl import planfile
from dynctl.observe import Observation, Seen
from dynctl.quorums import failing
from dynctl.settling import check_settled
from dynctl.views.changes import PLANNED, ChangeDocument, change_document, in_units, summary
from dynctl.views.doctor import doctor_document
from dynctl.views.history import diff_document, history_document
from dynctl.views.nodes import node_rows
from dynctl.views.ring import ring_document, ring_status_document
from dynctl.views.transfers import transfers_document
from tests.client.test_changes import ID, decided, numbered, ring_of, settled
from tests.core.placements import member

RING = ring_of(*numbered(4))
A, B, C, D = (m.id for m in RING.members)
E = member(5).id
JOIN = plan_join(RING, [member(5)], id=ID)
LEAVE = plan_leave(RING, [D], id=ID)


def seen_by_all(
    ring: Ring, *, down: Collection[NodeId] = (), told: dict[NodeId, dict[str, Any]] | None = None
) -> Observation:
    """All that are up serve, use each other, and have this ring; `told`: what else they say."""
    up = [m.id for m in ring.members if m.id not in down]
    seen = []
    for one in ring.members:
        status = {
            "node_id": one.id,
            "state": "serving",
            "cluster_id": ring.cluster_id,
            "epoch": ring.epoch,
            "up": up,
            **(told or {}).get(one.id, {}),
        }
        is_up = one.id in up
        problem = "" if is_up else "down"
        seen.append(Seen(member=one, status=status if is_up else None, problem=problem))
    return Observation(
        agent=ring.members[0].address,
        ring=ring,
        up=frozenset(up),
        suspected={},
        members=tuple(seen),
        facts={},
    )


def documented(plan: ChangePlan) -> ChangeDocument:
    up = [m.id for m in plan.entry.members]
    loads = {m.id: Load(keys=900, bytes=120_000, bytes_per_s=1e4) for m in plan.ring.members}
    loads[E] = Load(keys=0, bytes=0, bytes_per_s=1e4)
    return change_document(
        plan, cost(plan, loads), risks(plan, up), notes=plan.notes, state=PLANNED
    )


# --- plans ---------------------------------------------------------------------------------------


def test_a_plan_tells_who_gets_what() -> None:
    document = documented(JOIN)
    assert (document.verb, document.change, document.state) == ("join", "join n5", "planned")
    assert document.moved == document.bound == 9
    rows = {row.name: (row.role, row.before, row.after, row.gains) for row in document.nodes}
    assert rows["n5"] == ("joins", 0, 9, 9)
    assert rows["n1"][0] == "stays"
    assert [step.step for step in document.steps] == ["now", "copying", "switching", "settled"]
    assert "join n5: 9 places move (the fewest that can)" in summary(document)
    assert "n5           joins         0 → 9 places" in summary(document)


def test_a_plan_tells_which_death_would_hurt() -> None:
    plan = plan_replace(RING, B, member(5), id=ID, removed=True)
    up = [A, C, D, E]
    document = change_document(plan, cost(plan, {}), risks(plan, up), notes=(), state=PLANNED)
    now, _, _, after = document.steps
    assert now.writes_at_risk == plan.moved
    assert now.worst in ("n1", "n3", "n4")
    assert after.writes_at_risk == 0
    assert f"now: if {now.worst} died as well" in summary(document)


def test_nothing_to_copy_is_said_so() -> None:
    router = plan_join(RING, [member(5, capacity=0)], id=ID)
    assert summary(documented(router)).startswith("join n5: nothing has to be copied")


def test_sizes_are_told_in_units() -> None:
    assert [in_units(size) for size in (0, 1023, 1536, 5 * 2**30, 2**50)] == [
        "0 B",
        "1,023 B",
        "1.5 KiB",
        "5.0 GiB",
        "1,024.0 TiB",
    ]


def test_a_plan_comes_back_from_its_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(planfile.dump(JOIN, documented(JOIN)))
    assert planfile.load(str(path)) == (RING.cluster_id.hex(), 1, JOIN.entry)
    kept = json.loads(path.read_bytes())
    broken: Any
    for broken in ({}, [], {**kept, "kind": "cake"}, {**kept, "entry": {"base64": "AAAA"}}):
        path.write_text(json.dumps(broken))
        with pytest.raises(BadRequest, match="holds no plan"):
            planfile.load(str(path))


# --- while it goes on ----------------------------------------------------------------------------


def test_ring_status_tells_of_the_change_under_way() -> None:
    half = tuple(sorted(JOIN.after.moves))[:4]
    ring = decided(JOIN.after, PhaseEntry(index=2, phase=JOINT_NEW, partitions=half))
    document = ring_status_document(seen_by_all(ring, down=[C]))
    assert (document.unsettled, document.change, document.change_entry) == (True, "join n5", 2)
    assert (document.copying, document.switching) == (len(JOIN.after.moves) - 4, 4)
    assert (document.voters, document.voters_up) == (["n1", "n2", "n3"], 2)
    rows = {row.name: row for row in document.nodes}
    assert (rows["n5"].places, rows["n5"].next_places, rows["n5"].state) == (0, 9, "joining")
    assert sum(row.next_places for row in document.nodes) == 48
    shown = ring_document(ring, half[0]).partitions[0]
    assert (shown.phase, "n5" in shown.next, "n5" in shown.owners) == ("switching", True, False)
    assert ring_document(RING, 0).partitions[0].phase == "settled"


def test_nodes_that_go_say_so() -> None:
    states = {row.name: row.state for row in node_rows(seen_by_all(LEAVE.after))}
    assert states == {"n1": "serving", "n2": "serving", "n3": "serving", "n4": "leaving"}


def test_while_a_partition_moves_a_put_needs_both_lists() -> None:
    assert failing(seen_by_all(JOIN.after)) == (0, 0)
    both = sum({B, E} <= {*JOIN.after.moves[p].owners} for p in JOIN.after.moves)
    old = sum({B, E} <= {*owners} for owners in RING.lists)
    assert old == 0 < both
    assert failing(seen_by_all(JOIN.after, down=[B, E]))[0] == both


def test_transfers_tell_how_far_each_new_owner_is() -> None:
    told: dict[str, Any] = {
        "index": 2,
        "partitions": {"ready": 4, "copying": 2},
        "records": 70,
        "records_total": 100,
        "bytes": 7_000,
        "bytes_per_s": 100,
        "eta_s": 30.0,
        "sources": [A],
        "problems": ["n2: overloaded"],
    }
    document = transfers_document(seen_by_all(JOIN.after, told={E: {"transfers": told}}))
    [row] = document.transfers
    assert (document.change, document.change_id) == ("join n5", ID.hex())
    assert (row.node, row.gains, row.ready, row.copying, row.switching) == ("n5", 9, 4, 5, 0)
    assert (row.records, row.eta_s, row.sources) == (70, 30.0, ["n1"])
    assert row.problem == "n2: overloaded"
    [row] = transfers_document(seen_by_all(JOIN.after, down=[E])).transfers
    assert (row.records, row.problem) == (None, "down")
    assert transfers_document(seen_by_all(RING)).transfers == []


def test_settled_means_no_change_nobody_leaving_and_everybody_told() -> None:
    check_settled(seen_by_all(RING))
    with pytest.raises(Unhealthy, match=r"9 partitions are moving \(join n5, entry 2\)"):
        check_settled(seen_by_all(JOIN.after))
    with pytest.raises(Unhealthy, match="n4 owns nothing any more but has not gone yet"):
        check_settled(seen_by_all(settled(LEAVE)))
    with pytest.raises(Unhealthy, match="n2 has not heard of epoch 1"):
        check_settled(seen_by_all(RING, told={B: {"epoch": 0}}))
    with pytest.raises(Unhealthy, match="has the ring of epoch 1, not yet 7"):
        check_settled(seen_by_all(RING, told={B: {"epoch": 7}}))
    check_settled(seen_by_all(RING, down=[B]))


# --- doctor --------------------------------------------------------------------------------------


def findings(seen: Observation) -> dict[str, tuple[str, str, str]]:
    rows = doctor_document(seen).findings
    return {row.finding: (row.severity, row.node, row.remedy) for row in rows}


def test_doctor_tells_causes_from_consequences() -> None:
    seen = seen_by_all(RING, down=[B])
    first, *others = seen.members

    def told(*apart: str) -> dict[str, tuple[str, str]]:
        cut = replace(first, problem=f"not linked with {', '.join(apart)}", apart=apart)
        rows = doctor_document(replace(seen, members=(cut, *others))).findings
        return {row.node: (row.severity, row.remedy) for row in rows if row.finding == "agent_down"}

    found = told("n2")
    assert found["n1"] == ("wait", "start n2")
    assert found["n2"][0] == "act" and found["n2"][1].startswith("start it: dynctl up n2 if")
    assert told("n2", "n3")["n1"] == ("act", "look at the network between n1 and n2, n3")


def test_doctor_names_who_holds_a_purge_back() -> None:
    blocked = {"tombstones": {"blocked": {B: {"down": 3}}}}
    assert findings(seen_by_all(RING, told={A: blocked}))["purge_blocked"][2].startswith("start n2")


def test_doctor_names_whom_a_change_waits_for() -> None:
    found = findings(seen_by_all(JOIN.after, down=[E]))
    assert found["change_waits"] == ("act", "n5", "start n5, or: dynctl ring abort")
    told = {"index": 2, "problems": ["n2: its disk is full"]}
    found = findings(seen_by_all(JOIN.after, told={E: {"transfers": told}}))
    assert found["change_waits"] == ("wait", "n5", "nothing: it tries again")


def test_doctor_says_when_too_few_voters_are_up() -> None:
    assert findings(seen_by_all(RING, down=[A, B]))["voters_lost"][2].startswith("start n1")
    assert "voters_lost" not in findings(seen_by_all(RING, down=[A]))


def test_doctor_says_what_keeps_a_leaver() -> None:
    ring = settled(LEAVE)
    assert findings(seen_by_all(ring))["leaver_waits"][2] == "nothing: it goes by itself"
    found = findings(seen_by_all(ring, down=[D]))["leaver_waits"]
    assert found == ("act", "n4", "start n4, or, if it is gone for good: dynctl remove n4 --force")
    owes = {D: {"hints": {A: 3}}}
    assert findings(seen_by_all(ring, told=owes))["leaver_waits"][2] == "start n1"


def test_doctor_knows_a_member_that_was_not_told() -> None:
    seen = seen_by_all(JOIN.after, told={E: {"state": "fresh"}})
    *others, last = seen.members
    members = (*others, replace(last, problem="not serving but fresh"))
    found = findings(replace(seen, members=members))["not_told"]
    assert found == ("act", "n5", "dynctl join 10.0.0.5:7411")


def test_doctor_names_what_no_other_owner_can_prove() -> None:
    unknown = {"waiting": 1, "keys": [b"a b"], "hollow": 2, "provable": True}
    found = findings(seen_by_all(RING, told={B: {"unknown": unknown}}))
    assert (found["unreadable"][0], found["hollow"][0]) == ("wait", "wait")
    assert "unprovable" not in found
    stuck = {**unknown, "stuck_keys": [b"a b"], "stuck_partitions": [7]}
    found = findings(seen_by_all(RING, told={B: {"unknown": stuck}}))
    assert found["unprovable"][:2] == ("act", "n2")
    assert "accept DIR --key 'a b' --partition 7 --yes; start" in found["unprovable"][2]
    for keys in ([b"\xff"], [b"a", b"b", b"c", b"d"]):  # cannot be typed, or too many
        stuck = {**unknown, "stuck_keys": keys}
        found = findings(seen_by_all(RING, told={B: {"unknown": stuck}}))
        assert "dynagent store accept DIR --yes" in found["unprovable"][2]
    unknown["provable"] = False
    found = findings(seen_by_all(RING, told={B: {"unknown": unknown}}))
    assert set(found) == {"unprovable"}


def with_problem(seen: Observation, **status: object) -> Observation:
    """The last member answers so, and that is no good."""
    *others, last = seen.members
    assert last.status is not None
    last = replace(last, problem="not serving", status={**last.status, **status})
    return replace(seen, members=(*others, last))


def test_doctor_says_whom_a_starting_agent_waits_for() -> None:
    missing = {B: "unreachable", C: "no answer yet"}
    start = {"state": "starting", "recorded": 1, "needed": 2, "missing": missing}
    seen = with_problem(seen_by_all(RING), state="starting", registration=start)
    assert findings(seen)["starting"] == ("act", "n4", "start n2")
    [row] = [row for row in doctor_document(seen).findings if row.finding == "starting"]
    assert row.what == (
        "1 of the 2 voters needed have recorded its start; "
        "not yet: n2 (unreachable), n3 (no answer yet)"
    )
    start["missing"] = {C: "no answer yet"}
    assert findings(seen)["starting"][2] == "nothing: it asks again"


def test_doctor_knows_a_member_whose_disk_was_wiped() -> None:
    seen = with_problem(seen_by_all(RING), state="fresh", node_id="f" * 16)
    told = ("act", "n4", "dynctl replace n4 10.0.0.4:7411 --force")
    assert findings(seen)["store_lost"] == told


# --- the log -------------------------------------------------------------------------------------


def test_the_history_is_told_newest_first_with_names() -> None:
    contents: list[Content] = [
        JOIN.entry,
        PhaseEntry(index=2, phase=JOINT_NEW, partitions=tuple(sorted(JOIN.after.moves))[:3]),
        AbortEntry(index=2, id=b"a" * 16),
        VotersEntry(voters=(A, B, E)),
    ]
    ring, log = RING, []
    for content in contents:
        entry = Entry(content=content, proposer=B, wall_ms=1_000)
        ring = fold(ring, entry)
        log.append((ring.epoch, entry))
    rows = history_document(ring, log).entries
    assert [(row.entry, row.kind) for row in rows] == [
        (5, "voters"),
        (4, "abort"),
        (3, "phase"),
        (2, "change"),
    ]
    assert rows[0].what == "n1, n2, n5"
    assert rows[1].id == (b"a" * 16).hex()
    assert rows[2].what == "3 partitions of entry 2 are read from their new owners"
    assert rows[3].what == "join n5: the lists of 9 partitions change"
    assert {row.proposer for row in rows} == {"n2"}


def test_two_rings_differ_in_what_the_newer_one_has() -> None:
    assert diff_document(RING, RING).differences == []
    rows = {row.what: (row.left, row.right) for row in diff_document(RING, JOIN.after).differences}
    assert rows["epoch"] == ("1", "2")
    assert rows["change"] == ("none", "join n5, entry 2")
    assert rows["member n5"] == ("", "10.0.0.5:7411, capacity 1, host host-5, zone -")
    partition = next(iter(sorted(JOIN.after.moves)))
    assert "(phase 0)" in rows[f"partition {partition}"][1]
