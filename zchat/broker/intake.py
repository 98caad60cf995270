"""POST: numbers, limits of rooms, what a turn adds, receipts.

Theory of operation. A post that is taken is staged: it has its place, and nobody hears of it. When
the turn's batch is durable each author gets one receipt per room: the ids from its first new
entry to the room's head. When the store could not take the batch, each author goes back to its
first number in it.

Rules of this file: posts of a connection and room are taken in the order of their numbers, and
nothing behind a refused one; an id stands in a room once; envelopes are not looked into beyond
their outline.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from zchat.broker.heads import Heads
from zchat.broker.send import Send
from zchat.errors import Unopenable
from zchat.log.contract import Addition, BrokerLog, Entry, Tip
from zchat.protocol.envelope import EnvelopeClass, check_outline, envelope_id
from zchat.protocol.ledger import Genesis, LogKey, link
from zchat.protocol.limits import (
    ID_BYTES,
    ITEM_PREFIX_BYTES,
    MAX_BATCH_BYTES,
    MAX_BATCH_ENTRIES,
    MAX_ENVELOPE_BYTES,
)
from zchat.protocol.wire import Frames, Post, Stored, encode, pack_batch, pack_item

_FULL_RETRY_MS = 60_000
_BARE_ITEM_BYTES = ITEM_PREFIX_BYTES + ID_BYTES
_STAGED_BYTES = MAX_BATCH_BYTES - MAX_ENVELOPE_BYTES - ITEM_PREFIX_BYTES


class Refusal(NamedTuple):
    """Why a word is not taken, and when to try again."""

    code: str
    retry_after_ms: int = 0
    text: str = ""


class RoomLimits(NamedTuple):
    """How much of rooms: per access key, in all, and bytes in each."""

    per_access_key: int
    in_all: int
    bytes_each: int


class _Taken(NamedTuple):
    """A post of this turn: its number, and the place its envelope has or gets."""

    k: int
    n: int
    moved_on: bool  # it was the number expected, and not one posted again


@dataclass
class Staged:
    """What this turn adds to one room, behind `tip`."""

    tip: Tip
    is_new: bool
    maker: bytes
    entries: list[Entry] = field(default_factory=list)
    places: dict[bytes, int] = field(default_factory=dict)
    weight: int = 0
    taken: dict[bytes, list[_Taken]] = field(default_factory=dict)  # by route


class Intake:
    """The posts of one broker, from taken to receipted."""

    def __init__(self, log: BrokerLog, key: LogKey, heads: Heads, limits: RoomLimits) -> None:
        self._log = log
        self._key = key
        self._heads = heads
        self._limits = limits
        self._staged: dict[bytes, Staged] = {}
        self._next_k: dict[bytes, dict[bytes, int]] = {}  # by route, by room
        self.room_count = log.count_rooms()
        self.staged = 0  # entries that wait for the commit
        self.full = False

    def forget(self, route: bytes) -> None:
        """A connection is gone; what it posted is stored all the same."""
        self._next_k.pop(route, None)

    def is_out_of_turn(self, route: bytes, word: Post) -> bool:
        """Whether a number is beyond the next: something before it was refused, or is missing."""
        return word.k > self._expected(route, word.room)

    def _expected(self, route: bytes, room: bytes) -> int:
        return self._next_k.get(route, {}).get(room, 1)

    def take(
        self, route: bytes, access_key: bytes, word: Post, envelope: bytes, randomness: bytes
    ) -> Refusal | None:
        """Stage a post that is not out of turn; None if it was taken (or is to be ignored)."""
        room, expected = word.room, self._expected(route, word.room)
        try:
            check_outline(envelope, EnvelopeClass.LOG)
        except Unopenable as error:
            bad = Refusal("bad-envelope", text=f"check {error.check}")
            return bad if word.k == expected else None
        entry_id = envelope_id(envelope)
        n = self._place_of(room, entry_id)
        if not n:
            if word.k < expected:
                return None
            refusal = self._no_place_for(envelope, room, access_key)
            if refusal:
                return refusal
        staged = self._stage(room, access_key, randomness)
        n = n or self._add(staged, entry_id, envelope)
        staged.taken.setdefault(route, []).append(_Taken(word.k, n, word.k == expected))
        self._next_k.setdefault(route, {})[room] = max(expected, word.k + 1)
        return None

    def _place_of(self, room: bytes, entry_id: bytes) -> int:
        staged = self._staged.get(room)
        if staged and entry_id in staged.places:
            return staged.places[entry_id]
        return self._log.place_of(room, entry_id)

    def _no_place_for(self, envelope: bytes, room: bytes, access_key: bytes) -> Refusal | None:
        staged = self._staged.get(room)
        tip = staged.tip if staged else self._log.tip(room)
        if tip is not None:
            weight = tip.weight + (staged.weight if staged else 0)
            weight += ITEM_PREFIX_BYTES + len(envelope)
            if weight > self._limits.bytes_each and tip.expired:
                weight -= self._log.weight(room, 0, tip.expired)
            is_full = weight > self._limits.bytes_each
            return Refusal("room-full", _FULL_RETRY_MS) if is_full else None
        made_now = [other for other in self._staged.values() if other.is_new]
        of_this_key = sum(other.maker == access_key for other in made_now)
        too_many = (
            self._log.rooms_made_by(access_key) + of_this_key >= self._limits.per_access_key
            or self.room_count + len(made_now) >= self._limits.in_all
        )
        return Refusal("too-many-rooms", _FULL_RETRY_MS) if too_many else None

    def _stage(self, room: bytes, maker: bytes, randomness: bytes) -> Staged:
        staged = self._staged.get(room)
        if staged is None:
            tip = self._log.tip(room)
            staged = Staged(tip or self._new_log(room, randomness), tip is None, maker)
            self._staged[room] = staged
        return staged

    def _new_log(self, room: bytes, randomness: bytes) -> Tip:
        genesis = Genesis(room, self._key.public, randomness)
        log = genesis.log
        return Tip((self._key.sign_birth(genesis),), log, 0, log, 0, 0)

    def _add(self, staged: Staged, entry_id: bytes, envelope: bytes) -> int:
        last = staged.entries[-1] if staged.entries else staged.tip
        n = last.n + 1
        entry = Entry(n, entry_id, link(last.hash, n, entry_id), envelope)
        staged.entries.append(entry)
        staged.places[entry_id] = n
        staged.weight += entry.wire_bytes
        self.staged += 1
        if len(staged.entries) == MAX_BATCH_ENTRIES or staged.weight > _STAGED_BYTES:
            self.full = True
        return n

    def batch(self, arrived_ms: int) -> list[Addition]:
        """What the turn has to store; each room's part is within one batch of the wire."""
        return [
            Addition(
                room=room,
                entries=[Entry(*entry[:4], arrived_ms) for entry in staged.entries],
                log=staged.tip.log,
                births=staged.tip.births,
                maker=staged.maker,
            )
            for room, staged in self._staged.items()
            if staged.entries
        ]

    def committed(self) -> dict[bytes, Staged]:
        """The batch is durable: what the turn was, by room; the next turn begins."""
        staged = self._begin_turn()
        self.room_count += sum(room.is_new for room in staged.values())
        return staged

    def _begin_turn(self) -> dict[bytes, Staged]:
        staged, self._staged, self.staged, self.full = self._staged, {}, 0, False
        return staged

    def failed(self) -> Iterator[tuple[bytes, Post]]:
        """The store took nothing: by route, the first post of each room that has to come again."""
        for room, lost in self._begin_turn().items():
            for route, taken in lost.taken.items():
                if route not in self._next_k:
                    continue
                yield route, Post(room=room, k=min(post.k for post in taken))
                for post in reversed(taken):
                    if post.moved_on:
                        self._next_k[route][room] = post.k

    def receipts(self, room: bytes, staged: Staged) -> Iterator[Send]:
        """To each author of the turn: its new entries under the room's head; known ones singly."""
        ids = pack_batch((entry.id, None) for entry in staged.entries)  # once for all authors
        end = staged.tip.n + len(staged.entries)
        for route, taken in staged.taken.items():
            if route not in self._next_k:
                continue
            k = self._next_k[route][room] - 1
            fresh = [post.n for post in taken if post.n > staged.tip.n]
            if fresh:
                first = min(fresh)
                theirs = ids[(first - staged.tip.n - 1) * _BARE_ITEM_BYTES :]
                yield Send(route, self._receipt(room, staged, k, (first, end), theirs))
            for n in dict.fromkeys(post.n for post in taken if post.n <= staged.tip.n):
                (entry,) = self._log.read(room, n, n)
                known = pack_item(entry.id, None)
                yield Send(route, self._receipt(room, staged, k, (n, n), known))

    def _receipt(
        self, room: bytes, staged: Staged, k: int, span: tuple[int, int], ids: bytes
    ) -> Frames:
        first, last = span
        stored = Stored(
            room=room,
            k=k,
            log=staged.tip.log,
            first=first,
            before=self._log.hash_at(room, first - 1),
            head=self._heads.at(room, last),
        )
        return encode(stored, ids)
