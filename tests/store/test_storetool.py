"""`dynagent store check` and `dynagent store damage`, on both engines."""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dynagent.core.entry import Record, decode_stored, encode_sibling, encode_stored
from dynagent.core.logrows import RING_ROW
from dynagent.core.ports import Batch, NodeId, PartitionId, Token
from dynagent.core.ring import Member, Ring, token_of
from dynagent.core.ringcodec import encode_ring
from dynagent.core.salvage import FIRST, LAST, Gap, salvage
from dynagent.core.siblings import Siblings
from dynagent.core.unknown import ROW, decode_row, encode_row
from dynagent.errors import CorruptRecord, DataDirError, StoreFailed
from dynagent.main import main
from dynagent.store.datadir import DataDir
from dynagent.store.drill import files_of
from dynagent.store.identity import IdentityFile
from dynagent.store.rebuild import rebuild
from dynagent.store.rocksdb import RocksStore
from dynagent.store.sqlite import SqliteStore

CLUSTER = b"sixteen bytes id"
KEYS = [b"k%03d" % number for number in range(200)]


def stored(key: bytes, value: bytes = b"v" * 40) -> bytes:
    sibling = encode_sibling(
        dot=(7, 1), wall_ms=1, content=0, expiry_ms=0, op_id=b"o" * 16, meta={}, value=value
    )
    record = Record(Siblings({7: 1}, (sibling,)))
    return encode_stored(record, cluster_id=CLUSTER, key=key)


def ring(node: str) -> Ring:
    ids = [NodeId(node), NodeId("1" * 16), NodeId("2" * 16)]
    members = tuple(
        Member(id=one, name=one, address="h:1", zone="", host=one, capacity=1)
        for one in sorted(ids)
    )
    return Ring(
        epoch=1, cluster_id=CLUSTER, n=3, r=2, w=2, members=members, lists=(tuple(ids),) * 8
    )


@pytest.fixture(params=["sqlite", "rocksdb"])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The store of an agent that was a member, and has stopped cleanly."""
    path = tmp_path / "node"
    data_dir = DataDir.open(path, engine=request.param, dice=random.Random(1))
    file = data_dir.identity_file
    batch = Batch(1)
    batch.meta.append((RING_ROW, encode_ring(ring(file.value.node_id))))
    batch.records.extend((token_of(key), key, stored(key)) for key in KEYS)
    data_dir.store.write(batch)
    file.write(replace(file.value, cluster_id=CLUSTER))
    data_dir.close(clean=True)
    return path


def check(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> tuple[int, list[dict[str, object]]]:
    status = main(["store", "check", str(directory), "-o", "jsonl"])
    return status, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def damage(
    directory: Path, capsys: pytest.CaptureFixture[str], *words: str
) -> list[dict[str, object]]:
    command = ["store", "damage", str(directory), *words, "--yes", "-o", "jsonl"]
    assert main(command) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def contents(directory: Path) -> dict[tuple[Token, bytes], bytes]:
    data_dir = DataDir.open_stopped(directory, dice=random.Random(1))
    try:
        rows = data_dir.store.scan(FIRST, LAST)
        return {(token, key): stored for token, key, stored in rows}
    finally:
        data_dir.close(clean=False)


def test_a_good_store_has_no_findings(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "check", str(directory)]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("dynagent: store check: 200 records (")
    assert err.endswith("examined, 0 findings\n")


def test_a_flipped_record_is_named(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = damage(directory, capsys, "flip", "--key", "k007", "--key", "k009", "--seed", "1")
    assert [(one["kind"], one["key"]) for one in done] == [("flip", "k007"), ("flip", "k009")]
    status, findings = check(directory, capsys)
    assert status == 12
    assert {(one["kind"], one["key"]) for one in findings} == {
        ("record", "k007"),
        ("record", "k009"),
    }
    assert all("healed from the other owners" in str(one["remedy"]) for one in findings)


@pytest.mark.parametrize("kind", ["lose", "miss"])
def test_lost_and_missed_records_are_gone(
    directory: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    done = damage(directory, capsys, kind, "--count", "20", "--seed", "5")
    gone = {str(one["key"]).encode() for one in done}
    assert len(gone) == 20
    assert {key for _, key in contents(directory)} == set(KEYS) - gone


def test_all_records_of_partitions_are_lost(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = damage(directory, capsys, "lose", "--partition", "3", "--partition", "5")
    assert {one["partition"] for one in done} == {3, 5}
    left = {token[0] >> 5 for token, _ in contents(directory)}
    assert left == {0, 1, 2, 4, 6, 7}


def test_a_misplaced_record_is_found_where_it_lies(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (done,) = damage(directory, capsys, "misplace", "--count", "1", "--seed", "3")
    status, findings = check(directory, capsys)
    assert status == 12
    (found,) = (one for one in findings if one["kind"] == "misplaced")
    assert found["key"] == done["key"]
    assert str(done["token"]) in str(found["what"])


def test_the_same_seed_does_the_same_damage(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("flip", "--count", "5", "--seed", "11")
    assert damage(directory, capsys, *words) == damage(directory, capsys, *words)  # and undoes it
    assert check(directory, capsys) == (0, [])


def test_a_bit_of_a_named_byte(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("flip", "--file", "identity", "--offset", "5000", "--bit", "3")
    (done,) = damage(directory, capsys, *words)
    assert (done["offset"], done["bit"]) == (5000, 3)
    status, (found,) = check(directory, capsys)
    assert status == 12
    assert (found["kind"], "copy 2 of the two" in str(found["what"])) == ("identity", True)


def test_every_flip_of_a_file_can_be_told(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever is hit, the check ends, and what reads differently has a finding."""
    before = contents(directory)
    for seed in range(4):
        words = ("flip", "--count", "1", "--seed", str(seed))
        damage(directory, capsys, *words)
        status, findings = check(directory, capsys)
        if not findings:
            assert status == 0
            assert contents(directory) == before
        damage(directory, capsys, *words)


