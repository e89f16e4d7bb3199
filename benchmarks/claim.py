"""CPU seconds of `claim.plan` at 100 nodes and 1,024 partitions, N=3.

    python -m benchmarks.claim [--partitions Q]

Prints a line for each change: seconds to plan, seconds to certify, places moved, simple bound,
first owners changed. Certifying is part of the run, so a wrong plan ends it.
"""

import argparse
import random
import time
from collections.abc import Sequence

from dynagent.core.claim import Plan, certify, plan
from dynagent.core.ports import NodeId
from dynagent.core.ring import Member

_NODES = 100
_N = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--partitions", type=int, default=1024, metavar="Q")
    partitions: int = parser.parse_args().partitions
    plain = [_member(number) for number in range(_NODES)]
    joining = [_member(_NODES + number) for number in range(20)]
    dice = random.Random(2007)
    mixed = [
        _member(
            number,
            capacity=dice.randint(1, 8),
            host=f"host-{number % 50}",
            zone=f"zone-{number % 5}",
        )
        for number in range(_NODES)
    ]
    print(f"{'':32} {'plan':>7} {'certify':>8} {'moved':>6} {'bound':>6} {'firsts':>6}")
    base = _measure("bootstrap", plain, partitions)
    _measure("join 1", plain + joining[:1], partitions, base)
    _measure("leave 1", plain[1:], partitions, base)
    _measure("join 20", plain + joining, partitions, base)
    _measure("leave 20", plain[20:], partitions, base)
    hosts = _measure("50 hosts, 5 zones, capacity 1-8", mixed, partitions)
    _measure("  and leave 1", mixed[1:], partitions, hosts)
    _measure("  from the plain bootstrap", mixed, partitions, base)


def _member(number: int, *, capacity: int = 1, host: str = "", zone: str = "") -> Member:
    return Member(
        id=NodeId(f"{number:016x}"),
        name=f"n{number}",
        address="",
        zone=zone,
        host=host or f"host-{number}",
        capacity=capacity,
    )


def _measure(
    what: str, members: Sequence[Member], partitions: int, before: Plan | None = None
) -> Plan:
    old = before.lists if before else ()
    started = time.process_time()
    made = plan(members=members, partitions=partitions, n=_N, old=old)
    planned = time.process_time()
    certify(made, members=members, partitions=partitions, n=_N, old=old)
    certified = time.process_time()
    print(
        f"{what:32} {planned - started:6.2f}s {certified - planned:7.2f}s"
        f" {made.moved:6} {made.bound:6} {made.first_moved:6}"
    )
    return made


if __name__ == "__main__":
    main()
