"""Members that only load a server: they speak the protocol, and neither seal nor open anything.

What a server cannot read it cannot tell from noise either, so the envelopes here are outlines with
random bytes behind them: no key of a room is needed to measure what a server carries.

Rules of this file: only the open half of the protocol; a member that does not get what it waits
for in time raises TimeoutError.
"""

import os
from typing import NamedTuple

import zmq
from zmq.utils import z85

from zchat.protocol.envelope import EPOCH, SUITE, VERSION, EnvelopeClass, Header
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
    """An envelope that a server takes, and that nobody can open."""
    header = Header(
        VERSION, SUITE, EnvelopeClass.LOG, EPOCH, 0, os.urandom(NONCE_BYTES), os.urandom(KEY_BYTES)
    )
    return header.packed + os.urandom(envelope_bytes - len(header.packed))
