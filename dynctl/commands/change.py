"""`dynctl join`, `leave`, `replace` and `remove`: who is a member, and owns what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

import typer

from dynagent.client import guards
from dynagent.client.blocking import TIMEOUT_S_DEFAULT, Client
from dynagent.client.bootstrap import member_of, status_of
from dynagent.client.changes import plan_join, plan_leave, plan_remove, plan_replacements
from dynagent.core.ports import NodeId
from dynagent.core.ring import Member
from dynagent.errors import BadRequest, Refused
from dynctl import changing, endpoints, options, settling
from dynctl.changing import Wish
from dynctl.declare import (
    AllowColocated,
    Color,
    Debug,
    DryRun,
    Endpoints,
    Form,
    PlanOut,
    Settle,
    Timeout10m,
    Verbose,
    Yes,
)
from dynctl.observe import Observation, choose, observed

Nodes = Annotated[
    list[str], typer.Argument(metavar="NODE...", help="Members, by name, id or address.")
]


def join(
    addresses: Annotated[
        list[str], typer.Argument(metavar="ADDR...", help="host:port of each fresh agent.")
    ],
    zone: Annotated[
        str | None, typer.Option("--zone", metavar="Z", help="Instead of what each agent says.")
    ] = None,
    capacity: Annotated[
        str | None,
        typer.Option(
            "--capacity",
            metavar="C",
            help="Its weight beside the others, instead of what each agent says. "
            "0: a router, which stores nothing.",
        ),
    ] = None,
    allow_colocated: AllowColocated = False,
    dry_run: DryRun = False,
    out: PlanOut = None,
    yes: Yes = False,
    wait: Settle = False,
    form: Form = None,
    color: Color = None,
    endpoint: Endpoints = None,
    timeout: Timeout10m = None,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Take fresh agents into the cluster; partitions move to them while it serves.

    Several agents in one change move less than one after the other. If the command is cut short
    once the change is decided, repeat it: agents that are members already are told again.

    example: dynctl join n4:7411 n5:7411 --wait
    """
    wish = changing.read_wish("join", dry_run, out, yes, wait, form, color, timeout)
    checked = endpoints.check(addresses, "ADDR")
    weight = options.read_capacity(capacity)
    seen = observed("join", endpoint, None, verbose)
    fresh = _fresh(seen, checked)
    members = [_placed(member_of(status), zone, weight) for status in fresh.values()]
    if _told_again(seen, wish, fresh):
        return
    plan = plan_join(seen.ring, members, id=changing.new_id(), allow_colocated=allow_colocated)
    changing.carry_out(seen, plan, wish, fresh=fresh)


