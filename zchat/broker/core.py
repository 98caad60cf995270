"""The broker without its socket: connections, words, rates, and the order of a turn.

Theory of operation. A turn is: `receive` for every message that waits; `batch` says what to store;
the shell stores it with one commit; `committed` hands out receipts and entries; `serve` works
through what waits in line. Posts are intake.py's, cursors are cursors.py's.

Rules of this file: no socket, no clock, no randomness of its own; nothing is signed or sent before
it is durable; a message that breaks the contract is counted and dropped; a room whose store is
damaged is closed, and no other room notices.
"""

import functools
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from zchat.broker.budget import Budget
from zchat.broker.cursors import Cursors
from zchat.broker.heads import Heads
from zchat.broker.intake import Intake, Refusal, RoomLimits, Staged
from zchat.broker.retention import Keep, Retention
from zchat.broker.send import Send
from zchat.errors import Malformed, RoomDamaged, Unopenable
from zchat.log.contract import Addition, BrokerLog
from zchat.protocol import limits
from zchat.protocol.envelope import EnvelopeClass, check_outline
from zchat.protocol.ledger import LogKey
from zchat.protocol.wire import (
    Cast,
    Frames,
    Hello,
    Join,
    Leave,
    Page,
    Post,
    Ready,
    Refuse,
    ToBroker,
    decode_to_broker,
    encode,
)

_STORAGE = Refusal("storage", 2_000)
_DAMAGED = Refusal("storage", 300_000, "what it holds of this room is damaged")
_TOO_FAST = Refusal("rate", 1_000)


logger = logging.getLogger("zchat.broker")


@dataclass(frozen=True)
class Limits:
    """Who may have how much; the defaults of `protocol.limits`, changed by config/broker.toml."""

    post_burst: int = limits.POST_BURST
    posts_per_s: int = limits.POSTS_PER_S
    cast_burst: int = limits.CAST_BURST
    casts_per_s: int = limits.CASTS_PER_S
    control_burst: int = limits.CONTROL_BURST
    controls_per_s: int = limits.CONTROLS_PER_S
    rooms_per_access_key: int = limits.ROOMS_PER_ACCESS_KEY
    rooms_per_broker: int = limits.ROOMS_PER_BROKER
    room_bytes: int = limits.ROOM_BYTES
    keep_days: int = 0
    keep_room_bytes: int = 0


class Peer(NamedTuple):
    """Who stands behind a route, as the handshake saw it."""

    access_key: bytes
    address: str


class _Rate:
    """What one access key may ask, and one address, which may be several people."""

    def __init__(self, burst: int, rate: int) -> None:
        factor = limits.ADDRESS_FACTOR
        self._keys: Budget[bytes] = Budget(burst, rate)
        self._addresses: Budget[str] = Budget(burst * factor, rate * factor)

    def allows(self, peer: Peer, now: float) -> bool:
        return self._keys.take(peer.access_key, now) and self._addresses.take(peer.address, now)


class _Connection:
    """A route that is known, and whether it has said HELLO."""

    def __init__(self, route: bytes, peer: Peer) -> None:
        self.route = route
        self.peer = peer
        self.said_hello = False


