"""Commands that answer a question: rooms, members, whoami, invite, verify; and forget."""

import sys
from collections.abc import Callable

import click

from zchat.config import home
from zchat.errors import EmptyRoom, NoMatch, ServerFault, Usage
from zchat.member.profile import Opened, Profile
from zchat.member.room import Room
from zchat.member.rows import MemberView
from zchat.member.vault import RoomRecord
from zchat.ui.cli.access import (
    Access,
    access_options,
    known_room,
    name_option,
    open_room,
    own_profile,
    room_argument,
)
from zchat.ui.cli.common import (
    color_option,
    config_for,
    data,
    has_terminal,
    json_option,
    run,
    say,
    screen,
    show_progress,
    terminal_columns,
    vault_of,
    wants_colours,
)
from zchat.ui.cli.shells import complete_members, complete_speakers
from zchat.ui.commands import check_covered
from zchat.ui.safe import safe_json, safe_line
from zchat.ui.show import JSON_VERSION, clock_time, day, member_fields, member_parts
from zchat.ui.visit import History, Visit


@click.command()
@json_option
def rooms(*, as_json: bool) -> None:
    """List the rooms known here, for all members of this profile.

    \b
        zchat rooms
    """
    profile = Profile(home())
    for member in profile.members():
        vault = vault_of(profile, member)
        for known in vault.rooms():
            record = known.record
            if as_json:
                data(
                    safe_json(
                        {
                            "v": JSON_VERSION,
                            "room": record.room,
                            "member": member,
                            "name": record.name,
                            "server": record.server.address,
                            "tag": known.tag.hex(),
                            "remembered": record.is_remembered,
                            "fault": record.fault,
                        }
                    )
                )
                continue
            used = f"last used {day(known.used_ms)} {clock_time(known.used_ms)}"
            kept = "key remembered" if record.is_remembered else "asks for the passphrase"
            line = f"{record.room} at {record.server.address} as {member}: {kept}, {used}"
            line += f"; SERVER FAULT: {record.fault}" if record.fault else ""
            screen().line(safe_line(line))


@click.command()
@click.option(
    "--name",
    metavar="NAME",
    shell_complete=complete_members,
    help="Which member of this profile (all of them).",
)
@json_option
def whoami(name: str | None, *, as_json: bool) -> None:
    """Show who you are in each room, and where your keys lie.

    \b
        zchat whoami
    """
    profile = own_profile()
    for member in [name] if name else profile.members():
        vault = vault_of(profile, member)
        for known in vault.rooms():
            root = profile.keeper.find_or_tell(known.record)
            key = vault.public_key(root).hex() if root else ""
            if as_json:
                data(
                    safe_json(
                        {
                            "v": JSON_VERSION,
                            "member": member,
                            "room": known.record.room,
                            "name": known.record.name,
                            "key": key or None,
                            "kept": _kept(known.record),
                        }
                    )
                )
            else:
                mark = f"~{key[:4]}, key {key}" if key else " (its key needs the passphrase)"
                place = _PLACES[_kept(known.record)]
                screen().line(safe_line(f"{known.record.room}: {known.record.name}{mark}{place}"))
    say(f"Your keys are in {home()}.")
    say("Who copies this folder can read the rooms whose key lies in it, and speak as you.")


_PLACES = {
    "keyring": "; the room's key opens with the OS keyring",
    "profile": "; the room's key lies in this profile",
    None: "",
}


def _kept(record: RoomRecord) -> str | None:
    """Where the key of a room is kept, if it is."""
    if record.handle:
        return "keyring"
    return "profile" if record.root else None


@click.command()
@room_argument
@name_option
@click.option("--qr", is_flag=True, help="As a QR code, for a camera.")
@json_option
@color_option
def invite(room: str, name: str | None, *, qr: bool, as_json: bool) -> None:
    """Print the invite line of a room. The passphrase travels by another way.

    \b
        zchat invite lobby
        zchat invite lobby --qr
    """
    if qr and as_json:
        raise Usage(reason="--qr and --json do not go together")
    _, member, _, known = known_room(room, name)
    line = str(known.record.invite)
    if qr:
        _show_code(line)
    elif as_json:
        fields = {"v": JSON_VERSION, "room": known.record.room, "member": member, "invite": line}
        data(safe_json(fields))
    else:
        data(line)


def _show_code(line: str) -> None:
    """Raises NoMatch where it would not be a code that a camera can read."""
    from zchat.ui.qr import qr_rows

    colours = wants_colours()
    rows, columns = qr_rows(line, colours=colours), terminal_columns(1)
    width = len(qr_rows(line, colours=False)[0])
    if columns is not None and columns < width:
        raise NoMatch(reason=f"the code is {width} columns wide, and this terminal has {columns}")
    if "█".encode(sys.stdout.encoding, "replace") == b"?":
        raise NoMatch(reason=f"the code needs blocks, and this terminal has {sys.stdout.encoding}")
    for row in rows:
        data(row)
    say("The passphrase is not in it: say it, do not send it along.")


