"""The kernel keeps addresses away from a listening socket: real sockets, of both IP versions.

Rules of this file: who is kept away is compared with somebody who is not, at the same moment; all
but one test let nobody through by chance, for what comes through cannot be foreseen.
"""

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from zchat.broker.doorstep import Doorstep, program
from zchat.protocol.limits import KEPT_AWAY_S

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a filter of Linux")

HERE, ELSEWHERE = "127.0.0.1", "127.0.0.2"
HARDLY_ANY = 1 << 31
RATE = 32 / KEPT_AWAY_S * HARDLY_ANY / 2  # of which a storm is 32 attempts that come through
_PATIENCE_S = 0.5
_CONNECTED_S = 5.0


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Both versions of IP, as the broker listens."""
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as made:
        made.settimeout(_CONNECTED_S)
        yield made


@pytest.fixture
def doorstep(listener: socket.socket) -> Iterator[Doorstep]:
    made = Doorstep(RATE, HARDLY_ANY)
    made.watch(listener.fileno())
    yield made
    made.close()


def comes_through(listener: socket.socket, source: str, patience_s: float = _PATIENCE_S) -> bool:
    """Whether a connection from there is taken, and each end hears the other."""
    target = ("::1" if ":" in source else "127.0.0.1", listener.getsockname()[1])
    try:
        coming = socket.create_connection(target, patience_s, (source, 0))
    except TimeoutError:
        return False
    taken, _ = listener.accept()
    with coming, taken:
        return hear_each_other(coming, taken)


def hear_each_other(one: socket.socket, other: socket.socket) -> bool:
    for talker, hearer in ((one, other), (other, one)):
        talker.sendall(b"hello")
        hearer.settimeout(_CONNECTED_S)
        if hearer.recv(5) != b"hello":
            return False
    return True


def test_who_is_barred_is_kept_away_for_a_term(listener: socket.socket, doorstep: Doorstep) -> None:
    doorstep.bar(ELSEWHERE, 0.0)
    doorstep.bar(ELSEWHERE, 1.0)  # that is nothing new
    assert not comes_through(listener, ELSEWHERE)
    assert comes_through(listener, HERE)
    doorstep.settle(KEPT_AWAY_S - 0.1)
    assert not comes_through(listener, ELSEWHERE)
    doorstep.settle(KEPT_AWAY_S)
    assert comes_through(listener, ELSEWHERE)


def test_while_it_goes_on_an_address_stays_barred(
    listener: socket.socket, doorstep: Doorstep
) -> None:
    """Those who came through by chance tell; of who is not barred nobody counts."""
    for _ in range(32):
        doorstep.came_through(ELSEWHERE)
    doorstep.bar(ELSEWHERE, 0.0)
    for _ in range(32):
        doorstep.came_through(ELSEWHERE)
    doorstep.settle(KEPT_AWAY_S)
    assert not comes_through(listener, ELSEWHERE)
    for _ in range(31):
        doorstep.came_through(ELSEWHERE)
    doorstep.settle(2 * KEPT_AWAY_S)
    assert comes_through(listener, ELSEWHERE)


def test_both_versions_of_ip_can_be_kept_away(listener: socket.socket, doorstep: Doorstep) -> None:
    """Addresses that differ in their last bits only are told apart."""
    for address in ("192.0.2.7", "127.0.0.3", "::2", "2001:db8::1", "7f00:1::1"):
        doorstep.bar(address, 0.0)
    assert comes_through(listener, HERE)
    assert comes_through(listener, "::1")
    doorstep.bar("::1", 0.0)
    assert not comes_through(listener, "::1")
    assert comes_through(listener, HERE)


def test_a_network_is_kept_away_whole(listener: socket.socket, doorstep: Doorstep) -> None:
    """By its first 64 bits; the next network comes in."""
    doorstep.bar("0:0:0:1::/64", 0.0)
    assert comes_through(listener, "::1")
    doorstep.bar("::/64", 0.0)
    assert not comes_through(listener, "::1")
    assert comes_through(listener, HERE)


def test_who_is_in_already_is_heard(listener: socket.socket, doorstep: Doorstep) -> None:
    """From before there was a filter, and with one that names its own address inherited."""
    ends = [_connection(listener)]
    doorstep.bar(ELSEWHERE, 0.0)
    ends.append(_connection(listener))
    doorstep.bar(HERE, 0.0)
    for one, other in ends:
        with one, other:
            assert hear_each_other(one, other)


def _connection(listener: socket.socket) -> tuple[socket.socket, socket.socket]:
    target = ("127.0.0.1", listener.getsockname()[1])
    return socket.create_connection(target, _CONNECTED_S, (HERE, 0)), listener.accept()[0]


def test_one_in_so_many_comes_through(listener: socket.socket) -> None:
    """One in two here, of 24: that all or none did would be seen once in eight million runs."""
    doorstep = Doorstep(RATE, 2)
    doorstep.watch(listener.fileno())
    doorstep.bar(ELSEWHERE, 0.0)
    assert 0 < sum(comes_through(listener, ELSEWHERE, 0.1) for _ in range(24)) < 24
    doorstep.close()


def test_a_filter_has_a_bound_and_the_kernel_takes_it(
    listener: socket.socket, doorstep: Doorstep
) -> None:
    """Whoever comes from everywhere is for ZAP to refuse."""
    addresses = [f"2001:db8::{number:x}" for number in range(1, 17)]
    for address in (*addresses, ELSEWHERE):
        doorstep.bar(address, 0.0)
    assert comes_through(listener, ELSEWHERE)
    assert len(program(addresses, 16)) < 4_096 * 8
    doorstep.settle(KEPT_AWAY_S)
    doorstep.bar(ELSEWHERE, KEPT_AWAY_S)
    doorstep.settle(KEPT_AWAY_S)
    assert not comes_through(listener, ELSEWHERE)


def test_without_a_listening_socket_nobody_is_barred(caplog: pytest.LogCaptureFixture) -> None:
    doorstep = Doorstep(RATE)
    doorstep.bar(HERE, 0.0)
    doorstep.close()
    assert not caplog.text


def test_what_is_no_address_is_not_barred(listener: socket.socket, doorstep: Doorstep) -> None:
    doorstep.bar("", 0.0)
    doorstep.bar("somewhere", 0.0)
    assert comes_through(listener, HERE)


def test_where_the_kernel_takes_no_filter_all_goes_on(
    listener: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    """A descriptor that is no socket stands for a system that refuses; it is not asked again."""
    doorstep = Doorstep(RATE)
    doorstep.watch(listener.fileno())
    assert doorstep._listener is not None
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), doorstep._listener.fileno())
    doorstep.bar(ELSEWHERE, 0.0)
    assert "cannot be kept away" in caplog.text
    assert ELSEWHERE not in caplog.text
    doorstep.bar(HERE, 0.0)
    doorstep.settle(KEPT_AWAY_S)
    assert caplog.text.count("cannot be kept away") == 1
    assert comes_through(listener, ELSEWHERE)
    doorstep.close()


def test_what_the_kernel_took_stays_where_it_takes_no_more(
    listener: socket.socket, doorstep: Doorstep
) -> None:
    """As it does where a filter grows beyond what a socket may be charged for."""
    doorstep.bar(ELSEWHERE, 0.0)
    assert doorstep._listener is not None
    kept = os.dup(doorstep._listener.fileno())
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), doorstep._listener.fileno())
    doorstep.bar(HERE, 1.0)
    os.dup2(kept, doorstep._listener.fileno())
    os.close(kept)
    assert not comes_through(listener, ELSEWHERE)
    assert comes_through(listener, HERE)
    doorstep.settle(KEPT_AWAY_S)
    assert comes_through(listener, ELSEWHERE)
