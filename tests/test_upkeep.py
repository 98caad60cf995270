"""Backup, restore, and how members go on after it, with real processes."""

from tests.processes import World, wait_for, zchat


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
    wait_for("envelopes are gone", lambda: _kept(here) < 15)
    assert here.run("alice", "send", invite, "line 31").returncode == 0
    bob.expect("line 31$")
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
