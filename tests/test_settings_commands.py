"""`zchat config` and `help`, and what is mistyped, as a user runs them."""

import re
from pathlib import Path

import pytest

from tests.conftest import Inside
from tests.processes import World
from zchat.member.invite import Invite, Origin, parse_invite
from zchat.ui.cli.manual import TOPICS, laid_out
from zchat.ui.schema import OBJECTS

CONFIG = Path(__file__).parent.parent / "config"


@pytest.mark.parametrize("kind", ["broker", "member"])
def test_a_file_of_settings_is_written_once_and_is_the_projects_own(
    tmp_path: Path, kind: str, inside: Inside
) -> None:
    """It is what stands in config/, it checks, and a second init leaves it alone."""
    home = tmp_path / "home"
    written = inside(home, "config", "init", kind)
    assert written.returncode == 0, written.stderr
    path = Path(inside(home, "config", "path", kind).stdout.strip())
    assert path.read_bytes() == (CONFIG / f"{kind}.toml").read_bytes()
    assert inside(home, "config", "check").returncode == 0
    path.write_text("histroy = 3\n" if kind == "member" else "litsen = ''\n")
    again = inside(home, "config", "init", kind)
    assert (again.returncode, "stays as it is" in again.stderr) == (1, True)
    wrong = inside(home, "config", "check")
    assert (wrong.returncode, "did you mean" in wrong.stderr) == (1, True)


def test_settings_are_shown_with_where_they_come_from(tmp_path: Path, inside: Inside) -> None:
    """Environment over file over default."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "member.toml").write_text('history = 7\nname = "alice"\n')
    shown = inside(home, "config", "show", "member", "--origin", ZCHAT_HISTORY="9").stdout
    assert "history = 9  # environment ZCHAT_HISTORY" in shown
    assert f'name = "alice"  # file {home / "member.toml"}' in shown
    assert "timeout_s = 30.0  # default" in shown


def test_a_variable_that_sets_nothing_is_told_by_the_check(tmp_path: Path, inside: Inside) -> None:
    """With the nearest that does; all that is wrong in one go."""
    names = {"ZCHAT_HISTROY": "9", "ZCHAT_COLOUR_OF_THE_SEA": "blue", "ZCHAT_NAME": "alice"}
    done = inside(tmp_path, "config", "check", **names)
    assert done.returncode == 1
    assert "environment ZCHAT_HISTROY: there is no setting of that name" in done.stderr
    assert "did you mean 'ZCHAT_HISTORY'." in done.stderr
    assert "environment ZCHAT_COLOUR_OF_THE_SEA: there is no setting of that name." in done.stderr
    assert "member: nothing wrong." in done.stderr
    (tmp_path / "member.toml").write_text("histroy = 3\n")
    done = inside(tmp_path, "config", "check", **names)
    assert done.stderr.count("did you mean") == 2
    known = {"ZCHAT_PASSPHRASE_FILE": "x", "ZCHAT_LISTEN": "127.0.0.1:0"}
    (tmp_path / "member.toml").unlink()
    done = inside(tmp_path, "config", "check", **known)
    assert (done.returncode, "environment: nothing wrong." in done.stderr) == (0, True)


def test_every_topic_is_explained_and_another_is_refused(tmp_path: Path, inside: Inside) -> None:
    """The list of topics names them all."""
    listed = inside(tmp_path, "help").stdout.partition("Topics: ")[2].partition(".")[0]
    for topic in listed.split(", "):
        assert len(inside(tmp_path, "help", topic).stdout.splitlines()) > 3
    unknown = inside(tmp_path, "help", "cooking")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert all(topic in unknown.stderr for topic in listed.split(", "))
    assert inside(tmp_path, "help", "tail").stdout == inside(tmp_path, "tail", "--help").stdout


@pytest.mark.parametrize("columns", [60, 80, 100])
@pytest.mark.parametrize("topic", TOPICS)
def test_a_topic_is_laid_out_for_its_terminal(topic: str, columns: int) -> None:
    """No word is lost, no line too long but a command's, which stays in one piece."""
    shown = laid_out(TOPICS[topic], columns)
    assert shown.split() == TOPICS[topic].split()
    for line in shown.splitlines():
        assert len(line) <= columns or (line in TOPICS[topic] and "zchat " in line), line


