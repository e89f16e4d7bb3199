"""The identity file gives back the identity that was last written, or refuses."""

import os
import random
from dataclasses import replace
from pathlib import Path

import pytest

from dynagent.core.ports import NodeId
from dynagent.errors import DataDirError, StoreFailed
from dynagent.store.identity import (
    FORMAT,
    SLOT_BYTES,
    Identity,
    IdentityFile,
    start_run,
    stop_clean,
)

STRANGER = random.Random(99)  # a new identity made by it would be seen at once


def _start(identity: Identity) -> Identity:
    return start_run(identity, dice=random.Random(3))


def _open(directory: Path) -> Identity:
    return IdentityFile.open_or_create(directory, dice=STRANGER, engine="other").value


def _two_generations(directory: Path) -> tuple[Identity, bytes, Identity, bytes]:
    """An older identity and its file, and the next one and its file."""
    file = IdentityFile.open_or_create(directory, dice=random.Random(1), engine="sqlite")
    file.write(_start(file.value))
    old, old_bytes = file.value, (directory / "identity").read_bytes()
    file.write(replace(stop_clean(old), cluster_id=b"c" * 16, name="n1"))
    return old, old_bytes, file.value, (directory / "identity").read_bytes()


def test_a_new_identity_is_random_and_has_never_run(tmp_path: Path) -> None:
    dice = random.Random(5)
    expected = [f"{random.Random(5).getrandbits(64):016x}"]
    value = IdentityFile.open_or_create(tmp_path, dice=dice, engine="sqlite").value
    assert [value.node_id] == expected
    assert len(value.voter_id) == 16
    assert value.voter_id != value.node_id
    assert value == Identity(node_id=value.node_id, voter_id=value.voter_id, engine="sqlite")
    assert (value.run, value.cluster_id, value.clean_stop) == (0, b"", False)


def test_ids_keep_their_leading_zeros(tmp_path: Path) -> None:
    class Small:
        def getrandbits(self, k: int, /) -> int:
            return 10

    value = IdentityFile.open_or_create(tmp_path, dice=Small(), engine="sqlite").value
    assert value.node_id == "000000000000000a"


def test_an_identity_is_what_was_written_last(tmp_path: Path) -> None:
    file = IdentityFile.open_or_create(tmp_path, dice=random.Random(1), engine="sqlite")
    for run in range(1, 6):
        file.write(replace(file.value, run=run, name=f"n{run}"))
        assert _open(tmp_path) == file.value
    assert file.value.run == 5


def test_a_run_after_a_clean_stop_continues_and_after_a_crash_starts_anew() -> None:
    fresh = Identity(node_id=NodeId("0" * 16), voter_id="1" * 16, engine="sqlite")
    first = _start(fresh)
    assert (first.run, first.clean_from_run, first.clean_stop) == (1, 1, False)
    second = _start(stop_clean(first))
    assert (second.run, second.clean_from_run, second.clean_stop) == (2, 1, False)
    after_crash = _start(second)
    assert (after_crash.run, after_crash.clean_from_run, after_crash.clean_stop) == (3, 3, False)
    assert _start(stop_clean(after_crash)).clean_from_run == 3


