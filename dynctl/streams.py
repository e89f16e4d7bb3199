"""Bytes in and out: stdin, stdout and files, unbuffered and unchanged.

Everything for stdout goes through `emit`: no buffer is left to fail a second time when Python ends,
and a reader that has gone away is a `ReaderGone` at the place of writing.
"""

# No pathlib here: it would cost the command line 4 ms at each start.
# ruff: noqa: PTH105, PTH108, PTH110, PTH113, PTH116, PTH123

from __future__ import annotations

import binascii
import os

from dynagent.errors import BadRequest
from dynctl.faults import LocalFailure, ReaderGone

_CHUNK_BYTES = 1 << 20


def emit(data: bytes | bytearray) -> None:
    """Writes all of it to stdout; raises `ReaderGone` or `LocalFailure`."""
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(1, view) :]
    except BrokenPipeError as exc:
        raise ReaderGone from exc
    except OSError as exc:
        raise LocalFailure(f"stdout: {exc.strerror}") from exc


def emit_text(text: str) -> None:
    emit(text.encode("utf-8", "surrogateescape"))


def stdout_is_terminal() -> bool:
    try:
        return os.isatty(1)
    except OSError:
        return False


def read_stdin(bytes_max: int) -> bytes:
    """All of stdin, or one byte more than `bytes_max`."""
    return _read(0, "stdin", bytes_max)


def read_file(path: str, bytes_max: int) -> bytes:
    """All of a file, or one byte more than `bytes_max`."""
    try:
        handle = os.open(os.fsencode(path), os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, ValueError) as exc:
        raise _failure(path, exc) from exc
    try:
        return _read(handle, path, bytes_max)
    finally:
        os.close(handle)


def _read(handle: int, name: str, bytes_max: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    try:
        while size <= bytes_max and (chunk := os.read(handle, _CHUNK_BYTES)):
            chunks.append(chunk)
            size += len(chunk)
    except OSError as exc:
        raise _failure(name, exc) from exc
    return b"".join(chunks)


def write_file(path: str, data: bytes) -> None:
    """Puts `data` in place of the file at once, keeping its mode; a device or pipe is written to.

    A reader sees the old file or the new one, and a failure leaves the old one.
    """
    target = os.path.realpath(os.fsencode(path))
    try:
        if os.path.exists(target) and not os.path.isfile(target):
            with open(target, "wb", buffering=0) as device:
                device.write(data)
            return
        temporary = target + b".%d.dynctl" % os.getpid()
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                if os.path.exists(target):
                    os.fchmod(file.fileno(), os.stat(target).st_mode & 0o7777)
            os.replace(temporary, target)
        except BaseException:
            _forget(temporary)
            raise
    except (OSError, ValueError) as exc:
        raise _failure(path, exc) from exc


def _forget(path: bytes) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


def _failure(name: str, exc: OSError | ValueError) -> LocalFailure:
    return LocalFailure(f"{name}: {getattr(exc, 'strerror', None) or exc}")


def show_key(key: bytes) -> str:
    """A key for an error line: text where it is text, cut where it is long."""
    text = key[:80].decode("utf-8", "backslashreplace")
    shown = "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)
    return f'"{shown}"' + ("…" if len(key) > 80 else "")


def encode_base64url(data: bytes) -> str:
    """Without padding, as it stands on a command line."""
    text = binascii.b2a_base64(data, newline=False).decode()
    return text.rstrip("=").replace("+", "-").replace("/", "_")


def decode_base64url(text: str, flag: str) -> bytes:
    """The bytes again; raises `BadRequest` naming the flag."""
    plain = text.strip().rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return binascii.a2b_base64((plain + "=" * (-len(plain) % 4)).encode(), strict_mode=True)
    except (ValueError, UnicodeError) as exc:
        raise BadRequest(f"{flag} is not base64url; copy it whole from --print-context") from exc