def test_the_help_of_scripting_names_every_field(inside: Inside, tmp_path: Path) -> None:
    """Those that a command is given."""
    told = set(re.findall(r"^MESSAGE_(\w+)", inside(tmp_path, "help", "scripting").stdout, re.M))
    assert {name.lower() for name in told} == set(OBJECTS["tail"]) - {"v", "text"}


MISTYPED = [
    (["tial", "lobby"], 2, "Did you mean 'tail'?"),
    (["broker", "audti"], 2, "Did you mean 'audit'?"),
    (["tail", "lobby", "--jsno"], 2, "'--json'"),
    (["help", "jason"], 1, "Did you mean 'json'?"),
    (["tail", "loby"], 1, "Did you mean 'lobby'?"),
    (["send", "lobbyy", "text"], 1, "Did you mean 'lobby'?"),
    (["search", "lobb", "word"], 1, "Did you mean 'lobby'?"),
    (["invite", "Loby"], 1, "Did you mean 'lobby'?"),
    (["forget", "lobbi", "--yes"], 1, "Did you mean 'lobby'?"),
    (["join", "--room", "lobyb"], 1, "Did you mean 'lobby'?"),
]


def test_what_is_mistyped_is_asked_back(here: World, inside: Inside) -> None:
    """Commands, options, topics, rooms: the nearest is named, and nothing is made."""
    inside(here.home("alice"), "tail", here.broker.invite())
    members = here.home("alice") / "members"
    before = sorted(path.name for path in members.iterdir())
    for command, code, says in MISTYPED:
        done = inside(here.home("alice"), *command)
        assert (done.returncode, done.stdout) == (code, ""), command
        assert says in done.stderr, command
    assert sorted(path.name for path in members.iterdir()) == before
    assert "Did you mean" not in inside(here.home("alice"), "tail", "quite-another").stderr


def test_a_mistyped_room_makes_no_member(tmp_path: Path, inside: Inside) -> None:
    """In an empty profile, nothing at all."""
    for command in ("tail", "send", "invite", "forget"):
        assert inside(tmp_path / "home", command, "lobby", "--name", "x").returncode == 1
    assert not (tmp_path / "home").exists()


def test_where_a_server_runs_another_room_may_be_meant(here: World, inside: Inside) -> None:
    """It is asked back before any passphrase is asked for, and goes on."""
    inside(here.home("alice"), "tail", here.broker.invite())
    (here.home("alice") / "broker").symlink_to(here.broker.home / "broker")
    for command in (["tail"], ["export"], ["send"], ["members"]):
        done = inside(here.home("alice"), *command, "loby")
        assert done.returncode == 2
        assert done.stderr.startswith(
            "No room 'loby' is known here yet. Did you mean 'lobby'? It is looked for at your own"
        )
        done = inside(here.home("alice"), *command, "elsewhere")
        assert done.stderr.startswith("No room 'elsewhere' is known here yet. It is looked for")
    assert "is known here" not in inside(here.home("alice"), "tail", "elsewhere", "--new").stderr


ON_WHAT_IS_KEPT = [["search", "{}", "word"], ["export", "{}", "--offline"], ["rejoin", "{}"]]


@pytest.mark.parametrize("command", ON_WHAT_IS_KEPT, ids=lambda command: command[0])
def test_what_reads_only_what_is_kept_asks_for_no_passphrase_of_an_unknown_room(
    here: World, inside: Inside, command: list[str]
) -> None:
    """Beside a server, too, and by invite: the room is unknown, and the nearest is named."""
    inside(here.home("alice"), "tail", here.broker.invite())
    (here.home("alice") / "broker").symlink_to(here.broker.home / "broker")
    for room in ("loby", here.broker.invite("loby")):
        done = inside(here.home("alice"), *(part.format(room) for part in command))
        assert (done.returncode, done.stdout) == (1, "")
        assert "No room 'loby' is known here." in done.stderr
        assert "Did you mean 'lobby'?" in done.stderr
        assert "passphrase" not in done.stderr
    invite = parse_invite(here.broker.invite())
    other = str(Invite(invite.server, "lobby", Origin(bytes(32), invite.origin.log_key)))
    done = inside(here.home("alice"), *(part.format(other) for part in command))
    assert (done.returncode, "No room 'lobby' is known here." in done.stderr) == (1, True)