def test_one_damaged_byte_anywhere_never_brings_back_an_older_identity(tmp_path: Path) -> None:
    _, _, new, data = _two_generations(tmp_path)
    for position in (*range(SLOT_BYTES), *range(SLOT_BYTES, 2 * SLOT_BYTES, 16)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << (position % 8)
        (tmp_path / "identity").write_bytes(damaged)
        assert _open(tmp_path) == new


def test_damage_in_both_slots_is_refused(tmp_path: Path) -> None:
    _, _, _, data = _two_generations(tmp_path)
    for position in range(0, SLOT_BYTES, 7):
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        damaged[2 * SLOT_BYTES - 1 - position] ^= 0x10
        (tmp_path / "identity").write_bytes(damaged)
        with pytest.raises(DataDirError, match="both copies"):
            _open(tmp_path)


@pytest.mark.parametrize("slot", [0, 1])
def test_a_write_torn_at_any_length_leaves_the_old_or_the_new_identity(
    tmp_path: Path, slot: int
) -> None:
    old, old_bytes, new, new_bytes = _two_generations(tmp_path)
    # `write` does one slot after the other, so while one is torn the other is whole: old or new.
    for other, step in ((old_bytes, 1), (new_bytes, 16)):
        for length in range(0, SLOT_BYTES + 1, step):
            begin = slot * SLOT_BYTES
            torn = bytearray(other)
            torn[begin : begin + SLOT_BYTES] = old_bytes[begin : begin + SLOT_BYTES]
            torn[begin : begin + length] = new_bytes[begin : begin + length]
            (tmp_path / "identity").write_bytes(torn)
            value = _open(tmp_path)
            assert value in (old, new)
            if other is new_bytes or length == SLOT_BYTES:
                assert value == new


def test_a_file_cut_short_keeps_its_first_slot(tmp_path: Path) -> None:
    _, _, new, data = _two_generations(tmp_path)
    for length in (SLOT_BYTES, SLOT_BYTES + 1, 2 * SLOT_BYTES - 1):
        (tmp_path / "identity").write_bytes(data[:length])
        assert _open(tmp_path) == new
    for length in (0, 1, SLOT_BYTES - 1):
        (tmp_path / "identity").write_bytes(data[:length])
        with pytest.raises(DataDirError, match="both copies"):
            _open(tmp_path)


@pytest.mark.parametrize("damaged_slot", [0, 1])
def test_a_write_begins_with_the_damaged_slot(
    tmp_path: Path, damaged_slot: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, new, data = _two_generations(tmp_path)
    damaged = bytearray(data)
    damaged[damaged_slot * SLOT_BYTES + 100] ^= 1
    (tmp_path / "identity").write_bytes(damaged)
    file = IdentityFile.open_or_create(tmp_path, dice=STRANGER, engine="other")
    offsets: list[int] = []
    real = os.pwrite

    def pwrite(handle: int, slot: bytes, offset: int) -> int:
        offsets.append(offset)
        return real(handle, slot, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    file.write(_start(new))
    assert offsets == [damaged_slot * SLOT_BYTES, (1 - damaged_slot) * SLOT_BYTES]
    assert _open(tmp_path) == _start(new)


def test_a_crash_while_the_file_is_made_leaves_a_directory_that_still_opens(tmp_path: Path) -> None:
    (tmp_path / "identity.new").write_bytes(b"half")
    value = IdentityFile.open_or_create(tmp_path, dice=random.Random(1), engine="sqlite").value
    assert _open(tmp_path) == value
    assert not (tmp_path / "identity.new").exists()


@pytest.mark.parametrize("fail_at", [1, 2])
def test_a_failed_fsync_is_not_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail_at: int
) -> None:
    file = IdentityFile.open_or_create(tmp_path, dice=random.Random(1), engine="sqlite")
    old, new = file.value, _start(file.value)
    calls = 0

    def fsync(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls == fail_at:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StoreFailed, match="Input/output error"):
        file.write(new)
    assert file.value == old
    with pytest.raises(StoreFailed, match="earlier write"):
        file.write(new)
    assert calls == fail_at
    assert _open(tmp_path) in (old, new)


def test_fields_of_a_newer_release_are_carried_along(tmp_path: Path) -> None:
    file = IdentityFile.open_or_create(tmp_path, dice=random.Random(1), engine="sqlite")
    file.write(replace(file.value, newer_fields=(b"nonce", 7)))
    again = IdentityFile.open_or_create(tmp_path, dice=STRANGER, engine="other")
    again.write(_start(again.value))
    assert _open(tmp_path).newer_fields == (b"nonce", 7)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    file = IdentityFile.open_or_create(tmp_path, dice=random.Random(1), engine="sqlite")
    file.write(replace(file.value, format=FORMAT + 1))
    with pytest.raises(DataDirError, match="newer release"):
        _open(tmp_path)


def test_an_older_format_is_refused_before_its_records_look_damaged(tmp_path: Path) -> None:
    file = IdentityFile.open_or_create(tmp_path, dice=random.Random(1), engine="sqlite")
    file.write(replace(file.value, format=1))
    with pytest.raises(DataDirError, match="before the first release"):
        _open(tmp_path)


def test_a_file_that_cannot_be_read_or_made_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DataDirError, match="cannot create"):
        IdentityFile.open_or_create(tmp_path / "absent", dice=STRANGER, engine="sqlite")
    (tmp_path / "identity").mkdir()
    with pytest.raises(DataDirError, match="cannot read"):
        _open(tmp_path)
