"""One error tree: whose fault it is, what to do next, and the exit code that says so.

Rules of this file: the first paragraph of a class's docstring **is** the sentence a user reads
(fields in braces are filled from the keyword arguments), `hint` is what to do next, `exit_code` is
the process's answer. Code raises these with facts, never with prose. What is not below is our bug.
"""

import difflib
import errno
import inspect
import os
from collections.abc import Iterable
from enum import IntEnum
from typing import ClassVar


class Exit(IntEnum):
    """Exit codes of every command; `zchat --help` prints them."""

    OK = 0
    FIXABLE = 1
    USAGE = 2
    NETWORK = 3
    SERVER_FAULT = 4
    REFUSED = 5
    TIMEOUT = 6
    WRONG_SECRET = 7
    STORAGE = 8
    BUG = 70
    INTERRUPTED = 130
    TERMINATED = 143


def did_you_mean(typed: str, known: Iterable[str]) -> str:
    """A question in front of other advice; empty where nothing known is near."""
    near = difflib.get_close_matches(typed, sorted(known), 1)
    return f"Did you mean {near[0]!r}? " if near else ""


class ZchatError(Exception):
    """Something went wrong."""

    exit_code: ClassVar[Exit] = Exit.FIXABLE
    hint: ClassVar[str] = ""

    def __init__(self, **facts: object) -> None:
        self.facts = facts
        super().__init__(self.sentence)

    @property
    def sentence(self) -> str:
        """The sentence for the user. Its facts are untrusted until a screen made them safe."""
        first_paragraph = (inspect.getdoc(type(self)) or "").split("\n\n")[0]
        return " ".join(first_paragraph.split()).format(**self.facts)

    @property
    def advice(self) -> str:
        """What the user can do next; empty if there is nothing to add."""
        return self.hint.format(**self.facts)


# ---- What the user gave us ----


class BadInput(ZchatError):
    """That input cannot be used."""


class BadName(BadInput):
    """The name {name!r} cannot be used: {reason}."""

    hint = "A name has 1 to 32 characters, none of them a control character."


class BadRoomName(BadInput):
    """The room name {room!r} cannot be used: {reason}."""

    hint = "A room name has 1 to 64 bytes, without spaces or control characters."


class BadPassphrase(BadInput):
    """That passphrase cannot be used: {reason}."""

    hint = "`zchat start` makes a good one."


class WeakPassphrase(BadInput):
    """That passphrase is too weak for a new room: about ${dollars} to break."""

    hint = "Let `zchat start` make one, or say --weak-passphrase if you accept that."


class BadInvite(BadInput):
    """That invite cannot be used: {reason}."""

    hint = "Ask for the line again and paste it whole: zchat://HOST:PORT/ROOM#..."


class BadAddress(BadInvite):
    """That address cannot be used: {reason}."""

    hint = "Like example.net:5577, 192.0.2.1:5577 or [2001:db8::1]:5577; the highest port is 65535."


class BadConfig(BadInput):
    """{path}: {reason}."""

    hint = "See config/ in the project for every setting with its default."


class UnreadableConfig(BadConfig):
    """{path}: {reason}."""

    hint = "Is it there, a file, and may you read it? `ls -ld` says whose it is."


class NoHome(BadInput):
    """It is not known where your files belong: {named} has no home folder here."""

    hint = "Set HOME, or name a folder for them: ZCHAT_HOME=/somewhere/of/yours."


class TextTooLong(BadInput):
    """The message has {size} bytes; the most is {most}. It was not sent."""

    hint = "Split it, or send it line by line with `zchat send ROOM -`."


class LineTooLong(TextTooLong):
    """The message has {size} bytes; the most is {most}. It was not sent."""

    hint = "Split it and send it again."


class NotUtf8(BadInput):
    """Not UTF-8, and not sent: {what}."""

    hint = "Convert it and send it again: `iconv -f LATIN1 -t UTF-8 FILE | zchat send ROOM`."


class NothingToSay(BadInput):
    """There is nothing to send."""

    hint = "Give a text, or pipe one in: `make 2>&1 | zchat send ROOM`."


class ProfileInTheWay(BadInput):
    """There is a profile in {home} already, of {members}. Nothing was changed."""

    hint = "Name another folder for this one: ZCHAT_HOME=FOLDER zchat profile import FILE."


class UnknownRoom(BadInput):
    """No room {room!r} is known here."""

    hint = "{meant}Join it first: `zchat join INVITE`. `zchat rooms` lists what is known."


class NoServerKnown(BadInput):
    """It is not known which server to go to."""

    hint = "{meant}Give an invite (zchat join zchat://...), or start a server: `zchat broker`."


class NoMatch(BadInput):
    """{reason}."""


class NoTopic(BadInput):
    """There is no topic {topic!r}."""

    hint = "{meant}There are {topics}."


class BadPattern(BadInput):
    """The pattern {pattern!r} cannot be used: {reason}."""

    hint = "Without --regex, words are looked for as they are typed."


