"""The tests themselves have no network, in this process and in those that they start."""

import subprocess
import sys
from contextlib import closing
from socket import AF_INET, SOCK_DGRAM, create_connection, getaddrinfo, socket

import pytest

OUTSIDE = "192.0.2.1"  # an address that RFC 5737 keeps for examples


@pytest.mark.parametrize("timeout", [0.1, None])
def test_connecting_outside_is_an_error(timeout: float | None) -> None:
    with pytest.raises(RuntimeError, match="tests have no network"):
        create_connection((OUTSIDE, 80), timeout)


def test_asking_for_a_name_and_sending_a_packet_are_errors() -> None:
    with pytest.raises(RuntimeError, match="tests have no network"):
        getaddrinfo("example.org", 443)
    with closing(socket(AF_INET, SOCK_DGRAM)) as packets, pytest.raises(RuntimeError, match="tests have no network"):
        packets.sendto(b"x", (OUTSIDE, 53))


def test_a_process_that_a_test_starts_has_no_network_either() -> None:
    code = f"import socket; socket.create_connection(({OUTSIDE!r}, 80), 1)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "tests have no network" in ran.stderr


def test_this_machine_answers() -> None:
    with closing(socket()) as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        with create_connection(("localhost", server.getsockname()[1]), 5) as connection:
            assert connection.getpeername() == server.getsockname()
