"""The real broker with a liar between it and the world.

Theory of operation. `Rogue` is the broker's own core; every post that comes in, every batch that is
stored, every entry that is read and every frame that leaves passes through its lies, one after the
other. A lie gets what an honest broker would do and returns what is done instead. It holds the log
key, so it can sign whatever it likes; it holds no key of a room, as no broker does.

Rules of this file: nothing of the honest broker is changed for it; who is who goes by the order of
the first JOIN, for a broker knows no names.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

from zchat.broker.core import Core, Limits, Peer
from zchat.broker.send import Send
from zchat.errors import Malformed
from zchat.log.contract import Addition, BrokerLog, Entry
from zchat.log.sqlite import SqliteLog
from zchat.protocol.ledger import LogKey
from zchat.protocol.limits import (
    MAX_BATCH_BYTES,
    MAX_BATCH_ENTRIES,
    PROTOCOL_VERSION,
)
from zchat.protocol.wire import (
    Frames,
    Hello,
    Join,
    Post,
    ToMember,
    decode_to_broker,
    decode_to_member,
    encode,
)

GHOST = b"ghost"
_NOBODY = Peer(bytes(32), "nowhere")
NO_LIMITS = Limits(post_burst=1 << 30, control_burst=1 << 30, cast_burst=1 << 30)
HELLO = encode(Hello(req=1, protocol=PROTOCOL_VERSION, software="ghost"))


class Lie:
    """One way to lie. Every hook does here what an honest broker does."""

    name: ClassVar[str]
    rogue: "Rogue"

    def begin(self, rogue: "Rogue") -> None:
        """The broker starts."""
        self.rogue = rogue

    def on_post(self, route: bytes, word: Post, envelope: bytes) -> list[tuple[Post, bytes]]:
        """A member posts: what the broker gets to see of it."""
        return [(word, envelope)]

    def on_store(self, room: bytes, entries: Sequence[Entry]) -> Sequence[Entry]:
        """A batch is stored: what the disk gets."""
        return entries

    def on_read(self, room: bytes, entries: list[Entry]) -> list[Entry]:
        """Entries are read for somebody: what the broker finds."""
        return entries

    def on_outgoing(self, member: int, word: ToMember, attachment: bytes) -> list[Frames]:
        """A word leaves for a member (0: it has joined nothing yet): what goes out instead."""
        return [again(word, attachment)]

    def takes(
        self, route: bytes, frames: Frames, now: float, randomness: bytes
    ) -> list[Send] | None:
        """A message that this lie answers all by itself; None if the broker shall."""
        return None

    def on_turn(self) -> list[Send]:
        """The broker's turn ends: what this lie wants sent besides."""
        return []

    def unsent(self, send: Send) -> bool:
        """A frame could not be sent; True if it was of this lie's own world."""
        return False


class Late(Lie):
    """A lie that begins after the first `after` posts."""

    def __init__(self, after: int) -> None:
        self._after = after
        self.posts = 0

    def on_post(self, route: bytes, word: Post, envelope: bytes) -> list[tuple[Post, bytes]]:
        self.posts += 1
        return [(word, envelope)]

    @property
    def lies_now(self) -> bool:
        return self.posts > self._after


def flipped(envelope: bytes | None, at: int) -> bytes:
    """The envelope with one bit changed at an offset (taken round)."""
    changed = bytearray(envelope or b"")
    changed[at % len(changed)] ^= 1
    return bytes(changed)


def again(word: ToMember, attachment: bytes) -> Frames:
    """The frames of a word, with its attachment where it has one."""
    has_one = type(word).__name__ in ("Stored", "Entries", "Cast")
    return encode(word, attachment if has_one else None)


class Ghost:
    """Posts of nobody: how a liar puts an envelope into a log by the front door."""

    def __init__(self, core: Core) -> None:
        self._receive = core.receive
        self._k: dict[bytes, int] = {}
        core.connected(GHOST, _NOBODY)
        core.receive(GHOST, HELLO, 0.0, bytes(16))

    def post(self, room: bytes, envelope: bytes, now: float, randomness: bytes) -> None:
        """Have an envelope logged; one that no broker takes is lost, and its number used again."""
        k = self._k.get(room, 0) + 1
        refused = self._receive(GHOST, encode(Post(room=room, k=k), envelope), now, randomness)
        self._k[room] = k - bool(refused)


