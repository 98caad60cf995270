"""Exports: pages that show what was said, and files with proof in which every byte is checked.

Rules of this file: logs are signed and envelopes sealed with the protocol's own functions (those of
test_checked and test_transcript); a lie is written in the file's one form, so that it is found for
what it says and not for how it looks. What a user does is done with real processes.
"""

import base64
import html
import io
import json
import re
import resource
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
from click.testing import CliRunner, Result

from tests import reference
from tests.conftest import Inside
from tests.processes import PASSPHRASE, ZCHAT, Terminal, World, environment
from tests.test_checked import KEY, OTHER_KEY, Ledger
from tests.test_hostile_text import CORPUS, NAMES, leaks
from tests.test_scripts import check_object
from tests.test_transcript import KEYS, NOW_MS, Person, Screen
from zchat.database import Access
from zchat.errors import Exit, Malformed, StoreUnreadable, ZchatError
from zchat.log.contract import Addition
from zchat.log.sqlite import SqliteLog
from zchat.member.checked import ServerContradiction
from zchat.member.export import Proof
from zchat.member.invite import Origin, Server
from zchat.member.profile import Opened, Profile
from zchat.member.recheck import Checked, Recheck
from zchat.member.rejoin import rejoin
from zchat.member.rows import Blame, Kind, Message, Notice, Row, State, Status
from zchat.member.vault import RoomRecord
from zchat.protocol.keys import RoomKeys
from zchat.protocol.ledger import Head
from zchat.protocol.limits import MAX_TEXT_BYTES
from zchat.ui.cli.main import cli
from zchat.ui.pages import Html, Markdown

ORIGIN = Origin(bytes(range(32)), KEY.public)
RECORD = RoomRecord("lobby", "alice", Server("127.0.0.1", 5577, ORIGIN), ORIGIN, KEYS.root)


# ---- files with proof ----


class Desk:
    """A profile that knows the room, and the log it has checked."""

    def __init__(self, home: Path, ledger: Ledger | None = None) -> None:
        self.home = home
        self.alice, self.bob = Person("alice"), Person("bob")
        self.screen = Screen(ledger or Ledger(room=KEYS.tag), self.alice)
        vault = Profile(home).vault("alice")
        vault.save_room(KEYS.tag, RECORD)
        vault.close()
        self._opened = Opened(vault, KEYS, RECORD, float("inf"))

    def hear(self, *envelopes: bytes) -> None:
        self.screen.hear(*envelopes)

    def keep(self) -> None:
        """What was heard is in the profile's own replica, too."""
        replica = SqliteLog(self._opened.vault.replica_path(KEYS.tag), Access.REPLICA)
        tip = self.screen.replica.tip(KEYS.tag)
        assert tip is not None
        entries = self.screen.replica.read(KEYS.tag, 1, tip.n, 2**40, tip.n)
        replica.append([Addition(KEYS.tag, entries, tip.log, tip.births, b"", tip.head)])
        replica.close()

    def head(self, n: int) -> bytes:
        return self.screen.ledger.head(n).packed

    def export(self, since_ms: int = 0) -> bytes:
        return b"".join(Proof(self._opened, self.screen.replica, since_ms).lines())

    def run(self, *arguments: str) -> Result:
        """A command of this profile, in this process."""
        runner = CliRunner(env={"ZCHAT_HOME": str(self.home)})
        return runner.invoke(cli, arguments, standalone_mode=False)

    def check(self, raw: bytes, *more: str) -> Result:
        path = self.home / "file.jsonl"
        path.write_bytes(raw)
        return self.run("evidence", "check", str(path), *more)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """Empty."""
    return Desk(tmp_path / "home")


@pytest.fixture
def spoken(desk: Desk) -> Desk:
    """Three messages of two people, one of which counter-signs the first, and an answer."""
    desk.hear(desk.alice.says("hello"), desk.bob.says('Grüße \x1b[31m\u202e \U0001f41f "\\\n'))
    desk.hear(desk.alice.says("third", seen=desk.head(2)))
    return desk


def recheck(raw: bytes, keys: RoomKeys | None = KEYS) -> Checked:
    """As a member does who knows the room."""
    check = Recheck(io.BytesIO(raw))
    check.compare(RECORD)
    return check.run(keys, lambda _: None)


def reason_of(raw: bytes, keys: RoomKeys | None = KEYS) -> str:
    """Why it is refused."""
    with pytest.raises(Malformed) as caught:
        recheck(raw, keys)
    return str(caught.value.facts["reason"])


def rewritten(raw: bytes, number: int, **changes: Any) -> bytes:
    """The same file, with other values in one line, in its one form."""
    lines = raw.splitlines(keepends=True)
    fields = json.loads(lines[number - 1]) | changes
    lines[number - 1] = json.dumps(fields, separators=(",", ":")).encode() + b"\n"
    return b"".join(lines)


def lines_of(raw: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in raw.splitlines()]


def test_an_export_holds_and_says_who_and_what(spoken: Desk) -> None:
    """Every message, its author, its place, and the words that others hold."""
    raw = spoken.export()
    opening, *entries, closing = lines_of(raw)
    assert [entry["text"] for entry in entries][::2] == ["hello", "third"]
    assert entries[1]["text"] == 'Grüße \x1b[31m\u202e \U0001f41f "\\\n'
    assert (opening["first"], opening["last"], opening["room"]) == (1, 3, "lobby")
    assert set(closing) == {"head"}
    assert raw.isascii() and raw.replace(b"\n", b"").decode().isprintable()
    checked = recheck(raw)
    assert (checked.messages, checked.members, checked.head.n) == (3, 2, 3)
    assert (checked.bare, checked.missing, checked.before, checked.findings) == (0, 0, 0, [])
    ledger = spoken.screen.ledger
    head = Head(ledger.log, 3, ledger.hash_at(3), 0, b"")
    members = [(person.key, person.name) for person in (spoken.alice, spoken.bob)]
    assert checked.words == KEYS.verification_code(head, members)


def test_no_byte_of_an_export_can_be_another(desk: Desk) -> None:
    """One bit at every place: the line is named. Bytes more or less, capitals, cuts at many."""
    desk.hear(desk.bob.says("Hi"))
    desk.hear(desk.alice.says("ho", seen=desk.head(1)))
    raw = desk.export()
    starts = [0]
    for line in raw.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    end = raw.index(b'"last":') + len(b'"last":')  # too early an end is found where it stands
    for at in range(len(raw)):
        reason = reason_of(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
        number = sum(start <= at for start in starts)
        named = "[14]" if at == end else str(number)
        assert re.match(rf"line {named}\b", reason), (at, reason)
    for at in range(0, len(raw), 5):
        reason_of(raw[:at])
        reason_of(raw[:at] + raw[at + 1 :])
        reason_of(raw[:at] + b" " + raw[at:])
        reason_of(raw[:at] + bytes([raw[at] ^ 32]) + raw[at + 1 :])


# ---- a second implementation, from docs/protocol.md alone ----

OPENING = ["zchat_export", "room", "origin", "tag", "log_key", "lineage", "first", "last", "before"]
ENTRY = ["n", "id", "hash", "envelope"]
ENTRY += ["sender", "name", "incarnation", "seq", "sent_ms", "kind", "text", "reply_to"]
SHORT = {8: "b", 9: "t", 10: "n", 12: "f", 13: "r", 34: '"', 92: "\\"}


def spelled(value: object) -> str:
    """JSON as the page has it."""
    if isinstance(value, dict):
        pairs = (f"{spelled(name)}:{spelled(inner)}" for name, inner in value.items())
        return "{" + ",".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(spelled, value)) + "]"
    if isinstance(value, str):
        utf16 = value.encode("utf-16-be")
        units = [int.from_bytes(utf16[at : at + 2], "big") for at in range(0, len(utf16), 2)]
        return '"' + "".join(map(_spelled_unit, units)) + '"'
    assert value is None or isinstance(value, int)
    return "null" if value is None else str(value)


