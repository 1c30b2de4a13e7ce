"""Keeps a Python process from the network: only this machine answers.

Python imports a module of this name when it starts. ``tests/conftest.py`` puts this folder on ``PYTHONPATH``, so that it
also holds in every process that a test starts.
"""

import ipaddress
import os
import sys
from typing import Any

LOCAL_NAMES = ("localhost", os.uname().nodename, "", None)


def is_local(host: Any) -> bool:
    """Whether this host is the machine itself."""
    if isinstance(host, bytes):
        host = host.decode()
    if host in LOCAL_NAMES:
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: connecting, sending or asking for a name outside this machine is an error."""
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        outside = isinstance(address, tuple) and not is_local(address[0])  # a string is a socket in the file system
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        address = arguments[0]
        outside = not is_local(address)
    else:
        return
    if outside:
        raise RuntimeError(f"A test asks for {address!r}: tests have no network.")


sys.addaudithook(refuse)
