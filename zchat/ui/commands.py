"""What can be typed after a slash in a room, as data: name, what it takes, what it does.

Rules of this file: each command has its help here, and `/help` is made of it (a test reads both);
what a command needs of a person's name is found in one place.
"""

from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

from zchat.errors import NoMatch
from zchat.member.names import shown_name
from zchat.member.rows import MemberView
from zchat.ui.show import member_line
from zchat.ui.visit import Visit


class Quit(Exception):
    """The user wants to leave."""


class Face(Protocol):
    """What a command needs of the face it was typed into."""

    visit: Visit
    compared_n: int  # the place whose words were shown last; 0: none were

    def note(self, text: str) -> None:
        """Say something that nobody said."""
        ...


class SlashCommand(NamedTuple):
    """One command of a room."""

    takes: str
    help: str
    run: Callable[[Face, str], Awaitable[None]]


async def _help(chat: Face, _: str) -> None:
    for name, command in COMMANDS.items():
        chat.note(f"/{name} {command.takes}".rstrip() + f": {command.help}")
    chat.note("//text sends a text that begins with a slash")


async def _who(chat: Face, _: str) -> None:
    room, now = chat.visit.room, chat.visit.clock.now()
    members = room.members(now)
    for member in members:
        here = "here" if member.here else "away"
        chat.note(f"{member_line(member)}, {here}")
    for key in room.presence.here(now) - {member.key for member in members}:
        shown = shown_name(key, room.presence.name_of(key), trusted=False)
        chat.note(f"{shown}  has not spoken yet, here")
    if not members:
        chat.note("nobody has spoken here yet")


async def _verify(chat: Face, argument: str) -> None:
    room = chat.visit.room
    n = _place(argument, room.checked.n)
    words = room.verification_code(n)
    chat.compared_n = n
    chat.note(f"at #{n}: {' '.join(words)}")
    chat.note(f"Read them to each other. The same words at #{n} mean: one room, one log,")
    chat.note("the same members. Then /trust NAME for each of those who compared.")


def _place(argument: str, end: int) -> int:
    if not end:
        raise NoMatch(reason="nobody has spoken here yet: there is nothing to compare")
    if not argument:
        return end
    if not argument.isdecimal() or not 1 <= int(argument) <= end:
        raise NoMatch(reason=f"{argument!r} is not a place between 1 and {end}")
    return int(argument)


async def _name(chat: Face, argument: str) -> None:
    name = chat.visit.room.rename(argument)
    chat.note(f"you are called {name} from your next message on")


async def _mute(chat: Face, argument: str) -> None:
    member = find_member(chat, argument)
    muted = chat.visit.room.toggle_mute(member.key)
    chat.note(f"{member.shown} is {'muted' if muted else 'heard again'}")


async def _trust(chat: Face, argument: str) -> None:
    member, n = find_member(chat, argument), chat.compared_n
    if not n:
        raise NoMatch(reason="compare first: /verify shows the words to read to each other")
    check_covered(member, n)
    chat.visit.room.verify([member.key], n)
    chat.note(f"{member.name} counts as verified from now on")


async def _retry(chat: Face, _: str) -> None:
    chat.visit.client.retry()
    chat.note("connecting anew")


async def _quit(chat: Face, _: str) -> None:
    raise Quit


COMMANDS: dict[str, SlashCommand] = {
    "help": SlashCommand("", "what can be typed here", _help),
    "who": SlashCommand("", "who has spoken here, and who is here now", _who),
    "verify": SlashCommand("[N]", "eight words to compare by voice, for the log up to #N", _verify),
    "name": SlashCommand("NAME", "call yourself something else", _name),
    "mute": SlashCommand("NAME", "show somebody's messages no longer, or again", _mute),
    "trust": SlashCommand("NAME", "you compared the words with NAME: verified", _trust),
    "retry": SlashCommand("", "connect anew at once", _retry),
    "quit": SlashCommand("", "leave", _quit),
}


def check_covered(member: MemberView, n: int) -> None:
    """Raises NoMatch where the words of place n were made without this member's key."""
    if member.first_n > n:
        late = f"{member.shown} first spoke at #{member.first_n}"
        raise NoMatch(reason=f"{late}; the words at #{n} do not cover that: compare again")


def find_member(chat: Face, argument: str) -> MemberView:
    """The one member meant by NAME or NAME~mark. Raises NoMatch."""
    room, now = chat.visit.room, chat.visit.clock.now()
    members = room.members(now)
    marks = {m.key: shown_name(m.key, m.name, trusted=False) for m in members if not m.own}
    found = [m for m in members if m.key in marks and argument in (m.shown, m.name, marks[m.key])]
    if any(argument == marks[member.key] for member in found):
        found = [member for member in found if argument == marks[member.key]]
    if len(found) == 1:
        return found[0]
    if found:
        marked = ", ".join(marks[member.key] for member in found)
        raise NoMatch(reason=f"several are called {argument!r}: {marked}")
    known = {member.key for member in members}
    for key in room.presence.here(now) - known:
        name = room.presence.name_of(key)
        if argument in (name, shown_name(key, name, trusted=False)):
            raise NoMatch(reason=f"{argument!r} has not spoken here yet")
    raise NoMatch(reason=f"nobody here is called {argument!r}; /who lists who is")


async def run_command(chat: Face, typed: str) -> None:
    """Run /NAME ARGUMENT. Raises NoMatch, Quit, and what the command raises."""
    name, _, argument = typed[1:].partition(" ")
    command = COMMANDS.get(name)
    if command is None:
        raise NoMatch(reason=f"there is no command /{name}; /help lists what there is")
    argument = argument.strip()
    if not argument and command.takes.isalpha():  # "[N]" can be left out
        raise NoMatch(reason=f"what is missing here: /{name} {command.takes}")
    await command.run(chat, argument)
