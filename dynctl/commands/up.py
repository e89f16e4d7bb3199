"""`dynctl up` and `dynctl down`: a cluster on this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from dynagent.address import DEFAULT_PORT
from dynagent.client.blocking import TIMEOUT_S_DEFAULT, Client
from dynagent.client.bootstrap import bootstrap, status_of
from dynagent.errors import DynagentError, Refused, TimedOut, Unhealthy
from dynctl import local, options, streams
from dynctl.commands.cluster import check_health
from dynctl.declare import Debug, Timeout30
from dynctl.faults import LocalFailure, say
from dynctl.local import LocalCluster
from dynctl.observe import observe
from dynctl.settings import cluster_path, read_pairs, state_dir, write_pairs
from dynctl.spawn import Started, check_ports, held_back
from dynctl.views.nodes import health_document

_UP_S = 30.0
_DOWN_S = 30.0  # an agent that drains takes up to 10
_POLL_S = 0.05

Directory = Annotated[
    str | None,
    typer.Option(
        "--dir",
        metavar="D",
        help="Where the cluster lives. Default: $XDG_STATE_HOME/dynctl/local.",
    ),
]


def up(
    nodes: Annotated[
        str | None, typer.Option("--nodes", metavar="N", help="How many agents. Default: 3.")
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
    first = options.read_number(port, "--port", low=0, high=65_535, default=-1)
    within_s = options.read_timeout(timeout, _UP_S)
    deadline = time.monotonic() + within_s
    home = _home(directory)
    with local.locked(home, within_s=within_s):
        cluster, is_new = _cluster(home, count, first)
        started = _start(cluster, is_new=is_new, deadline=deadline)
        where = {"dir": str(home), "endpoints": ",".join(cluster.endpoints)}
        write_pairs(cluster_path(), where)
    for name, address in cluster.addresses.items():
        was = "started" if name in started else "was running"
        http = f"  metrics on http://{cluster.http[name]}" if name in cluster.http else ""
        say(f"{name}  {address}  {was}  (pid {cluster.holder(name)}){http}")
    say(f"data and logs: {home}; stop it with: dynctl down{_dir_flag(directory)}")
    streams.emit_text(f"export DYNCTL_ENDPOINTS={','.join(cluster.endpoints)}\n")


def down(
    directory: Directory = None,
    purge: Annotated[
        bool, typer.Option("--purge", help="Remove the data as well, for good.")
    ] = False,
    timeout: Timeout30 = None,
    debug: Debug = False,
) -> None:
    """Stop the cluster that `dynctl up` started, cleanly; its data stays for the next up.

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
        stopped = local.stop(cluster, within_s=within_s)
        _forget(home)
        if purge:
            local.purge(cluster)
    say(f"stopped: {', '.join(stopped) if stopped else 'nothing was running'}")
    if purge:
        say(f"removed: {home}")


# --- up ------------------------------------------------------------------------------------------


def _cluster(home: Path, count: int, first: int) -> tuple[LocalCluster, bool]:
    """The cluster of the directory, or a new one; raises `Refused` if it is not the one asked."""
    cluster = local.load(home)
    if cluster is None:
        port = DEFAULT_PORT if first < 0 else first
        return local.plan(home, nodes=count or 3, port=port), True
    have = len(cluster.addresses)
    if count not in (0, have):
        raise Refused(
            f"the cluster in {home} has {have} nodes, not {count}; leave --nodes out, name another "
            f"--dir, or remove it with: dynctl down --purge"
        )
    if first > 0 and not cluster.endpoints[0].endswith(f":{first}"):
        raise Refused(
            f"the cluster in {home} is on {cluster.endpoints[0]}, not on port {first}; leave "
            f"--port out, name another --dir, or remove it with: dynctl down --purge"
        )
    return cluster, False


