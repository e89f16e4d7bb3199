"""`dynctl explain`: where a key lies, and what each of its owners holds."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

import typer

from dynagent.client.blocking import Client
from dynagent.client.bootstrap import status_of
from dynagent.core.entry import unflatten
from dynagent.core.messages import STATE_ABSENT, STATE_UNREADABLE, Inspect, InspectReply
from dynagent.core.ports import NodeId
from dynagent.core.ring import Member, Ring, token_of
from dynagent.errors import DynagentError, ProtocolError, QuorumNotMet
from dynctl import data, endpoints, options
from dynctl.declare import Color, Debug, Endpoints, Form, Verbose, option
from dynctl.faults import say
from dynctl.observe import ASKED_AT_ONCE, first_ring, liveness, suspected
from dynctl.render import default_form, show
from dynctl.views.base import text_of
from dynctl.views.keys import CopyRow, ExplainDocument, KeyHintRow
from dynctl.views.siblings import dot_text

_ANSWER_S = 2.0  # an owner that takes longer to look at one copy is as good as down
_READABLE = ("present", "tombstone", "absent")


def explain(
    key: Annotated[str, typer.Argument(metavar="KEY", help="The key: 1 to 1,024 bytes.")],
    form: Form = None,
    color: Color = None,
    endpoint: Endpoints = None,
    timeout: Annotated[str | None, option(options.timeout("2s"))] = None,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Show where a key lies, what each of its owners holds, and whether R and W would pass now.

    Every owner is asked for its own copy, and every member for the hints that it keeps of the key;
    nothing is merged and nothing is repaired. Copies that differ are no failure. If a get would not
    reach R now, all is printed and the exit status is 5.

    example: dynctl explain cart/7
    """
    chosen = options.read_form(form, default=default_form())
    when = options.read_color(color)
    timeout_s = options.read_timeout(timeout, _ANSWER_S)
    document = look(data.read_key(key), endpoints.find(endpoint or []), timeout_s=timeout_s)
    if verbose:
        say(f"dynctl: explain: {document.agent} answered")
    show(document, chosen, when)
    if not document.r_passes:
        able = sum(_counts_for_r(row) for row in document.owners)
        raise QuorumNotMet(
            f"{able} of the {document.r} owners needed (R={document.r}) could answer a get of this "
            f"key now"
        )


def look(key: bytes, found: list[str], *, timeout_s: float) -> ExplainDocument:
    """Asks all members at once."""
    with Client(found, timeout_s=timeout_s, learn_ring=False) as client:
        agent, ring = first_ring(client, found)
        status = status_of(client, agent)
        up, doubted = frozenset(status["up"]), suspected(status)
        token = token_of(key)
        partition = ring.partition_of(token)
        owners = [_member(ring, node) for node in ring.lists[partition]]
        members = [*owners, *(member for member in ring.members if member not in owners)]
        with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
            replies = list(pool.map(lambda member: _ask(client, member, key), members))
    rows = [
        _row(place, owner, reply, linked=owner.id in up, doubt=doubted.get(owner.id, ""))
        for place, (owner, reply) in enumerate(zip(owners, replies, strict=False), 1)
    ]
    held = {(row.state, row.digest) for row in rows}
    return ExplainDocument(
        key=text_of(key),
        token=token.hex(),
        partition=partition,
        epoch=ring.epoch,
        n=ring.n,
        r=ring.r,
        w=ring.w,
        agent=agent,
        agree=len(held) == 1 and rows[0].state in _READABLE,
        r_passes=sum(map(_counts_for_r, rows)) >= ring.r,
        w_passes=sum(row.liveness == "up" and bool(row.writable) for row in rows) >= ring.w,
        owners=rows,
        hints=_hints(members, replies),
        silent=[
            member.name
            for member, reply in zip(members, replies, strict=True)
            if isinstance(reply, str)
        ],
    )


def _hints(members: list[Member], replies: list[InspectReply | str]) -> list[KeyHintRow]:
    names = {member.id: member.name for member in members}
    return [
        KeyHintRow(node=member.name, target=names.get(NodeId(target), target))
        for member, reply in zip(members, replies, strict=True)
        if isinstance(reply, InspectReply)
        for target in reply.owed
    ]


def _counts_for_r(row: CopyRow) -> bool:
    return row.liveness == "up" and row.state in _READABLE


def _member(ring: Ring, node: str) -> Member:
    return next(member for member in ring.members if member.id == node)


def _ask(client: Client, owner: Member, key: bytes) -> InspectReply | str:
    """Its copy, or why there is no answer."""
    try:
        reply = client.ask(owner.address, Inspect(key))
        if not isinstance(reply, InspectReply):
            raise ProtocolError(f"{type(reply).__name__} is no answer to Inspect")
        unflatten(reply.clock)
        unflatten(reply.dots)
    except DynagentError as exc:
        return exc.message.removeprefix(f"{owner.address}: ")
    return reply


def _row(
    place: int, owner: Member, reply: InspectReply | str, *, linked: bool, doubt: str
) -> CopyRow:
    copy = reply if isinstance(reply, InspectReply) else None
    state = _state(copy)
    is_held = state in ("present", "tombstone")
    return CopyRow(
        place=place,
        name=owner.name,
        id=owner.id,
        address=owner.address,
        liveness=liveness(linked=linked, answered=copy is not None, suspected=doubt),
        state=state,
        siblings=len(copy.dots) // 2 if copy and is_held else None,
        value_bytes=sum(copy.sizes) if copy and is_held else None,
        stored_bytes=copy.stored_bytes if copy and state != "absent" else None,
        digest=copy.digest.hex() if copy and is_held else None,
        dots=_dots(copy.dots) if copy and is_held else None,
        clock=_dots(copy.clock) if copy and is_held else None,
        pending=copy.pending if copy else None,
        writable=copy.writable if copy else None,
        verified_s=copy.verified_ms / 1000 if copy and copy.verified_ms else None,
        problem=reply if isinstance(reply, str) else "",
    )


def _state(copy: InspectReply | None) -> str:
    if copy is None:
        return "unreachable"
    if copy.state == STATE_UNREADABLE:
        return "unreadable"
    if copy.state == STATE_ABSENT:
        return "absent"
    return "present" if copy.dots else "tombstone"


def _dots(numbers: list[int]) -> list[str]:
    return [dot_text(actor, counter) for actor, counter in unflatten(numbers)]
