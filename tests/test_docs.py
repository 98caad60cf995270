"""What is written for people is true: links, commands, settings, numbers, the promise.

Rules of this file: a page is compared with the program, never with a copy of the page kept here;
what is looked for in all files is looked for in this one as well.
"""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

import dev
from tests.processes import project_files, walked_files
from zchat.config import BrokerConfig, MemberConfig
from zchat.protocol import limits
from zchat.ui.cli.main import _SECTIONS, cli
from zchat.ui.commands import COMMANDS

HERE = Path(__file__).parent.parent
README = HERE / "README.md"
PROTOCOL = HERE / "docs" / "protocol.md"
PAGES = [README, HERE / "CHANGELOG.md", *sorted((HERE / "docs").glob("*.md"))]
CONFIGS = sorted((HERE / "config").glob("*.toml"))
SOURCES = sorted((HERE / "zchat").rglob("*.py"))

UNITS = {"KiB": limits.KIB, "MiB": limits.MIB, "GiB": limits.GIB}


@functools.cache
def text_of(path: Path) -> str:
    return path.read_text("utf-8")


def name_of(path: Path) -> str:
    return path.relative_to(HERE).as_posix()


@functools.cache
def tracked() -> list[Path]:
    """Every text file of the project."""
    return project_files()


def paragraphs(text: str) -> list[str]:
    return [part.strip() for part in text.split("\n\n") if part.strip()]


# ---- links ----


def anchors(path: Path) -> set[str]:
    """How the headings of a page can be pointed at."""
    headings = re.findall(r"^#+ (.+)$", text_of(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    """To a file of the project, and where it names a heading, to one that is there."""
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), f"{target} is not there"
        assert any(path == known or path in known.parents for known in tracked()), target
        assert not anchor or anchor in anchors(path), f"{target} has no such heading"


def test_every_page_can_be_reached_from_the_readme() -> None:
    """In one step."""
    for page in PAGES[1:]:
        assert f"]({name_of(page)})" in text_of(README)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_section_that_is_named_is_there(page: Path) -> None:
    """A number of a section of the protocol is that of one of its headings."""
    numbers = set(re.findall(r"^## (\d+)\. ", text_of(PROTOCOL), re.MULTILINE))
    assert set(re.findall(r"\bsection (\d+)\b", text_of(page))) <= numbers


# ---- commands ----


def code(text: str) -> Iterator[str]:
    """Lines of code in a page: in fences, and between backticks."""
    fenced = re.findall(r"^```[\w ]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    for block in fenced:
        yield from block.splitlines()
    yield from re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))


def invocations(lines: Iterator[str]) -> Iterator[list[str]]:
    """What stands behind `zchat` in lines of code, up to a pipe, a comma, a comment or the end."""
    for line in lines:
        for found in re.finditer(r"(?<![\w./-])zchat( [^|;,`]*)?", re.sub(r" #.*", "", line)):
            yield (found[1] or "").split()


@functools.cache
def help_of(*path: str) -> str:
    """`zchat PATH --help`, as on a screen of 80 columns."""
    done = CliRunner(env={"COLUMNS": "80"}).invoke(cli, [*path, "--help"])
    assert done.exit_code == 0, done.output
    return done.output


def check_invocation(words: list[str]) -> tuple[str, ...]:
    """The path of commands in it; each stands in a help, and so does each option."""
    command: click.Command = cli
    path: tuple[str, ...] = ()
    while isinstance(command, click.Group) and words and words[0][0].islower():
        assert words[0] in command.commands, f"zchat {' '.join(words)}"
        assert re.search(rf"^  {words[0]}  ", help_of(*path), re.MULTILINE)
        command, path = command.commands[words[0]], (*path, words.pop(0))
    for option in (word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)):
        assert re.search(rf"(^| ){option}\b", help_of(*path), re.MULTILINE), (path, option)
    return path


@pytest.mark.parametrize("page", [*PAGES, *CONFIGS], ids=name_of)
def test_every_command_that_a_page_names_is_in_the_help(page: Path) -> None:
    """With its options."""
    for words in invocations(code(text_of(page))):
        check_invocation(words)


def test_the_readme_names_what_one_needs_first() -> None:
    """The search above finds something, and a newcomer does too."""
    named = {check_invocation(words) for words in invocations(code(text_of(README)))}
    wanted = {"start", "join", "send", "tail", "invite", "man"}
    wanted |= {"broker", "broker audit", "lab demo"}
    assert wanted <= {" ".join(path) for path in named}