def _spelled_unit(unit: int) -> str:
    if unit in SHORT:
        return "\\" + SHORT[unit]
    return chr(unit) if 0x20 <= unit <= 0x7E else f"\\u{unit:04x}"


def unhex(text: str) -> bytes:
    assert bytes.fromhex(text).hex() == text
    return bytes.fromhex(text)


def unbase64(text: str) -> bytes:
    raw = base64.b64decode(text)
    assert base64.b64encode(raw).decode() == text
    return raw


def by_the_page(raw: bytes, root: bytes) -> list[str]:
    """Steps 1 to 4 of "Export with proof" and the words; raises anything where one fails."""
    lines = [json.loads(line) for line in raw.decode("ascii").removesuffix("\n").split("\n")]
    assert "".join(spelled(line) + "\n" for line in lines).encode() == raw
    opening, *entries, closing = lines
    assert list(opening) == OPENING and opening["zchat_export"] == 1
    tag, log_key = unhex(opening["tag"]), unhex(opening["log_key"])
    births = [unbase64(birth) for birth in opening["lineage"]]
    log = reference.log_id(births[0][:136])
    reference.check_lineage(births, log, tag, log_key)
    h = unhex(opening["before"])
    assert opening["first"] > 1 or h == log
    assert reference.room_name(opening["room"]) == opening["room"]
    assert reference.room_tag(root) == tag
    names: dict[bytes, str] = {}
    for n, entry in zip(range(opening["first"], opening["last"] + 1), entries, strict=True):
        assert list(entry) == ENTRY and entry["n"] == n
        h = reference.chain(h, n, unhex(entry["id"]))
        assert entry["hash"] == h.hex()
        opened = entry["envelope"] and inside(entry, tag, reference.epoch_key(root))
        assert opened or set(list(entry.values())[3:]) == {None}
        if opened:
            names[opened.sender] = str(opened.body["name"])
    assert list(closing) == ["head"]
    head = reference.check_head(unbase64(closing["head"]), tag, log_key)
    assert head[:3] == (log, opening["last"], h)
    data = reference.verification_data(log, head.n, h, head.expired, names)
    password = reference.verification_password(data, root)
    return reference.verification_words(reference.verification_code(password, tag))


def inside(entry: dict[str, Any], tag: bytes, epoch_key: bytes) -> reference.Opened:
    """An envelope, opened, once all that stands beside it is what it says."""
    opened = reference.open_envelope(unbase64(entry["envelope"]), tag, epoch_key, 0)
    body = {name: v.hex() if isinstance(v, bytes) else v for name, v in opened.body.items()}
    is_text = body["kind"] == "text"
    expected = {"id": opened.id.hex(), "sender": opened.sender.hex(), "sent_ms": opened.timestamp}
    expected |= {field: body[field] for field in ("name", "incarnation", "seq", "kind")}
    expected |= {field: body[field] if is_text else None for field in ("text", "reply_to")}
    assert {field: entry[field] for field in expected} == expected
    return opened


def test_who_knows_only_the_page_can_check_an_export(spoken: Desk) -> None:
    """And finds the same words; what this program refuses, the page refuses."""
    spoken.hear(spoken.bob.voids(2), spoken.bob.of_kind("poll", options=[1]), b"no envelope" * 90)
    raw = spoken.export()
    assert by_the_page(raw, KEYS.root) == recheck(raw).words
    for at in range(0, len(raw), 83):
        changed = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
        reason_of(changed)
        if at > raw.index(b'"tag"') or at < raw.index(b'"room"'):
            with pytest.raises((AssertionError, ValueError, LookupError, reference.Failure)):
                by_the_page(changed, KEYS.root)


@pytest.mark.parametrize(
    ("number", "change", "says"),
    [
        (1, {"zchat_export": 2}, "an export of version 2"),
        (1, {"zchat_export": 0}, "an export of version 0"),
        (1, {"room": "Lobby"}, "room's name is in another form"),
        (1, {"room": "a b"}, "room's name is in another form"),
        (1, {"room": "attic"}, "not that of the room you know"),
        (1, {"origin": ["00" * 32, KEY.public.hex()]}, "not that of the room you know"),
        (1, {"origin": [KEY.public.hex()]}, "not as such a line is"),
        (1, {"tag": "00" * 16}, "birth of another room"),
        (1, {"log_key": OTHER_KEY.public.hex()}, "birth of another room or another server"),
        (1, {"lineage": []}, "not as such a line is"),
        (1, {"first": 2}, "line 2 (#2): #2 should stand here, and #1 does"),
        (1, {"first": 0}, "not as such a line is"),
        (1, {"first": 4}, "it ends before it begins"),
        (1, {"last": 2}, "line 4: it is not as such a line is"),
        (1, {"last": 4}, "line 5 (#4): it is not as such a line is"),
        (1, {"before": "00" * 32}, "begins with another hash than its log's"),
        (1, {"before": "00" * 31 + "0\n"}, "not as such a line is"),
        (2, {"n": 2}, "#1 should stand here, and #2 does"),
        (2, {"id": "00" * 32}, "its id is not that of its envelope"),
        (2, {"hash": "00" * 32}, "its hash does not follow"),
        (3, {"sender": "00" * 32}, "`sender` is not the one inside"),
        (3, {"name": "alice"}, "`name` is not the one inside"),
        (3, {"incarnation": "00" * 16}, "`incarnation` is not the one inside"),
        (3, {"seq": 2}, "`seq` is not the one inside"),
        (3, {"sent_ms": NOW_MS + 1}, "`sent_ms` is not the one inside"),
        (3, {"kind": "void"}, "`kind` is not the one inside"),
        (3, {"text": "I agree"}, "`text` is not the one inside"),
        (3, {"text": None}, "`text` is not the one inside"),
        (3, {"text": "\ud800"}, "line 3 (#2): it is "),
        (3, {"reply_to": "00" * 32}, "`reply_to` is not the one inside"),
        (3, {"more": 1}, "not as such a line is"),
        (3, {"envelope": None}, "something stands beside an envelope that is not there"),
        (3, {"envelope": ""}, "its id is not that of its envelope"),
        (5, {"head": "AAAA"}, "line 5: it is not as such a line is"),
    ],
)
def test_a_lie_in_the_right_form_is_named(
    spoken: Desk, number: int, change: dict[str, Any], says: str
) -> None:
    """The line, and what is wrong with it."""
    reason = reason_of(rewritten(spoken.export(), number, **change))
    assert says in reason
    assert reason.startswith("line ")


