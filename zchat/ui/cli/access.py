"""How a command gets into a room: which member, which room at which server, which passphrase.

Rules of this file: a passphrase never comes by the command line or the environment, only by a
prompt, a file or a descriptor; the environment may name the file.
"""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click

from zchat.broker.folder import announced
from zchat.config import DEFAULT_PORT, home
from zchat.errors import (
    BadPassphrase,
    NeedsTerminal,
    NoServerKnown,
    UnknownRoom,
    Usage,
    did_you_mean,
)
from zchat.member.invite import SCHEME, Invite, format_address, parse_address, parse_invite
from zchat.member.keeper import Keeper
from zchat.member.profile import Opened, Place, Profile, find_room, known_here, same_place
from zchat.member.vault import KnownRoom, Vault
from zchat.protocol.limits import MAX_PASSPHRASE_BYTES
from zchat.protocol.words import canonical_room_name, near_misses
from zchat.ui.cli.common import config_for, has_terminal, say, vault_of
from zchat.ui.cli.shells import complete_members, complete_rooms
from zchat.ui.safe import safe_line

DEFAULT_ROOM = "lobby"
DERIVING = "Deriving the room's key (Argon2id, 256 MiB) ..."


class Access(NamedTuple):
    """What the options of a command say about getting into a room."""

    name: str | None
    passphrase_file: Path | None
    passphrase_fd: int | None
    new: bool
    remember: bool

    @property
    def names_passphrase(self) -> bool:
        """Whether an option says where the passphrase is: then a remembered key is not used."""
        return self.passphrase_file is not None or self.passphrase_fd is not None


room_argument = click.argument("room", shell_complete=complete_rooms)

name_option = click.option(
    "--name",
    metavar="NAME",
    shell_complete=complete_members,
    help="Who you are here. Default: who you were there last.",
)

_fd_option = click.option(
    "--passphrase-fd",
    type=click.IntRange(min=0),
    metavar="N",
    help="Read the passphrase from descriptor N.",
)
_FILE = click.Path(path_type=Path, dir_okay=False)
_file_option = click.option(
    "--passphrase-file", type=_FILE, metavar="FILE", help="Read the passphrase from a file."
)
_room_file_option = click.option(
    "--passphrase-file",
    type=_FILE,
    metavar="FILE",
    help="Read the passphrase from a file (or name one in ZCHAT_PASSPHRASE_FILE).",
)
_OPTIONS = (
    click.option("--new", is_flag=True, help="An empty room, or another one, is what is meant."),
    click.option(
        "--remember",
        is_flag=True,
        help="Keep the room's key for you: in this profile, or by the OS keyring.",
    ),
    _fd_option,
    _room_file_option,
    name_option,
)


def access_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every command that needs a room's keys; it gets them as one `access`."""

    @functools.wraps(command)
    def gathered(**options: Any) -> Any:
        access = Access(*(options.pop(field) for field in Access._fields))
        return command(access=access, **options)

    for option in _OPTIONS:
        gathered = option(gathered)
    return gathered


