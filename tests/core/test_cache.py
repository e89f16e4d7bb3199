"""The cache of stored forms: what it holds is what was kept last, and it stays within its bound."""

from random import Random

import pytest

from dynagent import limits
from dynagent.core.cache import StoredCache


@pytest.mark.plain  # compiled code takes no other size of its parts
@pytest.mark.parametrize("part_bytes", [1_000, 16 * limits.MIB])
def test_what_is_found_was_kept_last_and_is_not_forgotten(
    part_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynagent.core.cache._PART_BYTES", part_bytes)
    dice = Random(1)
    for bytes_max in (0, 500, 3_000, 5_000, 1_000_000):
        cache, truth, hits = StoredCache(bytes_max), dict[bytes, bytes](), 0
        for _ in range(20_000):
            key = b"key-%d" % dice.randrange(20)
            match dice.randrange(4):
                case 0:
                    truth[key] = dice.randbytes(dice.randrange(30))
                    cache.keep(key, truth[key])
                case 1:
                    truth.pop(key, None)
                    cache.forget(key)
                    assert key not in cache and cache.get(key) is None
                case _:
                    is_there, found = key in cache, cache.get(key)
                    assert found == (truth[key] if is_there else None)
                    hits += found is not None
        assert bool(hits) == bool(bytes_max)


def test_it_stays_within_its_bound_and_keeps_what_is_used() -> None:
    cache = StoredCache(100_000)
    cache.keep(b"used", b"x" * 100)
    for number in range(5_000):
        cache.keep(b"%d" % number, b"y" * 100)
        assert cache.get(b"used") == b"x" * 100
    held = sum(b"%d" % number in cache for number in range(5_000))
    assert 100 < held < 100_000 / 300
    assert b"4999" in cache and b"0" not in cache


def test_when_it_is_cleared_nothing_is_known() -> None:
    cache = StoredCache(2_000)
    for number in range(8):  # one generation is full, and another one begins
        cache.keep(b"%d" % number, b"y" * 10)
    assert b"7" in cache and b"3" in cache
    cache.clear()
    assert not any(b"%d" % number in cache for number in range(8))


def test_absence_is_known_too() -> None:
    cache = StoredCache(10_000)
    cache.keep(b"gone", b"")
    assert b"gone" in cache and cache.get(b"gone") == b""


def test_a_large_one_forgets_little_at_a_time() -> None:
    cache = StoredCache(64 * limits.MIB)
    keys = [b"key-%d" % number for number in range(700)]
    held, most = 0, 0
    for key in keys:
        cache.keep(key, bytes(256 * limits.KIB))
        now = sum(key in cache for key in keys)
        most = max(most, held + 1 - now)
        held = now
    assert 0 < most <= 33  # half a part of 16 MiB; all that there is would be 128
    assert 120 < held <= 256
