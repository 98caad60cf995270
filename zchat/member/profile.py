"""Who of this profile speaks in which room: members, their vaults, the keys of a room.

Rules of this file: no prompt and no network. A passphrase comes in as text and leaves as a room's
keys; whether they are the known room's is told from the vault alone.
"""

import getpass
from pathlib import Path
from typing import NamedTuple

from zchat.errors import UnknownRoom, WrongPassphrase
from zchat.files import private_folder, take_lock
from zchat.member.invite import Invite
from zchat.member.vault import KnownRoom, Vault, member_folder, member_names
from zchat.protocol.body import canonical_name
from zchat.protocol.keys import RoomKeys, derive_root
from zchat.protocol.words import canonical_passphrase, canonical_room_name


class Place(NamedTuple):
    """A room to go to: as a member knows it already, or by an invite."""

    invite: Invite
    known: KnownRoom | None


class Profile:
    """One person's files on this machine, for any number of members."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def members(self) -> list[str]:
        """The names of the members made here."""
        return member_names(self.home)

    def vault(self, name: str) -> Vault:
        """The vault of a member (canonical name), made on first use."""
        return Vault(member_folder(self.home, name))

    def choose_member(self, named: str | None, default: str, room: str) -> str:
        """The member meant: the one named, else the last used in that room, else the default."""
        if named is not None:
            return canonical_name(named)
        used = [
            (known.used_ms, member)
            for member in self.members()
            for known in self._rooms_of(member)
            if known.record.room == room
        ]
        return max(used)[1] if used else canonical_name(default or _user_name())

    def _rooms_of(self, member: str) -> list[KnownRoom]:
        vault = self.vault(member)
        try:
            return vault.rooms()
        finally:
            vault.close()

    def derive(self, passphrase: str, invite: Invite) -> RoomKeys:
        """The keys of a room from its passphrase: half a second, 256 MiB, one at a time.

        Raises BadPassphrase.
        """
        canonical = canonical_passphrase(passphrase)
        private_folder(self.home)
        with take_lock(self.home / "argon2id", wait=True):
            return RoomKeys(derive_root(canonical, invite.origin.salt(invite.room)))


def find_room(vault: Vault, room: str, address: str | None = None) -> KnownRoom | None:
    """The room of this (typed) name that a member used last, at the given address if one is."""
    name = canonical_room_name(room)
    for known in vault.rooms():
        if known.record.room == name and address in (None, known.record.server.address):
            return known
    return None


def known_here(vault: Vault, room: str) -> KnownRoom:
    """As find_room. Raises UnknownRoom."""
    known = find_room(vault, room)
    if known is None:
        raise UnknownRoom(room=room)
    return known


def same_place(vault: Vault, invite: Invite) -> KnownRoom | None:
    """The room of this name and origin that the vault knows, used last."""
    for known in vault.rooms():
        if (known.record.room, known.record.origin) == (invite.room, invite.origin):
            return known
    return None


def check_is_known(vault: Vault, keys: RoomKeys, invite: Invite) -> None:
    """Raises WrongPassphrase where the vault knows this room under another tag."""
    if vault.room(keys.tag) is None and same_place(vault, invite) is not None:
        raise WrongPassphrase(room=invite.room)


def _user_name() -> str:
    try:
        return getpass.getuser()[:32]
    except (OSError, KeyError, ImportError):
        return "me"
