"""Backup, restore, and how members go on after it, with real processes."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.conftest import Inside
from tests.processes import ZCHAT, Running, Terminal, World, environment, wait_for, zchat
from tests.test_server import BOUND
from zchat.broker.pulse import Pulse
from zchat.broker.retention import Keep, Retention
from zchat.config import BrokerConfig
from zchat.log.contract import Addition, Entry, MemoryLog
from zchat.ui.cli.doctor import Patience

CONFIG = Path(__file__).parent.parent / "config"


def _texts(world: World, name: str) -> list[str]:
    done = world.run(name, "tail", "lobby")
    return [line.split(": ", 1)[1] for line in done.stdout.splitlines() if "~" in line]


def test_a_restored_server_is_an_honest_loss_and_nothing_of_ones_own_is_lost(here: World) -> None:
    """The loss is told; after rejoin what was lost is there again."""
    host = here.folder / "host"
    kept = here.folder / "kept.db"
    for text in ("one", "two"):
        assert here.run("alice", "send", here.broker.invite(), text).returncode == 0
    assert here.run("bob", "tail", here.broker.invite()).returncode == 0
    assert zchat(host, "broker", "backup", str(kept)).returncode == 0
    assert here.run("alice", "send", "lobby", "three").returncode == 0
    refused = zchat(host, "broker", "restore", str(kept))
    assert refused.returncode == 3, refused.stderr
    here.broker.end()
    restored = zchat(host, "broker", "restore", str(kept))
    assert restored.returncode == 0, restored.stderr
    assert "2 message(s)" in restored.stderr
    here.restart_broker()

    told = here.run("alice", "tail", "lobby")
    assert told.returncode == 4
    assert "it lost #3-#3 and started a new log" in told.stdout
    assert here.run("alice", "send", "lobby", "four").returncode == 4
    asked = here.run("alice", "rejoin", "lobby")
    assert (asked.returncode, "--accept" in asked.stderr) == (4, True)
    accepted = here.run("alice", "rejoin", "lobby", "--accept")
    assert accepted.returncode == 0, accepted.stderr
    assert "1 message(s) of yours" in accepted.stderr
    assert here.run("alice", "send", "lobby", "four").returncode == 0
    assert here.run("bob", "rejoin", "lobby", "--accept").returncode == 1  # has not heard of it yet
    assert here.run("bob", "tail", "lobby").returncode == 4
    assert here.run("bob", "rejoin", "lobby", "--accept").returncode == 0
    assert _texts(here, "bob") == ["one", "two", "three", "four"]


def test_a_backup_replaces_nothing_and_what_is_no_backup_is_refused(here: World) -> None:
    """The sentence says what is wrong; the store stays as it was."""
    host = here.folder / "host"
    assert here.run("alice", "send", here.broker.invite(), "one").returncode == 0
    kept = here.folder / "kept.db"
    kept.write_text("something else")
    again = zchat(host, "broker", "backup", str(kept))
    assert again.returncode == 3
    assert "replaces nothing" in again.stderr
    here.broker.end()
    before = here.broker.store.read_bytes()
    for file in (kept, here.folder / "none.db"):
        refused = zchat(host, "broker", "restore", str(file))
        assert refused.returncode in (3, 7), refused.stderr
        assert "Traceback" not in refused.stderr
    assert here.broker.store.read_bytes() == before


def test_what_is_kept_no_longer_leaves_an_unbroken_chain(here: World) -> None:
    """Who comes late reads the rest, is told what is gone, and misses nothing else."""
    invite = here.broker.invite()
    bob = here.join("bob")
    lines = "".join(f"line {i}\n" for i in range(1, 31))
    assert here.run("alice", "send", invite, "-", stdin=lines).returncode == 0
    bob.expect("line 30$")
    here.broker.end()
    here.restart_broker(ZCHAT_KEEP_ROOM_BYTES="7500")
    fit = 11  # of the 700 bytes that each of them has
    wait_for("envelopes are gone", lambda: _kept(here) <= fit)
    assert here.run("alice", "send", invite, "line 31").returncode == 0
    bob.expect("line 31$")
    wait_for("one more is gone", lambda: _kept(here) <= fit)  # what is kept is in the words
    late = here.run("carol", "tail", invite, "--all")
    assert late.returncode == 0, late.stdout
    assert "are no longer kept by the server" in late.stdout
    assert "missing" not in late.stdout
    assert "line 31" in late.stdout
    assert "line 1\n" not in late.stdout
    words = {here.run(n, "verify", "lobby", "--at", "31").stdout for n in ("alice", "bob", "carol")}
    assert len(words) == 1
    bob.end_input()
    assert bob.wait() == 0
    assert "!!" not in bob.err


def _kept(world: World) -> int:
    """How many envelopes the server holds."""
    return zchat(world.folder / "host", "broker", "audit").stdout.count("sealed: ")


def test_doctor_names_what_is_wrong_and_how_to_mend_it(here: World) -> None:
    """A sound profile is well; one bit in the store, and a key that others can read, are named."""
    host = here.folder / "host"
    host.chmod(0o700)
    assert here.run("alice", "send", here.broker.invite(), "one").returncode == 0
    beside = zchat(host, "doctor")
    assert (beside.returncode, "(running)" in beside.stdout) == (0, True), beside.stdout
    here.broker.end()
    with contextlib.closing(sqlite3.connect(here.broker.store)) as store:
        (envelope,) = store.execute("SELECT envelope FROM entries").fetchone()
        store.execute(
            "UPDATE entries SET envelope = ?", (envelope[:-1] + bytes([envelope[-1] ^ 1]),)
        )
        store.commit()
    (host / "broker" / "keys").chmod(0o644)
    told = zchat(host, "doctor")
    assert told.returncode == 1
    assert "#1: the message is not the one that was stored" in told.stdout
    assert "zchat broker restore FILE" in told.stdout
    assert "chmod go=" in told.stdout


def test_doctor_gives_no_advice_on_what_is_no_profile(tmp_path: Path) -> None:
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.touch(mode=0o644)
    folder.mkdir(mode=0o755)
    told = zchat(file, "doctor")
    assert (told.returncode, "It is no folder." in told.stdout) == (1, True), told.stdout
    told = zchat(folder, "doctor")
    assert (told.returncode, "chmod" in told.stdout) == (0, False), told.stdout


@pytest.mark.parametrize("content", ["histroy = 3\n", "= nonsense\n", "history = 'many'\n"])
def test_doctor_goes_on_where_settings_cannot_be_used(
    here: World, inside: Inside, content: str
) -> None:
    """One finding more, with the reason of `config check`; the rooms are looked at all the same."""
    home = here.home("alice")
    home.chmod(0o700)
    sound = inside(home, "doctor")
    assert (sound.returncode, "ok  settings" in sound.stdout) == (0, True)
    assert "lobby at " in sound.stdout
    (home / "member.toml").write_text(content)
    told = inside(home, "doctor")
    assert (told.returncode, told.stderr) == (1, "")
    assert (
        f"!!  settings, in files and the environment\n      {home / 'member.toml'}: " in told.stdout
    )
    assert "zchat config check" in told.stdout
    others = {line for line in sound.stdout.splitlines() if re.search("secrets|as alice", line)}
    assert len(others) >= 3
    assert others <= set(told.stdout.splitlines())


@pytest.mark.skipif(sys.platform != "linux", reason="capabilities are Linux's own")
def test_doctor_goes_on_where_it_may_not_look(here: World) -> None:
    """One finding more, and the members are looked at all the same."""
    home = here.home("alice")
    assert here.run("alice", "send", here.broker.invite(), "one").returncode == 0
    shut = home / "broker"
    shut.mkdir(mode=0)
    told = subprocess.run(
        [*BOUND, *ZCHAT, "doctor"],
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    shut.chmod(0o700)
    assert (told.returncode, told.stderr) == (1, "")
    assert f"!!  server's store\n      The store {shut} failed: Permission denied" in told.stdout
    assert "lobby at " in told.stdout


def test_doctor_looks_through_every_page(here: World) -> None:
    """An id that its index no longer finds is in no chain, and in no entry that is read."""
    host = here.folder / "host"
    assert here.run("alice", "send", here.broker.invite(), "one").returncode == 0
    here.broker.end()
    with contextlib.closing(sqlite3.connect(here.broker.store)) as store:
        (entry_id,) = store.execute("SELECT id FROM entries").fetchone()
    content = here.broker.store.read_bytes()
    at = content.find(entry_id + (1 << 40 | 1).to_bytes(6, "big"))
    assert at > 0
    other = bytes([content[at] ^ 1])
    here.broker.store.write_bytes(content[:at] + other + content[at + 1 :])
    told = zchat(host, "doctor")
    assert told.returncode == 1
    assert "the file: row 1 missing from index entries_id" in told.stdout
    assert told.stderr == ""


def test_whoever_waits_for_doctor_at_a_terminal_sees_the_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a line of its own, which is none before the first second is over."""
    ours, its = os.openpty()
    try:
        with open(its, "w", closefd=False) as terminal:
            monkeypatch.setattr("sys.stderr", terminal)
            patience = Patience(tmp_path / "log.db")

            def told() -> bool:
                patience.step()
                return bool(patience.told_s)

            assert not told()
            patience.end()
            wait_for("a second", told)
            patience.end()
        shown = os.read(ours, 10_000).decode()
    finally:
        os.close(ours)
        os.close(its)
    assert shown == f"\rLooking through {tmp_path / 'log.db'}: {patience.told_s} s\r\n"


