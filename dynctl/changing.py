"""From a plan to a changed ring: show it, ask, have it decided, call in the new agents, wait.

The change lives in the ring log and on the agents: once it is decided, nothing that happens to this
command changes anything about it.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from dynagent import limits
from dynagent.client import forecast, guards
from dynagent.client.blocking import TIMEOUT_S_DEFAULT, Client
from dynagent.client.bootstrap import status_of
from dynagent.client.changes import NOBODY, ChangePlan, name_of, recall
from dynagent.client.forecast import Load
from dynagent.client.proposing import history, propose
from dynagent.core.messages import Invite
from dynagent.core.ports import NodeId
from dynagent.core.ring import JOINT_OLD, Ring
from dynagent.core.ringcodec import encode_ring
from dynagent.core.ringentry import (
    AbortEntry,
    ChangeEntry,
    Content,
    Entry,
    VotersEntry,
    fold,
)
from dynagent.core.voters import choose_voters
from dynagent.errors import (
    DynagentError,
    Partial,
    Refused,
)
from dynctl import options, planfile, streams
from dynctl.faults import say
from dynctl.observe import Observation
from dynctl.render import default_form, show
from dynctl.settling import wait_settled
from dynctl.views.changes import (
    DECIDED,
    PLANNED,
    SETTLED,
    ChangeDocument,
    change_document,
    summary,
)

_INVITE_S = 5.0
_POLL_S = 0.1
_PROPOSE_S = 20.0  # a change that is not decided in that time is told as unknown
_POLL_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """How a verb that changes the ring was asked to go about it."""

    verb: str
    dry_run: bool
    out: str | None
    yes: bool
    wait: bool
    form: str
    color: str
    timeout_s: float


def read_wish(
    verb: str,
    dry_run: bool,
    out: str | None,
    yes: bool,
    wait: bool,
    form: str | None,
    color: str | None,
    timeout: str | None,
) -> Wish:
    """The options as they were given; raises `BadRequest`."""
    return Wish(
        verb=verb,
        dry_run=dry_run,
        out=out,
        yes=yes,
        wait=wait,
        form=options.read_form(form, default=default_form()),
        color=options.read_color(color),
        timeout_s=options.read_timeout(timeout, options.TIMEOUT_S_MAX),
    )


def new_id() -> bytes:
    return secrets.token_bytes(limits.OP_ID_BYTES)


def carry_out(
    seen: Observation,
    plan: ChangePlan,
    wish: Wish,
    *,
    fresh: Mapping[NodeId, dict[str, Any]] | None = None,
) -> None:
    """All of it, as far as it was wished. `fresh`: the status of each agent that shall join.

    Raises `Refused` by a guard or a person, what `propose` raises, `TimedOut` while waiting.
    """
    joining = fresh or {}
    guards.check_possible(plan, [*up(seen), *joining])
    document = _document(seen, plan, joining)
    if wish.out is not None:
        streams.write_file(wish.out, planfile.dump(plan, document))
    if wish.dry_run or wish.out is not None:
        show(document, wish.form, wish.color)
        return
    confirm(summary(document), yes=wish.yes)
    epoch = begin(seen, plan, list(joining))
    state = DECIDED
    if wish.wait:
        wait_settled(wish.verb, seen, epoch=epoch, timeout_s=wish.timeout_s)
        state = SETTLED
    show(msgspec.structs.replace(document, state=state), wish.form, wish.color)


def begin(seen: Observation, plan: ChangePlan, joining: Sequence[NodeId]) -> int:
    """Has it decided and tells the new members; the epoch from which on the ring has it."""
    with Client([seen.agent], timeout_s=TIMEOUT_S_DEFAULT, learn_ring=False) as client:
        epoch = decide(client, seen, plan.entry, epoch=plan.ring.epoch)
        invite(client, plan.after, joining)
    return epoch


def apply(seen: Observation, entry: ChangeEntry, wish: Wish, *, epoch: int) -> None:
    """A plan that was made for the ring of that epoch. Raises `Refused` if that has gone by."""
    ring = seen.ring
    if ring.epoch != epoch:
        with Client([seen.agent], timeout_s=TIMEOUT_S_DEFAULT, learn_ring=False) as client:
            log = history(client, seen.agent)
        done = [at for at, e in log if getattr(e.content, "id", b"") == entry.id]
        if not done:
            raise Refused(
                f"the plan is for epoch {epoch}, and the ring is at {ring.epoch} by now; make a "
                f"new plan"
            )
        say(f"dynctl: ring apply: that plan has been carried out already, as entry {done[0]}")
        if wish.wait:
            wait_settled(wish.verb, seen, timeout_s=wish.timeout_s)
        return
    plan = recall(ring, entry)
    joining = [member for member in entry.members if ring.member(member.id) is None]
    addresses = [member.address for member in joining]
    with Client(addresses, timeout_s=TIMEOUT_S_DEFAULT, learn_ring=False) as client:
        fresh = {member.id: status_of(client, member.address) for member in joining}
    for member in joining:
        if fresh[member.id]["node_id"] != member.id:
            raise Refused(
                f"another agent answers at {member.address} than when this was planned; make a new "
                f"plan"
            )
    carry_out(seen, plan, wish, fresh=fresh)


def abort(seen: Observation, *, yes: bool) -> int:
    """Takes back the change under way; returns the epoch from which on it is. Raises `Refused`."""
    ring, change = seen.ring, seen.ring.change
    if change is None:
        raise Refused("no change is under way; see: dynctl ring history")
    content = AbortEntry(index=change.index, id=new_id())
    fold(ring, Entry(content=content, proposer=NOBODY, wall_ms=0))
    copying = sum(move.phase == JOINT_OLD for move in change.moves)
    confirm(
        f"{change.verb} (entry {change.index}): {copying:,} of {len(change.moves):,} partitions "
        f"stay where they were, the others are read from their new owners already and go on",
        yes=yes,
    )
    with Client([seen.agent], timeout_s=TIMEOUT_S_DEFAULT, learn_ring=False) as client:
        return decide(client, seen, content, epoch=0)


def force(seen: Observation, nodes: Sequence[NodeId], *, yes: bool) -> int:
    """Lets these vote (none: chosen ones of those that are up), decided by one agent alone; the
    epoch from which on they do. Raises `Refused`."""
    alive = up(seen)
    ring = seen.ring
    if 2 * len(set(ring.voters).intersection(alive)) > len(ring.voters):
        raise Refused("more than half of the voters are up: nothing has to be forced")
    able = [m for m in ring.members if m.id in alive and m.id not in ring.leaving]
    voters = tuple(sorted(set(nodes))) or choose_voters(able)
    if absent := [name_of(ring, node) for node in voters if node not in alive]:
        raise Refused(f"{', '.join(absent)} cannot vote, being down; name nodes that are up")
    newest = max(
        (one for one in seen.members if one.member.id in alive),
        key=lambda one: one.status["epoch"] if one.status is not None else 0,
    ).member
    lost = ", ".join(name_of(ring, node) for node in ring.voters if node not in alive)
    confirm(
        f"{lost} will never vote again, and what only they had decided is given up; from now on "
        f"{', '.join(name_of(ring, node) for node in voters)} vote. {newest.name} decides it alone",
        yes=yes,
    )
    with Client([seen.agent], timeout_s=TIMEOUT_S_DEFAULT, learn_ring=False) as client:
        return propose(
            client,
            [newest.address],
            VotersEntry(voters=voters),
            epoch=0,
            timeout_s=_PROPOSE_S,
            force=True,
        )


def decide(client: Client, seen: Observation, content: Content, *, epoch: int) -> int:
    """Has it decided by whichever agent can; the epoch from which on the ring has it."""
    others = [one.member.address for one in seen.members if one.status is not None]
    agents = [seen.agent, *(address for address in others if address != seen.agent)]
    return propose(client, agents, content, epoch=epoch, timeout_s=_PROPOSE_S)


def confirm(words: str, *, yes: bool) -> None:
    """Shows what is about to happen and asks; raises `Refused` unless that is agreed to."""
    if yes:
        return
    if not (os.isatty(0) and os.isatty(2)):
        raise Refused("this changes the ring and there is no terminal to ask; say --yes")
    say(words)
    say("Go ahead? [y/N] ")
    if input().strip().lower() not in ("y", "yes"):
        raise Refused("not agreed to; nothing was done")


def invite(client: Client, ring: Ring, joining: Sequence[NodeId]) -> None:
    """Hands the ring to the agents that it names now; raises `Partial` naming those that did not
    take it. Members do the same when they meet one that is fresh, so this only makes sure."""
    request = Invite(encode_ring(ring))
    waiting = dict.fromkeys(joining, "")
    deadline = time.monotonic() + _INVITE_S
    while waiting:
        for node in list(waiting):
            member = ring.member(node)
            assert member is not None
            try:
                client.ask(member.address, request)
                del waiting[node]
            except DynagentError as exc:
                waiting[node] = f"{member.name} ({exc.message})"
        if waiting and time.monotonic() > deadline:
            raise Partial(
                f"decided, but not heard of by {', '.join(waiting.values())}; start them: members "
                f"tell them; or take it back: dynctl ring abort"
            )
        if waiting:
            time.sleep(_POLL_S)


# --- what is known beforehand --------------------------------------------------------------------


def up(seen: Observation) -> list[NodeId]:
    """Who answers as itself: what it does not serve to clients it still hands over."""
    return [
        one.member.id
        for one in seen.members
        if one.status is not None and one.status["node_id"] == one.member.id
    ]


def _document(
    seen: Observation, plan: ChangePlan, joining: Mapping[NodeId, dict[str, Any]]
) -> ChangeDocument:
    statuses = {one.member.id: one.status for one in seen.members if one.status is not None}
    loads = {node: _load(status) for node, status in {**statuses, **joining}.items()}
    lost = guards.losses(plan)
    return change_document(
        plan,
        forecast.cost(plan, loads),
        forecast.risks(plan, [*up(seen), *joining]),
        notes=(*plan.notes, *([lost] if lost else [])),
        state=PLANNED,
    )


def _load(status: dict[str, Any]) -> Load:
    store, background = status.get("store", {}), status.get("background", {})
    return Load(
        keys=store.get("keys"), bytes=store.get("bytes"), bytes_per_s=background.get("bytes_per_s")
    )
