"""The kernel keeps addresses away from a listening socket: real sockets, of both IP versions.

Rules of this file: who is kept away is compared with somebody who is not, at the same moment.
"""

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from zchat.broker.doorstep import Doorstep, dropping

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a filter of Linux")

HERE, ELSEWHERE = "127.0.0.1", "127.0.0.2"
_PATIENCE_S = 1.0


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Both versions of IP, as the broker listens."""
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as made:
        yield made


@pytest.fixture
def doorstep(listener: socket.socket) -> Iterator[Doorstep]:
    made = Doorstep()
    made.watch(listener.fileno())
    yield made
    made.close()


def comes_through(listener: socket.socket, source: str) -> bool:
    """Whether a connection from there is taken, and what it says is heard."""
    target = ("::1" if ":" in source else "127.0.0.1", listener.getsockname()[1])
    try:
        with socket.create_connection(target, _PATIENCE_S, (source, 0)) as coming:
            taken, _ = listener.accept()
            with taken:
                coming.sendall(b"hello")
                return taken.recv(5) == b"hello"
    except TimeoutError:
        return False


def test_who_is_barred_is_kept_away_until_its_time_is_over(
    listener: socket.socket, doorstep: Doorstep
) -> None:
    assert doorstep.bar(ELSEWHERE, 10.0)
    assert not doorstep.bar(ELSEWHERE, 99.0), "it is barred already, and no longer for that"
    doorstep.settle(0.0)
    assert not comes_through(listener, ELSEWHERE)
    assert comes_through(listener, HERE)
    doorstep.settle(9.9)
    assert not comes_through(listener, ELSEWHERE)
    doorstep.settle(10.0)
    assert comes_through(listener, ELSEWHERE)


def test_both_versions_of_ip_can_be_kept_away(listener: socket.socket, doorstep: Doorstep) -> None:
    """Addresses that differ in their last bits only are told apart."""
    others = ["192.0.2.7", "127.0.0.3", "::2", "2001:db8::1", "7f00:1::1"]
    for address in others:
        assert doorstep.bar(address, 10.0)
    doorstep.settle(0.0)
    assert comes_through(listener, HERE)
    assert comes_through(listener, "::1")
    doorstep.bar("::1", 10.0)
    doorstep.settle(0.0)
    assert not comes_through(listener, "::1")
    assert comes_through(listener, HERE)


def test_who_is_in_already_is_heard(listener: socket.socket, doorstep: Doorstep) -> None:
    """A connection inherits the filter of when it was accepted: not one that names its address."""
    port = listener.getsockname()[1]
    for barred in ("127.0.0.9", ELSEWHERE):
        doorstep.bar(barred, 10.0)
        doorstep.settle(0.0)
        with socket.create_connection(("127.0.0.1", port), 5, (HERE, 0)) as member:
            taken, _ = listener.accept()
            with taken:
                doorstep.bar(HERE, 10.0)
                doorstep.settle(0.0)
                member.sendall(b"still here")
                taken.settimeout(5)
                assert taken.recv(10) == b"still here"
        doorstep.settle(10.0)


def test_a_filter_has_a_bound_and_the_kernel_takes_it(
    listener: socket.socket, doorstep: Doorstep
) -> None:
    """A storm from everywhere is no more than libzmq's own to refuse."""
    addresses = [f"2001:db8::{number:x}" for number in range(1, 200)]
    assert sum(doorstep.bar(address, 10.0) for address in addresses) == 32
    doorstep.settle(0.0)
    assert comes_through(listener, HERE)
    assert len(dropping(addresses[:32])) < 4_096 * 8
    assert doorstep.bar(addresses[-1], 20.0) is False
    doorstep.settle(10.0)
    assert doorstep.bar(ELSEWHERE, 20.0)
    doorstep.settle(10.0)
    assert not comes_through(listener, ELSEWHERE)


def test_without_a_listening_socket_nobody_is_barred() -> None:
    doorstep = Doorstep()
    assert not doorstep.bar(HERE, 10.0)
    doorstep.settle(0.0)
    doorstep.close()


def test_where_the_kernel_takes_no_filter_all_goes_on(
    listener: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    """A descriptor that is no internet socket stands for a system that refuses."""
    doorstep = Doorstep()
    doorstep.watch(listener.fileno())
    assert doorstep._listener is not None
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), doorstep._listener.fileno())
    assert doorstep.bar(ELSEWHERE, 10.0)
    doorstep.settle(0.0)
    assert "cannot be kept away" in caplog.text
    assert not doorstep.bar(HERE, 10.0)
    assert comes_through(listener, ELSEWHERE)
