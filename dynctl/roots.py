"""The roots of all owners' trees, as a document that can be checked again later."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from dynagent import limits
from dynagent.client.blocking import TIMEOUT_S_DEFAULT, Client
from dynagent.core.messages import Roots, RootsReply
from dynagent.errors import BadRequest, DynagentError, Partial, ProtocolError, Refused
from dynctl import streams
from dynctl.observe import ASKED_AT_ONCE, Observation, Seen
from dynctl.views.base import SCHEMA_VERSION, moment
from dynctl.views.jobs import JobDocument, RecheckDocument, RootRow

_KIND = "dynctl verify"
_REPORT_BYTES_MAX = 64 * limits.MIB  # 16,384 partitions of 16 owners are 40 MB

# By node id and partition: the root in hex, and how many records there are.
Found = dict[str, dict[int, tuple[str, int]]]


def report(seen: Observation, job: JobDocument, partitions: list[int]) -> bytes:
    """What `--out` keeps, of these partitions (none: all). Raises `Partial` if an owner does not
    tell its roots."""
    wanted = partitions or list(range(seen.ring.partitions))
    found = _ask_all(seen, wanted)
    names = {one.member.id: one.member.name for one in seen.members}
    document = {
        "schema_version": SCHEMA_VERSION,
        "kind": _KIND,
        "cluster_id": seen.ring.cluster_id.hex(),
        "epoch": seen.ring.epoch,
        "taken": moment(time.time_ns() // 1_000_000),
        "job": job.id,
        "differing": job.differing,
        "unreadable": job.unreadable,
        "partitions": [
            {
                "partition": number,
                "owners": [
                    {
                        "id": owner,
                        "name": names[owner],
                        "root": found[owner][number][0],
                        "records": found[owner][number][1],
                    }
                    for owner in seen.ring.lists[number]
                ],
            }
            for number in wanted
        ],
    }
    return json.dumps(document, indent=2).encode() + b"\n"


def load(path: str) -> dict[str, Any]:
    """Raises `BadRequest` if that is no report, `LocalFailure` if it cannot be read."""
    try:
        document = json.loads(streams.read_file(path, _REPORT_BYTES_MAX))
        if document["kind"] != _KIND or document["schema_version"] != SCHEMA_VERSION:
            raise ValueError("another kind of document")
        for row in document["partitions"]:
            int(row["partition"])
            for owner in row["owners"]:
                bytes.fromhex(owner["root"])
                _ = (str(owner["id"]), str(owner["name"]))
        found: dict[str, Any] = document
        return found
    except (ValueError, KeyError, TypeError) as exc:
        raise BadRequest(f"{path} is no report; name one that verify --out has written") from exc


def recheck(seen: Observation, then: dict[str, Any]) -> RecheckDocument:
    """Raises `Refused` if the report is of another cluster, `Partial` as `report`."""
    cluster_id = seen.ring.cluster_id.hex()
    if then["cluster_id"] != cluster_id:
        raise Refused(
            f"that report is of cluster {then['cluster_id']}, this is {cluster_id}; name endpoints "
            f"of that one"
        )
    wanted = [row["partition"] for row in then["partitions"]]
    if any(not 0 <= number < seen.ring.partitions for number in wanted):
        raise BadRequest("that report has partitions that the ring has not; take a new one")
    found = _ask_all(seen, wanted)
    names = {one.member.id: one.member.name for one in seen.members}
    changed: list[RootRow] = []
    for row in then["partitions"]:
        number = row["partition"]
        before = {owner["id"]: owner["root"] for owner in row["owners"]}
        names |= {owner["id"]: names.get(owner["id"], owner["name"]) for owner in row["owners"]}
        for node in dict.fromkeys([*before, *seen.ring.lists[number]]):
            now, records = found.get(node, {}).get(number, ("", 0))
            if now != before.get(node, "") or not now:
                changed.append(
                    RootRow(
                        partition=number,
                        node=names[node],
                        then=before.get(node, ""),
                        now=now,
                        records=records,
                    )
                )
    return RecheckDocument(
        taken=then["taken"],
        epoch=seen.ring.epoch,
        checked=len(wanted),
        same=len(wanted) - len({row.partition for row in changed}),
        roots=changed,
    )


def _ask_all(seen: Observation, partitions: list[int]) -> Found:
    with (
        Client([seen.agent], timeout_s=TIMEOUT_S_DEFAULT, learn_ring=False) as client,
        ThreadPoolExecutor(ASKED_AT_ONCE) as pool,
    ):
        replies = list(pool.map(lambda one: _ask(client, one, partitions), seen.members))
    silent = [
        f"{one.member.name}: {reply.message}"
        for one, reply in zip(seen.members, replies, strict=True)
        if isinstance(reply, DynagentError)
    ]
    if silent:
        raise Partial(f"the roots of some owners are not to be had: {'; '.join(silent)}")
    return {
        one.member.id: reply
        for one, reply in zip(seen.members, replies, strict=True)
        if isinstance(reply, dict)
    }


def _ask(
    client: Client, one: Seen, partitions: list[int]
) -> dict[int, tuple[str, int]] | DynagentError:
    found: dict[int, tuple[str, int]] = {}
    try:
        left = partitions
        while left:
            asked = left[: limits.EXCHANGE_PARTITIONS_MAX]
            reply = client.ask(one.member.address, Roots(asked))
            if (
                not isinstance(reply, RootsReply)
                or not 0 < len(reply.roots) <= len(asked)
                or len(reply.roots) != len(reply.counts)
            ):
                raise ProtocolError(f"{one.member.address}: {type(reply).__name__} has no roots")
            for number, root, count in zip(asked, reply.roots, reply.counts, strict=False):
                found[number] = (root.hex(), count)
            left = left[len(reply.roots) :]
    except DynagentError as exc:
        return exc
    return found