def test_a_line_in_another_form_is_refused(spoken: Desk) -> None:
    """Spaces, order, capitals, other escapes, a field twice: though it says the same."""
    raw = spoken.export()
    for old, new in [
        (b'"n":1', b'"n": 1'),
        (b'"n":1', b'"n":1.0'),
        (b'"n":1', b'"n":1,"n":1'),
        (b'"reply_to":null}', b'"reply_to":null} '),
        (b',"reply_to":null', b""),
        (b"hello", b"h\\u0065llo"),
        (b"\\u001b", b"\\u001B"),
        (b"\\u00fc", "ü".encode()),
        (b'"kind":"text","text":"hello"', b'"text":"hello","kind":"text"'),
        (b"\n", b"\r\n"),
    ]:
        assert old in raw
        assert "line " in reason_of(raw.replace(old, new, 1)), new


def test_nothing_can_be_moved_added_or_left_out(spoken: Desk) -> None:
    """Lines as they are, in another order or number."""
    raw = spoken.export()
    first, one, two, three, last = raw.splitlines(keepends=True)
    for lines, says in [
        ([first, two, one, three, last], "line 2 (#1): #1 should stand here, and #2 does"),
        ([first, one, three, last], "line 3 (#2): #2 should stand here, and #3 does"),
        ([first, one, one, two, three, last], "line 3 (#2): #2 should stand here, and #1 does"),
        ([first, one, two, last], "line 4 (#3): it is not as such a line is"),
        ([first, one, two, three], "line 5: the file is cut short there"),
        ([first, one, two, three, last, last], "line 6: something stands behind the head"),
        ([first, one, two, three, last, b"\n"], "line 6: something stands behind the head"),
        ([one, two, three, last], "line 1: it is not as such a line is"),
        ([first], "line 2: the file is cut short there"),
        ([], "line 1: the file is cut short there"),
        ([b"x" * 2**20, first], "line 1: it is too long"),
    ]:
        assert says in reason_of(b"".join(lines))


def forged(desk: Desk, ledger: Ledger, envelopes: list[bytes], last_head: bytes) -> bytes:
    """What a member with the passphrase can write who does not mind lying."""
    other = Desk(desk.home.with_name("other"), ledger)
    other.hear(*envelopes)
    *lines, _ = other.export().splitlines(keepends=True)
    return b"".join(
        [*lines, json.dumps({"head": last_head}, separators=(",", ":")).encode(), b"\n"]
    )


def test_another_history_than_the_signed_one_does_not_reach_its_head(spoken: Desk) -> None:
    """Other messages of the same people, each properly sealed, under the true head or none."""
    true = lines_of(spoken.export())[-1]["head"]
    ledger = Ledger(room=KEYS.tag)
    ledger.genesis, ledger.births = spoken.screen.ledger.genesis, spoken.screen.ledger.births
    envelopes = [Person("alice").says(text) for text in ("never", "said", "so")]
    assert "another log, place or hash" in reason_of(forged(spoken, ledger, envelopes, true))


def test_a_log_of_ones_own_is_told_by_its_key(spoken: Desk) -> None:
    """Whoever has the passphrase can sign a whole log, with a key that no invite has."""
    raw = spoken.export()
    for signed_by, says in [
        (OTHER_KEY.sign_head(KEYS.tag, *_place(spoken), 0), "signature of the head does not hold"),
        (KEY.sign_head(bytes(16), *_place(spoken), 0), "signature of the head does not hold"),
        (KEY.sign_head(KEYS.tag, bytes(32), *_place(spoken)[1:], 0), "another log, place or hash"),
    ]:
        changed = rewritten(raw, 5, head=_base64(signed_by.packed))
        assert says in reason_of(changed)
    other = Ledger(room=KEYS.tag).genesis._replace(log_key=OTHER_KEY.public)
    birth = OTHER_KEY.sign_birth(other)
    own = rewritten(
        raw,
        1,
        log_key=OTHER_KEY.public.hex(),
        lineage=[_base64(birth)],
        before=other.log.hex(),
    )
    assert "that of your invite is" in reason_of(own)
    result = spoken.check(own)
    assert isinstance(result.exception, ZchatError)
    assert OTHER_KEY.public.hex() in result.exception.sentence


def _place(desk: Desk) -> tuple[bytes, int, bytes]:
    ledger = desk.screen.ledger
    return ledger.log, ledger.n, ledger.hash_at(ledger.n)


def _base64(raw: bytes) -> str:
    return str(msgspec.to_builtins(raw))


def test_an_envelope_of_another_room_or_hand_fails_its_check(spoken: Desk) -> None:
    """In a log whose server signed it: the check of section 7 is named."""
    elsewhere = RoomKeys(bytes(32))
    sound = spoken.alice.says("x")
    for envelope, says in [
        (Person("alice", keys=elsewhere).says("x"), "check `commitment`"),
        (sound[:-1] + bytes([sound[-1] ^ 1]), "check `signature`"),
        (sound[:500] + bytes([sound[500] ^ 1]) + sound[501:], "check `signature`"),
        (sound + b"x", "check `length`"),
        (b"\2" + sound[1:], "check `version`"),
        (spoken.alice.seal(b"no body"), "check `body`"),
    ]:
        ledger = spoken.screen.ledger
        grown = Ledger([*ledger.envelopes, envelope], room=KEYS.tag)
        grown.genesis, grown.births = ledger.genesis, ledger.births
        opening, *entries, _ = spoken.export().splitlines()
        added = {"n": 4, "id": grown.ids[3].hex(), "hash": grown.hash_at(4).hex()}
        added |= json.loads(entries[0]) | {"envelope": _base64(envelope)} | added
        raw = b"\n".join(
            [
                json.dumps(json.loads(opening) | {"last": 4}, separators=(",", ":")).encode(),
                *entries,
                json.dumps(added, separators=(",", ":")).encode(),
                json.dumps({"head": _base64(grown.head(4).packed)}, separators=(",", ":")).encode(),
                b"",
            ]
        )
        assert f"line 5 (#4): its envelope fails {says}" in reason_of(raw)


def test_without_the_keys_the_chain_is_checked_and_the_texts_are_not(spoken: Desk) -> None:
    """A changed text is not found then, and nothing is said of messages."""
    changed = rewritten(spoken.export(), 3, text="I agree")
    checked = recheck(changed, None)
    assert (checked.head.n, checked.messages, checked.members, checked.words) == (3, 0, 0, [])
    assert "its id is not" in reason_of(rewritten(changed, 2, id="00" * 32), None)
    assert "`text` is not the one inside" in reason_of(changed)


def test_an_envelope_that_is_left_out_is_counted_and_changes_the_words(spoken: Desk) -> None:
    """That cannot be told from one that never opened; the words are then others'."""
    raw = spoken.export()
    bare = dict.fromkeys(list(lines_of(raw)[2])[3:])
    checked = recheck(rewritten(raw, 3, **bare))
    assert (checked.bare, checked.messages) == (1, 2)
    assert checked.words != recheck(raw).words
    result = spoken.check(rewritten(raw, 3, **bare))
    assert "Not there: the envelopes of 1 entry" in result.output


def test_what_is_no_message_is_in_the_export_too(desk: Desk) -> None:
    """A filled number, a kind of a later version, an entry that does not open."""
    unreadable = desk.bob.seal(b"no body")
    desk.hear(desk.bob.voids(1), desk.bob.of_kind("poll", options=["a"]), unreadable)
    desk.hear(desk.alice.says("x" * MAX_TEXT_BYTES))
    raw = desk.export()
    kinds = [line["kind"] for line in lines_of(raw)[1:-1]]
    assert kinds == ["void", "poll", None, "text"]
    checked = recheck(raw)
    assert (checked.messages, checked.others, checked.bare) == (1, 2, 1)


