"""Completion in real shells: what Tab makes of a line, and what the program is then started with.

Rules of this file: a shell that is not installed is skipped; the command line that a shell comes to
run is written down by what stands there in place of the program, so quoting counts as it is read.
"""

import contextlib
import os
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pexpect
import pytest

from tests.processes import ZCHAT, World, environment, wait_for, world, zchat
from zchat.member.vault import Vault, member_folder
from zchat.ui.cli.main import cli
from zchat.ui.cli.shells import Bash

ODD_ROOMS = ["$(id>owned)", "it's", "two;three", "ops:alerts", "a,b", "x*y", "ünï", 'q"u"ote']
SHELLS = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
    "fish": ["fish", "--no-config", "-i"],
}
SET_UP = {
    "bash": "source {script}",
    "zsh": "autoload -U compinit; compinit -u -d {dump}; source {script}",
    "fish": "source {script}",
}
WRITES_DOWN = """\
#!/bin/sh
[ -n "$_ZCHAT_COMPLETE" ] && exec {program} "$@"
printf '%s\\037' "$@" >> {out}; printf '\\036' >> {out}
"""


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory, template: Path) -> Iterator[World]:
    """Alice knows rooms with odd names besides the lobby, where bob and she have spoken."""
    with world(tmp_path_factory.mktemp("rooms") / "world", template) as here:
        for name in ("alice", "bob"):
            here.run(name, "send", here.broker.invite(), "hello")
        here.run("alice", "tail", "lobby")
        vault = Vault(member_folder(here.home("alice"), "alice"))
        (known,) = vault.rooms()
        for number, room in enumerate([*ODD_ROOMS, "--new", "\u202eybbol"]):
            vault.save_room(bytes([number]) * 16, msgspec.structs.replace(known.record, room=room))
        vault.close()
        yield here


def asked(line: str) -> dict[str, str]:
    """What the script of bash asks with, for a line that ends at the cursor."""
    return {"_ZCHAT_COMPLETE": "bash_complete", "COMP_WORDS": line}


NAMED = [
    ("zchat ta", ["tail"]),
    ("zchat broker re", ["restore"]),
    ("zchat tail --exec-", ["--exec-timeout"]),
    ("zchat tail ", sorted(["lobby", *ODD_ROOMS])),
    ("zchat join --room lob", ["lobby"]),
    ("zchat send lobby x --name al", ["alice"]),
    ("zchat search lobby --from ", ["alice", "bob"]),
    ("zchat verify lobby --with alice,b", ["alice,bob"]),
    ("zchat help scr", ["scripting"]),
    ("zchat config show m", ["member"]),
    ("zchat tail lobby --color n", ["never"]),
    ("zchat tail 'lo", ["lobby"]),
    ("zchat --vers", ["--version"]),
]


def test_what_could_come_next_is_named(rooms: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands, options, rooms, members, who spoke, topics, choices; what hides is not."""
    monkeypatch.setenv("ZCHAT_HOME", str(rooms.home("alice")))
    for line, expected in NAMED:
        monkeypatch.setenv("COMP_WORDS", line)
        completes = Bash(cli, {}, "zchat", "_ZCHAT_COMPLETE")
        named = completes.get_completions(*completes.get_completion_args())
        assert [item.value for item in named] == expected, line


def candidates(home: Path, line: str, **env: str) -> str:
    """The same by the program itself, which says nothing else."""
    done = subprocess.run(
        ZCHAT, env={**environment(home), **asked(line), **env}, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode().strip()


def test_where_nothing_can_be_known_nothing_is_said(here: World) -> None:
    """No profile, one that cannot be read, a setting that is wrong: silence."""
    assert candidates(here.home("bob"), "zchat tail lo") == "plain,lobby"
    assert candidates(here.folder / "empty", "zchat tail ") == ""
    home = here.home("alice")
    (home / "members" / "alice" / "vault.key").write_bytes(b"short")
    assert candidates(home, "zchat tail ", ZCHAT_TIMEOUT_S="abc") == ""
    assert candidates(home, "zchat search nowhere --from ") == ""


def test_a_script_that_is_not_known_is_refused(tmp_path: Path) -> None:
    """And what there is, is named."""
    unknown = zchat(tmp_path, "completion", "tcsh")
    assert unknown.returncode == 2
    assert "'bash', 'zsh', 'fish'" in unknown.stderr


class Shell:
    """An interactive shell in a terminal, with completion set up as the help says."""

    def __init__(self, name: str, here: World) -> None:
        self.folder = here.folder / f"with-{name}"
        (self.folder / "bin").mkdir(parents=True)
        self.out = self.folder / "out"
        program = self.folder / "bin" / "zchat"
        program.write_text(WRITES_DOWN.format(program=" ".join(ZCHAT), out=self.out))
        program.chmod(0o755)
        script = self.folder / "script"
        script.write_text(zchat(here.home("alice"), "completion", name).stdout)
        path = f"{program.parent}:{os.environ['PATH']}"
        # The folder of the sources is where it runs: there is nothing to be completed as a file.
        env = environment(here.home("alice"), PATH=path, TERM="xterm", PYTHONPATH=str(Path.cwd()))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            self.process: pexpect.spawn[bytes] = pexpect.spawn(
                SHELLS[name][0], SHELLS[name][1:], env=env, cwd=self.folder, dimensions=(24, 200)
            )
        self.process.delaybeforesend = None
        self.run(SET_UP[name].format(script=script, dump=self.folder / "dump") + "; zchat ready")

    def run(self, keys: str) -> list[str]:
        """Type a line, and say what the program was started with."""
        before = self.started()
        self.process.send(f"{keys}\r")
        wait_for(f"{keys!r} is run", lambda: self.pump() and len(self.started()) > len(before))
        return self.started()[-1]

    def pump(self) -> bool:
        """What it prints is of no interest, but must be taken."""
        with contextlib.suppress(pexpect.TIMEOUT):
            self.process.read_nonblocking(65_536, 0)
        return True

    def started(self) -> list[list[str]]:
        text = self.out.read_text() if self.out.exists() else ""
        return [line.split("\x1f")[:-1] for line in text.split("\x1e")[:-1]]


BY_SHELL = {  # what each of them would take for something else
    "bash": [("ops:alerts", "ops:a"), ("x*y", "x"), ('q"u"ote', "'q")],
    "zsh": [("ops:alerts", "ops:a"), ("two;three", "two")],
    "fish": [("a,b", "a,"), ("two;three", "two")],
}


@pytest.mark.parametrize("name", SHELLS)
def test_tab_completes_and_nothing_in_a_name_is_obeyed(rooms: World, name: str) -> None:
    """Whatever a room is called, the program gets that name, and no other program anything."""
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    shell = Shell(name, rooms)
    try:
        assert shell.run("zchat ta\tlob\t") == ["tail", "lobby"]
        assert shell.run("zchat search lobby --from alice,b\t") == [
            *("search", "lobby", "--from", "alice,bob")
        ]
        (shell.folder / "proof.json").touch()
        assert shell.run("zchat evidence check pro\t") == ["evidence", "check", "proof.json"]
        for room, typed in (("$(id>owned)", r"\$"), ("it's", "it"), *BY_SHELL[name]):
            assert shell.run(f"zchat tail {typed}\t") == ["tail", room]
        assert not (shell.folder / "owned").exists()
    finally:
        shell.process.close(force=True)
