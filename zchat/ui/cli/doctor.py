"""`zchat doctor`: what is wrong with a profile or a store, and how to mend it."""

import os
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click

from zchat.broker.folder import is_running, log_path
from zchat.config import MemberConfig, home, problems
from zchat.database import Access
from zchat.errors import (
    BadConfig,
    Exit,
    KeyringTrouble,
    StoreEmpty,
    StoreFull,
    StoreOlder,
    StoreUnreadable,
    ZchatError,
)
from zchat.files import storage_errors
from zchat.log.ends import lost
from zchat.log.sound import damages
from zchat.log.sqlite import SqliteLog
from zchat.member.keeper import Keeper
from zchat.member.profile import Profile
from zchat.member.vault import RoomRecord, Vault
from zchat.ui.cli.access import own_profile
from zchat.ui.cli.common import data, json_option, say, vault_of
from zchat.ui.safe import safe_json, safe_line
from zchat.ui.show import JSON_VERSION

_LITTLE_SPACE_BYTES = 64 * 1024 * 1024
_MOST_SHOWN = 5


class Finding(NamedTuple):
    """What was looked at, and what is wrong with it (empty: nothing)."""

    subject: str
    wrong: str = ""
    remedy: str = ""


class Patience:
    """A line that counts seconds while a large store is looked through, where somebody can see."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._began = time.monotonic()
        self.told_s = 0

    def step(self) -> None:
        """It goes on."""
        took_s = int(time.monotonic() - self._began)
        if took_s > self.told_s and sys.stderr.isatty():
            self.told_s = took_s
            line = f"\rLooking through {safe_line(str(self._path))}: {took_s} s"
            click.echo(line, err=True, nl=False)

    def end(self) -> None:
        """The line, if there was one, is complete."""
        if self.told_s:
            click.echo("", err=True)


@click.command()
@json_option
def doctor(*, as_json: bool) -> int:
    """Look for what is wrong with this profile and its server's store.

    Says how to mend it. Changes nothing, also beside a running server. Ends with 1 if something is
    wrong.

    \b
        zchat doctor
    """
    sick = False
    for finding in _examine(home()):
        sick = sick or bool(finding.wrong)
        if as_json:
            wrong, remedy = finding.wrong or None, finding.remedy or None
            fields = {"subject": finding.subject, "wrong": wrong, "remedy": remedy}
            data(safe_json({"v": JSON_VERSION, **fields}))
            continue
        data(f"{'!!' if finding.wrong else 'ok'}  {finding.subject}")
        if finding.wrong:
            data(f"      {finding.wrong}")
            data(f"      {finding.remedy}")
    return Exit.FIXABLE if sick else Exit.OK


def _examine(folder: Path) -> Iterator[Finding]:
    if not folder.exists():
        yield Finding(f"the profile {folder} does not exist yet; nothing to look at")
        return
    if not folder.is_dir():
        remedy = "Name a folder with ZCHAT_HOME, or leave it out."
        yield Finding(f"the profile {folder}", "It is no folder.", remedy)
        return
    yield _space(folder)
    yield from _settings()
    yield from _readable_by_others(folder)
    yield from _or_why_not("server's store", folder / "broker", _server(folder / "broker"))
    yield from _or_why_not("members", folder / "members", _members(_profile(folder)))


def _or_why_not(subject: str, where: Path, findings: Iterator[Finding]) -> Iterator[Finding]:
    """What is found, up to where nobody may look."""
    try:
        with storage_errors(where):
            yield from findings
    except ZchatError as error:
        yield Finding(subject, error.sentence, error.advice)


def _members(profile: Profile) -> Iterator[Finding]:
    for member in profile.members():
        try:
            vault = vault_of(profile, member)
        except ZchatError as error:
            yield Finding(f"vault of {member}", error.sentence, error.advice)
            continue
        yield from _rooms(profile, vault, member)


def _profile(folder: Path) -> Profile:
    """Also where the settings cannot be read, which is told apart."""
    try:
        return own_profile()
    except BadConfig:
        return Profile(folder, Keeper(MemberConfig().keyring_s, say))


def _settings() -> Iterator[Finding]:
    subject = "settings, in files and the environment"
    wrong = [error for errors in problems(os.environ).values() for error in errors]
    if not wrong:
        yield Finding(subject)
    for error in wrong:
        yield Finding(subject, error.sentence, f"{error.advice} zchat config check looks again.")


def _space(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    subject = f"disk of {folder}: {free // 1024 // 1024:,} MiB free"
    if free >= _LITTLE_SPACE_BYTES:
        return Finding(subject)
    return Finding(subject, "That is little: messages may not be kept.", "Make room on the disk.")


def _readable_by_others(folder: Path) -> Iterator[Finding]:
    """Secrets belong to their owner alone."""
    secrets = [*folder.glob("broker/keys"), *folder.glob("members/*/vault.key")]
    secrets[:0] = [folder] if secrets else []  # else it is not ours to say who may read it
    open_ones = [path for path in secrets if stat.S_IMODE(path.stat().st_mode) & 0o077]
    subject = "secrets are readable by their owner only"
    if not open_ones:
        yield Finding(subject)
    for path in open_ones:
        yield Finding(subject, f"{path} can be read by others.", f"chmod go= '{path}'")


def _server(folder: Path) -> Iterator[Finding]:
    path = log_path(folder)
    if not path.exists():
        if (folder / "keys").exists() and any(folder.glob("log*")):
            yield Finding(
                f"server's store {path}",
                "It is gone, and this server has had one: started now, it would begin empty.",
                "Put a backup in its place: zchat broker restore FILE",
            )
        return
    state = "running" if is_running(folder) else "not running"
    subject = f"server's store {path} ({state})"
    try:
        missing = lost(path)
    except ZchatError:
        missing = []  # what is read next says why
    if missing:
        named = ", ".join(map(str, missing[:_MOST_SHOWN]))
        yield Finding(
            f"{subject}: all that was confirmed is there",
            f"It lacks {named}.",
            "zchat broker restore FILE, or zchat broker --accept-loss",
        )
    yield from _log(subject, path, "zchat broker restore FILE")


def _remedy_of(error: ZchatError, remedy: str) -> str:
    """What a store needs that cannot be read: a full disk is no damage."""
    return error.advice if isinstance(error, StoreFull) else remedy


def _log(subject: str, path: Path, remedy: str) -> Iterator[Finding]:
    try:
        log = SqliteLog(path, Access.READ_ONLY)
    except StoreEmpty:
        yield Finding(f"{subject}: empty")
        return
    except StoreOlder as error:
        yield Finding(f"{subject}: of an older version. {error.advice}")
        return
    except ZchatError as error:
        yield Finding(subject, error.sentence, _remedy_of(error, remedy))
        return
    patience = Patience(path)
    try:
        in_file = log.wrong_in(step=patience.step)
        rooms = list(log.rooms())
        wrong = [f"the file: {in_file}"] * bool(in_file)
        wrong += [each for room in rooms for each in _wrong_in_room(log, room, patience)]
    except ZchatError as error:
        wrong, remedy = [error.sentence], _remedy_of(error, remedy)
        rooms = []
    finally:
        log.close()
        patience.end()
    more = f", and {len(wrong) - _MOST_SHOWN} more" if len(wrong) > _MOST_SHOWN else ""
    subject = f"{subject}: {len(rooms)} room(s), every page, every id and the chain"
    yield Finding(subject, "; ".join(wrong[:_MOST_SHOWN]) + more, remedy)


def _wrong_in_room(log: SqliteLog, room: bytes, patience: Patience) -> Iterator[str]:
    named = f"room {room.hex()[:8]}"
    try:
        for damage in damages(log, room, patience.step):
            yield f"{named} #{damage.n}: {damage.what}"
    except StoreUnreadable as error:
        yield f"{named}: {error.facts['reason']}"


def _rooms(profile: Profile, vault: Vault, member: str) -> Iterator[Finding]:
    for known in vault.rooms():
        record = known.record
        subject = f"{record.room} at {record.server.address} as {member}"
        yield from _key(profile, subject, record)
        path = vault.replica_path(known.tag)
        if path.exists():
            anew = f"Move {path} away: it is read anew from the server."
            yield from _log(f"{subject}: replica", path, anew)
        if record.fault:
            way_on = f"zchat rejoin {record.room} shows the way on."
            yield Finding(subject, f"The server contradicted itself: {record.fault}.", way_on)
        waiting = vault.waiting(known.tag)
        if waiting:
            told = f"{waiting} message(s) not in the log yet; the next join sends them"
            yield Finding(f"{subject}: {told}")


def _key(profile: Profile, subject: str, record: RoomRecord) -> Iterator[Finding]:
    """Where the room's key is kept, if it is, and whether it can be had."""
    if record.root:
        yield Finding(f"{subject}: its key lies in this profile")
    elif record.handle:
        try:
            profile.keeper.find(record)
            wrong = ""
        except KeyringTrouble as trouble:
            wrong = trouble.sentence
        anew = f"Unlock it, or keep the key anew: zchat tail {record.room} --remember"
        yield Finding(f"{subject}: its key opens with the OS keyring", wrong, anew)
