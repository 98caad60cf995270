"""Members that only load a server: they speak the protocol, and neither seal nor open anything.

What a server cannot read it cannot tell from noise either, so the envelopes here are outlines with
random bytes behind them: no key of a room is needed to measure what a server carries.

Rules of this file: only the open half of the protocol; a member that does not get what it waits
for in time raises TimeoutError.
"""

import os
import resource
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import NamedTuple

import zmq
from zmq.utils import z85

from zchat.protocol.envelope import EPOCH, SUITE, VERSION, EnvelopeClass, Header, take_apart
from zchat.protocol.ledger import NO_LOG, Head
from zchat.protocol.limits import (
    KEY_BYTES,
    MAX_MESSAGE_BYTES,
    MAX_WINDOW_BYTES,
    MIN_ENVELOPE_BYTES,
    NONCE_BYTES,
    PROTOCOL_VERSION,
)
from zchat.protocol.wire import (
    Entries,
    Hello,
    Join,
    Position,
    Post,
    Stored,
    ToMember,
    decode_to_member,
    encode,
    unpack_batch,
)

_PATIENCE_MS = 60_000


class Target(NamedTuple):
    """The server to load: where it listens, and its CURVE key (empty: none is used)."""

    endpoint: str
    curve_key: bytes


class BareMember:
    """A connection that has said HELLO; the first word it receives is READY."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", target: Target) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.maxmsgsize = MAX_MESSAGE_BYTES
        self.socket.rcvhwm = 0
        self.socket.rcvtimeo = _PATIENCE_MS
        if target.curve_key:
            public, secret = zmq.curve_keypair()
            self.socket.curve_publickey = public
            self.socket.curve_secretkey = secret
            self.socket.curve_serverkey = z85.encode(target.curve_key)
        self.socket.connect(target.endpoint)
        self.socket.send_multipart(encode(Hello(1, PROTOCOL_VERSION, "load")))
        self.log, self.n, self.hash = NO_LOG, 0, NO_LOG
        self._unacknowledged = 0

    def receive(self, flags: int = 0) -> tuple[ToMember, bytes]:
        """The next word and its attachment. Raises TimeoutError, or zmq.Again with NOBLOCK."""
        try:
            return decode_to_member(self.socket.recv_multipart(flags))
        except zmq.Again:
            if flags & zmq.NOBLOCK:
                raise
            raise TimeoutError("the server does not answer") from None

    def join(self, room: bytes, window: int = MAX_WINDOW_BYTES) -> None:
        """Subscribe, or acknowledge what was received."""
        self._unacknowledged = 0
        position = Position(room, self.log, 1, self.n, self.hash, window)
        self.socket.send_multipart(encode(Join(2, (position,))))

    def take(self, word: Entries, batch: bytes) -> int:
        """Note entries as received, acknowledging in time; how many there were."""
        if not batch:
            return 0
        head = Head.unpack(word.head)
        count = head.n - self.n
        self.log, self.n, self.hash = head.log, head.n, head.hash
        self._unacknowledged += len(batch)
        if self._unacknowledged * 2 > MAX_WINDOW_BYTES:
            self.join(word.room)
        return count

    def post(self, room: bytes, k: int, envelope: bytes) -> None:
        """Post an envelope under its number."""
        self.socket.send_multipart(encode(Post(room, k), envelope))

    def wait_stored(self, k: int) -> int:
        """Until every post up to k is answered; the highest number that is."""
        while True:
            word, _ = self.receive()
            if isinstance(word, Stored) and word.k >= k:
                return word.k

    def stored(self) -> int:
        """The highest number among the answers that wait; 0 if none does."""
        highest = 0
        try:
            while True:
                word, _ = self.receive(zmq.NOBLOCK)
                if isinstance(word, Stored):
                    highest = word.k
        except zmq.Again:
            return highest


def outline(envelope_bytes: int = MIN_ENVELOPE_BYTES) -> bytes:
    """An envelope that a server takes, and that nobody can open. Its time is this machine's clock
    since start, in µs: what receives it here knows how long it was under way.
    """
    nonce, sender = os.urandom(NONCE_BYTES), os.urandom(KEY_BYTES)
    header = Header(VERSION, SUITE, EnvelopeClass.LOG, EPOCH, _now_us(), nonce, sender)
    return header.packed + os.urandom(envelope_bytes - len(header.packed))


def _now_us() -> int:
    return time.monotonic_ns() // 1_000


# ---- a crowd that chats ----


class Chat(NamedTuple):
    """A crowd of `members` in a room, in which `per_s` messages are said for `for_s` seconds."""

    members: int
    per_s: float
    for_s: float

    @property
    def messages(self) -> int:
        return max(1, round(self.per_s * self.for_s))


def listen(target: Target, room: bytes, chat: Chat, members: int, out: Connection) -> None:
    """Some of a crowd, as a process: sends None when they are there, and in the end for each
    delivery how many ms it was under way. What does not come in time is missing from the list.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * members + 256
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    context.max_sockets = members + 8
    crowd = [BareMember(context, target) for _ in range(members)]
    for member in crowd:
        member.receive()
        member.join(room)
    for member in crowd:
        member.receive()
    out.send(None)
    out.send(list(_delays_ms(crowd, members * chat.messages, 2 * chat.for_s + 10)))


def _delays_ms(crowd: list[BareMember], wanted: int, patience_s: float) -> Iterator[float]:
    poller = zmq.Poller()
    by_socket = {member.socket: member for member in crowd}
    for member in crowd:
        poller.register(member.socket, zmq.POLLIN)
    ends, came = time.monotonic() + patience_s, 0
    while came < wanted and time.monotonic() < ends:
        for socket, _ in poller.poll(100):
            word, batch = by_socket[socket].receive()
            if isinstance(word, Entries):
                came += by_socket[socket].take(word, batch)
                for item in unpack_batch(batch):
                    sent_us = take_apart(item.envelope or b"").header.timestamp_ms
                    yield (_now_us() - sent_us) / 1_000


def talk(target: Target, room: bytes, chat: Chat) -> None:
    """Say the messages of a chat at its pace; late ones as soon as possible."""
    talker = BareMember(zmq.Context(), target)
    talker.receive()
    started = time.monotonic()
    for k in range(1, chat.messages + 1):
        talker.post(room, k, outline())
        talker.stored()
        time.sleep(max(0.0, started + k / chat.per_s - time.monotonic()))
    talker.wait_stored(chat.messages)