class CommandTooSlow(BadInput):
    """More comes in than {command!r} keeps up with: {count} things wait behind #{n}."""

    hint = "Let it do its work in the background; go on with: zchat tail ROOM -f --after {n} ..."


class FileInTheWay(BadInput):
    """{path} is there already."""

    hint = "Say --force to write over it, or give it another name."


class NoFolder(BadInput):
    """{path} cannot be written: {reason}."""

    hint = "Make that folder first, or give the file another place."


class Usage(BadInput):
    """{reason}."""

    exit_code = Exit.USAGE


class NeedsTerminal(Usage):
    """The passphrase cannot be asked for: there is no terminal."""

    hint = (
        "Use --passphrase-file FILE, --passphrase-fd N or ZCHAT_PASSPHRASE_FILE=FILE; or keep the "
        "room's key here, once, from a terminal: `zchat join --room ROOM --remember`."
    )


class TextsUnchecked(Usage):
    """What is said in {path} was not checked: that needs the passphrase of {room!r}."""

    hint = "Use --passphrase-file FILE or --passphrase-fd N, or a profile that remembers the room."


# ---- The network and this machine ----


class NetworkTrouble(ZchatError):
    """The network failed."""

    exit_code = Exit.NETWORK


class Unreachable(NetworkTrouble):
    """The server at {address} does not answer."""

    hint = "Is it running (`zchat broker --listen {address}`)? Is a firewall between?"


class NotStored(NetworkTrouble):
    """{count} message(s) not confirmed by the server at {address}; kept in the outbox ({ids})."""

    hint = "They go out with the next `zchat send` or `zchat join`; do not send them again."


class NoAnswer(ZchatError):
    """The server at {address} did not confirm within {seconds} s.
    {count} message(s) kept in the outbox ({ids}).
    """

    exit_code = Exit.TIMEOUT
    hint = "They go out with the next `zchat send` or `zchat join`; do not send them again."


class FellSilent(ZchatError):
    """The server at {address} is there, and said nothing of this room for {seconds} s."""

    exit_code = Exit.TIMEOUT
    hint = "Try again; if that stays so, ask whoever runs it."


class NotSeen(ZchatError):
    """Stored as #{n}, and nobody else's program has shown within {seconds} s to have it: {whom}."""

    exit_code = Exit.TIMEOUT
    hint = "Do not send it again: the server has it, and whoever comes gets it."


class Incompatible(NetworkTrouble):
    """The server at {address} speaks another version of the protocol; server says: {text}."""

    hint = "Update zchat, here or there."


class CannotListen(NetworkTrouble):
    """Cannot listen on {address}: {reason}."""

    hint = (
        "Is another server running there, or is the address not one of this machine? "
        "--listen HOST:0 takes a free port."
    )


class Refused(ZchatError):
    """The server at {address} refuses ({code}; server says: {text!r}).
    {count} message(s) kept in the outbox ({ids}).
    """

    exit_code = Exit.REFUSED
    hint = "They go out with the next `zchat send` or `zchat join`, once it takes them."


_NOT_YOURS = "May you read and write there? `ls -ld` says whose it is."
_NO_FOLDER = "A file is there, and a folder belongs in its place. Is it the path you mean?"

# What to do where the disk itself is well, by what the system or SQLite says.
_OF_PATHS = {
    os.strerror(errno.EACCES): _NOT_YOURS,
    os.strerror(errno.EPERM): _NOT_YOURS,
    "(SQLITE_CANTOPEN": _NOT_YOURS,
    os.strerror(errno.EEXIST): _NO_FOLDER,
    os.strerror(errno.ENOTDIR): _NO_FOLDER,
    os.strerror(errno.EISDIR): "A folder is there, and a file belongs in its place: move it away.",
    os.strerror(errno.ENOENT): "A folder on the way to it is missing. Is it the path you mean?",
    os.strerror(errno.ENAMETOOLONG): "Give it a place with a shorter path.",
    os.strerror(errno.ELOOP): "Links on the way to it lead in a circle. Is it the path you mean?",
    os.strerror(errno.EMFILE): "Let it open more files: `ulimit -n` says how many.",
    "(SQLITE_BUSY": "Another program has it open; end that one first.",
}


class StoreTrouble(ZchatError):
    """The store {path} failed: {reason}."""

    exit_code = Exit.NETWORK
    hint = "Is the disk full or read-only? Nothing that was confirmed is lost."

    @property
    def advice(self) -> str:
        """By the reason, where no kind of trouble of its own stands for it."""
        if self.hint == StoreTrouble.hint:
            for said, advice in _OF_PATHS.items():
                if said in str(self.facts["reason"]):
                    return advice
        return super().advice


class StoreFailed(StoreTrouble):
    """The store {path} failed: {reason}. The server stops: who goes on could confirm in vain."""

    exit_code = Exit.STORAGE
    hint = "Look at the disk (dmesg), then start it again: it reads anew what the disk holds."


