"""How a broker starts, ends, and meets stores and streams that are not what it expects.

Rules of this file: real processes on real files; whoever ends because of what it met says one
sentence and what to do, ends with the code of that sentence, and leaves no report of a bug.
"""

import errno
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import zmq
from zmq.utils import z85

from tests.processes import PATIENCE_S, ZCHAT, environment, wait_for, zchat
from tests.test_broker_core import WEIGHT, Desk, envelope
from tests.test_gate import ROOM, Peer, a_broker
from zchat.broker.audit import audit_lines
from zchat.broker.send import Send
from zchat.broker.server import _Late
from zchat.broker.start import open_log
from zchat.errors import Exit
from zchat.files import take_lock
from zchat.log.ends import Ends
from zchat.log.guarded import GuardedLog
from zchat.protocol.ledger import Head, LogKey
from zchat.protocol.wire import Entries, Page, Post, Refuse, Stored

OTHER_ROOM = bytes(15) + b"o"
ANYWHERE = ("broker", "--listen", "127.0.0.1:0")
LINUX = pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux changes limits so")
FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's own")

# Root may write where nobody may. Without these two capabilities it is bound as others are.
_BOUND = """
import ctypes, os, sys
if os.geteuid() == 0:
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        assert ctypes.CDLL(None).prctl(24, capability, 0, 0, 0) == 0  # PR_CAPBSET_DROP
os.execv(sys.argv[1], sys.argv[1:])
"""
BOUND = [sys.executable, "-c", _BOUND]


class Started:
    """A broker, started by a command of its own, with streams of its own."""

    def __init__(
        self, home: Path, process: "subprocess.Popen[bytes]", out: Path, err: Path
    ) -> None:
        self.home, self.process = home, process
        self._out, self._err = out, err

    @property
    def err(self) -> str:
        return self._err.read_text("utf-8", "replace")

    @property
    def stem(self) -> str:
        """The invite stem, from where it is left for members of this profile."""
        path = self.home / "broker" / "invite"
        wait_for("it serves", lambda: path.exists() or self.process.poll() is not None)
        return path.read_text().strip()

    def end(self) -> int:
        """SIGTERM, and its exit code."""
        self.process.terminate()
        return self.process.wait(PATIENCE_S)


