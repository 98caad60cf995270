"""The invite line: it comes back as it was made, and whatever is changed in it is noticed.

Rules of this file: what an invite means is read from docs/protocol.md, section 11, not from the
code; a refusal is one sentence that a person can act on.
"""

import base64
import string

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from zchat.errors import BadInvite, BadRoomName
from zchat.member.invite import (
    Invite,
    Origin,
    Server,
    format_address,
    parse_address,
    parse_invite,
    stem,
)
from zchat.protocol.keys import room_salt
from zchat.protocol.labels import Label, digest
from zchat.protocol.words import canonical_room_name

HERE = Origin(bytes(range(32)), bytes(range(32, 64)))
THERE = Origin(b"c" * 32, b"l" * 32)
LINE = str(Invite(Server("chat.example.org", 4826, HERE), "lobby", HERE))
MOVED = str(Invite(Server("::1", 4826, HERE), "lobby", THERE))

keys = st.builds(Origin, st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}", fullmatch=True)
addresses = st.one_of(st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str), names)
servers = st.builds(Server, addresses, st.integers(1, 65_535), keys)


def canonical_or_none(typed: str) -> str:
    """The room name in its canonical form; the empty one of a stem where it cannot be used."""
    try:
        return canonical_room_name(typed)
    except BadRoomName:
        return ""


shown = st.characters(exclude_categories=["C", "Z"])
room_names = st.text(shown, max_size=20).map(canonical_or_none)


@st.composite
def invites(draw: st.DrawFn) -> Invite:
    """Any invite: to a room, to a room that moved, or to none."""
    server = draw(servers)
    room = draw(room_names)
    moved = bool(room) and draw(st.booleans())
    return Invite(server, room, draw(keys) if moved else server.keys)


def refusal(line: str) -> str:
    """What is said about a line that is refused: one sentence, and what to do next."""
    with pytest.raises(BadInvite) as caught:
        parse_invite(line)
    return reason_of(caught.value)


def reason_of(error: BadInvite) -> str:
    said = str(error)
    assert said.startswith("That invite cannot be used: ")
    assert said.endswith(".")
    assert said.isprintable()
    assert error.advice
    return said.removeprefix("That invite cannot be used: ").removesuffix(".")


# ---- made and read ----


@settings(deadline=None)
@given(invites())
def test_an_invite_is_read_as_it_was_made(invite: Invite) -> None:
    """It is a line of printable ASCII without spaces, of at most 1,024 characters."""
    line = str(invite)
    assert parse_invite(line) == invite
    assert str(parse_invite(line)) == line
    assert set(line) <= set(string.ascii_letters + string.digits + "-._~:/#[]%")
    assert len(line) <= 1024


def test_an_invite_holds_an_address_a_room_and_public_keys_and_nothing_else() -> None:
    """Byte for byte as the page has it."""
    head, _, fragment = LINE.partition("#")
    assert head == "zchat://chat.example.org:4826/lobby"
    payload = base64.urlsafe_b64decode(fragment + "=" * (-len(fragment) % 4))
    assert payload[:-4] == b"\x01" + HERE.curve_key + HERE.log_key
    assert payload[-4:] == digest(Label.INVITE, 4, payload[:-4])
    head, _, fragment = MOVED.partition("#")
    assert head == "zchat://[::1]:4826/lobby"
    payload = base64.urlsafe_b64decode(fragment + "=" * (-len(fragment) % 4))
    assert payload[1:-4] == HERE.curve_key + HERE.log_key + THERE.curve_key + THERE.log_key


def test_a_stem_names_a_server_and_any_room_can_be_written_into_it() -> None:
    server = Server("chat.example.org", 4826, HERE)
    made = stem(server)
    assert str(made).startswith("zchat://chat.example.org:4826/#")
    assert parse_invite(str(made)) == made == Invite(server, "", HERE)
    by_hand = str(made).replace("/#", "/b%C3%BCro#")
    assert parse_invite(by_hand) == Invite(server, "büro", HERE)


@pytest.mark.parametrize(
    ("written", "room"),
    [("LOBBY", "lobby"), ("%4cobby", "lobby"), ("%EF%BC%A2", "b"), ("stra%c3%9Fe", "strasse")],
)
def test_a_room_is_read_in_its_canonical_form(written: str, room: str) -> None:
    assert parse_invite(LINE.replace("/lobby#", f"/{written}#")).room == room