def leave(
    nodes: Nodes,
    allow_colocated: AllowColocated = False,
    dry_run: DryRun = False,
    out: PlanOut = None,
    yes: Yes = False,
    wait: Settle = False,
    form: Form = None,
    color: Color = None,
    endpoint: Endpoints = None,
    timeout: Timeout10m = None,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Take nodes out of the cluster; they hand over what they hold first, and lose nothing.

    They serve until then. When they are members no longer, their agents can be stopped for good.

    example: dynctl leave n4 --wait
    """
    wish = changing.read_wish("leave", dry_run, out, yes, wait, form, color, timeout)
    seen = observed("leave", endpoint, None, verbose)
    plan = plan_leave(
        seen.ring, _ids(seen, nodes), id=changing.new_id(), allow_colocated=allow_colocated
    )
    changing.carry_out(seen, plan, wish)


def replace_node(
    pairs: Annotated[
        list[str],
        typer.Argument(
            metavar="OLD NEW...",
            help="A member (its name, id or address), and host:port of a fresh agent; more pairs.",
        ),
    ],
    force: Annotated[
        bool, typer.Option("--force", help="OLD is gone for good: declare its copies lost.")
    ] = False,
    allow_colocated: AllowColocated = False,
    dry_run: DryRun = False,
    out: PlanOut = None,
    yes: Yes = False,
    wait: Settle = False,
    form: Form = None,
    color: Color = None,
    endpoint: Endpoints = None,
    timeout: Timeout10m = None,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Let a fresh agent take the places of a member, and nothing else move.

    A member that is up hands over what it holds, and leaves. Of one that is down nothing can be
    had: then --force declares its copies lost, and they are made from the other owners. If several
    are lost at once, replace them in one change.

    example: dynctl replace n2 n7:7411 --wait
    """
    wish = changing.read_wish("replace", dry_run, out, yes, wait, form, color, timeout)
    if len(pairs) % 2:
        raise BadRequest(f"{pairs[-1]} has no NEW; write pairs: OLD NEW, OLD NEW, …")
    addresses = endpoints.check(pairs[1::2], "NEW")
    seen = observed("replace", endpoint, None, verbose)
    nodes = _ids(seen, pairs[::2])
    if dead := [node for node in nodes if node not in changing.up(seen)]:
        guards.check_forced(seen.ring, dead, [], force=force)
    fresh = _fresh(seen, addresses)
    heirs = dict(zip(nodes, map(member_of, fresh.values()), strict=False))
    if len(heirs) < len(nodes):
        raise BadRequest("a member is named twice; write each node once")
    plan = plan_replacements(
        seen.ring, heirs, id=changing.new_id(), removed=force, allow_colocated=allow_colocated
    )
    changing.carry_out(seen, plan, wish, fresh=fresh)


def remove(
    nodes: Nodes,
    force: Annotated[
        bool, typer.Option("--force", help="They are gone for good: declare their copies lost.")
    ] = False,
    allow_colocated: AllowColocated = False,
    dry_run: DryRun = False,
    out: PlanOut = None,
    yes: Yes = False,
    wait: Settle = False,
    form: Form = None,
    color: Color = None,
    endpoint: Endpoints = None,
    timeout: Timeout10m = None,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Strike dead nodes off the ring; others make their copies anew.

    A removed node can never come back under its id: with its disk it would bring back what was
    deleted meanwhile. One that is up should leave instead. This cannot be taken back.

    example: dynctl remove n2 --force --wait
    """
    wish = changing.read_wish("remove", dry_run, out, yes, wait, form, color, timeout)
    seen = observed("remove", endpoint, None, verbose)
    ids = _ids(seen, nodes)
    guards.check_forced(seen.ring, ids, changing.up(seen), force=force or wish.dry_run)
    plan = plan_remove(seen.ring, ids, id=changing.new_id(), allow_colocated=allow_colocated)
    changing.carry_out(seen, plan, wish)


def _ids(seen: Observation, nodes: Sequence[str]) -> list[NodeId]:
    """Of members as people name them; raises `BadRequest` for an unknown one."""
    return [choose(seen.members, node)[0].member.id for node in nodes]


def _placed(member: Member, zone: str | None, capacity: int) -> Member:
    return replace(
        member,
        zone=member.zone if zone is None else zone,
        capacity=member.capacity if capacity < 0 else capacity,
    )


# --- fresh agents --------------------------------------------------------------------------------


def _fresh(seen: Observation, addresses: Sequence[str]) -> dict[NodeId, dict[str, Any]]:
    """The status of each agent that shall join, by node id. Raises `Refused` for one that cannot,
    `Unreachable` for one that does not answer."""
    if len(set(addresses)) < len(addresses):
        raise BadRequest("an address is given twice; write each agent once")
    found: dict[NodeId, dict[str, Any]] = {}
    with Client(addresses, timeout_s=TIMEOUT_S_DEFAULT, learn_ring=False) as client:
        for address in addresses:
            status = status_of(client, address)
            node = NodeId(status["node_id"])
            if node in found:
                raise BadRequest(f"{address} is an agent that is named twice")
            _check_fresh(seen, address, status)
            found[node] = status
    return found


def _check_fresh(seen: Observation, address: str, status: dict[str, Any]) -> None:
    ring = seen.ring
    if status["state"] != "fresh":
        where = "this cluster already"
        if status["cluster_id"] != ring.cluster_id:
            where = f"cluster {status['cluster_id'].hex()}"
        raise Refused(f"{address} belongs to {where}; name an agent with an empty --data-dir")
    oldest = min(
        (_release(one.status) for one in seen.members if one.status is not None), default=()
    )
    if _release(status) < oldest:
        runs = f"{address} runs {status['version']}"
        raise Refused(f"{runs}, all members {'.'.join(map(str, oldest))} or newer; upgrade it")


def _release(status: dict[str, Any]) -> tuple[int, ...]:
    words = str(status.get("version", "")).split(".")
    return tuple(int(word) for word in words if word.isdigit())


def _told_again(seen: Observation, wish: Wish, fresh: dict[NodeId, dict[str, Any]]) -> bool:
    """Agents that are members and do not know it: an earlier join was cut short. Then they are
    told, and that is all there is to do; True if so."""
    known = [node for node in fresh if seen.ring.member(node) is not None]
    if not known:
        return False
    if len(known) < len(fresh):
        names = ", ".join(fresh[node]["about"]["name"] for node in known)
        raise Refused(f"{names} joined before and has not heard of it yet; join it on its own")
    with Client([seen.agent], timeout_s=TIMEOUT_S_DEFAULT, learn_ring=False) as client:
        changing.invite(client, seen.ring, known)
    if wish.wait:
        settling.wait_settled(wish.verb, seen, timeout_s=wish.timeout_s)
    return True