def passphrase_options(*, of_room: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The options of a command that needs no more than a passphrase, which it gets as `access`."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def gathered(**options: Any) -> Any:
            path, descriptor = options.pop("passphrase_file"), options.pop("passphrase_fd")
            access = Access(None, path, descriptor, new=False, remember=False)
            return command(access=access, **options)

        return _fd_option((_room_file_option if of_room else _file_option)(gathered))

    return decorate


# ---- passphrases ----


def passphrase_source(access: Access, room: str) -> Callable[[], str] | None:
    """Where the passphrase comes from without asking; None if somebody has to be asked."""
    named = os.environ.get("ZCHAT_PASSPHRASE_FILE")
    return given_source(access) or (functools.partial(_from_file, Path(named)) if named else None)


def given_source(access: Access) -> Callable[[], str] | None:
    """The same by options alone: for a passphrase that is not a room's."""
    if access.passphrase_fd is not None:
        return functools.partial(_from_descriptor, access.passphrase_fd)
    path = access.passphrase_file
    return functools.partial(_from_file, path) if path is not None else None


def read_passphrase(access: Access, room: str) -> str:
    """From a descriptor, a file, the file that the environment names, or a prompt."""
    source = passphrase_source(access, room)
    typed = source() if source else _ask(room)
    say(DERIVING)
    return typed


def _ask(room: str) -> str:
    if not has_terminal():
        raise NeedsTerminal
    typed: str = click.prompt(
        f"Passphrase of {safe_line(room)}", hide_input=True, err=True, prompt_suffix=": "
    )
    doubts = near_misses(typed)
    for part, word in doubts:
        say(f"  {part!r} is not on the word list; did you mean {word!r}?")
    if not doubts:
        return typed
    again: str = click.prompt(
        "Type it again, or press Enter to take it as it is",
        default="",
        show_default=False,
        hide_input=True,
        err=True,
        prompt_suffix=": ",
    )
    return again or typed


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


# ---- places ----


def is_invite(text: str) -> bool:
    """Whether a ROOM argument is an invite."""
    return text.startswith(f"{SCHEME}:")


def find_place(vault: Vault, room: str | None, invite: str | None, server: str | None) -> Place:
    """Where to go: by invite, by a room known here, or to the server of this profile.

    Raises BadInvite, BadRoomName, NoServerKnown, Usage.
    """
    if invite is not None:
        return _place_of(vault, _with_room(parse_invite(invite), room))
    address = format_address(*parse_address(server, DEFAULT_PORT)) if server else None
    wanted = canonical_room_name(room or DEFAULT_ROOM)
    known = find_room(vault, wanted, address)
    if known is not None:
        return Place(known.record.invite, known)
    line = announced(home() / "broker")
    if line is not None:
        local = parse_invite(line)
        if address in (None, local.server.address):
            return _place_of(vault, _with_room(local, wanted))
    names = [known.record.room for known in vault.rooms()]
    raise NoServerKnown(meant=did_you_mean(wanted, names))


def _with_room(invite: Invite, room: str | None) -> Invite:
    """The invite with the room that --room names; both may name it, if it is the same."""
    if room is None:
        return invite if invite.room else Invite(invite.server, DEFAULT_ROOM, invite.origin)
    wanted = canonical_room_name(room)
    if invite.room and invite.room != wanted:
        raise Usage(reason=f"the invite is to {invite.room!r}, and --room says {wanted!r}")
    return Invite(invite.server, wanted, invite.origin)


def _place_of(vault: Vault, invite: Invite) -> Place:
    return Place(invite, same_place(vault, invite))


def own_profile() -> Profile:
    """The profile of whoever runs this, with the keys that the system's keyring holds for it."""
    return Profile(home(), Keeper(config_for().keyring_s, say))


def open_room(room: str, access: Access, *, only_known: bool = False) -> Opened:
    """For commands whose ROOM is a name known here or an invite.

    `only_known`: a room that is not is no use, though it may be one of the server in this profile.
    Raises what find_place and Profile.open raise, and UnknownRoom.
    """
    profile = own_profile()
    invite = room if is_invite(room) else None
    wanted = parse_invite(room).room or DEFAULT_ROOM if invite else canonical_room_name(room)
    has_server = not only_known and announced(home() / "broker") is not None
    if only_known or invite is None:
        _check_known(profile, wanted, has_server=has_server, new=access.new)
    member = profile.choose_member(access.name, config_for().name, wanted)
    vault = vault_of(profile, member)
    if only_known or (invite is None and not has_server):
        known_here(vault, wanted)
    place = find_place(vault, None if invite else wanted, invite, None)
    if only_known and place.known is None:  # a room of that name, at another server
        raise UnknownRoom(room=wanted, meant="")
    return open_place(profile, vault, member, place, access)


def _check_known(profile: Profile, wanted: str, *, has_server: bool, new: bool = False) -> None:
    """Before a mistyped name makes a member or asks for a passphrase. Raises UnknownRoom."""
    names = profile.all_rooms()
    if wanted in names:
        return
    meant = did_you_mean(wanted, names)
    if not has_server:
        raise UnknownRoom(room=wanted, meant=meant)
    if meant or not new:
        say(f"No room {wanted!r} is known here yet. {meant}It is looked for at your own server.")


class Known(NamedTuple):
    """A room known here, and who of this profile knows it."""

    profile: Profile
    member: str
    vault: Vault
    room: KnownRoom


def known_room(room: str, name: str | None) -> Known:
    """For commands that need no key. Raises UnknownRoom."""
    profile, wanted = own_profile(), canonical_room_name(room)
    _check_known(profile, wanted, has_server=False)
    member = profile.choose_member(name, config_for().name, wanted)
    vault = vault_of(profile, member)
    return Known(profile, member, vault, known_here(vault, wanted))


def open_place(profile: Profile, vault: Vault, member: str, place: Place, access: Access) -> Opened:
    """The keys of a room, remembered or from its passphrase."""
    opened = profile.open(
        vault,
        member,
        place,
        lambda: read_passphrase(access, place.invite.room),
        new=access.new,
        remember=access.remember,
        use_remembered=not (access.new or access.names_passphrase),
    )
    click.get_current_context().call_on_close(lambda: profile.tidy(opened))
    return opened
