"""A face's stay in one room: arrive, catch up, then whatever the face does.

Rules of this file: it prints nothing; what a room that is new here needs (that it is meant to be
empty, that its passphrase is not cheap to break) is decided here, before anything is posted.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator

from zchat.clock import Clock
from zchat.config import MemberConfig
from zchat.errors import EmptyRoom, FellSilent, Refused, Unreachable, WeakPassphrase
from zchat.member.client import Client
from zchat.member.profile import Opened
from zchat.member.room import Room
from zchat.member.rows import (
    Composed,
    Connection,
    Event,
    Glimpse,
    Here,
    Kind,
    Message,
    Progress,
    Row,
    ServerSays,
    is_fault,
)
from zchat.member.strength import ENOUGH_BITS, price

_CONNECT_PATIENCE_S = 5.0  # where something said that there is no connection to be had
_SILENT_PATIENCE_S = 15.0  # where nothing was heard at all
_VAGUE = {"connection lost", "no connection"}  # come behind a reason that says more
_LIMIT_CODES = {"room-full", "too-many-rooms"}  # "rate" passes by itself


class History:
    """The last rows, as many as hold `most` messages of people (None: all)."""

    def __init__(self, most: int | None, wanted: Callable[[Row], bool] = lambda _: True) -> None:
        self._most = most
        self._wanted = wanted
        self._rows: deque[Row] = deque()
        self._messages = 0

    def add(self, row: Row) -> None:
        if not self._wanted(row):
            return
        self._rows.append(row)
        self._messages += is_text(row)
        while self._most is not None and self._messages > self._most:
            self._messages -= is_text(self._rows.popleft())

    def drop_shown(self, upto: int) -> None:
        """Forget what is about entries up to a place, but for the server's faults."""
        self._rows = deque(row for row in self._rows if _place(row) > upto or is_fault(row))

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)


def _place(row: Row) -> int:
    """The entry that a row is about; 0 for none."""
    return 0 if isinstance(row, Here) else row.n


def is_text(row: Row) -> bool:
    """Whether a row is a message of people."""
    return isinstance(row, Message) and row.kind is Kind.TEXT


class Visit:
    """One room at one server, for as long as a command runs. Use as `async with`."""

    def __init__(self, opened: Opened, config: MemberConfig) -> None:
        vault, keys, record, self._strength_bits, self._saved = opened
        self._vault = vault
        self.config = config
        self.clock = Clock()
        self.client = Client(vault, record.server, config, self.clock)
        self.room: Room = self.client.enter(keys, record)
        self.is_new_here = vault.room(keys.tag) is None
        self.offline_since_ms = 0
        self.offline_reason = ""
        self.was_online = False
        self.caught_up = False
        self._was_attempt = False  # leaves nothing behind, unless another process settles in
        self.refusal: ServerSays | None = None

    async def __aenter__(self) -> "Visit":
        await self.client.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()
        if self._was_attempt and self._vault.room(self.room.tag) is None:
            self._vault.forget_room(self.room.tag)

    @property
    def _patience_s(self) -> float:
        """How long to wait for a connection."""
        usual_s = _CONNECT_PATIENCE_S if self.offline_reason else _SILENT_PATIENCE_S
        return min(usual_s, self.config.timeout_s)

    @property
    def address(self) -> str:
        return self.room.record.server.address

    async def arrive(
        self,
        keep: History,
        progress: Callable[[Progress], None] = lambda _: None,
        glimpse: Callable[[Glimpse], None] = lambda _: None,
    ) -> None:
        """Read what the replica holds, then what the server has beyond it.

        Ends caught up, or at a fault of the server, or, for a room known here, offline. Raises
        Unreachable for a room that is not known here, FellSilent where the server falls silent.
        """
        for row in self.room.replay():
            keep.add(row)
        self.client.follow(self.room.tag)
        quiet_since = time.monotonic()
        while not self.caught_up:
            event = await self.client.next_event(0.2)
            now = time.monotonic()
            if event is not None:
                self.note(event)
                if not isinstance(event.what, ServerSays | Connection):  # it answers about the room
                    quiet_since = now
                if isinstance(event.what, Progress):
                    progress(event.what)
                elif isinstance(event.what, Glimpse):
                    glimpse(event.what)
                elif isinstance(event.what, Row):
                    keep.add(event.what)
                    if is_fault(event.what) or self.room.is_slow:
                        return
            self._check_patience(now - quiet_since)
            if not self.client.online and now - quiet_since > self._patience_s:
                return

    async def look_in(self) -> None:
        """Hear one answer about a room known here, or find that there is no connection.

        Entries that come meanwhile are checked and kept, but not waited for.
        """
        for _ in self.room.replay():
            pass
        self.client.follow(self.room.tag)
        since = self.clock.now()
        while self.clock.now() - since < self._patience_s:
            event = await self.client.next_event(0.1)
            if event is not None:
                self.note(event)
                if isinstance(event.what, Progress) or is_fault(event.what):
                    return

    def _check_patience(self, quiet_s: float) -> None:
        if self.refusal and quiet_s > self.config.timeout_s:
            code, text = self.refusal
            raise Refused(address=self.address, code=code, text=text, count=0, ids="none")
        if self.client.online and quiet_s > self.config.timeout_s:
            raise FellSilent(address=self.address, seconds=f"{quiet_s:.0f}")
        if not self.client.online and quiet_s > self._patience_s and self.is_new_here:
            raise Unreachable(address=self.address)

    def note(self, event: Event) -> None:
        """Keep up what a face wants to know at any time."""
        what = event.what
        if self.room.record.is_unsure and (self.room.checked.n or isinstance(what, Composed)):
            self.room.remember(is_unsure=False)
        if isinstance(what, ServerSays):
            is_damage = what.code == "storage" and what.text  # a full disk comes without a text
            self.refusal = what if what.code in _LIMIT_CODES or is_damage else self.refusal
        elif isinstance(what, Progress):
            self.caught_up = what.caught_up
        elif isinstance(what, Connection):
            self.caught_up = self.caught_up and what.online
            self.refusal = None
            if not self.offline_since_ms or what.reason not in _VAGUE:
                self.offline_reason = what.reason
            if what.online:
                self.was_online = True
                self.offline_since_ms = 0
            elif not self.offline_since_ms:
                self.offline_since_ms = time.time_ns() // 1_000_000

    def settle_in(self, *, may_be_empty: bool, may_be_weak: bool, is_meant: bool = True) -> None:
        """Remember the room from now on. Before the first post to a room that is new here.

        If the user did not say that an empty room is meant, it is unsure until somebody speaks.
        Raises EmptyRoom where nobody has spoken and that is not what the user meant (a wrong
        passphrase leads to an empty room), WeakPassphrase where a new room would be cheap to break;
        the vault then knows nothing of it.
        """
        if not self.is_new_here:
            return
        is_empty = self.room.checked.n == 0
        if is_empty and not may_be_empty:
            self._was_attempt = True
            raise EmptyRoom(room=self.room.record.room)
        if is_empty and self._strength_bits < ENOUGH_BITS and not may_be_weak:
            self._was_attempt = True
            raise WeakPassphrase(dollars=price(self._strength_bits))
        self.room.remember(is_unsure=is_empty and not is_meant)
        self._saved()
