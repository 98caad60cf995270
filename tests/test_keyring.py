"""`--remember` with the system's keyring: where the key lies, and what if it cannot be had.

Rules of this file: it is always the real package `keyring` that is asked; the keyring behind it is
a file, chosen as users choose one (PYTHON_KEYRING_BACKEND), which can be told to be locked, to
hang, or to break. What users see is seen on a process of its own, what a keyring may do all in this
one. Argon2id is paid where a passphrase must be typed.
"""

import importlib.util
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import keyring
import keyring.backends.null
import pytest

from tests.processes import PASSPHRASE, World, environment
from zchat.errors import Exit, KeyringTrouble
from zchat.member.invite import Origin, Server
from zchat.member.keeper import Keeper
from zchat.member.profile import Profile
from zchat.member.vault import RoomRecord

BACKEND = '''
"""A keyring in a file, and its moods."""
import json, os, pathlib, time
from keyring.backend import KeyringBackend
from keyring.errors import KeyringLocked, PasswordDeleteError

class Keyring(KeyringBackend):
    priority = 1
    name = "a file for tests"

    def _all(self):
        mood = os.environ.get("MOOD", "")
        if mood == "locked":
            raise KeyringLocked("Failed to unlock the collection!")
        if mood == "hangs":
            time.sleep(60)
        if mood == "breaks":
            raise OSError("the socket is gone\\nand more")
        self.file = pathlib.Path(os.environ["KEYRING_FILE"])
        return json.loads(self.file.read_text()) if self.file.exists() else {}

    def get_password(self, service, handle):
        return self._all().get(f"{service} {handle}")

    def set_password(self, service, handle, password):
        entries = self._all() | {f"{service} {handle}": password}
        self.file.write_text(json.dumps(entries))

    def delete_password(self, service, handle):
        entries = self._all()
        if entries.pop(f"{service} {handle}", None) is None:
            raise PasswordDeleteError("not there")
        self.file.write_text(json.dumps(entries))
'''
WITHOUT_IT = """
import sys
from importlib.machinery import PathFinder

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name == "keyring" else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
"""
FILE = "the room's key lies in this profile"
RING = "the room's key opens with the OS keyring (a file for tests)"


class Desk:
    """Alice, whose profile knows the room and its key, at a machine with a keyring."""

    def __init__(self, here: World, folder: Path) -> None:
        self.here, self.entries_file = here, folder / "entries.json"
        self.home = here.home("alice")
        self.passphrase = folder / "passphrase"
        self.passphrase.write_text(PASSPHRASE)
        (folder / "a_keyring.py").write_text(BACKEND)
        self.settings = {
            "PYTHONPATH": str(folder),
            "PYTHON_KEYRING_BACKEND": "a_keyring.Keyring",
            "KEYRING_FILE": str(self.entries_file),
            "ZCHAT_KEYRING_S": "10",
        }

    def run(self, *arguments: str, **more: str) -> "subprocess.CompletedProcess[str]":
        done: subprocess.CompletedProcess[str] = self.here.run(
            "alice", *arguments, stdin="", timeout_s=60.0, **{**self.settings, **more}
        )
        return done

    def remember(self, **more: str) -> str:
        """What is said of the key's place."""
        done = self.run("tail", self.here.broker.invite(), "--remember", **more)
        assert done.returncode == Exit.OK, done.stderr
        return done.stderr

    @property
    def entries(self) -> dict[str, str]:
        found: dict[str, str] = json.loads(self.entries_file.read_text())
        return found

    @property
    def record(self) -> RoomRecord:
        vault = Profile(self.home).vault("alice")
        try:
            (known,) = vault.rooms()
            return known.record
        finally:
            vault.close()

    def files(self) -> bytes:
        """All that lies in the profile."""
        paths = [path for path in self.home.rglob("*") if path.is_file()]
        return b"\n".join(path.read_bytes() for path in paths)


@pytest.fixture
def desk(here: World, tmp_path: Path) -> Desk:
    return Desk(here, tmp_path)


def sealed_record(home: Path) -> bytes:
    """The room's row in the vault, as it lies there."""
    with closing(sqlite3.connect(home / "members" / "alice" / "vault.db")) as vault:
        (row,) = vault.execute("SELECT sealed FROM rooms").fetchall()
    return bytes(row[0])