def _start(cluster: LocalCluster, *, is_new: bool, deadline: float) -> list[str]:
    """Starts what does not run and makes it one cluster; returns the names of those started.

    If it fails, what was started is stopped again, and of a new cluster nothing is left.
    """
    stopped = [name for name in cluster.addresses if cluster.holder(name) is None]
    check_ports({name: cluster.addresses[name] for name in stopped})
    cluster.choose_http(stopped)
    started: list[Started] = []
    try:
        if stopped:
            cluster.save()
        for name in stopped:
            home, http = cluster.directory / name, cluster.http[name]
            with held_back():
                started.append(Started(name, cluster.addresses[name], http, home))
        _make_ready(cluster, started, deadline)
    except BaseException:
        for agent in started:
            agent.stop(within_s=5.0)
        if is_new:
            local.purge(cluster)
        raise
    return stopped


def _make_ready(cluster: LocalCluster, started: Sequence[Started], deadline: float) -> None:
    statuses = _wait_for_answers(cluster, started, deadline)
    _check_one_cluster(cluster, statuses)
    if any(status["state"] == "fresh" for status in statuses.values()):
        n = min(3, len(cluster.addresses))
        quorum = n // 2 + 1
        bootstrap(cluster.endpoints, n=n, r=quorum, w=quorum, timeout_s=TIMEOUT_S_DEFAULT)
    while True:
        _check_alive(started)
        seen = observe(cluster.endpoints, timeout_s=TIMEOUT_S_DEFAULT)
        addresses = {member.address for member in seen.ring.members}
        if addresses != set(cluster.endpoints):
            raise Refused(
                f"the agents in {cluster.directory} belong to another cluster "
                f"({seen.ring.cluster_id.hex()}: {', '.join(sorted(addresses))})"
            )
        try:
            check_health(health_document(seen))
            return
        except Unhealthy as exc:
            _check_time(deadline, exc)


def _wait_for_answers(
    cluster: LocalCluster, started: Sequence[Started], deadline: float
) -> dict[str, dict[str, Any]]:
    """The status of every agent, once each has answered."""
    statuses: dict[str, dict[str, Any]] = {}
    with Client(cluster.endpoints, timeout_s=TIMEOUT_S_DEFAULT, learn_ring=False) as client:
        for name, address in cluster.addresses.items():
            while name not in statuses:
                _check_alive(started)
                try:
                    status = status_of(client, address)
                except DynagentError as exc:
                    _check_time(deadline, exc)
                    continue
                if status["about"]["name"] != name:
                    raise LocalFailure(
                        f"another agent ({status['about']['name']}) answers at {address}; choose "
                        f"other ports with --port"
                    )
                statuses[name] = status
    return statuses


def _check_one_cluster(cluster: LocalCluster, statuses: dict[str, dict[str, Any]]) -> None:
    """Raises `Refused` if the agents' data directories are of different clusters."""
    names: dict[bytes, str] = {}
    for name, status in statuses.items():
        if status["cluster_id"]:
            names.setdefault(status["cluster_id"], name)
    if len(names) > 1:
        told = ", ".join(f"{name} is of {id_.hex()}" for id_, name in names.items())
        raise Refused(f"data directories of different clusters in {cluster.directory}: {told}")


def _check_alive(started: Sequence[Started]) -> None:
    for agent in started:
        agent.check()


def _check_time(deadline: float, why: DynagentError) -> None:
    """A pause, unless the time is over."""
    if time.monotonic() + _POLL_S >= deadline:
        raise TimedOut(why.message) from why
    time.sleep(_POLL_S)


# --- both ----------------------------------------------------------------------------------------


def _home(directory: str | None) -> Path:
    return Path(os.path.abspath(directory or os.path.join(state_dir(), "local")))  # noqa: PTH100, PTH118


def _dir_flag(directory: str | None) -> str:
    return f" --dir {directory}" if directory else ""


def _forget(home: Path) -> None:
    """The local cluster is no longer this one."""
    pairs = read_pairs(cluster_path())
    if pairs is not None and pairs.get("dir") == str(home):
        Path(cluster_path()).unlink(missing_ok=True)
