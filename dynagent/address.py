"""`host:port` as people write it, and as sockets take it."""

from __future__ import annotations

from dynagent.errors import BadRequest

DEFAULT_PORT = 7411
DEFAULT_HTTP_PORT = 7412


def parse_address(text: str, *, default_port: int = DEFAULT_PORT) -> tuple[str, int]:
    """(host, port) of `host:port`, `host`, `:port` (loopback) or `[v6]:port`; else BadRequest."""
    host, colon, port = text.strip().rpartition(":")
    if not colon or (":" in host and not host.startswith("[")):  # no port: a name or a bare IPv6
        host, port = text.strip(), str(default_port)
    host = host.removeprefix("[").removesuffix("]") or "127.0.0.1"
    if not port.isascii() or not port.isdigit() or not 0 <= int(port) <= 65_535:
        raise BadRequest(f"{text!r} is not an address; write host:port, port 0 to 65535")
    if any(sign in host for sign in " /@?#"):
        raise BadRequest(f"{text!r} is not an address; write host:port")
    return host, int(port)


def format_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Does this name only this machine? (127/8, ::1, localhost)"""
    return host in ("localhost", "::1") or host.startswith("127.")
