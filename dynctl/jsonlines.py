"""The lines of mput, mget and mdelete: an input line becomes a `Request`, its end a record.

What these verbs print may be their input: `mget | mdelete` deletes what was read, with its context.
So may what `keys -o jsonl` prints. So a line may hold every field of a record; any other field is
refused, because a misspelt context would silently overwrite.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, Literal

import msgspec

from dynagent import limits
from dynagent.client.lane import Request
from dynagent.client.requests import make_put
from dynagent.core.messages import MODE_CONTEXT, Get, GetReply, Put, PutReply
from dynagent.core.version import Version
from dynagent.errors import (
    BadRequest,
    DynagentError,
    ProtocolError,
    QuorumNotMet,
    TooLarge,
    WriteOutcomeUnknown,
)
from dynctl import options, streams
from dynctl.faults import told
from dynctl.views.base import Text, text_of
from dynctl.views.siblings import GetRecord, PutRecord, sibling_view


class _Bytes(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    base64: bytes


class _Line(msgspec.Struct, forbid_unknown_fields=True, gc=False, kw_only=True):
    """What a line may hold beside what its verb reads: the other fields of a record."""

    key: str | _Bytes
    schema_version: msgspec.Raw = msgspec.Raw()
    status: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()
    siblings: msgspec.Raw = msgspec.Raw()
    partial: msgspec.Raw = msgspec.Raw()


class _PutLine(_Line, forbid_unknown_fields=True, gc=False, kw_only=True):
    status: str | None = None  # type: ignore[assignment]
    value: str | _Bytes | msgspec.UnsetType = msgspec.UNSET
    context: str | None = None
    mode: Literal["overwrite", "context", "blind"] | None = None
    op_id: str | None = None


class _DeleteLine(_Line, forbid_unknown_fields=True, gc=False, kw_only=True):
    status: str | None = None  # type: ignore[assignment]
    value: msgspec.Raw = msgspec.Raw()
    context: str | None = None
    op_id: str | None = None


class _GetLine(_Line, forbid_unknown_fields=True, gc=False, kw_only=True):
    value: msgspec.Raw = msgspec.Raw()
    context: msgspec.Raw = msgspec.Raw()
    op_id: msgspec.Raw = msgspec.Raw()


class _KeyOnly(msgspec.Struct, gc=False):
    key: str | _Bytes


class Reader:
    """Makes requests of the lines of one verb. `r`, `w` and `strict` are those of its options."""

    def __init__(self, verb: str, *, r: int, w: int = 0, strict: bool) -> None:
        self._verb = verb
        self._r, self._w, self._strict = r, w, strict
        self._op_ids = _fresh_op_ids()
        makers: dict[str, tuple[Any, Callable[[Any, bytes], Request]]] = {
            "mput": (_PutLine, self._put),
            "mdelete": (_DeleteLine | str, self._delete),
            "mget": (_GetLine | str, self._get),
        }
        kind, self._make = makers[verb]
        self._decoder = msgspec.json.Decoder(kind)

    def read(self, number: int, line: bytes | None) -> Request | None:
        """The request of a line, with the key for its record as tag; None for a blank line. One
        that is no good carries its error, which names the line and the remedy."""
        if line is None:
            return self._refused(number, b"", TooLarge("the line is longer than any value can be"))
        try:
            found = self._decoder.decode(line)
            key: str | _Bytes = found if type(found) is str else found.key
            request = self._make(found, _bytes_of(key))
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            if not line.strip():
                return None
            return self._refused(number, line, self._misread(line, exc))
        except DynagentError as exc:
            return self._refused(number, line, exc)
        request.tag = key if isinstance(key, str) else text_of(key.base64)
        return request

    def _put(self, line: _PutLine, key: bytes) -> Request:
        if isinstance(line.value, msgspec.UnsetType):
            if line.status == "conflict":
                raise BadRequest("several concurrent values; choose one with: dynctl resolve")
            raise BadRequest("missing required field `value`")
        value = _bytes_of(line.value)
        if len(value) > limits.VALUE_BYTES_HARD_MAX:
            raise TooLarge(f"the value is over {limits.VALUE_BYTES_HARD_MAX:,} bytes")
        blind = line.mode == "blind"
        if line.context is None:
            if line.mode == "context":
                raise BadRequest("mode is context, but there is no context; copy it from mget")
        elif line.mode in ("blind", "overwrite"):
            raise BadRequest(f"context and mode {line.mode} contradict each other; leave one out")
        return self._write(key, value, line.context, line.op_id, blind=blind)

    def _delete(self, line: _DeleteLine | str, key: bytes) -> Request:
        if isinstance(line, str):
            return self._write(key, None, None, None)
        request = self._write(key, None, line.context, line.op_id)
        put = request.message
        if line.status is None or line.context is not None or line.op_id is not None:
            return request
        # A record of mget, and what it has not read must not be deleted.
        if line.status != "not_found":
            raise BadRequest(
                f"its status is {line.status}, and it has no context: it does not tell what to "
                f"delete; give the key alone to delete what is visible"
            )
        assert isinstance(put, Put)
        put.mode = MODE_CONTEXT  # and the context is empty: nothing was seen
        return request

    def _write(
        self,
        key: bytes,
        value: bytes | None,
        context: str | None,
        op_id: str | None,
        *,
        blind: bool = False,
    ) -> Request:
        options.check_key(key)
        put = make_put(
            key,
            value,
            op_id=next(self._op_ids) if op_id is None else options.read_op_id(op_id, "op_id"),
            context=None if context is None else options.read_context(context, "context"),
            blind=blind,
            r=self._r,
            w=self._w,
            strict=self._strict,
        )
        return Request(put, repeats=op_id is not None)

    def _get(self, _line: _GetLine | str, key: bytes) -> Request:
        return Request(Get(options.check_key(key), self._r, self._strict))

    def _misread(self, line: bytes, exc: Exception) -> BadRequest:
        try:
            line.decode()  # releases of msgspec tell of this in different ways
        except UnicodeDecodeError:
            return BadRequest('not UTF-8; write bytes that are no text as {"base64": "..."}')
        said = str(exc).replace("str | object", 'str | {"base64": ...}')
        remedy = f"see: dynctl {self._verb} --help"
        if not isinstance(exc, msgspec.ValidationError):
            said = f"not JSON: {said.removeprefix('JSON is malformed: ')}"
            if self._verb != "mput":
                remedy = "write a key in double quotes"
        elif "`$.value" in said and "base64" not in said.rpartition("`$")[2]:
            remedy = 'write a value as a string, or as {"base64": "..."}'
        return BadRequest(f"{said[:1].lower()}{said[1:]}; {remedy}")

    def _refused(self, number: int, line: bytes, error: DynagentError) -> Request:
        """A request that has failed before it began; its tag is the key if that can be told."""
        tag: Text | None = None
        try:
            key = msgspec.json.decode(line, type=_KeyOnly).key
            tag = key if isinstance(key, str) else text_of(key.base64)
        except (msgspec.DecodeError, UnicodeDecodeError):
            pass
        return Request(None, tag, error=type(error)(f"line {number}: {error.message}"))


def _bytes_of(text: str | _Bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text.base64


def _fresh_op_ids() -> Iterator[bytes]:
    """Drawn in blocks: a system call for each would be a twentieth of a record's CPU."""
    size = limits.OP_ID_BYTES
    while True:
        block = os.urandom(size * 256)
        for start in range(0, len(block), size):
            yield block[start : start + size]


