"""What a node tells about itself: the document of a StatusReply, a CBOR map that may grow.

node_id, run           identity and start counter
cluster_id, epoch      of the ring; empty and 0 before bootstrap
members                of the ring, this one too
state                  "fresh" (no cluster yet), "starting" (see registration), "serving",
                       "draining", "refused" (this store must not serve, and is about to stop), or
                       "removed" (it is no member any more)
registration           of this start (core.registration): state (starting, registered, refused),
                       recorded (voters that have it, this node counted), needed, and missing:
                       node id → why that one has not
up                     ids of the members that this node uses, itself too
peers                  of each other member: state (alive, suspect, dead, gray), since_s, linked
detector               health (of this node itself: 0 good, to 8), and since the start: probes,
                       indirect_probes, suspicions, late_ticks
gossip                 facts: members of which one is known; and since the start: rounds, exchanges
                       (rounds that had news), facts_taken, refused (malformed), refuted (about us)
below_quorum           partitions with fewer than R or W owners within this node's reach
in_flight              operations under way
admission              of clients: gets and puts: how many wait for an answer; gets_limit and
                       puts_limit: how many may; refused: reason → count (core.admission)
batch                  what gathers for the next commit: records, bytes
hints                  node id → keys of which a copy is kept for that owner until it is back
dirty                  node id → partitions in which that owner has missed too many writes to note
hint_copies            of keys that this node does not own: bytes, and how many it has refused to
                       keep since the start, because bytes_max was reached
delivery               of hints: delivered since the start, is_paused, paused (node ids), under_way
antientropy            interval_s (0: off), oldest_unverified_s (since when the partition waits that
                       was verified longest ago, of those that this node compares with others),
                       under_way (node ids); and since the start, rounds and jobs together: rounds,
                       partitions, failures (exchanges that did not end), keys, differing, sent,
                       fetched, healed, changed (written meanwhile), unreadable, bytes
jobs                   under way (core.jobs)
siblings               of the keys that have changed here since the start: most (of one key), key
                       (that one), bytes (of the largest record with several)
tombstones             of core.purge: count (on this node, of its own partitions), partitions (that
                       have any), purged (dropped here since the start); and of those that this
                       node drives: blocked (node id → reason → partitions: away, holds, differs),
                       rounds and moves since the start; if it was asked for, by_partition: of
                       each with tombstones [partition, count, barrier, reason, node ids], the last
                       two if it is blocked and this node drives it
change                 under way (core.driver), empty if none: index, verb, driver (who drives, as
                       this node sees it), moving (partitions), copying and fencing (of these, in
                       phase 0 and 1), waiting_for (new owners that are down)
transfers              what this node gains by it (core.transfer), or by the last one: index (0:
                       none), partitions (state → how many: fencing, adopting, copying, sealing,
                       ready), records and bytes copied so far, records_total and bytes_total
                       (estimates), records_per_s and bytes_per_s (of late), eta_s (null: nothing
                       moves), sources (node ids), problems; if it was asked for, by_partition: of
                       each [partition, state, records, records_total, bytes, problem]
sources                what others copied from here since the start: records, bytes
former                 what lies here of partitions that are not its own (core.former): unseen
                       (partitions not yet looked at), partitions (that hold something), problems;
                       and since the start: dropped and pushed (copies)
repaired               owners that a get has found behind, and sent what they lacked
trees                  partitions (that this node owns), leaves (of each tree), records (in known
                       leaves, tombstones too), unknown (leaves), rebuilt (leaves, since the start)
unknown                copies that this node does not know any more (core.unknown): waiting (to be
                       healed), met and healed since the start, suspect and hollow (partitions),
                       keys (the first of them), under_way, failures (attempts), provable (False:
                       W=1, so no other owner can prove what was lost), stuck_keys and
                       stuck_partitions (the first of those of which too many of the other owners
                       do not know either); and of dots that had two values: clashes, clashed (the
                       last keys)
disk_full              whether changes are refused for that
scrub                  of core.scrub: interval_s, done and of (partitions of this pass), under_way,
                       damaged (partitions of which ranges cannot be read); and since the start:
                       partitions, keys, unreadable, lost, phantom, misplaced, ranges
ringlog                of core.ringlog: lineage, voters (node ids), lacking (entries that others
                       have), proposals (of this agent, under way), sits_out (the index up to
                       which it cannot know how it has voted; 0: none); and since the start: learnt
                       (entries), voted, refused (pages of entries that it does not follow)
about                  name, address, zone, host, capacity: what bootstrap asks
counters               name → count since start; names of messages and of errors

Only if they were asked for, what gossip knows (core.gossip), this node too:

facts                  node id → run, version, age_s (since this node took it), name, address, zone,
                       host, release, epoch, started_ms (wall clock), draining, and its load: keys,
                       stored_bytes (null: not known), requests_per_s, in_flight, hints,
                       background_permille

The agent adds what only its shell knows (`agent.meter`):

version, http          of the agent; where it serves metrics, empty if nowhere
uptime_s, cpu_s        since the start; user and system time of the process
connections            accepted ones that are open
commits                write and fsync of batches: a histogram, and records
stalls                 turns of the event loop that were too long: a histogram
store                  engine, keys (records of the partitions that it owns, tombstones too; while
                       their trees are not all known an estimate of all that it holds; absent if
                       that is unknown as well), bytes; up to a second old
background             of core.budget: share (0 to 1), bytes_per_s (what it allows now), bytes and
                       records moved since the start, foreground_p99_s (of the last minute; null if
                       nobody asked), foreground_p99_s_max (the threshold)

A histogram has bounds_s (upper, ascending), counts (one more than bounds), sum_s and max_s.
"""

