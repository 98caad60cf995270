"""Who of this profile speaks in which room: members, their vaults, the keys of a room.

Rules of this file: no prompt and no network. A passphrase comes in by a function that is called
only if it is needed; whether its keys are the known room's is told from the vault alone.
"""

import getpass
import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from zchat.errors import StoreBusy, UnknownRoom, WrongPassphrase, did_you_mean
from zchat.files import private_folder, take_lock
from zchat.member.invite import Invite
from zchat.member.keeper import Keeper
from zchat.member.strength import bits
from zchat.member.vault import KnownRoom, RoomRecord, Vault, member_folder, member_names
from zchat.protocol.body import canonical_name
from zchat.protocol.keys import RoomKeys, derive_root
from zchat.protocol.limits import MAX_NAME_CHARS
from zchat.protocol.words import canonical_passphrase, canonical_room_name


class Place(NamedTuple):
    """A room to go to by its invite, and what a member knows of it already."""

    invite: Invite
    known: KnownRoom | None


class Opened(NamedTuple):
    """A member, a room and its keys: all that a face needs before it connects.

    `strength_bits` is that of the passphrase, infinite where the key was remembered. `saved` is
    called by whoever saves a room that was not known.
    """

    vault: Vault
    keys: RoomKeys
    record: RoomRecord
    strength_bits: float
    saved: Callable[[], None] = lambda: None


class Profile:
    """One person's files on this machine, for any number of members."""

    def __init__(self, home: Path, keeper: Keeper | None = None) -> None:
        self.home = home
        self.keeper = keeper or Keeper(0, lambda _: None)

    def members(self) -> list[str]:
        """The names of the members made here."""
        return member_names(self.home)

    def vault(self, name: str) -> Vault:
        """The vault of a member (canonical name), made on first use."""
        return Vault(member_folder(self.home, name))

    def choose_member(self, named: str | None, default: str, room: str) -> str:
        """The member meant: named, or used last in that room, or the only one, or the default.

        `room` is a canonical name. Raises BadName.
        """
        if named is not None:
            return canonical_name(named)
        used = [
            (known.used_ms, member)
            for member in self.members()
            for known in self._rooms_of(member)
            if known.record.room == room
        ]
        if used:
            return max(used)[1]
        only = self.members() if not default and len(self.members()) == 1 else []
        return only[0] if only else canonical_name(default or _user_name())

    def _rooms_of(self, member: str) -> list[KnownRoom]:
        vault = self.vault(member)
        try:
            return vault.rooms()
        finally:
            vault.close()

    def room_names(self, member: str) -> list[str]:
        """The rooms a member knows, the last used first."""
        return [known.record.room for known in self._rooms_of(member)]

    def forget(self, vault: Vault, known: KnownRoom) -> None:
        """Forget a room, and what the system's keyring holds for it. Raises StoreBusy."""
        vault.forget_room(known.tag)
        self.keeper.forget(known.record)

    def tidy(self, opened: Opened) -> None:
        """Of a room where nobody settled in, nothing is kept in the system's keyring either."""
        if opened.vault.room(opened.keys.tag) is None:
            self.keeper.forget(opened.record)

    def all_rooms(self) -> set[str]:
        """The rooms that any member knows."""
        return {room for member in self.members() for room in self.room_names(member)}

    def open(
        self,
        vault: Vault,
        member: str,
        place: Place,
        passphrase: Callable[[], str],
        *,
        new: bool,
        remember: bool,
        use_remembered: bool,
    ) -> Opened:
        """The keys of a room: remembered, or derived from its passphrase.

        A room known here is saved with what changed about it; one that is not waits for the face to
        settle in. Raises BadPassphrase, and WrongPassphrase (without any network) where the vault
        knows this room by another passphrase and `new` does not say that this is meant. A room
        where nobody ever spoke is no proof of its passphrase: it gives way to this one.
        """
        invite, known = place
        root = self.keeper.find_or_tell(known.record) if known and use_remembered else b""
        if root:
            keys, strength = RoomKeys(root), float("inf")
        else:
            given = passphrase()
            root = self.derive(given, invite.origin.salt(invite.room))
            keys, strength = RoomKeys(root), bits(given)
            if known is not None and not new and vault.room(keys.tag) is None:
                if not known.record.is_unsure:
                    raise WrongPassphrase(room=invite.room)
                with suppress(StoreBusy):
                    self.forget(vault, known)
        former = vault.room(keys.tag)
        record = former or RoomRecord(invite.room, member, invite.server, invite.origin)
        record = msgspec.structs.replace(record, server=invite.server)
        if remember:
            record = self.keeper.keep(record, keys.root)
        if former is not None and record != former:
            vault.save_room(keys.tag, record)
            vault.scrub()
        if former is not None:
            self.keeper.tell_kept()
        return Opened(vault, keys, record, strength, self.keeper.tell_kept)

    def derive(self, passphrase: str, salt: bytes) -> bytes:
        """Half a second and 256 MiB, one at a time on this profile."""
        canonical = canonical_passphrase(passphrase)
        private_folder(self.home)
        with take_lock(self.home / "argon2id", wait_s=math.inf):
            return derive_root(canonical, salt)

    def remembered(self, tag: bytes) -> RoomRecord | None:
        """What is known of the room with this tag; of several members, who remembers its key."""
        found = None
        for member in self.members():
            for known in self._rooms_of(member):
                if known.tag == tag and (found is None or known.record.is_remembered):
                    found = known.record
        return found


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
        names = [known.record.room for known in vault.rooms()]
        raise UnknownRoom(room=room, meant=did_you_mean(room, names))
    return known


def same_place(vault: Vault, invite: Invite) -> KnownRoom | None:
    """The room of this name and origin that the vault knows, the last used first."""
    for known in vault.rooms():
        if (known.record.room, known.record.origin) == (invite.room, invite.origin):
            return known
    return None


def _user_name() -> str:
    try:
        return getpass.getuser()[:MAX_NAME_CHARS]
    except (OSError, KeyError, ImportError):
        return "me"
