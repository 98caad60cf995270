"""A profile's members as one content to keep elsewhere, and back again as a new profile.

Theory of operation. What only this profile has goes in: seeds, access keys, rooms with what was
judged in them, which incarnations were its own, what waits in the outbox, the proofs against
servers, settings. What the server has does not: the log is read anew, and must reach the highest
head that was checked here, so a server that went back meanwhile is found out. Whoever speaks after
that draws new incarnations, as every process does: no number is used twice.

Rules of this file: a profile is restored whole or not at all, and never over another.
"""

import os
import re
import shutil
from contextlib import closing
from pathlib import Path

import msgspec

from zchat.database import Access
from zchat.errors import Malformed, ProfileInTheWay, StoreEmpty
from zchat.files import private_folder, storage_errors, sync_folder, take_lock, write_private
from zchat.log.sqlite import SqliteLog
from zchat.member.profile import Profile
from zchat.member.vault import Contents, HeldRoom, Vault, member_folder

_SETTINGS = "member.toml"
_EVIDENCE_NAME = re.compile(r"[0-9a-f]{8}-\d{1,19}\.json")


class Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One member: its vault, and by name the proofs that its rooms speak of."""

    name: str
    vault: Contents
    evidence: dict[str, bytes]


class Backup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of a profile that only this profile has."""

    members: list[Member]
    settings: bytes  # the file member.toml; empty if there is none

    def pack(self) -> bytes:
        return msgspec.msgpack.encode(self)

    @classmethod
    def unpack(cls, raw: bytes) -> "Backup":
        """Raises Malformed."""
        try:
            return msgspec.msgpack.decode(raw, type=cls)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise Malformed(reason=f"its content is another than expected: {error}") from None


def take(profile: Profile) -> Backup:
    """What a profile has just now, beside whatever runs. Raises StoreTrouble."""
    members = []
    for name in profile.members():
        with closing(profile.vault(name)) as vault:
            contents = vault.contents()
            rooms = [_whole(profile, vault, room) for room in contents.rooms]
            contents = msgspec.structs.replace(contents, rooms=rooms)
        members.append(Member(name, contents, _evidence_of(contents)))
    path = profile.home / _SETTINGS
    with storage_errors(path):
        return Backup(members, path.read_bytes() if path.exists() else b"")


def _whole(profile: Profile, vault: Vault, room: HeldRoom) -> HeldRoom:
    """With its key, wherever that is kept, and the highest head that was seen."""
    root = profile.keeper.find_or_tell(room.record)
    record = msgspec.structs.replace(room.record, root=root, handle="", sealed_root=b"")
    witness = room.witness + _checked_head(vault, room.tag)
    return msgspec.structs.replace(room, record=record, witness=witness)


def _checked_head(vault: Vault, tag: bytes) -> bytes:
    try:
        with closing(SqliteLog(vault.replica_path(tag), Access.READ_ONLY)) as replica:
            tip = replica.tip(tag)
    except StoreEmpty:
        return b""
    return tip.head if tip and tip.n else b""


def _evidence_of(contents: Contents) -> dict[str, bytes]:
    """The proofs that are still there."""
    paths = [Path(room.record.evidence) for room in contents.rooms if room.record.evidence]
    found = {}
    for path in paths:
        with storage_errors(path):
            if path.is_file():
                found[path.name] = path.read_bytes()
    return found


def check_is_free(profile: Profile) -> None:
    """Raises ProfileInTheWay where there are members already."""
    folder = profile.home / "members"
    with storage_errors(folder):
        if folder.exists() and any(folder.iterdir()):
            members = ", ".join(profile.members()) or "a member that cannot be read"
            raise ProfileInTheWay(home=profile.home, members=members)


def restore(profile: Profile, backup: Backup) -> bool:
    """Make the members in a profile that has none; whether its settings are the backup's now.

    Raises ProfileInTheWay, StoreTrouble, Malformed; then nothing is changed.
    """
    home = private_folder(profile.home)
    with take_lock(home / "import"):
        check_is_free(profile)
        for left in home.glob(".import-*"):  # by one that was broken off
            shutil.rmtree(left, ignore_errors=True)
        draft = private_folder(home / f".import-{os.urandom(4).hex()}")
        try:
            for member in backup.members:
                _restore(member, draft, home)
            write_private(draft / _SETTINGS, backup.settings)
            with storage_errors(home):
                takes_settings = bool(backup.settings) and not (home / _SETTINGS).exists()
                (draft / "members").rename(home / "members")
                if takes_settings:
                    (draft / _SETTINGS).rename(home / _SETTINGS)
            sync_folder(home)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return takes_settings


def _restore(member: Member, draft: Path, home: Path) -> None:
    if not member.name:
        raise Malformed(reason="it has a member without a name")
    folder = member_folder(draft, member.name)
    evidence = member_folder(home, member.name) / "evidence"
    rooms = [_at_home(room, member, evidence) for room in member.vault.rooms]
    with closing(Vault(folder)) as vault:
        vault.fill(msgspec.structs.replace(member.vault, rooms=rooms))
    for name, raw in member.evidence.items():
        if not _EVIDENCE_NAME.fullmatch(name):
            raise Malformed(reason="it names a file of evidence as no zchat does")
        write_private(private_folder(folder / "evidence") / name, raw)


def _at_home(room: HeldRoom, member: Member, evidence: Path) -> HeldRoom:
    """Its proof lies elsewhere now."""
    name = Path(room.record.evidence).name
    path = str(evidence / name) if name in member.evidence else ""
    return msgspec.structs.replace(room, record=msgspec.structs.replace(room.record, evidence=path))
