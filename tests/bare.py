"""Members that only post, and members that only read: what a checker needs of a member.

A writer keeps what it was not told is stored, and posts it again, as an outbox does; a reader keeps
the ids it was shown. Envelopes are outlines: a server cannot tell them from real ones.

Rules of this file: a receipt counts only if its ids fold into its head; a connection that is silent
is replaced.
"""

import contextlib
import os
import time
from typing import NamedTuple

import zmq
from zmq.utils import z85

from zchat.errors import Malformed
from zchat.protocol.envelope import EPOCH, SUITE, VERSION, EnvelopeClass, Header, envelope_id
from zchat.protocol.ledger import NO_LOG, Head, chain
from zchat.protocol.limits import (
    ENVELOPE_OVERHEAD_BYTES,
    HEADER_BYTES,
    KEY_BYTES,
    NONCE_BYTES,
    PADDING_FLOOR_BYTES,
    padme,
)
from zchat.protocol.wire import (
    Entries,
    Frames,
    Hello,
    Item,
    Join,
    Position,
    Post,
    Ready,
    Refuse,
    Stored,
    ToMember,
    decode_to_member,
    encode,
    unpack_batch,
    unpack_ids,
)

_SILENCE_S = 1.5
_HANDSHAKE_S = 8.0


class Target(NamedTuple):
    """Where a server listens, and its CURVE key."""

    endpoint: str
    curve_key: bytes


class Broken(AssertionError):
    """An invariant does not hold."""


def outline(least_bytes: int = 0) -> bytes:
    """An envelope of about this size that a server takes, and that nobody can open."""
    padded = padme(max(least_bytes - ENVELOPE_OVERHEAD_BYTES, PADDING_FLOOR_BYTES))
    header = Header(
        VERSION, SUITE, EnvelopeClass.LOG, EPOCH, 0, os.urandom(NONCE_BYTES), os.urandom(KEY_BYTES)
    )
    return header.packed + os.urandom(padded + ENVELOPE_OVERHEAD_BYTES - HEADER_BYTES)


class Line:
    """A connection: greeted once READY was heard."""

    def __init__(
        self, context: "zmq.Context[zmq.Socket[bytes]]", target: Target, protocol: int = 1
    ) -> None:
        self.socket = context.socket(zmq.DEALER)
        options: dict[int, int | bytes] = {zmq.LINGER: 0, zmq.RCVHWM: 0, zmq.RECONNECT_IVL: -1}
        public, secret = zmq.curve_keypair()
        options |= {zmq.CURVE_PUBLICKEY: public, zmq.CURVE_SECRETKEY: secret}
        options[zmq.CURVE_SERVERKEY] = z85.encode(target.curve_key)
        for option, value in options.items():
            self.socket.setsockopt(option, value)
        self._made_at = time.monotonic()
        self.socket.connect(target.endpoint)
        with contextlib.suppress(zmq.Again):  # nobody listens there: then it stays silent
            self.say(encode(Hello(1, protocol, "bare")))

    @property
    def is_silent(self) -> bool:
        """Whether it should have been answered long ago."""
        return time.monotonic() - self._made_at > _HANDSHAKE_S

    def say(self, frames: Frames) -> None:
        self.socket.send_multipart(frames, zmq.NOBLOCK)

    def hear(self, patience_s: float) -> tuple[ToMember, bytes] | None:
        """The next word; None if there is none in time."""
        if not self.socket.poll(max(0, int(1000 * patience_s))):
            return None
        try:
            return decode_to_member(self.socket.recv_multipart())
        except Malformed as error:
            raise Broken(f"the server said something that is no word: {error}") from None

    def close(self) -> None:
        self.socket.close()


