"""A person's backup: sealed, whole, and afterwards one is who one was.

Rules of this file: the file is read by a reader of its own, made from docs/operations.md alone;
Argon2id is paid for only where a passphrase is what is tested.
"""

import contextlib
import hashlib
import re
import resource
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import keyring
import msgspec
import nacl.pwhash
import nacl.secret
import pytest
from click.testing import CliRunner, Result
from keyring.backend import KeyringBackend

from tests.conftest import Inside
from tests.processes import Terminal, World, wait_for
from tests.test_checked import KEY, OTHER_KEY
from zchat.errors import Exit, Malformed, ProfileInTheWay, StoreFull, Unopenable, ZchatError
from zchat.member.backup import Backup, Member, restore, take
from zchat.member.invite import Origin, Server
from zchat.member.keeper import Keeper
from zchat.member.profile import Profile
from zchat.member.vault import Pending, RoomRecord
from zchat.protocol.backup import (
    MAX_CONTENT_BYTES,
    MAX_FILE_BYTES,
    open_backup,
    read_header,
    seal_backup,
)
from zchat.protocol.ledger import Contradiction, Head
from zchat.protocol.limits import padded_length
from zchat.ui.cli.main import cli

ORIGIN = Origin(bytes(range(32)), KEY.public)
ROOT, SALT, NONCE = bytes(range(1, 33)), bytes(range(16)), bytes(range(24))
PASSPHRASE = "lumpy-crate-otter-basin-scarf-pencil"
TAG, OTHER_TAG = b"the room's tag..", b"another room's.."
HEAD = KEY.sign_head(TAG, bytes(32), 7, b"h" * 32, 0)


def profile_with_everything(home: Path) -> Profile:
    """Two members, and one of each thing that a vault can hold."""
    profile = Profile(home)
    alice, carol = profile.vault("alice"), profile.vault("carol d.")
    record = RoomRecord("lobby", "Alice", Server("127.0.0.1", 5577, ORIGIN), ORIGIN, b"r" * 32)
    alice.save_room(TAG, record)
    alice.save_room(OTHER_TAG, msgspec.structs.replace(record, room="attic", root=b"", read_n=3))
    other = OTHER_KEY.sign_head(TAG, bytes(32), 7, b"x" * 32, 0)
    proof = alice.save_evidence(TAG, Contradiction(TAG, KEY.public, HEAD, other))
    alice.update_room(TAG, record, fault="it went back", fault_ms=5, evidence=str(proof))
    alice.save_owed(TAG, [HEAD], [])
    incarnation = alice.begin(TAG)
    alice.put(TAG, [Pending(incarnation, 1, b"i" * 32, b"sealed"), *_more(incarnation)])
    alice.verify(TAG, [b"k" * 32], 4)
    alice.mute(OTHER_TAG, b"l" * 32, muted=True)
    alice.access_pair(b"c" * 32)
    alice.close()
    carol.close()
    (home / "member.toml").write_text("history = 5\n")
    return profile


def _more(incarnation: bytes) -> list[Pending]:
    return [Pending(incarnation, 2, b"j" * 32, b"sealed, too")]


@pytest.fixture
def profile(tmp_path: Path) -> Profile:
    return profile_with_everything(tmp_path / "home")


