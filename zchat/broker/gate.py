"""Who gets in: the ZAP answers, connection limits, and who stands behind a route.

Theory of operation. libzmq asks over inproc://zeromq.zap.01 (RFC 27) before it lets a peer speak;
the broker answers in its own loop, so there is no authentication thread that could die. The socket
monitor tells of every accepted and every lost connection by file descriptor, and a message tells
the descriptor it came over: thus a route is known to be gone without anything being sent to it.
The library emits a loss before it closes the descriptor, so events that are read before a message
are never about a later connection of the same number. An address that knocks too often is kept from
the door (doorstep.py), for each knock costs a handshake, whatever the answer.

Rules of this file: without CURVE nobody gets in; a peer that names itself (a routing id of its own)
is heard by nobody, which its first message shows and ZAP does not: there libzmq tells the id of the
ROUTER; nothing here blocks.
"""

import contextlib
import functools
import ipaddress
import socket
from collections import Counter

import zmq
from zmq.utils.monitor import parse_monitor_message

from zchat.broker.budget import Budget
from zchat.broker.core import Peer
from zchat.broker.doorstep import Doorstep

ZAP_ADDRESS = "inproc://zeromq.zap.01"
ZAP_DOMAIN = b"zchat"
_OWN_ROUTE_BYTES = 5
_SUBSCRIBER_BITS = 64
_EVENTS = zmq.EVENT_LISTENING | zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED


class Gate:
    """Admission for one ROUTER. Made before the ROUTER binds."""

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        allow: frozenset[bytes],
        connections_per_address: int,
        handshakes: Budget[str],
    ) -> None:
        self.allow = allow
        self._most = connections_per_address
        self._handshakes = handshakes
        self._doorstep = Doorstep(handshakes.rate)
        self._beyond: dict[str, set[int]] = {}  # connections to refuse when they ask, by address
        self._address_of: dict[int, str] = {}
        self._route_of: dict[int, bytes] = {}
        self._outlived: list[bytes] = []
        self._lost_early: set[int] = set()
        self._connections: Counter[str] = Counter()
        self.refused = 0
        self.zap = context.socket(zmq.REP)
        self.zap.linger = 0
        self.zap.bind(ZAP_ADDRESS)
        self.monitor = context.socket(zmq.PAIR)
        self.monitor.linger = 0
        self.monitor.rcvhwm = 0  # a dropped event would leave a connection counted for ever

    def watch(self, router: "zmq.Socket[bytes]") -> None:
        """Listen to the ROUTER's connections."""
        address = f"inproc://monitor-{id(self)}"
        router.monitor(address, _EVENTS)
        self.monitor.connect(address)

    def answer_waiting(self, now: float) -> None:
        """Answer every ZAP request that waits."""
        with contextlib.suppress(zmq.Again):
            while True:
                request = self.zap.recv_multipart(zmq.NOBLOCK)
                self.zap.send_multipart(self._answer(request))
        self._doorstep.settle(now)

    def _answer(self, request: list[bytes]) -> list[bytes]:
        version, request_id, _, address, _, mechanism, *credentials = request
        reason = self._why_not(address.decode(), mechanism, credentials)
        if reason:
            self.refused += 1
            return [version, request_id, b"400", reason.encode(), b"", b""]
        return [version, request_id, b"200", b"", credentials[0].hex().encode(), b""]

    def _why_not(self, raw: str, mechanism: bytes, credentials: list[bytes]) -> str:
        address = counted_as(raw)
        if self._beyond.get(address):
            self._beyond[address].pop()
            return "too many connections at once"
        if mechanism != b"CURVE" or len(credentials) != 1:
            return "CURVE only"
        if self.allow and credentials[0] not in self.allow:
            return "access key not allowed"
        if self._connections[address] > self._most:
            return "too many connections"
        return ""

    def lost_routes(self, now: float) -> list[bytes]:
        """Read all events that wait; the routes whose connections are gone."""
        lost, self._outlived = self._outlived, []
        with contextlib.suppress(zmq.Again):
            while True:
                event = parse_monitor_message(self.monitor.recv_multipart(zmq.NOBLOCK))
                descriptor = int(event["value"])
                if event["event"] == zmq.EVENT_LISTENING:
                    self._doorstep.watch(descriptor)
                elif event["event"] == zmq.EVENT_ACCEPTED:
                    self._accepted(descriptor, now)
                else:
                    lost += self._gone(descriptor)
        return lost

    def _accepted(self, descriptor: int, now: float) -> None:
        if descriptor in self._lost_early:
            self._lost_early.remove(descriptor)
            return
        address = _peer_address(descriptor)
        self._address_of[descriptor] = address
        self._connections[address] += 1
        self._doorstep.came_through(address)
        if not self._handshakes.take(address, now):
            self._beyond.setdefault(address, set()).add(descriptor)
            self._doorstep.bar(address, now)

    def _gone(self, descriptor: int) -> list[bytes]:
        address = self._address_of.pop(descriptor, None)
        if address is None:  # another thread of the library tells that it was accepted
            self._lost_early.add(descriptor)
        else:
            self._connections[address] -= 1
            self._beyond.get(address, set()).discard(descriptor)
            if self._connections[address] <= 0:
                del self._connections[address]
                self._beyond.pop(address, None)
        route = self._route_of.pop(descriptor, None)
        return [] if route is None else [route]

    def identify(self, route: bytes, frame: zmq.Frame) -> Peer | None:
        """Who sent the first message of a route, from the frame's own metadata; None if nobody is
        to hear it: whose key is allowed no longer, or who chose its route. libzmq's have 5 bytes
        and begin with 0. Who makes one up that looks like these takes nobody's (no handover), and
        cannot foresee whose it would have been.
        """
        access_key = bytes.fromhex(str(frame.get("User-Id")))
        is_allowed = not self.allow or access_key in self.allow
        if not is_allowed or len(route) != _OWN_ROUTE_BYTES or route[0]:
            return None
        descriptor = frame.get(zmq.SRCFD)
        assert isinstance(descriptor, int)
        former = self._route_of.get(descriptor, route)
        if former != route:  # its last words were read only after its loss was told
            self._outlived.append(former)
        self._route_of[descriptor] = route
        return Peer(access_key, counted_as(str(frame.get("Peer-Address"))))

    def close(self) -> None:
        self.monitor.close()
        self.zap.close()
        self._doorstep.close()


@functools.lru_cache(1_024)  # in a storm, a quarter of the server's time without
def counted_as(address: str) -> str:
    """What limits go by: an address, or of one of the world's IPv6 its network of 64 bits, for who
    has one of these addresses has them all (RFC 6177). What is no address stays as it is.
    """
    with contextlib.suppress(ValueError):
        parsed = ipaddress.ip_address(address.partition("%")[0])
        if parsed.version == 4:
            return str(parsed)
        if parsed.ipv4_mapped:  # came over an IPv6 socket, and is the same address
            return str(parsed.ipv4_mapped)
        if parsed.is_global:
            return str(ipaddress.ip_network((parsed, _SUBSCRIBER_BITS), strict=False))
        return str(parsed)
    return address


def _peer_address(descriptor: int) -> str:
    """The address at the other end; empty where the connection is gone already."""
    try:
        borrowed = socket.socket(fileno=descriptor)
    except OSError:
        return ""
    try:
        name = borrowed.getpeername()
        return counted_as(name[0]) if isinstance(name, tuple) else ""  # else no network's
    except OSError:
        return ""
    finally:
        borrowed.detach()