def strings(path: Path) -> Iterator[str]:
    """Every literal of a source, its docstrings too."""
    for node in ast.walk(ast.parse(text_of(path))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.mark.parametrize("source", SOURCES, ids=name_of)
def test_every_command_that_the_program_names_is_in_the_help(source: Path) -> None:
    """Hints that send a user to a command, and the comments of those who wrote it."""
    quoted = (found for text in strings(source) for found in re.findall(r"`([^`\n]+)`", text))
    for words in invocations(quoted):
        check_invocation(words)


def test_every_slash_command_of_the_readme_is_one() -> None:
    """As it can be typed in a room."""
    lines = [line.removeprefix("> ") for line in code(text_of(README))]
    typed = {found[1] for line in lines if (found := re.match(r"/([a-z]+)\b", line))}
    assert {"verify", "trust"} <= typed <= set(COMMANDS)


@pytest.mark.parametrize("page", [*PAGES, HERE / ".ci" / "run"], ids=name_of)
def test_every_task_that_is_named_is_one_of_dev_py(page: Path) -> None:
    """Those of README.md, and those that continuous integration runs."""
    tasks = set(re.findall(r"python3 dev\.py (\w+)", text_of(page)))
    assert tasks <= set(dev.COMMANDS)
    assert tasks or page.name not in ("README.md", "run")


@pytest.mark.parametrize("page", [*PAGES, *CONFIGS], ids=name_of)
def test_every_variable_that_is_named_is_read(page: Path) -> None:
    """It is a setting's, or a name in the program."""
    settings = {*BrokerConfig.__struct_fields__, *MemberConfig.__struct_fields__}
    known = {f"ZCHAT_{name.upper()}" for name in settings}
    known |= {name for path in SOURCES for name in re.findall(r"ZCHAT_[A-Z_]+", text_of(path))}
    assert set(re.findall(r"ZCHAT_[A-Z_]+", text_of(page))) <= known


# ---- the help of the commands ----


def all_commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths of all commands, groups too."""
    yield path
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from all_commands(command, (*path, name))
        else:
            yield (*path, name)


def command_at(path: tuple[str, ...]) -> click.Command:
    command: click.Command = cli
    for name in path:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    return command


@pytest.mark.parametrize(
    "path", list(all_commands(cli)), ids=lambda path: " ".join(path) or "zchat"
)
def test_every_help_has_an_example_and_explains_every_option(path: tuple[str, ...]) -> None:
    """The example runs this command, with options that it has; no sentence is cut off."""
    shown = help_of(*path)
    examples = [
        line for line in shown.splitlines() if re.match(r" {6}\S.*\bzchat |^ {6}zchat ", line)
    ]
    paths = [check_invocation(words) for words in invocations(iter(examples))]
    assert any(found[: len(path)] == path for found in paths), shown
    assert "..." not in re.sub(r"[A-Z]\]?\.\.\.|#\S*\.\.\.", "", shown), "cut off"
    for option in command_at(path).params:
        if isinstance(option, click.Option) and not option.hidden:
            assert option.help, f"{option.opts} is not explained"


@pytest.mark.parametrize("section", _SECTIONS)
def test_the_list_says_of_a_command_what_its_own_help_says_first(section: str) -> None:
    """The list is written apart so that it need not load the commands."""
    for name, (_, short) in _SECTIONS[section].items():
        assert command_at((name,)).get_short_help_str(1_000) == short


@pytest.mark.parametrize(
    ("path", "option", "default"),
    [
        ("join", "history", f"({MemberConfig().history:,})"),
        ("join", "timeout", f"({MemberConfig().timeout_s:g})"),
        ("start", "history", f"({MemberConfig().history:,})"),
        ("start", "timeout", f"({MemberConfig().timeout_s:g})"),
        ("send", "timeout", f"({MemberConfig().timeout_s:g})"),
        ("tail", "last", f"({MemberConfig().history:,})"),
        ("broker", "listen", f"Default {BrokerConfig().listen}."),
    ],
)
def test_a_default_that_a_help_names_is_the_default(path: str, option: str, default: str) -> None:
    """In numbers as people write them."""
    helps = {o.name: o.help for o in command_at((path,)).params if isinstance(o, click.Option)}
    assert default in (helps[option] or "")


# ---- settings ----


@pytest.mark.parametrize("config", CONFIGS, ids=name_of)
def test_every_setting_has_its_reason(config: Path) -> None:
    """Settings come in paragraphs, and each but the schema's opens with a comment."""
    first, *others = paragraphs(text_of(config))
    assert first.startswith("# ")
    for paragraph in others:
        lines = paragraph.splitlines()
        assert lines[0].startswith("# ") or lines == ["schema = 1"], paragraph
        assert any(not line.startswith("#") for line in lines), "a comment without a setting"


def test_a_number_in_a_comment_is_the_setting_below_it() -> None:
    """Where a comment says a size in other units."""
    for config in CONFIGS:
        for paragraph in paragraphs(text_of(config)):
            settings = [int(n) for n in re.findall(r"^\w+_bytes = (\d+)$", paragraph, re.MULTILINE)]
            named = [int(n) * UNITS[unit] for n, unit in re.findall(r"(\d+) ([KMG]iB)", paragraph)]
            most = {limits.MAX_WINDOW_BYTES}
            assert not settings or set(named) <= {*settings, *most}, paragraph


# ---- numbers of the protocol ----


def rows_under(heading: str) -> dict[str, str]:
    """The first two cells of each row of the first table under a heading."""
    below = text_of(PROTOCOL).split(f"\n{heading}\n", 1)[1]
    table = re.search(r"(?:^\|.*\n)+", below, re.MULTILINE)
    assert table is not None
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table[0].splitlines()]
    return {row[0]: row[-1] for row in cells[2:]}


