"""Agents in network namespaces of their own, and the ways to break the network between them.

    hub    a namespace with one bridge; the test's own side, outside of every cut
    n1 …   a namespace each, with one veth to the bridge: 10.77.0.1, 10.77.0.2, …

The hub is a namespace too, so no address, interface or rule of the machine is touched, and several
runs do not meet. Rules live in the namespace of the *target*: what a source sends is dropped, lost
by chance, or answered with a reset when it arrives there.

While `Network` is open the calling thread is in the hub, and so are threads and processes that it
starts. `inside(node)` moves the thread further into a node's namespace: what dials from there is
cut off as that node is. (Python has no setns before 3.12; libc has.)

All that the module makes has the prefix `dynt<pid>-`, and goes when the context ends. What a run
has left that was killed itself is removed by the next one, with the agents in it.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.real.cluster import ROOT, RealAgent, RealCluster
from tests.real.shapes import Cut, Shape
from tests.real.tools import has_tool, run_tool

_CLONE_NEWNET = 0x40000000
_PORT = 7411  # each agent has an address of its own
DROP = ("-j", "DROP")
RESET = ("-p", "tcp", "-j", "REJECT", "--reject-with", "tcp-reset")


def why_not() -> str:
    """Why this machine cannot make namespaces; empty if it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [name for name in ("ip", "iptables", "iptables-restore") if not has_tool(name)]
    return f"not installed: {', '.join(missing)}" if missing else ""


def loss(share: float) -> tuple[str, ...]:
    """What `Network.rule` takes: that share of the packets is lost."""
    return ("-m", "statistic", "--mode", "random", "--probability", f"{share:g}", "-j", "DROP")


class Network:
    """The namespaces of some nodes, whole until it is told otherwise."""

    def __init__(self, nodes: list[str]) -> None:
        self.nodes = nodes
        self._prefix = f"dynt{os.getpid()}-"
        self._rules: dict[Cut, tuple[str, ...]] = {}
        self._made: list[str] = []
        self._home = -1

    def __enter__(self) -> Network:
        _remove_orphans()
        try:
            self._make("hub")
            self._ip("hub", "link", "add", "bridge", "type", "bridge")
            self._ip("hub", "addr", "add", "10.77.0.254/24", "dev", "bridge")
            self._ip("hub", "link", "set", "bridge", "up")
            for node in self.nodes:
                self._make(node)
                there = self._prefix + node
                self._ip(
                    "hub", "link", "add", node, *f"type veth peer uplink netns {there}".split()
                )
                self._ip("hub", "link", "set", node, "master", "bridge", "up")
                self._ip(node, "addr", "add", f"{self.ip_of(node)}/24", "dev", "uplink")
                self._ip(node, "link", "set", "uplink", "up")
            self._home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
            _enter(self._prefix + "hub")
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self._remove()

    def ip_of(self, node: str) -> str:
        return f"10.77.0.{self.nodes.index(node) + 1}"

    def command_in(self, node: str) -> list[str]:
        """What goes before a command that shall run in that namespace, as the same process."""
        return ["ip", "netns", "exec", self._prefix + node]

    @contextmanager
    def inside(self, node: str) -> Iterator[None]:
        """This thread dials from there meanwhile."""
        back = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            _enter(self._prefix + node)
            yield
        finally:
            _set_namespace(back)
            os.close(back)

    # --- how it is broken ------------------------------------------------------------------------

    def cut(self, shape: Shape) -> None:
        """Exactly these cuts, from now on; nothing is told to either end."""
        self.rule(shape, DROP)

    def heal(self) -> None:
        self.rule(frozenset(), DROP)

    def rule(self, shape: Shape, action: tuple[str, ...]) -> None:
        """Each target does that to all packets of its sources: `DROP`, `RESET` or `loss(p)`."""
        rules = dict.fromkeys(shape, action)
        changed = {target for (_, target), _ in rules.items() ^ self._rules.items()}
        self._rules = rules
        for target in sorted(changed):
            self._restore(target)

    def _restore(self, target: str) -> None:
        """All of its rules at once: no moment shows half of them."""
        lines = [
            " ".join(("-A", "INPUT", "-s", self.ip_of(source), *action))
            for (source, to), action in sorted(self._rules.items())
            if to == target
        ]
        given = "\n".join(["*filter", ":INPUT ACCEPT [0:0]", *lines, "COMMIT", ""])
        run_tool(*self.command_in(target), "iptables-restore", given=given)

    # --- making and removing ---------------------------------------------------------------------

    def _make(self, node: str) -> None:
        run_tool("ip", "netns", "add", self._prefix + node)
        self._made.append(node)
        self._ip(node, "link", "set", "lo", "up")

    def _ip(self, node: str, *words: str) -> None:
        run_tool("ip", "-netns", self._prefix + node, *words)

    def _remove(self) -> None:
        if self._home >= 0:
            _set_namespace(self._home)
            os.close(self._home)
            self._home = -1
        while self._made:  # the hub comes last; interfaces go with their namespaces
            with suppress(OSError):
                run_tool("ip", "netns", "del", self._prefix + self._made.pop())


@contextmanager
def namespace_cluster(
    directory: Path, count: int, *flags: str, partitions: int = 64, source: Path = ROOT
) -> Iterator[tuple[RealCluster, Network]]:
    """Agents n1, n2, … in a namespace each, bootstrapped; the caller's thread is in the hub."""
    with Network([f"n{place + 1}" for place in range(count)]) as network:
        agents = [
            RealAgent(
                directory / node,
                node,
                _PORT,
                "--insecure-bind",
                *flags,
                source=source,
                ip=network.ip_of(node),
                within=network.command_in(node),
            )
            for node in network.nodes
        ]
        with RealCluster(directory, count, partitions=partitions, agents=agents) as cluster:
            yield cluster, network


def _remove_orphans() -> None:
    """Namespaces of ours whose maker is no more."""
    for line in run_tool("ip", "netns", "list").splitlines():
        name = line.split()[0]
        found = re.fullmatch(r"dynt(\d+)-\w+", name)
        if found is None or Path(f"/proc/{found[1]}").exists():
            continue
        with suppress(OSError):  # another run may be about it as well
            for pid in run_tool("ip", "netns", "pids", name).split():
                os.kill(int(pid), signal.SIGKILL)
            run_tool("ip", "netns", "del", name)


def _enter(name: str) -> None:
    there = os.open(f"/run/netns/{name}", os.O_RDONLY)
    try:
        _set_namespace(there)
    finally:
        os.close(there)


def _set_namespace(descriptor: int) -> None:
    """Of this thread only."""
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")