@contextlib.contextmanager
def at_most(size: int) -> Iterator[None]:
    """No file grows beyond this: a full disk, as far as one process can have one."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def names(folder: Path) -> set[str]:
    """What lies there, but for locks, which stay."""
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"}


# ---- what is in it ----


def test_everything_comes_back(profile: Profile, tmp_path: Path) -> None:
    """Vault for vault; a proof lies where the new profile says."""
    backup = take(profile)
    again = Profile(tmp_path / "again")
    assert restore(again, Backup.unpack(backup.pack()))
    assert again.members() == ["alice", "carol d."]
    former, now = take(profile), take(again)
    before, after = former.members[0], now.members[0]
    assert after.vault.secrets == before.vault.secrets
    assert sorted(after.vault.secrets) == [f"access {(b'c' * 32).hex()}", "master seed"]
    for field in ("incarnations", "outbox", "judgements"):
        assert getattr(after.vault, field) == getattr(before.vault, field)
    assert after.evidence == before.evidence
    (proof,) = (again.home / "members" / "alice" / "evidence").iterdir()
    rooms = {room.tag: room for room in after.vault.rooms}
    assert rooms[TAG].record.evidence == str(proof)
    assert (rooms[TAG].record.root, rooms[TAG].record.fault) == (b"r" * 32, "it went back")
    assert Head.unpack(rooms[TAG].witness) == HEAD
    assert rooms[OTHER_TAG].record.read_n == 3
    assert (again.home / "member.toml").read_text() == "history = 5\n"
    assert now.members[1].vault.secrets == former.members[1].vault.secrets
    for path in again.home.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_what_waited_is_sent_by_the_next_process_as_the_same_bytes(
    profile: Profile, tmp_path: Path
) -> None:
    """And its incarnation is known for one's own, while what comes next draws another."""
    again = Profile(tmp_path / "again")
    restore(again, take(profile))
    vault = again.vault("alice")
    pending = vault.adopt(TAG)
    assert [(row.seq, row.id, row.envelope) for row in pending] == [
        (1, b"i" * 32, b"sealed"),
        (2, b"j" * 32, b"sealed, too"),
    ]
    assert vault.wrote(pending[0].incarnation)
    assert vault.begin(TAG) != pending[0].incarnation
    assert vault.is_verified(TAG, b"k" * 32)
    assert vault.is_muted(OTHER_TAG, b"l" * 32)
    vault.close()


def test_nothing_is_restored_over_a_profile(profile: Profile, tmp_path: Path) -> None:
    """Not even a member of another name; a server and settings of one's own stay as they are."""
    backup = take(profile)
    other = Profile(tmp_path / "other")
    other.vault("bob").close()
    with pytest.raises(ProfileInTheWay, match=r"other already, of bob\. Nothing was changed"):
        restore(other, backup)
    assert other.members() == ["bob"]
    served = Profile(tmp_path / "served")
    (served.home / "broker").mkdir(parents=True)
    (served.home / "members").mkdir()
    (served.home / "member.toml").write_text("history = 9\n")
    assert not restore(served, backup)
    assert (served.home / "member.toml").read_text() == "history = 9\n"
    assert served.members() == ["alice", "carol d."]
    assert names(served.home) == {"broker", "members", "member.toml"}


@pytest.mark.parametrize("size", [40, 10_000, 30_000])
def test_a_full_disk_leaves_nothing_of_a_profile(
    profile: Profile, tmp_path: Path, size: int
) -> None:
    """Once there is room, it is restored in the same place."""
    backup = take(profile)
    again = Profile(tmp_path / "again")
    with at_most(size), pytest.raises(StoreFull):
        restore(again, backup)
    assert names(again.home) == set()
    (again.home / ".import-0000").mkdir()  # what a process that was killed has left
    restore(again, backup)
    assert names(again.home) == {"members", "member.toml"}


class Ring(KeyringBackend):
    """A keyring as an operating system has one."""

    priority = 1

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.entries: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.entries.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.entries[service, username] = password


def test_a_key_that_the_keyring_holds_is_in_the_backup(tmp_path: Path) -> None:
    """Itself, for elsewhere is another keyring; where it cannot be had, that is told."""
    told: list[str] = []
    former = keyring.get_keyring()
    keyring.set_keyring(Ring())
    try:
        profile = Profile(tmp_path, Keeper(5, told.append))
        server = Server("127.0.0.1", 5577, ORIGIN)
        record = profile.keeper.keep(RoomRecord("lobby", "alice", server, ORIGIN), ROOT)
        assert record.handle and not record.root
        with contextlib.closing(profile.vault("alice")) as vault:
            vault.save_room(TAG, record)
        (room,) = take(profile).members[0].vault.rooms
        assert (room.record.root, room.record.handle, room.record.sealed_root) == (ROOT, "", b"")
        keyring.set_keyring(Ring())
        (room,) = take(profile).members[0].vault.rooms
        assert (room.record.root, room.record.handle) == (b"", "")
        assert "The key of 'lobby' is not to be had" in told[-1]
    finally:
        keyring.set_keyring(former)


