"""`zchat profile`: keep elsewhere who one is, and be it again."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from zchat.errors import (
    BadBackup,
    BadPassphrase,
    Exit,
    Malformed,
    NeedsBackupPassphrase,
    NoMatch,
    NotItsPassphrase,
    Unopenable,
    WeakBackup,
)
from zchat.member.backup import Backup, check_is_free, restore, take
from zchat.member.profile import Profile
from zchat.member.strength import ENOUGH_BITS, bits, price
from zchat.protocol.backup import (
    MAX_CONTENT_BYTES,
    MAX_FILE_BYTES,
    open_backup,
    read_header,
    seal_backup,
)
from zchat.protocol.limits import MIB, NONCE_BYTES, TAG_BYTES
from zchat.protocol.words import generate_passphrase, near_misses
from zchat.ui.cli.access import Access, given_source, own_profile, passphrase_options
from zchat.ui.cli.common import NewFile, data, free_path, has_terminal, note_whole, say, writing
from zchat.ui.safe import safe_line

_FILE = click.Path(path_type=Path, dir_okay=False)
_DERIVING = "Deriving the backup's key (Argon2id, 256 MiB) ..."


@click.group()
def profile() -> None:
    """Back up who you are, sealed, and be it again elsewhere.

    \b
        zchat profile export me.zchat
        zchat profile import me.zchat
    """


# ---- export ----


@profile.command("export")
@click.argument("file", type=NewFile())
@click.option("--weak-passphrase", is_flag=True, help="Take one that is cheap to break.")
@click.option("--force", is_flag=True, help="Write over FILE if it is there.")
@passphrase_options(of_room=False)
def export_profile(file: Path, access: Access, *, weak_passphrase: bool, force: bool) -> int:
    """Write a backup of this profile to FILE.

    In it: every member's keys, its rooms with the keys that are remembered, whom you verified or
    muted, what waits in the outbox, proofs against servers, your settings. Not in it: messages,
    which the server has, and the keys and messages of a server of yours (zchat broker backup).

    Whoever has FILE and its passphrase can be you.

    \b
        zchat profile export me.zchat
    """
    path = free_path(file, force=force)
    own = own_profile()
    if not own.members():
        raise NoMatch(reason=f"there is nobody in {own.home} yet, and nothing to back up")
    typed = _chosen(access, may_be_weak=weak_passphrase)
    backup = take(own)
    content = backup.pack()
    if len(content) > MAX_CONTENT_BYTES:
        size, most = len(content) // MIB, MAX_CONTENT_BYTES // MIB
        raise NoMatch(reason=f"this profile is too large for a backup: {size} of {most} MiB")
    say(_DERIVING)
    salt, nonce = os.urandom(TAG_BYTES), os.urandom(NONCE_BYTES)
    sealed = seal_backup(content, own.derive(typed, salt), salt, nonce)
    with writing(path) as opened:
        opened.write(sealed)
    say(f"In {file}, sealed under that passphrase: {_inventory(backup)}.")
    if (own.home / "broker").is_dir():
        say("The server of this profile is not in it: zchat broker backup, and keep broker/keys.")
    return Exit.OK


def _inventory(backup: Backup) -> str:
    members = ", ".join(member.name for member in backup.members)
    rooms = sum(len(member.vault.rooms) for member in backup.members)
    waiting = sum(len(member.vault.outbox) for member in backup.members)
    told = f"{members} with {rooms} room{'' if rooms == 1 else 's'}"
    return f"{told}, and what is not in the log yet ({waiting})" if waiting else told


def _chosen(access: Access, *, may_be_weak: bool) -> str:
    """A passphrase for a new backup: given, typed twice, or made."""
    source = given_source(access)
    typed = source() if source else _ask_twice()
    strength = bits(typed)
    if strength < ENOUGH_BITS and not may_be_weak:
        raise WeakBackup(dollars=price(strength))
    return typed


def _ask_twice() -> str:
    typed = _prompt("Passphrase for the backup (Enter: have one made)")
    if not typed:
        made = generate_passphrase(secrets.randbelow)
        say("Write this down; without it nobody can open the backup, you neither:")
        note_whole(f"  {made}")
        return made
    if _prompt("Once more") != typed:
        raise BadPassphrase(reason="you typed two different ones")
    return typed


def _prompt(question: str) -> str:
    if not has_terminal():
        raise NeedsBackupPassphrase
    typed: str = click.prompt(question, default="", show_default=False, hide_input=True, err=True)
    return typed


# ---- import ----


@profile.command("import")
@click.argument("file", type=_FILE)
@passphrase_options(of_room=False)
def import_profile(file: Path, access: Access) -> int:
    """Be again who is in FILE, in a profile that has nobody yet.

    Messages come from the server when you join. What you say from then on has numbers of its own,
    so nobody sees an alarm. It is for one who lost a profile, not for two devices: each would be
    told that the other speaks with its key.

    \b
        zchat profile import me.zchat
        ZCHAT_HOME=~/second zchat profile import me.zchat --passphrase-file words
    """
    own = own_profile()
    raw = _read(file)
    check_is_free(own)
    backup = _opened(file, raw, own, access)
    with _naming(file):
        takes_settings = restore(own, backup)
    for member in backup.members:
        rooms = ", ".join(room.record.room for room in member.vault.rooms) or "no rooms"
        data(safe_line(f"{member.name}: {rooms}"))
    if backup.settings and not takes_settings:
        say(f"The settings in {own.home} stay as they are; those of the backup were not taken.")
    say(f"Restored in {own.home}.")
    held = [room for member in backup.members for room in member.vault.rooms]
    if held:
        last = max(held, key=lambda room: room.used_ms).record.room
        say(f"Go on with: zchat join --room {last}")
    return Exit.OK


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            raw = opened.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise NoMatch(reason=f"{file} cannot be read: {error.strerror}") from None
    if len(raw) > MAX_FILE_BYTES:
        raise BadBackup(path=file, reason="it is too large")
    return raw


def _opened(file: Path, raw: bytes, own: Profile, access: Access) -> Backup:
    with _naming(file):
        header = read_header(raw)
    source = given_source(access)
    typed = source() if source else _ask(file)
    say(_DERIVING)
    root = own.derive(typed, header.salt)
    try:
        content = open_backup(raw, root)
    except Unopenable as error:
        if error.check == "commitment":
            raise NotItsPassphrase(path=file) from None
        raise BadBackup(path=file, reason="a part of it was changed") from None
    with _naming(file):
        return Backup.unpack(content)


def _ask(file: Path) -> str:
    typed = _prompt(f"Passphrase of {safe_line(str(file))}")
    for part, word in near_misses(typed):
        say(f"  {part!r} is not on the word list; did you mean {word!r}?")
    return typed


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    """What is wrong with a backup leaves as BadBackup."""
    try:
        yield
    except Malformed as error:
        raise BadBackup(path=file, reason=error.facts["reason"]) from None
