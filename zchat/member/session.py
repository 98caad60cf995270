"""The member's half of the protocol: words, windows, numbers, time limits. No socket, no keys.

Theory of operation. One session is one connection to one broker, opened again and again. `opened`
says HELLO; READY brings JOIN for every room and then the outbox. What arrives is handed up as it
is; whoever checks it answers with `advanced`, and half a window later that becomes the
acknowledgement. Posts go out in order, numbered per connection and room; a refusal takes
everything after it back (go-back-N), so nothing ever overtakes.

    DOWN --opened--> GREETING --READY--> READY
      ^------------------ closed / Reopen ----------------'

Rules of this file: nothing is believed here; time comes in as an argument (seconds, monotonic);
each method returns what to do next as a list, in order. A connection that stays silent for too long
is not mended but replaced: a frame above ZMQ_MAXMSGSIZE kills a DEALER for good.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, TypeAlias

from zchat.errors import Incompatible, Malformed, WrongLogKey
from zchat.protocol.ledger import NO_LOG
from zchat.protocol.limits import ID_BYTES, MAX_ROOMS_PER_CONNECTION, PROTOCOL_VERSION
from zchat.protocol.wire import (
    Cast,
    Entries,
    Frames,
    Hello,
    Item,
    Join,
    Leave,
    Page,
    Position,
    Post,
    Ready,
    Refuse,
    Stored,
    Word,
    decode_to_member,
    encode,
    unpack_batch,
    unpack_ids,
)

_OUTSTANDING_POSTS = 128
_OUTSTANDING_BYTES = 256 * 1024
_RETRY_S = 1.0
_GAP_DELAY_S = 0.25
_MOST_GAP_DELAY_S = 5.0
_NO_ONES_LOG = b"\xff" * ID_BYTES  # who names it is shown where the log ends, and nothing flows
_DEATHS_BEFORE_ONE_BY_ONE = 2
_DEATHS_BEFORE_PASSING = 5


class Phase(Enum):
    """How far a connection has come."""

    DOWN = "down"
    GREETING = "greeting"
    READY = "ready"


# ---- what a session wants done ----


class Say(NamedTuple):
    """Send these frames."""

    frames: Frames


class Reopen(NamedTuple):
    """Destroy the socket and open a new one."""

    reason: str


class Greeted(NamedTuple):
    """The broker answered: the connection carries."""

    software: str


class Arrived(NamedTuple):
    """ENTRIES came; `asked_ids` says that bare ids were asked for."""

    word: Entries
    items: list[Item]
    asked_ids: bool


class Glimpsed(NamedTuple):
    """The page of the newest entries came, long before the checked log gets there."""

    word: Entries
    items: list[Item]


class Receipt(NamedTuple):
    """STORED came, with the ids from its `first` to its head."""

    word: Stored
    ids: list[bytes]


class Heard(NamedTuple):
    """A CAST came."""

    room: bytes
    envelope: bytes


class Refused(NamedTuple):
    """The broker refused a word; `entry_id` is the post's that it will never take, else empty."""

    word: Refuse
    entry_id: bytes


Action: TypeAlias = Say | Reopen | Greeted | Arrived | Glimpsed | Receipt | Heard | Refused


class Outgoing(NamedTuple):
    """An envelope on its way."""

    id: bytes
    envelope: bytes


