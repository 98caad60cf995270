"""A member's vault and profile: secrets, rooms, outbox; shared by processes, cut short anywhere.

Rules of this file: another process is another process; a death is os._exit right before a chosen
statement of SQLite or system call, seen by a trace and an audit hook; nothing of the vault is
replaced. `next_process` is what finds the files afterwards.
"""

import contextlib
import json
import os
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
import zmq
from nacl.secret import SecretBox
from zmq.utils import z85

from tests.processes import finished, mode, python, umask
from zchat.database import Access
from zchat.errors import (
    BadName,
    BadPassphrase,
    StoreBusy,
    StoreTrouble,
    StoreUnreadable,
    UnknownRoom,
    WrongPassphrase,
)
from zchat.files import take_lock
from zchat.log.contract import Addition, Entry
from zchat.log.sqlite import SqliteLog
from zchat.member.invite import Invite, Origin, Server, stem
from zchat.member.profile import Opened, Place, Profile, find_room, known_here, same_place
from zchat.member.rejoin import rejoin
from zchat.member.replica import open_replica
from zchat.member.vault import KnownRoom, Pending, RoomRecord, Vault, member_folder
from zchat.protocol import evidence
from zchat.protocol.body import Text, encode
from zchat.protocol.envelope import EnvelopeClass, envelope_id
from zchat.protocol.keys import Author, RoomKeys, derive_root
from zchat.protocol.ledger import NO_HEAD, Contradiction, LogKey
from zchat.protocol.seal import seal

TAG, OTHER = b"tag of the room.", b"tag of another.."
ROOT = b"root of the room that is kept..."
KEYS = Origin(b"curve key of the server.........", b"log key of the server...........")
SERVER = Server("chat.example.org", 4826, KEYS)
RECORD = RoomRecord("lobby-of-ours", "Alice Liddell", SERVER, KEYS, ROOT)