def test_the_longest_line_is_within_its_bound(desk: Desk) -> None:
    """A text of controls takes six times its bytes."""
    desk.hear(desk.alice.says("\x01" * MAX_TEXT_BYTES))
    assert recheck(desk.export()).messages == 1


def test_a_range_proves_itself_and_says_what_lies_before(spoken: Desk) -> None:
    """From the first entry that says it was sent since then; the hash before it is bound, too."""
    late = NOW_MS + 1_000
    spoken.hear(spoken.bob.says("late", at_ms=late, seen=spoken.head(1)))
    spoken.hear(spoken.alice.says("later", seen=spoken.head(3)))
    raw = spoken.export(late)
    opening = lines_of(raw)[0]
    assert (opening["first"], opening["last"]) == (4, 5)
    assert opening["before"] == spoken.screen.ledger.hash_at(3).hex()
    checked = recheck(raw)
    assert (checked.messages, checked.before, checked.missing, checked.words) == (2, 1, 0, [])
    assert "hash does not follow" in reason_of(rewritten(raw, 1, before="00" * 32))
    result = spoken.check(raw)
    assert result.return_value == Exit.OK
    assert "Not proved: anything before #4." in result.output
    assert "Not compared: 1 head before #4" in result.output


def test_a_counter_signed_head_that_was_forged_is_the_authors_fault(spoken: Desk) -> None:
    """Also where it lies before the range and cannot be compared."""
    ledger = spoken.screen.ledger
    head = OTHER_KEY.sign_head(KEYS.tag, ledger.log, 1, bytes(32), 0).packed
    spoken.hear(spoken.bob.says("a", seen=head, at_ms=NOW_MS + 5))
    spoken.hear(spoken.alice.says("b", seen=spoken.head(1)))
    for since_ms in (0, NOW_MS + 5):
        findings = recheck(spoken.export(since_ms)).findings
        assert (4, Blame.AUTHOR) in [(found.n, found.blame) for found in findings]
    assert any("seen less" in found.text for found in recheck(spoken.export()).findings)
    assert spoken.check(spoken.export()).return_value == Exit.OK


def test_an_export_that_shows_a_fork_holds_and_ends_with_4(spoken: Desk) -> None:
    """The server showed bob another history: unless the user has accepted that long since."""
    branch = spoken.screen.ledger.branch(1, 2)
    spoken.hear(spoken.bob.says("on a branch", seen=branch.head(2).packed))
    raw = spoken.export()
    checked = recheck(raw)
    assert [(found.n, found.blame) for found in checked.findings] == [(4, Blame.SERVER)]
    result = spoken.check(raw)
    assert isinstance(result.exception, ZchatError)
    assert result.exception.exit_code == Exit.SERVER_FAULT
    assert "!! it showed bob another history (from #2 or before)" in result.output
    assert "Holds: 4 messages of 2 members" in result.output
    vault = Profile(spoken.home).vault("alice")
    vault.save_room(KEYS.tag, msgspec.structs.replace(RECORD, accepted_n=4))
    vault.close()
    assert spoken.check(raw).return_value == Exit.OK


def test_heads_of_former_and_foreign_logs_are_judged(tmp_path: Path) -> None:
    """A restored log: what it kept fits, what it lost is noted, what it never named accuses it."""
    alice = Person("alice")
    former = Ledger([alice.says("one"), alice.says("two"), alice.says("lost")], room=KEYS.tag)
    foreign = Ledger(room=KEYS.tag).grow(1)
    desk = Desk(tmp_path / "home", former.restored(2))
    desk.screen.take(1, 2)
    for head in (former.head(2), former.head(3), foreign.head(1)):
        desk.hear(desk.bob.says("after", seen=head.packed))
    raw = desk.export()
    assert len(lines_of(raw)[0]["lineage"]) == 2
    found = {finding.n: finding.blame for finding in recheck(raw).findings}
    assert found[4] is Blame.UNKNOWN
    assert found[5] is Blame.SERVER
    assert 3 not in found
    ranged = rewritten(raw, 1, first=3)
    without = [line for at, line in enumerate(ranged.splitlines(keepends=True)) if at not in (1, 2)]
    opening = json.loads(without[0]) | {"before": desk.screen.ledger.hash_at(2).hex()}
    without[0] = json.dumps(opening, separators=(",", ":")).encode() + b"\n"
    checked = recheck(b"".join(without))
    assert checked.before == 1


def test_a_restored_log_that_holds_another_past_than_it_claims_accuses_the_server(
    tmp_path: Path,
) -> None:
    alice = Person("alice")
    former = Ledger([alice.says("one"), alice.says("two")], room=KEYS.tag)
    claims = Ledger([alice.says("another"), alice.says("past")], former, 2, room=KEYS.tag)
    desk = Desk(tmp_path / "home", claims)
    with pytest.raises(ServerContradiction):
        desk.screen.take(1, 2)
    (finding,) = recheck(desk.export()).findings
    assert finding.blame is Blame.SERVER
    assert finding.text == "its log claims a past that it does not hold"


def test_a_file_is_compared_with_the_log_that_one_holds(desk: Desk, tmp_path: Path) -> None:
    """Shorter, as long, longer: one log; a range far behind one's own end cannot be compared."""
    desk.hear(*(desk.alice.says(text) for text in ("one", "two", "three", "four")))
    desk.keep()
    ledger = desk.screen.ledger
    late = [desk.bob.says("late", at_ms=NOW_MS + at) for at in (1, 2)]
    grown = [*ledger.envelopes, *late]
    for length, since_ms, says in [
        (2, 0, "It is one log with yours, which ends at #4."),
        (4, 0, "It is one log with yours, which ends at #4."),
        (6, 0, "It is one log with yours, which ends at #4."),
        (6, NOW_MS + 1, "It is one log with yours, which ends at #4."),
        (6, NOW_MS + 2, "It cannot be compared with your log, which ends at #4."),
    ]:
        other = same_log(ledger, grown[:length])
        result = desk.check(exported_by_another(tmp_path / f"{length}-{since_ms}", other, since_ms))
        assert result.return_value == Exit.OK, result.exception
        assert says in result.output


def test_who_holds_no_log_of_the_room_is_left_out_of_the_comparison(desk: Desk) -> None:
    """Said once where nobody of the profile holds one; not beside the log of one who does."""
    desk.hear(desk.alice.says("one"))
    for name in ("bob", "carol"):
        Profile(desk.home).vault(name).close()
    none = "You hold no log of this room to compare it with."
    assert desk.check(desk.export()).output.count(none) == 1
    desk.keep()
    result = desk.check(desk.export())
    assert "It is one log with yours, which ends at #1." in result.output
    assert none not in result.output


def test_a_file_of_another_history_proves_the_fork(desk: Desk, tmp_path: Path) -> None:
    """Whichever is longer; not for one who has left that history by a rejoin."""
    desk.hear(*(desk.alice.says(text) for text in ("one", "two", "three", "four")))
    desk.keep()
    ledger = desk.screen.ledger
    others = [desk.bob.says(text) for text in ("3", "4", "5", "6")]
    raw = b""
    for length, kind in [(3, "P2"), (4, "P1"), (6, "P2")]:
        branch = same_log(ledger, [*ledger.envelopes[:2], *others[: length - 2]])
        raw = exported_by_another(tmp_path / f"branch{length}", branch)
        result = desk.check(raw)
        refused(result, Exit.SERVER_FAULT, "showed you another history than whoever made this")
        (proof,) = re.findall(r"The proof against the server is in (\S+)\.\n", result.output)
        assert desk.run("evidence", "check", proof).output.startswith(f"Proved ({kind})")
    vault = Profile(desk.home).vault("alice")
    vault.save_room(KEYS.tag, msgspec.structs.replace(RECORD, accepted_n=2))
    vault.close()
    assert desk.check(raw).return_value == Exit.OK