@dataclass(eq=False)
class _Room:
    """One room of the session: where its checked log ends, and its posts."""

    tag: bytes
    window: int
    log: bytes = NO_LOG
    n: int = 0
    hash: bytes = NO_LOG
    followed: bool = False
    asks_end: bool = False  # before anything flows, the server signs where its log ends
    agreed: bool = False  # on this connection the server showed our log, or that it has none
    stopped: bool = False  # the server contradicted itself here: nothing goes out
    subscription: int = 0
    subscribed: bool = False  # on this connection
    unacknowledged: int = 0
    joined_at: float = 0.0
    join_at: float | None = None  # when to join again after a refusal or a doubt
    deaths: int = 0  # connections in a row that were lost before this room's JOIN was answered
    gaps: int = 0  # segments in a row that began beyond our end
    passing: int = -1  # req of the PAGE by which an entry is passed over
    glimpsing: int = -1  # req of the PAGE of the newest entries
    waiting: deque[Outgoing] = field(default_factory=deque)
    under_way: deque[tuple[int, Outgoing]] = field(default_factory=deque)
    next_k: int = 1
    hold_until: float = 0.0
    posted_at: float = 0.0

    def take_back(self, k: int) -> None:
        """Posts numbered k and above were not taken: they wait again, in order, from k."""
        while self.under_way and self.under_way[-1][0] >= k:
            self.waiting.appendleft(self.under_way.pop()[1])
        self.next_k = k


@dataclass(frozen=True)
class Timing:
    """The session's time limits in seconds, and the window it opens in bytes."""

    answer_timeout_s: float
    idle_join_s: float
    window_bytes: int