def all_at_once(code: str, count: int, *arguments: object) -> list[str]:
    """What so many processes say that begin at the same time: each reads one letter first."""
    processes = [python(code, *arguments, number) for number in range(count)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("x")
        process.stdin.flush()
    return [finished(process) for process in processes]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a member's files will be."""
    return tmp_path / "members" / "alice"


@contextmanager
def opened(folder: Path) -> Iterator[Vault]:
    """A vault as one process holds it, closed at the end."""
    vault = Vault(folder)
    try:
        yield vault
    finally:
        vault.close()


next_process = opened


@pytest.fixture
def vault(folder: Path) -> Iterator[Vault]:
    with opened(folder) as made:
        yield made


def pending(incarnation: bytes, seq: int, text: str = "envelope") -> Pending:
    envelope = f"{text} {seq} of {incarnation.hex()}".encode()
    return Pending(incarnation, seq, envelope_id(envelope), envelope)


# ---- secrets ----


def test_all_that_a_member_keeps_is_for_the_owner_only(folder: Path) -> None:
    """Whatever the umask; folders too, so that nobody sees who is a member here."""
    with umask(0), opened(folder) as vault:
        vault.save_room(TAG, RECORD)
        vault.put(TAG, [pending(vault.begin(TAG), 1)])
        vault.save_evidence(TAG, contradiction())
        open_replica(vault.replica_path(TAG), TAG).close()
        made = [folder.parent, folder, *folder.rglob("*")]
        assert {path.name for path in made} >= {"vault.key", "vault.db", "rooms", "processes"}
        for path in made:
            assert mode(path) == (0o700 if path.is_dir() else 0o600), path


def test_nothing_that_names_people_or_rooms_or_opens_them_is_in_clear(folder: Path) -> None:
    """The vault's key opens all of it, and stands in one file of its own."""
    with opened(folder) as vault:
        vault.save_room(TAG, RECORD)
        secrets = [vault.master_seed, vault.access_pair(KEYS.curve_key).secret, ROOT]
    secrets.append((folder / "vault.key").read_bytes())
    held = b"".join(p.read_bytes() for p in folder.rglob("*") if p.name == "vault.db")
    for clear in (*secrets, b"lobby-of-ours", b"Alice Liddell", b"chat.example.org"):
        assert clear not in held
        assert clear.hex().encode() not in held
    with next_process(folder) as again:
        assert again.room(TAG) == RECORD


def test_the_seed_is_made_once_also_by_processes_that_begin_at_once(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from zchat.member.vault import Vault\n"
        "sys.stdin.read(1); vault = Vault(Path(sys.argv[1]))\n"
        "print(vault.master_seed.hex(), vault.access_pair(bytes(32)).secret.hex()); vault.close()"
    )
    told = set(all_at_once(code, 4, folder))
    with next_process(folder) as vault:
        access = vault.access_pair(bytes(32))
        assert told == {f"{vault.master_seed.hex()} {access.secret.hex()}\n"}


def test_an_access_key_is_of_one_server_and_shows_its_public_half_only(vault: Vault) -> None:
    one, other = vault.access_pair(bytes(32)), vault.access_pair(KEYS.curve_key)
    assert vault.access_pair(bytes(32)) == one
    assert one.secret != other.secret
    assert z85.decode(zmq.curve_public(z85.encode(one.secret))) == one.public
    assert repr(one) == f"<AccessPair {one.public.hex()[:8]}>"
    assert one.secret.hex()[:8] not in repr(one)


def test_a_repr_tells_where_a_vault_is_and_nothing_of_it(vault: Vault, folder: Path) -> None:
    assert repr(vault) == f"<Vault {folder}>"


@pytest.mark.parametrize(
    ("key", "says"),
    [(bytes(32), r"vault\.db .*vault\.key does not open it"), (b"short", "does not hold a key")],
)
def test_another_key_is_an_error_with_a_sentence_and_lets_everything_go(
    folder: Path, key: bytes, says: str
) -> None:
    with opened(folder):
        pass
    (folder / "vault.key").write_bytes(key)
    with pytest.raises(StoreUnreadable, match=says):
        Vault(folder)
    before = set(Path("/dev/fd").iterdir())
    with pytest.raises(StoreUnreadable, match=says):
        Vault(folder)
    assert set(Path("/dev/fd").iterdir()) == before
    assert list((folder / "processes").iterdir()) == []


def sealed_by_hand(folder: Path, clear: bytes) -> None:
    """Put something into the vault that only who has its key could."""
    box = SecretBox((folder / "vault.key").read_bytes())
    connection = sqlite3.connect(folder / "vault.db")
    with connection:
        connection.execute("UPDATE rooms SET sealed = ?", (bytes(box.encrypt(clear)),))
    connection.close()


def test_a_room_of_another_version_is_an_error_with_a_sentence(vault: Vault, folder: Path) -> None:
    vault.save_room(TAG, RECORD)
    for clear in (b"no MessagePack", msgspec.msgpack.encode({"room": 5})):
        sealed_by_hand(folder, clear)
        with pytest.raises(StoreUnreadable, match=r"vault\.db .*: a room in it: "):
            vault.rooms()
        with pytest.raises(StoreUnreadable, match=r"vault\.db .*: a room in it: "):
            vault.room(TAG)


# ---- rooms ----


def test_rooms_are_known_by_all_processes_the_last_used_first(vault: Vault, folder: Path) -> None:
    assert (vault.rooms(), vault.room(TAG)) == ([], None)
    assert RECORD.invite == Invite(SERVER, "lobby-of-ours", KEYS)
    other = msgspec.structs.replace(RECORD, room="another", root=b"")
    with next_process(folder) as second:
        vault.save_room(TAG, RECORD)
        after(vault)
        second.save_room(OTHER, other)
        assert [known.tag for known in vault.rooms()] == [OTHER, TAG]
        after(second)
        vault.save_room(TAG, RECORD)
        assert [(known.tag, known.record) for known in second.rooms()] == [
            (TAG, RECORD),
            (OTHER, other),
        ]


def after(vault: Vault) -> None:
    """Wait until the clock has moved beyond what was written last."""
    last = max(known.used_ms for known in vault.rooms())
    while time.time_ns() // 1_000_000 <= last:
        time.sleep(0.001)


def test_what_processes_change_about_a_room_is_all_kept(vault: Vault, folder: Path) -> None:
    """Each changes its own fields; the first fault of the server stays, whoever finds the next."""
    with next_process(folder) as second:
        assert vault.update_room(TAG, RECORD, name="Ally").name == "Ally"
        second.update_room(TAG, RECORD, read_n=7)
        second.update_room(TAG, RECORD, fault="it forked", fault_ms=1, evidence="a file")
        vault.update_room(TAG, RECORD, fault="it forked again", fault_ms=2, evidence="")
        kept = vault.update_room(TAG, RECORD, read_ms=9)
    expected = msgspec.structs.replace(
        *(RECORD,),
        name="Ally",
        read_n=7,
        read_ms=9,
        fault="it forked",
        fault_ms=1,
        evidence="a file",
    )
    assert kept == vault.room(TAG) == expected


def test_a_room_that_is_forgotten_is_gone_with_all_that_belongs_to_it(
    vault: Vault, folder: Path
) -> None:
    """Its replica too, and what was set aside; another room stays."""
    for tag in (TAG, OTHER):
        vault.save_room(tag, RECORD)
        vault.save_owed(tag, [HEAD], [])
        vault.put(tag, [pending(vault.begin(tag), 1)])
        vault.verify(tag, [b"key"], 1)
        open_replica(vault.replica_path(tag), tag).close()
        vault.set_replica_aside(tag)
        open_replica(vault.replica_path(tag), tag).close()
    vault.forget_room(TAG)
    assert vault.room(TAG) is None
    assert [known.tag for known in vault.rooms()] == [OTHER]
    assert (vault.waiting(TAG), vault.waiting(OTHER)) == (0, 1)
    assert (vault.is_verified(TAG, b"key"), vault.is_verified(OTHER, b"key")) == (False, True)
    assert vault.owed(TAG) == set()
    left = {path.name.split(".")[0] for path in (folder / "rooms").iterdir()}
    assert left == {OTHER.hex()}


def test_of_a_room_that_is_forgotten_nothing_is_left_in_the_files(
    vault: Vault, folder: Path
) -> None:
    """Neither in free pages nor in the log beside them. What stays is found by the same search."""
    for tag in (TAG, OTHER):
        vault.save_room(tag, RECORD)
        vault.put(tag, [pending(vault.begin(tag), 1, f"of {tag.hex()}")])

    def held(tag: bytes) -> int:
        files = b"".join(path.read_bytes() for path in folder.glob("vault.db*"))
        return files.count(tag) + files.count(f"of {tag.hex()}".encode())

    assert (held(TAG) > 1, held(OTHER) > 1) == (True, True)
    vault.forget_room(TAG)
    assert (held(TAG), held(OTHER) > 1) == (0, True)


def test_a_room_is_not_forgotten_while_a_process_is_in_it(vault: Vault, folder: Path) -> None:
    """Else what that process writes would wait for ever, and look like another device's."""
    vault.save_room(TAG, RECORD)
    replica = open_replica(vault.replica_path(TAG), TAG)
    drawn = vault.begin(TAG)
    with next_process(folder) as second:
        with pytest.raises(StoreBusy, match="in use by another process"):
            second.forget_room(TAG)
        assert second.room(TAG) == RECORD
        assert second.wrote(drawn)
        replica.close()
        second.forget_room(TAG)
        assert second.room(TAG) is None


def test_a_remembered_key_gives_ones_own_key_in_the_room(vault: Vault) -> None:
    vault.save_room(TAG, RECORD)
    (known,) = vault.rooms()
    assert vault.public_key(known.record.root) == Author(vault.master_seed, RoomKeys(ROOT)).public


LOG_KEY = LogKey(b"seed of a log key...............")
HEAD = LOG_KEY.sign_head(TAG, b"l" * 32, 5, b"h" * 32, 0)


def contradiction() -> Contradiction:
    return Contradiction(TAG, LOG_KEY.public, HEAD, HEAD._replace(hash=b"g" * 32))


def test_receipts_are_kept_until_they_are_settled_or_the_log_is_set_aside(vault: Vault) -> None:
    assert vault.owed(TAG) == set()
    vault.save_room(TAG, RECORD)
    assert vault.owed(TAG) == set()
    heads = [HEAD, HEAD._replace(n=4), HEAD._replace(n=6)]
    vault.save_owed(TAG, heads[:2], [])
    vault.save_owed(TAG, heads[1:], heads[:1])
    assert vault.owed(TAG) == set(heads[1:])
    vault.save_room(TAG, RECORD)
    assert vault.owed(TAG) == set(heads[1:])
    vault.set_replica_aside(TAG)
    assert vault.owed(TAG) == set()


def test_a_proof_is_kept_as_a_file_that_can_be_read_again(vault: Vault) -> None:
    path = vault.save_evidence(TAG, contradiction())
    assert evidence.unpack(path.read_bytes()) == contradiction()


def test_a_replica_is_set_aside_whole_and_only_when_nobody_writes_it(
    vault: Vault, folder: Path
) -> None:
    """With what a killed process left beside it; where there is none, nothing happens."""
    vault.save_room(TAG, RECORD)
    assert not vault.set_replica_aside(TAG).exists()
    entry = Entry(1, b"i" * 32, b"h" * 32, b"envelope")
    code = (
        "import os, sys; from pathlib import Path; from zchat.database import Access\n"
        "from zchat.log.contract import Addition, Entry; from zchat.log.sqlite import SqliteLog\n"
        "log = SqliteLog(Path(sys.argv[1]), Access.REPLICA)\n"
        "entry = Entry(1, b'i' * 32, b'h' * 32, b'envelope')\n"
        "log.append([Addition(bytes.fromhex(sys.argv[2]), [entry], bytes(32))])\n"
        "print('kept', flush=True); sys.stdin.read(1); os._exit(9)\n"
    )
    writer = python(code, vault.replica_path(TAG), TAG.hex())
    assert writer.stdout is not None
    assert writer.stdout.readline() == "kept\n"
    with pytest.raises(StoreBusy):
        vault.set_replica_aside(TAG)
    finished(writer, code=9)
    aside = vault.set_replica_aside(TAG)
    assert not vault.replica_path(TAG).exists()
    log = SqliteLog(aside, Access.READ_ONLY)
    assert log.read(TAG, 1, 1) == [entry]
    log.close()
    fresh = open_replica(vault.replica_path(TAG), TAG)
    assert fresh.tip(TAG) is None
    fresh.close()


def test_a_replica_is_written_by_the_first_process_and_overlaid_by_others(vault: Vault) -> None:
    """Also where the first is only just making the file, or has not begun to."""
    path = vault.replica_path(TAG)
    addition = Addition(TAG, [Entry(1, b"i" * 32, b"h" * 32, b"envelope")], bytes(32))
    with take_lock(path):
        for is_there in (False, True):
            if is_there:
                path.touch()
            second = open_replica(path, TAG)
            assert second.tip(TAG) is None
            second.append([addition])
            assert second.read(TAG, 1, 1) == list(addition.entries)
            second.close()
    first = open_replica(path, TAG)
    assert first.tip(TAG) is None
    first.append([addition])
    second = open_replica(path, TAG)
    assert second.tip(TAG) == first.tip(TAG)
    second.close()
    first.close()


# ---- judgements ----


def test_judgements_of_a_member_do_not_disturb_each_other(vault: Vault, folder: Path) -> None:
    """Who is compared can be muted, and the other way round; each room has its own."""
    with next_process(folder) as second:
        assert (vault.is_verified(TAG, b"bob"), vault.is_muted(TAG, b"bob")) == (False, False)
        vault.verify(TAG, [b"bob", b"carol"], 5)
        second.mute(TAG, b"bob", muted=True)
        second.mute(TAG, b"dave", muted=True)
        vault.verify(TAG, [b"dave"], 6)
        for key, verified, muted in ((b"bob", 1, 1), (b"carol", 1, 0), (b"dave", 1, 1)):
            assert (vault.is_verified(TAG, key), vault.is_muted(TAG, key)) == (verified, muted)
        vault.mute(TAG, b"bob", muted=False)
        assert (second.is_verified(TAG, b"bob"), second.is_muted(TAG, b"bob")) == (True, False)
        assert not second.is_verified(OTHER, b"bob")


# ---- incarnations and outbox ----


def test_what_is_put_waits_in_its_order_for_this_process_and_room(vault: Vault) -> None:
    one, other = vault.begin(TAG), vault.begin(OTHER)
    assert one != other
    rows = [pending(one, seq) for seq in (1, 2, 3)]
    vault.put(TAG, rows[:2])
    vault.put(OTHER, [pending(other, 1)])
    vault.put(TAG, rows[2:])
    vault.put(TAG, [])
    assert vault.pending(TAG) == rows
    assert vault.pending(OTHER) == [pending(other, 1)]
    assert (vault.waiting(TAG), vault.waiting(OTHER), vault.waiting(b"none")) == (3, 1, 0)


def test_an_incarnation_is_known_before_it_is_used_and_ever_after(
    vault: Vault, folder: Path
) -> None:
    """By every process: one's own key with another incarnation is an alarm."""
    drawn = vault.begin(TAG)
    with next_process(folder) as second:
        assert second.wrote(drawn)
        assert not second.wrote(bytes(16))
    with next_process(folder) as third:
        assert third.wrote(drawn)


def test_what_breaks_the_outbox_is_refused_whole(vault: Vault) -> None:
    """An id stands in it once; what was done meanwhile is not forgotten by the failure."""
    drawn = vault.begin(TAG)
    first, second = pending(drawn, 1), pending(drawn, 2)
    vault.put(TAG, [first])
    vault.done([first.id])
    with pytest.raises(StoreTrouble, match="UNIQUE"):
        vault.put(TAG, [second, second])
    assert vault.pending(TAG) == [first]
    vault.put(TAG, [second])
    assert vault.pending(TAG) == [second]


def test_what_is_done_goes_with_the_next_commit_or_the_end(folder: Path) -> None:
    with opened(folder) as vault:
        drawn = vault.begin(TAG)
        rows = [pending(drawn, seq) for seq in (1, 2, 3)]
        vault.put(TAG, rows[:2])
        vault.done([rows[0].id])
        assert vault.waiting(TAG) == 2
        vault.put(TAG, rows[2:])
        assert vault.pending(TAG) == rows[1:]
        vault.done([rows[1].id, b"no such id"])
    with next_process(folder) as second:
        assert second.adopt(TAG) == rows[2:]


def test_a_number_that_is_given_up_keeps_its_place(vault: Vault) -> None:
    drawn = vault.begin(TAG)
    rows = [pending(drawn, seq) for seq in (1, 2)]
    vault.put(TAG, rows)
    filled = pending(drawn, 1, "void")
    vault.replace(rows[0].id, filled)
    vault.replace(b"no such id", pending(drawn, 9))
    assert vault.pending(TAG) == [filled, rows[1]]


def test_what_a_server_lost_is_offered_once(folder: Path) -> None:
    with opened(folder) as vault:
        drawn = vault.begin(TAG)
        rows = [pending(drawn, seq) for seq in (1, 2)]
        vault.put(TAG, rows[1:])
    with next_process(folder) as second:
        for _ in range(2):
            second.offer(TAG, rows)
        assert second.waiting(TAG) == 2
        assert second.adopt(TAG) == rows[::-1]


def test_the_living_keep_their_outbox_and_the_dead_are_adopted_from(folder: Path) -> None:
    """Room by room; what was adopted stays with who adopted it while that lives."""
    dead, alive = Vault(folder), Vault(folder)
    rows = {}
    for name, vault in (("dead", dead), ("alive", alive)):
        for tag in (TAG, OTHER):
            drawn = vault.begin(tag)
            rows[name, tag] = [pending(drawn, seq, name) for seq in (1, 2)]
            vault.put(tag, rows[name, tag])
    dead.close()
    with next_process(folder) as third, next_process(folder) as fourth:
        assert third.adopt(TAG) == rows["dead", TAG]
        assert fourth.adopt(TAG) == []
        assert fourth.adopt(OTHER) == rows["dead", OTHER]
        assert third.adopt(OTHER) == []
        assert third.adopt(TAG) == third.pending(TAG) == rows["dead", TAG]
        third.done([rows["dead", TAG][0].id])
    alive.close()
    with next_process(folder) as last:
        assert last.adopt(TAG) == [*rows["dead", TAG][1:], *rows["alive", TAG]]


WRITES_AND_DIES = """
import os, sys
from pathlib import Path
from zchat.member.vault import KnownRoom, Pending, RoomRecord, Vault, member_folder

sys.stdin.read(1)
vault = Vault(Path(sys.argv[1]))
drawn = vault.begin(b"tag of the room.")
for seq in range(1, 11):
    envelope = b"%s %d" % (drawn.hex().encode(), seq)
    vault.put(b"tag of the room.", [Pending(drawn, seq, b"%16s%16d" % (drawn, seq), envelope)])
print(drawn.hex(), flush=True)
os._exit(0)
"""

ADOPTS = """
import sys
from pathlib import Path
from zchat.member.vault import KnownRoom, Pending, RoomRecord, Vault, member_folder

vault = Vault(Path(sys.argv[1]))
sys.stdin.read(1)
for row in vault.adopt(b"tag of the room."):
    print(row.envelope.decode())
print("adopted", flush=True)
sys.stdin.read(1)
"""


def test_processes_of_one_member_write_at_once_and_nothing_is_lost_when_they_die(
    folder: Path,
) -> None:
    """Each has numbers of its own; of several that come later, exactly one takes them over."""
    drawn = [line.strip() for line in all_at_once(WRITES_AND_DIES, 4, folder)]
    assert len(set(drawn)) == 4
    with opened(folder) as vault:
        assert vault.waiting(TAG) == 40
        assert all(vault.wrote(bytes.fromhex(one)) for one in drawn)
    adopters = [python(ADOPTS, folder) for _ in range(3)]
    for adopter in adopters:
        assert adopter.stdin is not None
        adopter.stdin.write("x")
        adopter.stdin.flush()
    told = [list(_lines_before("adopted", adopter)) for adopter in adopters]
    for adopter in adopters:
        finished(adopter)
    assert sorted(map(len, told)) == [0, 0, 40]
    everything = max(told, key=len)
    for one in drawn:
        assert [e for e in everything if e.startswith(one)] == [f"{one} {i}" for i in range(1, 11)]


def _lines_before(end: str, process: "subprocess.Popen[str]") -> Iterator[str]:
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == end:
            return
        yield line.strip()
    raise AssertionError(finished(process))


def test_members_of_one_profile_have_nothing_in_common(tmp_path: Path) -> None:
    profile = Profile(tmp_path)
    vaults = [profile.vault(name) for name in ("alice", "bob")]
    vaults[0].save_room(TAG, RECORD)
    vaults[0].put(TAG, [pending(vaults[0].begin(TAG), 1)])
    assert vaults[0].master_seed != vaults[1].master_seed
    assert vaults[0].access_pair(bytes(32)) != vaults[1].access_pair(bytes(32))
    assert (vaults[1].rooms(), vaults[1].waiting(TAG)) == ([], 0)
    for vault in vaults:
        vault.close()
    assert profile.members() == ["alice", "bob"]


def test_the_marks_of_processes_long_dead_are_swept_those_of_the_living_are_not(
    folder: Path,
) -> None:
    """However old: who lives holds its lock. One that died just now is left for who adopts."""
    alive = Vault(folder)
    rows = [pending(alive.begin(TAG), 1)]
    alive.put(TAG, rows)
    (mark,) = (folder / "processes").iterdir()
    for name in ("0123456789abcdef", "just now"):
        (folder / "processes" / f"{name}.lock").touch()
    long_ago = time.time() - 7200
    for path in (mark, folder / "processes" / "0123456789abcdef.lock"):
        os.utime(path, (long_ago, long_ago))
    with next_process(folder) as second:
        marks = {path.name for path in (folder / "processes").iterdir()}
        assert len(marks) == 3
        assert {mark.name, "just now.lock"} < marks
        assert second.adopt(TAG) == []
    alive.close()
    assert {path.name for path in (folder / "processes").iterdir()} == {"just now.lock"}


FULL_DISK = """
import os, resource, sys
from pathlib import Path
from zchat.errors import StoreFull
from zchat.member.vault import KnownRoom, Pending, RoomRecord, Vault, member_folder

tag, folder = b"tag of the room.", Path(sys.argv[1])
def most(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
def row(seq):
    return Pending(drawn, seq, b"%32d" % seq, bytes(1000))

vault = Vault(folder)
drawn = vault.begin(tag)
vault.put(tag, [row(1), row(2)])
most(0)
vault.done([row(1).id])
for attempt in (lambda: vault.put(tag, [row(3)]), lambda: vault.begin(tag), vault.close):
    try:
        attempt()
    except StoreFull as error:
        print(str(error).startswith("No space to write "), flush=True)
assert not list((folder / "processes").iterdir()), "its life in the vault has ended"
most(resource.RLIM_INFINITY)
vault = Vault(folder)
print(*(row.seq for row in vault.adopt(tag)))
vault.close()
"""


def test_a_full_disk_loses_nothing_and_even_then_a_vault_is_closed(folder: Path) -> None:
    said = finished(python(FULL_DISK, folder)).splitlines()
    assert said == ["True", "True", "True", "1 2"]


# ---- death at every step ----

DIES = '''
"""Live a life over and over, in forks that die at step 1, 2, 3 ..., until one lives to its end."""
import json, os, shutil, sqlite3, sys
from pathlib import Path
from tests.test_vault import LIVES

template, folders, life = Path(sys.argv[1]), Path(sys.argv[2]), LIVES[sys.argv[3]]
step = 0

def fork(number):
    """A life in a copy of the template; True if it reached its end."""
    folder = folders / str(number)
    shutil.copytree(template, folder)
    told = os.open(folders / f"{number}.told", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    child = os.fork()
    if not child:
        try:
            watch(number, str(folder))
            life(folder, lambda *what: os.write(told, json.dumps(what).encode() + b"\\n"))
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
        os._exit(1)
    os.close(told)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9), f"step {number}: {code}"
    return code == 0

def watch(last, folder):
    """Die right before the step with this number: a statement, or a call that names a file."""
    def count():
        global step
        step += 1
        if step == last:
            os._exit(9)

    class Traced(sqlite3.Connection):
        def execute(self, *arguments):
            count()
            return super().execute(*arguments)

        def executemany(self, *arguments):
            count()
            return super().executemany(*arguments)

    connect = sqlite3.connect
    sqlite3.connect = lambda *a, **k: connect(*a, factory=Traced, **k)
    steps = {"open", "os.rename", "os.remove", "os.mkdir", "fcntl.flock"}
    sys.addaudithook(lambda event, a: count() if event in steps and relevant(event, a) else None)

    def relevant(event, arguments):
        return event == "fcntl.flock" or folder in str(arguments[0])

number = 1
while not fork(number):
    number += 1
print(number)
'''

Tell = Callable[..., object]


def a_life(folder: Path, tell: Tell) -> None:
    """What a process of a member does with its vault, with what it says to the world between."""
    vault = Vault(folder)
    tell("seed", vault.master_seed.hex())
    vault.save_room(TAG, RECORD)
    tell("room")
    for row in vault.adopt(TAG):
        tell("sent", row.id.hex(), row.envelope.hex())
    drawn = vault.begin(TAG)
    rows: list[Pending] = []
    for first in (1, 3):
        rows = [pending(drawn, first), pending(drawn, first + 1)]
        vault.put(TAG, rows)
        for row in rows:
            tell("sent", row.id.hex(), row.envelope.hex())
        tell("covered", rows[0].id.hex())
        vault.done([rows[0].id])
    filled = pending(drawn, 4, "void")
    vault.replace(rows[1].id, filled)
    tell("given up", rows[1].id.hex())
    tell("sent", filled.id.hex(), filled.envelope.hex())
    anew = pending(drawn, 5, "what filled that, said anew")
    vault.put(TAG, [anew], [filled.id])
    tell("given up", filled.id.hex())
    tell("sent", anew.id.hex(), anew.envelope.hex())
    vault.close()


def a_rejoining(folder: Path, tell: Tell) -> None:
    """`zchat rejoin --accept`, after a server told that it lost what it lost."""
    with contextlib.closing(Vault(folder)) as vault:
        record = vault.room(ROOM_KEYS.tag)
        assert record is not None
        if record.fault:
            rejoin(Opened(vault, ROOM_KEYS, record, 0.0))
        tell("done")


LIVES = {"life": a_life, "rejoining": a_rejoining}


def died(template: Path, folders: Path, life: str) -> Iterator[tuple[Path, list[list[str]]]]:
    """For each step: the member's folder after a death there, and what it had told the world."""
    folders.mkdir()
    last = int(finished(python(DIES, template, folders, life)))
    assert last > 20
    for number in range(1, last + 1):
        told = (folders / f"{number}.told").read_text("ascii").splitlines()
        yield folders / str(number), [json.loads(line) for line in told]


def test_a_death_at_any_step_loses_nothing_that_was_sent(tmp_path: Path) -> None:
    """What was told before the death is true for the next process, and the one after that.

    The template's outbox is that of a process that died earlier: it must never be lost either.
    """
    with opened(tmp_path / "template") as first:
        earlier = [pending(first.begin(TAG), seq, "earlier") for seq in (1, 2)]
        first.put(TAG, earlier)
        seed = first.master_seed.hex()
    for folder, told in died(tmp_path / "template", tmp_path / "steps", "life"):
        must = {row.id: row.envelope for row in earlier}
        must |= {bytes.fromhex(w[1]): bytes.fromhex(w[2]) for w in told if w[0] == "sent"}
        may_lack = {bytes.fromhex(w[1]) for w in told if w[0] in ("covered", "given up")}
        gone = {bytes.fromhex(w[1]) for w in told if w[0] == "given up"}
        for _ in range(2):
            with next_process(folder) as after_death:
                assert after_death.master_seed.hex() == seed
                assert after_death.room(TAG) == RECORD or ["room"] not in told
                rows = after_death.adopt(TAG)
                held = {row.id: row.envelope for row in rows}
                assert must.keys() - may_lack <= held.keys()
                assert not gone & held.keys()
                assert all(held[i] == must[i] for i in held.keys() & must.keys())
                assert len({(row.incarnation, row.seq) for row in rows}) == len(rows)
                assert all(after_death.wrote(row.incarnation) for row in rows)
                assert rows[:2] == earlier
                assert after_death.waiting(TAG) == len(rows)


def test_a_first_start_that_dies_at_any_step_is_no_hindrance(tmp_path: Path) -> None:
    """The seed that anybody has seen is the seed for ever."""
    (tmp_path / "template").mkdir()
    for folder, told in died(tmp_path / "template", tmp_path / "steps", "life"):
        seeds = {what[1] for what in told if what[0] == "seed"}
        for _ in range(2):
            with next_process(folder) as after_death:
                seeds.add(after_death.master_seed.hex())
        assert len(seeds) == 1


ROOM_KEYS = RoomKeys(ROOT)


def a_lost_history(folder: Path) -> list[Entry]:
    """Five entries in a replica, of which the server kept two; all but the fourth are one's own."""
    with opened(folder) as vault:
        own = Author(vault.master_seed, ROOM_KEYS)
        drawn = vault.begin(ROOM_KEYS.tag)
        entries: list[Entry] = []
        for n, (author, incarnation) in enumerate(
            [(own, drawn), (own, drawn), (own, drawn), (Author(bytes(32), ROOM_KEYS), b"b" * 16)], 1
        ):
            body = encode(Text("alice", incarnation, n, NO_HEAD.packed, f"text {n}"))
            envelope = seal(ROOM_KEYS, author, EnvelopeClass.LOG, body, n, bytes(32))
            entries.append(Entry(n, envelope_id(envelope), b"h" * 32, envelope))
        entries.append(Entry(5, b"bare id" * 4 + b"....", b"h" * 32, None))
        replica = open_replica(vault.replica_path(ROOM_KEYS.tag), ROOM_KEYS.tag)
        replica.append([Addition(ROOM_KEYS.tag, entries, bytes(32))])
        replica.close()
        vault.save_room(ROOM_KEYS.tag, msgspec.structs.replace(RECORD, fault="it lost", kept_n=2))
        vault.save_owed(ROOM_KEYS.tag, [HEAD], [])
    return entries


def test_a_rejoining_that_dies_at_any_step_can_be_done_again(tmp_path: Path) -> None:
    """Then the history is beside, whole, and what was lost of one's own is offered, once."""
    entries = a_lost_history(tmp_path / "template")
    for folder, _ in died(tmp_path / "template", tmp_path / "steps", "rejoining"):
        a_rejoining(folder, lambda *_: None)
        with next_process(folder) as after_death:
            record = after_death.room(ROOM_KEYS.tag)
            assert record is not None
            assert (record.fault, record.kept_n) == ("", -1)
            assert after_death.owed(ROOM_KEYS.tag) == set()
            assert [row.id for row in after_death.adopt(ROOM_KEYS.tag)] == [entries[2].id]
            assert not after_death.replica_path(ROOM_KEYS.tag).exists()
        (aside,) = folder.glob("rooms/*.before-*.db")
        log = SqliteLog(aside, Access.READ_ONLY)
        assert log.read(ROOM_KEYS.tag, 1, 9) == entries
        log.close()


def test_only_what_can_be_read_and_is_of_this_profile_is_offered_again(tmp_path: Path) -> None:
    """And nothing is done while another process reads the room."""
    entries = a_lost_history(tmp_path / "alice")
    with opened(tmp_path / "alice") as vault:
        path = vault.replica_path(ROOM_KEYS.tag)
        replica = open_replica(path, ROOM_KEYS.tag)
        own = Author(vault.master_seed, ROOM_KEYS)
        body = encode(
            Text("alice", b"elsewhere......!", 1, NO_HEAD.packed, "from a copy of this profile")
        )
        copied = seal(ROOM_KEYS, own, EnvelopeClass.LOG, body, 1, bytes(32))
        mangled = bytes(len(copied))
        for envelope in (copied, mangled):
            entries.append(Entry(len(entries) + 1, envelope_id(envelope), b"h" * 32, envelope))
            replica.append([Addition(ROOM_KEYS.tag, entries[-1:], bytes(32))])
        with pytest.raises(StoreBusy):
            a_rejoining(tmp_path / "alice", lambda *_: None)
        replica.close()
    a_rejoining(tmp_path / "alice", lambda *_: None)
    with next_process(tmp_path / "alice") as vault:
        assert [row.id for row in vault.adopt(ROOM_KEYS.tag)] == [entries[2].id]


def test_after_any_other_fault_nothing_is_offered_again(tmp_path: Path) -> None:
    """It would counter-sign a log that this server does not show any more."""
    a_lost_history(tmp_path / "alice")
    with opened(tmp_path / "alice") as vault:
        vault.update_room(ROOM_KEYS.tag, RECORD, kept_n=-1)
    a_rejoining(tmp_path / "alice", lambda *_: None)
    with next_process(tmp_path / "alice") as vault:
        assert vault.waiting(ROOM_KEYS.tag) == 0
        record = vault.room(ROOM_KEYS.tag)
        assert record is not None
        assert record.fault == ""


# ---- a profile ----


def test_a_member_of_any_name_has_a_folder_of_its_own(tmp_path: Path) -> None:
    """Also of the longest names of any script, and of those that mean something to a disk."""
    names = [
        "alice",
        "..",
        ".",
        "a/b",
        "CON",
        "Ä ö",
        "語" * 32,
        "😀" * 32,
        "=",
        "%41",
        "~",
        "a" * 32,
    ]
    profile = Profile(tmp_path)
    for name in names:
        profile.vault(name).close()
    assert profile.members() == sorted(names)
    folders = {member_folder(tmp_path, name) for name in names}
    assert len(folders) == len(names)
    assert {folder.parent for folder in folders} == {tmp_path / "members"}
    assert set((tmp_path / "members").iterdir()) == folders


def test_the_member_is_the_one_named_or_the_last_used_in_the_room_or_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = Profile(tmp_path)
    assert profile.choose_member(None, "default", RECORD.room) == "default"
    for name in ("bob", "alice"):
        with opened(member_folder(tmp_path, name)) as vault:
            vault.save_room(TAG, RECORD)
            after(vault)
    assert profile.choose_member(None, "default", RECORD.room) == "alice"
    assert profile.choose_member(None, "default", "another") == "default"
    assert profile.choose_member(" Bob\u3000B ", "default", RECORD.room) == "Bob B"
    monkeypatch.setenv("LOGNAME", "n" * 40)
    assert profile.choose_member(None, "", "another") == "n" * 32
    with pytest.raises(BadName):
        profile.choose_member("", "default", RECORD.room)
    assert profile.members() == ["alice", "bob"]


def test_who_has_no_name_on_this_machine_is_me(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user without an entry in the system's list, as in some containers."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)
    assert Profile(tmp_path).choose_member(None, "", "room") == "me"


def test_a_room_is_found_by_its_name_and_where_it_is(vault: Vault) -> None:
    """The last used of several; the name as one types it."""
    there = Server("192.0.2.7", 4826, Origin(b"c" * 32, b"l" * 32))
    moved = msgspec.structs.replace(RECORD, server=there)
    vault.save_room(TAG, RECORD)
    after(vault)
    vault.save_room(OTHER, moved)
    for typed, address, tag in (
        ("LOBBY-of-ours", None, OTHER),
        ("lobby-of-ours", "chat.example.org:4826", TAG),
        ("lobby-of-ours", "192.0.2.7:4826", OTHER),
    ):
        found = find_room(vault, typed, address)
        assert found is not None
        assert found.tag == tag
    assert find_room(vault, "lobby-of-ours", "192.0.2.7:1") is None
    assert known_here(vault, "lobby-of-ours").tag == OTHER
    with pytest.raises(UnknownRoom, match="another"):
        known_here(vault, "another")
    found = same_place(vault, Invite(there, RECORD.room, KEYS))
    assert found is not None
    assert found.tag == OTHER
    assert same_place(vault, Invite(SERVER, RECORD.room, there.keys)) is None
    assert same_place(vault, stem(SERVER)) is None


PASSPHRASE = "otter-basin-scarf-pencil-dug-wick"
INVITE = Invite(SERVER, "lobby", KEYS)


def not_asked() -> str:
    raise AssertionError("the passphrase was asked for")


def go(
    vault: Vault,
    known: KnownRoom | None,
    passphrase: str | None,
    invite: Invite = INVITE,
    *,
    home: Path,
    new: bool = False,
    remember: bool = False,
    use_remembered: bool = True,
) -> Opened:
    """Open a room as a command does; None where nobody may be asked."""
    return Profile(home).open(
        vault,
        "alice",
        Place(invite, known),
        not_asked if passphrase is None else lambda: passphrase,
        new=new,
        remember=remember,
        use_remembered=use_remembered,
    )


def test_a_room_is_opened_by_its_passphrase_or_by_the_key_that_is_remembered(
    tmp_path: Path, vault: Vault, folder: Path
) -> None:
    """Nothing is kept that was not asked for, a passphrase never; a wrong one is told at once."""
    first = go(vault, None, PASSPHRASE, home=tmp_path)
    assert first.record == RoomRecord("lobby", "alice", SERVER, KEYS)
    assert first.strength_bits > 70
    assert vault.rooms() == []
    vault.save_room(first.keys.tag, first.record)  # the face has settled in

    for wrong in ("another", " ", "a\x00b"):
        with pytest.raises((WrongPassphrase, BadPassphrase)):
            go(vault, same_place(vault, INVITE), wrong, home=tmp_path)
    again = go(vault, same_place(vault, INVITE), f"{PASSPHRASE}\n", home=tmp_path, remember=True)
    assert again.keys.tag == first.keys.tag
    assert again.record.root == first.keys.root
    known = same_place(vault, INVITE)
    assert known is not None
    assert known.record == again.record

    moved = Invite(Server("elsewhere", 1, KEYS), "lobby", KEYS)
    remembered = go(vault, known, None, moved, home=tmp_path)
    assert remembered.keys.root == first.keys.root
    assert remembered.strength_bits == float("inf")
    known = same_place(vault, moved)
    assert known is not None
    assert known.record.server == moved.server
    _holds_no_secret(tmp_path, folder, first.keys.root)


def _holds_no_secret(home: Path, folder: Path, root: bytes) -> None:
    """Neither the passphrase nor the key stands anywhere in clear; all files are private."""
    files = [path for path in home.rglob("*") if path.is_file()]
    held = b"".join(path.read_bytes() for path in files)
    words = [word for word in PASSPHRASE.encode().split(b"-") if len(word) > 4]
    for secret in (PASSPHRASE.encode(), *words, root, root.hex().encode()):
        assert secret not in held
    assert {mode(path) for path in files} == {0o600}


def test_another_passphrase_is_another_room_where_that_is_meant(
    tmp_path: Path, vault: Vault
) -> None:
    """With `new`; and where nobody ever spoke in the known one, which is then forgotten."""
    vault.save_room(TAG, msgspec.structs.replace(RECORD, room="lobby"))
    known = same_place(vault, INVITE)
    meant = go(vault, known, PASSPHRASE, home=tmp_path, new=True, use_remembered=False)
    assert meant.keys.root == derive_root(PASSPHRASE.encode(), KEYS.salt("lobby"))
    assert vault.room(TAG) is not None
    vault.save_room(TAG, msgspec.structs.replace(RECORD, room="lobby", root=b"", is_unsure=True))
    known = same_place(vault, INVITE)
    instead = go(vault, known, PASSPHRASE, home=tmp_path)
    assert instead.keys.root == meant.keys.root
    assert vault.room(TAG) is None


def test_keys_are_derived_one_at_a_time_in_a_profile(tmp_path: Path, vault: Vault) -> None:
    """Each takes 256 MiB: ten commands in a script at once must not take ten times that."""
    code = (
        "import sys; from pathlib import Path; from tests.test_vault import *\n"
        "with opened(Path(sys.argv[1]) / 'v') as vault:\n"
        "    print('asking', flush=True)\n"
        "    print(go(vault, None, PASSPHRASE, home=Path(sys.argv[1])).keys.tag.hex())\n"
    )
    with take_lock(tmp_path / "argon2id"):
        other = python(code, tmp_path)
        assert list(_lines_before("asking", other)) == []
        assert other.stdout is not None
        os.set_blocking(other.stdout.fileno(), False)
        assert other.stdout.read(1) == ""
        os.set_blocking(other.stdout.fileno(), True)
    assert len(finished(other).strip()) == 32


# ---- a torn file ----

SECTOR = 512


def test_a_vault_with_a_torn_sector_is_used_or_refused_with_a_sentence(folder: Path) -> None:
    """Zeros, ones, or what stood elsewhere, one of them in each of its sectors."""
    with opened(folder) as vault:
        for tag in (b"tag %12d" % number for number in range(6)):
            vault.save_room(tag, RECORD)
            vault.put(tag, [pending(vault.begin(tag), 1)])
    sound = (folder / "vault.db").read_bytes()
    count = len(sound) // SECTOR
    outcomes = set()
    for sector in range(count):
        elsewhere = (sector * 7 + 11) % count * SECTOR
        junk = (bytes(SECTOR), b"\xff" * SECTOR, sound[elsewhere : elsewhere + SECTOR])[sector % 3]
        spoilt = bytearray(sound)
        spoilt[sector * SECTOR : (sector + 1) * SECTOR] = junk
        (folder / "vault.db").write_bytes(spoilt)
        outcomes.add(_outcome_of_use(folder))
    assert outcomes >= {"used", "StoreUnreadable"}


def _outcome_of_use(folder: Path) -> str:
    try:
        with opened(folder) as vault:
            for known in vault.rooms():
                vault.room(known.tag)
                vault.owed(known.tag)
                vault.is_muted(known.tag, b"key")
            vault.adopt(b"tag %12d" % 1)
            vault.put(TAG, [pending(vault.begin(TAG), 1)])
    except StoreTrouble as error:
        assert "\n" not in str(error)
        assert str(error).endswith(".")
        return type(error).__name__
    return "used"
