"""A broker's log that lets no damage out: what it gives is what was written, or RoomDamaged.

Theory of operation. A bit that flips on a disk must not be served, least of all under a signature:
a head over a wrong hash would prove that an honest server lied. So the end of a room is held
against its birth and its last entries when the room is first touched, and what is read against
its ids and the chain. An error in what belongs to one room closes that room. An error in what all
rooms share (the index of ids, the list of free pages, the rooms' own table) stays what it is:
nobody knows what would be written over what.

Rules of this file: RoomDamaged names the place; any other StoreUnreadable ends the broker; each
commit is followed by its marks (ends.py).
"""

from collections.abc import Iterable
from pathlib import Path

from zchat.database import Access
from zchat.errors import Malformed, RoomDamaged, StoreDamaged, StoreUnreadable
from zchat.log.contract import Addition, Entry, Tip
from zchat.log.ends import Ends
from zchat.log.sound import first_damage
from zchat.log.sqlite import PLACE_MASK, ROOM_SHIFT, SqliteLog
from zchat.protocol.ledger import link, read_lineage
from zchat.protocol.limits import KEY_BYTES, MAX_BATCH_BYTES, MAX_BATCH_ENTRIES, TAG_BYTES

_MANGLED = "what is stored is not what was written"


class GuardedLog(SqliteLog):
    """The one writer's `SqliteLog`. Raises StoreDamaged where the list of rooms is damaged."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, Access.ONE_WRITER)
        try:
            wrong = self.wrong_in("rooms")
            if wrong:
                raise StoreDamaged(path=path, reason=wrong)
            self._ends = Ends(path, self.ends())
            self._former: dict[bytes, Tip] = {}  # where rooms ended before: what receipts ask for
        except BaseException:
            super().close()
            raise

    def close(self) -> None:
        self._ends.close()
        super().close()

    # ---- the end of a room ----

    def _load(self, room: bytes) -> tuple[int, Tip] | None:
        try:
            held = super()._load(room)
            if held is not None:
                self._check_end(room, *held)
        except StoreUnreadable as error:
            raise self._of(room, 0, error) from None
        return held

    def _check_end(self, room: bytes, number: int, tip: Tip) -> None:
        """Hold a room's row against its birth and its last two entries: it is all or none."""
        try:
            births = read_lineage(tip.births, room, tip.births[0][TAG_BYTES:][:KEY_BYTES])
        except (Malformed, IndexError):
            births = ()
        if not births or births[0].log != tip.log or not 0 <= tip.expired <= tip.n:
            raise RoomDamaged(room, 0, path=self._path, reason=_MANGLED)
        base = number << ROOM_SHIFT
        with self._db.failures():
            rows = self._db.execute(
                "SELECT place - ?, id, hash, weight_end FROM entries"
                " WHERE place BETWEEN ? AND ? ORDER BY place LIMIT 3",
                (base, base | max(tip.n - 1, 1), base | PLACE_MASK),
            ).fetchall()
        ends = [(0, b"", tip.log, 0), *rows][-2:]
        is_whole = [row[0] for row in rows] == [*range(max(tip.n - 1, 1), tip.n + 1)]
        if not is_whole or ends[-1][2:] != (tip.hash, tip.weight):
            raise RoomDamaged(room, tip.n, path=self._path, reason=_MANGLED)
        if tip.n and not _follows(ends[0][2], *ends[1][:3]):
            raise RoomDamaged(room, tip.n, path=self._path, reason=_MANGLED)
        self._check_expired(room, base, tip)

    def _check_expired(self, room: bytes, base: int, tip: Tip) -> None:
        """Envelopes end where the row says: a head that claims more could never be taken back."""
        with self._db.failures():
            kept = self._db.execute(
                "SELECT envelope IS NOT NULL FROM entries WHERE place BETWEEN ? AND ?",
                (base | max(tip.expired, 1), base | min(tip.expired + 1, tip.n)),
            ).fetchall()
        expected = [False] * bool(tip.expired) + [True] * (tip.expired < tip.n)
        if [bool(is_kept) for (is_kept,) in kept] != expected:
            raise RoomDamaged(room, tip.expired, path=self._path, reason=_MANGLED)

    # ---- what is given out ----

    def read(
        self,
        room: bytes,
        first: int,
        last: int,
        most_bytes: int = MAX_BATCH_BYTES,
        most_entries: int = MAX_BATCH_ENTRIES,
    ) -> list[Entry]:
        try:
            entries = super().read(room, first, last, most_bytes, most_entries)
            if entries:
                before, expired = super().hash_at(room, first - 1), self._room(room)[1].expired
                damage = first_damage(before, entries, expired)
                if damage is not None:
                    raise RoomDamaged(room, damage.n, path=self._path, reason=damage.what)
        except StoreUnreadable as error:
            raise self._of(room, first, error) from None
        return entries

    def hash_at(self, room: bytes, n: int) -> bytes:
        number, tip = self._room(room)
        if n in (0, tip.n):
            return tip.hash if n else tip.log
        former = self._former.get(room)
        if former is not None and former.n == n:
            return former.hash
        place = number << ROOM_SHIFT | n
        try:
            with self._db.failures():
                rows = self._db.execute(
                    "SELECT id, hash FROM entries WHERE place BETWEEN ? AND ? ORDER BY place",
                    (place - 1, place),
                ).fetchall()
        except StoreUnreadable as error:
            raise self._of(room, n, error) from None
        rows = [(b"", tip.log), *rows][-2:]
        if len(rows) < 2 or not _follows(rows[0][1], n, *rows[1]):
            raise RoomDamaged(room, n, path=self._path, reason=_MANGLED)
        found: bytes = rows[1][1]
        return found

    def place_of(self, room: bytes, entry_id: bytes) -> int:
        """As ever; but what the index says is held against the entry: all rooms share the index."""
        n = super().place_of(room, entry_id)
        if n:
            number, tip = self._room(room)
            place = number << ROOM_SHIFT | n
            row = self._db.one("SELECT id FROM entries WHERE place = ?", (place,))
            if n > tip.n or row != (entry_id,):
                raise StoreDamaged(path=self._path, reason="the index of ids is not of its entries")
        return n

    def weight(self, room: bytes, after: int, upto: int) -> int:
        try:
            return super().weight(room, after, upto)
        except StoreUnreadable as error:
            raise self._of(room, upto, error) from None

    def first_kept(self, room: bytes, since_ms: int, most_bytes: int) -> int:
        try:
            return super().first_kept(room, since_ms, most_bytes)
        except StoreUnreadable as error:
            raise self._of(room, 0, error) from None

    # ---- what is written ----

    def append(self, additions: Iterable[Addition]) -> None:
        listed = list(additions)
        rooms = [addition.room for addition in listed]
        former = {room: self._tips[room][1] for room in rooms if room in self._tips}
        try:
            super().append(listed)
        except StoreUnreadable:
            self._blame_a_room(rooms)
            raise
        self._former.update(former)
        for room in rooms:
            number, tip = self._tips[room]
            self._ends.note(number, room, tip.n, tip.hash)

    def expire(self, room: bytes, upto: int) -> None:
        tip = self._room(room)[1]
        try:
            super().expire(room, upto)
        except StoreUnreadable:
            n = tip.expired
            while n < upto:
                n = self.read(room, n + 1, upto)[-1].n
            raise

    def _blame_a_room(self, rooms: Iterable[bytes]) -> None:
        """Raises RoomDamaged if one of them ends in damage: then it is not what all share."""
        for room in rooms:
            self._tips.pop(room, None)
            self.tip(room)

    def _of(self, room: bytes, n: int, error: StoreUnreadable) -> StoreUnreadable:
        if isinstance(error, RoomDamaged):
            return error
        return RoomDamaged(room, n, path=self._path, reason=error.facts["reason"])


def _follows(previous: object, n: int, entry_id: object, hash_n: object) -> bool:
    """Whether this is the link of the chain behind that one."""
    if type(previous) is not bytes or type(entry_id) is not bytes:
        return False
    return len(previous) == len(entry_id) == 32 and link(previous, n, entry_id) == hash_n