def test_a_proof_that_is_gone_is_not_spoken_of(profile: Profile, tmp_path: Path) -> None:
    """The fault stays."""
    shutil.rmtree(profile.home / "members" / "alice" / "evidence")
    again = Profile(tmp_path / "again")
    restore(again, take(profile))
    (record,) = [r.record for r in take(again).members[0].vault.rooms if r.tag == TAG]
    assert (record.evidence, record.fault) == ("", "it went back")


@pytest.mark.parametrize("name", ["../../x.json", "x.json", "0123abcd-1.json/../x", ""])
def test_no_name_in_a_backup_leads_out_of_the_profile(
    profile: Profile, tmp_path: Path, name: str
) -> None:
    """Whoever knows the passphrase of a backup can write another: it is refused."""
    backup = take(profile)
    member = msgspec.structs.replace(backup.members[0], evidence={name: b"x"})
    again = Profile(tmp_path / "again")
    with pytest.raises(Malformed, match="evidence"):
        restore(again, msgspec.structs.replace(backup, members=[member]))
    assert names(again.home) == set()
    climbing = [Member("../../x", member.vault, {})]
    restore(again, msgspec.structs.replace(backup, members=climbing))
    assert names(tmp_path) == {"home", "again"}
    with pytest.raises(Malformed, match="without a name"):
        nameless = msgspec.structs.replace(backup, members=[Member("", member.vault, {})])
        restore(Profile(tmp_path / "third"), nameless)


def test_a_content_of_another_form_is_none() -> None:
    for raw in (b"", b"\x80", b"\x82\xa7members\x90\xa8settings\xa0", b"\x91" * 5_000):
        with pytest.raises(Malformed, match="content is another"):
            Backup.unpack(raw)


def test_no_repr_shows_a_secret(profile: Profile) -> None:
    assert repr(take(profile).members[0].vault) == "<Contents of 2 rooms>"


# ---- the file ----


def opened_by_the_page(raw: bytes, passphrase: str) -> bytes:
    """A reader of docs/operations.md, "The file"."""
    magic, version, salt = raw[:12], int.from_bytes(raw[12:16], "big"), raw[16:32]
    nonce, size, commitment, box = raw[32:56], raw[56:64], raw[64:96], raw[96:]
    assert (magic, version) == (b"zchat backup", 1)
    assert int.from_bytes(size, "big") == len(box)
    root = nacl.pwhash.argon2id.kdf(32, passphrase.encode(), salt, 3, 2**28)
    both = hashlib.blake2b(raw[:64], digest_size=64, key=root, person=b"zchat/1 backup").digest()
    assert both[32:] == commitment
    padded = nacl.secret.SecretBox(both[:32]).decrypt(box, nonce)
    length = int.from_bytes(padded[:4], "big")
    assert not padded[4 + length :].strip(b"\0")
    return padded[4 : 4 + length]


def test_a_file_opens_with_its_root_and_no_other() -> None:
    raw = seal_backup(b"content", ROOT, SALT, NONCE)
    assert open_backup(raw, ROOT) == b"content"
    assert read_header(raw).salt == SALT
    assert b"content" not in raw
    with pytest.raises(Unopenable, match="commitment"):
        open_backup(raw, bytes(32))


def test_bytes_behind_a_content_are_not_taken() -> None:
    """Somebody who knows the passphrase could hide them there."""
    sound = seal_backup(b"content", ROOT, SALT, NONCE)
    header = read_header(sound)
    both = hashlib.blake2b(sound[:64], digest_size=64, key=ROOT, person=b"zchat/1 backup").digest()
    padded = (b"\0\0\0\7content" + b"more").ljust(header.size - 16, b"\0")
    box = nacl.secret.SecretBox(both[:32]).encrypt(padded, NONCE).ciphertext
    with pytest.raises(Unopenable, match="padding"):
        open_backup(sound[:96] + box, ROOT)


def test_the_longest_content_fits_a_file() -> None:
    assert 96 + 16 + padded_length(MAX_CONTENT_BYTES) <= MAX_FILE_BYTES


@pytest.mark.parametrize("content", [b"", b"x", bytes(508), bytes(509), bytes(300_000)])
def test_a_length_tells_little_of_a_content(content: bytes) -> None:
    """In steps, as of envelopes."""
    raw = seal_backup(content, ROOT, SALT, NONCE)
    assert open_backup(raw, ROOT) == content
    assert len(raw) >= 96 + 16 + 512
    assert len(raw) <= 96 + 16 + max(512, (4 + len(content)) * 1.12)


