"""After a fault of the server: what proves it, and the way on."""

from pathlib import Path

import click

from zchat.config import home
from zchat.errors import BadEvidence, Exit, Malformed, NoMatch
from zchat.member.profile import Profile
from zchat.member.rejoin import rejoin as accept_log
from zchat.protocol import evidence as evidence_file
from zchat.protocol.ledger import Contradiction, Proof, judge
from zchat.ui.cli.access import Access, access_options, open_room, room_argument
from zchat.ui.cli.common import data, say, vault_of
from zchat.ui.safe import safe_line
from zchat.ui.show import clock_time, day

_SAYS = {
    Proof.TWO_HASHES: "signed two different histories of one room, both up to #{later}",
    Proof.OTHER_PAST: "signed #{earlier}, and then #{later} of a history with another past",
    Proof.REPEATED_ID: "signed a history with one message twice, #{earlier} to #{later}",
}


@click.group()
def evidence() -> None:
    """Check what proves that a server contradicted itself.

    \b
        zchat evidence check proof.json
    """


@evidence.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def check(file: Path) -> None:
    """Check an evidence file, offline, with nothing but the file.

    Says what it proves and what it does not. Ends with 1 where it proves nothing.

    \b
        zchat evidence check proof.json
    """
    found = _read(file)
    proof = judge(found)
    if proof is None:
        raise BadEvidence(path=file, reason="the signatures or the chain in it do not hold")
    said = _SAYS[proof].format(earlier=found.earlier.n, later=found.later.n)
    data(f"Proved ({proof.value}): the holder of log key {found.log_key.hex()} {said}.")
    data("Not proved: which of the two is the true one, who was shown which, or anything a member")
    data("did. It binds only those whose invite has that log key.")
    for room in _rooms_of(found):
        data(safe_line(f"That is the server of your room {room}."))


def _read(file: Path) -> Contradiction:
    try:
        with file.open("rb") as opened:
            raw = opened.read(evidence_file.MAX_FILE_BYTES + 1)
        return evidence_file.unpack(raw)
    except OSError as error:
        raise BadEvidence(path=file, reason=error.strerror) from None
    except Malformed as error:
        raise BadEvidence(path=file, reason=error.facts["reason"]) from None


def _rooms_of(found: Contradiction) -> list[str]:
    """Rooms of this profile at that server."""
    profile = Profile(home())
    named = []
    for member in profile.members():
        vault = vault_of(profile, member)
        for known in vault.rooms():
            if known.record.server.keys.log_key == found.log_key:
                named.append(f"{known.record.room} at {known.record.server.address}")
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
    opened = open_room(room, access)
    record = opened.record
    if not record.fault:
        raise NoMatch(reason=f"nothing is wrong with {record.room!r} here")
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
    if done.waiting:
        say(f"{done.waiting} message(s) of yours that it lost go out with the next join.")
    say(f"Go on with: zchat join --room {record.room}")
    return Exit.OK
