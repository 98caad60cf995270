"""JOIN, PAGE, LEAVE: cursors, windows, and who is served next.

Theory of operation. A subscriber is a cursor: an entry is sent only when the cursor stands right
before it, so backlog, live flow, reconnect and slow reader are one rule. What a turn stored is
encoded once per room and goes as the same bytes to every cursor at the old end whose window is
open. Everything else (answers, pages, cursors that are behind) waits in line, and connections take
turns, a bounded number of them and of bytes in each turn of the broker.

A pipe that is full cannot be asked whether it still is. So a cursor that met one leaves the line,
and now and then one entry of one cursor of that pipe is tried; what had been read for it in vain
would cost the others their turn.

Rules of this file: bytes under way never exceed the window, but for one entry; a cursor whose
frames could not be sent stands where it stood.
"""

import itertools
from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import NamedTuple

from zchat.broker.heads import Heads
from zchat.broker.intake import Refusal, Staged
from zchat.broker.send import Former, Send, Subscription
from zchat.log.contract import BrokerLog, Entry, Tip
from zchat.protocol.ledger import NO_LOG
from zchat.protocol.limits import (
    MAX_BATCH_BYTES,
    MAX_PAGES_WAITING,
    MAX_ROOMS_PER_CONNECTION,
    TIP,
)
from zchat.protocol.wire import Entries, Frames, Join, Page, Position, encode, pack_batch

# What a turn does for readers at most, for those who post meanwhile wait for its end. What was made
# once is nearly free for all others who stand at the same place, so it counts by itself.
_SERVED_PER_TURN = 512
_SERVED_PER_TURN_BYTES = 8 * MAX_BATCH_BYTES
_READ_PER_TURN = 400  # entries, of which each batch costs as much as some more
_READ_FOR_A_BATCH = 8
_RETRY_MS = 60_000
_BUSY_MS = 1_000
_REMEMBERED_BATCHES = 256
_REMEMBERED_TRIES = 64  # single entries, which are made once and tried until a pipe takes them
_RETRIED_AT_ONCE = 8


class _Answer(NamedTuple):
    """To a JOIN that makes no subscription: an empty batch under the head that shows why."""

    req: int
    room: bytes
    head_at: int
    with_lineage: bool


_Due = Subscription | Page | _Answer


class _Reader:
    """One connection as it reads."""

    def __init__(self, route: bytes) -> None:
        self.route = route
        self.subscriptions: dict[bytes, Subscription] = {}
        self.due: deque[_Due] = deque()
        self.pages = 0


class _Batch(NamedTuple):
    """Consecutive entries as they go out, with the head they end at."""

    n: int
    before: bytes
    head: bytes
    expired: int
    packed: bytes
    weight: int