class _Bare:
    """What a writer and a reader share: a line that is replaced when it is silent."""

    def __init__(self, target: Target, room: bytes) -> None:
        self.target = target
        self.room = room
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._line: Line | None = None
        self._heard_at = 0.0

    def pump(self, patience_s: float = 0.05) -> None:
        """Connect if need be, and take what comes in that time, at least one look."""
        ends = time.monotonic() + patience_s
        while True:
            self._step(min(0.05, ends - time.monotonic()))
            if time.monotonic() >= ends:
                return

    def _step(self, patience_s: float) -> None:
        now = time.monotonic()
        if self._line is None or (self._waits() and now - self._heard_at > _SILENCE_S):
            self.hang_up()
            self._line, self._heard_at = Line(self._context, self.target), now
        heard = self._line.hear(patience_s)
        if heard is None:
            return
        self._heard_at = time.monotonic()
        word, attachment = heard
        if isinstance(word, Ready):
            self._greeted()
        elif isinstance(word, Refuse) and word.code in ("stopping", "hello-first"):
            self.hang_up()
        else:
            self._take(word, attachment)

    def hang_up(self) -> None:
        """End the connection; the next step makes another."""
        if self._line is not None:
            self._line.close()
            self._line = None

    def _say(self, frames: Frames) -> None:
        if self._line is not None:
            try:
                self._line.say(frames)
            except zmq.Again:
                self.hang_up()

    def close(self) -> None:
        self.hang_up()
        self._context.term()

    def _waits(self) -> bool:
        raise NotImplementedError  # of a kind, each of which has its own

    def _greeted(self) -> None:
        raise NotImplementedError  # of a kind, each of which has its own

    def _take(self, word: ToMember, attachment: bytes) -> None:
        raise NotImplementedError  # of a kind, each of which has its own


class Writer(_Bare):
    """Posts outlines. `acked` is what it was told is stored, in order, with its place."""

    def __init__(self, target: Target, room: bytes, envelope_bytes: int = 700) -> None:
        super().__init__(target, room)
        self.acked: dict[bytes, int] = {}
        self.waiting: dict[bytes, bytes] = {}  # in the order they were written
        self.refusals: list[str] = []
        self._written: dict[bytes, bytes] = {}
        self._envelope_bytes = envelope_bytes
        self._under_way: list[tuple[int, bytes]] = []
        self._next_k = 1
        self._is_greeted = False
        self._repost_at = 0.0

    def write(self, count: int = 1) -> list[bytes]:
        """Write so many, and post them."""
        made = []
        for _ in range(count):
            envelope = outline(self._envelope_bytes)
            entry_id = envelope_id(envelope)
            made.append(entry_id)
            self.waiting[entry_id] = self._written[entry_id] = envelope
            if self._is_greeted and not self._repost_at:
                self._post(entry_id)
        return made

    def settle(self, patience_s: float = 30.0) -> float:
        """Until everything is stored; how long that took. Raises Broken."""
        began = time.monotonic()
        while self.waiting:
            self.pump(0)
            if time.monotonic() - began > patience_s:
                raise Broken(f"{len(self.waiting)} posts unanswered after {patience_s:.0f} s")
        return time.monotonic() - began

    def forget_confirmations(self) -> None:
        """As if none had come: everything is posted again, as the same bytes."""
        self.waiting = {**self._written}
        self.acked.clear()

    def hang_up(self) -> None:
        super().hang_up()
        self._is_greeted = False

    def _waits(self) -> bool:
        return not self._is_greeted or (bool(self.waiting) and not self._repost_at)

    def _greeted(self) -> None:
        self._is_greeted, self._next_k, self._repost_at = True, 1, 0.0
        self._post_all()

    def _post_all(self) -> None:
        self._under_way.clear()
        for entry_id in self.waiting:
            self._post(entry_id)

    def _post(self, entry_id: bytes) -> None:
        self._under_way.append((self._next_k, entry_id))
        self._say(encode(Post(self.room, self._next_k), self.waiting[entry_id]))
        self._next_k += 1

    def _step(self, patience_s: float) -> None:
        if self._repost_at and time.monotonic() >= self._repost_at:
            self._repost_at, self._heard_at = 0.0, time.monotonic()
            self._post_all()
        super()._step(patience_s)

    def _take(self, word: ToMember, attachment: bytes) -> None:
        if isinstance(word, Stored):
            self._stored(word, unpack_ids(attachment))
        elif isinstance(word, Refuse) and any(k == word.k for k, _ in self._under_way):
            if word.code == "bad-envelope":
                raise Broken("an envelope was refused for good")
            self.refusals.append(word.code)
            self._next_k = word.k
            self._repost_at = time.monotonic() + word.retry_after_ms / 1000

    def _stored(self, word: Stored, ids: list[bytes]) -> None:
        head = Head.unpack(word.head)
        if chain(word.before, word.first, ids)[-1] != head.hash:
            raise Broken("a receipt whose ids do not fold into its head")
        for n, entry_id in enumerate(ids, word.first):
            if self.waiting.pop(entry_id, None) is not None:
                self.acked[entry_id] = n
            elif self.acked.get(entry_id, n) != n:
                raise Broken(f"an id was confirmed at #{self.acked[entry_id]} and at #{n}")


