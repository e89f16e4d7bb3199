"""resolve and explain: what a conflict is made of, and how it ends."""

from __future__ import annotations

import json

import pytest

from dynagent.client.blocking import Client
from dynctl.commands import resolve
from tests.dynctl.conftest import Cluster, Here

pytestmark = pytest.mark.real


def _conflict(cluster: Cluster, key: str) -> list[str]:
    """Two concurrent values, one and two; the dots in that order."""
    for value in ("one", "two"):
        cluster("put", key, value, "--blind")
    return _dots(cluster, key)


def _dots(cluster: Cluster, key: str) -> list[str]:
    document = json.loads(cluster("get", key, "--all", "-o", "json").stdout)
    siblings = sorted(document["siblings"], key=lambda sibling: str(sibling["value"]))
    return [sibling["dot"] for sibling in siblings]


def test_the_picked_value_stays_alone(cluster: Cluster, key: str) -> None:
    dots = _conflict(cluster, key)
    done = cluster("resolve", key, "--pick", dots[1])
    assert (done.stdout, done.stderr) == (b"", b"")
    assert cluster("get", key).stdout == b"two"


def test_a_dot_may_be_cut_as_long_as_it_is_one(cluster: Cluster, key: str) -> None:
    with Client(cluster.endpoints) as client:
        one, two = (client.put(key.encode(), v, blind=True) for v in (b"one", b"two"))
        actor = one.dot[:8].hex()
    if one.dot[:8] == two.dot[:8]:
        assert f"may mean {actor}:1, {actor}:2" in cluster.fails(2, "resolve", key, "--pick", actor)
    assert int.from_bytes(one.dot[8:], "big") == 1
    cluster("resolve", key, "--pick", f" {actor.upper()}:1 ")
    assert cluster("get", key).stdout == b"one"
    (left,) = _dots(cluster, key)
    done = cluster("resolve", key, "--pick", left[:5])
    assert b"has that value alone; nothing to do" in done.stderr
    assert _dots(cluster, key) == [left]


def test_picking_again_says_that_one_value_is_left(cluster: Cluster, key: str) -> None:
    dots = _conflict(cluster, key)
    cluster("resolve", key, "--pick", dots[1])
    (left,) = _dots(cluster, key)
    line = cluster.fails(10, "resolve", key, "--pick", dots[1])
    assert f"no conflict: it already has one value alone, {left}" in line


def test_a_dot_may_be_picked_by_its_end(cluster: Cluster, key: str) -> None:
    cluster("put", key, "one", "--blind", "--endpoint", cluster.endpoints[0])
    cluster("put", key, "two", "--blind", "--endpoint", cluster.endpoints[0])
    actors = {dot.partition(":")[0] for dot in _dots(cluster, key)}
    if len(actors) == 1:  # no beginning would tell them apart
        assert "write more of it" in cluster.fails(2, "resolve", key, "--pick", actors.pop())
    document = json.loads(cluster("get", key, "--all", "-o", "json").stdout)
    (two,) = [row["dot"] for row in document["siblings"] if row["value"] == "two"]
    cluster("resolve", key, "--pick", ":" + two.partition(":")[2])
    assert cluster("get", key).stdout == b"two"


def test_a_new_value_supersedes_all_that_were_there(cluster: Cluster, key: str) -> None:
    _conflict(cluster, key)
    done = cluster("resolve", key, "--value", "-", "--print-context", stdin=b"three\n")
    assert cluster("get", key).stdout == b"three\n"
    context = done.stdout.decode().strip()
    cluster("put", key, "four", "--context", context)
    assert cluster("get", key).stdout == b"four"
    assert b"nothing to do" in cluster("resolve", key, "--value", "four").stderr
    cluster("resolve", key, "--value", "five")
    assert cluster("get", key).stdout == b"five"


def test_a_conflict_can_end_in_a_delete(cluster: Cluster, key: str) -> None:
    _conflict(cluster, key)
    cluster("resolve", key, "--delete")
    cluster.fails(3, "get", key)
    assert "not found" in cluster.fails(3, "resolve", key, "--delete")