def test_the_key_moves_to_the_keyring_and_scripts_go_on(desk: Desk) -> None:
    """It lies in one place: the vault holds nothing any more that opens by itself."""
    before, root = sealed_record(desk.home), desk.record.root
    assert before in desk.files()
    assert RING in desk.remember()
    assert before not in desk.files()
    record = desk.record
    assert (record.root, len(record.handle)) == (b"", 32)
    assert list(desk.entries) == [f"zchat {record.handle}"]
    assert root.hex() not in json.dumps(desk.entries)
    assert desk.run("send", "lobby", "from a script").returncode == Exit.OK
    assert RING in desk.remember()
    assert desk.record == record
    known = desk.run("rooms").stdout
    assert "key remembered" in known
    assert "; the room's key opens with the OS keyring" in desk.run("whoami").stdout
    (said,) = map(json.loads, desk.run("whoami", "--json").stdout.splitlines())
    assert said["kept"] == "keyring"
    assert len(said["key"]) == 64
    assert "ok  lobby at" in (doctor := desk.run("doctor").stdout)
    assert "its key opens with the OS keyring" in doctor


UNUSABLE: list[tuple[dict[str, str], str]] = [
    ({"PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring"}, "there is none on this machine."),
    ({"PYTHON_KEYRING_BACKEND": "no_such_module.Keyring"}, "no_such_module"),
    ({"MOOD": "locked"}, "it is locked."),
    ({"ZCHAT_KEYRING_S": "0"}, ""),
]


def test_where_no_keyring_works_the_key_lies_in_the_profile(desk: Desk) -> None:
    """As it did; where it lies is said, and why. Where none is wanted, nobody is told of it."""
    for settings, says in UNUSABLE:
        where, _, why = desk.remember(**settings).partition("\n")
        assert where == f"Remembered: {FILE}, for you only."
        assert why.startswith("  The OS keyring cannot be used: " if says else "")
        assert says in why
        assert desk.record.root
        assert not desk.record.handle
    assert not desk.entries_file.exists()
    assert desk.run("send", "lobby", "from a script").returncode == Exit.OK
    assert f"; {FILE}" in desk.run("whoami").stdout
    assert "as alice: its key lies in this profile" in desk.run("doctor").stdout


def test_a_key_that_cannot_be_had_any_more_is_asked_for(desk: Desk) -> None:
    """A script gets the sentence and exit code 2; whoami and doctor say it."""
    desk.remember()
    told = desk.run("whoami", MOOD="locked")
    says = "The key of 'lobby' is not to be had. The OS keyring cannot be used: it is locked.\n"
    assert says in told.stderr
    assert f"(its key needs the passphrase); {RING.partition(' (')[0]}" in told.stdout
    desk.entries_file.write_text("{}")
    done = desk.run("send", "lobby", "x")
    assert done.returncode == Exit.USAGE
    assert "The OS keyring cannot be used: it has lost the entry." in done.stderr
    assert "there is no terminal" in done.stderr
    examined = desk.run("doctor")
    assert examined.returncode == Exit.FIXABLE
    assert "it has lost the entry." in examined.stdout
    assert "zchat tail lobby --remember" in examined.stdout


# ---- in this process: whatever a keyring does ----


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The keyring in a file, as the one of this process."""
    path = tmp_path / "a_keyring_here.py"
    path.write_text(BACKEND)
    monkeypatch.setenv("KEYRING_FILE", str(tmp_path / "entries.json"))
    spec = importlib.util.spec_from_file_location("a_keyring_here", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    before = keyring.get_keyring()
    keyring.set_keyring(module.Keyring())
    yield keyring.get_keyring()
    keyring.set_keyring(before)


ROOT = b"the root of a room".ljust(32, b".")
KEYS = Origin(b"c" * 32, b"l" * 32)
RECORD = RoomRecord("lobby", "alice", Server("127.0.0.1", 1, KEYS), KEYS)


@pytest.mark.parametrize(
    ("mood", "why"),
    [
        ("locked", "it is locked."),
        ("hangs", "no answer in 0.2 s."),
        ("breaks", "the socket is gone."),
        ("keeps nothing", "it does not keep what it is given."),
    ],
)
@pytest.mark.usefixtures("backend")
def test_what_a_keyring_refuses_lies_in_the_record(
    mood: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the reason in one line, and in time; a keyring that failed is not asked again."""
    told: list[str] = []
    keeper = Keeper(0.2, told.append)
    monkeypatch.setenv("MOOD", mood)
    if mood == "keeps nothing":
        keyring.set_keyring(keyring.backends.null.Keyring())  # type: ignore[no-untyped-call]
    record = keeper.keep(RECORD, ROOT)
    assert (record.root, record.handle, record.sealed_root) == (ROOT, "", b"")
    assert told == []
    keeper.tell_kept()
    keeper.tell_kept()
    assert told == [f"Remembered: {FILE}, for you only.", f"  The OS keyring cannot be used: {why}"]
    assert keeper.find(record) == ROOT
    monkeypatch.setenv("MOOD", "")
    if mood != "keeps nothing":
        assert keeper.keep(RECORD, ROOT).root == ROOT