ANALYZE = shutil.which("systemd-analyze")


def _analyzed(*arguments: str) -> "subprocess.CompletedProcess[str]":
    assert ANALYZE is not None
    return subprocess.run(
        [ANALYZE, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.skipif(ANALYZE is None, reason="there is no systemd here")
def test_the_unit_is_one_that_systemd_understands_and_exposes_little(tmp_path: Path) -> None:
    """A public server needs the network and its clients any address: that is the rest of it."""
    unit = tmp_path / "zchat-broker.service"
    text = (CONFIG / "zchat-broker.service").read_text()
    unit.write_text(text.replace("/opt/zchat/bin/zchat", sys.executable))
    verified = _analyzed("verify", str(unit))
    assert (verified.returncode, verified.stderr) == (0, "")
    judged = _analyzed("security", "--offline=true", "--no-pager", str(unit))
    exposure = re.search(
        r"Overall exposure level for zchat-broker\.service: ([0-9.]+)", judged.stdout
    )
    assert exposure is not None, judged.stdout + judged.stderr
    assert float(exposure[1]) <= 1.5  # 1.1 of 10 for systemd 252; later ones look at more
    unit.write_text(unit.read_text().replace("Restart=always", "Restarts=always"))
    assert "Restarts" in _analyzed("verify", str(unit)).stderr


def test_an_image_copies_what_is_there_and_what_an_install_needs() -> None:
    """The list of what may be sent to whoever builds it has the same names."""
    project = CONFIG.parent
    dockerfile = (CONFIG / "Dockerfile").read_text()
    copied = {
        name
        for line in re.findall(r"^COPY (?!--from)(.*)$", dockerfile, re.MULTILINE)
        for name in line.split()[:-1]
    }
    assert all((project / name).exists() for name in copied)
    sent = re.findall(r"^!(.*)$", (CONFIG / "Dockerfile.dockerignore").read_text(), re.MULTILINE)
    assert copied == set(sent)
    for link in (project / "zchat" / "settings").glob("*.toml"):
        assert link.resolve().parent == CONFIG


def test_settings_of_a_container_are_settings() -> None:
    """A name that no program reads would change nothing, and nobody would be told."""
    text = (CONFIG / "Dockerfile").read_text() + (CONFIG / "compose.yaml").read_text()
    named = set(re.findall(r"\bZCHAT_([A-Z_]+)", text)) - {"HOME"}
    assert named
    assert {name.lower() for name in named} <= set(BrokerConfig.__struct_fields__)


def test_the_health_check_of_an_image_tells_a_live_server_from_none(here: World) -> None:
    """As its line says it, with this Python, and at a free port."""
    dockerfile = (CONFIG / "Dockerfile").read_text()
    found = re.search(r"HEALTHCHECK .*\\\n +CMD (\[.*\])", dockerfile)
    assert found is not None
    _, *arguments = json.loads(found[1])
    port = _free_port()
    assert "127.0.0.1:9577" in arguments[-1]
    check = [sys.executable, *(a.replace(":9577", f":{port}") for a in arguments)]
    here.broker.end()
    assert subprocess.run(check, capture_output=True, check=False).returncode != 0
    here.restart_broker(ZCHAT_HEALTH=f"127.0.0.1:{port}")
    assert subprocess.run(check, capture_output=True, check=False).returncode == 0


def test_a_server_whose_store_is_gone_does_not_begin_empty_unasked(here: World) -> None:
    """It says what to do; asked to, it begins empty, and members see that it lost everything."""
    host = here.folder / "host"
    assert here.run("alice", "send", here.broker.invite(), "one").returncode == 0
    assert here.run("alice", "tail", "lobby").returncode == 0
    here.broker.end()
    here.broker.store.unlink()
    refused = zchat(host, "broker", "--listen", here.broker.address)
    assert refused.returncode == 3
    assert "--new-store" in refused.stderr
    assert not here.broker.store.exists()
    anew = Running(host, "broker", "--listen", here.broker.address, "--new-store", label="anew")
    try:
        anew.expect("^zchat://")
        told = here.run("alice", "tail", "lobby")
        assert told.returncode == 4
        assert "one" in told.stdout
        assert "it went back 1 message" in told.stdout
    finally:
        anew.end()
        anew.end_input()


def test_members_of_a_closed_room_are_told_why_and_keep_what_they_write(here: World) -> None:
    """As refused, and not as by a server that does not answer."""
    assert here.run("alice", "send", here.broker.invite(), "one").returncode == 0
    here.broker.end()
    with contextlib.closing(sqlite3.connect(here.broker.store, isolation_level=None)) as store:
        store.execute("UPDATE entries SET hash = zeroblob(32)")
    here.restart_broker()
    for arguments in (("tail", "lobby"), ("send", "lobby", "two")):
        refused = here.run("alice", *arguments, ZCHAT_TIMEOUT_S="1")
        assert refused.returncode == 5, refused.stderr
        assert "what it holds of this room is damaged" in refused.stderr
        assert "message(s) kept in the outbox" in refused.stderr
    here.broker.expect_note("is damaged in room .*The room is closed", count=1)


def test_what_the_wal_of_a_killed_server_lost_is_named_and_accepted_only_when_told(
    here: World,
) -> None:
    """Nothing is changed before; then members read an honest loss, and offer again what it was."""
    host = here.folder / "host"
    for text in ("one", "two"):
        assert here.run("alice", "send", here.broker.invite(), text).returncode == 0
    here.broker.kill()
    wal = here.broker.store.with_name("log.db-wal")
    content = bytearray(wal.read_bytes())
    content[-2_000] ^= 1
    wal.write_bytes(content)
    before = here.broker.store.read_bytes()
    refused = zchat(host, "broker", "--listen", here.broker.address)
    assert refused.returncode == 8, refused.stderr
    assert "lacks what was confirmed to members: room " in refused.stderr
    assert "#2-#2" in refused.stderr
    assert "--accept-loss" in refused.stderr
    assert "#2-#2" in zchat(host, "doctor").stdout
    assert (wal.read_bytes(), here.broker.store.read_bytes()) == (bytes(content), before)

    anew = Running(host, "broker", "--listen", here.broker.address, "--accept-loss", label="anew")
    try:
        anew.expect("^zchat://")
        assert "#2-#2" in anew.err
        assert len(list((host / "broker").glob("log.before-*.db-wal"))) == 1
        told = here.run("alice", "tail", "lobby")
        assert told.returncode == 4
        assert "it lost #2-#2 and started a new log" in told.stdout
        assert here.run("alice", "rejoin", "lobby", "--accept").returncode == 0
        assert here.run("alice", "send", "lobby", "three").returncode == 0
        said = here.run("alice", "tail", "lobby").stdout
        assert re.findall(r": (one|two|three)$", said, re.MULTILINE) == ["one", "two", "three"]
    finally:
        anew.end()
        anew.end_input()


def test_health_is_told_on_loopback_and_nowhere_else(here: World) -> None:
    """The three paths answer; another address is refused; a stopped loop is not well."""
    host = here.folder / "host"
    here.broker.end()
    refused = zchat(host, "broker", ZCHAT_HEALTH="0.0.0.0:0")
    assert refused.returncode == 1
    assert "loopback" in refused.stderr
    port = _free_port()
    here.restart_broker(ZCHAT_HEALTH=f"127.0.0.1:{port}")
    assert here.run("alice", "send", here.broker.invite(), "one").returncode == 0
    assert _get(port, "/healthz") == _get(port, "/readyz") == (200, "ok\n")
    wait_for("counted", lambda: 'event="stored"} 1' in _get(port, "/metrics")[1])
    assert _get(port, "/")[0] == 404
    here.broker.process.send_signal(signal.SIGSTOP)
    here.broker.process.send_signal(signal.SIGCONT)
    assert _get(port, "/healthz")[0] == 200


def test_whoever_asks_for_health_and_goes_leaves_no_trace(here: World) -> None:
    """Connections that are reset, and more than are answered at a time; others are answered."""
    here.broker.end()
    port = _free_port()
    here.restart_broker(ZCHAT_HEALTH=f"127.0.0.1:{port}")
    held = [socket.create_connection(("127.0.0.1", port)) for _ in range(40)]
    for each in held:
        each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with contextlib.suppress(OSError):  # hung up on already
            each.sendall(b"GET /metrics")
        each.close()

    def is_well() -> bool:
        with contextlib.suppress(OSError):
            return _get(port, "/healthz")[0] == 200
        return False

    wait_for("answered", is_well)
    here.broker.end()
    assert "Traceback" not in here.broker.err


def test_a_supervisor_that_does_not_listen_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it is told waits in its socket, until that is full."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(path))
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        pulse = Pulse()
        for beat in range(1_000):
            pulse.beat(1e6 + 10.0 * beat, {}, {})
        assert supervisor.recv(100).startswith(b"READY=1")


def test_sighup_reads_the_settings_again(here: World) -> None:
    """Who is no longer on the list is let go; a file that is none changes nothing."""
    host = here.folder / "host"
    bob = here.join("bob")
    assert here.run("alice", "send", here.broker.invite(), "one").returncode == 0
    bob.expect("one$")
    settings = host / "broker.toml"
    settings.write_text("nonsense = 1\n")
    here.broker.process.send_signal(signal.SIGHUP)
    here.broker.expect_note("settings stay as they were")
    settings.write_text(f'allow = ["{"0" * 64}"]\n')
    here.broker.process.send_signal(signal.SIGHUP)
    here.broker.expect_note("settings were read again")
    bob.type("am I still here?\n")
    bob.expect_note("offline since")
    assert here.run("alice", "send", "lobby", "two", "--timeout", "1").returncode == 3
    settings.write_text("")
    here.broker.process.send_signal(signal.SIGHUP)
    bob.expect(r"am I still here\?$", patience_s=60)


def test_a_broker_ends_with_its_terminal(tmp_path: Path) -> None:
    """There SIGHUP means what it means to every program of a terminal."""
    terminal = Terminal(tmp_path / "home", "broker", "--listen", "127.0.0.1:0", columns=200)
    terminal.expect("^zchat://")
    pid = terminal.process.pid
    assert pid is not None
    terminal.hang_up()
    try:
        wait_for("its end", lambda: os.waitpid(pid, os.WNOHANG)[0] == pid)
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise


def test_systemd_is_told_that_the_loop_turns(here: World) -> None:
    """READY once, WATCHDOG again and again, STOPPING at the end."""
    here.broker.end()
    path = here.folder / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(path))
        systemd.settimeout(30)
        here.restart_broker(NOTIFY_SOCKET=str(path))
        assert systemd.recv(100) == b"READY=1\nWATCHDOG=1"
        assert systemd.recv(100) == b"WATCHDOG=1"
        here.broker.end()
        told = [systemd.recv(100)]
        while told[-1] != b"STOPPING=1":
            told.append(systemd.recv(100))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_all_rooms_have_their_turn_however_many_there_are() -> None:
    """A few at a time, in rounds; nothing goes where nothing is to go."""
    log, rooms = MemoryLog(), [bytes([i]) * 16 for i in range(40)]
    for room in rooms:
        entries = [Entry(n, bytes([n]) * 32, bytes([n]) * 32, b"x" * 100, n) for n in (1, 2, 3)]
        log.append([Addition(room, entries, bytes(32))])
    assert Retention(log, Keep()).step(10**15) == 0
    retention = Retention(log, Keep(days=1))
    went = [retention.step(86_400_000 + 3) for _ in range(5)]
    assert sum(went) == 2 * len(rooms)
    assert max(went) <= 2 * 16
    assert all(log.read(room, 1, 3)[2].envelope for room in rooms)


def test_status_says_whether_it_runs_and_what_it_holds(here: World, inside: Inside) -> None:
    """Beside a running server, after its end, after it was killed, and where there was none."""
    home = here.broker.home
    assert inside(here.home("alice"), "send", here.broker.invite(), "one").returncode == 0
    live = inside(home, "broker", "status")
    assert live.returncode == 0
    assert live.stdout.startswith(f"running: {here.broker.stem}\n1 room(s), 1 message(s), ")
    here.broker.kill()
    killed = inside(home, "broker", "status", "--json")
    assert killed.returncode == 3
    told = json.loads(killed.stdout)
    assert (told["running"], told["invite"], told["rooms"], told["messages"]) == (False, None, 1, 1)
    assert told["bytes"] >= here.broker.store.stat().st_size
    none = inside(here.folder / "empty", "broker", "status")
    assert (none.returncode, none.stdout.splitlines()[0]) == (3, "not running")
    assert "0 room(s), 0 message(s), 0 bytes" in none.stdout
    assert not (here.folder / "empty").exists()