@contextmanager
def started(
    home: Path, *, launcher: Sequence[str] = (), redirected: str = "", **env: str
) -> Iterator[Started]:
    """A broker started by a shell, which can redirect its streams; killed at the end."""
    home.mkdir(exist_ok=True)
    out, err = home.parent / f"{home.name}.out", home.parent / f"{home.name}.err"
    command = [*launcher, *ZCHAT, *ANYWHERE]
    with out.open("wb") as its_out, err.open("wb") as its_err:
        process = subprocess.Popen(
            ["sh", "-c", f'exec "$@" {redirected}', "sh", *command],
            stdin=subprocess.DEVNULL,
            stdout=its_out,
            stderr=its_err,
            env=environment(home, **env),
        )
    try:
        yield Started(home, process, out, err)
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A profile whose broker has served: three messages in one room."""
    with a_broker(tmp_path) as broker, Peer(broker.stem) as author:
        author.hello()
        for k in (1, 2, 3):
            author.say(Post(ROOM, k), envelope(k))
        while author.expect(Stored).k < 3:
            pass
    return broker.home


def store(home: Path) -> Path:
    return home / "broker" / "log.db"


def messages(home: Path) -> int:
    """How many messages a store holds."""
    with closing(sqlite3.connect(store(home))) as database:
        return int(database.execute("SELECT count(*) FROM entries").fetchone()[0])


def refuses_to_start(
    home: Path, code: Exit, *says: str, launcher: Sequence[str] = (), **env: str
) -> None:
    """It ends by itself, with this code, one sentence and perhaps a hint; no bug is reported."""
    reports = next(parent for parent in home.parents if parent.is_dir()) / "reports"
    reports.mkdir(exist_ok=True)
    done = subprocess.run(
        [*launcher, *ZCHAT, *ANYWHERE],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment(home, TMPDIR=str(reports), **env),
        timeout=60,
        check=False,
    )
    err = done.stderr.decode()
    assert done.returncode == code, err
    assert done.stdout == b""
    first, *hint = err.splitlines()
    assert first.startswith("zchat: ")
    assert len(hint) <= 1
    assert all(words in err for words in says), err
    assert not list(reports.iterdir())


# ---- the end ----


def test_at_its_end_all_that_was_confirmed_is_stored_and_everybody_is_told(tmp_path: Path) -> None:
    """Posts are under way when SIGTERM comes; the last word to each member is `stopping`."""
    with a_broker(tmp_path) as broker, Peer(broker.stem) as author, Peer(broker.stem) as other:
        other.hello()
        author.hello()
        for k in range(1, 1_001):
            author.say(Post(ROOM, k), envelope(k))
        confirmed = author.expect(Stored).k
        broker.process.send_signal(signal.SIGTERM)
        while isinstance(word := author.receive()[0], Stored):
            confirmed = word.k
        assert isinstance(word, Refuse)
        assert (word.code, word.req, word.k) == ("stopping", 0, 0)
        assert other.expect(Refuse).code == "stopping"
        assert broker.wait() == 0
        assert messages(broker.home) == confirmed
        assert not (broker.home / "broker" / "invite").exists()


def test_who_is_slow_to_read_still_hears_that_it_stops_and_is_waited_for(tmp_path: Path) -> None:
    with a_broker(tmp_path) as broker, Peer(broker.stem) as member:
        member.hello()
        broker.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert broker.process.poll() is None
        assert member.expect(Refuse).code == "stopping"
        member.close()
        assert broker.wait() == 0


def test_who_reads_gets_every_receipt_though_a_turn_has_more_than_a_pipe_holds(
    tmp_path: Path,
) -> None:
    """A receipt for each room: 250 messages are enough for libzmq to think that nobody reads."""
    settings = "rooms_per_access_key = 4096\n"
    with a_broker(tmp_path, settings=settings) as broker, Peer(broker.stem) as author:
        author.hello()
        for first in range(0, 1_024, 128):
            rooms = [b"%16d" % number for number in range(first, first + 128)]
            for room in rooms:
                author.say(Post(room, 1), envelope(first))
            assert {author.expect(Stored).room for _ in rooms} == {*rooms}


def test_answers_that_met_a_full_pipe_are_kept_for_a_moment_and_within_a_bound() -> None:
    late, answer = _Late(), Send(b"route", (bytes(1_024 * 1_024),))
    assert late.take(0.0) == []
    for _ in range(3):
        late.add(answer)
    assert late.take(0.5) == [answer, answer]
    late.add(answer)
    assert late.take(0.9) == [answer]
    late.add(answer)
    assert late.take(1.0) == [], "whoever reads had time enough"
    late.add(answer)
    assert late.waits
    assert late.take(1.1) == [answer], "the next one has a moment of its own"
    assert not late.waits


def test_a_reader_who_has_stopped_reading_does_not_hold_up_the_end(tmp_path: Path) -> None:
    with (
        a_broker(tmp_path) as broker,
        Peer(broker.stem) as author,
        Peer(broker.stem, rcvhwm=1) as asleep,
    ):
        author.hello()
        asleep.hello()
        asleep.join(window=1 << 20)
        for k in range(1, 101):
            author.say(Post(ROOM, k), envelope(k, 65_536))
        while author.expect(Stored).k < 100:
            pass
        assert broker.end() == 0


def test_a_signal_right_behind_the_first_line_ends_it_in_order(tmp_path: Path) -> None:
    """Whoever waits for the invite may stop the broker at once."""
    for number in range(4):
        home = tmp_path / f"host-{number}"
        home.mkdir()
        process = subprocess.Popen(
            [*ZCHAT, *ANYWHERE],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment(home),
        )
        assert process.stdout is not None
        with process.stdout:
            assert process.stdout.readline().startswith(b"zchat://")
            process.terminate()
            assert process.wait(PATIENCE_S) == 0
        assert not (home / "broker" / "invite").exists()


def test_nobody_is_sent_to_a_broker_that_was_killed(tmp_path: Path) -> None:
    """What it announced is still there. It is told at once, and no passphrase is asked for."""
    home = tmp_path / "host"
    with started(home) as broker:
        stem = broker.stem
        asked = zchat(home, "join", "--room", "lobby", "--name", "bob")
        assert "The passphrase cannot be asked for" in asked.stderr
        broker.process.kill()
        broker.process.wait()
    assert broker.stem == stem
    asked = zchat(home, "join", "--room", "lobby", "--name", "bob")
    assert (asked.returncode, asked.stderr.splitlines()) == (
        Exit.FIXABLE,
        [
            "zchat: It is not known which server to go to.",
            "  Give an invite (zchat join zchat://...), or start a server: `zchat broker`.",
        ],
    )
    asked = zchat(home, "tail", "lobby", "--name", "bob")
    assert asked.returncode == Exit.FIXABLE
    assert "No room 'lobby' is known here." in asked.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="capabilities are Linux's own")
def test_who_may_not_look_at_a_brokers_lock_believes_what_it_announced(host: Path) -> None:
    """As a member may in whose profile another user's server runs."""
    stem = "zchat://127.0.0.1:1/#"
    (host / "broker" / "invite").write_text(f"{stem}\n")
    lock = host / "broker" / "log.db.lock"
    lock.chmod(0)
    asks = "import sys, pathlib; from zchat.broker.folder import announced; "
    asks += "print(announced(pathlib.Path(sys.argv[1])))"
    command = [*BOUND, sys.executable, "-c", asks, str(host / "broker")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"{stem}\n"
    lock.chmod(0o400)  # to ask, it is enough to read
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "None\n"


def test_with_until_eof_it_ends_when_its_stdin_does(tmp_path: Path) -> None:
    home = tmp_path / "host"
    home.mkdir()
    process = subprocess.Popen(
        [*ZCHAT, *ANYWHERE, "--until-eof"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment(home),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        assert process.stdout.readline().startswith(b"zchat://")
        process.stdin.write(b"not the end yet\n")
        process.stdin.close()
        assert process.wait(PATIENCE_S) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="capabilities are Linux's own")
def test_it_ends_in_order_though_its_folder_is_read_only_by_then(host: Path) -> None:
    folder = host / "broker"
    with started(host, launcher=BOUND) as broker:
        assert broker.stem
        folder.chmod(0o500)
        try:
            assert broker.end() == 0
        finally:
            folder.chmod(0o700)
    assert "ended: " in broker.err
    assert "report" not in broker.err


# ---- two of them ----


def test_a_second_broker_on_the_same_store_ends_and_the_first_goes_on(tmp_path: Path) -> None:
    with a_broker(tmp_path) as broker:
        invite = broker.home / "broker" / "invite"
        refuses_to_start(broker.home, Exit.NETWORK, "is in use by another process")
        assert invite.read_text().strip() == broker.stem
        with Peer(broker.stem) as peer:
            peer.hello()


@pytest.mark.parametrize("accept_loss", [False, True])
def test_a_broker_that_starts_waits_for_who_only_asks_whether_one_runs(
    tmp_path: Path, accept_loss: bool
) -> None:
    """Who asks has the store's lock for an instant; also where a loss is gone on without."""
    store, key = tmp_path / "log.db", LogKey(bytes(32))
    GuardedLog(store).close()
    if accept_loss:
        Ends(store, [(1, ROOM, 9, bytes(32))]).close()
    asking = take_lock(store)
    done = threading.Timer(0.05, asking.release)
    done.start()
    open_log(store, lambda: key, accept_loss=accept_loss).close()
    done.join()


def test_a_second_broker_on_the_same_port_ends_and_keeps_no_hold_on_its_store(
    tmp_path: Path,
) -> None:
    with a_broker(tmp_path) as broker:
        second = tmp_path / "second"
        done = zchat(second, "broker", "--listen", broker.address)
        assert done.returncode == Exit.NETWORK
        assert f"Cannot listen on {broker.address}" in done.stderr
        assert "Traceback" not in done.stderr
        assert not (second / "broker" / "invite").exists()
        with started(second) as free, Peer(free.stem) as peer, Peer(broker.stem) as other:
            peer.hello()
            other.hello()
            assert free.end() == 0


# ---- stores ----


def _foreign(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE songs (title)")


def _newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 2")


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


_SPOILT: dict[str, tuple[Callable[[Path], object], Exit, str]] = {
    "text": (lambda path: path.write_text("dear diary\n" * 500), Exit.WRONG_SECRET, "NOTADB"),
    "another program's": (_foreign, Exit.WRONG_SECRET, "it is another program's file"),
    "newer": (_newer, Exit.WRONG_SECRET, "it has schema 2, this version reads 1"),
    "cut off": (lambda path: os.truncate(path, 5_000), Exit.WRONG_SECRET, "CORRUPT"),
    "a folder": (_folder, Exit.NETWORK, os.strerror(errno.EISDIR)),
    "gone": (Path.unlink, Exit.NETWORK, "is gone, and this server has had one"),
    "emptied": (lambda path: os.truncate(path, 0), Exit.NETWORK, "is gone, and this server"),
}


@pytest.mark.parametrize("how", _SPOILT)
def test_a_store_that_is_none_is_named_and_left_as_it_is(host: Path, how: str) -> None:
    spoil, code, says = _SPOILT[how]
    path = store(host)
    spoil(path)
    before = path.read_bytes() if path.is_file() else None
    refuses_to_start(host, code, str(path), says)
    assert before == (path.read_bytes() if path.is_file() else None)


def _spoil_index(path: Path) -> None:
    """Make nonsense of the pages of the index of ids."""
    with closing(sqlite3.connect(path)) as database:
        ids = [row[0] for row in database.execute("SELECT id FROM entries")]
    content = bytearray(path.read_bytes())
    for at in range(0, len(content), 4096):
        if content[at] == 0x0A and any(entry_id in content[at : at + 4096] for entry_id in ids):
            content[at] = 0xFF
    path.write_bytes(content)


def test_damage_in_what_all_rooms_share_stops_it_and_the_next_start_sees_it_first(
    host: Path,
) -> None:
    """Else it would confirm, stop, and confirm again; a backup ends that."""
    kept = host.parent / "kept.db"
    shutil.copy(store(host), kept)
    _spoil_index(store(host))
    with started(host) as broker, Peer(broker.stem) as author:
        author.hello()
        author.say(Post(ROOM, 1), envelope(1))
        refuse = author.expect(Refuse)
        assert (refuse.code, refuse.text) == ("stopping", "its store is damaged")
        assert broker.process.wait(PATIENCE_S) == Exit.STORAGE
        assert "in what all rooms share: " in broker.err
    for _ in range(2):
        again = zchat(host, *ANYWHERE)
        assert (again.returncode, again.stdout) == (Exit.STORAGE, ""), again.stderr
        assert "in what all rooms share: " in again.stderr
        assert "restore FILE" in again.stderr
    assert zchat(host, "broker", "restore", str(kept)).returncode == 0
    with started(host) as broker:
        assert broker.stem
        assert broker.end() == 0
    assert messages(host) == 3


def test_a_doubt_that_proves_groundless_is_forgotten(host: Path) -> None:
    """As after somebody mended the file by hand."""
    store(host).with_name("log.db.doubt").write_text("it was damaged\n")
    for looks in (True, False):
        with started(host) as broker:
            assert broker.stem
            assert broker.end() == 0
            assert ("looking through all of it" in broker.err) is looks


def test_damage_in_a_room_closes_it_and_the_server_goes_on(host: Path) -> None:
    """It says so once, in its log; whoever asks for the room is told to come much later."""
    with closing(sqlite3.connect(store(host), isolation_level=None)) as database:
        database.execute("UPDATE entries SET hash = zeroblob(32) WHERE place & 255 = 3")
    with started(host) as broker, Peer(broker.stem) as author:
        author.hello()
        for k in (1, 1):
            author.say(Post(ROOM, k), envelope(k))
            assert author.expect(Refuse).code == "storage"
        author.say(Post(OTHER_ROOM, 1), envelope(9))
        assert author.expect(Stored).k == 1
        assert broker.end() == 0
        assert broker.err.count(f"is damaged in room {ROOM.hex()[:8]}, at message ") == 1
        assert "zchat doctor" in broker.err


@pytest.mark.skipif(sys.platform != "linux", reason="capabilities are Linux's own")
@pytest.mark.parametrize(
    ("what", "mode", "code"),
    [
        ("", 0o000, Exit.FIXABLE),
        ("broker", 0o500, Exit.NETWORK),
        ("broker", 0o000, Exit.NETWORK),
        ("broker.toml", 0o000, Exit.FIXABLE),
        ("broker/log.db", 0o400, Exit.NETWORK),
        ("broker/log.db.lock", 0o400, Exit.NETWORK),
        ("broker/keys", 0o000, Exit.NETWORK),
    ],
    ids=lambda value: oct(value) if isinstance(value, int) else str(value or "home"),
)
def test_what_it_may_not_read_or_write_is_named(
    host: Path, what: str, mode: int, code: Exit
) -> None:
    path = host / what
    former = path.stat().st_mode
    path.chmod(mode)
    try:
        refuses_to_start(host, code, str(path.parent if what else path), launcher=BOUND)
    finally:
        path.chmod(former)
    with started(host, launcher=BOUND) as broker:
        assert broker.stem
        assert broker.end() == 0
    assert messages(host) == 3


def test_a_home_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file")
    refuses_to_start(blocked / "home", Exit.NETWORK, str(blocked))


def test_a_store_that_another_program_holds_locked_is_named(host: Path) -> None:
    """It waits a while for whoever copies the file, and then says so."""
    with closing(sqlite3.connect(store(host), isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode=DELETE")
        other.execute("BEGIN EXCLUSIVE")
        refuses_to_start(host, Exit.NETWORK, "locked", str(store(host)))


def test_a_store_that_is_locked_for_a_moment_only_delays_what_is_posted(host: Path) -> None:
    with started(host) as broker, Peer(broker.stem) as author:
        author.hello()
        with closing(sqlite3.connect(store(host), isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            author.say(Post(ROOM, 1), envelope(11))
            assert not author.socket.poll(300), "nothing is confirmed before it is stored"
            other.execute("ROLLBACK")
        assert author.expect(Stored).k == 1
        assert broker.end() == 0
    assert messages(host) == 4


@LINUX
def test_a_full_disk_refuses_posts_and_nothing_else(host: Path) -> None:
    """What was stored can be read; once there is room, posts are taken again, in order."""
    with started(host) as broker, Peer(broker.stem) as author:
        author.hello()
        author.say(Post(ROOM, 1), envelope(11))
        log = author.expect(Stored).log
        limit_files(broker, 0)
        for k in (2, 3):
            author.say(Post(ROOM, k), envelope(10 + k))
        refuse = author.expect(Refuse)
        assert (refuse.code, refuse.k) == ("storage", 2)
        assert refuse.retry_after_ms > 0
        author.say(Page(9, ROOM, log, 1, 9, False))
        page = author.expect(Entries)
        assert (page.req, page.tip) == (9, 4)
        limit_files(broker, resource.RLIM_INFINITY)
        author.say(Post(ROOM, 2), envelope(12))
        author.say(Post(ROOM, 3), envelope(13))
        while author.expect(Stored).k < 3:
            pass
        assert broker.end() == 0
    assert messages(host) == 6


def limit_files(broker: Started, most_bytes: int) -> None:
    """No file of this process may grow beyond so many bytes: to it, the disk is full."""
    hard = resource.prlimit(broker.process.pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(broker.process.pid, resource.RLIMIT_FSIZE, (most_bytes, hard))


@LINUX
def test_a_full_disk_does_not_end_a_broker_that_wants_to_let_go_of_old_messages(
    tmp_path: Path,
) -> None:
    """It tries again, and does it once there is room."""
    with a_broker(tmp_path) as broker, Peer(broker.stem) as author:
        author.hello()
        for k in range(1, 201):
            author.say(Post(ROOM, k), envelope(k))
        while (receipt := author.expect(Stored)).k < 200:
            pass
    keep = {"ZCHAT_KEEP_ROOM_BYTES": str(WEIGHT)}
    limit = ["sh", "-c", 'ulimit -S -f 80; exec "$@"', "sh"]
    with started(broker.home, launcher=limit, **keep) as again, Peer(again.stem) as reader:
        wait_for("the disk is full", lambda: again.err.count("No space to write") > 1)
        reader.hello()
        limit_files(again, resource.RLIM_INFINITY)

        def is_expired() -> bool:
            reader.say(Page(1, ROOM, receipt.log, 200, 200, True))
            return Head.unpack(reader.expect(Entries).head).expired == 199

        wait_for("what is old is let go", is_expired)
        assert again.end() == 0


# ---- streams ----


@pytest.mark.parametrize("redirected", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_broker_with_closed_streams_serves(host: Path, redirected: str) -> None:
    """And no file of its store takes the place of a stream."""
    with started(host, redirected=redirected) as broker, Peer(broker.stem) as peer:
        peer.hello()
        peer.say(Post(ROOM, 1), envelope(11))
        peer.expect(Stored)
        assert broker.end() == 0
    assert messages(host) == 4


@FULL
def test_a_broker_that_cannot_say_its_invite_ends_with_a_sentence(host: Path) -> None:
    """Nobody could join it; the store is as it was."""
    with started(host, redirected=">/dev/full") as broker:
        assert broker.process.wait(PATIENCE_S) == Exit.NETWORK
    assert "No space to write standard output" in broker.err
    assert "report" not in broker.err
    assert not (host / "broker" / "invite").exists()
    assert messages(host) == 3


@FULL
def test_a_broker_whose_log_lines_nobody_can_read_serves_and_ends_with_0(host: Path) -> None:
    with started(host, redirected="2>/dev/full") as broker, Peer(broker.stem) as peer:
        peer.hello()
        assert broker.end() == 0


@FULL
def test_a_sentence_that_nobody_can_read_changes_no_exit_code(host: Path) -> None:
    store(host).write_text("dear diary")
    with started(host, redirected="2>/dev/full") as broker:
        assert broker.process.wait(PATIENCE_S) == Exit.WRONG_SECRET


# ---- audit ----


def audit(home: Path) -> "subprocess.CompletedProcess[str]":
    return zchat(home, "broker", "audit")


def test_audit_beside_a_live_broker_shows_what_is_stored_just_now(host: Path) -> None:
    with started(host) as broker, Peer(broker.stem) as author:
        author.hello()
        for k in range(1, 4):
            author.say(Post(ROOM, k), envelope(10 + k))
            author.expect(Stored)
            done = audit(host)
            assert done.returncode == 0, done.stderr
            assert done.stdout.count("sealed: ") == 3 + k
        assert broker.end() == 0


def test_audit_after_the_end_and_after_a_kill_shows_all(host: Path) -> None:
    """A killed broker leaves its last commits beside the file."""
    assert audit(host).stdout.count("sealed: ") == 3
    with started(host) as broker, Peer(broker.stem) as author:
        author.hello()
        author.say(Post(ROOM, 1), envelope(11))
        author.expect(Stored)
        broker.process.kill()
        broker.process.wait()
    done = audit(host)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("sealed: ") == 4


def test_audit_holds_nothing_while_nobody_reads_its_lines(tmp_path: Path) -> None:
    """A server's WAL cannot begin anew while somebody reads; whoever does may be out for lunch."""
    path = tmp_path / "log.db"
    with closing(GuardedLog(path)) as log:
        Desk(log=log).write(700)
        lines = audit_lines(path)
        read: list[str] = []
        for line in lines:
            read.append(line)
            if read.count("  row") == 300:
                break
        checkpoint = log._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        assert checkpoint == (0, 0, 0)
        read += lines
    places = [int(line.split()[1]) for line in read if line.startswith("    place: ")]
    assert places == [1 << 40 | n for n in range(1, 701)]


def test_audit_of_no_store_says_so(tmp_path: Path) -> None:
    done = audit(tmp_path / "nobody")
    assert (done.returncode, done.stdout) == (0, "")
    assert "no server yet" in done.stderr
    assert not (tmp_path / "nobody").exists()


@pytest.mark.parametrize("how", ["text", "another program's", "newer", "cut off", "emptied"])
def test_audit_of_what_is_no_store_says_so_and_changes_nothing(host: Path, how: str) -> None:
    spoil, _, _ = _SPOILT[how]
    spoil(store(host))
    before = store(host).read_bytes()
    done = audit(host)
    assert done.returncode in (Exit.WRONG_SECRET, Exit.NETWORK)
    assert done.stderr.startswith("zchat: ")
    assert "report" not in done.stderr
    assert store(host).read_bytes() == before


def test_audit_shows_an_envelope_that_is_damaged_whole(host: Path) -> None:
    """Whatever stands there is shown, also what no broker would have taken."""
    with closing(sqlite3.connect(store(host))) as database, database:
        database.execute("UPDATE entries SET envelope = x'c0ffee' WHERE place & 255 = 2")
        database.execute("UPDATE entries SET envelope = NULL WHERE place & 255 = 3")
    done = audit(host)
    assert done.returncode == 0
    assert "damaged: c0ffee" in done.stdout
    assert "envelope: None" in done.stdout
    assert done.stdout.count("sealed: ") == 1


@pytest.mark.parametrize("redirected", ["| head -1", "| true", ">&-"])
def test_audit_ends_quietly_where_nobody_reads_on(host: Path, redirected: str) -> None:
    with closing(sqlite3.connect(store(host))) as database, database:
        database.execute("UPDATE entries SET envelope = zeroblob(1000000)")
    script = f'{{ "$@"; echo "ended with $?" >&2; }} {redirected}'
    done = subprocess.run(
        ["sh", "-c", script, "sh", *ZCHAT, "broker", "audit"],
        env=environment(host),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == b"ended with 0\n"


# ---- who is in charge ----


def test_who_is_taken_off_the_list_is_heard_no_more(tmp_path: Path) -> None:
    """After SIGHUP, by the connection it has and by a new one; who stays on it notices nothing."""
    home = tmp_path / "host"
    stays, goes = zmq.curve_keypair(), zmq.curve_keypair()

    def allow(*pairs: tuple[bytes, bytes]) -> None:
        keys = ", ".join(f'"{z85.decode(public).hex()}"' for public, _ in pairs)
        (home / "broker.toml").write_text(f"allow = [{keys}]\n")

    home.mkdir()
    allow(stays, goes)
    with (
        started(home) as broker,
        Peer(broker.stem, pair=stays) as staying,
        Peer(broker.stem, pair=goes) as going,
    ):
        staying.hello()
        going.hello()
        allow(stays)
        broker.process.send_signal(signal.SIGHUP)
        wait_for("settings are read", lambda: "settings were read again" in broker.err)
        for k in range(1, 21):
            going.say(Post(ROOM, 1), envelope(100))
            staying.say(Post(ROOM, k), envelope(k))
            assert staying.expect(Stored).k == k
        assert not going.socket.poll(0)
        with Peer(broker.stem, pair=goes) as again:
            assert again.is_refused()
        assert broker.end() == 0
    assert messages(home) == 20


def test_a_restore_is_not_spoilt_by_what_a_store_that_is_gone_left_beside_it(host: Path) -> None:
    """SQLite would take the WAL of a killed server for that of the backup, and mix the two."""
    kept = host.parent / "kept.db"
    shutil.copy(store(host), kept)
    with started(host) as broker, Peer(broker.stem) as author:
        author.hello()
        for k in range(1, 20):
            author.say(Post(ROOM, k), envelope(100 + k, 65_536))
            author.expect(Stored)
        broker.process.kill()
        broker.process.wait()
    store(host).unlink()
    done = zchat(host, "broker", "restore", str(kept))
    assert done.returncode == 0, done.stderr
    assert "is kept" not in done.stderr
    looked_at = zchat(host, "doctor")
    assert "1 room(s), every page, every id and the chain" in looked_at.stdout
    assert "malformed" not in looked_at.stdout
    assert messages(host) == 3


def test_restores_in_one_second_keep_all_that_they_replace(host: Path) -> None:
    kept = host.parent / "kept.db"
    shutil.copy(store(host), kept)
    for _ in range(2):
        done = zchat(host, "broker", "restore", str(kept))
        assert done.returncode == 0, done.stderr
    assert len(list((host / "broker").glob("log.before-*.db"))) == 2
    assert messages(host) == 3