class Session:
    """A member program's talk with one broker whose log key is `log_key`."""

    def __init__(self, log_key: bytes, timing: Timing, software: str, address: str) -> None:
        self._log_key = log_key
        self._timing = timing
        self._software = software
        self._address = address
        self._rooms: dict[bytes, _Room] = {}
        self._request = 0
        self._awaited: dict[tuple[int, bytes], float] = {}  # (req, room) -> deadline
        self._down_since: float | None = None
        self._greet_at: float | None = None  # when to say HELLO again after a refusal
        self.phase = Phase.DOWN
        self.malformed = 0

    # ---- the connection ----

    def opened(self, now: float) -> list[Action]:
        """A handshake finished (the first or a silent reconnect): everything starts afresh."""
        self._forget_connection()
        self.phase = Phase.GREETING
        hello = Hello(self._next_request(), PROTOCOL_VERSION, self._software)
        return [self._ask(hello, now)]

    def closed(self, now: float) -> None:
        """The connection is gone; rooms and unsent posts stay.

        One that is lost before a JOIN was answered may have died of the answer: a frame above
        ZMQ_MAXMSGSIZE. After some in a row the room goes on one by one, and then past the entry.
        """
        if self.phase is not Phase.DOWN:
            self._down_since = now
        for tag in {tag for _, tag in self._awaited if tag}:
            self._note_death(self._rooms[tag])
        self._forget_connection()
        self.phase = Phase.DOWN

    def _note_death(self, room: _Room) -> None:
        room.deaths += 1
        if room.deaths >= _DEATHS_BEFORE_ONE_BY_ONE:
            room.window = 0

    def _forget_connection(self) -> None:
        self._awaited.clear()
        self._greet_at = None
        for room in self._rooms.values():
            room.take_back(1)
            room.subscribed = room.agreed = False
            room.hold_until = 0.0

    def _next_request(self) -> int:
        self._request += 1
        return self._request

    def _ask(self, word: Hello | Join | Page, now: float, room: bytes = b"") -> Say:
        self._awaited[word.req, room] = now + self._timing.answer_timeout_s
        return Say(encode(word))

    # ---- rooms ----

    def enter(
        self, tag: bytes, log: bytes, n: int, hash_n: bytes, now: float, *, ask_end: bool = False
    ) -> list[Action]:
        """Follow a room from the checked end of its log (log NO_LOG: from nothing).

        `ask_end`: first of all, have the server sign where its log ends.
        """
        room = self._rooms.setdefault(tag, _Room(tag, self._timing.window_bytes))
        room.log, room.n, room.hash = log, n, hash_n
        room.followed, room.asks_end = True, ask_end
        return self._join([room], now) if self.phase is Phase.READY else []

    def leave(self, tag: bytes) -> list[Action]:
        """Follow a room no longer; its posts still go out."""
        room = self._rooms[tag]
        room.followed, room.join_at = False, None
        if not room.subscribed:
            return []
        room.subscribed = False
        return [Say(encode(Leave(self._next_request(), tag)))]

    def join_after_gap(self, tag: bytes, now: float) -> list[Action]:
        """Entries were lost in between: ask anew, and ever more slowly where that does not help."""
        room = self._rooms[tag]
        room.gaps += 1
        return self.join_again(tag, now, min((room.gaps - 1) * _GAP_DELAY_S, _MOST_GAP_DELAY_S))

    def join_again(self, tag: bytes, now: float, delay_s: float = 0.0) -> list[Action]:
        """Ask anew from the checked end, with a new subscription."""
        room = self._rooms[tag]
        room.join_at = now + delay_s
        return [] if delay_s else self.tick(now)

    def advanced(
        self, tag: bytes, log: bytes, n: int, hash_n: bytes, received: int, now: float
    ) -> list[Action]:
        """Entries up to n are checked and kept; `received` bytes of the window were used."""
        room = self._rooms[tag]
        room.log, room.n, room.hash = log, n, hash_n
        room.unacknowledged += received
        told, room.window = room.window, self._timing.window_bytes
        room.deaths = room.gaps = 0
        room.asks_end = False
        if room.followed and not room.subscribed and self.phase is Phase.READY:
            return self._join([room], now)
        if room.subscribed and room.unacknowledged * 2 >= max(told, 1):
            return self._send_join([room], now)
        return []

    def _join(self, rooms: Iterable[_Room], now: float) -> list[Action]:
        actions: list[Action] = []
        joining = []
        for room in rooms:
            if room.deaths >= _DEATHS_BEFORE_PASSING and room.log != NO_LOG:
                actions.append(self._pass_over(room, now))
                continue
            room.subscription += 1
            room.subscribed = True
            joining.append(room)
        for at in range(0, len(joining), MAX_ROOMS_PER_CONNECTION):
            actions += self._send_join(joining[at : at + MAX_ROOMS_PER_CONNECTION], now)
        return actions

    def _pass_over(self, room: _Room, now: float) -> Say:
        """Ask for nothing but the id of the entry that cannot be received."""
        room.passing = self._next_request()
        room.join_at = None
        first = room.n + 1
        return self._ask(Page(room.passing, room.tag, room.log, first, first, True), now, room.tag)

    def _send_join(self, rooms: list[_Room], now: float) -> list[Action]:
        req = self._next_request()
        for room in rooms:
            room.unacknowledged = 0
            room.joined_at = now
            room.join_at = None
            self._awaited[req, room.tag] = now + self._timing.answer_timeout_s
        positions = tuple(
            Position(room.tag, log, room.subscription, room.n, room.hash, room.window)
            for room in rooms
            for log in [_NO_ONES_LOG if room.asks_end else room.log]
        )
        return [Say(encode(Join(req, positions)))]

    def glimpse(self, tag: bytes, first: int, last: int, now: float) -> list[Action]:
        """Ask for the newest entries ahead of the rest; lost with the connection, for good."""
        room = self._rooms[tag]
        if self.phase is not Phase.READY:
            return []
        room.glimpsing = self._next_request()
        return [self._ask(Page(room.glimpsing, tag, room.log, first, last, False), now, tag)]

    # ---- posts ----

    def post(self, tag: bytes, outgoing: Iterable[Outgoing], now: float) -> list[Action]:
        """Queue envelopes behind those that wait. They must be durable in the outbox already."""
        room = self._rooms.setdefault(tag, _Room(tag, self._timing.window_bytes))
        room.waiting.extend(outgoing)
        return self._flow(room, now)

    def go_on(self, tag: bytes, now: float) -> list[Action]:
        """If the end was asked for, it is known now: ask for what leads there."""
        room = self._rooms[tag]
        if not room.asks_end:
            return []
        room.asks_end = False
        return self._join([room], now)

    def agree(self, tag: bytes, now: float) -> list[Action]:
        """What the server showed of a followed room fits: its outbox may go out."""
        room = self._rooms[tag]
        room.agreed = True
        return self._flow(room, now)

    def stop(self, tag: bytes, *, stopped: bool) -> None:
        """Let nothing of a room go out, or let it go all the same."""
        room = self._rooms.setdefault(tag, _Room(tag, self._timing.window_bytes))
        room.stopped = stopped

    def cast(self, tag: bytes, envelope: bytes) -> list[Action]:
        """Tell whoever is there now; dropped while there is no connection."""
        if self.phase is not Phase.READY:
            return []
        return [Say(encode(Cast(tag), envelope))]

    def confirmed(self, tag: bytes, ids: Iterable[bytes], now: float) -> list[Action]:
        """A signed head covers these, however one learnt it: they need not go out, or not again."""
        room = self._rooms.get(tag)
        if room is None:
            return []
        known = set(ids)
        room.waiting = deque(o for o in room.waiting if o.id not in known)
        self._answered(room, known, now)
        return self._flow(room, now)

    def unanswered(self, tag: bytes) -> int:
        """How many posts of a room are not confirmed yet."""
        room = self._rooms.get(tag)
        return len(room.waiting) + len(room.under_way) if room else 0

    def _flow(self, room: _Room, now: float) -> list[Action]:
        actions: list[Action] = []
        may_post = room.agreed or not room.followed
        if self.phase is not Phase.READY or room.stopped or not may_post or now < room.hold_until:
            return actions
        size = sum(len(outgoing.envelope) for _, outgoing in room.under_way)
        while room.waiting and len(room.under_way) < _OUTSTANDING_POSTS:
            size += len(room.waiting[0].envelope)
            if room.under_way and size > _OUTSTANDING_BYTES:
                break
            if not room.under_way:
                room.posted_at = now
            outgoing = room.waiting.popleft()
            room.under_way.append((room.next_k, outgoing))
            actions.append(Say(encode(Post(room.tag, room.next_k), outgoing.envelope)))
            room.next_k += 1
        return actions

    # ---- a message comes in ----

    def receive(self, frames: Frames, now: float) -> list[Action]:
        """Take one message from the broker. Raises WrongLogKey, Incompatible: never go on then."""
        try:
            word, attachment = decode_to_member(frames)
            return self._take(word, attachment, now)
        except Malformed:
            self.malformed += 1
            return []

    def _take(self, word: Word, attachment: bytes, now: float) -> list[Action]:
        if isinstance(word, Ready):
            return self._ready(word, now)
        if isinstance(word, Refuse):
            return self._refused(word, now)
        if self.phase is not Phase.READY:
            return []
        if isinstance(word, Cast):
            return [Heard(word.room, attachment)]
        if isinstance(word, Stored):
            return self._stored(word, unpack_ids(attachment), now)
        assert isinstance(word, Entries)
        return self._entries(word, unpack_batch(attachment))

    def _ready(self, word: Ready, now: float) -> list[Action]:
        if self._awaited.pop((word.req, b""), None) is None:
            return []
        if word.log_key != self._log_key:
            raise WrongLogKey(address=self._address)
        if word.protocol != PROTOCOL_VERSION:
            raise Incompatible(address=self._address, text=f"version {word.protocol}")
        self.phase = Phase.READY
        actions: list[Action] = [Greeted(word.software)]
        actions += self._join([room for room in self._rooms.values() if room.followed], now)
        for room in self._rooms.values():
            actions += self._flow(room, now)
        return actions

    def _entries(self, word: Entries, items: list[Item]) -> list[Action]:
        room = self._rooms.get(word.room)
        if room is None:
            return []
        if word.req and self._awaited.pop((word.req, word.room), None) is None:
            return []
        if word.req:
            room.deaths = 0
        if word.req == room.glimpsing:
            return [Glimpsed(word, items)]
        return [Arrived(word, items, word.req == room.passing)]

    def _stored(self, word: Stored, ids: list[bytes], now: float) -> list[Action]:
        room = self._rooms.get(word.room)
        if room is None:
            return []
        self._answered(room, ids, now)
        return [Receipt(word, ids), *self._flow(room, now)]

    @staticmethod
    def _answered(room: _Room, ids: Iterable[bytes], now: float) -> None:
        """These posts are answered: by their ids, for a `k` alone proves nothing."""
        known = set(ids)
        left = deque(post for post in room.under_way if post[1].id not in known)
        if len(left) < len(room.under_way):
            room.under_way, room.posted_at = left, now

    def _refused(self, word: Refuse, now: float) -> list[Action]:
        room = self._rooms.get(word.room)
        refused = [tag for req, tag in self._awaited if req == word.req and word.room in (b"", tag)]
        is_post = room is not None and any(k == word.k for k, _ in room.under_way)
        if (word.req and not refused) or (word.k and not is_post):
            return []
        if word.code == "version" and refused == [b""]:
            raise Incompatible(address=self._address, text=word.text)
        if word.code == "stopping" and word.req == word.k == 0:  # it waits until we have gone
            return [Refused(word, b""), *self._give_up("the server stopped", now)]
        if word.code == "hello-first":
            if self.phase is not Phase.READY:  # HELLO is under way, and has its time limit
                return []
            return self._give_up("the server forgot this connection", now)
        for tag in refused:
            del self._awaited[word.req, tag]
            self._ask_later(tag, word, now + max(word.retry_after_ms / 1000, _RETRY_S))
        refused_id = self._post_refused(room, word, now) if room is not None and word.k else b""
        return [Refused(word, refused_id)]

    def _ask_later(self, tag: bytes, word: Refuse, at: float) -> None:
        """A refused HELLO, JOIN or PAGE is said again then; but nobody needs a glimpse."""
        room = self._rooms.get(tag)
        if room is None:
            self._greet_at = at
            return
        if word.req == room.glimpsing:
            return
        if word.req == room.passing and word.code == "no-log":
            room.deaths = _DEATHS_BEFORE_ONE_BY_ONE  # there is nothing to pass over
        if room.followed:
            room.join_at = at

    def _post_refused(self, room: _Room, word: Refuse, now: float) -> bytes:
        """Go back to the refused number; the id if it will never be taken."""
        room.take_back(word.k)
        if word.code == "bad-envelope":
            return room.waiting.popleft().id
        room.hold_until = now + max(word.retry_after_ms / 1000, _RETRY_S)
        return b""

    # ---- time ----

    def tick(self, now: float) -> list[Action]:
        """What is due: posts on hold, joins, idle acknowledgements; a silent connection ends."""
        if self.phase is Phase.DOWN:
            return self._reopen_in_time(now)
        if self._is_silent(now):
            return self._give_up("no answer", now)
        if self._greet_at is not None and now >= self._greet_at:
            return self.opened(now)
        actions: list[Action] = []
        if self.phase is Phase.READY:
            for room in self._rooms.values():
                actions += self._room_due(room, now)
        return actions

    def _give_up(self, reason: str, now: float) -> list[Action]:
        """Have the socket replaced."""
        self._forget_connection()
        self.phase, self._down_since = Phase.DOWN, now
        return [Reopen(reason)]

    def _room_due(self, room: _Room, now: float) -> list[Action]:
        actions = self._flow(room, now)
        if room.join_at is not None and now >= room.join_at:
            actions += self._join([room], now)
        elif room.subscribed and now - room.joined_at >= self._timing.idle_join_s:
            actions += self._send_join([room], now)
        return actions

    def _is_silent(self, now: float) -> bool:
        if any(now > deadline for deadline in self._awaited.values()):
            return True
        limit = self._timing.answer_timeout_s
        return any(room.under_way and now - room.posted_at > limit for room in self._rooms.values())

    def _reopen_in_time(self, now: float) -> list[Action]:
        """A socket that stays down may be dead for good: libzmq does not always reconnect."""
        if self._down_since is None:
            self._down_since = now
        if now - self._down_since <= self._timing.answer_timeout_s:
            return []
        self._down_since = now
        return [Reopen("no connection")]
