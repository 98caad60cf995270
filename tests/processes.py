"""Real brokers and members, started as a user starts them.

Rules of this file: nothing of the program is imported; a wait polls for what it awaits and fails
with what was seen instead; every process started here is ended here.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

PASSPHRASE = "otter-basin-scarf-pencil-dug-wick"
PATIENCE_S = 30.0
ZCHAT = [sys.executable, "-m", "zchat"]


def wait_for(what: str, holds: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    """Poll until `holds`; fail with `what`."""
    ends = time.monotonic() + patience_s
    while not holds():
        if time.monotonic() > ends:
            raise AssertionError(f"not within {patience_s:.0f} s: {what}")
        time.sleep(0.02)


def environment(home: Path, **more: str) -> dict[str, str]:
    """What a process of this profile sees: short intervals, nothing of the developer's own."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("ZCHAT_")}
    own = {
        "HOME": str(home.parent),
        "ZCHAT_HOME": str(home),
        "USER": "tester",
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "ZCHAT_BEAT_MIN_S": "0.5",
        "ZCHAT_BEAT_MAX_S": "2",
    }
    return {**inherited, **own, **more}


def zchat(
    home: Path, *arguments: str, stdin: str | bytes = "", timeout_s: float = 60, **more: str
) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end."""
    raw = stdin.encode() if isinstance(stdin, str) else stdin
    done = subprocess.run(
        [*ZCHAT, *arguments],
        input=raw,
        capture_output=True,
        env=environment(home, **more),
        timeout=timeout_s,
        check=False,
    )
    out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    return subprocess.CompletedProcess(done.args, done.returncode, out, err)


class Running:
    """A process whose output goes to files, so that it never blocks and can be read at any time."""

    def __init__(self, home: Path, *arguments: str, label: str = "process", **more: str) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.home = home
        self.arguments = arguments
        stamp = f"{label}-{time.monotonic_ns()}"
        self._out, self._err = home / f"{stamp}.out", home / f"{stamp}.err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [*ZCHAT, *arguments],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
                env=environment(home, **more),
            )

    @property
    def out(self) -> str:
        return self._out.read_text("utf-8", "replace")

    @property
    def err(self) -> str:
        return self._err.read_text("utf-8", "replace")

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    def type(self, text: str) -> None:
        """Write to its stdin."""
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def end_input(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def expect(self, pattern: str, *, count: int = 1, patience_s: float = PATIENCE_S) -> None:
        """Wait until stdout has `count` lines that match."""
        self._expect("stdout", lambda: self.out, pattern, count, patience_s)

    def expect_note(self, pattern: str, *, count: int = 1, patience_s: float = PATIENCE_S) -> None:
        """Wait until stderr has `count` lines that match."""
        self._expect("stderr", lambda: self.err, pattern, count, patience_s)

    def _expect(
        self, where: str, text: Callable[[], str], pattern: str, count: int, patience_s: float
    ) -> None:
        found = re.compile(pattern, re.MULTILINE)
        try:
            wait_for(
                f"{count} x {pattern!r} on {where} of {self.arguments}",
                lambda: len(found.findall(text())) >= count or self.process.poll() is not None,
                patience_s,
            )
            assert len(found.findall(text())) >= count, f"{pattern!r} not on {where}"
        except AssertionError as error:
            seen = f"exit {self.process.poll()}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"
            raise AssertionError(f"{error}\n{seen}") from None

    def wait(self, patience_s: float = PATIENCE_S) -> int:
        """Its exit code."""
        try:
            return self.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still runs: {self.arguments}\n{self.out}\n{self.err}") from None

    def kill(self) -> None:
        """Kill -9."""
        self.process.kill()
        self.process.wait()

    def end(self) -> int:
        """SIGTERM, and its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(PATIENCE_S)
        finally:
            if self.process.poll() is None:
                self.kill()


class Broker(Running):
    """A broker on a free port, or on the one it had before."""

    def __init__(self, home: Path, listen: str = "127.0.0.1:0", **more: str) -> None:
        super().__init__(home, "broker", "--listen", listen, label="broker", **more)
        self.expect(r"^zchat://")
        self.stem = self.lines[0]

    @property
    def address(self) -> str:
        return self.stem.removeprefix("zchat://").partition("/")[0]

    @property
    def store(self) -> Path:
        return self.home / "broker" / "log.db"

    def invite(self, room: str = "lobby") -> str:
        """The invite to a room."""
        return self.stem.replace("/#", f"/{room}#")

    def again(self, **more: str) -> "Broker":
        """Start it anew, with the same store, at the same address."""
        return Broker(self.home, self.address, **more)


_R = TypeVar("_R", bound=Running)


class World:
    """A folder with a broker and members that know the room `lobby`, without paying Argon2id."""

    def __init__(self, folder: Path, template: Path) -> None:
        self.folder = folder
        self._template = template
        self._running: list[Running] = []
        shutil.copytree(template / "host", folder / "host")
        self.broker = self._keep(Broker(folder / "host"))

    def _keep(self, running: _R) -> _R:
        self._running.append(running)
        return running

    def home(self, name: str) -> Path:
        """A member's profile, with the room's key remembered in it."""
        home = self.folder / name
        if not home.exists():
            shutil.copytree(self._template / name, home)
        return home

    def join(self, name: str, *more: str, room: str = "lobby", **env: str) -> Running:
        """A member in the room, in plain mode."""
        invite = self.broker.invite(room)
        arguments = ["join", invite, "--name", name, *more]
        return self._keep(Running(self.home(name), *arguments, label=name, **env))

    def run(
        self,
        name: str,
        *arguments: str,
        stdin: str | bytes = "",
        timeout_s: float = 60,
        **env: str,
    ) -> "subprocess.CompletedProcess[str]":
        """One command of a member."""
        return zchat(self.home(name), *arguments, stdin=stdin, timeout_s=timeout_s, **env)

    def restart_broker(self, **more: str) -> None:
        self.broker = self._keep(self.broker.again(**more))

    def close(self) -> None:
        for running in self._running:
            if running.process.poll() is None:
                running.kill()
            if running.process.stdin is not None and not running.process.stdin.closed:
                running.process.stdin.close()


def make_template(folder: Path, names: Iterator[str]) -> None:
    """Pay Argon2id once per member: profiles that remember the key of an empty room `lobby`."""
    passphrase = folder / "passphrase"
    passphrase.write_text(PASSPHRASE)
    broker = Broker(folder / "host")
    try:
        for name in names:
            done = zchat(
                folder / name,
                "tail",
                broker.invite(),
                *("--new", "--remember", "--name", name),
                *("--passphrase-file", str(passphrase)),
            )
            assert done.returncode == 0, done.stderr
    finally:
        broker.end()
        if broker.process.stdin is not None:
            broker.process.stdin.close()
    for leftover in (folder / "host").glob("broker-*"):
        leftover.unlink()


@contextmanager
def world(folder: Path, template: Path) -> Iterator[World]:
    """A world that ends with its test."""
    made = World(folder, template)
    try:
        yield made
    finally:
        made.close()
