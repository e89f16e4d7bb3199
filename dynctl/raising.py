"""From agents' processes to a cluster that serves: what `dynctl up` does.

An agent of the directory is a *member* if the ring names it, else a *spare*: fresh, in no cluster
yet, or no longer in this one.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

from dynagent.client.blocking import TIMEOUT_S_DEFAULT, Client
from dynagent.client.bootstrap import bootstrap, member_of, status_of
from dynagent.client.changes import plan_join
from dynagent.client.guards import check_possible
from dynagent.core.ring import Ring
from dynagent.errors import DynagentError, NotReady, Refused, TimedOut, Unhealthy
from dynctl import changing, local, settling
from dynctl.commands.cluster import check_health
from dynctl.faults import LocalFailure, say
from dynctl.local import LocalCluster
from dynctl.observe import first_ring, observe
from dynctl.spawn import Started, check_ports, held_back
from dynctl.views.nodes import health_document

_POLL_S = 0.05
_STOP_S = 5.0

Statuses = dict[str, dict[str, Any]]  # by name


class Raised:
    """Agents that have been started: if what follows fails, they are stopped again, and of a new
    cluster nothing is left; but nobody who may be a member by then is ever stopped."""

    def __init__(self, cluster: LocalCluster, *, is_new: bool, deadline: float) -> None:
        self.cluster = cluster
        self.started: list[Started] = []
        self._is_new = is_new
        self._has_begun = False
        self._are_members = False
        self._deadline = deadline

    def __enter__(self) -> Raised:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_exc: object) -> None:
        if kind is None or self._are_members:
            return
        for agent in self.started:
            agent.stop(within_s=_STOP_S)
        if self._is_new and self._has_begun:
            local.purge(self.cluster)

    def start(self, names: Collection[str]) -> None:
        """Those of them that do not run. Raises `LocalFailure` if a port is taken."""
        cluster = self.cluster
        stopped = [name for name in names if cluster.holder(name) is None]
        check_ports({name: cluster.addresses[name] for name in stopped})
        self._has_begun = True
        cluster.choose_http(stopped)
        if stopped:
            cluster.save()
        for name in stopped:
            home, http = cluster.directory / name, cluster.http[name]
            with held_back():
                self.started.append(Started(name, cluster.addresses[name], http, home))

    def answers(self, names: Collection[str]) -> Statuses:
        """The status of each of them, once all have answered, of one cluster or of none."""
        statuses = self._wait_for_answers(names)
        self._check_one_cluster(statuses)
        return statuses

    def form(self, statuses: Statuses, *, spares: Collection[str]) -> Ring:
        """Makes them one cluster unless they are; the ring. `spares` shall stay out of it."""
        founders = [name for name in statuses if name not in spares]
        if all(statuses[name]["state"] == "fresh" for name in founders):
            n = min(3, len(founders))
            quorum = n // 2 + 1
            addresses = [self.cluster.addresses[name] for name in founders]
            made = bootstrap(addresses, n=n, r=quorum, w=quorum, timeout_s=TIMEOUT_S_DEFAULT)
            return made.ring
        with Client([], timeout_s=TIMEOUT_S_DEFAULT, learn_ring=False) as client:
            _, ring = first_ring(client, self.cluster.endpoints)
        strange = [m.address for m in ring.members if m.address not in self.cluster.endpoints]
        if strange:
            raise Refused(
                f"the agents in {self.cluster.directory} belong to another cluster "
                f"({ring.cluster_id.hex()}, with {', '.join(sorted(strange))})"
            )
        self._call_in(statuses, ring)
        return ring

    def _call_in(self, statuses: Statuses, ring: Ring) -> None:
        """A bootstrap or a join that was cut short: members that have not heard of it."""
        waiting = {
            status["node_id"]
            for status in statuses.values()
            if status["state"] == "fresh" and ring.member(status["node_id"]) is not None
        }
        if waiting and ring.epoch == 1:
            bootstrap([m.address for m in ring.members], timeout_s=TIMEOUT_S_DEFAULT)
        elif waiting:
            with Client([], timeout_s=TIMEOUT_S_DEFAULT, learn_ring=False) as client:
                changing.invite(client, ring, sorted(waiting))

    def join(self, statuses: Statuses) -> None:
        """Makes these fresh agents members, all in one change; waits until it is settled, if there
        is time for that."""
        seen = observe(self.cluster.endpoints, timeout_s=TIMEOUT_S_DEFAULT)
        fresh = {status["node_id"]: status for status in statuses.values()}
        members = [member_of(status) for status in fresh.values()]
        plan = plan_join(seen.ring, members, id=changing.new_id())
        check_possible(plan, [*changing.up(seen), *fresh])
        self._are_members = True  # for all that we know, whatever becomes of the question
        epoch = changing.begin(seen, plan, list(fresh))
        self.wait_used(statuses)
        left_s = max(self._deadline - time.monotonic(), _POLL_S)
        try:
            settling.wait_settled("up", seen, epoch=epoch, timeout_s=left_s)
        except TimedOut as exc:
            say(f"they are members, and partitions still move to them: {exc.message}")

    def wait_ready(self) -> None:
        """Until all members serve and are linked with each other."""
        while True:
            self._check_alive()
            seen = observe(self.cluster.endpoints, timeout_s=TIMEOUT_S_DEFAULT)
            try:
                check_health(health_document(seen))
                return
            except Unhealthy as exc:
                self._check_time(exc)

    def wait_used(self, names: Collection[str]) -> None:
        """Until those of them that are members are linked with all members that answer."""
        while True:
            self._check_alive()
            try:
                seen = observe(self.cluster.endpoints, timeout_s=TIMEOUT_S_DEFAULT)
            except NotReady:
                return  # spares, and none of the cluster runs
            views = [one.status["up"] for one in seen.members if one.status is not None]
            wanted = {self.cluster.addresses[name] for name in names}
            unused = [
                one.member.name
                for one in seen.members
                if one.member.address in wanted
                and one.status is not None  # else it has died since, and is not waited for
                and not all(one.member.id in up for up in views)
            ]
            if not unused:
                return
            self._check_time(Unhealthy(f"{', '.join(unused)} is not linked with all others"))

    def _wait_for_answers(self, names: Collection[str]) -> Statuses:
        statuses: Statuses = {}
        with Client([], timeout_s=TIMEOUT_S_DEFAULT, learn_ring=False) as client:
            for name in names:
                address = self.cluster.addresses[name]
                while name not in statuses:
                    self._check_alive()
                    try:
                        status = status_of(client, address)
                    except DynagentError as exc:
                        self._check_time(exc)
                        continue
                    if status["about"]["name"] != name:
                        raise LocalFailure(
                            f"another agent ({status['about']['name']}) answers at {address}; "
                            f"choose other ports with --port"
                        )
                    statuses[name] = status
        return statuses

    def _check_one_cluster(self, statuses: Statuses) -> None:
        """Raises `Refused` if the agents' data directories are of different clusters."""
        names: dict[bytes, str] = {}
        for name, status in statuses.items():
            if status["cluster_id"]:
                names.setdefault(status["cluster_id"], name)
        if len(names) > 1:
            told = ", ".join(f"{name} is of {id_.hex()}" for id_, name in names.items())
            raise Refused(
                f"data directories of different clusters in {self.cluster.directory}: {told}"
            )

    def _check_alive(self) -> None:
        for agent in self.started:
            agent.check()

    def _check_time(self, why: DynagentError) -> None:
        """A pause, unless the time is over."""
        if time.monotonic() + _POLL_S >= self._deadline:
            raise TimedOut(why.message) from why
        time.sleep(_POLL_S)
