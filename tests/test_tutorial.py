"""README.md and docs/tutorial.md, done as they say: what is on the page appears on the screen.

Rules of this file: every block of these pages that holds a command is played, in the page's order,
in shells in terminals (tests/pages.py says how a page is read); what a page shows is compared row
for row. `python3 dev.py` becomes `zchat` here, for tests/test_setup.py is about that half.
"""

import os
import re
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pages import COLUMNS, Player

HERE = Path(__file__).parent.parent
README, TUTORIAL = HERE / "README.md", HERE / "docs" / "tutorial.md"

COMMANDS = {
    "make": "echo cc -o it it.c; echo it.c:4: warning: unused variable >&2",
    "zchat": 'exec {python} -m zchat "$@"',
    "python3": '[ "$1" = dev.py ] && shift && exec {python} -m zchat "$@"\nexec {python} "$@"',
}


@pytest.fixture
def tools(tmp_path: Path) -> str:
    """A PATH on which our commands are the first."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, does in COMMANDS.items():
        script = folder / name
        script.write_text(f"#!/bin/sh\n{does.format(python=sys.executable)}\n")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


@pytest.fixture
def player(tmp_path: Path, tools: str, request: pytest.FixtureRequest) -> Iterator[Player]:
    """Everybody with a profile of their own, where the test asks for that."""
    own = getattr(request, "param", {})
    homes = {name: tmp_path / home for name, home in {"": "shared", **own}.items()}
    made = Player(
        homes,
        ZCHAT_BEAT_MIN_S="60",
        ZCHAT_BEAT_MAX_S="300",
        PATH=tools,
        PYTHONPATH=str(HERE),
        ZCHAT_LISTEN=f"127.0.0.1:{free_port()}",
    )
    yield made
    made.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    "player", [{"alice": "alice", "ops": "alice", "bob": "bob"}], indirect=True
)
def test_the_readme_does_what_it_says(player: Player) -> None:
    """Two people at two computers."""
    assert player.play(README.read_text("utf-8")) > 5


def test_the_tutorial_does_what_it_says(player: Player) -> None:
    """One computer, a terminal for each; the play of a lie takes long and begins at once."""
    assert player.play(TUTORIAL.read_text("utf-8"), "lab") > 10


@pytest.mark.parametrize("page", [README, TUTORIAL], ids=lambda page: page.name)
def test_every_block_with_a_command_is_played(page: Path) -> None:
    """But for what sets all up, which tests/test_setup.py does, and where files go."""
    fence = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    fences = fence.findall(page.read_text("utf-8"))
    assert len(fences) > 5
    for kind, text in fences:
        if not kind.startswith("console "):
            assert kind in ("sh", "text")
            lines = text.splitlines() if kind == "sh" else []
            assert all(re.match(r"python3 dev\.py |export ZCHAT_HOME=", line) for line in lines)
            assert not re.search(r"^\w*\$ |^zchat ", text, re.MULTILINE)
        assert max(map(len, text.splitlines())) < COLUMNS, "a terminal would fold it"


PAGE = """
```console alice
alice$ echo from alice~1a2b; echo at 13:36
from alice~1a2b
at 13:36
alice$ seq 4; echo to ~1a2b alice~1a2b
1
…
4
to ~1a2b alice~1a2b
```
"""


def test_a_page_that_tells_the_truth_is_played(player: Player) -> None:
    """Rows that are left out, things that differ each time, what is typed again."""
    player.known["~1a2b"] = "~ffff"
    assert player.play(PAGE) == 1


@pytest.mark.parametrize(
    ("told", "instead"),
    [
        ("\nat 13:36", "\nat noon"),
        ("\nat 13:36", ""),
        ("\n1\n", "\n2\n"),
        ("\n…\n", "\n"),
        ("\n4\n", "\n5\n"),
        ("\nfrom alice~1a2b", "\nfrom alice~3c4d\nfrom alice~3c4d"),
        ("\nto ~1a2b alice~1a2b\n", "\n"),
        ("\nto ~1a2b alice~1a2b", "\nto ~1a2b alice~3c4d"),
    ],
)
def test_a_page_with_a_changed_line_is_found(player: Player, told: str, instead: str) -> None:
    """A row that is another, missing, too many, or about somebody else."""
    player.known |= {"~1a2b": "~ffff", "~3c4d": "~eeee"}
    player.patience_s = 0.5
    assert told in PAGE
    with pytest.raises(AssertionError, match="the page"):
        player.play(PAGE.replace(told, instead))
