"""The member without its socket: what arrives goes to its room, what rooms want goes out.

Theory of operation. `Session` speaks the protocol and believes nothing; a `Room` believes only what
it has checked. This file joins them: each input (a connection opened or closed, a message, a tick,
something the user says) is answered with what to do (`Say`, `Reopen`) and what to tell (`Event`),
in order. What is to be said is durable before it is in the answer.

Rules of this file: no socket, no asyncio; one server per Core, any number of rooms.
"""

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from zchat.clock import Clock
from zchat.errors import Malformed
from zchat.member.checked import Step
from zchat.member.room import Room
from zchat.member.rows import Confirmed, Connection, Event, Happening, ServerSays, is_fault
from zchat.member.session import (
    Action,
    Arrived,
    Glimpsed,
    Greeted,
    Heard,
    Outgoing,
    Phase,
    Receipt,
    Refused,
    Reopen,
    Say,
    Session,
)
from zchat.protocol.wire import Frames

Do: TypeAlias = Say | Reopen | Event

_ASK_AGAIN_S = 2.0


class Core:
    """All of one member's rooms at one server."""

    def __init__(self, session: Session, clock: Clock) -> None:
        self._session = session
        self._clock = clock
        self._rooms: dict[bytes, Room] = {}
        self._followed: set[bytes] = set()
        self._beating: set[bytes] = set()

    @property
    def online(self) -> bool:
        return self._session.phase is Phase.READY

    # ---- rooms ----

    def add(self, room: Room) -> list[Do]:
        """Take a room on: what its outbox still holds goes out, its entries do not come yet."""
        self._rooms[room.tag] = room
        recalled = self._tell(room, room.recall())
        self._session.stop(room.tag, stopped=bool(room.fault))
        return [*recalled, *self._post(room, room.resume())]

    def beat(self, tag: bytes) -> None:
        """Say in this room, now and from now on, that we are here."""
        if tag in self._rooms and tag not in self._beating:
            self._rooms[tag].presence.begin(self._clock.now())
        self._beating.add(tag)

    def follow(self, tag: bytes) -> list[Do]:
        """Receive a room's entries from its checked end on."""
        room = self._rooms[tag]
        self._followed.add(tag)
        checked, now = room.checked, self._clock.now()
        actions = self._session.enter(
            tag, checked.log, checked.n, checked.hash, now, ask_end=room.awaits_end
        )
        return self._carry_out(actions)

    def post(
        self, tag: bytes, texts: Sequence[str], reply_to: bytes | None = None, *, anyway: bool
    ) -> list[Do]:
        """Say something; it is in the outbox when this returns. Raises as Room.compose."""
        room = self._rooms[tag]
        outgoing, composed = room.compose(texts, reply_to, anyway=anyway)
        self._session.stop(tag, stopped=bool(room.fault) and not anyway)
        room.presence.spoke(self._clock.now(), self._clock.chance())
        return [*(Event(tag, what) for what in composed), *self._post(room, outgoing)]

    def _post(self, room: Room, outgoing: Iterable[Outgoing]) -> list[Do]:
        return self._carry_out(self._session.post(room.tag, outgoing, self._clock.now()))

    def farewell(self) -> list[Do]:
        """Say that we are leaving, where we said that we are here."""
        now = self._clock.now()
        actions: list[Action] = []
        for tag in self._beating:
            actions += self._session.cast(tag, self._rooms[tag].farewell(now))
        return self._carry_out(actions)

    # ---- inputs ----

    def opened(self) -> list[Do]:
        """The transport finished a handshake."""
        return self._carry_out(self._session.opened(self._clock.now()))

    def closed(self, reason: str) -> list[Do]:
        """The transport lost its connection, or cannot make one."""
        was_online = self.online
        self._session.closed(self._clock.now())
        for room in self._rooms.values():
            room.disconnected()
        return [Event(b"", Connection(False, reason))] if was_online or reason else []

    def receive(self, frames: Frames) -> list[Do]:
        """A message from the server. Raises WrongLogKey, Incompatible, StoreTrouble."""
        return self._carry_out(self._session.receive(frames, self._clock.now()))

    def tick(self) -> list[Do]:
        """Time has passed; called a few times a second."""
        now = self._clock.now()
        done = self._carry_out(self._session.tick(now))
        for tag, room in self._rooms.items():
            follows = self.online and tag in self._followed
            done += self._tell(room, room.tick(now, following=follows))
            if room.asks_again:
                done += self._carry_out(self._session.join_again(tag, now))
            if self.online and tag in self._beating:
                beat = room.due_beat(now)
                if beat:
                    done += self._carry_out(self._session.cast(tag, beat))
        return done

    # ---- what a session wants ----

    def _carry_out(self, actions: Iterable[Action]) -> list[Do]:
        done: list[Do] = []
        for action in actions:
            if isinstance(action, Say):
                done.append(action)
            elif isinstance(action, Reopen):
                done += [*self.closed(action.reason), action]
            else:
                done += self._hand_up(action)
        return done

    def _hand_up(
        self, action: Greeted | Arrived | Glimpsed | Receipt | Heard | Refused
    ) -> list[Do]:
        if isinstance(action, Greeted):
            return [Event(b"", Connection(True, action.software))]
        if isinstance(action, Refused):
            return self._refused(action)
        tag = action.room if isinstance(action, Heard) else action.word.room
        room = self._rooms.get(tag)
        if room is None:
            return []
        try:
            if isinstance(action, Arrived):
                return self._arrived(room, action)
            if isinstance(action, Receipt):
                return self._tell(room, room.receipt(action))
            if isinstance(action, Glimpsed):
                return self._tell(room, room.glimpsed(action))
            return self._tell(room, room.heard(action.envelope, self._clock.now()))
        except Malformed:
            self._session.malformed += 1
            return []

    def _arrived(self, room: Room, arrived: Arrived) -> list[Do]:
        step, happenings = room.arrived(arrived)
        done = self._tell(room, happenings)
        now, tag, checked = self._clock.now(), room.tag, room.checked
        if step in (Step.BEHIND, Step.GONE) and not room.fault:
            done += self._carry_out(self._session.join_again(tag, now, _ASK_AGAIN_S))
        elif step is Step.GAP:
            done += self._carry_out(self._session.join_after_gap(tag, now))
        elif step in (Step.IN_STEP, Step.NO_ROOM):
            actions = self._session.go_on(tag, now)
            done += self._carry_out(actions)
            if step is Step.NO_ROOM or not actions:
                done += [*self._carry_out(self._session.agree(tag, now)), *self._say_anew(room)]
        elif step is Step.ON:
            received = sum(4 + len(item.envelope or item.bare_id) for item in arrived.items)
            confirmed = [what.id for what in happenings if isinstance(what, Confirmed)]
            actions = self._session.confirmed(tag, confirmed, now)
            actions += self._session.advanced(
                tag, checked.log, checked.n, checked.hash, received, now
            )
            actions += self._session.agree(tag, now)
            wanted = room.wants_glimpse()
            if wanted:
                actions += self._session.glimpse(tag, *wanted, now)
            done += [*self._carry_out(actions), *self._say_anew(room)]
        elif step is Step.CONTRADICTION:
            self._followed.discard(tag)
            done += self._carry_out(self._session.leave(tag))
        return done

    def _say_anew(self, room: Room) -> list[Do]:
        """After a rejoin: what waits goes out once it is known what the log lacks of it."""
        outgoing, composed = room.say_anew()
        return [*(Event(room.tag, what) for what in composed), *self._post(room, outgoing)]

    def _refused(self, refused: Refused) -> list[Do]:
        word, entry_id = refused
        room = self._rooms.get(word.room)
        done: list[Do] = [Event(word.room, ServerSays(word.code, word.text))]
        if room is not None and entry_id:
            outgoing, happenings = room.refused_for_good(entry_id)
            done += [*self._tell(room, happenings), *self._post(room, outgoing)]
        return done

    def _tell(self, room: Room, happenings: Iterable[Happening]) -> list[Do]:
        """Events; where one is the server's first fault, nothing more goes out to the room."""
        told = list(happenings)
        if any(is_fault(what) for what in told):
            self._session.stop(room.tag, stopped=bool(room.fault))
        return [Event(room.tag, what) for what in told]
