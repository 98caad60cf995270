"""The least that a server in Python on libzmq can be: what came in a turn goes to all who joined.

The same socket options; CURVE and ZAP (which says who it is), or for P2 ipc without. No log, no
numbers, no signatures, no limits, no rooms. What this costs is libzmq's and Python's; what zchat
costs beyond it is what zchat does.

    python -m benchmarks.bare [ipc://…]      serve until SIGTERM; prints endpoint and key
"""

import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import zmq
from zmq.utils import z85

from benchmarks.harness import Server
from zchat.broker.gate import ZAP_ADDRESS
from zchat.broker.server import _ROUTER_OPTIONS
from zchat.lab.load import Target

NAME = "libzmq and Python alone"
_JOIN, _POST, _TAKEN = b"join", b"post", b"taken"
_CURVE = (zmq.CURVE_SERVER, zmq.ZAP_DOMAIN, zmq.ZAP_ENFORCE_DOMAIN)
_MOST_A_TURN = 256


def serve(endpoint: str) -> None:
    """The whole server; with CURVE unless there is an endpoint for one without."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=2)
    context.max_sockets = 65_536
    zap, router = context.socket(zmq.REP), context.socket(zmq.ROUTER)
    zap.bind(ZAP_ADDRESS)
    for option, value in _ROUTER_OPTIONS.items():
        if not (endpoint and option in _CURVE):
            router.setsockopt(option, value)
    key = b""
    if endpoint:
        router.bind(endpoint)
    else:
        public, router.curve_secretkey = zmq.curve_keypair()
        endpoint = f"tcp://127.0.0.1:{router.bind_to_random_port('tcp://127.0.0.1')}"
        key = z85.decode(public)
    print(endpoint, key.hex(), flush=True)
    members: list[bytes] = []
    poller = zmq.Poller()
    poller.register(zap, zmq.POLLIN)
    poller.register(router, zmq.POLLIN)
    while poller.poll():
        _let_in(zap)
        _turn(router, members)


def _let_in(zap: "zmq.Socket[bytes]") -> None:
    with suppress(zmq.Again):
        while True:
            version, request, *_, key = zap.recv_multipart(zmq.NOBLOCK)
            zap.send_multipart([version, request, b"200", b"", key.hex().encode(), b""])


def _turn(router: "zmq.Socket[bytes]", members: list[bytes]) -> None:
    posts: list[bytes] = []
    authors: Counter[bytes] = Counter()
    with suppress(zmq.Again):
        while len(posts) < _MOST_A_TURN:
            route, word, *content = router.recv_multipart(zmq.NOBLOCK)
            if word == _POST:
                posts += content
                authors[route] += 1
            else:
                members.append(route)
                router.send_multipart([route, _JOIN])
    frame = zmq.Frame(b"".join(posts), copy=False)
    for member in members if posts else ():
        with suppress(zmq.ZMQError):  # it left
            router.send(member, zmq.SNDMORE)
            router.send(frame, copy=False)
    for author, count in authors.items():
        with suppress(zmq.ZMQError):
            router.send_multipart([author, _TAKEN, b"%d" % count])


@contextmanager
def relay(*, encrypted: bool = True) -> Iterator[tuple[Target, Server]]:
    """The server in a process of its own, for as long as the block runs."""
    with tempfile.TemporaryDirectory(prefix="zchat-bench-") as folder:
        endpoint = [] if encrypted else [f"ipc://{folder}/socket"]
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.bare", *endpoint], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        try:
            where, _, key = process.stdout.readline().decode().strip().partition(" ")
            yield Target(where, bytes.fromhex(key)), Server(process.pid)
        finally:
            process.terminate()
            process.wait()
            process.stdout.close()


class RelayMember:
    """A connection to it."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", target: Target) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.rcvhwm = 0
        self.socket.rcvtimeo = 60_000
        if target.curve_key:
            self.socket.curve_publickey, self.socket.curve_secretkey = zmq.curve_keypair()
            self.socket.curve_serverkey = z85.encode(target.curve_key)
        self.socket.connect(target.endpoint)
        self.taken = 0

    def join(self) -> None:
        """Get what is posted from now on."""
        self.socket.send(_JOIN)

    def post(self, content: bytes) -> None:
        self.socket.send_multipart([_POST, content])

    def receive(self, flags: int = 0) -> bytes:
        """What was posted; empty for an answer. Raises zmq.Again."""
        frames = self.socket.recv_multipart(flags)
        if frames[0] == _TAKEN:
            self.taken += int(frames[1])
        return b"" if frames[0] in (_TAKEN, _JOIN) else frames[0]

    def drain(self) -> int:
        """Bytes that were posted and wait here."""
        came = 0
        with suppress(zmq.Again):
            while True:
                came += len(self.receive(zmq.NOBLOCK))
        return came


def joined(target: Target, count: int) -> list[RelayMember]:
    """Members of this process that get what is posted."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    context.max_sockets = count + 8
    members: list[RelayMember] = []
    while len(members) < count:
        some = [RelayMember(context, target) for _ in range(min(64, count - len(members)))]
        for member in some:
            member.join()
        for member in some:
            member.receive()
        members += some
    return members


if __name__ == "__main__":
    serve("".join(sys.argv[1:]))
