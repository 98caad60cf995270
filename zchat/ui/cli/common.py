"""What commands share: how they say things, where a passphrase comes from, which room is meant.

Rules of this file: data goes to stdout, everything else to stderr; nothing is asked where stdin is
no terminal; a passphrase never comes by the command line or the environment, only by a prompt, a
file or a descriptor.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click
import msgspec

from zchat.broker.folder import announced
from zchat.config import DEFAULT_PORT, MemberConfig, home, load
from zchat.errors import (
    BadPassphrase,
    NeedsTerminal,
    NoServerKnown,
    Usage,
    ZchatError,
)
from zchat.member.invite import (
    SCHEME,
    Invite,
    format_address,
    parse_address,
    parse_invite,
)
from zchat.member.profile import (
    Place,
    Profile,
    check_is_known,
    find_room,
    known_here,
    same_place,
)
from zchat.member.rows import Progress
from zchat.member.strength import bits
from zchat.member.vault import RoomRecord, Vault
from zchat.protocol.keys import RoomKeys
from zchat.protocol.limits import MAX_PASSPHRASE_BYTES
from zchat.protocol.words import canonical_room_name, near_misses
from zchat.ui.safe import safe_line

_F = TypeVar("_F", bound=Callable[..., Any])
_T = TypeVar("_T")
_LONG_HISTORY = 1_000


class Asked(NamedTuple):
    """How this command may get at a passphrase."""

    file: Path | None
    descriptor: int | None


# ---- saying things ----


def say(text: str) -> None:
    """A message for people: stderr, made safe, one line."""
    click.echo(safe_line(text), err=True)


def data(line: str) -> None:
    """A line of data: stdout, at once. The caller made it safe."""
    click.echo(line)


def complain(error: ZchatError) -> None:
    """An error: its sentence, and what to do next."""
    say(f"zchat: {error.sentence}")
    if error.advice:
        say(f"  {error.advice}")


def is_interactive() -> bool:
    """Whether a person sits at both ends and the terminal can do more than print."""
    return has_terminal() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def has_terminal() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin is not None and sys.stdin.isatty()


def show_progress(progress: Progress) -> None:
    """A line that counts up while a long history is read, where somebody can see it."""
    if sys.stderr.isatty() and (progress.tip > _LONG_HISTORY):
        end = "\n" if progress.caught_up else ""
        click.echo(
            f"\rReading history: {progress.n:,} of {progress.tip:,}{end}", err=True, nl=False
        )


class Terminated(BaseException):
    """SIGTERM came."""


def run(main: Coroutine[Any, Any, _T]) -> _T:
    """Run a command's asyncio part. SIGTERM ends it in order: Terminated is raised."""

    async def guarded() -> _T:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        told = False

        def terminate() -> None:
            nonlocal told
            told = True
            task.cancel()

        loop.add_signal_handler(signal.SIGTERM, terminate)
        try:
            return await main
        except asyncio.CancelledError:
            if told:
                raise Terminated from None
            raise

    return asyncio.run(guarded())


# ---- options ----


def name_option(command: _F) -> _F:
    """--name: which member speaks."""
    return click.option(
        "--name", metavar="NAME", help="Who you are here. Default: who you were there last."
    )(command)


def room_options(command: _F) -> _F:
    """Options of every command that needs a room's keys."""
    for option in (
        click.option(
            "--new", is_flag=True, help="An empty room, or another one, is what is meant."
        ),
        click.option(
            "--remember",
            is_flag=True,
            help="Keep the room's key in this profile, readable by you only.",
        ),
        click.option(
            "--passphrase-fd", type=int, metavar="N", help="Read the passphrase from descriptor N."
        ),
        click.option(
            "--passphrase-file",
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="FILE",
            help="Read the passphrase from a file (or name one in ZCHAT_PASSPHRASE_FILE).",
        ),
    ):
        command = option(command)
    return name_option(command)


def config_for(**flags: object) -> MemberConfig:
    """The member's settings, with these flags on top."""
    config, _ = load(MemberConfig, None, flags, os.environ)
    return config


# ---- passphrases ----


def has_passphrase_source(asked: Asked) -> bool:
    """Whether a passphrase was given by other means than a prompt."""
    named = os.environ.get("ZCHAT_PASSPHRASE_FILE")
    return bool(asked.file or asked.descriptor is not None or named)


