"""Lines in a terminal: where they are folded, and when they have colours."""

import json
import re

import pytest
import segno
from hypothesis import example, given
from hypothesis import strategies as st
from wcwidth import wcswidth

from tests.conftest import Inside
from tests.processes import World
from zchat.ui.fold import INDENT, folded, hanging
from zchat.ui.ink import coloured, wants_colour
from zchat.ui.safe import FENCE, safe_line

words = st.text(st.sampled_from("ab.漢é\u0301שл\t⏎"), max_size=40)
texts = st.lists(words, max_size=6).map(" ".join).map(safe_line)


def width(row: str) -> int:
    return max(0, wcswidth(row.replace(FENCE[0], "").replace(FENCE[1], "")))


@example("a " + "b" * 40, "", 30)  # a word that fits the first row, and none below
@given(texts, texts, st.integers(14, 30))
def test_no_row_is_wider_than_the_terminal(head: str, text: str, columns: int) -> None:
    """All of the text is there, in order; every row but the first is indented; fences are shut."""
    rows = ["".join(row) for row in hanging(head, text, columns)]
    assert all(width(row) <= columns for row in rows)
    assert all(row.startswith(INDENT) for row in rows[1:])
    assert all(row.count(FENCE[0]) == row.count(FENCE[1]) for row in rows)
    seen = re.sub(r"[\s\u2068\u2069]", "", "".join(rows))
    assert seen == re.sub(r"[\s\u2068\u2069]", "", head + text)


def test_a_line_that_fits_is_left_as_it_is() -> None:
    """To the last cell; one more, and it is broken at a space."""
    assert hanging("12:00 bob: ", "two words", 20) == [("12:00 bob: ", "two words")]
    assert hanging("12:00 bob: ", "two words", 19) == [
        ("12:00 bob: ", "two"),
        ("", f"{INDENT}words"),
    ]
    assert folded("漢字漢字", 4, 6) == ["漢字", "漢字"]


def test_a_command_in_a_sentence_stays_in_one_piece(here: World, inside: Inside) -> None:
    """It is there to be copied: a row that was folded would be typed half."""
    inside(here.home("alice"), "tail", here.broker.invite())
    here.broker.end()
    terminal = here.terminal("alice", "tail", "lobby", columns=50)
    assert terminal.wait() == 3
    terminal.expect(rf"^      \(`zchat broker --listen {here.broker.address}`\)\?")


@pytest.mark.parametrize(
    ("asked", "environment", "is_terminal", "wanted"),
    [
        ("auto", {"TERM": "xterm"}, True, True),
        ("auto", {"TERM": "xterm"}, False, False),
        ("auto", {"TERM": "dumb"}, True, False),
        ("auto", {}, True, False),
        ("auto", {"TERM": "xterm", "NO_COLOR": "1"}, True, False),
        ("auto", {"TERM": "xterm", "NO_COLOR": ""}, True, True),
        ("auto", {"FORCE_COLOR": "1"}, False, True),
        ("auto", {"FORCE_COLOR": "0"}, False, False),
        ("auto", {"NO_COLOR": "1", "FORCE_COLOR": "1"}, True, False),
        ("always", {"NO_COLOR": "1", "TERM": "dumb"}, False, True),
        ("never", {"FORCE_COLOR": "1", "TERM": "xterm"}, True, False),
    ],
)
def test_who_says_whether_there_are_colours(
    asked: str, environment: dict[str, str], is_terminal: bool, wanted: bool
) -> None:
    """--color, then NO_COLOR, then FORCE_COLOR, then the terminal."""
    assert wants_colour(asked, environment, is_terminal=is_terminal) is wanted


COLOUR = re.compile(r"\x1b\[0;3[1-6]m")


def test_names_have_colours_where_colours_are_wanted(here: World, inside: Inside) -> None:
    """In a terminal, or by --color always; never in plain mode unasked; JSON has none at all."""
    invite, home = here.broker.invite(), here.home("alice")
    assert inside(here.home("bob"), "send", invite, "hello").returncode == 0
    inside(home, "tail", invite)
    for words in (["tail", "lobby"], ["search", "lobby", "hello"], ["members", "lobby"]):
        plain = inside(home, *words).stdout
        assert "\x1b" not in plain
        always = inside(home, *words, "--color", "always", NO_COLOR="1").stdout
        assert COLOUR.search(always)
        assert re.sub(r"\x1b\[[0-9;]*m", "", always) == plain
        assert "\x1b" not in inside(home, *words, "--json", "--color", "always").stdout
    for more, has_colours in (([], True), (["--color", "never"], False)):
        terminal = here.terminal("alice", "tail", "lobby", *more, NO_COLOR="")
        assert terminal.wait() == 0
        assert bool(COLOUR.search(terminal.raw.decode())) is has_colours
    always = here.run("alice", "join", "lobby", "--color", "always", FORCE_COLOR="").stdout
    assert COLOUR.search(always)
    joined = here.run("alice", "join", "lobby").stdout
    assert joined == re.sub(r"\x1b\[[0-9;]*m", "", always)


