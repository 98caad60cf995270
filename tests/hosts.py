"""Brokers and people for the fault sweeps: real processes, started by fork, that may meet mishaps.

Rules of this file: a broker keeps its folder and its port over all its lives; what was started here
is ended by `close`, whatever happened to it.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from tests.bare import Target
from tests.mishaps import Job, forked
from tests.processes import environment, wait_for
from zchat.database import Access
from zchat.log.sound import damages
from zchat.log.sqlite import SqliteLog
from zchat.member.invite import parse_invite

NO_LIMITS = "".join(
    f"{name} = 1000000000\n"
    for name in (
        *("post_burst", "posts_per_s", "control_burst", "controls_per_s"),
        *("connections_per_address", "handshake_burst", "handshakes_per_s"),
        *("rooms_per_access_key", "rooms_per_broker", "room_bytes"),
    )
)
_START_S = 60.0


class Host:
    """A broker, and its folder."""

    def __init__(self, folder: Path, settings: str = NO_LIMITS) -> None:
        folder.mkdir(parents=True)
        (folder / "broker.toml").write_text(settings)
        self.folder = folder
        self.stem = ""
        self._lives = 0
        self._fork: ForkServerProcess | None = None
        self._process: subprocess.Popen[bytes] | None = None

    # ---- its lives ----

    def start(
        self,
        *mishaps: str,
        preload: Mapping[str, str] | None = None,
        arguments: Iterable[str] = (),
        **more: str,
    ) -> bool:
        """Start it, and wait for its first line; False if it died before.

        With a preloaded library it is started anew, else it is a fork.
        """
        listen = self.address or "127.0.0.1:0"
        command = ("broker", "--listen", listen, *arguments)
        self._lives += 1
        self.out.touch()
        told = {**environment(self.folder), **more}
        if preload is None:
            job = Job(command, told, self.out, self.err, mishaps=mishaps)
            self._fork, self._process = forked(job), None
        else:
            self._fork, self._process = None, self._execute(command, {**told, **preload}, mishaps)
        wait_for(
            "a first line, or the end",
            lambda: "\n" in self.out.read_text() or self.exit_code is not None,
            _START_S,
        )
        self.stem = self.out.read_text().partition("\n")[0] or self.stem
        return self.exit_code is None

    def _execute(
        self, command: tuple[str, ...], told: dict[str, str], mishaps: tuple[str, ...]
    ) -> "subprocess.Popen[bytes]":
        program = ["-m", "tests.mishaps", ",".join(mishaps), "--", "zchat", *command]
        with self.out.open("ab") as out, self.err.open("ab") as err:
            return subprocess.Popen(
                [sys.executable, *program],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=told,
                cwd=Path(__file__).parent.parent,
            )

    def count_lives_from(self, number: int) -> None:
        """Another Host has this folder, too: their files must differ."""
        self._lives = number

    @property
    def out(self) -> Path:
        """The stdout of this life."""
        return self.folder / f"life-{self._lives}.out"

    @property
    def err(self) -> Path:
        return self.folder / f"life-{self._lives}.err"

    @property
    def pid(self) -> int:
        running = self._fork or self._process
        assert running is not None and running.pid is not None
        return running.pid

    @property
    def exit_code(self) -> int | None:
        """Of its last life, negative for a signal; None while it runs."""
        if self._process is not None:
            return self._process.poll()
        return self._fork.exitcode if self._fork is not None else 0

    def wait(self, patience_s: float = 30.0) -> int:
        """Its exit code, once it has ended by itself."""
        wait_for(f"the end of {self.folder}", lambda: self.exit_code is not None, patience_s)
        code = self.exit_code
        assert code is not None
        return code

    def signal(self, number: signal.Signals) -> None:
        if self.exit_code is None:
            os.kill(self.pid, number)

    def kill(self) -> int:
        """Kill -9."""
        self.signal(signal.SIGKILL)
        return self.wait()

    def end(self) -> int:
        """SIGTERM."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def close(self) -> None:
        self.signal(signal.SIGCONT)
        self.kill()

    # ---- what it is ----

    @property
    def address(self) -> str:
        return self.stem.removeprefix("zchat://").partition("/")[0]

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    @property
    def store(self) -> Path:
        return self.folder / "broker" / "log.db"

    @property
    def target(self) -> Target:
        return self.target_by(self.address)

    def target_by(self, address: str) -> Target:
        """The same server by another way, as through a proxy."""
        return Target(f"tcp://{address}", parse_invite(self.stem).server.keys.curve_key)

    def invite(self, room: str = "lobby", address: str = "") -> str:
        """The invite to a room, perhaps by another way."""
        line = self.stem.replace("/#", f"/{room}#")
        return line.replace(self.address, address) if address else line

    def memory_bytes(self) -> int:
        """What it holds in memory now."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) * 1024

    def stored(self, room: bytes) -> dict[bytes, int]:
        """The ids of a room and their places, of a log that was found sound. Raises Broken."""
        return ids_of(self.store, room)


def ids_of(store: Path, room: bytes) -> dict[bytes, int]:
    """Every id of a room with its place. AssertionError where the log is not sound."""
    log = SqliteLog(store, Access.READ_ONLY)
    try:
        tip = log.tip(room)
        if tip is None:
            return {}
        wrong = list(damages(log, room))
        assert not wrong, f"{store}: {wrong}"
        ids: list[bytes] = []
        while len(ids) < tip.n:
            ids += [entry.id for entry in log.read(room, len(ids) + 1, tip.n)]
        assert len(set(ids)) == len(ids), f"{store}: an id stands twice"
        return {entry_id: n for n, entry_id in enumerate(ids, 1)}
    finally:
        log.close()


@contextmanager
def host(folder: Path, *mishaps: str, settings: str = NO_LIMITS) -> Iterator[Host]:
    """A running broker in a new folder, for as long as the block runs."""
    made = Host(folder, settings)
    try:
        made.start(*mishaps)
        yield made
    finally:
        made.close()


class Person:
    """`zchat join` in plain mode: a real member, who types."""

    def __init__(
        self,
        home: Path,
        invite: str,
        name: str,
        *mishaps: str,
        text: str | None = None,
        **more: str,
    ) -> None:
        self.home = home
        self._number = len(list(home.glob("*.typed")))
        self._typed = home / f"{self._number}.typed"
        self._pipe = -1
        if text is None:
            os.mkfifo(self._typed)
        else:
            self._typed.write_text(text)
        told = {**environment(home), **more}
        arguments = ("join", invite, "--name", name)
        job = Job(arguments, told, self._file("out"), self._file("err"), self._typed, mishaps)
        self.out_file, self.err_file = job.out, job.err
        job.out.touch()
        job.err.touch()
        self._fork = forked(job)
        if text is None:
            self._pipe = os.open(self._typed, os.O_WRONLY)

    def _file(self, kind: str) -> Path:
        return self.home / f"{self._number}.{kind}"

    @property
    def out(self) -> str:
        return self.out_file.read_text("utf-8", "replace")

    @property
    def err(self) -> str:
        return self.err_file.read_text("utf-8", "replace")

    @property
    def texts(self) -> list[str]:
        """What was shown, in order, without times and names."""
        return [line.split(": ", 1)[1] for line in self.out.splitlines() if ": " in line]

    @property
    def pid(self) -> int:
        assert self._fork.pid is not None
        return self._fork.pid

    @property
    def exit_code(self) -> int | None:
        return self._fork.exitcode

    def say(self, *lines: str) -> None:
        """Type lines."""
        os.write(self._pipe, "".join(f"{line}\n" for line in lines).encode())

    def until(self, what: str, holds: Callable[[], bool], patience_s: float = 60.0) -> None:
        """Wait, and fail with what was seen instead."""
        try:
            wait_for(what, lambda: holds() or self.exit_code is not None, patience_s)
            assert holds(), f"it ended with {self.exit_code}: {what}"
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.out[-2000:]}\n{self.err[-2000:]}") from None

    def wait(self, patience_s: float = 60.0) -> int:
        """Its exit code."""
        self._fork.join(patience_s)
        code = self.exit_code
        assert code is not None, f"still there\n{self.out[-2000:]}\n{self.err[-2000:]}"
        return code

    def leave(self) -> int:
        """End of input: it waits for what is on its way, and ends."""
        self._hang_up()
        return self.wait()

    def close(self) -> None:
        self._hang_up()
        if self.exit_code is None:
            os.kill(self.pid, signal.SIGCONT)
            self._fork.kill()
        self._fork.join()

    def _hang_up(self) -> None:
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1


def copy_home(source: Path, target: Path) -> Path:
    """A profile as a backup has it: no sockets or pipes."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.typed", "*.out", "*.err"))
    return target