class CannotWrite(StoreTrouble):
    """{path} cannot be written: {reason}."""

    hint = "Is the folder yours, and not read-only? Give it another place."


class BackupInTheWay(StoreTrouble):
    """{path} is there already, and a backup replaces nothing."""

    hint = "Give it another name, or move that one away."


class StoreFull(StoreTrouble):
    """No space to write {path}: {reason}."""

    hint = "Make room on the disk; what was confirmed is kept."


class StoreBusy(StoreTrouble):
    """{path} is in use by another process."""

    hint = "One process at a time; end the other one first."


class StoreEmpty(StoreTrouble):
    """{path} holds nothing yet."""

    hint = "Is it the folder you mean? ZCHAT_HOME names it."


class StoreGone(StoreTrouble):
    """The store {path} is gone, and this server has had one; started now, it would begin empty."""

    hint = "Put a backup in its place (zchat broker restore FILE), or say --new-store."


class StoreUnreadable(StoreTrouble):
    """{path} cannot be read as a zchat store: {reason}."""

    exit_code = Exit.WRONG_SECRET
    hint = "Was it damaged or written by another version? Keep a copy before you do anything."


class StoreOlder(StoreUnreadable):
    """{path} has schema {version}, and this program reads {newer}; nobody has written it since."""

    hint = "The next `zchat broker` or `zchat join` brings it up to date, and keeps a copy."


class RoomDamaged(StoreUnreadable):
    """The store {path} is damaged in room {shown}, at message {n}: {reason}. The room is closed."""

    exit_code = Exit.STORAGE
    hint = "The others go on. `zchat doctor` looks at all; `zchat broker restore FILE` mends it."

    def __init__(self, room: bytes, n: int, **facts: object) -> None:
        self.room = room
        super().__init__(shown=room.hex()[:8], n=n, **facts)


class StoreDamaged(StoreUnreadable):
    """The store {path} is damaged in what all rooms share: {reason}. The server stops."""

    exit_code = Exit.STORAGE
    hint = "`zchat doctor` looks at all of it; `zchat broker restore FILE` puts a backup in place."


class StoreShortened(StoreUnreadable):
    """The store {path} lacks what was confirmed to members: {reason}. Nothing was changed."""

    exit_code = Exit.STORAGE
    hint = (
        "Put a backup in its place (zchat broker restore FILE), or go on with what is left, which "
        "members are told: zchat broker --accept-loss."
    )


# ---- Secrets ----


class WrongPassphrase(ZchatError):
    """Not the passphrase of {room!r}: it leads to another room than the one known here."""

    exit_code = Exit.WRONG_SECRET
    hint = (
        "Check the words. If those you came with the first time were wrong, or for another room "
        "of that name on this server, say --new."
    )


class EmptyRoom(ZchatError):
    """Wrong passphrase, or nobody has spoken in {room!r} yet."""

    exit_code = Exit.WRONG_SECRET
    hint = "Check the words. If an empty room is what you mean, say --new."


class NotItsPassphrase(ZchatError):
    """Not the passphrase of {path}."""

    exit_code = Exit.WRONG_SECRET
    hint = "Check the words; a changed byte at the beginning of the file would look the same."


class KeyringTrouble(ZchatError):
    """The OS keyring cannot be used: {reason}."""


class NeedsBackupPassphrase(NeedsTerminal):
    """The passphrase of the backup cannot be asked for: there is no terminal."""

    hint = "Use --passphrase-file FILE or --passphrase-fd N."


class WeakBackup(WeakPassphrase):
    """That passphrase is too weak for a backup: about ${dollars} to break."""

    hint = "Have one made (Enter at the prompt), or say --weak-passphrase if you accept that."


class BadBackup(StoreUnreadable):
    """{path} is no backup that can be used: {reason}."""

    hint = "Was it changed or cut short, or made by a newer zchat? Try another copy."


# ---- The server's faults ----


class ServerFault(ZchatError):
    """The server contradicted itself: {text}."""

    exit_code = Exit.SERVER_FAULT
    hint = "Nothing more is sent there; reading goes on. `zchat rejoin ROOM` shows the way on."


class WrongLogKey(ServerFault):
    """The server at {address} shows another log key than the invite. Nothing was sent."""

    hint = "Ask for a fresh invite by a way you trust; if it is the same, do not use this server."


class ExportAccuses(ServerFault):
    """{path} holds, and shows that the server contradicted itself: {text}."""

    hint = "Ask the others what they see; `zchat tail ROOM --all` says what your profile knows."


class BadEvidence(ZchatError):
    """{path} proves nothing: {reason}."""

    hint = "Was it changed, or cut short? Ask for the file again."


# ---- What others sent us: never a user's sentence, always counted ----


class Malformed(ZchatError):
    """A message that breaks the protocol was dropped: {reason}."""


class Unopenable(ZchatError):
    """An envelope did not open: check {check} failed."""

    def __init__(self, check: str) -> None:
        self.check = check
        super().__init__(check=check)