def test_the_salt_of_a_room_comes_from_where_it_was_made() -> None:
    """Not from where it is now: else a room could not move."""
    assert parse_invite(LINE).origin.salt("lobby") == room_salt(*HERE_KEYS, "lobby")
    assert parse_invite(MOVED).origin.salt("lobby") == room_salt(*THERE_KEYS, "lobby")


HERE_KEYS = (HERE.curve_key, HERE.log_key)
THERE_KEYS = (THERE.curve_key, THERE.log_key)


# ---- changed ----

changes = st.sampled_from(["replace", "insert", "drop", "swap"])
letters = st.one_of(st.sampled_from(string.printable), st.characters())


def changed(line: str, how: str, at: int, letter: str) -> str:
    """The line with one mistake in it, as eyes, fingers and programs make them."""
    if how == "replace":
        return line[:at] + letter + line[at + 1 :]
    if how == "insert":
        return line[:at] + letter + line[at:]
    if how == "drop":
        return line[:at] + line[at + 1 :]
    return line[:at] + line[at + 1 : at + 2] + line[at : at + 1] + line[at + 2 :]


@settings(max_examples=300, deadline=None)
@given(invite=invites(), how=changes, where=st.floats(0, 1, exclude_max=True), letter=letters)
def test_one_changed_letter_is_refused_or_leads_to_another_place_with_the_same_keys(
    invite: Invite, how: str, where: float, letter: str
) -> None:
    """Never to other keys: whoever answers there cannot pose as the server that was meant."""
    line = str(invite)
    mistaken = changed(line, how, int(where * len(line)), letter)
    assume(mistaken != line)
    try:
        read = parse_invite(mistaken)
    except BadInvite as error:
        reason_of(error)
        return
    assert (read.server.keys, read.origin) == (invite.server.keys, invite.origin)
    assert mistaken.partition("#")[0] != line.partition("#")[0]


@pytest.mark.parametrize("line", [LINE, MOVED], ids=["at home", "moved"])
def test_every_single_change_behind_the_hash_sign_is_refused(line: str) -> None:
    """Every place, every letter of the alphabet it is written in."""
    alphabet = f"{string.ascii_letters}{string.digits}-_=+/%?# "
    for at in range(line.index("#") + 1, len(line)):
        for letter in alphabet:
            if letter != line[at]:
                refusal(changed(line, "replace", at, letter))
        refusal(changed(line, "insert", at, "A"))
        refusal(changed(line, "drop", at, ""))
        refusal(line[:at])


@settings(deadline=None)
@given(st.one_of(st.text(), st.text().map(lambda t: f"zchat://{t}"), st.text().map(LINE.__add__)))
def test_whatever_is_pasted_is_read_or_refused_with_a_sentence(line: str) -> None:
    try:
        read = parse_invite(line)
    except BadInvite as error:
        reason_of(error)
    else:
        assert parse_invite(str(read)) == read


# ---- refused ----


def with_payload(payload: bytes) -> str:
    """A line with this behind its hash sign, and the check bytes that belong to it."""
    whole = payload + digest(Label.INVITE, 4, payload)
    return f"zchat://h:1/r#{base64.urlsafe_b64encode(whole).rstrip(b'=').decode()}"