@pytest.mark.parametrize("instead", ["00" * 32, "of another program", ""])
def test_what_is_not_the_entry_opens_nothing(backend: Any, instead: str) -> None:
    """Another key, another program's words, nothing."""
    told: list[str] = []
    keeper = Keeper(5, told.append)
    record = keeper.keep(RECORD, ROOT)
    assert keeper.find(record) == ROOT
    backend.set_password("zchat", record.handle, instead)
    with pytest.raises(KeyringTrouble, match="it holds another entry than the one it was given"):
        keeper.find(record)
    assert keeper.find_or_tell(record) == b""
    assert "The key of 'lobby' is not to be had." in told[-1]
    assert keeper.find(keeper.keep(record, ROOT)) == ROOT


# ---- and what is kept no longer ----


def test_the_passphrase_makes_a_lost_entry_anew_or_takes_the_key_back(desk: Desk) -> None:
    """Back into the profile by the setting that turns the keyring off, for jobs without one."""
    desk.remember()
    lost = desk.record.handle
    desk.entries_file.write_text("{}")
    named = ("--remember", "--passphrase-file", str(desk.passphrase))
    assert RING in desk.run("tail", "lobby", *named).stderr
    assert f"zchat {lost}" not in desk.entries
    assert desk.run("send", "lobby", "x").returncode == Exit.OK
    assert FILE in desk.run("tail", "lobby", *named, ZCHAT_KEYRING_S="0").stderr
    assert (desk.record.handle, desk.record.sealed_root) == ("", b"")
    assert desk.run("send", "lobby", "from cron", ZCHAT_KEYRING_S="0").returncode == Exit.OK


def test_what_is_forgotten_leaves_the_keyring(desk: Desk) -> None:
    """Where it can be reached; where not, the room is forgotten all the same."""
    desk.remember()
    copy = desk.home.with_name("copy")
    shutil.copytree(desk.home, copy)
    assert desk.run("forget", "lobby", "--yes").returncode == Exit.OK
    assert desk.entries == {}
    shutil.rmtree(desk.home)
    copy.rename(desk.home)
    done = desk.run("forget", "lobby", "--yes", MOOD="locked")
    assert done.returncode == Exit.OK
    assert desk.run("rooms").stdout == ""


def test_nothing_is_kept_of_a_room_where_nobody_settled_in(desk: Desk) -> None:
    """A mistyped passphrase leaves nothing in the keyring, and nobody is told that it did."""
    desk.passphrase.write_text("these words lead to nobody anywhere")
    named = ("--remember", "--passphrase-file", str(desk.passphrase), "--name", "dave")
    done = desk.run("tail", desk.here.broker.invite(), *named)
    assert done.returncode == Exit.WRONG_SECRET
    assert "Remembered" not in done.stderr
    assert desk.entries == {}
    meant = desk.run("tail", desk.here.broker.invite(), *named, "--new")
    assert (meant.returncode, meant.stderr.count(RING)) == (Exit.OK, 1)
    assert len(desk.entries) == 1


def test_a_keyring_that_is_not_installed_is_not_mentioned(desk: Desk, tmp_path: Path) -> None:
    """As after an installation without the extra."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(WITHOUT_IT)
    said = desk.remember(PYTHONPATH=str(hidden))
    assert said == "Remembered: the room's key lies in this profile, for you only.\n"


def test_the_keyring_is_loaded_by_no_command_that_does_not_ask_it(desk: Desk) -> None:
    """It takes longer to import than most commands run."""
    command = [sys.executable, "-X", "importtime", "-m", "zchat", "whoami"]
    settings = environment(desk.home, **desk.settings)
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=True)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "zchat.member.keeper" in loaded
    assert "keyring" not in loaded
