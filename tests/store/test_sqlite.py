"""What SQLite promises beyond the contract: real fsyncs, fail-stop, nothing half-written."""

import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path

import pytest

from dynagent import limits
from dynagent.core.ports import Batch, NodeId
from dynagent.errors import CorruptRecord, DataDirError, DynagentError, StoreFailed
from dynagent.store.markers import Hint
from dynagent.store.sqlite import SqliteStore
from dynagent.store.sqlite_file import LOG_PAGES
from tests.store.conformance import (
    FIRST,
    LAST,
    OTHER,
    OWNER,
    Record,
    contents,
    markers,
    token,
    write,
)
from tests.store.crashed import State, state_of
from tests.store.faults import Faults

SAME = token(7)


def _batches() -> list[Batch]:
    """One of each path through `write`: alone, transaction, removal, hints, collision, many."""
    plain: list[Record] = [(token(100 + i), b"key", b"1") for i in range(5)]
    owed: list[Hint] = [(OWNER, token(100 + i), b"key", True) for i in range(3)]
    changed: list[Hint] = [(*owed[0][:3], False), (OTHER, SAME, b"b", True)]
    shapes: list[tuple[list[Record], list[Hint], list[tuple[str, bytes]]]] = [
        (plain, [], []),
        ([(token(100), b"key", b"2"), (SAME, b"a", b"2")], [], [("ring", b"epoch 2")]),
        ([(token(101), b"key", b""), (token(102), b"key", b"3")], owed, []),
        ([(SAME, b"b", b"4"), (token(200), b"key", b"4")], changed, []),
        ([(SAME, b"a", b""), (SAME, b"b", b"5"), (SAME, b"c", b"5")], [], [("ring", b"epoch 5")]),
        ([(token(1_000 + i), b"key", b"6") for i in range(600)], [], []),
        ([], [(OTHER, SAME, b"b", False)], []),
    ]
    batches = []
    for number, (records, hints, meta) in enumerate(shapes, start=1):
        batch = Batch(number)
        batch.records, batch.hints, batch.meta = records, hints, meta
        batch.sums = [(number % 3, b"sums %d" % number), (9, b"9")][: number % 3]
        batches.append(batch)
    return batches


def _states(path: Path) -> list[State]:
    """What the store holds before the first batch and after each one."""
    store = SqliteStore(path)
    states = [state_of(store)]
    for batch in _batches():
        store.write(batch)
        states.append(state_of(store))
    store.close()
    return states


@pytest.mark.plain  # compiled code keeps no cause of an error
@pytest.mark.parametrize("after", [False, True], ids=["before it is done", "after it is done"])
def test_a_failure_of_any_operation_stops_the_store_and_leaves_no_half_batch(
    tmp_path: Path, after: bool
) -> None:
    states = _states(tmp_path / "model")
    fail_at = 0
    struck = True
    while struck:
        fail_at += 1
        path = tmp_path / f"store{fail_at}"
        faults = Faults()
        store = SqliteStore(path, connect=faults.connect)
        faults.arm(fail_at, after=after)
        acknowledged = 0
        try:
            for batch in _batches():
                store.write(batch)
                acknowledged += 1
        except StoreFailed as exc:
            assert isinstance(exc.__cause__, sqlite3.OperationalError)
            assert f"batch {acknowledged + 1} failed: disk I/O error" in exc.message
            done = faults.done
            with pytest.raises(StoreFailed, match="earlier write"):
                write(store, (token(1), b"later", b"x"))
            assert faults.done == done  # the disk was not touched again
        struck = faults.struck
        store.close()
        store = SqliteStore(path)
        allowed = states[acknowledged : acknowledged + (2 if struck else 1)]
        assert state_of(store) in allowed
        store.close()
    assert fail_at > 15


@pytest.mark.parametrize("after", [False, True], ids=["before it is done", "after it is done"])
def test_a_failure_while_opening_is_reported_and_the_next_open_succeeds(
    tmp_path: Path, after: bool
) -> None:
    fail_at = 0
    opened = False
    while not opened:
        fail_at += 1
        path = tmp_path / f"store{fail_at}"
        faults = Faults()
        faults.arm(fail_at, after=after)
        try:
            SqliteStore(path, connect=faults.connect).close()
            opened = True
        except DataDirError as exc:
            assert "injected" in exc.message
        for connection in faults.connections:
            with pytest.raises(sqlite3.ProgrammingError, match="closed"):
                connection.total_changes  # noqa: B018
        store = SqliteStore(path)
        write(store, (SAME, b"a", b"1"), meta=(("ring", b"1"),))
        assert contents(store) == [(SAME, b"a", b"1")]
        store.close()
    assert fail_at > 15