def test_a_third_history_is_told_after_a_rejoin_too(desk: Desk, tmp_path: Path) -> None:
    """Not the one that was left, however far others went on in it."""
    texts = [desk.alice.says(text) for text in ("one", "two", "left 3", "left 4", "5", "6", "7")]
    desk.hear(*texts[:4])
    desk.keep()
    ledger = desk.screen.ledger
    accept(desk, same_log(ledger, [*texts[:2], *texts[4:]]), 4)
    for envelopes, exit_code in [
        (texts[:3], Exit.OK),
        (texts[:4], Exit.OK),
        ([*texts[:4], texts[6], texts[5]], Exit.OK),
        ([*texts[:2], texts[6], texts[5]], Exit.SERVER_FAULT),  # parts where the left one does
        ([*texts[:2], *texts[4:6], texts[3]], Exit.SERVER_FAULT),  # and behind what was accepted
    ]:
        other = same_log(ledger, envelopes)
        raw = exported_by_another(tmp_path / f"{len(list(tmp_path.iterdir()))}", other)
        result = desk.check(raw)
        code = getattr(result.exception, "exit_code", result.return_value)
        assert code == exit_code, result.output
        assert ("a history that you left" in result.output) == (exit_code is Exit.OK)


def test_what_was_left_as_a_part_of_what_was_accepted_excuses_no_fork(
    desk: Desk, tmp_path: Path
) -> None:
    """Somebody else had been shown the fork; our own history went on."""
    texts = [desk.alice.says(text) for text in ("one", "two", "three", "another 3")]
    desk.hear(*texts[:2])
    desk.keep()
    ledger = desk.screen.ledger
    accept(desk, same_log(ledger, texts[:3]), 3)
    other = same_log(ledger, [*texts[:2], texts[3]])
    result = desk.check(exported_by_another(tmp_path / "other", other))
    refused(result, Exit.SERVER_FAULT, "showed you another history than whoever made this")


def accept(desk: Desk, ledger: Ledger, accepted_n: int) -> None:
    """`zchat rejoin --accept` while the server's log ended there; it has grown, and is read."""
    vault = Profile(desk.home).vault("alice")
    rejoin(Opened(vault, KEYS, RECORD, float("inf")))
    record = vault.room(KEYS.tag)
    assert record is not None
    vault.save_room(KEYS.tag, msgspec.structs.replace(record, accepted_n=accepted_n))
    vault.close()
    desk.screen = Screen(ledger, desk.alice)
    desk.screen.take(1, ledger.n)
    desk.keep()


def same_log(ledger: Ledger, envelopes: list[bytes]) -> Ledger:
    """What the server shows of this log to somebody else."""
    other = Ledger(envelopes, room=KEYS.tag)
    other.genesis, other.births = ledger.genesis, ledger.births
    return other


def exported_by_another(home: Path, ledger: Ledger, since_ms: int = 0) -> bytes:
    desk = Desk(home, ledger)
    desk.screen.take(1, ledger.n)
    return desk.export(since_ms)


def objects(result: Result) -> list[dict[str, Any]]:
    """What a command printed for scripts."""
    return [check_object("check: export", line) for line in result.stdout.splitlines()]


def test_with_json_a_file_is_one_object_and_the_exit_code_stays(desk: Desk, tmp_path: Path) -> None:
    """What is found in it, how one's own log lies to it, and the proof that came of that."""
    desk.hear(desk.alice.says("one"), desk.bob.says("two"))
    desk.keep()
    ledger = desk.screen.ledger
    desk.hear(desk.bob.says("branched", seen=ledger.branch(1, 2).head(2).packed))
    result = desk.check(desk.export(), "--json")
    refused(result, Exit.SERVER_FAULT, "showed bob another history")
    (said,) = objects(result)
    text = "it showed bob another history (from #2 or before)"
    assert said["findings"] == [{"n": 3, "blame": "server", "text": text}]
    assert said["compared"] == [{"member": "alice", "verdict": "same", "n": 2, "proof": None}]
    assert (said["messages"], said["others"], said["bare"], said["missing"]) == (3, 0, 0, 0)
    branch = same_log(ledger, [ledger.envelopes[0], desk.bob.says("2"), desk.bob.says("3")])
    result = desk.check(exported_by_another(tmp_path / "branch", branch), "--json")
    refused(result, Exit.SERVER_FAULT, "showed you another history")
    (own,) = objects(result)[0]["compared"]
    assert (own["verdict"], own["n"]) == ("other", 2)
    shown = desk.run("evidence", "check", own["proof"], "--json")
    proved = check_object("evidence check", shown.stdout.strip())
    assert (proved["proof"], proved["tag"]) == ("P2", KEYS.tag.hex())
    assert (proved["earlier"], proved["later"], proved["rooms"]) == (2, 3, ["lobby"])


def test_with_json_what_nobody_could_check_is_null(spoken: Desk, tmp_path: Path) -> None:
    """Without the passphrase: 2, and the chain alone; whose key signed it is then unknown."""
    (tmp_path / "proof.jsonl").write_bytes(spoken.export())
    result = CliRunner(env={"ZCHAT_HOME": str(tmp_path / "nobody")}).invoke(
        cli, ["evidence", "check", str(tmp_path / "proof.jsonl"), "--json"], standalone_mode=False
    )
    refused(result, Exit.USAGE, "was not checked")
    (said,) = objects(result)
    assert (said["texts"], said["signer"], said["words"]) == (False, "unknown", [])
    for field in ("messages", "members", "others", "missing", "before"):
        assert said[field] is None
    assert (said["first"], said["last"], said["log_key"]) == (1, 3, KEY.public.hex())


def test_a_restored_log_and_a_file_of_the_former_one_are_compared(tmp_path: Path) -> None:
    """What was kept is one log; what was lost is told; a log that names neither accuses."""
    alice = Person("alice")
    former = Ledger([alice.says("one"), alice.says("two"), alice.says("lost")], room=KEYS.tag)
    desk = Desk(tmp_path / "home", former.restored(2))
    desk.screen.take(1, 2)
    desk.keep()
    for ledger, verdict, says in [
        (same_log(former, former.envelopes[:2]), "same", "It is one log with yours"),
        (former, "lost", "It goes on to #3, which the server has lost since"),
        (desk.screen.ledger.restored(1), "unknown", "It cannot be compared with your log"),
    ]:
        home = tmp_path / f"{ledger.log.hex()[:8]}-{ledger.n}"
        raw = exported_by_another(home, ledger)
        assert says in desk.check(raw).output
        (said,) = objects(desk.check(raw, "--json"))
        assert [own["verdict"] for own in said["compared"]] == [verdict]
    foreign = exported_by_another(tmp_path / "foreign", Ledger([alice.says("x")], room=KEYS.tag))
    result = desk.check(foreign)
    refused(result, Exit.SERVER_FAULT, "another history")
    assert "!! It is not of the log that you hold, which ends at #2.\n" in result.output