from __future__ import annotations

from dynagent.core.encoding import decode, encode
from dynagent.core.readiness import below_quorum
from dynagent.core.registration import REFUSED, STARTING
from dynagent.errors import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from dynagent.core.node import Node


def status_document(
    node: Node,
    *,
    with_facts: bool = False,
    with_tombstones: bool = False,
    with_transfers: bool = False,
) -> bytes:
    fields = status_fields(node)
    if with_transfers and node.transfers is not None and node.coordinator is not None:
        fields["transfers"] = node.transfers.document(node.coordinator.now, by_partition=True)
    if with_tombstones and node.purger is not None:
        fields["tombstones"] = node.purger.document(by_partition=True)
    if with_facts:
        fields["facts"] = node.gossip.document() if node.gossip is not None else {}
    return encode(fields)


def status_fields(node: Node) -> dict[str, Any]:
    ring, coordinator, detector = node.ring, node.coordinator, node.detector
    registration = node.registration.document() if node.registration is not None else {}
    state = "fresh" if ring is None else "serving"
    if registration.get("state") in (STARTING, REFUSED):
        state = str(registration["state"])
    if node.draining and ring is not None:
        state = "draining"
    if node.is_removed:
        state = "removed"
    records, size = node.replica.gathered
    hints, forest = node.replica.hints, node.replica.forest
    return {
        "node_id": node.node_id,
        "run": node.replica.run,
        "cluster_id": ring.cluster_id if ring is not None else b"",
        "epoch": ring.epoch if ring is not None else 0,
        "members": len(ring.members) if ring is not None else 0,
        "state": state,
        "registration": registration,
        "up": sorted(coordinator.up) if coordinator is not None else [],
        "peers": detector.peers_document() if detector is not None else {},
        "detector": {"health": detector.health, **detector.counts} if detector is not None else {},
        "gossip": (
            {"facts": len(node.gossip.facts), **node.gossip.counts}
            if node.gossip is not None
            else {}
        ),
        "below_quorum": below_quorum(coordinator) if coordinator is not None else 0,
        "in_flight": len(coordinator.operations) if coordinator is not None else 0,
        "admission": node.admission.document(),
        "batch": {"records": records, "bytes": size},
        "hints": dict(sorted(hints.counts.items())),
        "dirty": {target: len(at) for target, at in sorted(hints.dirty.items())},
        "hint_copies": {
            "bytes": hints.copy_bytes,
            "bytes_max": hints.bytes_max,
            "refused": hints.refused,
        },
        "delivery": node.delivery.document() if node.delivery is not None else {},
        "antientropy": (
            node.antientropy.document(coordinator.now)
            if node.antientropy is not None and coordinator is not None
            else {}
        ),
        "jobs": node.jobs.under_way if node.jobs is not None else 0,
        "siblings": node.replica.crowd.document(),
        "tombstones": node.purger.document() if node.purger is not None else {},
        "disk_full": node.replica.is_full(coordinator.now) if coordinator is not None else False,
        "unknown": node.healer.document() if node.healer is not None else {},
        "scrub": node.scrubber.document() if node.scrubber is not None else {},
        "change": node.driver.document() if node.driver is not None else {},
        "transfers": (
            node.transfers.document(coordinator.now)
            if node.transfers is not None and coordinator is not None
            else {}
        ),
        "sources": {"records": node.sources.records, "bytes": node.sources.bytes},
        "former": node.former.document() if node.former is not None else {},
        "repaired": coordinator.repaired if coordinator is not None else 0,
        "trees": {
            "partitions": len(forest.partitions),
            "leaves": forest.leaves,
            "records": forest.records,
            "unknown": len(forest.unknown),
            "rebuilt": node.rebuilder.rebuilt,
        },
        "ringlog": node.ringlog.document() if node.ringlog is not None else {},
        "about": node.about,
        "counters": dict(sorted(node.counters.items())),
        **node.measure(),
    }


def decode_status(document: bytes) -> dict[str, Any]:
    """The map again; raises `ProtocolError` if it is none."""
    fields = decode(document)
    if not isinstance(fields, dict) or not isinstance(fields.get("node_id"), str):
        raise ProtocolError("not a status document")
    return fields
