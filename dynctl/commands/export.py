"""`dynctl export`: the records of a partition or the cluster, with clocks and tombstones."""

from __future__ import annotations

from typing import Annotated

import typer

from dynagent.client.blocking import TIMEOUT_S_DEFAULT, Client
from dynagent.errors import BadRequest, Partial
from dynctl import options
from dynctl.commands.repair import Partition
from dynctl.declare import Debug, Endpoints, Timeout, Verbose
from dynctl.exporting import Exporter
from dynctl.observe import choose, observed


def export(
    partition: Partition = None,
    node: Annotated[
        str | None,
        typer.Option("--node", metavar="NODE", help="What this one holds, instead of the cluster."),
    ] = None,
    endpoint: Endpoints = None,
    timeout: Timeout = None,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Write all records as JSON Lines, with clocks, siblings and tombstones.

    The first line names the cluster: its id, epoch, Q, N. Each record is what N-W+1 owners of it
    hold, merged, so that no acknowledged write is missing; with --node, what that one holds. Its
    content is what the Merkle trees hash, see docs/trees.md. What is written meanwhile may be in it
    or not. Exit 11 if copies were unreadable, or too few owners could be asked.

    example: dynctl export --node n1 --partition 17 > n1-17.jsonl
    """
    timeout_s = options.read_timeout(timeout, TIMEOUT_S_DEFAULT)
    seen = observed("export", endpoint, timeout, verbose)
    last = seen.ring.partitions - 1
    only = options.read_number(partition, "--partition", low=0, high=last, default=-1)
    source = choose(seen.members, node)[0].member if node is not None else None
    if source is not None and only >= 0 and source.id not in seen.ring.lists[only]:
        raise BadRequest(f"{source.name} is no owner of partition {only}; see: dynctl ring show")
    partitions = [only] if only >= 0 else list(range(seen.ring.partitions))
    with Client([seen.agent], timeout_s=timeout_s, learn_ring=False) as client:
        exporter = Exporter(client, seen, source)
        exporter.write(partitions)
    if exporter.problems:
        raise Partial(f"partial: {'; '.join(exporter.problems[:3])}; see: dynctl doctor")
