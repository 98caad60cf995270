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
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pexpect
import pyte

HERE = Path(__file__).parent.parent
MADE = re.compile(
    r"__pycache__|build|dist|\.(git|venv|venv\.lock|coverage.*|\w+_cache|hypothesis)|.*info"
)
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
        "ZCHAT_KEYRING_S": "0",  # that of whoever runs the tests is none of their business
    }
    return {**inherited, **own, **more}


def python(code: str, *arguments: object) -> "subprocess.Popen[str]":
    """Another process that uses the program's modules."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=HERE,
    )


def finished(process: "subprocess.Popen[str]", code: int = 0) -> str:
    """What it said to the end; it fails with what it complained of."""
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    return out


def mode(path: Path) -> int:
    """Who may do what with a file."""
    return path.stat().st_mode & 0o777


@contextmanager
def umask(mask: int) -> Iterator[None]:
    """What new files may not be, for a while."""
    former = os.umask(mask)
    try:
        yield
    finally:
        os.umask(former)


def project_files() -> list[Path]:
    """The project's files: those that git knows; where there is no git, all that were not made."""
    if not (HERE / ".git").exists() or shutil.which("git") is None:
        return walked_files()
    done = subprocess.run(["git", "ls-files", "-z"], cwd=HERE, check=True, capture_output=True)
    paths = [HERE / name for name in done.stdout.decode().split("\0") if name]
    return [path for path in paths if path.is_file()]


def walked_files() -> list[Path]:
    """The project's files as an archive has them."""
    paths = (path for path in HERE.rglob("*") if path.is_file())
    return [path for path in paths if not any(map(MADE.fullmatch, path.relative_to(HERE).parts))]


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


class _Screen(pyte.HistoryScreen):
    """An emulated screen that answers the program's questions, as a real terminal does."""

    def __init__(self, columns: int, rows: int, answer: Callable[[bytes], object]) -> None:
        self._answer = answer
        super().__init__(columns, rows, history=10_000)

    def write_process_input(self, data: str) -> None:
        self._answer(data.encode())


class Terminal:
    """A process in a terminal of its own: the raw bytes it wrote, and the screen they make."""

    program: tuple[str, ...] = ()  # ZCHAT, as it is when the terminal is made

    def __init__(
        self, home: Path, *arguments: str, columns: int = 100, rows: int = 24, **more: str
    ) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.arguments = arguments
        self.raw = bytearray()
        program = self.program or tuple(ZCHAT)
        with warnings.catch_warnings():
            # forkpty() in a process with threads: the child does nothing but execute.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.process: pexpect.spawn[bytes] = pexpect.spawn(
                program[0],
                [*program[1:], *arguments],
                env=environment(home, **{"TERM": "xterm-256color", **more}),
                dimensions=(rows, columns),
            )
        self.process.delaybeforesend = None
        self.screen = _Screen(columns, rows, self.process.send)
        self._stream = pyte.ByteStream(self.screen)

    def pump(self) -> bool:
        """Show on the screen what was written meanwhile; False once the process has hung up."""
        if self.process.closed:
            return False
        try:
            while True:
                written = self.process.read_nonblocking(65_536, 0)
                self.raw += written
                self._stream.feed(written)
        except pexpect.TIMEOUT:
            return True
        except pexpect.EOF:
            return False

    @property
    def rows(self) -> list[str]:
        """The screen as it stands, and above it what has scrolled off."""
        self.pump()
        columns = range(self.screen.columns)
        gone = ["".join(row[x].data for x in columns) for row in self.screen.history.top]
        return [row.rstrip() for row in [*gone, *self.screen.display]]

    @property
    def text(self) -> str:
        return "\n".join(self.rows).rstrip()

    def type(self, keys: str | bytes) -> None:
        """Press keys: "\\r" is Enter, "\\x03" Ctrl-C."""
        self.process.send(keys)

    def paste(self, text: str) -> None:
        """What a terminal sends when somebody pastes (bracketed paste)."""
        self.type(f"\x1b[200~{text}\x1b[201~")

    def resize(self, columns: int, rows: int) -> None:
        self.pump()
        self.screen.resize(rows, columns)
        self.process.setwinsize(rows, columns)

    def expect(self, pattern: str, *, count: int = 1, patience_s: float = PATIENCE_S) -> None:
        """Wait until the screen, with what scrolled off it, matches `count` times."""
        found = re.compile(pattern, re.MULTILINE)
        self.until(
            f"{count} x {pattern!r}", lambda: len(found.findall(self.text)) >= count, patience_s
        )

    def until(self, what: str, holds: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
        """Wait until `holds`, and fail with the screen."""
        try:
            wait_for(what, holds, patience_s)
        except AssertionError as error:
            raise AssertionError(f"{error} in {self.arguments}\n{self.text}") from None

    def wait(self, patience_s: float = PATIENCE_S) -> int:
        """Its exit code, as a shell shows it."""
        self.until("it ends", lambda: not self.pump(), patience_s)
        self.process.close()
        if self.process.signalstatus is not None:
            return 128 + int(self.process.signalstatus)
        assert self.process.exitstatus is not None
        return int(self.process.exitstatus)

    def hang_up(self) -> None:
        """Close the terminal, and no more: the program learns of it as it does on a real one."""
        terminal = self.process.ptyproc  # type: ignore[attr-defined]
        terminal.fileobj.close()  # not the number: its owner would close it again, when another's
        terminal.closed = self.process.closed = True

    def end(self) -> None:
        """Hang up, and make sure that it ends."""
        self.process.close(force=True)


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
        self._terminals: list[Terminal] = []
        shutil.copytree(template / "host", folder / "host")
        self.broker = self._keep(self.start_broker())

    def start_broker(self) -> Broker:
        """The first broker of this world."""
        return Broker(self.folder / "host")

    def _keep(self, running: _R) -> _R:
        self._running.append(running)
        return running

    def home(self, name: str) -> Path:
        """A member's profile: of the template, with the room's key remembered, or a new one."""
        home = self.folder / name
        if not home.exists() and (self._template / name).exists():
            shutil.copytree(self._template / name, home)
        home.mkdir(exist_ok=True)
        return home

    def join(
        self, name: str, *more: str, room: str = "lobby", invite: str = "", **env: str
    ) -> Running:
        """A member in the room, in plain mode."""
        arguments = ["join", invite or self.broker.invite(room), "--name", name, *more]
        return self._keep(Running(self.home(name), *arguments, label=name, **env))

    def terminal(
        self, name: str, *arguments: str, columns: int = 100, rows: int = 24, **env: str
    ) -> Terminal:
        """A command of a member in a terminal; without arguments it joins the room."""
        wanted = arguments or ("join", self.broker.invite(), "--name", name)
        made = Terminal(self.home(name), *wanted, columns=columns, rows=rows, **env)
        self._terminals.append(made)
        return made

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
        for terminal in self._terminals:
            terminal.end()
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
