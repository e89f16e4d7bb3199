"""A store is set aside whole, and the directory is that of another node then."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dynagent.errors import DataDirError, Refused, StoreLost
from dynagent.store import identity, setaside
from dynagent.store.datadir import DataDir
from dynagent.store.identity import Identity, IdentityFile
from dynagent.store.setaside import set_aside

CLUSTER = b"c" * 16


def used(path: Path) -> Identity:
    """A directory of which a node of a cluster has made use."""
    data = DataDir.open(path, dice=random.Random(1))
    file = data.identity_file
    file.write(replace(file.value, cluster_id=CLUSTER))
    data.close(clean=True)
    return data.identity_file.value


def files_of(path: Path) -> set[str]:
    return {entry.name for entry in path.iterdir()}


def test_the_store_lies_there_as_it_was_and_another_takes_its_place(tmp_path: Path) -> None:
    path = tmp_path / "n1"
    old = used(path)
    before = files_of(path) - {"lock"}
    aside, new = set_aside(path, dice=random.Random(2))
    assert aside == path / f"set-aside-{old.node_id}"
    assert files_of(aside) == before
    assert IdentityFile.open_or_create(aside, dice=random.Random(3), engine="").value == old
    assert (new.replaces, new.enters, new.cluster_id, new.run) == (old.node_id, CLUSTER, b"", 0)
    assert new.node_id != old.node_id and new.voter_id != old.voter_id
    data = DataDir.open(path, dice=random.Random(4))
    assert data.identity_file.value.node_id == new.node_id
    assert data.identity_file.value.replaces == old.node_id
    data.close(clean=True)


def test_the_directory_of_an_agent_that_runs_is_left_alone(tmp_path: Path) -> None:
    used(tmp_path / "n1")
    data = DataDir.open(tmp_path / "n1", dice=random.Random(2))
    with pytest.raises(Refused, match="is in use"):
        set_aside(tmp_path / "n1", dice=random.Random(3))
    data.close(clean=True)


def test_a_new_store_that_is_lost_before_it_has_a_place_still_knows_whose_it_takes(
    tmp_path: Path,
) -> None:
    first = used(tmp_path / "n1")
    set_aside(tmp_path / "n1", dice=random.Random(2))
    _, third = set_aside(tmp_path / "n1", dice=random.Random(3))
    assert (third.replaces, third.enters) == (first.node_id, CLUSTER)


@pytest.mark.parametrize("dies_before", ["identity copied", "identity replaced"])
def test_a_crash_in_between_is_made_good_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_before: str
) -> None:
    path = tmp_path / "n1"
    old = used(path)

    def die(*_: object, **__: object) -> None:
        raise DataDirError("dead")

    target: tuple[object, str] = (
        (setaside, "fsync_path") if dies_before == "identity copied" else (identity, "succeed")
    )
    with monkeypatch.context() as patch:
        patch.setattr(*target, die)
        with pytest.raises(DataDirError, match="dead"):
            set_aside(path, dice=random.Random(2))
    with pytest.raises(StoreLost, match=r"is gone"):
        DataDir.open(path, dice=random.Random(3))
    aside, new = set_aside(path, dice=random.Random(4))
    assert files_of(aside) >= {"identity", "store.sqlite"}
    assert new.replaces == old.node_id


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: (path / "store.sqlite").unlink(),
        lambda path: (path / "store.sqlite").write_bytes(b""),
    ],
)
def test_a_store_that_is_not_the_one_last_written_is_told_from_other_refusals(
    tmp_path: Path, harm: Callable[[Path], object]
) -> None:
    used(tmp_path / "n1")
    harm(tmp_path / "n1")
    with pytest.raises(StoreLost):
        DataDir.open(tmp_path / "n1", dice=random.Random(2))
