"""Who gets what: connections, rooms, cursors, windows, limits. No socket, no clock, no thread.

Theory of operation. One turn of the broker is: `receive` for every message that waits; `batch` says
what to store; the shell stores it with one commit; `committed` hands out receipts and entries;
`serve` works through what was asked for and is behind. A subscriber is a cursor: an entry is sent
only when the cursor stands right before it, so backlog, live flow, reconnect and slow reader are
one rule. The batch of a room is encoded once and goes as the same bytes to every cursor at the tip.

Rules of this file: nothing is signed or sent before it is durable; a POST is taken only in the
order of its numbers, and what a failed commit refuses goes back to its number; memory per
connection is bounded by its window and its rooms; a message that breaks the contract is counted and
dropped. Envelopes are never looked into beyond their outline.
"""

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from zchat.broker.budget import Budget
from zchat.errors import Malformed, Unopenable
from zchat.log.contract import Addition, BrokerLog, Entry, Tip
from zchat.protocol import limits
from zchat.protocol.envelope import EnvelopeClass, check_outline, envelope_id
from zchat.protocol.ledger import NO_LOG, Genesis, LogKey, link
from zchat.protocol.limits import (
    MAX_BATCH_BYTES,
    MAX_BATCH_ENTRIES,
    MAX_ENVELOPE_BYTES,
    MAX_PAGES_WAITING,
    MAX_ROOMS_PER_CONNECTION,
    MAX_WINDOW_BYTES,
    PROTOCOL_VERSION,
    TIP,
)
from zchat.protocol.wire import (
    Cast,
    Entries,
    Frames,
    Hello,
    Join,
    Leave,
    Page,
    Position,
    Post,
    Ready,
    Refuse,
    Stored,
    ToBroker,
    decode_to_broker,
    encode,
    pack_batch,
)

_SERVED_PER_TURN_BYTES = 8 * MAX_BATCH_BYTES
_ROOM_FULL_RETRY_MS = 60_000
_STORAGE_RETRY_MS = 2_000
_RATE_RETRY_MS = 1_000


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


class Peer(NamedTuple):
    """Who stands behind a route, as the handshake saw it."""

    access_key: bytes
    address: str


@dataclass(eq=False)
class Subscription:
    """A cursor in a room. Weights are running sums of wire bytes, so bytes in flight subtract."""

    route: bytes
    room: bytes
    number: int
    after: int
    cursor: int
    window: int
    after_weight: int = 0
    cursor_weight: int = 0
    needs_lineage: bool = False
    answering: int = 0  # the JOIN this subscription's next ENTRIES answers
    queued: bool = False

    @property
    def room_left(self) -> int:
        """Bytes that may still go under way; the first entry always may."""
        in_flight = self.cursor_weight - self.after_weight
        return min(self.window, MAX_WINDOW_BYTES) - in_flight

    @property
    def idle(self) -> bool:
        return self.cursor == self.after


@dataclass(eq=False)
class _PageAsked:
    word: Page


@dataclass(eq=False)
class _AnswerOnce:
    """A JOIN that makes no subscription: an empty batch under a head that shows why."""

    req: int
    room: bytes
    head_at: int
    lineage: bool


_Due = Subscription | _PageAsked | _AnswerOnce


@dataclass(eq=False)
class _Connection:
    route: bytes
    peer: Peer
    said_hello: bool = False
    subscriptions: dict[bytes, Subscription] = field(default_factory=dict)
    next_k: dict[bytes, int] = field(default_factory=dict)
    due: deque[_Due] = field(default_factory=deque)
    pages: int = 0


class Send(NamedTuple):
    """Frames for a route. `former` is what its cursor goes back to if they cannot be sent."""

    route: bytes
    frames: Frames
    subscription: Subscription | None = None
    former: "_Former | None" = None


class _Former(NamedTuple):
    """What a subscription was before a Send moved it."""

    cursor: int
    cursor_weight: int
    needs_lineage: bool
    answering: int


