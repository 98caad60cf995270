"""A lie as a play: a rogue server and its members as processes, in columns, ending at the sentence
that tells them.

Rules of this file: what is shown is what the members' own programs printed; a sentence that is
awaited and does not come is said to be missing, and the play has failed.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, NamedTuple

from zchat.ui.safe import safe_line

_PASSPHRASE = "only-for-this-play"  # noqa: S105  opens nothing else
_PATIENCE_S = 60.0
_QUIET_S = 1.5
_WIDTH = 100
_NAMES = ("alice", "bob", "carol", "dave")

Says = tuple[str, str]


class Scene(NamedTuple):
    """Who says what in turn under which lie, and which line each must see in the end."""

    lie: str
    members: int
    story: tuple[Says, ...]
    sees: dict[str, str]

    @property
    def name(self) -> str:
        return re.split("[=:]", self.lie)[0]


def _talk(*lines: str) -> tuple[Says, ...]:
    """NAME: TEXT, one after the other."""
    return tuple((line.partition(": ")[0], line.partition(": ")[2]) for line in lines)


_SMALL_TALK = _talk("alice: shall we meet?", "bob: yes, at eight", "alice: where?", "bob: at mine")
_UNREADABLE = "unreadable entry #"
_MISSING = "1 message from .* missing"
_HISTORY = r"^!! .*another history"

SCENES: dict[str, Scene] = {
    scene.name: scene
    for scene in (
        Scene(
            "fork=1/2:after=3:cross=4",
            2,
            _talk(
                "alice: shall we meet?",
                "bob: yes, at eight",
                "alice: good",
                "alice: better at nine",
                "bob: I bring the papers",
                "alice: come alone",
                "bob: on my way",
            ),
            {"alice": _HISTORY},
        ),
        Scene("drop=0.4:after=1:seed=1", 2, _SMALL_TALK, {"alice": _MISSING}),
        Scene("replay", 2, _SMALL_TALK, {}),
        Scene("rollback=2:after=4", 2, _SMALL_TALK, {"alice": "^!! ", "bob": "^!! "}),
        Scene("impersonate", 2, _SMALL_TALK, {"alice": _UNREADABLE, "bob": _UNREADABLE}),
        Scene("smudge:after=1", 2, _SMALL_TALK, {"alice": _UNREADABLE}),
        Scene("malleable:after=1", 2, _SMALL_TALK, {"alice": _UNREADABLE}),
        Scene("inject", 2, _SMALL_TALK, {"alice": _UNREADABLE, "bob": _UNREADABLE}),
        Scene("ack", 2, _SMALL_TALK, {"bob": "^!! "}),
        Scene("alter=2", 2, _SMALL_TALK, {"bob": "^!! "}),
        Scene("hide=2", 2, _SMALL_TALK, {"bob": "^!! "}),
        Scene("twice=2", 2, _SMALL_TALK, {"bob": "^!! "}),
        Scene("freeze=2", 2, _SMALL_TALK, {"bob": "no proof of freshness"}),
        Scene("withhold=2", 2, _SMALL_TALK, {"bob": "^!! "}),
        Scene("forge", 2, _SMALL_TALK, {"alice": "server says: kicked"}),
        Scene("shuffle:after=1:hold=2", 2, _SMALL_TALK, {"alice": "at mine", "bob": "at mine"}),
        Scene("shorten=3:end=2", 3, _SMALL_TALK, {"carol": "^!! "}),
        Scene("listen", 2, _SMALL_TALK, {"alice": "at mine", "bob": "at mine"}),
        Scene("giant:after=1", 2, _SMALL_TALK, {"alice": "online again"}),
        Scene("salt", 1, (), {"alice": "does not answer"}),
        Scene("downgrade", 1, (), {"alice": "another version"}),
        Scene("other-key", 1, (), {"alice": "another log key"}),
    )
}


class Actor:
    """A process whose two streams go to one file, read line by line."""

    def __init__(self, home: Path, name: str, arguments: list[str]) -> None:
        self.name = name
        home.mkdir(parents=True, exist_ok=True)
        self._path = home.parent / f"{name}.out"
        env = {k: v for k, v in os.environ.items() if not k.startswith("ZCHAT_")}
        env |= {"ZCHAT_HOME": str(home), "ZCHAT_BEAT_MIN_S": "1", "ZCHAT_BEAT_MAX_S": "2"}
        with self._path.open("wb") as out:
            self.process = subprocess.Popen(  # noqa: S603  our own program
                [sys.executable, "-m", "zchat", *arguments],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=env,
            )
        self._reader: IO[str] = self._path.open(encoding="utf-8", errors="replace")
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        """Type a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{text}\n".encode())
        self.process.stdin.flush()

    def new_lines(self) -> Iterator[str]:
        """What it printed since the last time, whole lines, safe to show."""
        while True:
            at = self._reader.tell()
            line = self._reader.readline()
            if not line.endswith("\n"):
                self._reader.seek(at)
                return
            self.lines.append(safe_line(line.removesuffix("\n")))
            yield self.lines[-1]

    def end(self) -> None:
        """It has to go now."""
        self.process.kill()
        self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()
        self._reader.close()