class _LastBatches:
    """The batches sent last: members who are behind are mostly behind at the same place."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._batches: OrderedDict[tuple[bytes, int], _Batch] = OrderedDict()

    def get(self, room: bytes, cursor: int, expired: int, most_bytes: int) -> _Batch | None:
        """What was sent from here, if it is within `most_bytes` and nothing of it has expired."""
        batch = self._batches.get((room, cursor))
        if batch is not None and batch.expired != expired:
            return None
        return batch if batch is not None and batch.weight <= most_bytes else None

    def keep(self, room: bytes, cursor: int, batch: _Batch) -> None:
        """Remember one, forget the oldest."""
        self._batches[room, cursor] = batch
        if len(self._batches) > self._most:
            self._batches.popitem(last=False)


class Cursors:
    """All subscriptions of a broker."""

    def __init__(self, log: BrokerLog, heads: Heads) -> None:
        self._log = log
        self._last = _LastBatches(_REMEMBERED_BATCHES)
        self._last_tried = _LastBatches(_REMEMBERED_TRIES)
        self._heads = heads
        self._readers: dict[bytes, _Reader] = {}
        self._by_room: dict[bytes, dict[bytes, Subscription]] = {}
        self._waiting: deque[_Reader] = deque()
        self._read = 0  # in this turn, see _READ_PER_TURN
        # Both are sets in the order of retries. By route, whose pipe was full: its cursors.
        self._stuck: dict[bytes, dict[Subscription, None]] = {}
        self._tried: dict[Subscription, None] = {}  # one entry was sent, and not refused yet

    # ---- words ----

    def acknowledges(self, route: bytes, word: Join) -> bool:
        """Whether every room of this JOIN moves its window on: the window has paid for it."""
        reader = self._readers.get(route)
        if reader is None:
            return False
        held = reader.subscriptions
        return all(
            p.room in held
            and p.sub == held[p.room].number
            and held[p.room].after < p.after <= held[p.room].cursor
            for p in word.rooms
        )

    def join(self, route: bytes, position: Position, req: int) -> Refusal | None:
        """Subscribe or acknowledge, for one room of a JOIN; a refusal if there is no place for it.

        Raises RoomDamaged, before anything has changed.
        """
        reader = self._readers.setdefault(route, _Reader(route))
        held = reader.subscriptions.get(position.room)
        if held is not None and held.number == position.sub:
            self._acknowledge(held, position)
            held.answering += (req,)
            self._queue(held)
        elif held is None and len(reader.subscriptions) >= MAX_ROOMS_PER_CONNECTION:
            return Refusal("too-many-rooms", _RETRY_MS)
        else:
            self._subscribe(reader, position, req)
        return None

    def _acknowledge(self, held: Subscription, position: Position) -> None:
        held.window = position.window
        if held.after < position.after <= held.cursor:
            held.after_weight += self._log.weight(position.room, held.after, position.after)
            held.after = position.after

    def _subscribe(self, reader: _Reader, position: Position, req: int) -> None:
        room = position.room
        tip = self._log.tip(room)
        answer = self._contradiction(tip, position, req)
        after = 0 if tip is None or answer else self._start(position, tip)
        weight = self._log.weight(room, 0, after) if after else 0
        unanswered = (*self._unsubscribe(reader, room), req)
        if answer is not None:
            for each in unanswered:
                self._line_up(reader, answer._replace(req=each))
            return
        subscription = Subscription(
            route=reader.route,
            room=room,
            number=position.sub,
            window=position.window,
            after=after,
            after_weight=weight,
            cursor=after,
            cursor_weight=weight,
            needs_lineage=tip is None or position.log != tip.log,
            answering=unanswered,
        )
        reader.subscriptions[room] = subscription
        self._by_room.setdefault(room, {})[reader.route] = subscription
        self._queue(subscription)

    @staticmethod
    def _start(position: Position, tip: Tip) -> int:
        """Where a new cursor stands: who knows no log can only begin at one of its ends."""
        if position.after == TIP:
            return tip.n
        return 0 if position.log == NO_LOG else position.after

    def _contradiction(self, tip: Tip | None, position: Position, req: int) -> _Answer | None:
        """What to show to a member whose log is not ours; None where it is, or it has none."""
        room = position.room
        if tip is None:
            return _Answer(req, room, TIP, with_lineage=True) if position.log != NO_LOG else None
        if position.log == NO_LOG or position.after == TIP:
            return None
        if position.log != tip.log:
            return _Answer(req, room, tip.n, with_lineage=True)
        if position.after > tip.n:
            return _Answer(req, room, tip.n, with_lineage=False)
        if self._log.hash_at(room, position.after) != position.hash:
            return _Answer(req, room, position.after, with_lineage=False)
        return None

    def leave(self, route: bytes, room: bytes) -> None:
        """End a subscription."""
        if route in self._readers:
            self._unsubscribe(self._readers[route], room)

    def _unsubscribe(self, reader: _Reader, room: bytes) -> tuple[int, ...]:
        """End a subscription, if there is one; the JOINs it has not answered."""
        subscription = reader.subscriptions.pop(room, None)
        if subscription is None:
            return ()
        self._no_longer_stuck(subscription)
        self._tried.pop(subscription, None)
        del self._by_room[room][reader.route]
        if not self._by_room[room]:
            del self._by_room[room]
        return subscription.answering

    def shut(self, room: bytes) -> Iterator[tuple[bytes, int]]:
        """End all that is under way in a room: routes, and what was asked for in vain (0: nothing).

        Also after an answer could not be made: whoever then waited in line is in line again.
        """
        for route, reader in self._readers.items():
            if room in reader.subscriptions:
                for req in self._unsubscribe(reader, room) or (0,):
                    yield route, req
            for due in reader.due:
                if due.room == room and not isinstance(due, Subscription):
                    yield route, due.req
            reader.due = deque(due for due in reader.due if due.room != room)
            reader.pages = sum(isinstance(due, Page) for due in reader.due)
        self._waiting = deque(reader for reader in self._readers.values() if reader.due)

    def page(self, route: bytes, word: Page) -> Refusal | None:
        """Put a page in line."""
        tip = self._log.tip(word.room)
        if tip is None or tip.log != word.log or not word.first <= min(word.last, tip.n):
            return Refusal("no-log")
        reader = self._readers.setdefault(route, _Reader(route))
        if reader.pages >= MAX_PAGES_WAITING:
            return Refusal("rate", _BUSY_MS)
        reader.pages += 1
        self._line_up(reader, word)
        return None

    def forget(self, route: bytes) -> None:
        """A connection is gone."""
        reader = self._readers.pop(route, None)
        if reader is None:
            return
        for room in list(reader.subscriptions):
            self._unsubscribe(reader, room)
        reader.due.clear()

    def routes(self, room: bytes) -> list[bytes]:
        """Who is subscribed to a room."""
        return list(self._by_room.get(room, ()))

    # ---- live ----

    def hand_out(self, room: bytes, staged: Staged) -> Iterator[Send]:
        """What a turn stored, to every cursor that stands right before it; others wait in line."""
        tip = staged.tip
        frames: Frames | None = None
        for held in self._by_room.get(room, {}).values():
            stands_right = held.cursor == tip.n and not held.needs_lineage
            if held.answering or not stands_right or staged.weight > held.room_left:
                if held.answering or held.may_be_sent_to:
                    self._queue(held)
                continue
            if frames is None:
                batch = self._batch(room, tip.n, tip.hash, staged.entries)
                self._last.keep(room, tip.n, batch)
                frames = self._frames(0, room, tip.n, batch, ())
            yield self._move(held, frames, staged.entries[-1].n, staged.weight)

    def _batch(self, room: bytes, cursor: int, before: bytes, entries: list[Entry]) -> _Batch:
        """The entries after a cursor as one batch; without any, the room's present head."""
        self._read += _READ_FOR_A_BATCH + len(entries) if entries else 0
        n = entries[-1].n if entries else cursor
        return _Batch(
            n=n,
            before=before,
            head=self._heads.at(room, n if entries else self._heads.tip(room).n),
            expired=self._heads.tip(room).expired,
            packed=pack_batch((entry.id, entry.envelope) for entry in entries),
            weight=self._log.weight(room, cursor, n),
        )

    def _frames(
        self, req: int, room: bytes, cursor: int, batch: _Batch, births: tuple[bytes, ...]
    ) -> Frames:
        tip = self._heads.tip(room)
        word = Entries(
            req=req,
            room=room,
            log=tip.log,
            first=cursor + 1,
            before=batch.before,
            head=batch.head,
            tip=tip.n,
            lineage=births,
        )
        return encode(word, batch.packed)

    @staticmethod
    def _move(held: Subscription, frames: Frames, n: int, weight: int) -> Send:
        former = Former(held.cursor, held.cursor_weight, held.needs_lineage, held.answering)
        held.cursor = n
        held.cursor_weight += weight
        held.needs_lineage = False
        held.answering = held.answering[1:]
        return Send(held.route, frames, held, former)

    def unsent(self, send: Send) -> None:
        """The route's pipe was full: its cursor goes back, and waits for `retry_stuck`.

        Of several in one turn the first counts: the others were moved on from there.
        """
        held, former = send.subscription, send.former
        if held is None or former is None or self._is_stuck(held) or not self._is_current(held):
            return
        held.cursor, held.cursor_weight, held.needs_lineage, held.answering = former
        self._tried.pop(held, None)
        self._stuck.setdefault(held.route, {})[held] = None

    def _is_current(self, held: Subscription) -> bool:
        """Whether its member has neither left nor subscribed anew."""
        reader = self._readers.get(held.route)
        return reader is not None and reader.subscriptions.get(held.room) is held

    def _is_stuck(self, held: Subscription) -> bool:
        return held in self._stuck.get(held.route, ())

    def _no_longer_stuck(self, held: Subscription) -> None:
        if self._is_stuck(held):
            del self._stuck[held.route][held]
            if not self._stuck[held.route]:
                del self._stuck[held.route]

    # ---- in line ----

    @property
    def has_work(self) -> bool:
        """Whether `serve` would do something now."""
        return bool(self._waiting)

    @property
    def has_stuck(self) -> bool:
        """Whether some pipe was full when there was something for it."""
        return bool(self._stuck or self._tried)

    def retry_stuck(self) -> None:
        """Put all of a pipe that took an entry in line again; try one entry of some others."""
        for recovered in [tried for tried in self._tried if not tried.queued]:
            del self._tried[recovered]
            for held in (recovered, *self._stuck.pop(recovered.route, ())):
                self._queue(held)
        for route in list(itertools.islice(self._stuck, _RETRIED_AT_ONCE)):
            stuck = self._stuck.pop(route)
            held, _ = stuck.popitem()
            if stuck:
                self._stuck[route] = stuck  # behind all others
            self._tried[held] = None
            self._queue(held)

    def _queue(self, subscription: Subscription) -> None:
        if not subscription.queued:
            subscription.queued = True
            self._line_up(self._readers[subscription.route], subscription)

    def _line_up(self, reader: _Reader, due: _Due) -> None:
        if not reader.due:
            self._waiting.append(reader)
        reader.due.append(due)

    def serve(self) -> Iterator[Send]:
        """What waits in line: one thing per connection and round, until the turn has enough.

        Raises RoomDamaged; then `shut` has to follow.
        """
        budget, things = _SERVED_PER_TURN_BYTES, _SERVED_PER_TURN
        self._read = 0
        while self._waiting and budget > 0 and things > 0 and self._read < _READ_PER_TURN:
            things -= 1
            reader = self._waiting.popleft()
            if not reader.due:
                continue
            send = self._serve(reader, reader.due[0])
            reader.due.popleft()  # only now, or what is queued again lines the reader up twice
            if reader.due:
                self._waiting.append(reader)
            if send:
                budget -= sum(map(len, send.frames))
                yield send

    def _serve(self, reader: _Reader, due: _Due) -> Send | None:
        if isinstance(due, Subscription):
            due.queued = False
            is_due = self._is_current(due) and not self._is_stuck(due)
            return self._serve_subscription(due) if is_due else None
        if isinstance(due, Page):
            reader.pages -= 1
            return Send(reader.route, self._page_frames(due))
        return Send(reader.route, self._answer_frames(due))

    def _answer_frames(self, answer: _Answer) -> Frames:
        tip = self._log.tip(answer.room)
        word = Entries(
            req=answer.req,
            room=answer.room,
            log=tip.log if tip else NO_LOG,
            first=1,
            before=tip.log if tip else NO_LOG,
            head=self._heads.at(answer.room, min(answer.head_at, tip.n)) if tip else b"",
            tip=tip.n if tip else 0,
            lineage=tip.births if tip and answer.with_lineage else (),
        )
        return encode(word, b"")

    def _serve_subscription(self, held: Subscription) -> Send | None:
        tip = self._log.tip(held.room)
        if tip is None:
            req, *others = held.answering
            held.answering = tuple(others)
            if others:
                self._queue(held)
            answer = _Answer(req, held.room, 0, with_lineage=False)
            return Send(held.route, self._answer_frames(answer))
        batch = self._next_batch(held, tip)
        if batch is None:
            return None
        births = tip.births if held.needs_lineage else ()
        req = held.answering[0] if held.answering else 0
        frames = self._frames(req, held.room, held.cursor, batch, births)
        send = self._move(held, frames, batch.n, batch.weight)
        is_behind = held.cursor < tip.n and held.room_left > 0
        if held not in self._tried and (held.answering or is_behind):
            self._queue(held)
        return send

    def _next_batch(self, held: Subscription, tip: Tip) -> _Batch | None:
        """What goes to this cursor now, if anything; packed once for all who stand there."""
        remembered = self._last_tried if held in self._tried else self._last
        batch = remembered.get(held.room, held.cursor, tip.expired, held.room_left)
        if batch is not None:
            return batch
        entries = self._within_window(held, tip)
        if not entries and not held.answering:
            return None
        before = self._log.hash_at(held.room, held.cursor)
        batch = self._batch(held.room, held.cursor, before, entries)
        if entries:
            remembered.keep(held.room, held.cursor, batch)
        return batch

    def _within_window(self, held: Subscription, tip: Tip) -> list[Entry]:
        """The next entries that may go under way."""
        left = held.room_left
        if held.cursor >= tip.n or not held.may_be_sent_to:
            return []
        most = min(MAX_BATCH_BYTES, max(left, 0))
        upto = held.cursor + 1 if held in self._tried else tip.n
        entries = self._log.read(held.room, held.cursor + 1, upto, most)
        first, weight = entries[0], entries[0].wire_bytes
        if first.envelope is None:  # its id is kept, and it weighs what was posted
            weight = self._log.weight(held.room, held.cursor, first.n)
        return entries if held.is_idle or weight <= left else []

    def _page_frames(self, word: Page) -> Frames:
        tip = self._heads.tip(word.room)
        entries = self._log.read(word.room, word.first, min(word.last, tip.n))
        cursor = word.first - 1
        before = self._log.hash_at(word.room, cursor)
        if word.ids_only:
            entries = [entry._replace(envelope=None) for entry in entries]
        batch = self._batch(word.room, cursor, before, entries)
        return self._frames(word.req, word.room, cursor, batch, ())