class _Taken(NamedTuple):
    """A POST that was taken in this turn: its number, and the place its envelope has or gets."""

    k: int
    n: int


@dataclass
class _Staged:
    """What this turn adds to one room."""

    tip: Tip
    is_new: bool
    maker: bytes
    entries: list[Entry] = field(default_factory=list)
    places: dict[bytes, int] = field(default_factory=dict)
    weight: int = 0
    taken: dict[bytes, list[_Taken]] = field(default_factory=dict)  # by route


class Core:
    """The broker without its socket. `randomness(k)` gives k random bytes."""

    def __init__(self, log: BrokerLog, log_key: LogKey, allowed: Limits, software: str) -> None:
        self._log = log
        self._key = log_key
        self._allowed = allowed
        self._software = software
        self._connections: dict[bytes, _Connection] = {}
        self._subscribers: dict[bytes, dict[bytes, Subscription]] = {}
        self._heads: dict[bytes, tuple[bytes, int, int, bytes]] = {}
        self._staged: dict[bytes, _Staged] = {}
        self._waiting: deque[_Connection] = deque()
        self._stuck: set[Subscription] = set()
        self._room_count = log.count_rooms()
        self.counts: Counter[str] = Counter()
        self.full = False
        factor = limits.ADDRESS_FACTOR
        self._posts: Budget[bytes | str] = Budget(allowed.post_burst, allowed.posts_per_s)
        self._casts: Budget[bytes | str] = Budget(allowed.cast_burst, allowed.casts_per_s)
        self._controls: Budget[bytes | str] = Budget(allowed.control_burst, allowed.controls_per_s)
        self._address_posts: Budget[str] = Budget(
            allowed.post_burst * factor, allowed.posts_per_s * factor
        )
        self._address_controls: Budget[str] = Budget(
            allowed.control_burst * factor, allowed.controls_per_s * factor
        )

    # ---- connections ----

    def knows(self, route: bytes) -> bool:
        return route in self._connections

    def connected(self, route: bytes, peer: Peer) -> None:
        """A route was heard for the first time."""
        self._connections[route] = _Connection(route, peer)

    def closed(self, route: bytes) -> None:
        """A route is gone: its subscriptions and what was due to it go, too."""
        connection = self._connections.pop(route, None)
        if connection is None:
            return
        for room in list(connection.subscriptions):
            self._unsubscribe(connection, room)
        connection.due.clear()

    def connection_count(self) -> int:
        return len(self._connections)

    # ---- a message comes in ----

    def receive(
        self, route: bytes, frames: tuple[bytes, ...], now: float, randomness: bytes
    ) -> list[Send]:
        """Take one message (without its route frame); 16 bytes of randomness for a new log.

        Returns what can be said at once. Posts wait for `batch` and `committed`, JOIN and PAGE for
        `serve`. `full` says that the turn's batch is at its bound: commit before more is received.
        """
        connection = self._connections[route]
        try:
            word, attachment = decode_to_broker(frames)
        except Malformed:
            self.counts["malformed"] += 1
            return []
        self.counts[type(word).__name__.lower()] += 1
        if isinstance(word, Hello):
            return self._hello(connection, word, now)
        if not connection.said_hello:
            return [self._refuse(connection, word, "hello-first")]
        if isinstance(word, Post):
            return self._post(connection, word, attachment, now, randomness)
        if isinstance(word, Cast):
            return self._cast(connection, word, attachment, now)
        return self._control(connection, word, now)

    def _hello(self, connection: _Connection, word: Hello, now: float) -> list[Send]:
        if not self._may_ask(connection, now):
            return [self._refuse(connection, word, "rate", _RATE_RETRY_MS)]
        if word.protocol != PROTOCOL_VERSION:
            spoken = f"this server speaks version {PROTOCOL_VERSION}"
            return [self._refuse(connection, word, "version", text=spoken)]
        connection.said_hello = True
        ready = Ready(
            req=word.req,
            protocol=PROTOCOL_VERSION,
            software=self._software,
            log_key=self._key.public,
            post_burst=self._allowed.post_burst,
            post_rate=self._allowed.posts_per_s,
        )
        return [Send(connection.route, encode(ready))]

    def _control(
        self, connection: _Connection, word: Join | Page | Leave, now: float
    ) -> list[Send]:
        makes_progress = isinstance(word, Join) and self._acknowledges(connection, word)
        if not makes_progress and not self._may_ask(connection, now):
            return [self._refuse(connection, word, "rate", _RATE_RETRY_MS)]
        if isinstance(word, Join):
            return self._join(connection, word)
        if isinstance(word, Page):
            return self._page(connection, word)
        self._unsubscribe(connection, word.room)
        return []

    def _may_ask(self, connection: _Connection, now: float) -> bool:
        peer = connection.peer
        return self._controls.take(peer.access_key, now) and self._address_controls.take(
            peer.address, now
        )

    def _refuse(
        self,
        connection: _Connection,
        word: ToBroker,
        code: str,
        retry_after_ms: int = 0,
        room: bytes = b"",
        text: str = "",
    ) -> Send:
        self.counts["refused " + code] += 1
        refusal = Refuse(
            req=getattr(word, "req", 0),
            k=getattr(word, "k", 0),
            code=code,
            room=room or getattr(word, "room", b""),
            retry_after_ms=retry_after_ms,
            text=text,
        )
        return Send(connection.route, encode(refusal))

    # ---- POST ----

    def _post(
        self, connection: _Connection, word: Post, envelope: bytes, now: float, randomness: bytes
    ) -> list[Send]:
        room = word.room
        expected = connection.next_k.get(room, 1)
        if word.k > expected:
            self.counts["post out of turn"] += 1
            return []
        try:
            check_outline(envelope, EnvelopeClass.LOG)
        except Unopenable as error:
            return [self._refuse(connection, word, "bad-envelope", text=str(error))]
        peer = connection.peer
        if not (
            self._posts.take(peer.access_key, now) and self._address_posts.take(peer.address, now)
        ):
            return [self._refuse(connection, word, "rate", _RATE_RETRY_MS)]
        entry_id = envelope_id(envelope)
        known = self._place_of(room, entry_id)
        if word.k < expected and not known:
            self.counts["post out of turn"] += 1
            return []
        if not known:
            refusal = self._why_not(connection, room, envelope)
            if refusal:
                return [self._refuse(connection, word, *refusal)]
        staged = self._stage(room, peer.access_key, randomness)
        n = known or self._stage_entry(staged, entry_id, envelope)
        staged.taken.setdefault(connection.route, []).append(_Taken(word.k, n))
        connection.next_k[room] = max(expected, word.k + 1)
        return []

    def _place_of(self, room: bytes, entry_id: bytes) -> int:
        staged = self._staged.get(room)
        if staged and entry_id in staged.places:
            return staged.places[entry_id]
        return self._log.place_of(room, entry_id)

    def _why_not(
        self, connection: _Connection, room: bytes, envelope: bytes
    ) -> tuple[str, int] | None:
        """Why the broker has no place for a new envelope in this room, and when to try again."""
        staged = self._staged.get(room)
        tip = staged.tip if staged else self._log.tip(room)
        if tip is not None:
            weight = tip.weight + (staged.weight if staged else 0)
            too_heavy = weight + len(envelope) > self._allowed.room_bytes
            return ("room-full", _ROOM_FULL_RETRY_MS) if too_heavy else None
        maker = connection.peer.access_key
        new_here = sum(s.is_new and s.maker == maker for s in self._staged.values())
        made = self._log.rooms_made_by(maker) + new_here
        new_rooms = sum(staged.is_new for staged in self._staged.values())
        too_many = (
            made >= self._allowed.rooms_per_access_key
            or self._room_count + new_rooms >= self._allowed.rooms_per_broker
        )
        return ("too-many-rooms", _ROOM_FULL_RETRY_MS) if too_many else None

    def _stage(self, room: bytes, maker: bytes, randomness: bytes) -> _Staged:
        staged = self._staged.get(room)
        if staged is None:
            tip = self._log.tip(room)
            staged = _Staged(tip or self._new_log(room, randomness), tip is None, maker)
            self._staged[room] = staged
        return staged

    def _new_log(self, room: bytes, randomness: bytes) -> Tip:
        genesis = Genesis(room, self._key.public, randomness)
        log = genesis.log
        return Tip((self._key.sign_birth(genesis),), log, 0, log, 0, 0)

    def _stage_entry(self, staged: _Staged, entry_id: bytes, envelope: bytes) -> int:
        last = staged.entries[-1] if staged.entries else staged.tip
        n = last.n + 1
        entry = Entry(n, entry_id, link(last.hash, n, entry_id), envelope)
        staged.entries.append(entry)
        staged.places[entry_id] = n
        staged.weight += entry.wire_bytes
        if (
            len(staged.entries) == MAX_BATCH_ENTRIES
            or staged.weight > MAX_BATCH_BYTES - MAX_ENVELOPE_BYTES - limits.ITEM_PREFIX_BYTES
        ):
            self.full = True
        return n

    # ---- the commit ----

    def batch(self, wall_ms: int) -> list[Addition]:
        """What this turn has to store, with the time of arrival; empty if nothing."""
        return [
            Addition(
                room=room,
                entries=[entry._replace(arrived_ms=wall_ms) for entry in staged.entries],
                log=staged.tip.log,
                births=staged.tip.births,
                maker=staged.maker,
            )
            for room, staged in self._staged.items()
            if staged.entries
        ]

    def committed(self) -> list[Send]:
        """The batch is durable: receipts to its authors, entries to every cursor at the tip."""
        staged_rooms, self._staged, self.full = self._staged, {}, False
        sends: list[Send] = []
        for room, staged in staged_rooms.items():
            self._room_count += staged.is_new
            for route, taken in staged.taken.items():
                sends += self._receipts(room, staged, route, taken)
            if staged.entries:
                self.counts["stored"] += len(staged.entries)
                sends += self._hand_out(room, staged)
        return sends

    def failed(self) -> list[Send]:
        """The store could not take the batch: each author goes back to its first number in it."""
        staged_rooms, self._staged, self.full = self._staged, {}, False
        sends = []
        for room, staged in staged_rooms.items():
            for route, taken in staged.taken.items():
                connection = self._connections.get(route)
                if connection is None:
                    continue
                k = min(t.k for t in taken)
                connection.next_k[room] = k
                word = Post(room=room, k=k)
                sends.append(self._refuse(connection, word, "storage", _STORAGE_RETRY_MS))
        return sends

    def _receipts(
        self, room: bytes, staged: _Staged, route: bytes, taken: list[_Taken]
    ) -> Iterable[Send]:
        connection = self._connections.get(route)
        if connection is None:
            return
        k = connection.next_k[room] - 1
        fresh = [t.n for t in taken if t.n > staged.tip.n]
        if fresh:
            first = min(fresh)
            entries = staged.entries[first - staged.tip.n - 1 :]
            yield Send(route, self._receipt(room, staged.tip.log, k, entries))
        for n in dict.fromkeys(t.n for t in taken if t.n <= staged.tip.n):
            entries = self._log.read(room, n, n)
            yield Send(route, self._receipt(room, staged.tip.log, k, entries))

    def _receipt(self, room: bytes, log: bytes, k: int, entries: list[Entry]) -> Frames:
        first, last = entries[0], entries[-1]
        stored = Stored(
            room=room,
            k=k,
            log=log,
            first=first.n,
            before=self._log.hash_at(room, first.n - 1),
            head=self._head_at(room, last.n),
        )
        return encode(stored, pack_batch((entry.id, None) for entry in entries))

    def _hand_out(self, room: bytes, staged: _Staged) -> Iterable[Send]:
        """One encoding for every cursor that stands at the old tip with its window open."""
        subscribers = self._subscribers.get(room)
        if not subscribers:
            return
        frames: Frames | None = None
        for subscription in subscribers.values():
            at_old_tip = subscription.cursor == staged.tip.n and not subscription.needs_lineage
            fits = staged.weight <= subscription.room_left
            if not (at_old_tip and fits):
                self._queue(subscription)
                continue
            if frames is None:
                frames = self._entries_frames(room, staged.tip, staged.entries)
            yield self._move(subscription, frames, staged.entries[-1].n, staged.weight)

    def _move(self, held: Subscription, frames: Frames, n: int, weight: int) -> Send:
        former = _Former(held.cursor, held.cursor_weight, held.needs_lineage, held.answering)
        held.cursor = n
        held.cursor_weight += weight
        held.needs_lineage = False
        held.answering = 0
        return Send(held.route, frames, held, former)

    def _entries_frames(self, room: bytes, tip: Tip, entries: list[Entry]) -> Frames:
        word = Entries(
            req=0,
            room=room,
            log=tip.log,
            first=tip.n + 1,
            before=tip.hash,
            head=self._head_at(room, entries[-1].n),
            tip=entries[-1].n,
            lineage=(),
        )
        return encode(word, pack_batch((entry.id, entry.envelope) for entry in entries))

    def _head_at(self, room: bytes, n: int) -> bytes:
        """A signed head at place n of what is durable; the newest is remembered."""
        tip = self._tip(room)
        held = self._heads.get(room)
        if held and held[:3] == (tip.log, n, tip.expired):
            return held[3]
        hash_n = tip.hash if n == tip.n else self._log.hash_at(room, n)
        packed = self._key.sign_head(room, tip.log, n, hash_n, min(tip.expired, n)).packed
        if n == tip.n and room in self._subscribers:
            self._heads[room] = (tip.log, n, tip.expired, packed)
        return packed

    def _tip(self, room: bytes) -> Tip:
        tip = self._log.tip(room)
        assert tip is not None
        return tip

    # ---- JOIN, PAGE, LEAVE, CAST ----

    def _acknowledges(self, connection: _Connection, word: Join) -> bool:
        """Whether every room of this JOIN moves a window on: that is paid for by the window."""
        held = connection.subscriptions
        return all(
            p.room in held and p.sub == held[p.room].number and p.after > held[p.room].after
            for p in word.rooms
        )

    def _join(self, connection: _Connection, word: Join) -> list[Send]:
        refusals = []
        for position in word.rooms:
            held = connection.subscriptions.get(position.room)
            if held is not None and held.number == position.sub:
                self._acknowledge(held, position)
                held.answering = word.req
                self._queue(held)
            elif held is None and len(connection.subscriptions) >= MAX_ROOMS_PER_CONNECTION:
                refusals.append(
                    self._refuse(
                        connection, word, "too-many-rooms", _ROOM_FULL_RETRY_MS, position.room
                    )
                )
            else:
                self._subscribe(connection, position, word.req)
        return refusals

    def _acknowledge(self, held: Subscription, position: Position) -> None:
        held.window = position.window
        if held.after < position.after <= held.cursor:
            held.after_weight += self._log.weight(position.room, held.after, position.after)
            held.after = position.after

    def _subscribe(self, connection: _Connection, position: Position, req: int) -> None:
        room = position.room
        self._unsubscribe(connection, room)
        tip = self._log.tip(room)
        contradiction = _contradicts(self._log, tip, position)
        if contradiction is not None:
            self._line_up(connection, _AnswerOnce(req, room, *contradiction))
            return
        after = tip.n if tip and position.after == TIP else position.after if tip else 0
        weight = self._log.weight(room, 0, after) if after else 0
        subscription = Subscription(
            route=connection.route,
            room=room,
            number=position.sub,
            after=after,
            cursor=after,
            window=position.window,
            after_weight=weight,
            cursor_weight=weight,
            needs_lineage=tip is None or position.log != tip.log,
            answering=req,
        )
        connection.subscriptions[room] = subscription
        self._subscribers.setdefault(room, {})[connection.route] = subscription
        self._queue(subscription)

    def _unsubscribe(self, connection: _Connection, room: bytes) -> None:
        subscription = connection.subscriptions.pop(room, None)
        if subscription is None:
            return
        self._stuck.discard(subscription)
        subscribers = self._subscribers[room]
        del subscribers[connection.route]
        if not subscribers:
            del self._subscribers[room]
            self._heads.pop(room, None)

    def _page(self, connection: _Connection, word: Page) -> list[Send]:
        tip = self._log.tip(word.room)
        if tip is None or tip.log != word.log or not word.first <= min(word.last, tip.n):
            return [self._refuse(connection, word, "no-log")]
        if connection.pages >= MAX_PAGES_WAITING:
            return [self._refuse(connection, word, "rate", _RATE_RETRY_MS)]
        connection.pages += 1
        self._line_up(connection, _PageAsked(word))
        return []

    def _cast(self, connection: _Connection, word: Cast, envelope: bytes, now: float) -> list[Send]:
        try:
            check_outline(envelope, EnvelopeClass.CAST)
        except Unopenable:
            self.counts["malformed"] += 1
            return []
        if not self._casts.take(connection.peer.access_key, now):
            self.counts["cast over its rate"] += 1
            return []
        frames = encode(Cast(room=word.room), envelope)
        routes = self._subscribers.get(word.room, {})
        return [Send(route, frames) for route in routes if route != connection.route]

    # ---- what is asked for and behind ----

    def _queue(self, subscription: Subscription) -> None:
        if not subscription.queued:
            subscription.queued = True
            self._line_up(self._connections[subscription.route], subscription)

    def _line_up(self, connection: _Connection, due: _Due) -> None:
        if not connection.due:
            self._waiting.append(connection)
        connection.due.append(due)

    @property
    def has_work(self) -> bool:
        """Whether `serve` would do something now."""
        return bool(self._waiting)

    @property
    def has_stuck(self) -> bool:
        """Whether some pipe was full when there was something for it."""
        return bool(self._stuck)

    def retry_stuck(self) -> None:
        """Line up again the cursors whose pipe was full. Called at the shell's tick."""
        for subscription in self._stuck:
            self._queue(subscription)
        self._stuck.clear()

    def serve(self) -> list[Send]:
        """Answer JOINs and PAGEs and move cursors that are behind: connections take turns."""
        sends: list[Send] = []
        budget = _SERVED_PER_TURN_BYTES
        while self._waiting and budget > 0:
            connection = self._waiting.popleft()
            if not connection.due:
                continue
            send = self._serve_one(connection, connection.due.popleft())
            if connection.due:
                self._waiting.append(connection)
            if send:
                sends.append(send)
                budget -= sum(map(len, send.frames))
        return sends

    def _serve_one(self, connection: _Connection, due: _Due) -> Send | None:
        if isinstance(due, Subscription):
            return self._serve_subscription(connection, due)
        if isinstance(due, _PageAsked):
            connection.pages -= 1
            return self._serve_page(connection, due.word)
        tip = self._log.tip(due.room)
        births = tip.births if tip and due.lineage else ()
        frames = self._answer(due.req, due.room, tip, due.head_at, births)
        return Send(connection.route, frames)

    def _answer(
        self, req: int, room: bytes, tip: Tip | None, head_at: int, births: tuple[bytes, ...]
    ) -> Frames:
        """An empty batch: where there is no room, or no subscription was made."""
        word = Entries(
            req=req,
            room=room,
            log=tip.log if tip else NO_LOG,
            first=1,
            before=tip.log if tip else NO_LOG,
            head=self._head_at(room, head_at) if tip else b"",
            tip=tip.n if tip else 0,
            lineage=births,
        )
        return encode(word, b"")

    def _serve_subscription(
        self, connection: _Connection, subscription: Subscription
    ) -> Send | None:
        subscription.queued = False
        room = subscription.room
        if connection.subscriptions.get(room) is not subscription:
            return None
        tip = self._log.tip(room)
        req = subscription.answering
        if tip is None:
            subscription.answering = 0
            frames = self._answer(req, room, None, 0, ())
            return Send(connection.route, frames) if req else None
        entries = self._within_window(subscription, tip)
        if not entries and not req:
            return None
        births = tip.births if subscription.needs_lineage else ()
        last = entries[-1].n if entries else subscription.cursor
        word = Entries(
            req=req,
            room=room,
            log=tip.log,
            first=subscription.cursor + 1,
            before=self._log.hash_at(room, subscription.cursor),
            head=self._head_at(room, last if entries else tip.n),
            tip=tip.n,
            lineage=births,
        )
        frames = encode(word, pack_batch((entry.id, entry.envelope) for entry in entries))
        weight = self._log.weight(room, subscription.cursor, last)
        send = self._move(subscription, frames, last, weight)
        if subscription.cursor < tip.n and subscription.room_left > 0:
            self._queue(subscription)
        return send

    def _within_window(self, subscription: Subscription, tip: Tip) -> list[Entry]:
        """The next entries that may go under way; one always may where none is."""
        left = subscription.room_left
        if subscription.cursor >= tip.n or (left <= 0 and not subscription.idle):
            return []
        most = min(MAX_BATCH_BYTES, max(left, 0))
        entries = self._log.read(subscription.room, subscription.cursor + 1, tip.n, most)
        if not subscription.idle and entries[0].wire_bytes > left:
            return []
        return entries

    def _serve_page(self, connection: _Connection, word: Page) -> Send:
        tip = self._tip(word.room)
        entries = self._log.read(word.room, word.first, min(word.last, tip.n))
        answer = Entries(
            req=word.req,
            room=word.room,
            log=tip.log,
            first=word.first,
            before=self._log.hash_at(word.room, word.first - 1),
            head=self._head_at(word.room, entries[-1].n),
            tip=tip.n,
            lineage=(),
        )
        items = ((entry.id, None if word.ids_only else entry.envelope) for entry in entries)
        return Send(connection.route, encode(answer, pack_batch(items)))

    def unsent(self, send: Send) -> None:
        """The route's pipe was full: a cursor goes back to where it stood and waits for the tick.

        A word without a cursor is lost; members ask again for what they need.
        """
        self.counts["pipe full"] += 1
        held, former = send.subscription, send.former
        if held is None or former is None or held.cursor < former.cursor:
            return
        held.cursor, held.cursor_weight, held.needs_lineage, held.answering = former
        self._stuck.add(held)

    def refuse_all(self) -> list[Send]:
        """The broker is shutting down: tell everybody, so that they try elsewhere or later."""
        return [
            Send(route, encode(Refuse(0, 0, "stopping", b"", 1_000, "")))
            for route in self._connections
        ]

    def summary(self) -> Mapping[str, int]:
        """Counts since the start, for the log line at the end and for tests."""
        return dict(self.counts)


def _contradicts(log: BrokerLog, tip: Tip | None, position: Position) -> tuple[int, bool] | None:
    """(place of the head to show, whether with lineage) where a JOIN names another past."""
    if tip is None:
        return (0, False) if position.log != NO_LOG else None
    if position.log == NO_LOG or position.after == TIP:
        return None
    if position.log != tip.log:
        return tip.n, True
    if position.after > tip.n:
        return tip.n, False
    if log.hash_at(position.room, position.after) != position.hash:
        return position.after, False
    return None
