"""sd_notify by hand: one datagram to the service manager, if there is one."""

from __future__ import annotations

import os
import socket


def notify_supervisor(state: str) -> None:
    """Sends e.g. `READY=1` to the socket in NOTIFY_SOCKET; without one it does nothing."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(state.encode(), address)
    except OSError:
        pass  # a supervisor that went away must not take the agent with it
