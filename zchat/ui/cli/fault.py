"""After a fault of the server: what proves it, and the way on."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

import click

from zchat.config import home
from zchat.errors import (
    BadEvidence,
    Exit,
    ExportAccuses,
    Malformed,
    NoMatch,
    NotItsPassphrase,
    TextsUnchecked,
    ZchatError,
)
from zchat.member.checked import Seen
from zchat.member.invite import Origin
from zchat.member.profile import Profile
from zchat.member.recheck import Checked, Own, Recheck, compare_with_own
from zchat.member.rejoin import rejoin as accept_log
from zchat.member.rows import Blame
from zchat.member.vault import RoomRecord, Vault
from zchat.protocol import evidence as evidence_file
from zchat.protocol.export import Opening
from zchat.protocol.keys import RoomKeys
from zchat.protocol.ledger import Contradiction, Head, Proof, judge
from zchat.ui.cli.access import (
    DERIVING,
    Access,
    access_options,
    open_room,
    own_profile,
    passphrase_options,
    passphrase_source,
    room_argument,
)
from zchat.ui.cli.common import count_up, data, has_terminal, json_option, say, screen, vault_of
from zchat.ui.safe import safe_json, safe_line
from zchat.ui.show import JSON_VERSION, clock_time, day

# What a file begins with, whatever else is wrong with it.
_EXPORT = re.compile(rb'\s*\{\s*"zchat_export"')
_PAGE = re.compile(rb'\{"v":\d+,"room":')

_SAYS = {
    Proof.TWO_HASHES: "signed two different histories of one room, both up to #{later}",
    Proof.OTHER_PAST: "signed #{earlier}, and then #{later} of a history with another past",
    Proof.REPEATED_ID: "signed a history with one message twice, #{earlier} to #{later}",
}

# How a log that one holds lies to an export, for scripts; any other verdict accuses the server.
_VERDICTS = {Seen.FITS: "same", Seen.LOST: "lost", Seen.AHEAD: "unknown"}


@click.group()
def evidence() -> None:
    """Check a proof against a server, or an export with proof.

    \b
        zchat evidence check proof.json
    """


@evidence.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@json_option
@passphrase_options(of_room=True)
def check(file: Path, access: Access, *, as_json: bool) -> int:
    """Check an evidence file, or an export with proof, offline.

    Says what it proves and what it does not. Ends with 1 where it proves nothing.

    An export takes the room's key, remembered here or from its passphrase; without, its texts stay
    unchecked, and it ends with 2. It is compared with the log that this profile holds. One that
    shows a contradiction of the server ends with 4.

    \b
        zchat evidence check proof.json
        zchat evidence check ops.jsonl --passphrase-file words
        zchat evidence check ops.jsonl --json
    """
    with _reading(file) as opened:
        if _EXPORT.match(opened.peek(64)):
            told = _check_export(file, opened, access)
        else:
            told = _check_contradiction(opened.read(evidence_file.MAX_FILE_BYTES + 1))
    if as_json:
        data(safe_json({"v": JSON_VERSION, **told.fields}))
    else:
        shown = screen()
        for line in told.lines:
            shown.line(safe_line(line))
    if told.error is not None:
        raise told.error
    return Exit.OK


class _Told(NamedTuple):
    """What there is to say of a file, to people and to scripts; what else than 0 it ends with."""

    lines: list[str]
    fields: dict[str, object]
    error: ZchatError | None = None


@contextmanager
def _reading(file: Path) -> Iterator[BufferedReader]:
    """What cannot be read, or does not hold, leaves as BadEvidence."""
    try:
        with file.open("rb") as opened:
            yield opened
    except OSError as error:
        raise BadEvidence(path=file, reason=error.strerror) from None
    except Malformed as error:
        raise BadEvidence(path=file, reason=error.facts["reason"]) from None


def _check_contradiction(raw: bytes) -> _Told:
    if _PAGE.match(raw):
        raise Malformed(reason="it was exported without --proof, and anybody can write such a file")
    found = evidence_file.unpack(raw)
    proof = judge(found)
    if proof is None:
        raise Malformed(reason="the signatures or the chain in it do not hold")
    rooms = _rooms_of(found)
    said = _SAYS[proof].format(earlier=found.earlier.n, later=found.later.n)
    lines = [
        f"Proved ({proof.value}): the holder of log key {found.log_key.hex()} {said}.",
        "Not proved: which of the two is the true one, who was shown which, or anything a member "
        "did. It binds only those whose invite has that log key.",
        *(f"That is the server of your room {room} at {address}." for room, address in rooms),
    ]
    return _Told(lines, _contradiction_fields(found, proof, rooms))


def _contradiction_fields(
    found: Contradiction, proof: Proof, rooms: list[tuple[str, str]]
) -> dict[str, object]:
    return {
        "kind": "contradiction",
        "proof": proof.value,
        "log_key": found.log_key.hex(),
        "tag": found.room.hex(),
        "earlier": found.earlier.n,
        "later": found.later.n,
        "rooms": sorted({room for room, _ in rooms}),
    }


# ---- exports ----


def _check_export(file: Path, opened: BufferedReader, access: Access) -> _Told:
    recheck = Recheck(opened)
    opening = recheck.opening
    profile = own_profile()
    record = profile.remembered(bytes.fromhex(opening.tag))
    if record is not None:
        recheck.compare(record)
    keys = _keys_of(file, profile, record, opening, access)
    checked = recheck.run(keys, lambda n: count_up("Checking", n, opening.last))
    with_texts = keys is not None
    accepted_n = record.accepted_n if record else 0
    compared = {
        member: own
        for member, vault in _vaults_of(profile, record)
        if (own := compare_with_own(vault, recheck, checked.head)) is not None
    }
    others = [_beside(own, checked.head) for own in compared.values()]
    if record and not others:
        others = [("You hold no log of this room to compare it with.", "")]
    signer = _signer(opening, record, with_texts=with_texts)
    lines = [
        *_what_holds(opening, checked, signer, with_texts=with_texts),
        *(line for line, _ in others),
        *_what_does_not(opening, checked, with_texts=with_texts),
    ]
    fields = _export_fields(opening, checked, signer, compared, with_texts=with_texts)
    accused = [
        found.text
        for found in checked.findings
        if found.blame is Blame.SERVER and not found.n <= accepted_n
    ] + [text for _, text in others if text]
    if accused:
        return _Told(lines, fields, ExportAccuses(path=file, text=accused[0]))
    return _Told(lines, fields, None if keys else TextsUnchecked(path=file, room=opening.room))


def _vaults_of(profile: Profile, record: RoomRecord | None) -> list[tuple[str, Vault]]:
    """Who may hold a log of this room here."""
    return [(member, vault_of(profile, member)) for member in profile.members()] if record else []


def _beside(own: Own, head: Head) -> tuple[str, str]:
    """What one's own log says of the file, and what it accuses the server of."""
    if own.verdict is Seen.FITS:
        return f"It is one log with yours, which ends at #{own.n}.", ""
    if own.verdict is Seen.LOST:
        return f"It goes on to #{head.n}, which the server has lost since: yours is restored.", ""
    if own.verdict is Seen.AHEAD:
        return f"It cannot be compared with your log, which ends at #{own.n}.", ""
    proof = f" The proof against the server is in {own.proof}." if own.proof else ""
    if own.was_left:
        told = f"It is of a history that you left by a rejoin; yours now ends at #{own.n}."
        return told + proof, ""
    told = f"!! It is not of the log that you hold, which ends at #{own.n}."
    return told + proof, "it showed you another history than whoever made this file"