@pytest.mark.parametrize(("more", "has_colours"), [([], False), (["--color", "always"], True)])
def test_in_the_chat_as_well_what_was_asked_for_goes_before_no_color(
    here: World, inside: Inside, more: list[str], has_colours: bool
) -> None:
    """The prompt, bold and cursor stay as they are."""
    invite = here.broker.invite()
    assert inside(here.home("bob"), "send", invite, "hello").returncode == 0
    alice = here.terminal("alice", "join", invite, "--name", "alice", *more, NO_COLOR="1")
    alice.expect(": hello$")
    alice.expect("^>")
    alice.type("/quit\r")
    assert alice.wait() == 0
    assert bool(re.search(r"\x1b\[0;3[1-6]", alice.raw.decode())) is has_colours


def test_a_name_without_a_key_has_no_colour() -> None:
    """And nothing that is empty begins a sequence."""
    assert coloured("", b"key") == ""
    assert coloured("bob", b"key").endswith("bob\x1b[0m")


# ---- a code for a camera ----

LIGHT = {"█": (1, 1), "▀": (1, 0), "▄": (0, 1), " ": (0, 0)}


def modules_of(rows: list[str]) -> list[list[int]]:
    """What a camera sees of half blocks: 1 is dark."""
    pairs = [[LIGHT[char] for char in row] for row in rows]
    return [[1 - pair[half] for pair in row] for row in pairs for half in (0, 1)]


def test_the_invite_is_drawn_as_the_code_of_its_line(here: World, inside: Inside) -> None:
    """Module for module, within light ones; as wide on every row; nothing else is in it."""
    invite = here.broker.invite()
    inside(here.home("alice"), "tail", invite)
    done = inside(here.home("alice"), "invite", "lobby", "--qr")
    assert done.returncode == 0
    assert "The passphrase is not in it" in done.stderr
    modules = modules_of(done.stdout.splitlines())
    assert {len(row) for row in modules} == {len(modules[0])}
    code = [list(map(int, row)) for row in segno.make_qr(invite, error="l").matrix]
    inner = [row[2 : 2 + len(code)] for row in modules[2 : 2 + len(code)]]
    assert inner == code
    assert sum(map(sum, modules)) == sum(map(sum, code))
    assert len(done.stdout.splitlines()) < 24


def test_a_code_is_black_on_white_in_any_terminal(here: World, inside: Inside) -> None:
    """Set outright, row for row; where it has no room or no blocks there is none."""
    inside(here.home("alice"), "tail", here.broker.invite())
    plain = inside(here.home("alice"), "invite", "lobby", "--qr").stdout.splitlines()
    terminal = here.terminal("alice", "invite", "lobby", "--qr", columns=80, rows=40)
    assert terminal.wait() == 0
    assert [row[: len(plain[0])] for row in terminal.screen.display[: len(plain)]] == plain
    for cell in terminal.screen.buffer[0].values():
        assert (cell.fg, cell.bg) in {("ffffff", "000000"), ("default", "default")}
    narrow = here.terminal("alice", "invite", "lobby", "--qr", columns=30)
    assert narrow.wait() == 1
    narrow.expect(r"the code is \d+ columns$")
    ascii_only = here.run("alice", "invite", "lobby", "--qr", PYTHONIOENCODING="ascii")
    assert (ascii_only.returncode, ascii_only.stdout) == (1, "")
    assert "needs blocks" in ascii_only.stderr


def test_an_invite_as_an_object(here: World, inside: Inside) -> None:
    """And either an object or a code."""
    inside(here.home("alice"), "tail", here.broker.invite())
    row = json.loads(inside(here.home("alice"), "invite", "lobby", "--json").stdout)
    assert row == {"v": 1, "room": "lobby", "member": "alice", "invite": here.broker.invite()}
    assert inside(here.home("alice"), "invite", "lobby", "--json", "--qr").returncode == 2
