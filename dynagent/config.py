"""The agent's configuration: one TOML file, every knob with its reason, and nothing silent.

The field docs here are the man page `dynagent.toml(5)` and `docs/configuration.md`
(`dynagent config` prints them). A knob that the file does not set keeps its default;
flags of `dynagent run` win over the file; an unknown knob or a value of the wrong type is refused
with its place in the file.
"""

from __future__ import annotations

import socket
import tomllib
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import msgspec
from msgspec import Meta

from dynagent import limits
from dynagent.address import is_loopback, parse_address
from dynagent.errors import BadRequest, ConfigError
from dynagent.memory import usable_bytes


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that an operator may set."""

    data_dir: Annotated[
        str,
        Meta(description="Where this node keeps its identity and its records. One agent only."),
    ]
    listen: Annotated[
        str,
        Meta(
            description="host:port for clients and peers. Port 0 lets the system choose. Beyond "
            "loopback it is refused unless insecure_bind is true, because there is no encryption "
            "or authentication yet."
        ),
    ] = "127.0.0.1:7411"
    advertise: Annotated[
        str,
        Meta(
            description="host:port by which others reach this agent; written into the ring at "
            "bootstrap. Empty: the address it listens on."
        ),
    ] = ""
    http: Annotated[
        str,
        Meta(
            description="host:port for /metrics (Prometheus), /healthz and /readyz over HTTP; "
            "127.0.0.1:7412 is customary. Empty: off, so that no port is open that nobody asked "
            "for, and agents that share a machine do not compete for one. Beyond loopback "
            "insecure_bind rules as for listen."
        ),
    ] = ""
    insecure_bind: Annotated[
        bool,
        Meta(
            description="Listen beyond loopback although anyone who reaches the port may then read "
            "and write everything. For networks that you trust wholly."
        ),
    ] = False
    name: Annotated[
        str,
        Meta(description="The node's name for people, unique in the cluster. Empty: its node id."),
    ] = ""
    host: Annotated[
        str,
        Meta(
            description="Label of the machine. Copies of a key are placed on distinct hosts, so "
            "agents that share a machine must share this label. Empty: the system's host name."
        ),
    ] = ""
    zone: Annotated[
        str,
        Meta(
            description="Label of the failure zone (rack, room, availability zone). Copies are "
            "spread over zones as far as there are enough."
        ),
    ] = ""
    capacity: Annotated[
        int,
        Meta(
            ge=0,
            le=limits.CAPACITY_MAX,
            description="Weight of this node: it holds that share of the places on the ring. "
            "0 stores nothing and only routes requests.",
        ),
    ] = 100
    cluster_id: Annotated[
        str,
        Meta(
            description="A guard: 32 hex digits. If set, the agent refuses to start with a data "
            "directory of another cluster. Empty: no check."
        ),
    ] = ""
    seeds: Annotated[
        str,
        Meta(
            description="host:port of some members of the cluster, separated by commas. With them "
            "an agent that has lost its store (a new disk, a damaged log, an old backup put back) "
            "comes back by itself: it sets aside what there is, and takes the place of the member "
            "of its name under a new node id, which copies everything from the others. The policy "
            "auto-replace of the cluster must not forbid it, and nobody of that name may be up. "
            "Empty: such an agent stops, or waits, and says what to do. A new member still has to "
            "be told to join (dynctl join)."
        ),
    ] = ""
    engine: Annotated[
        str,
        Meta(
            pattern="^(sqlite|rocksdb)$",
            description="The storage engine of a new data directory: sqlite, or rocksdb (needs the "
            "extra: pip install 'dynctl[rocksdb]'). An old directory keeps its own.",
        ),
    ] = "sqlite"
    value_bytes_max: Annotated[
        int,
        Meta(
            ge=1,
            le=limits.VALUE_BYTES_HARD_MAX,
            description="The largest value that this agent accepts as coordinator, in bytes. Set "
            "it alike on all agents. Large values make every queue behind them wait.",
        ),
    ] = limits.VALUE_BYTES_DEFAULT_MAX
    siblings_max: Annotated[
        int,
        Meta(
            ge=1,
            le=limits.SIBLINGS_HARD_MAX,
            description="How many concurrent values of a key this agent lets a put leave, its own "
            "included. Over that a put is refused unless it supersedes them (dynctl resolve, or a "
            "put that is not blind). Set it alike on all agents. What several agents have taken "
            "while they were cut off from each other comes together nevertheless.",
        ),
    ] = limits.SIBLINGS_DEFAULT_MAX
    cache_bytes: Annotated[
        int,
        Meta(
            ge=-1,
            le=limits.CACHE_BYTES_MAX,
            description="Memory for copies that were read or written of late, about. A copy found "
            "there costs a microsecond instead of three to ten at the engine. -1: a 16th of the "
            "memory that this agent may use, the machine's or its cgroup's; agents that share a "
            "machine take as much each. 0: none. Below 2 MiB the records of several requests are "
            "not read in one go either.",
        ),
    ] = -1
    background_bytes_per_s: Annotated[
        int,
        Meta(
            ge=limits.BACKGROUND_BYTES_PER_S_MIN,
            description="The most that background work (hints, repair, transfers) may move in a "
            "second. While clients wait too long (foreground_p99_ms) it gets less, down to a 32nd; "
            "while they do not, or nobody asks anything, all of it. Records below 4 KiB count as "
            "4 KiB.",
        ),
    ] = limits.BACKGROUND_BYTES_PER_S_DEFAULT
    foreground_p99_ms: Annotated[
        int,
        Meta(
            ge=1,
            le=60_000,
            description="Background work shrinks while the slowest hundredth of the answers to "
            "clients takes longer than this. The agent compares what it sees itself with two "
            "thirds of it: the rest is spent in sockets. Below what the cluster needs anyway it "
            "will crawl; far above, clients feel it.",
        ),
    ] = limits.FOREGROUND_P99_MS_DEFAULT
    hint_bytes_max: Annotated[
        int,
        Meta(
            ge=0,
            description="The most that this agent keeps for others while they are away: bytes of "
            "copies of keys that it does not own. They count towards W, so they are never dropped: "
            "at this bound it refuses more, and the next agent is asked to stand in. Leave that "
            "much of the disk free. The default is two hours of a thousand puts of 1 KiB a second; "
            "0: it stands in for nobody.",
        ),
    ] = limits.HINT_BYTES_DEFAULT_MAX
    owner_hints_max: Annotated[
        int,
        Meta(
            ge=0,
            description="How many keys of its own this agent notes one by one for other owners "
            "that have missed a write, about 100 bytes each. Past it, it notes only their "
            "partition as dirty, and hands over all of its keys there when that owner is back: "
            "fewer notes, more bytes.",
        ),
    ] = limits.OWNER_HINTS_DEFAULT_MAX
    antientropy_interval_s: Annotated[
        float,
        Meta(
            ge=0,
            le=86_400,
            description="How often this agent compares its Merkle trees with those of each other "
            "owner, which costs some 40 bytes a partition if nothing differs. A write that hints "
            "and read repair have missed waits no longer than that. 0: only when somebody asks "
            "for it (dynctl repair).",
        ),
    ] = limits.ANTIENTROPY_INTERVAL_S_DEFAULT
    tombstone_rest_s: Annotated[
        float,
        Meta(
            ge=0,
            le=604_800,
            description="How long a deleted key keeps its tombstone at least. For that long a "
            "retry of a write that the delete has superseded finds its op-id, and does not write "
            "again; nothing else depends on it. When it goes, the nodes decide by what they hold, "
            "never by time. 0: it stays for ever.",
        ),
    ] = limits.TOMBSTONE_REST_S_DEFAULT
    drain_s: Annotated[
        float,
        Meta(
            ge=0,
            le=600,
            description="After SIGTERM: how long requests under way may take before the agent "
            "stops without them. A second SIGTERM stops at once.",
        ),
    ] = 10.0
    redial_s_max: Annotated[
        float,
        Meta(
            gt=0,
            le=60,
            description="The longest pause between two attempts to reach a peer; the first comes "
            "after a tenth of a second. Shorter notices a returned peer sooner, at the cost of "
            "one refused connection each time.",
        ),
    ] = 1.0
    probe_interval_s: Annotated[
        float,
        Meta(
            gt=0,
            le=60,
            description="How often each peer that was not heard from is pinged (of more than ten, "
            "ten in that time). With probe_timeout_s it decides how soon a dead or hung one is no "
            "longer asked: after 1.5 intervals and two to three timeouts at the most; of more than "
            "ten, one that requests wait for after 2 intervals and as many timeouts.",
        ),
    ] = limits.PROBE_INTERVAL_S_DEFAULT
    probe_timeout_s: Annotated[
        float,
        Meta(
            gt=0,
            le=60,
            description="How long a ping may take before others are asked to ping the peer too, "
            "and again before it is suspect. An agent that is itself slow waits up to nine times "
            "as long.",
        ),
    ] = limits.PROBE_TIMEOUT_S_DEFAULT
    gray_s: Annotated[
        float,
        Meta(
            gt=0,
            le=60,
            description="A peer that answers pings but none of at least three data requests for "
            "that long is gray: it gets no requests until it has answered one. One that was passed "
            "on to it counts from the end of its time, as its answer may wait for others.",
        ),
    ] = limits.GRAY_S_DEFAULT
    suspicion_s: Annotated[
        float,
        Meta(
            gt=0,
            le=600,
            description="How long a peer is suspect before it is called dead. Only a word: it gets "
            "no requests either way, and the ring stays as it is.",
        ),
    ] = limits.SUSPICION_S_DEFAULT
    gossip_interval_s: Annotated[
        float,
        Meta(
            gt=0,
            le=60,
            description="How often this agent compares with another one, each in turn, what they "
            "know about all members (release, load, epoch of the ring). All know news after about "
            "log2(members) intervals; while there is none, an interval costs 300 bytes.",
        ),
    ] = limits.GOSSIP_INTERVAL_S_DEFAULT
    scrub_interval_s: Annotated[
        float,
        Meta(
            ge=0,
            le=366 * 86_400,
            description="In how long this agent reads all of its records again and verifies them, "
            "a partition after the other, to find what has rotted or was lost before a second copy "
            "has too. It is background work, and clients come first. 0: only when dynctl scrub "
            "asks for it.",
        ),
    ] = limits.SCRUB_INTERVAL_S_DEFAULT
    watchdog_stall_ms: Annotated[
        int,
        Meta(
            ge=0,
            le=60_000,
            description="A turn of the event loop that lasts this long is a stall: it is counted "
            "(/metrics, dynctl stats) and logged as loop.stalled with the code that it was in "
            "and the share of the time in which that code had a core (near 0 on a machine that is "
            "short of them). 0 turns the watchdog off.",
        ),
    ] = 100
    log_level: Annotated[
        str,
        Meta(pattern="^(debug|info|warning|error)$", description="debug, info, warning or error."),
    ] = "info"
    log_format: Annotated[
        str,
        Meta(
            pattern="^(auto|logfmt|json)$",
            description="logfmt for people, json for collectors; auto is logfmt.",
        ),
    ] = "auto"


def load(path: Path | None, overrides: dict[str, Any]) -> Config:
    """The configuration of a file (or of none) under the flags that were given.

    Raises `ConfigError` naming the file, the knob and what it takes.
    """
    settings: dict[str, Any] = {}
    if path is not None:
        try:
            settings = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as exc:
            raise ConfigError(f"config {path}: {exc.strerror}") from exc
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
            raise ConfigError(f"config {path} is not TOML: {exc}") from exc
    source = f"config {path}" if path is not None else "flags"
    settings.update(overrides)
    if "data_dir" not in settings:
        raise ConfigError(f"{source}: no data directory; say --data-dir DIR")
    try:
        config = msgspec.convert(settings, Config)
    except msgspec.ValidationError as exc:
        raise ConfigError(f"{source}: {exc}; see: man dynagent.toml") from exc
    _check(config, source)
    return config


def _check(config: Config, source: str) -> None:
    try:
        host, _port = parse_address(config.listen)
        for address in (*filter(None, (config.advertise, config.http)), *seeds_of(config)):
            parse_address(address)
    except BadRequest as exc:
        raise ConfigError(f"{source}: {exc.message}") from exc
    if config.http and not is_loopback(parse_address(config.http)[0]) and not config.insecure_bind:
        raise ConfigError(
            f"refusing to serve HTTP on {config.http}: there is no encryption or authentication "
            f"yet; serve it on 127.0.0.1, or say --insecure-bind if the network is trusted"
        )
    if not is_loopback(host) and not config.insecure_bind:
        raise ConfigError(
            f"refusing to listen on {config.listen}: there is no encryption or authentication yet, "
            f"so anyone who reaches the port could read and write everything; "
            f"listen on 127.0.0.1, or say --insecure-bind if the network is trusted"
        )
    if host in ("0.0.0.0", "::") and not config.advertise:
        raise ConfigError(
            f"{config.listen} is no address by which others could reach this agent; "
            f"say --advertise host:port"
        )
    guard = config.cluster_id
    if guard and (len(guard) != 32 or any(sign not in "0123456789abcdef" for sign in guard)):
        raise ConfigError(f"{source}: cluster_id must be 32 hex digits")


def seeds_of(config: Config) -> list[str]:
    """The addresses in `seeds`."""
    return [seed for part in config.seeds.split(",") if (seed := part.strip())]


def resolved(config: Config) -> Config:
    """The same, with what the operator leaves to the system: host label and size of the cache."""
    host, cache_bytes = config.host, config.cache_bytes
    if not host:
        host = socket.gethostname()
    if cache_bytes < 0:
        cache_bytes = usable_bytes() // limits.CACHE_SHARE
    return msgspec.structs.replace(config, host=host, cache_bytes=cache_bytes)


def knobs() -> list[tuple[str, str, str, str]]:
    """(name, type, default, doc) of every knob, for the man page and the docs."""
    hints = get_type_hints(Config, include_extras=True)
    rows = []
    for field in msgspec.structs.fields(Config):
        kind, meta = hints[field.name].__origin__, hints[field.name].__metadata__[0]
        required = field.default is msgspec.NODEFAULT
        default = "required" if required else _toml(field.default)
        rows.append((field.name, kind.__name__, default, str(meta.description)))
    return rows


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)
