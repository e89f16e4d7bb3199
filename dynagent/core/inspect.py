"""What a node tells about itself: the document of a StatusReply, a CBOR map that may grow.

node_id, run           identity and start counter
cluster_id, epoch      of the ring; empty and 0 before bootstrap
state                  "fresh" (no cluster yet), "serving" or "draining"
up                     ids of the members whose links are up, as this node sees it, itself too
in_flight              operations under way
counters               name → count since start; names of messages and of errors
"""

from __future__ import annotations

from dynagent.core.encoding import decode, encode
from dynagent.errors import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from dynagent.core.node import Node


def status_document(node: Node) -> bytes:
    ring, coordinator = node.ring, node.coordinator
    state = "fresh" if ring is None else "draining" if node.draining else "serving"
    return encode(
        {
            "node_id": node.node_id,
            "run": node.replica.run,
            "cluster_id": ring.cluster_id if ring is not None else b"",
            "epoch": ring.epoch if ring is not None else 0,
            "state": state,
            "up": sorted(coordinator.up) if coordinator is not None else [],
            "in_flight": len(coordinator.operations) if coordinator is not None else 0,
            "about": node.about,
            "counters": dict(sorted(node.counters.items())),
        }
    )


def decode_status(document: bytes) -> dict[str, Any]:
    """The map again; raises `ProtocolError` if it is none."""
    fields = decode(document)
    if not isinstance(fields, dict) or not isinstance(fields.get("node_id"), str):
        raise ProtocolError("not a status document")
    return fields