ONE = b"\x01" + HERE.curve_key + HERE.log_key
FRAGMENT = LINE.partition("#")[2]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("", "it does not begin with zchat://"),
        ("https://chat.example.org/lobby", "it does not begin with zchat://"),
        (f" {LINE}", "it does not begin with zchat://"),
        (LINE.upper(), "it does not begin with zchat://"),
        (LINE.replace("lobby", "l" * 1024), "it is longer than 1024 characters"),
        (LINE.partition("#")[0], "it is cut off or mixed up"),
        ("zchat://chat.example.org:4826", "it is cut off or mixed up"),
        (f"zchat://chat.example.org#{FRAGMENT}", "it is cut off or mixed up"),
        (LINE.replace("#", "?cost=1#"), "it carries settings, and zchat takes none from an invite"),
        (f"{LINE}?cost=1", "it carries settings, and zchat takes none from an invite"),
        (LINE.replace("://", "://me@"), "'me@chat.example.org:4826' is not HOST:PORT"),
        (LINE.replace(":4826", ""), "'chat.example.org' is not HOST:PORT"),
        (LINE.replace("4826", "0"), "it names no port"),
        (LINE.replace("4826", "65536"), "'chat.example.org:65536' is not HOST:PORT"),
        (LINE.replace("lobby", "a%20b"), "its room name cannot be used"),
        (LINE.replace("lobby", "a b"), "its room name cannot be used"),
        (LINE.replace("lobby", "a/b"), "its room name cannot be used"),
        (LINE.replace("lobby", "%ff"), "its room name cannot be used"),
        (LINE.replace("lobby", "%2"), "its room name cannot be used"),
        (LINE.replace("lobby", "büro"), "its room name cannot be used"),
        (LINE.replace("lobby", "l" * 65), "its room name cannot be used"),
        (LINE.replace("#", "#~"), "the part after # is mangled"),
        (LINE.replace("#", "#ü"), "the part after # is mangled"),
        (f"{LINE}=", "the part after # is mangled"),
        (f"{LINE} ", "the part after # is mangled"),
        (f"{LINE}\n", "the part after # is mangled"),
        (f"{LINE}#", "the part after # is mangled"),
        (LINE[:-1], "the part after # is mangled"),
        (LINE[: LINE.index("#") + 1], "the part after # is cut off"),
        (LINE[: LINE.index("#") + 5], "the part after # is cut off"),
        (with_payload(ONE[:-1]), "the part after # is cut off"),
        (with_payload(ONE + HERE.curve_key), "the part after # is cut off"),
        (with_payload(ONE)[:-6] + "AAAAAA", "a letter after # is wrong"),
        (with_payload(b"\x02" + ONE[1:]), "it is of a newer version of zchat"),
        (with_payload(b"\x00"), "it is of a newer version of zchat"),
        (with_payload(ONE + ONE[1:]), "it names its own server as the room's origin"),
        (MOVED.replace("lobby", ""), "it names the origin of a room, and no room"),
    ],
)
def test_a_line_is_refused_for_its_reason(line: str, reason: str) -> None:
    assert refusal(line) == reason


def test_a_sound_line_by_hand_is_taken() -> None:
    """The lines above fail for what they say, not for how they are made."""
    assert parse_invite(with_payload(ONE)) == Invite(Server("h", 1, HERE), "r", HERE)
    assert parse_invite(with_payload(ONE + THERE.curve_key + THERE.log_key)).origin == THERE


# ---- addresses ----


@pytest.mark.parametrize(
    ("typed", "host", "port"),
    [
        ("chat.example.org:1", "chat.example.org", 1),
        ("127.0.0.1:65535", "127.0.0.1", 65_535),
        ("[::1]:4826", "::1", 4826),
        ("[::ffff:192.0.2.1]:80", "::ffff:192.0.2.1", 80),
        ("[FE80::A]:0", "FE80::A", 0),
        ("my_host-2.local.:10", "my_host-2.local.", 10),
        (f"{'a' * 253}:1", "a" * 253, 1),
    ],
)
def test_an_address_is_a_host_and_a_port(typed: str, host: str, port: int) -> None:
    assert parse_address(typed) == (host, port)
    assert format_address(host, port) == typed


@pytest.mark.parametrize("host", ["localhost", "192.0.2.1", "[::1]"])
def test_a_port_can_be_left_out_where_there_is_a_default(host: str) -> None:
    bare = host.strip("[]")
    assert parse_address(host, 4826) == (bare, 4826)
    assert parse_address(host, 0) == (bare, 0)
    assert parse_address(f"{host}:7", 4826) == (bare, 7)


@pytest.mark.parametrize(
    "typed",
    [
        *("", ":", ":1", "host", "host:", "host:01", "host:65536", "host:99999", "host:100000"),
        *("host:-1", "host:+1", "host:1 ", " host:1", "host: 1", "host:x", "host:١", "höst:1"),
        *("a b:1", "host:1:2", "::1:4826", "[::1]", "[::1:1", "::1]:1", "[]:1", "[host]:1"),
        *("[1.2.3.4]:1", "[::1%eth0]:1", "[1::2::3]:1", "[:::]:1", "-host:1", ".host:1", "_host:1"),
        *("user@host:1", "host/:1", "host\n:1", "host:1\n", f"{'a' * 254}:1"),
    ],
)
def test_what_is_no_address_is_refused(typed: str) -> None:
    with pytest.raises(BadInvite) as caught:
        parse_address(typed)
    assert str(caught.value).startswith("That address cannot be used: ")
    assert str(caught.value).endswith(" is not HOST:PORT.")
    assert caught.value.advice