def test_numbers_that_are_missing_or_stand_twice_are_told(desk: Desk) -> None:
    """Of two with one number the first counts; a filled number accuses nobody."""
    desk.hear(desk.alice.says("one"), desk.alice.says("again", seq=1), desk.alice.says(seq=4))
    desk.hear(desk.bob.voids(1), desk.bob.says("late", seq=1))
    checked = recheck(desk.export())
    assert (checked.messages, checked.others, checked.missing) == (2, 3, 2)
    assert [(found.n, found.blame) for found in checked.findings] == [(2, Blame.AUTHOR)]
    told = desk.check(desk.export()).output
    assert "No messages: 3 (filled numbers, repetitions, kinds unknown here)." in told
    assert "Not there: 2 numbers of authors" in told
    assert "-- alice sent two different messages with one number" in told


def test_a_message_that_the_server_stored_twice_accuses_it(spoken: Desk) -> None:
    """A member would have stopped there; whoever writes the file by hand shows it all the same."""
    ledger = spoken.screen.ledger
    opening, one, two, three, _ = lines_of(spoken.export())
    grown = Ledger([*ledger.envelopes, ledger.envelopes[0]], room=KEYS.tag)
    grown.genesis, grown.births = ledger.genesis, ledger.births
    again = one | {"n": 4, "hash": grown.hash_at(4).hex()}
    closing = {"head": _base64(grown.head(4).packed)}
    lines = [opening | {"last": 4}, one, two, three, again, closing]
    raw = b"".join(json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in lines)
    (found,) = [f for f in recheck(raw).findings if f.blame is Blame.SERVER]
    assert found.text == "it stored a message twice (#1 and #4)"


def test_of_many_findings_the_first_are_told_and_the_servers_always(desk: Desk) -> None:
    """What anybody can make up takes no memory."""
    desk.hear(desk.alice.says("one"))
    fake = OTHER_KEY.sign_head(KEYS.tag, bytes(32), 1, bytes(32), 0).packed
    desk.hear(*(desk.bob.says("x", seen=fake) for _ in range(30)))
    desk.hear(desk.bob.says("x", seen=desk.screen.ledger.branch(0, 1).head(1).packed))
    findings = recheck(desk.export()).findings
    assert len(findings) == 21
    assert findings[-1].blame is Blame.SERVER


def test_a_replica_that_is_damaged_is_not_exported(spoken: Desk) -> None:
    """A sentence instead of a file that does not hold."""
    replica = spoken.screen.replica
    held = replica._rooms[KEYS.tag]
    envelope = held.entries[1].envelope
    assert envelope is not None
    held.entries[1] = held.entries[1]._replace(envelope=envelope[:-1] + b"x")
    with pytest.raises(StoreUnreadable, match="entry #2 is damaged"):
        spoken.export()


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b'{"v":1,"room":"lobby","n":1}\n', "exported without --proof"),
        (b"# lobby\n", "not an evidence file"),
        (b"", "not an evidence file"),
        (b'{"zchat_export":2,"new":[1]}\n', "an export of version 2, and this zchat reads 1"),
        (b' { "zchat_export" : 1}\n', "line 1"),
        (b'{"zchat_export":"1"}\n', "line 1"),
        (b'{"zchat_export":1', "line 1: the file is cut short there"),
    ],
)
def test_what_is_no_export_is_told(desk: Desk, raw: bytes, says: str) -> None:
    """Exit 1, the file, the reason."""
    result = desk.check(raw)
    assert isinstance(result.exception, ZchatError)
    assert result.exception.exit_code == Exit.FIXABLE
    assert says in result.exception.sentence
    assert "file.jsonl proves nothing" in result.exception.sentence


# ---- pages ----


def message(text: str, name: str = "bob", **more: Any) -> Message:
    made = Message(
        n=1,
        id=bytes(32),
        sender=bytes(32),
        name=name,
        shown=name,
        own=False,
        verified=True,
        kind=Kind.TEXT,
        text=text,
        reply_to=None,
        sent_at_ms=NOW_MS,
        arrived_ms=NOW_MS,
        status=Status.STORED,
    )
    return made._replace(**more)


class Reader(HTMLParser):
    """What a browser would make of a page: its elements, and the text of each paragraph."""

    ELEMENTS = re.compile(
        "html|head|meta|title|style|body|h1|h2|article|time|b|bdi|p|a|aside|footer"
    )

    def __init__(self) -> None:
        super().__init__()
        self.paragraphs: list[str] = []
        self._in_paragraph = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert self.ELEMENTS.fullmatch(tag)
        allowed = {"lang", "charset", "http-equiv", "content", "name", "datetime", "id", "dir"}
        links = [value for name, value in attrs if name == "href"]
        assert all(re.fullmatch("#m-[0-9a-f]{64}", value or "") for value in links)
        assert {name for name, _ in attrs} <= allowed | {"href"}
        if tag == "p":
            self._in_paragraph = True
            self.paragraphs.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_paragraph = self._in_paragraph and tag != "p"

    def handle_data(self, data: str) -> None:
        if self._in_paragraph:
            self.paragraphs[-1] += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)


MARKUP = [
    "<script>alert(1)</script>",
    "</p></article><img src=x onerror=alert(1)>",
    "<!-- -->",
    "&lt;b&gt; &amp;",
    "'\"><a href=javascript:x>",
    "](javascript:x) [a](b) ![x](y)",
    "**bold** _it_ `code` ~~gone~~ <b>",
    "# h\n## h\n- a\n+ a\n* a\n1. a\n2) b\n> q\n---\n===\n```\ncode\n~~~\n    code\n\ttab",
    "|a|b|\n|-|-|\n- [ ] x",
    "[x]: y\n[^1]: z\n: definition\nwww.example.org http://x.example a@b.example :smile: $x$",
    "\\*\\\n\\",
    "{{ x }} {% y %}",
]


@pytest.mark.parametrize("text", [*MARKUP, *CORPUS.values()])
def test_a_page_of_html_shows_a_text_and_nothing_of_it_is_markup(text: str) -> None:
    """Nor does a name; and nothing of it is obeyed by a terminal that shows the page."""
    page = Html("a&<b>")
    for name in (text[:32], "bob"):
        lines = [*page.opening(), *page.row(message(text, name)), *page.closing()]
        reader = Reader()
        reader.feed("\n".join(lines))
        reader.close()
        shown = reader.paragraphs[0]
        assert shown.count("\n") == text.replace("\r\n", "\n").count("\n")
        if text.isascii() and text.replace("\n", "").isprintable():
            assert shown == text
        assert leaks("\n".join(lines).encode()) == []


def test_a_page_of_html_forbids_itself_scripts_and_everything_remote() -> None:
    """By a policy of its own, before anything that others wrote."""
    lines = Html("lobby").opening()
    (policy,) = [line for line in lines if "Content-Security-Policy" in line]
    assert "default-src 'none'; style-src 'unsafe-inline'" in html.unescape(policy)
    assert lines.index(policy) < next(at for at, line in enumerate(lines) if "<title" in line)
    assert not re.search(r"//|url\(|@import|src=", "\n".join(lines))


MEANINGFUL = re.compile(r"[`*_{}\[\]<|~^$&@\\]|([=+-])\1|:\S|^[#>=+:-]|^\d+[.)]|^ |^\t|\w\.\w")


