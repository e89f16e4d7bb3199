"""Which verb prints which record."""

from __future__ import annotations

import msgspec

from dynctl.views.base import Document
from dynctl.views.bench import BenchDocument
from dynctl.views.changes import ChangeDocument
from dynctl.views.demo import DemoDocument
from dynctl.views.doctor import DoctorDocument
from dynctl.views.hints import HintsDocument
from dynctl.views.history import DiffDocument, HistoryDocument
from dynctl.views.jobs import JobDocument, JobsDocument, RecheckDocument
from dynctl.views.keys import ExplainDocument, KeysDocument
from dynctl.views.nodes import HealthDocument, NodesDocument
from dynctl.views.ring import BootstrapDocument, RingDocument, RingStatusDocument
from dynctl.views.scrub import ScrubDocument
from dynctl.views.siblings import GetRecord, PutRecord, SiblingsDocument
from dynctl.views.stats import StatsDocument
from dynctl.views.tombstones import TombstonesDocument
from dynctl.views.transfers import TransfersDocument

# What verbs print line by line, with no document around it.
LINES: dict[str, type[msgspec.Struct]] = {
    "mput": PutRecord,
    "mget": GetRecord,
    "mdelete": PutRecord,
}

DOCUMENTS: dict[str, type[Document]] = {
    "get": SiblingsDocument,
    "bootstrap": BootstrapDocument,
    "join": ChangeDocument,
    "leave": ChangeDocument,
    "replace": ChangeDocument,
    "remove": ChangeDocument,
    "ring status": RingStatusDocument,
    "ring show": RingDocument,
    "ring history": HistoryDocument,
    "ring diff": DiffDocument,
    "ring apply": ChangeDocument,
    "node set": ChangeDocument,
    "transfers": TransfersDocument,
    "node ls": NodesDocument,
    "hints ls": HintsDocument,
    "tombstones": TombstonesDocument,
    "repair": JobDocument,
    "verify": JobDocument,
    "recheck": RecheckDocument,
    "scrub": ScrubDocument,
    "jobs ls": JobsDocument,
    "jobs status": JobDocument,
    "jobs wait": JobDocument,
    "health": HealthDocument,
    "doctor": DoctorDocument,
    "stats": StatsDocument,
    "bench": BenchDocument,
    "demo": DemoDocument,
    "keys": KeysDocument,
    "explain": ExplainDocument,
}