def _keys_of(
    file: Path,
    profile: Profile,
    record: RoomRecord | None,
    opening: Opening,
    access: Access,
) -> RoomKeys | None:
    """Remembered, or from the passphrase; None where nobody has it."""
    root = b"" if record is None or access.names_passphrase else profile.keeper.find_or_tell(record)
    if root:
        return RoomKeys(root)
    source = passphrase_source(access, opening.room)
    typed = source() if source else _ask(opening.room)
    if not typed:
        return None
    say(DERIVING)
    origin = [bytes.fromhex(key) for key in opening.origin]
    keys = RoomKeys(profile.derive(typed, Origin(*origin).salt(opening.room)))
    if keys.tag.hex() != opening.tag:
        raise NotItsPassphrase(path=file)
    return keys


def _ask(room: str) -> str:
    if not has_terminal():
        return ""
    prompt = f"Passphrase of {safe_line(room)} (Enter: check only what needs none)"
    typed: str = click.prompt(prompt, default="", show_default=False, hide_input=True, err=True)
    return typed


def _signer(opening: Opening, record: RoomRecord | None, *, with_texts: bool) -> str:
    """Whose log key it is: the one of the user's invite, of the room's origin, or of anybody."""
    if record is not None:
        return "invite"
    return "origin" if with_texts and opening.log_key == opening.origin[1] else "unknown"