@click.command()
@room_argument
@name_option
@click.option("--yes", is_flag=True, help="Do not ask.")
def forget(room: str, name: str | None, *, yes: bool) -> None:
    """Forget a room: its replica, its key, what waits in its outbox.

    \b
        zchat forget lobby
    """
    profile, _, vault, known = known_room(room, name)
    waiting = vault.waiting(known.tag)
    record = known.record
    question = f"Forget {record.room!r} at {record.server.address}, where you are {record.name}"
    question += f", with {waiting} message(s) not in its log yet?" if waiting else "?"
    if not yes and not has_terminal():
        raise Usage(reason=f"{question} Say --yes")
    if yes or click.confirm(safe_line(question), err=True):
        profile.forget(vault, known)
        say(f"Forgotten: {record.room}, and {record.name} there.")


@click.command()
@room_argument
@json_option
@color_option
@access_options
def members(room: str, access: Access, *, as_json: bool) -> int:
    """List who has spoken in a room.

    \b
        zchat members lobby
    """
    opened = open_room(room, access)
    on = screen()

    def show(visited: Room) -> None:
        for member in visited.members(0.0):
            if as_json:
                data(safe_json(member_fields(opened.record.room, member)))
            else:
                on.line(*member_parts(member), member.key)

    return run(_ask(opened, show, new=access.new))


@click.command()
@room_argument
@click.option("--at", type=int, metavar="N", help="Compare the log up to entry N.")
@click.option("--matches", type=int, metavar="N", help="The words at N were the same,")
@click.option(
    "--with",
    "with_names",
    metavar="NAMES",
    shell_complete=complete_speakers,
    help="as with these: alice,bob.",
)
@json_option
@access_options
def verify(
    room: str,
    at: int | None,
    matches: int | None,
    with_names: str | None,
    access: Access,
    *,
    as_json: bool,
) -> int:
    """Print eight words to compare by voice.

    The same words at the same N mean: the same room, the same log up to N, the same members. Then
    say who compared.

    \b
        zchat verify lobby
        zchat verify lobby --matches 12 --with alice,bob
    """
    if (matches is None) != (with_names is None):
        raise Usage(reason="--matches N and --with NAMES go together")
    opened = open_room(room, access)

    def show(visited: Room) -> None:
        if matches is not None and with_names is not None:
            n = _place(visited, matches)
            verified = _named(visited.members(0.0), with_names)
            for member in verified:
                check_covered(member, n)
            visited.verify([member.key for member in verified], n)
            names = ", ".join(member.name for member in verified)
            say(f"Verified up to #{n}: {names}.")
            return
        n = _place(visited, at)
        words = visited.verification_code(n)
        if as_json:
            fields = {"room": opened.record.room, "n": n, "words": words}
            data(safe_json({"v": JSON_VERSION, **fields}))
            return
        data(" ".join(words))
        say(f"at #{n}; others compare with: zchat verify {opened.record.room} --at {n}")

    return run(_ask(opened, show, new=access.new))


def _place(room: Room, asked: int | None) -> int:
    end = room.checked.n
    if end == 0:
        raise EmptyRoom(room=room.record.room)
    n = end if asked is None else asked
    if not 1 <= n <= end:
        raise NoMatch(reason=f"#{n} is not in the checked log, which ends at #{end}")
    return n


def _named(known: list[MemberView], names: str) -> list[MemberView]:
    """The members of these names. Raises NoMatch for none, and where two share a name."""
    found = []
    for name in names.split(","):
        called = [m for m in known if name.strip() in (m.name, m.shown) and not m.own]
        if len(called) != 1:
            several = ", ".join(member.shown for member in called) or "nobody"
            raise NoMatch(reason=f"{name.strip()!r} must be one member, and is {several}")
        found += called
    return found


async def _ask(opened: Opened, show: Callable[[Room], None], *, new: bool) -> int:
    """Catch up where there is a connection, then answer from what is checked."""
    async with Visit(opened, config_for()) as visit:
        await visit.arrive(History(0), show_progress)
        visit.settle_in(may_be_empty=new, may_be_weak=True)
        if not visit.caught_up and not visit.room.accused:
            say(f"The server at {visit.address} does not answer; this is what is known here.")
        show(visit.room)
        fault = visit.room.accused
    if fault:
        raise ServerFault(text=fault)
    return 0