class Core:
    """A broker over a log. `counts` says what it has seen since its start."""

    def __init__(self, log: BrokerLog, key: LogKey, allowed: Limits, software: str) -> None:
        self._key = key
        self._allowed = allowed
        self._software = software
        self._connections: dict[bytes, _Connection] = {}
        self._damaged: set[bytes] = set()
        heads = Heads(log, key)
        rooms = RoomLimits(
            allowed.rooms_per_access_key, allowed.rooms_per_broker, allowed.room_bytes
        )
        self._intake = Intake(log, key, heads, rooms)
        self._cursors = Cursors(log, heads)
        self._retention = Retention(log, Keep(allowed.keep_days, allowed.keep_room_bytes))
        self.change_limits(allowed)
        self.counts: Counter[str] = Counter()
        self.fruitless = 0  # messages of this turn that were dropped, refused, or said before

    def change_limits(self, allowed: Limits) -> None:
        """Other rates from now on; the other limits are for the life of a process."""
        self._allowed = allowed
        self._posts = _Rate(allowed.post_burst, allowed.posts_per_s)
        self._casts = _Rate(allowed.cast_burst, allowed.casts_per_s)
        self._controls = _Rate(allowed.control_burst, allowed.controls_per_s)

    def gauges(self) -> dict[str, int]:
        """How much of what there is now."""
        return {
            "connections": len(self._connections),
            "rooms": self._intake.room_count,
            "damaged_rooms": len(self._damaged),
        }

    # ---- connections ----

    @property
    def has_connections(self) -> bool:
        """Whether anybody is here."""
        return bool(self._connections)

    def knows(self, route: bytes) -> bool:
        """Whether this route was heard before."""
        return route in self._connections

    def connected(self, route: bytes, peer: Peer) -> None:
        """A route was heard for the first time."""
        self._connections[route] = _Connection(route, peer)

    def closed(self, route: bytes) -> None:
        """A route is gone."""
        self._connections.pop(route, None)
        self._intake.forget(route)
        self._cursors.forget(route)

    def drop_all_but(self, allowed: frozenset[bytes]) -> None:
        """Forget the connections of access keys that may no longer be here (none named: all may).

        What they say next is heard by nobody, so they come again, and the handshake refuses them.
        """
        for route, connection in list(self._connections.items()):
            if allowed and connection.peer.access_key not in allowed:
                self.closed(route)

    # ---- a message comes in ----

    def receive(self, route: bytes, frames: Frames, now: float, randomness: bytes) -> list[Send]:
        """Take one message (without its route frame); 16 bytes of this turn, for a new log.

        Returns what can be said at once. Posts wait for `batch` and `committed`, JOIN and PAGE for
        `serve`.
        """
        connection = self._connections[route]
        try:
            word, attachment = decode_to_broker(frames)
        except Malformed:
            return self.drop("malformed")
        self.counts[type(word).__name__] += 1
        if isinstance(word, Hello):
            return self._hello(connection, word)
        if not connection.said_hello:
            return self._before_hello(route, word)
        if isinstance(word, Post):
            return self._post(connection, word, attachment, now, randomness)
        if isinstance(word, Cast):
            return self._cast(connection, word, attachment, now)
        return list(self._control(connection, word, now))

    def _before_hello(self, route: bytes, word: ToBroker) -> list[Send]:
        """What has an answer is refused; the rest is dropped."""
        if isinstance(word, Cast | Leave):
            return self.drop("before hello")
        return [self._refuse(route, word, Refusal("hello-first"))]

    def _hello(self, connection: _Connection, word: Hello) -> list[Send]:
        if word.protocol != limits.PROTOCOL_VERSION:
            spoken = f"this server speaks version {limits.PROTOCOL_VERSION}"
            return [self._refuse(connection.route, word, Refusal("version", text=spoken))]
        self.fruitless += connection.said_hello
        connection.said_hello = True
        ready = Ready(
            req=word.req,
            protocol=limits.PROTOCOL_VERSION,
            software=self._software,
            log_key=self._key.public,
            post_burst=self._allowed.post_burst,
            post_rate=self._allowed.posts_per_s,
        )
        return [Send(connection.route, encode(ready))]

    def _post(
        self, connection: _Connection, word: Post, envelope: bytes, now: float, randomness: bytes
    ) -> list[Send]:
        route, peer = connection.route, connection.peer
        if self._intake.is_out_of_turn(route, word):
            return self.drop("post out of turn")
        if not self._posts.allows(peer, now):
            return [self._refuse(route, word, _TOO_FAST)]
        staged = self._intake.staged
        take = functools.partial(
            self._intake.take, route, peer.access_key, word, envelope, randomness
        )
        answers = self._in_room((route, word, word.room), take)
        if self._intake.staged == staged and not answers:
            self.fruitless += 1
        return answers

    def _cast(self, connection: _Connection, word: Cast, envelope: bytes, now: float) -> list[Send]:
        try:
            check_outline(envelope, EnvelopeClass.CAST)
        except Unopenable:
            return self.drop("malformed")
        if not self._casts.allows(connection.peer, now):
            return self.drop("cast too fast")
        frames = encode(Cast(room=word.room), envelope)
        others = (r for r in self._cursors.routes(word.room) if r != connection.route)
        return [Send(route, frames) for route in others]

    def _control(
        self, connection: _Connection, word: Join | Page | Leave, now: float
    ) -> Iterator[Send]:
        route = connection.route
        if isinstance(word, Leave):  # it has no answer, so it is never refused
            self._cursors.leave(route, word.room)
            return
        is_paid = isinstance(word, Join) and self._cursors.acknowledges(route, word)
        if not is_paid and not self._controls.allows(connection.peer, now):
            rooms = [place.room for place in word.rooms] if isinstance(word, Join) else [word.room]
            for room in rooms:
                yield self._refuse(route, word, _TOO_FAST, room)
        elif isinstance(word, Join):
            for place in word.rooms:
                join = functools.partial(self._cursors.join, route, place, word.req)
                yield from self._in_room((route, word, place.room), join)
        else:
            page = functools.partial(self._cursors.page, route, word)
            yield from self._in_room((route, word, word.room), page)

    def _in_room(
        self, asked: tuple[bytes, ToBroker, bytes], do: Callable[[], Refusal | None]
    ) -> list[Send]:
        """Do what a route asked for in a room; what is refused is told, as all is once damaged."""
        route, word, room = asked
        sends: list[Send] = []
        refusal: Refusal | None = _DAMAGED
        if room not in self._damaged:
            try:
                refusal = do()
            except RoomDamaged as damage:
                sends += self._shut(damage)
        if refusal:
            sends.append(self._refuse(route, word, refusal, room))
        return sends

    def _shut(self, damage: RoomDamaged) -> Iterator[Send]:
        """A room is damaged: nothing of it goes in or out, and whoever is in it is told."""
        if damage.room not in self._damaged:
            logger.error("%s %s", damage, damage.advice)
        self._damaged.add(damage.room)
        for route, req in self._cursors.shut(damage.room):
            yield self._refusal(route, req, 0, refusal=_DAMAGED, room=damage.room)

    def drop(self, what: str) -> list[Send]:
        """Count a message that is not answered."""
        self.counts[what] += 1
        self.fruitless += 1
        return []

    def _refuse(self, route: bytes, word: ToBroker, refusal: Refusal, room: bytes = b"") -> Send:
        self.fruitless += 1
        req, k = getattr(word, "req", 0), getattr(word, "k", 0)
        room = room or getattr(word, "room", b"")
        return self._refusal(route, req, k, refusal=refusal, room=room)

    def _refusal(self, route: bytes, req: int, k: int, *, refusal: Refusal, room: bytes) -> Send:
        self.counts[f"refused {refusal.code}"] += 1
        code, retry_after_ms, text = refusal
        return Send(route, encode(Refuse(req, k, code, room, retry_after_ms, text)))

    # ---- the rest of a turn ----

    @property
    def full(self) -> bool:
        """Whether the turn's batch is at its bound: commit before more is received."""
        return self._intake.full

    def batch(self, arrived_ms: int) -> list[Addition]:
        """What this turn has to store, with the time of arrival; empty if nothing."""
        return self._intake.batch(arrived_ms)

    def committed(self) -> list[Send]:
        """The batch is durable: receipts to its authors, entries to the cursors at the end."""
        sends: list[Send] = []
        for room, staged in self._intake.committed().items():
            if staged.entries:
                self.counts["stored"] += len(staged.entries)
            try:
                sends += self._handed_out(room, staged)
            except RoomDamaged as damage:  # it is stored all the same; no receipt says so
                sends += self._shut(damage)
                for route, taken in staged.taken.items():
                    post = Post(room=room, k=min(one.k for one in taken))
                    sends.append(self._refuse(route, post, _DAMAGED))
        self.fruitless = 0
        return sends

    def _handed_out(self, room: bytes, staged: Staged) -> list[Send]:
        receipts = list(self._intake.receipts(room, staged))
        return [*receipts, *self._cursors.hand_out(room, staged)] if staged.entries else receipts

    def failed(self, damage: RoomDamaged | None = None) -> list[Send]:
        """The store could not take the batch: its authors are told to come again."""
        sends = list(self._shut(damage)) if damage else []
        for route, post in self._intake.failed():
            refusal = _DAMAGED if post.room in self._damaged else _STORAGE
            sends.append(self._refuse(route, post, refusal))
        self.fruitless = 0
        return sends

    @property
    def has_work(self) -> bool:
        """Whether `serve` would do something now."""
        return self._cursors.has_work

    @property
    def has_stuck(self) -> bool:
        """Whether some pipe was full when there was something for it."""
        return self._cursors.has_stuck

    def retry_stuck(self) -> None:
        """Try some of the full pipes again. To be called now and then, while there are any."""
        self._cursors.retry_stuck()

    def serve(self) -> Iterator[Send]:
        """What waits in line, a bounded part of it.

        Each is made when the one before it was sent, or given to `unsent`: nothing is made for a
        pipe that is known to be full by then.
        """
        try:
            yield from self._cursors.serve()
        except RoomDamaged as damage:
            yield from self._shut(damage)

    def unsent(self, send: Send) -> None:
        """A route's pipe was full: its cursor goes back; a word without one is asked for again."""
        self.counts["pipe full"] += 1
        self._cursors.unsent(send)

    def expire(self, now_ms: int) -> list[Send]:
        """Let go of envelopes that are no longer to be kept, a bounded part of them."""
        try:
            expired = self._retention.step(now_ms)
        except RoomDamaged as damage:
            return list(self._shut(damage))
        if expired:
            self.counts["expired"] += expired
        return []

    def farewell(self, text: str = "") -> list[Send]:
        """The broker shuts down: everybody is told, and why, to try again later."""
        frames = encode(Refuse(0, 0, "stopping", b"", 1_000, text))
        return [Send(route, frames) for route in self._connections]
