"""`zchat join` and `zchat start`: to be in a room."""

import functools
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import click

from zchat.broker.folder import announced, is_running, log_path
from zchat.config import DEFAULT_PORT, BrokerConfig, home, load
from zchat.errors import CannotListen, Exit, StoreBusy
from zchat.files import private_folder
from zchat.member.invite import Invite, parse_invite
from zchat.member.profile import Opened, Place, same_place
from zchat.member.room import Room
from zchat.member.rows import Glimpse
from zchat.protocol.words import canonical_room_name, generate_passphrase
from zchat.ui.cli.access import (
    DEFAULT_ROOM,
    Access,
    access_options,
    find_place,
    is_invite,
    open_place,
    own_profile,
    passphrase_source,
)
from zchat.ui.cli.common import (
    color_option,
    config_for,
    has_terminal,
    is_interactive,
    note,
    note_whole,
    run,
    say,
    screen,
    show_progress,
    timeout_option,
    vault_of,
    wants_colours,
)
from zchat.ui.cli.serve import checked_listen, default_address
from zchat.ui.cli.shells import complete_rooms
from zchat.ui.plain import PlainChat
from zchat.ui.safe import safe_line
from zchat.ui.visit import History, Visit


class _Terms(NamedTuple):
    """How a stay in a room goes."""

    history: int | None
    timeout: float | None
    weak_passphrase: bool


def chat_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of a stay in a room; the command gets them as `terms` and `access`."""

    @functools.wraps(command)
    def gathered(**options: Any) -> Any:
        options.pop("line")
        terms = _Terms(*(options.pop(field) for field in _Terms._fields))
        return command(terms=terms, **options)

    for option in (
        timeout_option("How long to wait at the end (30)."),
        click.option(
            "--history",
            type=click.IntRange(0, 100_000),
            metavar="N",
            help="Messages to show first (1,000).",
        ),
        click.option(
            "--weak-passphrase", is_flag=True, help="Accept a new room that is cheap to break."
        ),
        click.option("--line", is_flag=True, help="Line mode (there is no other yet)."),
        color_option,
    ):
        gathered = option(gathered)
    return access_options(gathered)


@click.command()
@click.argument("invite", required=False, shell_complete=complete_rooms)
@click.option("--server", metavar="HOST:PORT", help="Which server, where several are known.")
@click.option(
    "--room",
    metavar="ROOM",
    shell_complete=complete_rooms,
    help="Which room. Default: the invite's, else lobby.",
)
@chat_options
def join(
    invite: str | None, server: str | None, room: str | None, access: Access, terms: _Terms
) -> int:
    """Join a room and chat.

    INVITE is the line somebody gave you. On the server's own machine none is needed.

    \b
        zchat join zchat://192.168.1.5:5577/lobby#Ac-weLk1... --name bob
        zchat join --room ops
    """
    if invite is not None and not is_invite(invite):
        invite, room = None, room or invite
    profile = own_profile()
    wanted = canonical_room_name(room) if room else _room_of(invite)
    member = profile.choose_member(access.name, config_for().name, wanted)
    vault = vault_of(profile, member)
    place = find_place(vault, room, invite, server)
    opened = open_place(profile, vault, member, place, access)
    return run(_stay(opened, terms, is_meant=access.new))


def _room_of(invite: str | None) -> str:
    return (parse_invite(invite).room if invite else "") or DEFAULT_ROOM


async def _stay(
    opened: Opened,
    terms: _Terms,
    *,
    made_here: bool = False,
    is_meant: bool = False,
    to_stay: str = "",
) -> int:
    """Arrive, settle in, chat in the face that fits the terminal."""
    config = config_for(history=terms.history, timeout_s=terms.timeout)
    async with Visit(opened, config) as visit:
        history = History(config.history)
        if is_interactive():
            glimpser = _Glimpser(history)
            await visit.arrive(history, show_progress, glimpser.show)
            glimpser.settle(visit.room)
        else:
            await visit.arrive(history, show_progress)
        if visit.is_new_here and visit.room.checked.n == 0 and not made_here:
            say(
                f"Nobody has spoken in {opened.record.room!r} here: "
                "a new room, or another passphrase than the others'. If somebody should be here, "
                "leave, and join again with the right words."
            )
        visit.settle_in(
            may_be_empty=True, may_be_weak=terms.weak_passphrase, is_meant=is_meant or made_here
        )
        visit.client.beat(visit.room.tag)
        if is_interactive():
            from zchat.ui.line import LineChat

            code: int = await LineChat(visit, colours=wants_colours()).run(history)
        else:
            if has_terminal():
                where = f"{opened.record.name} in {opened.record.room} at {visit.address}"
                say(f"-- You are {where}. Each line is sent as it stands; Ctrl-D leaves.")
            plain = PlainChat(visit, screen(is_plain=True), note)
            for row in history:
                plain.show(row)
            code = await plain.run(0, config.timeout_s)
        if to_stay:
            _tell_who_stays(visit, to_stay)
    return code


class _Glimpser:
    """Shows the last screen of a long room while the rest is being checked."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._screen = screen()
        self._shown: Glimpse | None = None

    def show(self, glimpse: Glimpse) -> None:
        """The newest messages, once."""
        if self._shown or not glimpse.messages:
            return
        self._shown = glimpse
        for message in glimpse.messages:
            self._screen.message_rows(message)
        say(f"-- the newest of {glimpse.n:,} messages; the ones before are being checked ...")

    def settle(self, room: Room) -> None:
        """What was shown need not be shown again, if the checked log holds it."""
        if self._shown is None:
            return
        if room.fault or not room.bears_out(self._shown):
            say("!! what stands above was never checked; what the checked history holds follows")
            return
        self._history.drop_shown(self._shown.n)
        n = room.checked.n
        say(f"-- checked: #1-#{n:,} are one signed history, and what is above belongs to it")


