"""What an operator may set of a node: the knobs of `config.py` that reach the core."""

from __future__ import annotations

from dataclasses import dataclass

from dynagent import limits
from dynagent.core.peer import Timing
from dynagent.core.sums import Shape

_TIMING = Timing()


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The names are those of the configuration, where each is explained."""

    value_bytes_max: int = limits.VALUE_BYTES_DEFAULT_MAX
    siblings_max: int = limits.SIBLINGS_DEFAULT_MAX
    cache_bytes: int = limits.CACHE_BYTES_DEFAULT
    timing: Timing = _TIMING
    background_bytes_per_s: int = limits.BACKGROUND_BYTES_PER_S_DEFAULT
    foreground_p99_ms: int = limits.FOREGROUND_P99_MS_DEFAULT
    hint_bytes_max: int = limits.HINT_BYTES_DEFAULT_MAX
    owner_hints_max: int = limits.OWNER_HINTS_DEFAULT_MAX
    antientropy_interval_s: float = limits.ANTIENTROPY_INTERVAL_S_DEFAULT
    tombstone_rest_s: float = limits.TOMBSTONE_REST_S_DEFAULT
    scrub_interval_s: float = limits.SCRUB_INTERVAL_S_DEFAULT
    tree_shape: Shape | None = None  # of the journal of sums; None: of its own size


DEFAULTS = Settings()