def numbers(cell: str) -> list[int]:
    """Those in a cell, in bytes where a unit stands behind."""
    found = re.findall(r"(\d[\d,]*)(?: ([KMG]iB))?", cell)
    return [int(number.replace(",", "")) * UNITS.get(unit, 1) for number, unit in found]


BOUNDS = {
    "text": [limits.MAX_TEXT_BYTES],
    "body": [limits.MAX_BODY_BYTES],
    "envelope of class 0 / class 1": [limits.MAX_ENVELOPE_BYTES, limits.MAX_CAST_BYTES],
    "word": [limits.MAX_WORD_BYTES],
    "batch": [limits.MAX_BATCH_BYTES, limits.MAX_BATCH_ENTRIES],
    "ZMQ_MAXMSGSIZE, both sides": [limits.MAX_MESSAGE_BYTES],
    "window": [limits.MAX_WINDOW_BYTES],
    "rooms in a JOIN, and subscriptions per connection": [limits.MAX_ROOMS_PER_CONNECTION],
    "lineage": [limits.MAX_LINEAGE],
    "posts per access key (a broker's default)": [limits.POST_BURST, limits.POSTS_PER_S],
    "rooms made per access key (default)": [limits.ROOMS_PER_ACCESS_KEY],
    "bytes per room (default)": [limits.ROOM_BYTES],
    "connections per address (default)": [limits.CONNECTIONS_PER_ADDRESS],
    "connections begun per address, let in or not (default)": [
        limits.HANDSHAKE_BURST,
        limits.HANDSHAKES_PER_S,
        limits.KEPT_AWAY_S,
    ],
}


def test_the_bounds_of_the_page_are_those_of_the_program() -> None:
    """Row for row: none is missing here, none there."""
    assert {row: numbers(cell) for row, cell in rows_under("### Bounds").items()} == BOUNDS


def test_the_frames_of_the_page_are_bounded_as_in_the_program() -> None:
    """A word; an envelope of either class, or a batch."""
    rows = rows_under("## 3. Parties and transport")
    assert numbers(rows["0"]) == [limits.MAX_WORD_BYTES]
    longest = [limits.MAX_ENVELOPE_BYTES, limits.MAX_CAST_BYTES, limits.MAX_BATCH_BYTES]
    assert numbers(rows["1"]) == longest


@pytest.mark.parametrize(
    "said",
    [
        f"t = {limits.ROOT_OPS}, m = {limits.ROOT_MEMORY_BYTES // limits.KIB:,} KiB",
        f"t = {limits.VERIFY_OPS}, m = {limits.VERIFY_MEMORY_BYTES // limits.KIB:,} KiB",
        f"gets no answer for {limits.ANSWER_TIMEOUT_S:g} s",
        f"when nothing else was sent for {limits.IDLE_JOIN_S:g} s",
        f"that do not come for {limits.WITHHELD_S:g} s",
        f"min({limits.BEAT_MAX_S:g} s, max({limits.BEAT_MIN_S:g} s, N × 1 s))",
        f"at most {limits.MAX_PAGES_WAITING} may wait per connection",
        f"genesis {limits.GENESIS_BYTES}",
        f"header, {limits.HEADER_BYTES} bytes",
        f"**Head**, {limits.HEAD_BYTES} bytes",
    ],
)
def test_the_page_says_the_number_of_the_program(said: str) -> None:
    """In the sentence that decides by it."""
    assert said in text_of(PROTOCOL)


# ---- the promise ----


def promise_and_limits() -> tuple[str, str]:
    """As the protocol has them: the paragraph in italics of section 1, the first of section 12."""
    _, goals = text_of(PROTOCOL).split("\n## 1. ", 1)
    _, known = text_of(PROTOCOL).split("\n## 12. ", 1)
    promise = next(part for part in paragraphs(goals) if part.startswith("*"))
    return promise, paragraphs(known)[1]