def test_commits_are_fsynced_to_a_write_ahead_log(tmp_path: Path) -> None:
    faults = Faults()
    store = SqliteStore(tmp_path / "store", connect=faults.connect)
    writer, reader = faults.connections

    def ask(connection: sqlite3.Connection, pragma: str) -> int | str:
        answer: int | str = connection.execute(f"PRAGMA {pragma}").fetchone()[0]
        return answer

    full, incremental = 2, 2
    assert ask(writer, "journal_mode") == "wal"
    assert ask(writer, "synchronous") == full
    assert ask(writer, "auto_vacuum") == incremental
    assert ask(writer, "page_size") == 4096
    assert ask(reader, "query_only") == 1
    assert ask(reader, "wal_autocheckpoint") == 0
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.execute("DELETE FROM record")
    store.close()


def test_a_batch_of_records_is_one_statement(tmp_path: Path) -> None:
    faults = Faults()
    store = SqliteStore(tmp_path / "store", connect=faults.connect)
    for rows in (1, 37, 256):
        faults.arm(0, after=False)
        write(store, *((token(i), b"key", b"x" * 1024) for i in range(rows)))
        assert faults.done == 1
    store.close()


def test_what_is_absent_is_found_out_in_the_one_statement_that_reads_ahead(tmp_path: Path) -> None:
    faults = Faults()
    store = SqliteStore(tmp_path / "store", connect=faults.connect)
    write(store, *((token(i), b"key", b"x" * 100) for i in range(0, 200, 2)))
    places = [(token(i), b"key") for i in range(200)]
    faults.arm(0, after=False)
    found = store.read_ahead(places)
    assert [i for i, stored in enumerate(found) if stored] == list(range(0, 200, 2))
    assert found[1::2] == [b""] * 100
    assert faults.done == 1
    assert store.get(token(0), b"another key of that number") is None
    assert faults.done == 2
    store.close()