def plain_of(rows: list[str]) -> list[str]:
    """The rows that a renderer shows, which has nothing to render but escapes and breaks."""
    shown = []
    for at, row in enumerate(rows):
        is_last = at == len(rows) - 1
        assert is_last or re.search(r"(?<!\\)(\\\\)*\\$", row), "a break before the next row"
        source = row if is_last else row[:-1]
        source = source.replace("&nbsp;", "\xa0")
        unescaped = re.sub(r"\\[!-/:-@\[-`{-~]", "\x00", source)
        assert not MEANINGFUL.search(unescaped), source
        shown.append(re.sub(r"\\(.)", r"\1", source).replace("\xa0", " "))
    return shown


@pytest.mark.parametrize("text", [*MARKUP, *CORPUS.values()])
def test_a_page_of_markdown_shows_a_text_and_nothing_of_it_is_markup(text: str) -> None:
    """Whatever could mean something has a backslash before it, at the start of a row too."""
    for name in (text[:32].replace("\n", " "), "bob"):
        page = Markdown("lobby")
        _, _, *rows, end = page.row(message(text, name))
        assert end == ""
        prefix = "**" + plain_prefix(rows[0]) + ":** "
        assert rows[0].startswith(prefix)
        shown = plain_of([rows[0].removeprefix(prefix), *rows[1:]])
        assert len(shown) == text.replace("\r\n", "\n").count("\n") + 1
        if text.isascii() and text.replace("\n", "").isprintable():
            assert [row.strip() for row in shown] == [row.strip() for row in text.split("\n")]
        assert leaks("\n".join(rows).encode()) == []


def plain_prefix(row: str) -> str:
    """Time and name, in which nothing is markup either."""
    prefix = row.removeprefix("**").split(":** ")[0]
    name = prefix[6:].replace("&nbsp;", "\xa0")
    assert not MEANINGFUL.search(re.sub(r"\\.", "\x00", name))
    assert re.match(r"\d\d:\d\d ", prefix)
    return prefix


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_name_on_a_page_is_text(name: str) -> None:
    page = Markdown("lobby")
    _, _, row, _ = page.row(message("hello", name))
    plain_prefix(row)
    reader = Reader()
    reader.feed("\n".join(Html("lobby").row(message("hello", name))))
    assert reader.paragraphs == ["hello"]


@pytest.mark.parametrize("kind", [Markdown, Html])
def test_a_page_has_days_marks_and_notices(kind: type[Markdown | Html]) -> None:
    """One heading a day; what came late or has no author says so."""
    page = kind("lobby")
    assert not any("2023" in line for line in page.opening())
    hour = 3_600_000
    rows: list[Row] = [
        message("one"),
        message("two", status=Status.LATE, arrived_ms=NOW_MS + hour),
        message("next day", sent_at_ms=NOW_MS + 24 * hour, status=Status.CLOCK),
        message("unreadable entry #9", shown="", kind=Kind.UNREADABLE),
        Notice(5, State.GAP, Blame.UNKNOWN, "1 message from <bob> missing"),
    ]
    text = "\n".join(line for row in rows for line in page.row(row))
    assert len(re.findall(r"^(?:## |<h2>)", text, re.MULTILINE)) == 3
    assert len(re.findall(r"\[arrived \d\d:\d\d\]|\\\[arrived \d\d\\:\d\d\\\]", text)) == 1
    assert text.count("clock?") == 1
    assert "<bob>" not in text.replace("\\<", "")
    assert "4 messages of the room lobby" in "\n".join(page.closing())
    assert "This page proves nothing" in "\n".join(page.closing())


def test_an_answer_leads_to_what_it_answers() -> None:
    page = Html("lobby")
    first = page.row(message("one"))
    (answer,) = page.row(message("two", id=b"\1" * 32, reply_to=bytes(32)))
    assert f'id="m-{"00" * 32}"' in first[-1]
    assert f'href="#m-{"00" * 32}"' in answer


# ---- the command ----


def exported(desk: Desk, *arguments: str) -> Result:
    """`zchat export lobby`, of what the profile keeps."""
    return desk.run("export", "lobby", "--offline", *arguments)


def refused(result: Result, code: Exit, says: str) -> None:
    """It ended with an error of ours, or of usage."""
    error = result.exception
    assert isinstance(error, ZchatError | click.ClickException), result.output
    assert (error.exit_code if isinstance(error, ZchatError) else Exit.USAGE) == code
    assert says in (error.sentence if isinstance(error, ZchatError) else error.message)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def kept(spoken: Desk, tmp_path: Path) -> Desk:
    """As `spoken`, with a replica; and a folder to write to."""
    spoken.keep()
    (tmp_path / "out").mkdir()
    return spoken


def test_a_file_is_private_and_of_the_kind_that_its_name_says(kept: Desk, tmp_path: Path) -> None:
    """Unless --format says otherwise; the same as goes to stdout."""
    folder = tmp_path / "out"
    for name, more, begins in [
        ("room.md", (), "# lobby"),
        ("room.HTML", (), "<!DOCTYPE html>"),
        ("room.jsonl", (), '{"v":1,'),
        ("room", (), '{"v":1,'),
        ("room.txt", ("--format", "md"), "# lobby"),
        ("proof", ("--proof",), '{"zchat_export":1,'),
    ]:
        result = exported(kept, "-o", str(folder / name), *more)
        assert result.return_value == Exit.OK, result.exception
        assert result.stdout == ""
        assert (folder / name).stat().st_mode & 0o777 == 0o600
        assert (folder / name).read_text().startswith(begins)
    assert exported(kept).stdout == (folder / "room.jsonl").read_text()
    assert exported(kept, "-o", "-", "--proof").stdout == (folder / "proof").read_text()
    assert (folder / "proof").read_bytes() == kept.export()


def test_an_export_replaces_nothing_unless_it_is_told_to(kept: Desk, tmp_path: Path) -> None:
    """And then only a file; a link stays a link."""
    path, link = tmp_path / "out" / "room.md", tmp_path / "out" / "link"
    path.write_text("before")
    link.symlink_to("room.md")
    for target in (path, link):
        refused(exported(kept, "-o", str(target)), Exit.FIXABLE, f"{target} is there already.")
    assert path.read_text() == "before"
    assert exported(kept, "-o", str(link), "--format", "md", "--force").return_value == Exit.OK
    assert path.read_text().startswith("# lobby")
    assert link.is_symlink()
    for no_file in ("/dev/null", str(tmp_path / "out")):
        refused(exported(kept, "-o", no_file, "--force"), Exit.USAGE, "is no file")
    nowhere = str(tmp_path / "none" / "room")
    refused(exported(kept, "-o", nowhere), Exit.FIXABLE, "there is no folder")
    refused(exported(kept, "-o", str(path / "room")), Exit.FIXABLE, f"{path} is no folder")
    for no_name in (str(tmp_path / "none") + "/", str(tmp_path / "out") + "/", ""):
        refused(exported(kept, "-o", no_name), Exit.USAGE, f"{no_name!r} names no file")
    assert names(tmp_path / "out") == ["link", "room.md"]
    if Path("/proc/self").exists():
        refused(exported(kept, "-o", "/proc/room"), Exit.NETWORK, "/proc/room cannot be written: ")


def test_only_what_was_sent_since_then_is_exported(kept: Desk) -> None:
    """Pages may be empty; there is no proof of nothing."""
    never = ("--since", "2100-01-01")
    assert exported(kept, *never).stdout == ""
    assert "0 messages of the room" in exported(kept, *never, "--format", "md").stdout
    refused(exported(kept, *never, "--proof"), Exit.FIXABLE, "nothing was sent in 'lobby' since")
    assert exported(kept, "--since", "2000-01-01").stdout.count("\n") == 3
    refused(exported(kept, "--since", "soon"), Exit.USAGE, "'soon' is no time")