class Rogue(Core):
    """A broker's core whose every frame passes through its lies."""

    def __init__(self, log: BrokerLog, key: LogKey, software: str, lies: Sequence[Lie]) -> None:
        super().__init__(log, key, NO_LIMITS, software)
        self.log, self.key, self.software = log, key, software
        self._lies = lies
        self._numbers: dict[bytes, int] = {}  # access key -> number
        self.peers: dict[bytes, Peer] = {}
        self.ghost = Ghost(self)
        for lie in lies:
            lie.begin(self)

    def member(self, route: bytes) -> int:
        """The number of the member behind a route; 0 if it has not joined anything."""
        peer = self.peers.get(route)
        return self._numbers.get(peer.access_key, 0) if peer else 0

    def routes_of(self, member: int) -> list[bytes]:
        """The connections of a member."""
        return [route for route in self.peers if self.member(route) == member]

    def connected(self, route: bytes, peer: Peer) -> None:
        super().connected(route, peer)
        if route != GHOST:
            self.peers[route] = peer

    def closed(self, route: bytes) -> None:
        super().closed(route)
        self.peers.pop(route, None)

    def receive(self, route: bytes, frames: Frames, now: float, randomness: bytes) -> list[Send]:
        if route == GHOST:
            return super().receive(route, frames, now, randomness)
        try:
            word, envelope = decode_to_broker(frames)
        except Malformed:
            return []
        if isinstance(word, Join):
            key = self.peers[route].access_key
            self._numbers.setdefault(key, len(self._numbers) + 1)
        posts = [(word, envelope)] if isinstance(word, Post) else []
        for lie in self._lies:
            posts = [told for post in posts for told in lie.on_post(route, *post)]
        whole = [encode(*post) for post in posts] if isinstance(word, Post) else [frames]
        return [send for told in whole for send in self._take(route, told, now, randomness)]

    def _take(self, route: bytes, frames: Frames, now: float, randomness: bytes) -> list[Send]:
        for lie in self._lies:
            answer = lie.takes(route, frames, now, randomness)
            if answer is not None:
                return self._outgoing(answer)
        return self._outgoing(super().receive(route, frames, now, randomness))

    def batch(self, arrived_ms: int) -> list[Addition]:
        return [
            addition._replace(entries=self._stored(addition))
            for addition in super().batch(arrived_ms)
        ]

    def _stored(self, addition: Addition) -> Sequence[Entry]:
        entries = addition.entries
        for lie in self._lies:
            entries = lie.on_store(addition.room, entries)
        return entries

    def committed(self) -> list[Send]:
        return self._outgoing(super().committed())

    def serve(self) -> Iterator[Send]:
        sends = list(super().serve())
        for lie in self._lies:
            sends += lie.on_turn()
        yield from self._outgoing(sends)

    def unsent(self, send: Send) -> None:
        if not any(lie.unsent(send) for lie in self._lies):
            super().unsent(send)

    def _outgoing(self, sends: Iterable[Send]) -> list[Send]:
        return [told for send in sends if send.route != GHOST for told in self._told(send)]

    def _told(self, send: Send) -> list[Send]:
        member = self.member(send.route)
        frames = [send.frames]
        for lie in self._lies:
            frames = [told for each in frames for told in self._by(lie, member, each)]
        return [send._replace(frames=each) for each in frames]

    @staticmethod
    def _by(lie: Lie, member: int, frames: Frames) -> list[Frames]:
        try:
            return lie.on_outgoing(member, *decode_to_member(frames))
        except Malformed:  # another lie has been here: what no honest broker says goes out as it is
            return [frames]


class LyingLog(SqliteLog):
    """A broker's store that shows what its lies want seen."""

    lies: Sequence[Lie] = ()

    def read(
        self,
        room: bytes,
        first: int,
        last: int,
        most_bytes: int = MAX_BATCH_BYTES,
        most_entries: int = MAX_BATCH_ENTRIES,
    ) -> list[Entry]:
        entries = super().read(room, first, last, most_bytes, most_entries)
        for lie in self.lies:
            entries = lie.on_read(room, entries)
        return entries
