"""What a durable put and a get cost in the SQLite engine.

    python -m benchmarks.store [directory]

Prints CPU and wall µs per record of 1 KiB, at 10,000 existing records, for batches of 1, 16, 64 and
256, and the alternatives that the defaults were chosen against: BEGIN and COMMIT around the same
statement, and larger pages. About 25 s. CPU is that of the whole process, the wall time includes
the fsyncs of the given directory's disk (default: the system's temporary directory).
"""

import random
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, process_time

from dynagent.core.ports import Batch, Token
from dynagent.store.sqlite import SqliteStore

RECORDS = 10_000
VALUE_BYTES = 1024
PUTS = 3_000  # of each measurement
BATCH_SIZES = (1, 16, 64, 256)
PAGE_SIZES = (4096, 8192, 16384)
ROUNDS = 3  # the best one counts: others share the machine

DICE = random.Random(1)
KEYS = [(Token(DICE.randbytes(16)), b"user:%018d" % i) for i in range(RECORDS)]
VALUES = [DICE.randbytes(VALUE_BYTES) for _ in range(64)]


def batches(size: int, *, transaction: bool) -> Iterator[Batch]:
    for number in range(min(400, PUTS // size)):
        batch = Batch(number)
        batch.records = [(*place, DICE.choice(VALUES)) for place in DICE.sample(KEYS, size)]
        if transaction:
            batch.meta = [("tree", b"")]  # a named row makes the store use BEGIN and COMMIT
        yield batch


def measure_puts(store: SqliteStore, size: int, *, transaction: bool) -> tuple[float, float]:
    """(CPU, wall) µs per record."""
    prepared = list(batches(size, transaction=transaction))
    cpu, wall = process_time(), perf_counter()
    for batch in prepared:
        store.write(batch)
    cpu, wall = process_time() - cpu, perf_counter() - wall
    records = size * len(prepared)
    return cpu / records * 1e6, wall / records * 1e6


def measure_gets(store: SqliteStore) -> tuple[float, float]:
    places = DICE.sample(KEYS, RECORDS)
    cpu, wall = process_time(), perf_counter()
    for token, key in places:
        store.get(token, key)
    return (process_time() - cpu) / RECORDS * 1e6, (perf_counter() - wall) / RECORDS * 1e6


@contextmanager
def filled_store(directory: Path, page_bytes: int) -> Iterator[SqliteStore]:
    store = SqliteStore(directory / f"store{page_bytes}", page_bytes=page_bytes)
    batch = Batch(0)
    batch.records = [(*place, VALUES[i % 64]) for i, place in enumerate(KEYS)]
    store.write(batch)
    try:
        yield store
    finally:
        store.close()


def main() -> None:
    base = sys.argv[1] if len(sys.argv) > 1 else None
    print(f"{'µs per record: CPU/wall':34}", *(f"{f'batch {size}':>15}" for size in BATCH_SIZES))
    with tempfile.TemporaryDirectory(dir=base) as directory:
        for page_bytes in PAGE_SIZES:
            with filled_store(Path(directory), page_bytes) as store:
                for transaction in (False, True):
                    form = "BEGIN/COMMIT" if transaction else "one statement"
                    cells = []
                    for size in BATCH_SIZES:
                        rounds = [
                            measure_puts(store, size, transaction=transaction)
                            for _ in range(ROUNDS)
                        ]
                        cpu, wall = min(rounds, key=lambda figures: figures[1])
                        cells.append(f"{cpu:6.1f} /{wall:7.1f}")
                    print(f"put, page {page_bytes:5}, {form:14}  ", *cells, flush=True)
                cpu, wall = min(measure_gets(store) for _ in range(ROUNDS))
                print(f"get, page {page_bytes:5}                   {cpu:6.1f} /{wall:7.1f}")


if __name__ == "__main__":
    main()