# --- records -------------------------------------------------------------------------------------


def put_record(verb: str, request: Request) -> PutRecord:
    """The record of an ended put or delete."""
    key: Any = request.tag
    error, reply = request.error, request.reply
    if error is None:
        assert isinstance(reply, PutReply)
        context = streams.encode_base64url(reply.context) if reply.context else None
        return PutRecord(key, "ok", context)
    if request.message is None or error.definite:
        return PutRecord(key, "failed", None, told(verb, error))
    assert not isinstance(request.message, Get)
    cause = told(verb, WriteOutcomeUnknown(error.message))
    return PutRecord(key, "unknown", None, cause, request.message.op_id.hex())


def get_record(verb: str, request: Request) -> GetRecord:
    """The record of an ended get."""
    key: Any = request.tag
    error, reply = request.error, request.reply
    if error is not None:
        return GetRecord(key, "failed", error=told(verb, error))
    assert isinstance(reply, GetReply)
    try:
        versions = [Version(data) for data in reply.siblings]
    except ProtocolError as exc:
        return GetRecord(key, "failed", error=told(verb, exc))
    context = streams.encode_base64url(reply.context) if reply.context else None
    if len(versions) == 1:
        value = text_of(versions[0].value)
        return GetRecord(key, "ok", value, context, partial=reply.partial)
    if versions:
        siblings = [sibling_view(version) for version in versions]
        return GetRecord(key, "conflict", None, context, siblings, reply.partial)
    if reply.partial:
        few = QuorumNotMet(f"not found, but only {reply.answered} owners answered")
        return GetRecord(key, "failed", error=told(verb, few))
    return GetRecord(key, "not_found", None, context)