def test_type_headers_and_bytes_of_the_picked_value_stay(cluster: Cluster, key: str) -> None:
    name = key.encode()
    with Client(cluster.endpoints) as client:
        picked = client.put(
            name, b"\xff\0", blind=True, content=7, meta={b"a": b"b"}, expiry_ms=1 << 50
        )
        client.put(name, b"other", blind=True)
        dot = f"{picked.dot[:8].hex()}:{int.from_bytes(picked.dot[8:], 'big')}"
        cluster("resolve", key, "--pick", dot)
        (version,) = client.get(name).versions
    assert (version.value, version.content, version.meta) == (b"\xff\0", 7, {b"a": b"b"})
    assert version.expiry_ms == 1 << 50


def test_a_dot_that_is_not_there_is_refused_with_those_that_are(cluster: Cluster, key: str) -> None:
    dots = _conflict(cluster, key)
    line = cluster.fails(10, "resolve", key, "--pick", "0123456789abcdef:9")
    assert all(dot in line for dot in dots)
    assert "is no dot" in cluster.fails(2, "resolve", key, "--pick", "one")
    assert "is no dot" in cluster.fails(2, "resolve", key, "--pick", "ab:x")
    assert "is no dot" in cluster.fails(2, "resolve", key, "--pick", "")
    assert "is no dot" in cluster.fails(2, "resolve", key, "--pick", ":")
    cluster.fails(10, "resolve", key, "--pick", ":99")
    assert _dots(cluster, key) == dots


def test_a_write_that_came_in_between_stays_and_is_told(
    cluster: Cluster, key: str, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    _conflict(cluster, key)
    monkeypatch.setenv("DYNCTL_ENDPOINTS", ",".join(cluster.endpoints))
    write = resolve._write

    def meanwhile(*places: object, **names: object) -> object:
        cluster("put", key, "late", "--blind")
        return write(*places, **names)  # type: ignore[arg-type]

    monkeypatch.setattr(resolve, "_write", meanwhile)
    status, out, told = here("resolve", key, "--value", "chosen")
    assert (status, out) == (4, "")
    assert "was written to meanwhile, and has 2 concurrent values" in told
    document = json.loads(cluster("get", key, "--all", "-o", "json").stdout)
    assert sorted(sibling["value"] for sibling in document["siblings"]) == ["chosen", "late"]


def test_a_missing_key_has_nothing_to_resolve(cluster: Cluster, key: str) -> None:
    assert "not found" in cluster.fails(3, "resolve", key, "--value", "v")
    cluster.fails(3, "get", key)


# --- explain -------------------------------------------------------------------------------------


def test_explain_tells_the_place_and_every_copy(cluster: Cluster, key: str) -> None:
    dots = _conflict(cluster, key)
    document = json.loads(cluster("explain", key, "-o", "json").stdout)
    ring = json.loads(cluster("ring", "show", "-o", "json").stdout)
    row = ring["partitions"][document["partition"]]
    owners = document["owners"]
    assert [owner["name"] for owner in owners] == row["owners"]
    assert document["token"].startswith(row["first_token"][:2])
    assert [owner["place"] for owner in owners] == [1, 2, 3]
    assert {owner["liveness"] for owner in owners} == {"up"}
    assert (document["r_passes"], document["w_passes"]) == (True, True)
    full = [owner for owner in owners if owner["state"] == "present"]
    assert len(full) >= 2  # the third may have it a moment later
    for owner in full:
        assert sorted(owner["dots"]) == sorted(dots)
        assert (owner["siblings"], owner["value_bytes"]) == (2, 6)


def test_explain_tells_a_tombstone_from_a_key_that_never_was(cluster: Cluster, key: str) -> None:
    with Client(cluster.endpoints) as client:
        client.put(key.encode(), b"v", w=3)
        client.delete(key.encode(), w=3)
    document = json.loads(cluster("explain", key, "-o", "json").stdout)
    assert {owner["state"] for owner in document["owners"]} == {"tombstone"}
    assert len({owner["digest"] for owner in document["owners"]}) == 1
    assert document["agree"] is True
    never = json.loads(cluster("explain", f"{key} never", "-o", "json").stdout)
    assert {owner["state"] for owner in never["owners"]} == {"absent"}
    assert (never["agree"], never["owners"][0]["clock"]) == (True, None)


def test_the_table_of_explain_leaves_out_what_is_too_wide(cluster: Cluster, key: str) -> None:
    table = cluster("explain", key, "-o", "table").stdout.decode()
    assert "LIVENESS" in table
    assert "DIGEST" not in table
    plain = cluster("explain", key, "-o", "plain").stdout.decode().splitlines()
    assert plain[-1].count("\t") == 15