def test_no_byte_of_a_backup_can_be_another() -> None:
    """Every bit, every length."""
    raw = seal_backup(b"content", ROOT, SALT, NONCE)
    for at in range(len(raw)):
        for bit in range(8):
            changed = raw[:at] + bytes([raw[at] ^ 1 << bit]) + raw[at + 1 :]
            with pytest.raises((Malformed, Unopenable)):
                open_backup(changed, ROOT)
        with pytest.raises(Malformed):
            open_backup(raw[:at], ROOT)
    with pytest.raises(Malformed, match="behind its end"):
        open_backup(raw + b"\0", ROOT)


# ---- the commands ----


def run(home: Path, *arguments: str) -> Result:
    runner = CliRunner(env={"ZCHAT_HOME": str(home)})
    return runner.invoke(cli, ["profile", *arguments], standalone_mode=False)


def refused(result: Result, code: Exit, says: str) -> None:
    error = result.exception
    assert isinstance(error, ZchatError), (result.output, error)
    assert error.exit_code == code
    assert says in error.sentence


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """How a passphrase is given."""
    path = tmp_path / "words"
    path.write_text(f"{PASSPHRASE}\n")
    return ["--passphrase-file", str(path)]


def test_a_backup_is_sealed_under_its_passphrase_as_the_page_says(
    profile: Profile, tmp_path: Path, words: list[str]
) -> None:
    """Private, whole, and nothing of it in clear; another passphrase does not open it."""
    path = tmp_path / "me.zchat"
    done = run(profile.home, "export", str(path), *words)
    assert done.return_value == Exit.OK, done.exception
    assert "alice, carol d. with 2 rooms, and what is not in the log yet (2)." in done.stderr
    raw = path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    assert b"alice" not in raw and b"lobby" not in raw
    content = msgspec.msgpack.decode(opened_by_the_page(raw, PASSPHRASE))
    assert [member["name"] for member in content["members"]] == ["alice", "carol d."]
    (tmp_path / "wrong").write_text(PASSPHRASE + "s")
    by_file = ("--passphrase-file", str(tmp_path / "wrong"))
    wrong = run(tmp_path / "again", "import", str(path), *by_file)
    refused(wrong, Exit.WRONG_SECRET, f"Not the passphrase of {path}.")
    path.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    changed = run(tmp_path / "again", "import", str(path), *words)
    refused(changed, Exit.WRONG_SECRET, "a part of it was changed")
    assert names(tmp_path / "again") == set()


def test_what_the_log_holds_does_not_wait(here: World, tmp_path: Path, words: list[str]) -> None:
    """Neither after a `send` that was confirmed, nor while the one who said it is still there."""
    home = here.home("alice")
    for text in "one", "two", "three", "four", "five", "six":
        assert here.run("alice", "send", here.broker.invite(), text).returncode == 0
        with contextlib.closing(sqlite3.connect(home / "members" / "alice" / "vault.db")) as vault:
            assert vault.execute("SELECT * FROM outbox").fetchall() == []
    alice = here.join("alice")
    alice.expect("six")
    alice.type("seven\n")
    alice.expect("alice: seven")
    wait_for("it came back", lambda: not take(Profile(home)).members[0].vault.outbox)
    done = here.run("alice", "profile", "export", str(tmp_path / "me.zchat"), *words)
    assert "alice with 1 room.\n" in done.stderr
    assert "not in the log" not in here.run("alice", "doctor").stdout
    here.broker.kill()
    alice.expect_note("offline")
    alice.type("eight\n")
    wait_for("one waits", lambda: len(take(Profile(home)).members[0].vault.outbox) == 1)
    done = here.run("alice", "doctor")
    assert "1 message(s) not in the log yet; the next join sends them" in done.stdout
    done = here.run("alice", "forget", "lobby")
    assert "with 1 message(s) not in its log yet? Say --yes" in done.stderr