class Stage(AbstractContextManager["Stage"]):
    """One scene in a folder of its own, which is gone afterwards."""

    def __init__(self, scene: Scene, show: Callable[[str], None]) -> None:
        self._scene = scene
        self._show = show
        self._folder = Path(tempfile.mkdtemp(prefix="zchat-play-"))
        self._actors: list[Actor] = []
        self._column = _WIDTH // scene.members

    def __exit__(self, *_: object) -> None:
        for actor in self._actors:
            actor.end()
        shutil.rmtree(self._folder, ignore_errors=True)

    def play(self) -> bool:
        """Play it to the end; True if everybody saw what they should."""
        server = self._start("server", ["lab", "rogue", "--lie", self._scene.lie])
        self._until("the server is there", lambda: any(server.new_lines()))
        invite = server.lines[0].replace("/#", "/play#")
        self._actors.remove(server)
        try:
            return self._perform(invite)
        finally:
            server.end()

    def _perform(self, invite: str) -> bool:
        passphrase = self._folder / "passphrase"
        passphrase.write_text(_PASSPHRASE)
        self._row({name: name for name in _NAMES[: self._scene.members]})
        self._row({name: "-" * len(name) for name in _NAMES[: self._scene.members]})
        cast = {}
        for name in _NAMES[: self._scene.members]:
            arguments = ["join", invite, "--name", name, "--passphrase-file", str(passphrase)]
            cast[name] = self._start(name, [*arguments, "--weak-passphrase"])
            self._listen(_QUIET_S)
        for name, text in self._scene.story:
            cast[name].say(text)
            self._listen(_QUIET_S)
        return self._await(cast)

    def _await(self, cast: dict[str, Actor]) -> bool:
        wanted = {name: re.compile(pattern) for name, pattern in self._scene.sees.items()}

        def missing() -> list[str]:
            return [n for n, w in wanted.items() if not any(map(w.search, cast[n].lines))]

        ends = time.monotonic() + _PATIENCE_S
        while missing() and time.monotonic() < ends:
            self._listen(0.1)
        for name in missing():
            self._show(f"MISSING: {name} does not see {wanted[name].pattern!r}")
        return not missing()

    def _start(self, name: str, arguments: list[str]) -> Actor:
        actor = Actor(self._folder / name, name, arguments)
        self._actors.append(actor)
        return actor

    def _listen(self, quiet_s: float) -> None:
        """Show what members print, until all have been quiet for a while."""
        quiet_since = time.monotonic()
        while time.monotonic() - quiet_since < quiet_s:
            for actor in self._actors:
                for line in actor.new_lines():
                    self._row({actor.name: line})
                    quiet_since = time.monotonic()
            time.sleep(0.02)

    def _until(self, what: str, holds: Callable[[], bool]) -> None:
        ends = time.monotonic() + _PATIENCE_S
        while not holds():
            if time.monotonic() > ends:
                raise TimeoutError(what)
            time.sleep(0.02)

    def _row(self, cells: dict[str, str]) -> None:
        """One line of the table, as many rows as its longest cell needs."""
        names = _NAMES[: self._scene.members]
        wrapped = [textwrap.wrap(cells.get(name, ""), self._column - 2) for name in names]
        for i in range(max(map(len, wrapped))):
            row = (part[i] if i < len(part) else "" for part in wrapped)
            self._show("".join(cell.ljust(self._column) for cell in row).rstrip())