def _export_fields(
    opening: Opening,
    checked: Checked,
    signer: str,
    compared: dict[str, Own],
    *,
    with_texts: bool,
) -> dict[str, object]:
    counted = ("messages", "members", "others", "missing", "before")
    return {
        "kind": "export",
        "room": opening.room,
        "tag": opening.tag,
        "log_key": opening.log_key,
        "signer": signer,
        "first": opening.first,
        "last": opening.last,
        "texts": with_texts,
        **{field: getattr(checked, field) if with_texts else None for field in counted},
        "bare": checked.bare,
        "words": checked.words,
        "findings": [
            {"n": found.n, "blame": found.blame.value, "text": found.text}
            for found in checked.findings
        ],
        "compared": [
            {
                "member": member,
                "verdict": _VERDICTS.get(own.verdict, "other"),
                "n": own.n,
                "proof": str(own.proof) if own.proof else None,
            }
            for member, own in compared.items()
        ],
    }


def _what_holds(
    opening: Opening, checked: Checked, signer: str, *, with_texts: bool
) -> Iterator[str]:
    first, last, room = opening.first, opening.last, opening.room
    if with_texts:
        yield (
            f"Holds: {_count(checked.messages, 'message')} of {_count(checked.members, 'member')} "
            f"in {room}, #{first} to #{last}. Each is signed by its author's key, opens with the "
            "room's passphrase, and says what stands beside it."
        )
    yield f"Holds: the chain from #{first} to #{last}, signed by log key {opening.log_key}."
    if signer == "invite":
        yield f"That is the server of your invite to {room}."
    elif signer == "origin":
        yield "That is the server where this room and its keys were made."
    else:
        yield "Compare that key with your invite: anybody could have signed with one of their own."
    if checked.words:
        yield f"Words at #{last}: {' '.join(checked.words)}"
        yield f"Who is in the room compares them with: zchat verify {room} --at {last}"
    for finding in checked.findings:
        yield f"{'!! ' if finding.blame is Blame.SERVER else '-- '}{finding.text}"


def _what_does_not(opening: Opening, checked: Checked, *, with_texts: bool) -> Iterator[str]:
    first, last = opening.first, opening.last
    if checked.others:
        yield f"No messages: {checked.others} (filled numbers, repetitions, kinds unknown here)."
    if checked.bare:
        yield (
            f"Not there: the envelopes of {_count(checked.bare, 'entry', 'entries')}, never "
            "readable, no longer kept, or left out by whoever made this file."
        )
    if checked.missing:
        numbers = _count(checked.missing, "number")
        yield f"Not there: {numbers} of authors, never sent or not stored."
    if first > 1:
        yield f"Not proved: anything before #{first}. Of that the file has one hash."
    if checked.before:
        yield (
            f"Not compared: {_count(checked.before, 'head')} before #{first} that authors had seen."
        )
    whose = "whose keys these are, " if with_texts else "a single text, name or time; "
    yield f"Not proved: {whose}that nothing came after #{last}, and that authors' clocks are right."


def _count(n: int, what: str, several: str = "") -> str:
    return f"1 {what}" if n == 1 else f"{n:,} {several or what + 's'}"


# ---- contradictions ----


def _rooms_of(found: Contradiction) -> list[tuple[str, str]]:
    """Rooms of this profile at that server, with its address."""
    profile = Profile(home())
    named = []
    for member in profile.members():
        vault = vault_of(profile, member)
        for known in vault.rooms():
            if known.record.server.keys.log_key == found.log_key:
                named.append((known.record.room, known.record.server.address))
    return sorted(set(named))


@click.command()
@room_argument
@click.option("--accept", is_flag=True, help="Do it.")
@access_options
def rejoin(room: str, access: Access, *, accept: bool) -> int:
    """Go on with the server's present log after it contradicted itself.

    Without --accept it only says what happened. The history you have is kept beside the new one.

    \b
        zchat rejoin lobby
        zchat rejoin lobby --accept
    """
    opened = open_room(room, access, only_known=True)
    record = opened.record
    if not record.fault:
        told = (
            f"as far as this profile saw, the server of {record.room!r} did not contradict itself"
        )
        raise NoMatch(reason=told)
    since = f"{day(record.fault_ms)} {clock_time(record.fault_ms)}"
    say(f"{record.room}: the server contradicted itself: {record.fault} (since {since}).")
    if record.evidence:
        say(f"The proof is in {record.evidence}.")
    if not accept:
        say("With --accept: what you have is set aside, the server's log is read anew, and")
        say("what it shows is taken for the room's history. Ask the others first.")
        return Exit.SERVER_FAULT
    done = accept_log(opened)
    say(f"What you had is kept in {done.aside}.")
    if done.waiting and record.kept_n >= 0:
        say(f"{done.waiting} message(s) of yours that it lost go out with the next join.")
    elif done.waiting:
        say(f"{done.waiting} message(s) of yours wait; what its log lacks of them goes out anew")
        say("with the next join.")
    say(f"Go on with: zchat join --room {record.room}")
    return Exit.OK