def read_passphrase(asked: Asked, room: str) -> str:
    """From a descriptor, a file, the file that the environment names, or a prompt."""
    if asked.descriptor is not None:
        return _from_descriptor(asked.descriptor)
    named = os.environ.get("ZCHAT_PASSPHRASE_FILE")
    path = asked.file or (Path(named) if named else None)
    if path is not None:
        return _from_file(path)
    if not has_terminal():
        raise NeedsTerminal()
    typed: str = click.prompt(
        f"Passphrase of {safe_line(room)}", hide_input=True, err=True, prompt_suffix=": "
    )
    for part, word in near_misses(typed):
        say(f"  {part!r} is not on the word list; did you mean {word!r}?")
    return typed


def _from_descriptor(descriptor: int) -> str:
    try:
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return _decoded(file.read(MAX_PASSPHRASE_BYTES + 2))
    except OSError as error:
        raise BadPassphrase(reason=f"descriptor {descriptor}: {error.strerror}") from None


def _from_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return _decoded(file.read(MAX_PASSPHRASE_BYTES + 2))
    except OSError as error:
        raise BadPassphrase(reason=f"{path}: {error.strerror}") from None


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise BadPassphrase(reason="it is not UTF-8") from None


# ---- which room, and its keys ----


class Opened(NamedTuple):
    """A member, a room, and its keys: all that a command needs before it connects."""

    vault: Vault
    keys: RoomKeys
    record: RoomRecord
    is_known: bool
    strength_bits: float


def is_invite(text: str) -> bool:
    """Whether a ROOM argument is an invite."""
    return text.startswith(f"{SCHEME}:")


def find_place(vault: Vault, room: str | None, invite: str | None, server: str | None) -> Place:
    """Where to go: by invite, by a room known here, or to the server of this profile.

    Raises BadInvite, BadRoomName, NoServerKnown, Usage.
    """
    if invite is not None:
        parsed = parse_invite(invite)
        return _place_of(vault, _with_room(parsed, room))
    address = _address(server)
    wanted = canonical_room_name(room or "lobby")
    known = find_room(vault, wanted, address)
    if known is not None:
        return Place(known.record.invite, known)
    line = announced(home() / "broker")
    if line is not None:
        local = parse_invite(line)
        if address in (None, local.server.address):
            return _place_of(vault, _with_room(local, wanted))
    raise NoServerKnown()


def _address(server: str | None) -> str | None:
    return None if server is None else format_address(*parse_address(server, DEFAULT_PORT))


def _with_room(invite: Invite, room: str | None) -> Invite:
    """The invite with the room that --room names; both may name it, if it is the same."""
    if room is None:
        return invite if invite.room else Invite(invite.server, "lobby", invite.origin)
    wanted = canonical_room_name(room)
    if invite.room and invite.room != wanted:
        raise Usage(reason=f"the invite is to {invite.room!r}, and --room says {wanted!r}")
    return Invite(invite.server, wanted, invite.origin)


def _place_of(vault: Vault, invite: Invite) -> Place:
    return Place(invite, same_place(vault, invite))


def open_place(
    vault: Vault,
    name: str,
    place: Place,
    passphrase: Callable[[], str],
    *,
    new: bool,
    remember: bool,
) -> Opened:
    """The keys of a room: remembered, or derived from its passphrase (asked for only then).

    Raises WrongPassphrase without any network where the vault knows better.
    """
    profile = Profile(home())
    known = place.known
    if known is not None and known.record.root and not new:
        keys, strength = RoomKeys(known.record.root), float("inf")
    else:
        given = passphrase()
        say("Deriving the room's key (Argon2id, 256 MiB) ...")
        keys = profile.derive(given, place.invite)
        strength = bits(given)
        if not new:
            check_is_known(vault, keys, place.invite)
    former = vault.room(keys.tag)
    record = former or RoomRecord(place.invite.room, name, place.invite.server, place.invite.origin)
    record = msgspec.structs.replace(
        record,
        server=place.invite.server,
        root=keys.root if remember or record.root else b"",
    )
    if former is not None and record != former:
        vault.save_room(keys.tag, record)
    return Opened(vault, keys, record, former is not None, strength)


def open_room(room: str, name: str | None, asked: Asked, *, new: bool, remember: bool) -> Opened:
    """For commands whose ROOM is a name known here or an invite."""
    profile = Profile(home())
    parsed = parse_invite(room) if is_invite(room) else None
    wanted = parsed.room if parsed else canonical_room_name(room)
    member = profile.choose_member(name, config_for().name, wanted)
    vault = profile.vault(member)
    if parsed is None and find_room(vault, wanted) is None and announced(home() / "broker") is None:
        known_here(vault, wanted)
    place = find_place(vault, None if parsed else wanted, room if parsed else None, None)
    return open_place(
        vault,
        member,
        place,
        lambda: read_passphrase(asked, place.invite.room),
        new=new,
        remember=remember,
    )