def test_the_promise_never_stands_without_its_limits() -> None:
    """Whole, and right beneath it what it does not cover, or where that stands."""
    promise, known = promise_and_limits()
    printed = [path for path in tracked() if promise.strip("*")[:40] in text_of(path)]
    assert {README, PROTOCOL} <= set(printed)
    for path in printed:
        parts = paragraphs(text_of(path))
        assert promise in parts, f"{path} prints it changed"
        below = parts[parts.index(promise) + 1]
        assert below == known or (path == PROTOCOL and "section 12" in below), path


# ---- what the program says ----

# What stands on a page where the program fills something in.
_FILLED_IN = re.compile(
    r"[\wа]+~[0-9a-f]{4}|\b(?:alice|bob|mallory)\b|'\w+'|#?\d[\d:.,]*(?:-#\d+)?"
    r"|(?<=room )[0-9a-f]{8}|(?<=server says: )\S+|\$?\.\.\.|\S+\.db\S*|[();:]"
)


def template(node: ast.AST) -> str:
    """A literal of a source, with a sign where something is filled in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return " ".join(re.sub(r"\{\w+(![rs])?\}|%[sd]", "\0", node.value).split())
    if isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else "\0" for part in node.values]
        return " ".join("".join(map(str, parts)).split())
    return ""


@functools.cache
def sayings() -> str:
    """Everything that the program can say."""
    nodes = (node for path in SOURCES for node in ast.walk(ast.parse(text_of(path))))
    return "\n".join(said for node in nodes if (said := template(node)))


def quoted(page: Path) -> Iterator[str]:
    """What a page says that the program says, in pieces between what is filled in."""
    prose = re.sub(r"^```.*?^```$", "", text_of(page), flags=re.M | re.S)
    for quote in re.findall(r"`([^`\n]+)`|\"([^\"\n]+)\"", prose):
        words = next(filter(None, quote))
        if not re.match(r"zchat |python3 |pipx |systemctl |[\w ‖]+ = |ID ", words):
            yield from (piece.strip(" !-(),:;") for piece in _FILLED_IN.split(words))


def is_said(piece: str) -> bool:
    """By one literal, or by one that goes on where another one ends."""
    words = piece.split(" ")
    halves = ((" ".join(words[:at]), " ".join(words[at:])) for at in range(2, len(words) - 1))
    return piece in sayings() or any(one in sayings() and two in sayings() for one, two in halves)


@pytest.mark.parametrize("name", ["operations.md", "security.md"])
def test_the_program_says_what_a_page_says_it_says(name: str) -> None:
    """A sentence that was changed in the program is changed there."""
    pieces = {piece for piece in quoted(HERE / "docs" / name) if len(piece.split()) > 2}
    assert len(pieces) > 15
    assert {piece for piece in pieces if not is_said(piece)} == set()
    assert not is_said("the server says what it never says")


# ---- what must not stand anywhere ----


def places_named(path: Path) -> list[str]:
    """Hosts in addresses, folders of somebody's machine, names of package registries."""
    text = text_of(path)
    hosts: list[Any] = re.findall(r"https?://([\w.-]*\w)", text)
    names = {
        "keepachangelog.com",
        "etherx.jabber.org",
        "jabber.org",
        "www.w3.org",
        "127.0.0.1",
    }  # names of XML spaces; the machine one is on
    hosts = [host for host in hosts if host not in names]
    folders = re.findall(r"(?<![\w.~])/(?:home|Users|root|work|workspace)/\w+", text)
    return [*hosts, *folders, *registries(text)]


def registries(text: str) -> list[str]:
    return re.findall(r"(?i)\bpyp[i]\b|pythonh[o]sted|\banacond[a]\b", text)


def test_without_git_the_same_files_are_looked_at() -> None:
    """And whatever else somebody has left there."""
    assert set(tracked()) <= set(walked_files())


def test_nothing_depends_on_a_place() -> None:
    """What a user gets names no host and nobody's folders; nothing at all names a registry."""
    tests = HERE / "tests"
    for path in tracked():
        found = registries(text_of(path)) if tests in path.parents else places_named(path)
        assert found == [], path


@pytest.mark.parametrize(
    "planted",
    ["https://somewhere.example/x", "see /home/somebody", "http://10.0.0.1:80/", "py" + "pi"],
)
def test_a_planted_place_is_found(tmp_path: Path, planted: str) -> None:
    """The search can turn red."""
    path = tmp_path / "page.md"
    path.write_text(f"a line\n{planted}\n")
    assert places_named(path)
