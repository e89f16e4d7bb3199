"""Dynamo §6.3: shopping carts, and how many versions their readers see.

A session reads a cart, adds an item to all that it sees, and puts it back with the context. Which
cart is skewed. Two sessions may have one cart at once, and a few puts come from a device that read
the cart long ago (a stale context); its owner looks at the cart again right after. Reads of carts
that do not exist yet are not counted. In the paper 99.94 % of reads saw one version.
"""

from __future__ import annotations

import random
import tempfile
import threading
from collections import Counter
from pathlib import Path

from dynagent.client.blocking import Client
from dynagent.client.requests import Result
from tests.acceptance.points import Say, hold
from tests.real.cluster import RealCluster

SECONDS = 600.0
SESSIONS = 4  # at once
CARTS = 50_000
SKEW = 0.5  # cart number k is chosen in proportion to k^-SKEW
STALE_SHARE = 1 / 10_000  # of the puts
ONE_VERSION_MIN = 0.9994


def run(share: float, say: Say) -> dict[str, object]:
    with (
        tempfile.TemporaryDirectory() as directory,
        RealCluster(Path(directory), 3, partitions=256) as cluster,
    ):
        shop = _Shop(cluster)
        shop.run(max(8.0, SECONDS * share))
        lost = shop.lost()
    seen, reads = shop.seen, shop.seen.total()
    told = {str(count): f"{seen[count] / reads:.5%}" for count in (1, 2, 3, 4)}
    say(
        f"carts: {reads:,} reads, versions seen: {told}; {shop.stale} stale puts, {lost} items lost"
    )
    hold(not lost, f"{lost} items that were added to a cart are not in it")
    hold(shop.stale == 0 or reads > seen[1], "stale puts were made, and nobody saw two versions")
    others = reads - seen[1]
    allowed = (1 - ONE_VERSION_MIN) * reads
    if share < 1.0:
        allowed += 4 * allowed**0.5  # chance counts where reads are few
    hold(others <= allowed, f"{others} of {reads:,} reads saw more than one version")
    return {
        "reads": reads,
        "seen": told,
        "more_than_four": sum(v for k, v in seen.items() if k > 4),
    }


class _Shop:
    """Sessions in threads, and what each cart must hold."""

    def __init__(self, cluster: RealCluster) -> None:
        self._cluster = cluster
        self.seen: Counter[int] = Counter()
        self.stale = 0
        self._added: dict[bytes, set[bytes]] = {}  # cart → items that must be in it
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._crash: BaseException | None = None

    def run(self, seconds: float) -> None:
        threads = [threading.Thread(target=self._guard, args=(n,)) for n in range(SESSIONS)]
        for thread in threads:
            thread.start()
        self._stopped.wait(seconds)
        self._stopped.set()
        for thread in threads:
            thread.join()
        if self._crash is not None:
            raise self._crash

    def lost(self) -> int:
        """Items that were added and are in no version of their cart."""
        with self._cluster.client() as client:
            return sum(
                len(items - _items(client.get(cart))) for cart, items in sorted(self._added.items())
            )

    def _guard(self, number: int) -> None:
        try:
            with self._cluster.client() as client:
                self._shop(client, random.Random(number), number)
        except BaseException as exc:
            self._crash = exc
            self._stopped.set()

    def _shop(self, client: Client, dice: random.Random, number: int) -> None:
        forgotten: tuple[bytes, Result] | None = None  # what a device at home has read
        again = b""
        done = 0
        while not self._stopped.is_set():
            done += 1
            cart = again or b"cart/%d" % int(CARTS * dice.random() ** (1 / (1 - SKEW)))
            again = b""
            found = client.get(cart)
            if found.versions:
                with self._lock:
                    self.seen[len(found.versions)] += 1
            self._add(client, cart, found, b"%d.%d" % (number, done))
            if forgotten is None:
                forgotten = cart, found
            elif dice.random() < STALE_SHARE:
                again, stale = forgotten
                self._add(client, again, stale, b"%d.%d.stale" % (number, done))
                self.stale += 1
                forgotten = None

    def _add(self, client: Client, cart: bytes, found: Result, item: bytes) -> None:
        items = _items(found)
        client.put(cart, b" ".join(sorted(items | {item})), context=found.context)
        with self._lock:
            self._added.setdefault(cart, set()).add(item)


def _items(found: Result) -> set[bytes]:
    return {item for version in found.versions for item in version.value.split()}