def test_what_cannot_be_done_is_refused_in_one_line(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = ["store", "damage", str(directory)]
    for words, status, text in [
        (["lose", "--count", "1"], 10, "say --yes"),
        (["lose", "--yes"], 2, "lose what?"),
        (["lose", "--key", "none", "--yes"], 2, "no record of b'none'"),
        (["lose", "--count", "999", "--yes"], 2, "200 records there, not 999"),
        (["lose", "--partition", "8", "--yes"], 2, "partition 8 is none of this store's 8"),
        (["lose", "--count", "0", "--yes"], 2, "at least 1"),
        (["flip", "--offset", "1", "--yes"], 2, "go with --file"),
        (["flip", "--file", "no", "--yes"], 2, "is no file"),
        (["flip", "--file", "identity", "--offset", "99999", "--yes"], 2, "has no byte 99999"),
    ]:
        assert main([*base, *words]) == status, words
        assert text in capsys.readouterr().err
    assert main(["store", "check", str(directory.parent)]) == 1
    assert "is no data directory" in capsys.readouterr().err
    data_dir = DataDir.open(directory, dice=random.Random(1))
    try:
        assert main(["store", "check", str(directory)]) == 10
        assert "is in use by the agent with pid" in capsys.readouterr().err
    finally:
        data_dir.close(clean=True)


def test_the_files_that_may_be_hit(directory: Path) -> None:
    names = {file.name for file in files_of(directory)}
    assert "identity" in names
    assert "lock" not in names
    assert {"store.sqlite"} <= names or {"CURRENT", "store.rocksdb.seen"} <= names


def test_a_scan_goes_on_behind_what_cannot_be_read() -> None:
    width = 2**128 // 1000
    rows = [(Token((n * width).to_bytes(16, "big")), b"k", b"v") for n in range(1000)]

    def scan(first: Token, last: Token) -> object:
        is_hit = first <= rows[329][0] and last >= rows[300][0]
        for row in rows:
            if is_hit and row[0] >= rows[300][0]:
                raise CorruptRecord("a page")
            if first <= row[0] <= last:
                yield row

    found = list(salvage(scan))  # type: ignore[arg-type]
    gaps = [one for one in found if isinstance(one, Gap)]
    assert [one for one in found if not isinstance(one, Gap)] == rows[:300] + rows[330:]
    assert len(gaps) == 1
    assert rows[299][0] <= gaps[0].first <= rows[300][0]
    assert rows[329][0] <= gaps[0].last < rows[330][0]


# --- rebuild -------------------------------------------------------------------------------------


def rebuilt(directory: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    assert main(["store", "rebuild", str(directory), "--yes", "-o", "jsonl"]) == 0
    (done,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found: dict[str, object] = done
    return found


def unknown_of(directory: Path) -> tuple[set[PartitionId], set[PartitionId]]:
    data_dir = DataDir.open(directory, dice=random.Random(1))
    try:
        assert not data_dir.identity_file.value.clean_stop
        return decode_row(data_dir.store.get_meta(ROW))
    finally:
        data_dir.close(clean=True)


def test_a_rebuilt_store_has_what_could_be_read_and_knows_that_it_may_lack_some(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(directory)
    damage(directory, capsys, "misplace", "--key", "k003")
    done = rebuilt(directory, capsys)
    assert (done["records"], done["strays"], done["log_lost"]) == (199, 1, False)
    assert Path(str(done["set_aside"])).exists()
    every = set(map(PartitionId, range(8)))
    assert unknown_of(directory) == (every, every)
    assert contents(directory) == {at: row for at, row in before.items() if at[1] != b"k003"}


def crash(directory: Path) -> tuple[Path, Path]:
    """The directory as a crash leaves it after one more batch, and its log."""
    data_dir = DataDir.open(directory, dice=random.Random(1))
    batch = Batch(9)
    batch.records.extend((token_of(key), key, stored(key, b"new")) for key in KEYS[:50])
    data_dir.store.write(batch)
    crashed = directory.with_name("crashed")
    shutil.copytree(directory, crashed)
    data_dir.close(clean=True)
    logs = [*crashed.glob("*-wal"), *crashed.glob("*/*.log")]
    return crashed, max(logs, key=lambda file: file.stat().st_size)


def flip(log: Path) -> None:
    data = bytearray(log.read_bytes())
    data[len(data) // 2] ^= 1
    log.write_bytes(data)


def cut_short(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rebuild that ends before its engine has moved in."""

    def cut(*_: object) -> None:
        raise DataDirError("the power went")

    monkeypatch.setattr("dynagent.store.rebuild._move_in", cut)
    assert main(["store", "rebuild", str(directory), "--yes"]) == 1
    monkeypatch.undo()


def test_a_store_whose_log_is_gone_is_rebuilt_and_all_of_it_is_unknown(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crashed, log = crash(directory)
    log.unlink()
    for seen in crashed.glob("*.seen"):  # of RocksDB: without it, it opens like SQLite
        seen.unlink()
    assert rebuilt(crashed, capsys)["log_lost"] is True
    _, found = check(crashed, capsys)
    assert {one["kind"] for one in found} == {"unknown"}


def test_an_old_engine_in_the_place_of_the_new_one_is_rebuilt_and_all_of_it_is_unknown(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = directory.with_name("old")
    shutil.copytree(directory, old)
    DataDir.open(directory, dice=random.Random(1)).close(clean=True)
    shutil.copy(directory / "identity", old / "identity")
    assert rebuilt(old, capsys)["log_lost"] is True
    assert rebuilt(directory, capsys)["log_lost"] is False


@pytest.mark.parametrize("closing", [False, True])
def test_a_damaged_log_is_not_forgotten_when_its_rebuild_was_cut_short(
    directory: Path,
    closing: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    crashed, log = crash(directory)
    identity_file = IdentityFile.open_or_create(crashed, dice=random.Random(1), engine="sqlite")
    if closing:  # and the mark of its run is in the tables
        run = identity_file.value.run - 1
        identity_file.write(replace(identity_file.value, closing=True, run=run))
    flip(log)
    cut_short(crashed, monkeypatch)
    assert rebuilt(crashed, capsys)["log_lost"] is True


def test_a_second_rebuild_that_was_cut_short_goes_on_from_the_newest_engine(
    directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rebuilt(directory, capsys)
    data_dir = DataDir.open(directory, dice=random.Random(1))
    batch = Batch(9)
    batch.records.append((token_of(b"new"), b"new", stored(b"new")))
    data_dir.store.write(batch)
    data_dir.close(clean=True)
    cut_short(directory, monkeypatch)
    done = rebuilt(directory, capsys)
    assert (done["records"], done["log_lost"]) == (201, False)
    assert str(done["set_aside"]).endswith("damaged-2")


def test_the_ring_of_another_cluster_leaves_the_engine_where_it_is(directory: Path) -> None:
    before = sorted(path.name for path in directory.iterdir())
    strange = replace(ring("3" * 16), cluster_id=b"another cluster!")
    with pytest.raises(DataDirError, match="of another cluster"):
        rebuild(directory, dice=random.Random(1), ring=strange)
    assert sorted(path.name for path in directory.iterdir()) == before


def test_a_store_with_a_damaged_log_is_rebuilt_and_all_of_it_is_unknown(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crashed, log = crash(directory)
    flip(log)
    status, found = check(crashed, capsys)
    assert status == 12
    value = IdentityFile.open_or_create(crashed, dice=random.Random(1), engine="sqlite").value
    assert not value.closing  # if the log is missing one day, it was lost
    assert [one["kind"] for one in found] == ["store"]
    assert "dynagent store rebuild" in str(found[0]["remedy"])
    done = rebuilt(crashed, capsys)
    assert done["log_lost"] is True
    status, found = check(crashed, capsys)
    assert {one["kind"] for one in found} == {"unknown"}
    assert len(found) == done["records"]


def test_a_sqlite_file_with_a_damaged_header_is_rebuilt(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = directory / "store.sqlite"
    if not file.exists():  # RocksDB has no header; its list of tables is renewed by itself
        file = directory / "store.rocksdb" / "CURRENT"
    with file.open("r+b") as handle:
        handle.write(b"\xa5" * 150)
    status, found = check(directory, capsys)
    assert (status, found[0]["kind"]) == (12, "store")
    assert rebuilt(directory, capsys)["records"] == 200


def test_a_rebuild_that_was_cut_short_goes_on(
    directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_short(directory, monkeypatch)
    assert rebuilt(directory, capsys)["records"] == 200


def test_a_damaged_store_that_cannot_even_be_closed_is_rebuilt(
    directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """RocksDB flushes and compacts when it is closed, and may meet a bad block then."""
    for engine in (SqliteStore, RocksStore):
        good = engine.close

        def close(store: SqliteStore | RocksStore, good: Callable[..., None] = good) -> None:
            good(store)
            if ".damaged-" in store._path.name:
                raise StoreFailed("block checksum mismatch")

        monkeypatch.setattr(engine, "close", close)
    assert rebuilt(directory, capsys)["records"] == 200


def test_what_is_declared_lost_counts_again(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(directory, capsys, "flip", "--key", "k007")
    damage(directory, capsys, "flip", "--key", "k008")
    forget(directory, {PartitionId(2)}, b"k009")
    assert check(directory, capsys)[0] == 12
    assert accepted(directory, capsys, "--key", "k008") == [("copy", "k008")]
    assert sorted(accepted(directory, capsys)) == [
        ("copy", "k007"),
        ("copy", "k009"),
        ("partition", 2),
    ]
    assert check(directory, capsys) == (0, [])
    data_dir = DataDir.open_stopped(directory, dice=random.Random(2))
    try:
        assert decode_row(data_dir.store.get_meta(ROW)) == (set(), set())
        assert data_dir.store.get(token_of(b"k007"), b"k007") is None
        flagged = data_dir.store.get(token_of(b"k009"), b"k009")
        assert flagged is not None
        record = decode_stored(flagged, cluster_id=CLUSTER, key=b"k009")
        assert (record.unknown, record.mark) == (False, (0, 0, 0))
        assert record.value.siblings
    finally:
        data_dir.close(clean=False)


def test_only_what_is_named_is_declared_lost(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hollow = {PartitionId(1), PartitionId(2)}
    forget(directory, hollow, b"k009")
    assert main(["store", "accept", str(directory)]) == 10
    assert main(["store", "accept", str(directory), "--partition", "8", "--yes"]) == 2
    assert "partition 8 is none of this store's 8" in capsys.readouterr().err
    other = 1 if ring("0" * 16).partition_of(token_of(b"k009")) != 1 else 2
    assert accepted(directory, capsys, "--partition", str(other)) == [("partition", other)]
    data_dir = DataDir.open_stopped(directory, dice=random.Random(2))
    try:
        assert decode_row(data_dir.store.get_meta(ROW))[1] == hollow - {other}
    finally:
        data_dir.close(clean=False)
    assert accepted(directory, capsys, "--key", "k100") == []
    assert "nothing there is unknown" in capsys.readouterr().err


def accepted(
    directory: Path, capsys: pytest.CaptureFixture[str], *words: str
) -> list[tuple[str, object]]:
    assert main(["store", "accept", str(directory), *words, "--yes", "-o", "jsonl"]) == 0
    out, err = capsys.readouterr()
    print(err, file=sys.stderr)
    rows = [json.loads(line) for line in out.splitlines()]
    return [
        (row["kind"], row["key"] if row["kind"] == "copy" else row["partition"]) for row in rows
    ]


def forget(directory: Path, hollow: set[PartitionId], flagged: bytes) -> None:
    """From now on the store misses records of these partitions, and has one that lost its past."""
    sound = decode_stored(stored(flagged), cluster_id=CLUSTER, key=flagged)
    record = Record(sound.value, unknown=True)
    batch = Batch(9)
    batch.records.append(
        (token_of(flagged), flagged, encode_stored(record, cluster_id=CLUSTER, key=flagged))
    )
    batch.meta.append((ROW, encode_row(set(), hollow)))
    data_dir = DataDir.open_stopped(directory, dice=random.Random(2))
    data_dir.store.write(batch)
    data_dir.close(clean=False)


def test_what_cannot_be_rebuilt_says_so(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["store", "rebuild", str(directory)]) == 10
    assert "say --yes" in capsys.readouterr().err
    for child in directory.iterdir():
        if child.name.startswith("store."):
            shutil.rmtree(child) if child.is_dir() else child.unlink()
    assert main(["store", "rebuild", str(directory), "--yes"]) == 1
    assert "has to be replaced" in capsys.readouterr().err