def test_what_was_not_read_ahead_for_its_size_is_not_taken_for_absent(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store")
    places = [(token(i), b"key") for i in range(8)]
    for place in places:
        write(store, (*place, bytes(limits.MIB)))
    found = store.read_ahead(places)
    assert found == [bytes(limits.MIB)]  # of the others we know nothing
    store.close()


def test_of_a_crowded_number_reading_ahead_says_nothing_also_if_it_ends_early(
    tmp_path: Path,
) -> None:
    store = SqliteStore(tmp_path / "store")
    twins = [(token(1 << 40, tail), b"key") for tail in (1, 2)]
    large = [(token(number << 40), b"key") for number in range(2, 6)]
    for place in [*twins, *large]:
        write(store, (*place, bytes(limits.MIB) if place in large else b"small"))
    write(store, (*twins[0], b""))  # its row is free; the other one stays where it is
    for places in (twins, [*twins, *large], [*large, *twins]):
        found = dict(zip(places, store.read_ahead(places), strict=False))
        assert found.get(twins[0]) is None
        assert found.get(twins[1]) is None
    assert store.get(*twins[1]) == b"small"
    store.close()


def test_a_long_log_is_folded_between_two_writes_and_not_within_one(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store")
    written = 0
    while not store.is_log_long:
        write(store, *((token(written + i), b"key", b"x" * 1024) for i in range(64)))
        written += 64
        assert written <= 4 * LOG_PAGES
    file = tmp_path / "store"
    before = file.stat().st_size
    assert before < written * 1024  # it is in the log yet
    store.fold_log()
    assert file.stat().st_size >= written * 1024
    write(store, (token(0), b"key", b"x" * 1024))
    assert [store.is_log_long] == [False]
    assert store.get(token(0), b"key") == b"x" * 1024
    store.close()


def test_a_log_that_cannot_be_folded_stops_the_store(tmp_path: Path) -> None:
    faults = Faults()
    store = SqliteStore(tmp_path / "store", connect=faults.connect)
    write(store, (token(1), b"key", b"value"))
    faults.arm(1, after=False)
    with pytest.raises(StoreFailed, match="folded"):
        store.fold_log()
    assert not store.is_log_long
    with pytest.raises(StoreFailed):
        write(store, (token(2), b"key", b"value"))
    store.close()


def test_a_batch_with_hints_is_few_statements(tmp_path: Path) -> None:
    faults = Faults()
    store = SqliteStore(tmp_path / "store", connect=faults.connect)
    for rows in (1, 37, 256):
        records = [(token(i), b"key", b"x" * 100) for i in range(rows)]
        hints = [(OWNER, token(i), b"key", rows < 256 or i % 2 == 0) for i in range(rows)]
        faults.arm(0, after=False)
        write(store, *records, hints=hints)
        assert faults.done <= 5  # BEGIN, records, hints added, hints removed, COMMIT
    store.close()


def test_a_file_without_the_table_of_hints_gets_it_when_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "store"
    store = SqliteStore(path)
    write(store, (SAME, b"a", b"1"))
    store.close()
    old = sqlite3.connect(path)
    old.execute("DROP TABLE hint")
    old.commit()
    old.close()
    for _ in range(2):
        store = SqliteStore(path)
        assert contents(store) == [(SAME, b"a", b"1")]
        write(store, (SAME, b"a", b"1"), hints=[(OWNER, SAME, b"a", True)])
        assert markers(store) == {OWNER: [(SAME, b"a")]}
        store.close()


def test_a_damaged_hint_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "store"
    store = SqliteStore(path)
    write(store, hints=[(OWNER, SAME, b"a", True)])
    store.close()
    with_fault = sqlite3.connect(path)
    with_fault.execute("UPDATE hint SET token = x'ff'")
    with_fault.commit()
    store = SqliteStore(path)
    with pytest.raises(CorruptRecord, match=r"store.*damaged"):
        store.hints(OWNER, b"", 1)
    store.close()
    with_fault.execute("UPDATE hint SET target = x'ff'")
    with_fault.commit()
    with_fault.close()
    store = SqliteStore(path)
    with pytest.raises(CorruptRecord, match=r"store.*damaged"):
        store.hint_counts()
    store.close()


def test_an_acknowledged_batch_is_in_the_files_before_the_store_is_closed(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    store = SqliteStore(tmp_path / "old" / "store")
    for batch in _batches():
        store.write(batch)
    expected = contents(store)
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    copy = SqliteStore(tmp_path / "new" / "store")
    assert contents(copy) == expected
    copy.close()
    store.close()


def test_a_scan_left_halfway_does_not_hold_back_the_checkpoint(tmp_path: Path) -> None:
    faults = Faults()
    store = SqliteStore(tmp_path / "store", connect=faults.connect)
    write(store, *((token(i), b"key", b"x" * 100) for i in range(2_000)))
    scan = store.scan(FIRST, LAST)
    for _ in range(700):
        next(scan)
    write(store, (token(1), b"key", b"y"))
    busy, _, _ = faults.connections[0].execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    assert busy == 0
    assert len(list(scan)) == 1_300
    store.close()


def test_a_large_store_estimates_its_count(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store", synchronous="OFF")
    rows = 6_000
    for i in range(0, rows, 250):
        write(
            store,
            *(
                (token((j * 0x9E3779B97F4A7C15) % 2**63), b"k", b"x" * 1024)
                for j in range(i, i + 250)
            ),
        )
    assert 0.6 * rows < store.count() < 1.6 * rows
    alone = store.count()
    for i in range(0, 20_000, 1_000):  # 2 MB of hints beside 6 MB of records
        places = [token((j * 0x9E3779B97F4A7C15) % 2**63) for j in range(i, i + 1_000)]
        write(store, hints=[(OWNER, place, b"k" * 60, True) for place in places])
    assert 0.9 * alone < store.count() < 1.1 * alone
    store.close()


@pytest.mark.parametrize("damage", ["page", "type"])
def test_a_damaged_record_is_corrupt_and_named_not_missing(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "store"
    store = SqliteStore(path)
    write(store, (SAME, b"precious", b"x" * 100), meta=(("ring", b"x"),))
    store.close()
    with_fault = sqlite3.connect(path)
    if damage == "type":
        with_fault.execute("UPDATE record SET value = 5")
        with_fault.execute("UPDATE meta SET value = 5")
        with_fault.commit()
        with_fault.close()
    else:
        pages = [
            with_fault.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (t,))
            for t in ("record", "meta")
        ]
        numbers = [cursor.fetchone()[0] for cursor in pages]
        with_fault.close()
        with path.open("r+b") as file:
            for number in numbers:
                file.seek((number - 1) * 4096)
                file.write(b"\xa5" * 4096)
    store = SqliteStore(path)
    with pytest.raises(CorruptRecord, match=r"store.*precious"):
        store.get(SAME, b"precious")
    with pytest.raises(CorruptRecord, match="ring"):
        store.get_meta("ring")
    assert not any(store.read_ahead([(SAME, b"precious"), (token(0), b"absent")]))
    if damage == "type":
        assert contents(store) == [(SAME, b"precious", b"")]
    else:
        with pytest.raises(CorruptRecord, match="store"):
            contents(store)
    store.close()


def test_a_row_that_has_lost_its_key_is_shown_and_can_be_removed(tmp_path: Path) -> None:
    path = tmp_path / "store"
    store = SqliteStore(path)
    places = [token(number << 40, 77) for number in range(1, 4)]
    write(store, *((place, b"key", b"x") for place in places))
    store.close()
    with_fault = sqlite3.connect(path)
    with_fault.execute("UPDATE record SET key = 'text' WHERE id = ?", (2 << 40,))
    with_fault.commit()
    with_fault.close()
    store = SqliteStore(path)
    (one, keyless, three) = contents(store)
    assert (one, three) == ((places[0], b"key", b"x"), (places[2], b"key", b"x"))
    assert keyless[0][:8] == places[1][:8]
    assert keyless[1:] == (b"", b"")
    batch = Batch(2)
    batch.strays += [(keyless[0], b""), (places[0], b"")]
    store.write(batch)
    assert contents(store) == [one, three]
    store.close()


def test_a_row_out_of_order_is_damage_and_not_the_end_of_a_scan(tmp_path: Path) -> None:
    path = tmp_path / "store"
    store = SqliteStore(path)
    write(store, *((token(number << 40), b"key", b"x") for number in range(16, 24)))
    store.close()
    data = path.read_bytes()
    right = _varint(19 << 40)
    for wrong, first in ((25 << 40, token(17 << 40)), (9 << 40, FIRST)):
        assert data.count(right) == 1
        path.write_bytes(data.replace(right, _varint(wrong)))
        store = SqliteStore(path)
        with pytest.raises(CorruptRecord, match="out of order"):
            list(store.scan(first, token(21 << 40)))
        store.close()


@pytest.mark.parametrize("is_crowded", [False, True])
def test_no_scan_goes_around_for_ever_whatever_number_a_row_has(
    tmp_path: Path, is_crowded: bool
) -> None:
    path = tmp_path / "store"
    store = SqliteStore(path)
    numbers = range(16, 24)
    write(store, *((token(number << 40), b"key %d" % number, b"x") for number in numbers))
    if is_crowded:  # two keys with one number, somewhere else: pages are read by another statement
        write(store, *((token(1 << 40, tail), b"key", b"x") for tail in (1, 2)))
    store.close()
    data = path.read_bytes()
    right = _varint(19 << 40)
    assert data.count(right) == 1
    for wrong in range(12, 28):
        path.write_bytes(data.replace(right, _varint(wrong << 40)))
        store = SqliteStore(path)
        for start in range(12, 28):
            with suppress(CorruptRecord):
                rows = list(islice(store.scan(token(start << 40), token(26 << 40)), 20))
                places = [place for place, _, _ in rows]
                assert places == sorted(set(places))
                assert not places or places[0] >= token(start << 40)
        store.close()


def test_hints_out_of_order_are_damage(tmp_path: Path) -> None:
    path = tmp_path / "store"
    store = SqliteStore(path)
    batch = Batch(1)
    target = NodeId("n1")
    batch.hints += [(target, token(number << 40), b"key", True) for number in range(16, 24)]
    store.write(batch)
    store.close()
    data = path.read_bytes()
    right = token(19 << 40)
    assert data.count(right) == 1
    for wrong in (token(12 << 40), token(27 << 40)):
        path.write_bytes(data.replace(right, wrong))
        store = SqliteStore(path)
        with pytest.raises(CorruptRecord, match="damaged"):
            store.hints(target, b"", 10)
        store.close()


def test_a_damaged_file_cannot_be_counted(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store")
    store.close()
    with pytest.raises(CorruptRecord, match="count"):
        store.count()


def test_a_file_that_is_not_ours_is_refused_and_left_alone(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_bytes(b"not a database, but long enough to be looked at\n" * 100)
    before = text.read_bytes()
    with pytest.raises(DataDirError, match="not a database"):
        SqliteStore(text)
    assert text.read_bytes() == before
    foreign = tmp_path / "foreign"
    connection = sqlite3.connect(foreign)
    connection.execute("CREATE TABLE customer(name)")
    connection.close()
    before = foreign.read_bytes()
    with pytest.raises(DataDirError, match="another program"):
        SqliteStore(foreign)
    assert foreign.read_bytes() == before


def test_a_file_of_an_unknown_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store"
    SqliteStore(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version=2")
    connection.close()
    with pytest.raises(DataDirError, match="format 2"):
        SqliteStore(path)


def test_a_snapshot_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "store")
    write(store, (SAME, b"a", b"1"))
    with pytest.raises(DynagentError, match="snapshot"):
        store.snapshot(tmp_path / "absent" / "copy")
    (tmp_path / "copy.partial").write_bytes(b"left by a crash")
    store.snapshot(tmp_path / "copy")
    assert sorted(path.name for path in tmp_path.glob("copy*")) == ["copy"]
    assert store.get(SAME, b"a") == b"1"
    store.close()


_WRITER = """
import resource
import sys
from pathlib import Path
from dynagent.store.sqlite import SqliteStore
from dynagent.store.sqlite_file import LOG_PAGES
from dynagent.errors import StoreFailed
from tests.store.conformance import token, write

file_bytes_max = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes_max, file_bytes_max))
store = SqliteStore(Path(sys.argv[1]))
number = 0
while True:
    number += 1
    # Batches alternate between the lone statement and the transaction; each writes key 0 anew.
    rows = [(token(number * 10 + i), b"key", b"%d" % number * 200) for i in range(1, 4)]
    meta = (("last", b"%d" % number),) if number % 2 else ()
    try:
        write(store, (token(0), b"latest", b"%d" % number), *rows, meta=meta, number=number)
    except StoreFailed:
        print("failed", flush=True)
        break
    print(number, flush=True)
"""


def _check_acknowledged(path: Path, acknowledged: int) -> None:
    store = SqliteStore(path)
    latest = int(store.get(token(0), b"latest") or b"0")
    # The one batch that was under way may be there too, then whole.
    assert latest in (acknowledged, acknowledged + 1)
    for number in range(1, latest + 1):
        for i in range(1, 4):
            assert store.get(token(number * 10 + i), b"key") == b"%d" % number * 200
    assert len(contents(store)) == 1 + 3 * latest
    store.close()


@pytest.mark.parametrize("acknowledgements", [1, 150, 700])
def test_all_acknowledged_batches_survive_kill_9(tmp_path: Path, acknowledgements: int) -> None:
    path = tmp_path / "store"
    writer = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(path), str(1 << 30)],
        stdout=subprocess.PIPE,
        text=True,
    )
    with writer:
        assert writer.stdout is not None
        for _ in range(acknowledgements):
            line = writer.stdout.readline()
        writer.kill()
        for rest in writer.stdout:  # what it had acknowledged before the signal arrived
            if rest.endswith("\n"):
                line = rest
    assert writer.returncode == -signal.SIGKILL
    _check_acknowledged(path, int(line))


def test_a_full_disk_stops_the_store_and_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "store"
    done = subprocess.run(
        [sys.executable, "-c", _WRITER, str(path), str(1 << 20)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    lines = done.stdout.split()
    assert lines[-1] == "failed"
    _check_acknowledged(path, int(lines[-2]))


def _varint(number: int) -> bytes:
    """As SQLite writes the number of a row."""
    parts = [number & 0x7F]
    while number := number >> 7:
        parts.append(number & 0x7F | 0x80)
    return bytes(reversed(parts))


# --- the journal of the trees' sums --------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    ["SET key = x'00'", "SET key = 'text'", "SET value = 'text'"],
)
def test_a_damaged_numbered_row_is_refused_and_replaced_by_the_next(
    tmp_path: Path, damage: str
) -> None:
    path = tmp_path / "store"
    store = SqliteStore(path)
    write(store, (token(1), b"key", b"stored"), sums=[(0, b"head"), (1, b"one")])
    store.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"UPDATE record {damage} WHERE id = -2")
        connection.commit()
    store = SqliteStore(path)
    with pytest.raises(CorruptRecord, match="row -2 is damaged"):
        store.sums()
    write(store, (token(1), b"key", b"newer"), sums=[(1, b"two")])
    assert dict(store.sums()) == {0: b"head", 1: b"two"}
    assert contents(store) == [(token(1), b"key", b"newer")]
    store.close()