def test_a_range_with_proof_says_so(kept: Desk, tmp_path: Path) -> None:
    """On stderr, where whoever makes it reads it."""
    kept = Desk(tmp_path / "later")
    kept.hear(kept.alice.says("one"), kept.bob.says("two", at_ms=NOW_MS + 86_400_000))
    kept.keep()
    result = exported(kept, "--proof", "--since", "2023-11-15")
    assert result.return_value == Exit.OK
    assert "It proves #2 to #2; of what came before it has one hash." in result.stderr
    assert json.loads(result.stdout.splitlines()[0])["first"] == 2


def test_what_is_not_said_by_people_is_asked_for(kept: Desk) -> None:
    """Joins with --all, as in `zchat tail`."""
    for kind in ("md", "html"):
        assert "spoke here" not in exported(kept, "--format", kind).stdout
        assert "spoke here" in exported(kept, "--format", kind, "--all").stdout


def test_pages_have_no_place_for_a_proof(kept: Desk) -> None:
    """Nor is there one of a room that nobody has read here."""
    for more in (("--format", "md"), ("-o", "room.html")):
        refused(exported(kept, "--proof", *more), Exit.USAGE, "--proof goes with --format jsonl")
    refused(kept.run("export", "attic", "--offline"), Exit.FIXABLE, "No room 'attic'")


def test_a_room_that_nobody_has_read_is_empty(desk: Desk) -> None:
    assert exported(desk).return_value == Exit.OK
    refused(exported(desk, "--proof"), Exit.FIXABLE, "nothing was sent in 'lobby'")


@pytest.mark.parametrize("more", [(), ("--proof",)])
def test_a_full_disk_leaves_no_half_file(kept: Desk, tmp_path: Path, more: tuple[str, ...]) -> None:
    """Exit 3 and a sentence; what stood there before stands there still."""
    desk, path = Desk(tmp_path / "long"), tmp_path / "out" / "room.jsonl"
    desk.hear(*(desk.alice.says("x" * 60_000) for _ in range(5)))
    desk.keep()
    path.write_text("before")
    most, hard = 200_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        result = exported(desk, "-o", str(path), "--force", *more)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    refused(result, Exit.NETWORK, f"No space to write {path}: ")
    assert names(path.parent) == ["room.jsonl"]
    assert path.read_text() == "before"


def test_a_long_room_is_counted_through(desk: Desk, tmp_path: Path) -> None:
    """Where somebody sees it, and the lines themselves do not show how far it is."""
    path = tmp_path / "proof.jsonl"
    desk.hear(*(desk.alice.says("x") for _ in range(1_100)))
    desk.keep()
    for arguments, shown in [
        (("export", "lobby", "--offline", "--proof", "-o", str(path)), "Writing: 1,000 of 1,100"),
        (("evidence", "check", str(path)), "Checking: 1,000 of 1,100"),
    ]:
        terminal = Terminal(desk.home, *arguments)
        try:
            assert terminal.wait() == 0
            assert shown in terminal.raw.decode()
        finally:
            terminal.end()
    terminal = Terminal(desk.home, "export", "lobby", "--offline", "--since", "2100-01-01")
    try:
        assert terminal.wait() == 0
        assert terminal.text == ""
    finally:
        terminal.end()


def test_an_export_of_a_room_that_forked_is_written_and_ends_with_4(kept: Desk) -> None:
    """As `zchat tail`: all it can, then the fault."""
    vault = Profile(kept.home).vault("alice")
    vault.save_room(KEYS.tag, msgspec.structs.replace(RECORD, fault="it went back"))
    vault.close()
    for more in ((), ("--proof",)):
        result = exported(kept, *more)
        refused(result, Exit.SERVER_FAULT, "it went back")
        assert result.stdout.count("\n") == (5 if more else 3)


# ---- with real processes ----


def test_a_proof_is_checked_by_others_without_the_server(here: World, inside: Inside) -> None:
    """By bob, who knows the room; by dora, who has its passphrase; and by whoever has nothing."""
    invite, path = here.broker.invite(), here.folder / "proof.jsonl"
    for name, text in [("alice", "hello"), ("bob", "hi")]:
        assert inside(here.home(name), "send", invite, text).returncode == 0
    told = inside(here.home("alice"), "tail", "lobby", "--json")
    assert inside(here.home("alice"), "export", "lobby").stdout == told.stdout
    done = inside(here.home("alice"), "export", "lobby", "--proof", "-o", str(path))
    assert done.returncode == 0, done.stderr
    assert f"To check it: zchat evidence check {path}" in done.stderr
    words = inside(here.home("bob"), "verify", "lobby").stdout
    here.broker.end()
    gone = inside(here.home("bob"), "export", "lobby", "--proof")
    assert (gone.returncode, gone.stdout) == (3, path.read_text())
    assert "does not answer" in gone.stderr
    check = ("evidence", "check", str(path))
    (here.folder / "right").write_text(PASSPHRASE)
    known = inside(here.home("bob"), *check)
    unknown = inside(here.home("dora"), *check, "--passphrase-file", str(here.folder / "right"))
    for told in (known, unknown):
        assert told.returncode == 0, told.stderr
        assert "Holds: 2 messages of 2 members in lobby, #1 to #2." in told.stdout
        assert f"Words at #2: {words}" in told.stdout
    assert "That is the server of your invite to lobby." in known.stdout
    assert "is the server where this room and its keys were made" in unknown.stdout
    path.write_text(path.read_text().replace('"room":"lobby"', '"room":"attic"'))
    wrong = inside(here.home("dora"), *check, "--passphrase-file", str(here.folder / "right"))
    assert (wrong.returncode, wrong.stdout) == (7, "")
    assert "Not the passphrase of" in wrong.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's own")
def test_what_cannot_be_said_is_no_fault_of_the_file(spoken: Desk, tmp_path: Path) -> None:
    """A full disk under stdout is told as one."""
    (tmp_path / "proof.jsonl").write_bytes(spoken.export())
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*ZCHAT, "evidence", "check", str(tmp_path / "proof.jsonl")],
            env=environment(spoken.home),
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    assert done.returncode == Exit.NETWORK
    assert b"No space to write standard output" in done.stderr


def test_without_the_passphrase_only_the_chain_is_checked(spoken: Desk, tmp_path: Path) -> None:
    """That is no success: 2. At a terminal it is asked for, and Enter says that one has none."""
    path, nobody = tmp_path / "proof.jsonl", tmp_path / "nobody"
    path.write_bytes(spoken.export())
    result = CliRunner(env={"ZCHAT_HOME": str(nobody)}).invoke(
        cli, ["evidence", "check", str(path)], standalone_mode=False
    )
    refused(result, Exit.USAGE, "was not checked: that needs the passphrase of 'lobby'")
    assert "Holds: the chain from #1 to #3" in result.stdout
    assert "messages" not in result.stdout
    assert "Compare that key with your invite" in result.stdout
    terminal = Terminal(nobody, "evidence", "check", str(path))
    try:
        terminal.expect("Passphrase of lobby")
        terminal.type("\r")
        assert terminal.wait() == 2
        assert "Holds: the chain from #1 to #3" in terminal.text
    finally:
        terminal.end()