class Reader(_Bare):
    """Reads a room from its beginning. `seen` is every id it was shown; `twice` counts repeats."""

    def __init__(self, target: Target, room: bytes, *, window: int = 1_048_576) -> None:
        super().__init__(target, room)
        self.seen: dict[bytes, int] = {}
        self.twice = 0
        self.accuses = ""
        self.refusals: list[str] = []
        self.tip = -1  # where the room ends, as the server says
        self._window = window
        self._sub = 0
        self._log, self._n, self._hash = NO_LOG, 0, NO_LOG
        self._is_joined = False
        self._unacknowledged = 0

    @property
    def n(self) -> int:
        """Where what it has read ends."""
        return self._n

    def read_to(self, n: int, patience_s: float = 30.0) -> float:
        """Until place n is read; how long that took. Raises Broken."""
        began = time.monotonic()
        while self._n < n and not self.accuses:
            self.pump(0)
            if time.monotonic() - began > patience_s:
                raise Broken(f"read {self._n} of {n} in {patience_s:.0f} s")
        return time.monotonic() - began

    def hang_up(self) -> None:
        super().hang_up()
        self._is_joined = False

    def _waits(self) -> bool:
        return not self._is_joined

    def _greeted(self) -> None:
        self._sub += 1
        self._join()

    def _join(self) -> None:
        self._unacknowledged = 0
        place = Position(self.room, self._log, self._sub, self._n, self._hash, self._window)
        self._say(encode(Join(2, (place,))))

    def _take(self, word: ToMember, attachment: bytes) -> None:
        if isinstance(word, Refuse):
            self.refusals.append(word.code)
            self.hang_up()
        if not isinstance(word, Entries):
            return
        self._is_joined = True
        if word.log == NO_LOG:
            self.accuses = "it has no such room any more" if self._n else ""
            return
        head, items = Head.unpack(word.head), unpack_batch(attachment)
        self.tip = word.tip
        if self._n and (word.log != self._log or (not items and head.n < self._n)):
            self.accuses = f"it went back from #{self._n} to #{head.n}"
        elif items and word.first == self._n + 1:
            self._advance(word, items, head)
        elif not items and head.n == self._n and head.hash != self._hash:
            self.accuses = f"another #{self._n}"

    def _advance(self, word: Entries, items: list[Item], head: Head) -> None:
        ids = [i.bare_id if i.envelope is None else envelope_id(i.envelope) for i in items]
        before = self._hash if self._n else word.log
        if chain(before, word.first, ids)[-1] != head.hash:
            self.accuses = f"#{word.first} to #{head.n} do not fold into their head"
            return
        for n, entry_id in enumerate(ids, word.first):
            self.twice += entry_id in self.seen
            self.seen[entry_id] = n
        self._log, self._n, self._hash = head.log, head.n, head.hash
        self._unacknowledged += sum(4 + len(i.envelope or i.bare_id) for i in items)
        if 2 * self._unacknowledged >= self._window:
            self._join()