def test_what_is_no_backup_is_told_before_a_passphrase_is_asked_for(
    profile: Profile, tmp_path: Path, words: list[str]
) -> None:
    """Exit 7, the file, the reason; and a profile in the way is told then, too."""
    path = tmp_path / "me.zchat"
    sound = seal_backup(b"content", ROOT, SALT, NONCE)
    for raw, says in [
        (b"", "it does not begin as one"),
        (b"PK\3\4", "it does not begin as one"),
        (sound[:90], "it is cut short"),
        (sound[:-1], "it is cut short"),
        (sound + b"x", "something stands behind its end"),
        (sound[:15] + b"\2" + sound[16:], "it is of version 2, and this zchat reads 1"),
    ]:
        path.write_bytes(raw)
        refused(run(tmp_path / "again", "import", str(path)), Exit.WRONG_SECRET, says)
    path.write_bytes(sound)
    refused(run(profile.home, "import", str(path)), Exit.FIXABLE, "already, of alice, carol d.")
    refused(
        run(tmp_path / "again", "import", str(path)),
        Exit.USAGE,
        "The passphrase of the backup cannot be asked for",
    )
    nowhere = run(tmp_path / "again", "import", str(tmp_path / "none"))
    refused(nowhere, Exit.FIXABLE, "none cannot be read: No such file or directory")


def test_a_backup_replaces_nothing_and_its_passphrase_is_not_cheap(
    profile: Profile, tmp_path: Path, words: list[str]
) -> None:
    """All before Argon2id is paid for."""
    path = tmp_path / "me.zchat"
    path.write_text("before")
    refused(run(profile.home, "export", str(path), *words), Exit.FIXABLE, "is there already")
    nobody = run(tmp_path / "empty", "export", str(tmp_path / "x"), *words)
    refused(nobody, Exit.FIXABLE, "there is nobody in")
    (tmp_path / "weak").write_text("hunter2")
    weak = ("--passphrase-file", str(tmp_path / "weak"))
    refused(run(profile.home, "export", str(tmp_path / "x"), *weak), Exit.FIXABLE, "too weak")
    refused(run(profile.home, "export", str(tmp_path / "x")), Exit.USAGE, "cannot be asked for")
    if Path("/proc/self").exists():
        nowhere = run(profile.home, "export", "/proc/me.zchat", *words)
        refused(nowhere, Exit.NETWORK, "/proc/me.zchat cannot be written: ")
    (profile.home / "member.toml").write_text("#" * 200_000)
    for most, full in [(500, "vault.db"), (150_000, str(path))]:
        with at_most(most):
            result = run(profile.home, "export", str(path), "--force", *words)
        refused(result, Exit.NETWORK, "No space to write ")
        assert f"{full}: " in str(result.exception)
    assert path.read_text() == "before"
    assert names(tmp_path) == {"home", "me.zchat", "words", "weak"}


def test_at_a_terminal_a_passphrase_is_made_or_typed_twice(
    profile: Profile, tmp_path: Path
) -> None:
    """Enter makes one, shown once; it opens the backup."""
    path = tmp_path / "me.zchat"
    exporting = Terminal(profile.home, "profile", "export", str(path))
    importing = Terminal(tmp_path / "again", "rooms")
    try:
        exporting.expect("Enter: have one made")
        exporting.type(f"{PASSPHRASE}\r")
        exporting.expect("Once more")
        exporting.type("something else\r")
        assert exporting.wait() == 1
        assert "you typed two different ones" in exporting.text
        assert PASSPHRASE not in exporting.text
        exporting = Terminal(profile.home, "profile", "export", str(path))
        exporting.expect("Enter: have one made")
        exporting.type("\r")
        assert exporting.wait() == 0
        (made,) = re.findall(r"^  ([a-z]+(?:-[a-z]+){5})$", exporting.text, re.MULTILINE)
        importing.end()
        importing = Terminal(tmp_path / "again", "profile", "import", str(path), columns=200)
        importing.expect("Passphrase of .*me.zchat")
        importing.type(f"{made.replace('-', ' ')}\r")
        assert importing.wait() == 0
        assert "alice: attic, lobby" in importing.text or "alice: lobby, attic" in importing.text
    finally:
        exporting.end()
        importing.end()


# ---- with real processes ----


