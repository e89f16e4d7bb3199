"""Every metric of an agent, in one table: name, type, help, and where it stands in the status
document (`core.inspect`). /metrics and `dynctl stats --prometheus` are made from it, and so is
docs/metrics.md. Names follow Prometheus: base units, `_total` for counters.

A document may come from an agent of another version: what it does not have is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dynagent.core.peer import ALIVE, DEAD, GRAY, SUSPECT
from dynagent.errors import BY_CODE

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"

Status = dict[str, Any]
Sample = tuple[tuple[str, ...], Any]  # values of the labels; a number, or a histogram's document

_ERROR_KINDS = frozenset(cls.__name__ for cls in BY_CODE.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A metric. `labels`: their names; `read`: its samples in a status document."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()
    read: Callable[[Status], list[Sample]]


def _at(*path: str) -> Callable[[Status], list[Sample]]:
    """The number at that place."""

    def read(status: Status) -> list[Sample]:
        found: Any = status
        for name in path:
            found = found.get(name) if isinstance(found, dict) else None
        return [((), found)] if isinstance(found, int | float) else []

    return read


def _histogram(name: str) -> Callable[[Status], list[Sample]]:
    def read(status: Status) -> list[Sample]:
        found = status.get(name)
        return [((), found)] if isinstance(found, dict) and "counts" in found else []

    return read


def split_counters(status: Status) -> tuple[dict[str, int], dict[str, int]]:
    """(requests by kind, errors by kind): the document counts both in one map."""
    counters: dict[str, int] = status.get("counters", {})
    errors = {name: count for name, count in counters.items() if name in _ERROR_KINDS}
    return {name: n for name, n in counters.items() if name not in errors}, errors


def peers_up(status: Status) -> int:
    """Other members that it uses."""
    return len(set(status["up"]) - {status["node_id"]})


def peers_known(status: Status) -> int:
    """Other members of the ring."""
    return max(0, int(status.get("members", 0)) - 1)


def _by_kind(place: int) -> Callable[[Status], list[Sample]]:
    return lambda status: [
        ((kind,), n) for kind, n in sorted(split_counters(status)[place].items())
    ]


def _admitted(status: Status, what: str) -> list[Sample]:
    found = status.get("admission", {})
    return [((kind,), found[kind + what]) for kind in ("gets", "puts") if kind + what in found]


def _refused(status: Status) -> list[Sample]:
    refused: dict[str, int] = status.get("admission", {}).get("refused", {})
    return [((reason,), count) for reason, count in sorted(refused.items())]


def _peers_by_state(status: Status) -> list[Sample]:
    peers: dict[str, dict[str, object]] | None = status.get("peers")
    if peers is None:
        return []  # another version
    states = [peer.get("state") for peer in peers.values()]
    return [((state,), states.count(state)) for state in (ALIVE, SUSPECT, DEAD, GRAY)]


def _summed(name: str) -> Callable[[Status], list[Sample]]:
    return lambda status: [((), sum(status[name].values()))] if name in status else []


def _info(status: Status) -> list[Sample]:
    cluster: bytes = status["cluster_id"]
    name = status.get("about", {}).get("name", "")
    return [((str(status.get("version", "")), status["node_id"], str(name), cluster.hex()), 1)]


METRICS = (
    Metric(
        name="dynagent_info",
        kind=GAUGE,
        help="Always 1; the labels tell which agent this is.",
        labels=("version", "node_id", "name", "cluster_id"),
        read=_info,
    ),
    Metric(
        name="dynagent_serving",
        kind=GAUGE,
        help="1 if the agent belongs to a ring and is not draining.",
        read=lambda status: [((), int(status["state"] == "serving"))],
    ),
    Metric(
        name="dynagent_uptime_seconds",
        kind=GAUGE,
        help="Time since the agent's start.",
        read=_at("uptime_s"),
    ),
    Metric(
        name="dynagent_cpu_seconds_total",
        kind=COUNTER,
        help="User and system time of the agent's process.",
        read=_at("cpu_s"),
    ),
    Metric(
        name="dynagent_requests_total",
        kind=COUNTER,
        help="Requests that arrived, of clients and peers, by message.",
        labels=("kind",),
        read=_by_kind(0),
    ),
    Metric(
        name="dynagent_errors_total",
        kind=COUNTER,
        help="Requests that were answered with an error, by its name in the protocol.",
        labels=("kind",),
        read=_by_kind(1),
    ),
    Metric(
        name="dynagent_operations_in_flight",
        kind=GAUGE,
        help="Gets, puts and forwarded requests under way.",
        read=_at("in_flight"),
    ),
    Metric(
        name="dynagent_requests_waiting",
        kind=GAUGE,
        help="Gets and puts of clients that have no answer yet.",
        labels=("kind",),
        read=lambda status: _admitted(status, ""),
    ),
    Metric(
        name="dynagent_requests_waiting_limit",
        kind=GAUGE,
        help="How many of them may wait before more are refused as Overloaded; falls under load.",
        labels=("kind",),
        read=lambda status: _admitted(status, "_limit"),
    ),
    Metric(
        name="dynagent_requests_refused_total",
        kind=COUNTER,
        help=(
            "Gets and puts refused as Overloaded: others wait too long (waiting), the event loop's "
            "turns do (turn), their time was over before they were read (expired), or the table of "
            "requests or its memory is full."
        ),
        labels=("reason",),
        read=_refused,
    ),
    Metric(
        name="dynagent_connections",
        kind=GAUGE,
        help="Open connections that clients and peers have made to this agent.",
        read=_at("connections"),
    ),
    Metric(
        name="dynagent_batch_records",
        kind=GAUGE,
        help="Records that have gathered for the next commit.",
        read=_at("batch", "records"),
    ),
    Metric(
        name="dynagent_batch_bytes",
        kind=GAUGE,
        help="Bytes of values that have gathered for the next commit.",
        read=_at("batch", "bytes"),
    ),
    Metric(
        name="dynagent_commit_duration_seconds",
        kind=HISTOGRAM,
        help="Write and fsync of one batch; _count is the number of commits.",
        read=_histogram("commits"),
    ),
    Metric(
        name="dynagent_committed_records_total",
        kind=COUNTER,
        help="Records made durable, those of other coordinators too.",
        read=_at("commits", "records"),
    ),
    Metric(
        name="dynagent_siblings_most",
        kind=GAUGE,
        help="Concurrent values of the key that has the most, of those changed since the start.",
        read=_at("siblings", "most"),
    ),
    Metric(
        name="dynagent_siblings_bytes_most",
        kind=GAUGE,
        help="Bytes of the largest record with several values, of those changed since the start.",
        read=_at("siblings", "bytes"),
    ),
    Metric(
        name="dynagent_store_keys",
        kind=GAUGE,
        help="Records of the partitions that this agent owns, tombstones too; up to a second old.",
        read=_at("store", "keys"),
    ),
    Metric(
        name="dynagent_store_bytes",
        kind=GAUGE,
        help="Size of the store's files, logs included; up to a second old.",
        read=_at("store", "bytes"),
    ),
    Metric(
        name="dynagent_tree_unknown_leaves",
        kind=GAUGE,
        help="Leaves of Merkle trees that wait to be rebuilt: something in them could not be read.",
        read=_at("trees", "unknown"),
    ),
    Metric(
        name="dynagent_tree_rebuilt_leaves_total",
        kind=COUNTER,
        help="Leaves of Merkle trees that were rebuilt from the disk.",
        read=_at("trees", "rebuilt"),
    ),
    Metric(
        name="dynagent_hints",
        kind=GAUGE,
        help="Keys that this agent owes others, noted one by one.",
        read=_summed("hints"),
    ),
    Metric(
        name="dynagent_hint_bytes",
        kind=GAUGE,
        help="Bytes of copies that it keeps only for others; at hint_bytes_max it refuses more.",
        read=_at("hint_copies", "bytes"),
    ),
    Metric(
        name="dynagent_hint_bytes_max",
        kind=GAUGE,
        help="The knob hint_bytes_max.",
        read=_at("hint_copies", "bytes_max"),
    ),
    Metric(
        name="dynagent_hints_refused_total",
        kind=COUNTER,
        help="Copies for others that it had no room for.",
        read=_at("hint_copies", "refused"),
    ),
    Metric(
        name="dynagent_dirty_partitions",
        kind=GAUGE,
        help="Partitions in which it owes others more than owner_hints_max allows to note.",
        read=_summed("dirty"),
    ),
    Metric(
        name="dynagent_unknown_copies",
        kind=GAUGE,
        help="Copies that are unreadable, or were, and wait to be healed from the other owners.",
        read=_at("unknown", "waiting"),
    ),
    Metric(
        name="dynagent_hollow_partitions",
        kind=GAUGE,
        help="Partitions of which records may be missing, and are being healed.",
        read=_at("unknown", "hollow"),
    ),
    Metric(
        name="dynagent_healed_copies_total",
        kind=COUNTER,
        help="Copies that were healed from the other owners.",
        read=_at("unknown", "healed"),
    ),
    Metric(
        name="dynagent_clashes_total",
        kind=COUNTER,
        help="Dots that had two values: a cloned store or a bug; see dynctl doctor.",
        read=_at("unknown", "clashes"),
    ),
    Metric(
        name="dynagent_scrubbed_partitions_total",
        kind=COUNTER,
        help="Partitions whose records were all read again and verified.",
        read=_at("scrub", "partitions"),
    ),
    Metric(
        name="dynagent_tombstones",
        kind=GAUGE,
        help="Deleted keys of its partitions that still leave a tombstone here.",
        read=_at("tombstones", "count"),
    ),
    Metric(
        name="dynagent_tombstones_purged_total",
        kind=COUNTER,
        help="Tombstones that were dropped here, because nothing can bring their values back.",
        read=_at("tombstones", "purged"),
    ),
    Metric(
        name="dynagent_purge_blocked_partitions",
        kind=GAUGE,
        help="Partitions whose tombstones a node holds back: it is away, it holds hints there, or "
        "its copy differs; see dynctl tombstones.",
        labels=("node", "reason"),
        read=lambda status: [
            ((node, reason), count)
            for node, reasons in status.get("tombstones", {}).get("blocked", {}).items()
            for reason, count in reasons.items()
        ],
    ),
    Metric(
        name="dynagent_change_partitions",
        kind=GAUGE,
        help="Partitions that the change of the ring under way still moves, as this agent knows.",
        read=_at("change", "moving"),
    ),
    Metric(
        name="dynagent_transfer_partitions",
        kind=GAUGE,
        help="Partitions that this agent gains and that are not yet read from it, by state; see "
        "dynctl transfers.",
        labels=("state",),
        read=lambda status: [
            ((state,), count)
            for state, count in status.get("transfers", {}).get("partitions", {}).items()
        ],
    ),
    Metric(
        name="dynagent_transfer_records",
        kind=GAUGE,
        help="Records copied here by the change under way.",
        read=_at("transfers", "records"),
    ),
    Metric(
        name="dynagent_transfer_bytes",
        kind=GAUGE,
        help="Bytes of keys and contents copied here by the change under way.",
        read=_at("transfers", "bytes"),
    ),
    Metric(
        name="dynagent_transfer_source_bytes_total",
        kind=COUNTER,
        help="Bytes of keys and contents that new owners have copied from this agent.",
        read=_at("sources", "bytes"),
    ),
    Metric(
        name="dynagent_former_partitions",
        kind=GAUGE,
        help="Partitions that are not this agent's own, and of which copies lie here.",
        read=_at("former", "partitions"),
    ),
    Metric(
        name="dynagent_former_dropped_total",
        kind=COUNTER,
        help="Copies dropped here because all owners of their partition have them.",
        read=_at("former", "dropped"),
    ),
    Metric(
        name="dynagent_oldest_unverified_seconds",
        kind=GAUGE,
        help="Since when the partition waits that was compared with another owner, and found or "
        "made equal, longest ago.",
        read=_at("antientropy", "oldest_unverified_s"),
    ),
    Metric(
        name="dynagent_antientropy_rounds_total",
        kind=COUNTER,
        help="Comparisons with another owner that it has begun by itself.",
        read=_at("antientropy", "rounds"),
    ),
    Metric(
        name="dynagent_antientropy_partitions_total",
        kind=COUNTER,
        help="Partitions compared with another owner, by itself or for jobs.",
        read=_at("antientropy", "partitions"),
    ),
    Metric(
        name="dynagent_antientropy_keys_total",
        kind=COUNTER,
        help="Keys in which such comparisons have found owners to differ (differing), made them "
        "equal (healed), or found a copy that cannot be read (unreadable).",
        labels=("what",),
        read=lambda status: [
            ((what,), count)
            for what in ("differing", "healed", "unreadable")
            for _, count in _at("antientropy", what)(status)
        ],
    ),
    Metric(
        name="dynagent_antientropy_bytes_total",
        kind=COUNTER,
        help="Hashes, keys, versions and records that such comparisons have exchanged.",
        read=_at("antientropy", "bytes"),
    ),
    Metric(
        name="dynagent_jobs",
        kind=GAUGE,
        help="Jobs under way on this agent.",
        read=_at("jobs"),
    ),
    Metric(
        name="dynagent_background_share",
        kind=GAUGE,
        help="What background work may use of background_bytes_per_s, 0 to 1.",
        read=_at("background", "share"),
    ),
    Metric(
        name="dynagent_background_bytes_total",
        kind=COUNTER,
        help="Bytes of records that background work has moved.",
        read=_at("background", "bytes"),
    ),
    Metric(
        name="dynagent_background_records_total",
        kind=COUNTER,
        help="Records that background work has moved.",
        read=_at("background", "records"),
    ),
    Metric(
        name="dynagent_foreground_duration_seconds",
        kind=GAUGE,
        help="How long gets and puts of the last minute took to be answered, within a fifth.",
        labels=("quantile",),
        read=lambda status: [
            (("0.99",), found) for _, found in _at("background", "foreground_p99_s")(status)
        ],
    ),
    Metric(
        name="dynagent_ring_epoch",
        kind=GAUGE,
        help="Version of the ring that this agent has; 0 before bootstrap.",
        read=_at("epoch"),
    ),
    Metric(
        name="dynagent_peers_known",
        kind=GAUGE,
        help="Other members of the ring.",
        read=lambda status: [((), peers_known(status))],
    ),
    Metric(
        name="dynagent_peers_up",
        kind=GAUGE,
        help="Other members that this agent uses: linked with it and not suspect.",
        read=lambda status: [((), peers_up(status))],
    ),
    Metric(
        name="dynagent_peers",
        kind=GAUGE,
        help="Other members by what this agent thinks of them: alive, suspect, dead or gray.",
        labels=("state",),
        read=_peers_by_state,
    ),
    Metric(
        name="dynagent_local_health",
        kind=GAUGE,
        help="How slow this agent itself seems to be: 0 not at all, to 8; it stretches timeouts.",
        read=_at("detector", "health"),
    ),
    Metric(
        name="dynagent_probes_total",
        kind=COUNTER,
        help="Pings of peers from which nothing was heard.",
        read=_at("detector", "probes"),
    ),
    Metric(
        name="dynagent_suspicions_total",
        kind=COUNTER,
        help="How often a peer was no longer used, links that broke included.",
        read=_at("detector", "suspicions"),
    ),
    Metric(
        name="dynagent_facts_known",
        kind=GAUGE,
        help="Members about which gossip has told something, this agent too.",
        read=_at("gossip", "facts"),
    ),
    Metric(
        name="dynagent_gossip_rounds_total",
        kind=COUNTER,
        help="Rounds of gossip that this agent has begun.",
        read=_at("gossip", "rounds"),
    ),
    Metric(
        name="dynagent_gossip_exchanges_total",
        kind=COUNTER,
        help="Rounds of gossip in which there was news for one of the two.",
        read=_at("gossip", "exchanges"),
    ),
    Metric(
        name="dynagent_gossip_refused_total",
        kind=COUNTER,
        help="Gossip that was malformed, damaged or of another cluster.",
        read=_at("gossip", "refused"),
    ),
    Metric(
        name="dynagent_partitions_below_quorum",
        kind=GAUGE,
        help="Partitions of which this agent reaches fewer than R or W owners.",
        read=_at("below_quorum"),
    ),
    Metric(
        name="dynagent_loop_stall_duration_seconds",
        kind=HISTOGRAM,
        help="Turns of the event loop that lasted at least watchdog_stall_ms.",
        read=_histogram("stalls"),
    ),
    Metric(
        name="dynagent_loop_stall_max_seconds",
        kind=GAUGE,
        help="The longest of them since the agent's start.",
        read=_at("stalls", "max_s"),
    ),
)

# What /metrics adds from the process itself, for docs/metrics.md.
PROCESS_METRICS = (
    ("process_cpu_seconds_total", COUNTER, "User and system time."),
    ("process_resident_memory_bytes", GAUGE, "Resident memory."),
    ("process_virtual_memory_bytes", GAUGE, "Virtual memory."),
    ("process_start_time_seconds", GAUGE, "When the process started, Unix time."),
    ("process_open_fds", GAUGE, "Open file descriptors."),
    ("process_max_fds", GAUGE, "How many it may open."),
    ("python_info", GAUGE, "Always 1; the labels tell which Python this is."),
    ("python_gc_collections_total", COUNTER, "Garbage collections, by generation."),
    ("python_gc_objects_collected_total", COUNTER, "Objects they freed, by generation."),
    ("python_gc_objects_uncollectable_total", COUNTER, "Objects they could not free."),
)

# (what, expression, why), for docs/metrics.md.
ALERTS = (
    ("an agent is gone", 'up{job="dynagent"} == 0', "N=3 bears one; the second stops writes"),
    (
        "keys without a quorum",
        "max(dynagent_partitions_below_quorum) > 0",
        "requests for them are refused",
    ),
    (
        "an agent is cut off from members",
        "dynagent_peers_up < dynagent_peers_known",
        "for minutes: its network, or the dead member's",
    ),
    (
        "more is asked than can be answered",
        "rate(dynagent_requests_refused_total[5m]) > 0",
        "those requests were refused before anything was done; add agents, or ask less",
    ),
    (
        "the disk is slow or full",
        "histogram_quantile(0.99, rate(dynagent_commit_duration_seconds_bucket[5m])) > 0.25 "
        'or rate(dynagent_errors_total{kind="DiskFull"}[5m]) > 0',
        "every put waits for W fsyncs",
    ),
    (
        "writers that never read",
        "max(dynagent_siblings_most) > 64",
        "from siblings_max on, puts that add one are refused; dynctl stats -o json names the key",
    ),
    (
        "stand-ins run out of room",
        "dynagent_hint_bytes > 0.8 * dynagent_hint_bytes_max",
        "then only owners take writes: bring back who is away",
    ),
    (
        "replicas are not compared",
        "max(dynagent_oldest_unverified_seconds) > 3600",
        "an owner is away, a copy is unreadable, or background work gets no room; dynctl verify",
    ),
    (
        "the event loop is blocked",
        "rate(dynagent_loop_stall_duration_seconds_sum[5m]) > 0.01",
        "all requests of that agent wait; its log names the code (loop.stalled)",
    ),
)
