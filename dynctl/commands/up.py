"""`dynctl up` and `dynctl down`: a cluster on this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import typer

from dynagent.address import DEFAULT_PORT
from dynagent.client.blocking import TIMEOUT_S_DEFAULT, Client
from dynagent.client.bootstrap import status_of
from dynagent.core.ring import Ring
from dynagent.errors import BadRequest, DynagentError, Refused
from dynctl import local, options, streams
from dynctl.declare import Debug, Timeout30
from dynctl.faults import say
from dynctl.local import LocalCluster
from dynctl.observe import observe
from dynctl.raising import Raised, Statuses
from dynctl.settings import cluster_path, read_pairs, state_dir, write_pairs

_UP_S = 30.0
_DOWN_S = 30.0  # an agent that drains takes up to 10

Directory = Annotated[
    str | None,
    typer.Option(
        "--dir",
        metavar="D",
        help="Where the cluster lives. Default: $XDG_STATE_HOME/dynctl/local.",
    ),
]
Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="NAME...", help="Only these agents of it, such as local-2."),
]


def up(
    names: Names = None,
    nodes: Annotated[
        str | None,
        typer.Option(
            "--nodes",
            metavar="N",
            help="How many agents; more than there are: the new ones join. Default: 3.",
        ),
    ] = None,
    spare: Annotated[
        str | None,
        typer.Option(
            "--spare",
            metavar="K",
            help="Start K more agents that are in no cluster yet, for dynctl join or replace.",
        ),
    ] = None,
    directory: Directory = None,
    port: Annotated[
        str | None,
        typer.Option(
            "--port",
            metavar="P",
            help="The first agent's port; the others follow. 0: any free ports. Default: 7411.",
        ),
    ] = None,
    timeout: Timeout30 = None,
    debug: Debug = False,
) -> None:
    """Start a durable cluster of real agents on this machine, or what of it does not run.

    It is ready when the command returns. Prints the line that tells a shell where it is; the local
    cluster is also found without it.

    example: eval "$(dynctl up --nodes 3)"
    """
    count = options.read_number(nodes, "--nodes", low=1, high=local.NODES_MAX)
    more = options.read_number(spare, "--spare", low=1, high=local.NODES_MAX)
    first = options.read_number(port, "--port", low=0, high=65_535, default=-1)
    within_s = options.read_timeout(timeout, _UP_S)
    if names and (count or more or first >= 0):
        raise BadRequest("names are of agents that there are; leave out --nodes, --spare, --port")
    deadline = time.monotonic() + within_s
    home = _home(directory)
    with local.locked(home, within_s=within_s):
        cluster, is_new = _cluster(home, count, first)
        spares = cluster.extend(more) if more else []
        with Raised(cluster, is_new=is_new, deadline=deadline) as raised:
            joining = _raise(raised, names, grow=count > 0, spares=spares)
    if joining:  # it may last: others may start and stop single agents meanwhile
        with raised:
            raised.join(joining)
    members = _members(cluster, _present_ring(cluster))
    endpoints = ",".join(cluster.addresses[name] for name in members)
    write_pairs(cluster_path(), {"dir": str(home), "endpoints": endpoints})
    _tell(cluster, raised, members)
    say(f"data and logs: {home}; stop it with: dynctl down{_dir_flag(directory)}")
    streams.emit_text(f"export DYNCTL_ENDPOINTS={endpoints}\n")


def down(
    names: Names = None,
    directory: Directory = None,
    purge: Annotated[
        bool,
        typer.Option(
            "--purge", help="Remove the data as well, for good. With NAME: of former members."
        ),
    ] = False,
    kill: Annotated[
        bool, typer.Option("--kill", help="kill -9, as if the power failed, to see what happens.")
    ] = False,
    timeout: Timeout30 = None,
    debug: Debug = False,
) -> None:
    """Stop the cluster that `dynctl up` started in this --dir, cleanly; its data stays for the next
    up.

    example: dynctl down --purge
    """
    within_s = options.read_timeout(timeout, _DOWN_S)
    home = _home(directory)
    if not home.exists():
        say(f"dynctl: down: there is no cluster in {home}")
        _forget(home)
        return
    with local.locked(home, within_s=within_s):
        cluster = local.load(home)
        if cluster is None:
            raise Refused(f"{home} holds no cluster of dynctl up; name its --dir")
        if purge:
            local.check_ours(cluster)
        chosen = names or list(cluster.addresses)
        _check_names(cluster, chosen)
        if purge and names:
            _check_no_members(cluster, names)
        if kill:
            running = [name for name in chosen if cluster.holder(name) is not None]
            local.kill(cluster, chosen, within_s=within_s)
        else:
            running = local.stop(cluster, chosen, within_s=within_s)
        if not names:
            _forget(home)
        if purge:
            local.purge(cluster, names or None)
    say(f"stopped: {', '.join(running) if running else 'nothing was running'} (in {home})")
    if purge:
        say(f"removed: {', '.join(names) if names else home}")


# --- up ------------------------------------------------------------------------------------------


def _cluster(home: Path, count: int, first: int) -> tuple[LocalCluster, bool]:
    """The cluster of the directory, or a new one; raises `Refused` if it is not the one asked."""
    cluster = local.load(home)
    if cluster is None:
        port = DEFAULT_PORT if first < 0 else first
        return local.plan(home, nodes=count or 3, port=port), True
    have = len(cluster.addresses)
    if 0 < count < have:
        raise Refused(
            f"the cluster in {home} has {have} agents, not {count}; leave --nodes out, or see: "
            f"dynctl leave --help"
        )
    if first > 0 and not cluster.endpoints[0].endswith(f":{first}"):
        raise Refused(
            f"the cluster in {home} is on {cluster.endpoints[0]}, not on port {first}; leave "
            f"--port out, name another --dir, or remove it with: dynctl down --purge"
        )
    if count > have:
        cluster.extend(count - have)
    return cluster, False


def _raise(
    raised: Raised, names: Collection[str] | None, *, grow: bool, spares: Collection[str]
) -> Statuses:
    """Starts these agents, or all and makes them one cluster. Returns the fresh ones that shall
    join it: if it is to `grow`, all but the `spares`."""
    if names:
        _check_names(raised.cluster, names)
        raised.start(names)
        raised.answers(names)
        raised.wait_used(names)
        return {}
    known = list(raised.cluster.addresses)
    raised.start(known)
    statuses = raised.answers(known)
    ring = raised.form(statuses, spares=spares)
    joining = {
        name: status
        for name, status in statuses.items()
        if status["state"] == "fresh"
        and ring.member(status["node_id"]) is None
        and name not in spares
    }
    if grow and joining:
        raised.wait_used([name for name in known if name not in joining])
        return joining
    raised.wait_ready()
    return {}


def _tell(cluster: LocalCluster, raised: Raised, members: Collection[str]) -> None:
    started = {agent.name for agent in raised.started}
    for name, address in cluster.addresses.items():
        pid = cluster.holder(name)
        if pid is None:
            say(f"{name}  {address}  does not run")
            continue
        was = "started" if name in started else "was running"
        http = f"  metrics on http://{cluster.http[name]}" if name in cluster.http else ""
        spare = "" if name in members else f"  {_spare_words(name, address)}"
        say(f"{name}  {address}  {was}  (pid {pid}){http}{spare}")


def _spare_words(name: str, address: str) -> str:
    """What can be done with an agent that is no member."""
    try:
        with Client([], timeout_s=TIMEOUT_S_DEFAULT, learn_ring=False) as client:
            state = status_of(client, address)["state"]
    except DynagentError as exc:
        return exc.message
    if state == "fresh":
        return f"in no cluster: dynctl join {address}"
    return f"a former member: dynctl down {name} --purge"


# --- both ----------------------------------------------------------------------------------------


def _check_names(cluster: LocalCluster, names: Collection[str]) -> None:
    for name in names:
        if name not in cluster.addresses:
            known = ", ".join(cluster.addresses)
            raise BadRequest(f"no local agent is called {name!r}; choose one of {known}")


def _present_ring(cluster: LocalCluster) -> Ring | None:
    """None if none of them runs that knows one."""
    try:
        return observe(cluster.endpoints, timeout_s=TIMEOUT_S_DEFAULT).ring
    except DynagentError:
        return None


def _members(cluster: LocalCluster, ring: Ring | None) -> list[str]:
    """The names of those that the ring names; all if there is none to ask."""
    if ring is None:
        return list(cluster.addresses)
    addresses = {member.address for member in ring.members}
    return [name for name, address in cluster.addresses.items() if address in addresses]


def _check_no_members(cluster: LocalCluster, names: Collection[str]) -> None:
    """Raises `Refused` if the data of one of them is still needed."""
    ring = _present_ring(cluster)
    if ring is None:
        raise Refused("nobody runs who could tell whether they are members; start the others first")
    for name in names:
        if name in _members(cluster, ring):
            raise Refused(
                f"{name} is a member, its data is a copy that counts; take it out first, with: "
                f"dynctl leave {name}"
            )


def _home(directory: str | None) -> Path:
    return Path(os.path.abspath(directory or os.path.join(state_dir(), "local")))  # noqa: PTH100, PTH118


def _dir_flag(directory: str | None) -> str:
    return f" --dir {directory}" if directory else ""


def _forget(home: Path) -> None:
    """The local cluster is no longer this one."""
    pairs = read_pairs(cluster_path())
    if pairs is not None and pairs.get("dir") == str(home):
        Path(cluster_path()).unlink(missing_ok=True)