def test_what_is_not_in_a_backup_is_told(
    profile: Profile, tmp_path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server of one's own, settings that were there already; and what is too large is refused."""
    path, again = tmp_path / "me.zchat", tmp_path / "again"
    (profile.home / "broker").mkdir()
    done = run(profile.home, "export", str(path), *words)
    assert "The server of this profile is not in it" in done.stderr
    again.mkdir()
    (again / "member.toml").write_text("history = 9\n")
    for most in ("MAX_CONTENT_BYTES", "MAX_FILE_BYTES"):
        monkeypatch.setattr(f"zchat.ui.cli.profile.{most}", 1_000)
    refused(run(again, "import", str(path), *words), Exit.WRONG_SECRET, "it is too large")
    refused(run(profile.home, "export", str(tmp_path / "x"), *words), Exit.FIXABLE, "too large")
    monkeypatch.undo()
    done = run(again, "import", str(path), *words)
    assert done.return_value == Exit.OK
    assert "stay as they are; those of the backup were not taken" in done.stderr
    assert "carol d.: no rooms" in done.stdout


def test_who_is_restored_chats_on_and_nobody_sees_an_alarm(here: World, inside: Inside) -> None:
    """The same key and pins, numbers of its own; what waited in the outbox goes out once."""
    invite, path, words = here.broker.invite(), here.folder / "me", here.folder / "words"
    words.write_text(PASSPHRASE)
    for name, text in [("alice", "one"), ("bob", "two")]:
        assert inside(here.home(name), "send", invite, text).returncode == 0
    done = inside(here.home("alice"), "verify", "lobby", "--matches", "2", "--with", "bob")
    assert done.returncode == 0, done.stderr
    here.broker.end()
    assert inside(here.home("alice"), "send", "lobby", "waits", "--timeout", "1").returncode == 3
    by_file = ("--passphrase-file", str(words))
    assert inside(here.home("alice"), "profile", "export", str(path), *by_file).returncode == 0
    done = inside(here.home("again"), "profile", "import", str(path), *by_file)
    assert (done.returncode, done.stdout) == (0, "alice: lobby\n"), done.stderr
    here.restart_broker()
    bob = here.join("bob")
    assert inside(here.home("again"), "send", "lobby", "restored").returncode == 0
    bob.expect("restored$")
    bob.type("hello again\n")
    told = inside(here.home("again"), "tail", "lobby", "--all")
    assert told.returncode == 0, told.stderr
    assert "!!" not in told.stdout and "missing" not in told.stdout
    assert re.search(r"\d bob: two$", told.stdout, re.MULTILINE), "verified: no key mark"
    assert "alice: waits" in told.stdout
    assert inside(here.home("alice"), "join", "lobby").returncode == 0
    bob.end_input()
    assert bob.wait() == 0
    texts = [line.split(": ", 1)[1] for line in bob.lines]
    assert texts == ["one", "two", "waits", "restored", "hello again"]
    assert "!!" not in bob.err and "missing" not in bob.err
    keys = {line.split(" ")[1] for line in bob.lines if "alice" in line}
    assert len(keys) == 1


def test_a_server_that_went_back_since_the_backup_is_found_out(here: World, inside: Inside) -> None:
    """The logs are read anew, and must reach what was checked before."""
    invite, path, words = here.broker.invite(), here.folder / "me", here.folder / "words"
    words.write_text(PASSPHRASE)
    assert inside(here.home("alice"), "send", invite, "one").returncode == 0
    here.broker.end()
    server, old = here.broker.store.parent, here.folder / "old"
    shutil.copytree(server, old)
    here.restart_broker()
    assert inside(here.home("alice"), "send", "lobby", "two").returncode == 0
    assert inside(here.home("alice"), "tail", "lobby").returncode == 0
    by_file = ("--passphrase-file", str(words))
    assert inside(here.home("alice"), "profile", "export", str(path), *by_file).returncode == 0
    here.broker.end()
    shutil.rmtree(server)
    old.rename(server)  # a server that lies keeps no record of it either
    here.restart_broker()
    assert inside(here.home("again"), "profile", "import", str(path), *by_file).returncode == 0
    told = inside(here.home("again"), "tail", "lobby", ZCHAT_WITHHELD_S="1")
    assert told.returncode == 4, told.stdout + told.stderr