# ---- start ----


@click.command()
@click.option("--room", metavar="ROOM", default=DEFAULT_ROOM, help="The room's name (lobby).")
@click.option("--listen", metavar="HOST:PORT", help="Where the server listens.")
@click.option("--advertise", metavar="HOST:PORT", help="The address that stands in the invite.")
@chat_options
def start(
    room: str, listen: str | None, advertise: str | None, access: Access, terms: _Terms
) -> int:
    """Start a server, a room with a fresh passphrase, and chat.

    The server ends with the chat; `zchat broker` is one that stays.

    \b
        zchat start --name alice
        zchat start --room ops --remember
    """
    profile = own_profile()
    wanted = canonical_room_name(room)
    member = profile.choose_member(access.name, config_for().name, wanted)
    vault = vault_of(profile, member)
    with _server(listen, advertise) as (stem, to_stay):
        invite = Invite(stem.server, wanted, stem.origin)
        known = same_place(vault, invite)
        place = Place(invite, known)
        makes_one = (known is None or access.new) and passphrase_source(access, wanted) is None
        if makes_one:
            fresh = generate_passphrase(secrets.randbelow)
            opened = profile.open(
                vault,
                member,
                place,
                lambda: fresh,
                new=True,
                remember=access.remember,
                use_remembered=False,
            )
        else:
            fresh = ""
            opened = open_place(profile, vault, member, place, access)
        note_whole(f"  On the other computer:  zchat join {invite}")
        if fresh:
            say("  Passphrase (say it, do not send it with the line):")
            say(f"    {fresh}")
        return run(_stay(opened, terms, made_here=makes_one, to_stay=to_stay))


def _tell_who_stays(visit: Visit, to_stay: str) -> None:
    """The server ends with us: tell whom it leaves alone, and the command that goes on."""
    here = visit.room.presence.here(visit.clock.now())
    if here:
        others = "1 other is" if len(here) == 1 else f"{len(here)} others are"
        note_whole(safe_line(f"{others} still here. To go on without you: {to_stay}"))


@contextmanager
def _server(listen: str | None, advertise: str | None) -> Iterator[tuple[Invite, str]]:
    """The invite stem of this profile's server; one of our own if none runs, until we leave.

    With it comes the command that would keep it running, empty where it runs already.
    """
    folder = private_folder(home() / "broker")
    if is_running(folder):
        running = announced(folder)
        if running is None:
            raise StoreBusy(path=log_path(folder))
        say("A server of this profile is running already; using it.")
        yield parse_invite(running), ""
        return
    process, stem = _spawn(folder, listen, advertise)
    say(f"Server at {stem.server.address}.")
    try:
        yield stem, _command(stem, listen, advertise)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait()


def _command(stem: Invite, listen: str | None, advertise: str | None) -> str:
    """What starts the same server again."""
    if advertise:
        return f"zchat broker --listen {listen or default_address()} --advertise {advertise}"
    return f"zchat broker --listen {stem.server.address}"


def _spawn(
    folder: Path, listen: str | None, advertise: str | None
) -> tuple[subprocess.Popen[bytes], Invite]:
    """A broker that ends when we do: at the end of its stdin. Port 5577, else a free one.

    Raises CannotListen; and BadAddress, BadConfig as that broker would, which nobody would see.
    """
    flags = {"listen": listen, "advertise": advertise}
    checked_listen(load(BrokerConfig, None, flags, os.environ)[0])
    host = default_address()
    tries = [listen] if listen else [f"{host}:{DEFAULT_PORT}", f"{host}:0"]
    for address in tries:
        command = [sys.executable, "-m", "zchat", "broker", "--until-eof", "--listen", address]
        command += ["--advertise", advertise] if advertise else []
        with (folder / "start.log").open("wb") as log:
            process = subprocess.Popen(  # noqa: S603  our own program
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        assert process.stdout is not None
        line = process.stdout.readline().decode().strip()
        if line:
            return process, parse_invite(line)
        if process.wait() != Exit.NETWORK:
            break
    reason = (folder / "start.log").read_text("utf-8", "replace").strip() or "the server ended"
    raise CannotListen(address=tries[-1], reason=reason)
