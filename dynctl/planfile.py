"""A plan that is kept in a file, for `ring apply`: the very entry, and what was said of it."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

import msgspec

from dynagent import limits
from dynagent.client.changes import NOBODY, ChangePlan
from dynagent.core.ringentry import ChangeEntry, Entry, decode_log_entry, encode_log_entry
from dynagent.errors import BadRequest, ProtocolError
from dynctl import streams
from dynctl.views.base import SCHEMA_VERSION
from dynctl.views.changes import ChangeDocument

_KIND = "dynctl plan"
_BYTES_MAX = 16 * limits.MIB


def dump(plan: ChangePlan, document: ChangeDocument) -> bytes:
    entry = Entry(content=plan.entry, proposer=NOBODY, wall_ms=0)
    kept = {
        "schema_version": SCHEMA_VERSION,
        "kind": _KIND,
        "cluster_id": plan.ring.cluster_id.hex(),
        "epoch": plan.ring.epoch,
        "entry": {"base64": base64.b64encode(encode_log_entry(entry)).decode()},
        "plan": msgspec.to_builtins(document),
    }
    return json.dumps(kept, indent=2).encode() + b"\n"


def load(path: str) -> tuple[str, int, ChangeEntry]:
    """Cluster id, epoch, and the entry. Raises `BadRequest` if it is no such file."""
    data = streams.read_file(path, _BYTES_MAX)
    wrong = BadRequest(f"{path} holds no plan; write one with --out, as dynctl join --out {path}")
    try:
        kept: Any = json.loads(data)
        if kept["kind"] != _KIND or kept["schema_version"] != SCHEMA_VERSION:
            raise wrong
        encoded = base64.b64decode(kept["entry"]["base64"], validate=True)
        content = decode_log_entry(encoded).content
        cluster_id, epoch = str(kept["cluster_id"]), int(kept["epoch"])
    except (ValueError, KeyError, TypeError, binascii.Error, ProtocolError) as exc:
        raise wrong from exc
    if not isinstance(content, ChangeEntry):
        raise wrong
    return cluster_id, epoch, content
