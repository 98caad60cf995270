"""Lies that need a second truth: another core over a log in memory, under the same keys.

Rules of this file: as in logged.py.
"""

from zchat.broker.core import Core, Peer
from zchat.broker.send import Send
from zchat.lab.rogue import GHOST, HELLO, NO_LIMITS, Ghost, Late, Lie, Rogue
from zchat.log.contract import Addition, BrokerLog, MemoryLog
from zchat.protocol.envelope import envelope_id
from zchat.protocol.wire import Frames, Post, Refuse, decode_to_broker, encode


class World:
    """A second truth under the same keys."""

    def __init__(self, rogue: "Rogue") -> None:
        self.log = MemoryLog()
        self._core = Core(self.log, rogue.key, NO_LIMITS, rogue.software)
        self.ghost = Ghost(self._core)
        self._routes: set[bytes] = set()

    def adopt(self, route: bytes, peer: Peer) -> None:
        """From now on this connection lives here."""
        self._routes.add(route)
        self._core.connected(route, peer)
        self._core.receive(route, HELLO, 0.0, bytes(16))

    def has(self, route: bytes) -> bool:
        return route in self._routes

    def forget(self, route: bytes) -> None:
        self._routes.discard(route)
        self._core.closed(route)

    def receive(self, route: bytes, frames: Frames, now: float, randomness: bytes) -> list[Send]:
        return self._core.receive(route, frames, now, randomness)

    def unsent(self, send: Send) -> None:
        self._core.unsent(send)

    def copy(self, source: BrokerLog, room: bytes, upto: int) -> None:
        """Begin with the first `upto` entries that another log has of a room."""
        tip = source.tip(room)
        assert tip is not None
        n = 0
        while n < upto:
            entries = source.read(room, n + 1, upto)
            self.log.append([Addition(room, entries, tip.log, tip.births)])
            n = entries[-1].n

    def turn(self) -> list[Send]:
        """Store what was posted, hand out what is due."""
        batch = self._core.batch(0)
        if batch:
            self.log.append(batch)
        sends = self._core.committed()
        self._core.retry_stuck()
        sends += self._core.serve()
        return [send for send in sends if send.route != GHOST]


class Fork(Lie):
    """Shows two halves of a room different histories.

    Shows two groups of members different histories; after a while one message crosses. No
    messenger of today would notice (Megolm names it as future research). Here every message
    carries the signed head its author had seen: the first one that crosses is the proof, and
    the words of `zchat verify` differ before that.
    """

    name = "fork"

    def __init__(self, sides: str = "1/2", after: int = 3, cross: int = 4) -> None:
        _, _, other = sides.partition("/")
        self._other_side = {int(number) for number in other.split(",") if number}
        self._after, self._cross_at = after, after + cross
        self._posts: set[bytes] = set()

    def begin(self, rogue: Rogue) -> None:
        super().begin(rogue)
        self._world = World(rogue)

    def takes(
        self, route: bytes, frames: Frames, now: float, randomness: bytes
    ) -> list[Send] | None:
        word, envelope = decode_to_broker(frames)
        is_other = self.rogue.member(route) in self._other_side
        if is_other and not self._world.has(route):
            self._world.adopt(route, self.rogue.peers[route])
        if isinstance(word, Post):
            elsewhere = self.rogue.ghost if is_other else self._world.ghost
            self._pass_on(word, envelope, elsewhere, randomness)
        return self._world.receive(route, frames, now, randomness) if is_other else None

    def _pass_on(self, word: Post, envelope: bytes, elsewhere: Ghost, randomness: bytes) -> None:
        """To both worlds until they part, born alike; and once more when a message crosses."""
        self._posts.add(envelope_id(envelope))
        count = len(self._posts)
        if count <= self._after or count == self._cross_at:
            elsewhere.post(word.room, envelope, 0.0, randomness)

    def on_turn(self) -> list[Send]:
        return self._world.turn()

    def unsent(self, send: Send) -> bool:
        if self._world.has(send.route):
            self._world.unsent(send)
        return self._world.has(send.route)


class Rollback(Late):
    """Goes back to an older store.

    Loses the last entries, as if restored from a backup. SUNDR's class of attacks. Here every
    member keeps the last signed head: a server that went back is told so, and nothing more is
    sent to it. An honest restore opens a new log that names the old one.
    """

    name = "rollback"

    def __init__(self, entries: int = 2, after: int = 4) -> None:
        super().__init__(after)
        self._lost = entries
        self._world: World | None = None
        self._room = b""

    def on_post(self, route: bytes, word: Post, envelope: bytes) -> list[tuple[Post, bytes]]:
        self._room = word.room
        return super().on_post(route, word, envelope)

    def takes(
        self, route: bytes, frames: Frames, now: float, randomness: bytes
    ) -> list[Send] | None:
        if self._world is None:
            return None
        if not self._world.has(route):
            self._world.adopt(route, self.rogue.peers[route])
        return self._world.receive(route, frames, now, randomness)

    def on_turn(self) -> list[Send]:
        tip = self.rogue.log.tip(self._room) if self._room else None
        if self._world is None and tip is not None and tip.n >= self._after:
            self._world = World(self.rogue)
            self._world.copy(self.rogue.log, self._room, max(1, tip.n - self._lost))
            return self._farewell()
        return self._world.turn() if self._world else []

    def _farewell(self) -> list[Send]:
        """As a server that restarts: everybody comes back and says where they stand."""
        frames = encode(
            Refuse(req=0, k=0, code="hello-first", room=b"", retry_after_ms=0, text="restarted")
        )
        return [Send(route, frames) for route in self.rogue.peers]

    def unsent(self, send: Send) -> bool:
        return self._world is not None and self._world.has(send.route)
