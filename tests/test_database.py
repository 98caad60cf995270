"""One way to open SQLite: private files, durable commits, and failures that are sentences.

What a log and a vault make of it stands in test_log.py and test_vault.py.

Rules of this file: another process is another process; a full disk is RLIMIT_FSIZE or SQLite's own
bound of pages. Nothing of database.py is replaced.
"""

import sqlite3
from pathlib import Path

import pytest

from tests.processes import finished, mode, python, umask
from zchat.database import Access, Database, Migration, Schema
from zchat.errors import (
    StoreBusy,
    StoreEmpty,
    StoreFull,
    StoreOlder,
    StoreTrouble,
    StoreUnreadable,
)
from zchat.files import take_lock

SCHEMA = Schema(
    application_id=0x7A635445,
    version=7,
    tables="CREATE TABLE words (word TEXT) STRICT;\nCREATE INDEX words_word ON words(word);\n",
)
WRITING = [access for access in Access if access is not Access.READ_ONLY]
INSERT = "INSERT INTO words VALUES (?)"


def words(database: Database) -> list[str]:
    with database.failures():
        return [word for (word,) in database.execute("SELECT word FROM words ORDER BY rowid")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "profile" / "test.db"


# ---- opening ----


@pytest.mark.parametrize("access", WRITING)
def test_a_file_is_made_private_with_all_that_stands_beside_it(path: Path, access: Access) -> None:
    """Whatever the umask; also the journal, or the log and its index, while a commit goes on."""
    with umask(0):
        database = Database(path, SCHEMA, access)
        with database.transaction():
            database.execute(INSERT, ("secret",))
            beside = {file.name: mode(file) for file in path.parent.iterdir()}
    expected = {"test.db-wal", "test.db-shm"}
    if access is Access.SHARED:
        expected.add("test.db.lock")
    assert beside == dict.fromkeys({"test.db", *expected}, 0o600)
    assert mode(path.parent) == 0o700
    database.close()


@pytest.mark.parametrize("access", WRITING)
def test_a_file_is_as_durable_as_its_access_says(path: Path, access: Access) -> None:
    """Asked of SQLite itself, at every opening."""
    levels = {"NORMAL": 1, "FULL": 2}
    journal, synchronous, _ = access.value
    for _ in range(2):
        database = Database(path, SCHEMA, access)
        assert database.execute("PRAGMA journal_mode").fetchone() == (journal.lower(),)
        assert database.execute("PRAGMA synchronous").fetchone() == (levels[synchronous],)
        assert database.execute("PRAGMA journal_size_limit").fetchone() == (1 << 26,)
        database.close()


@pytest.mark.parametrize("access", WRITING)
def test_what_is_committed_is_there_for_others_and_when_opened_again(
    path: Path, access: Access
) -> None:
    database = Database(path, SCHEMA, access)
    with database.transaction():
        database.execute_many(INSERT, [("one",), ("two",)])
    reader = Database(path, SCHEMA, Access.READ_ONLY)
    assert reader.read_only
    assert words(reader) == ["one", "two"]
    reader.close()
    database.close()
    again = Database(path, SCHEMA, access)
    assert not again.read_only
    assert words(again) == ["one", "two"]
    again.close()


@pytest.mark.parametrize("name", ["a b.db", "100%.db", "what?mode=memory.db", "a#b.db", "ä.db"])
def test_a_path_is_a_path_whatever_it_holds(tmp_path: Path, name: str) -> None:
    """It goes through a URI, where some characters mean something."""
    Database(tmp_path / name, SCHEMA, Access.ONE_WRITER).close()
    assert [file.name for file in tmp_path.iterdir()] == [name]
    Database(tmp_path / name, SCHEMA, Access.READ_ONLY).close()


MAKER = """
import sys
from pathlib import Path
from zchat.database import Access, Database
from tests.test_database import INSERT, SCHEMA

sys.stdin.read(1)
database = Database(Path(sys.argv[1]), SCHEMA, Access.SHARED)
for number in range(20):
    with database.transaction():
        database.execute(INSERT, (f"{sys.argv[2]} {number}",))
database.close()
"""


def test_processes_can_make_and_write_a_shared_file_at_once(path: Path) -> None:
    """None of them fails, no commit of any is lost, each one's stand in order."""
    processes = [python(MAKER, path, number) for number in range(4)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("x")
        process.stdin.flush()
    assert [finished(process) for process in processes] == [""] * 4
    database = Database(path, SCHEMA, Access.READ_ONLY)
    held = words(database)
    database.close()
    for number in range(4):
        own = [word for word in held if word.startswith(f"{number} ")]
        assert own == [f"{number} {i}" for i in range(20)]


def test_who_finds_a_file_empty_that_another_one_makes_just_then_takes_it(path: Path) -> None:
    """Between the look and the lock there is room for the other."""

    class Slow(Database):
        def _is_empty(self) -> bool:
            found = super()._is_empty()
            if found:
                Database(path, SCHEMA, Access.SHARED).close()
            return found

    database = Slow(path, SCHEMA, Access.SHARED)
    with database.transaction():
        database.execute(INSERT, ("word",))
    assert words(database) == ["word"]
    database.close()


# ---- what cannot be opened ----


def test_what_is_not_there_is_empty_to_a_reader_and_stays_so(path: Path) -> None:
    for _ in range(2):
        with pytest.raises(StoreEmpty, match=r"test\.db holds nothing yet\."):
            Database(path, SCHEMA, Access.READ_ONLY)
    assert not path.parent.exists()
    path.parent.mkdir()
    path.touch()
    with pytest.raises(StoreEmpty):
        Database(path, SCHEMA, Access.READ_ONLY)
    assert path.read_bytes() == b""


@pytest.mark.parametrize(
    ("pragma", "says"),
    [
        ("application_id = 1", "it is another program's file"),
        ("application_id = 0", "it is another program's file"),
        ("user_version = 8", "it has schema 8, this version reads 7"),
        ("user_version = 6", "it has schema 6, this version reads 7"),
    ],
)
@pytest.mark.parametrize("access", list(Access))
def test_a_file_of_another_program_or_version_is_refused_and_left_alone(
    path: Path, access: Access, pragma: str, says: str
) -> None:
    Database(path, SCHEMA, Access.SHARED).close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA {pragma}")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreUnreadable, match=says):
        Database(path, SCHEMA, access)
    assert path.read_bytes() == before


@pytest.mark.parametrize("access", list(Access))
def test_a_refused_file_is_let_go(path: Path, access: Access) -> None:
    """No descriptor stays open, however often it is tried."""
    path.parent.mkdir()
    path.write_bytes(b"no database" * 100)
    with pytest.raises(StoreUnreadable):
        Database(path, SCHEMA, access)
    before = set(Path("/dev/fd").iterdir())
    for _ in range(3):
        with pytest.raises(StoreUnreadable):
            Database(path, SCHEMA, access)
    assert set(Path("/dev/fd").iterdir()) == before


def test_a_file_that_can_be_read_only_cannot_be_written(path: Path) -> None:
    Database(path, SCHEMA, Access.SHARED).close()
    reader = Database(path, SCHEMA, Access.READ_ONLY)
    with pytest.raises(StoreTrouble, match="readonly"), reader.transaction():
        reader.execute(INSERT, ("word",))
    reader.close()


# ---- older files ----


def twice_as_loud(database: Database) -> None:
    """A change that no single statement says; with so little memory, half of it is in the file."""
    database.execute("PRAGMA cache_size = 1")
    for number, word in enumerate(words(database), 1):
        database.execute("UPDATE words SET word = ? WHERE rowid = ?", (word * 2, number))


NEWER = Schema(
    application_id=SCHEMA.application_id,
    version=9,
    tables="CREATE TABLE words (word TEXT, said INTEGER NOT NULL DEFAULT 0) STRICT;\n"
    "CREATE INDEX words_word ON words(word);\n",
    migrations=(
        Migration(8, 9, twice_as_loud),
        Migration(7, 8, ("ALTER TABLE words ADD COLUMN said INTEGER NOT NULL DEFAULT 0",)),
    ),
)
OLD = [f"{number} " + "x" * 9_000 for number in range(8)]


def an_older_file(path: Path, access: Access) -> None:
    database = Database(path, SCHEMA, access)
    with database.transaction():
        database.execute_many(INSERT, [(word,) for word in OLD])
    database.close()


def all_in(path: Path, schema: Schema) -> list[str]:
    database = Database(path, schema, Access.READ_ONLY)
    try:
        return words(database)
    finally:
        database.close()


@pytest.mark.parametrize("access", WRITING)
def test_an_older_file_is_brought_up_and_kept_as_it_was(
    path: Path, access: Access, caplog: pytest.LogCaptureFixture
) -> None:
    """By all migrations in order, in whatever order they stand; it is said once."""
    an_older_file(path, access)
    for _ in range(2):
        database = Database(path, NEWER, access)
        assert words(database) == [word * 2 for word in OLD]
        assert database.execute("SELECT sum(said) FROM words").fetchone() == (0,)
        database.close()
    kept = path.with_name("test.db.v7")
    assert all_in(kept, SCHEMA) == OLD
    assert mode(kept) == 0o600
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"{path} was brought from schema 7 to 9; as it was, it is kept as test.db.v7"]
    with pytest.raises(StoreUnreadable, match="it has schema 9, this version reads 7"):
        Database(path, SCHEMA, access)


def test_a_file_that_was_brought_up_has_the_tables_of_a_new_one(path: Path) -> None:
    an_older_file(path, Access.SHARED)
    fresh = path.with_name("fresh.db")
    for made in (path, fresh):
        Database(made, NEWER, Access.SHARED).close()
    columns = (
        "SELECT m.name, c.name, c.type, c.pk FROM sqlite_master m, pragma_table_xinfo(m.name) c"
    )
    held = []
    for made in (path, fresh):
        database = Database(made, NEWER, Access.READ_ONLY)
        held.append(database.execute(columns).fetchall())
        database.close()
    assert held[0] == held[1]


def test_who_may_only_read_an_older_file_says_who_brings_it_up_and_leaves_it(path: Path) -> None:
    """Unless it does not look at tables: a copy of it can be made."""
    an_older_file(path, Access.SHARED)
    before = path.read_bytes()
    with pytest.raises(StoreOlder, match="has schema 7, and this program reads 9"):
        Database(path, NEWER, Access.READ_ONLY)
    reader = Database(path, NEWER, Access.READ_ONLY, older_too=True)
    reader.copy_to(path.with_name("copy.db"))
    reader.close()
    assert all_in(path.with_name("copy.db"), SCHEMA) == OLD
    assert path.read_bytes() == before
    for schema in (NEWER._replace(migrations=()), NEWER._replace(migrations=NEWER.migrations[:1])):
        for access in Access:
            with pytest.raises(StoreUnreadable, match="it has schema 7, this version reads 9"):
                Database(path, schema, access, older_too=True)
    assert path.read_bytes() == before


def test_a_migration_that_fails_changes_nothing_and_can_be_tried_again(path: Path) -> None:
    an_older_file(path, Access.SHARED)
    broken = ("ALTER TABLE words ADD COLUMN said INTEGER", "INSERT INTO songs VALUES (1)")
    with pytest.raises(StoreTrouble, match="no such table: songs"):
        Database(path, NEWER._replace(migrations=(Migration(7, 9, broken),)), Access.SHARED)
    assert all_in(path, SCHEMA) == OLD
    Database(path, NEWER, Access.SHARED).close()
    assert all_in(path, NEWER) == [word * 2 for word in OLD]


BROUGHT_UP_AND_KILLED = """
import os, signal, sys
from pathlib import Path
from zchat.database import Access, Database
from tests.test_database import NEWER, OLD, SCHEMA, all_in, an_older_file

class Dying(Database):
    left = int(0)

    def execute(self, statement, values=()):
        Dying.left -= 1
        if not Dying.left:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().execute(statement, values)

path, access = Path(sys.argv[1]), Access[sys.argv[2]]
for moment in range(1, 200):
    for left in path.parent.glob("*"):
        left.unlink()
    an_older_file(path, access)
    child = os.fork()
    if not child:
        Dying.left = moment
        Dying(path, NEWER, access).close()
        os._exit(0)
    done = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    Database(path, NEWER, access).close()
    assert all_in(path, NEWER) == [word * 2 for word in OLD], moment
    assert all_in(path.with_name("test.db.v7"), SCHEMA) == OLD, moment
    if not done:
        print(moment)
        break
"""


@pytest.mark.parametrize("access", [Access.ONE_WRITER, Access.SHARED])
def test_a_death_at_any_statement_of_a_migration_leaves_the_old_file_or_the_new(
    path: Path, access: Access
) -> None:
    """The next program brings it up, and what is kept is whole."""
    path.parent.mkdir()
    statements = int(finished(python(BROUGHT_UP_AND_KILLED, path, access.name)))
    assert statements > len(OLD)


def test_a_full_disk_keeps_an_older_file_as_it_is(path: Path) -> None:
    """There is no space for the copy, so nothing is changed."""
    an_older_file(path, Access.SHARED)
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from tests.test_database import NEWER, Access, Database, StoreFull\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.RLIM_INFINITY))\n"
        "try:\n"
        "    Database(Path(sys.argv[1]), NEWER, Access.SHARED)\n"
        "except StoreFull as error:\n"
        "    print(error)\n"
    )
    assert "test.db.v7" in finished(python(code, path))
    assert all_in(path, SCHEMA) == OLD
    assert not list(path.parent.glob("*.v7*"))


def test_processes_that_find_a_shared_file_older_bring_it_up_once(path: Path) -> None:
    an_older_file(path, Access.SHARED)
    code = (
        "import sys; from pathlib import Path; sys.stdin.read(1)\n"
        "from tests.test_database import NEWER, Access, Database\n"
        "Database(Path(sys.argv[1]), NEWER, Access.SHARED).close()\n"
    )
    processes = [python(code, path) for _ in range(3)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("x")
        process.stdin.flush()
    said = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], said
    assert "".join(said).count("was brought from schema 7 to 9") == 1
    assert all_in(path, NEWER) == [word * 2 for word in OLD]


def test_who_has_a_shared_file_open_writes_nothing_once_a_newer_program_brought_it_up(
    path: Path,
) -> None:
    older = Database(path, SCHEMA, Access.SHARED)
    Database(path, NEWER, Access.SHARED).close()
    says = "it has schema 9, this version reads 7"
    with pytest.raises(StoreUnreadable, match=says), older.transaction():
        raise AssertionError("it began")
    older.close()
    assert all_in(path, NEWER) == []


# ---- transactions ----


class Interrupted(BaseException):
    """As a Ctrl-C is: no Exception."""


@pytest.mark.parametrize("access", WRITING)
def test_a_transaction_that_is_left_by_an_error_leaves_nothing(path: Path, access: Access) -> None:
    """Whatever the error; and the next one is taken."""
    database = Database(path, SCHEMA, access)
    with pytest.raises(Interrupted), database.transaction():
        database.execute(INSERT, ("lost",))
        raise Interrupted
    with pytest.raises(StoreTrouble, match="no such table"), database.transaction():
        database.execute(INSERT, ("lost",))
        database.execute("INSERT INTO songs VALUES (1)")
    with database.transaction():
        database.execute(INSERT, ("kept",))
    assert words(database) == ["kept"]
    database.close()


def test_a_file_that_another_one_keeps_locked_is_an_error_with_a_sentence(path: Path) -> None:
    database = Database(path, SCHEMA, Access.SHARED)
    database.execute("PRAGMA busy_timeout = 50")  # else the test would take ten seconds
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    says = r"test\.db failed: database is locked \(SQLITE_BUSY\)"
    with pytest.raises(StoreTrouble, match=says), database.transaction():
        raise AssertionError("it began")
    assert words(database) == []
    other.execute("COMMIT")
    other.close()
    assert words(database) == []
    database.close()


def test_processes_commit_to_a_shared_file_one_at_a_time(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a lock of ours: SQLite's own lets one checkpoint while another one commits. Who closes
    does not wait for ever.
    """
    monkeypatch.setattr("zchat.database._BUSY_TIMEOUT_S", 0.05)
    database = Database(path, SCHEMA, Access.SHARED)
    with take_lock(path):
        with pytest.raises(StoreBusy, match=r"test\.db is in use"), database.transaction():
            raise AssertionError("it began")
        with pytest.raises(StoreBusy):
            Database(path, SCHEMA, Access.SHARED)
        assert words(database) == []
        database.close()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        database.execute("SELECT 1")


def test_who_waits_for_a_commit_of_another_process_gets_on(path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from zchat.database import Access, Database\n"
        "from tests.test_database import INSERT, SCHEMA\n"
        "database = Database(Path(sys.argv[1]), SCHEMA, Access.SHARED)\n"
        "with database.transaction():\n"
        "    database.execute(INSERT, ('theirs',)); print('begun', flush=True); sys.stdin.read(1)\n"
    )
    Database(path, SCHEMA, Access.SHARED).close()
    other = python(code, path)
    assert other.stdout is not None
    assert other.stdout.readline() == "begun\n"
    ours = python(MAKER, path, "ours")
    assert ours.stdin is not None
    ours.stdin.write("x")
    ours.stdin.flush()
    finished(other)
    finished(ours)
    database = Database(path, SCHEMA, Access.READ_ONLY)
    assert words(database) == ["theirs", *(f"ours {i}" for i in range(20))]
    database.close()


def test_a_death_in_a_shared_file_leaves_nothing_of_its_commit(path: Path) -> None:
    """Half a commit lies beside the file: nobody shows any of it, and the next one writes."""
    code = (
        "import os, sys; from pathlib import Path; from zchat.database import Access, Database\n"
        "from tests.test_database import INSERT, SCHEMA\n"
        "database = Database(Path(sys.argv[1]), SCHEMA, Access.SHARED)\n"
        "database.execute('PRAGMA cache_size = 1')\n"
        "with database.transaction():\n"
        "    database.execute_many(INSERT, [('x' * 10_000,)] * 100); os._exit(9)\n"
    )
    database = Database(path, SCHEMA, Access.SHARED)
    with database.transaction():
        database.execute(INSERT, ("kept",))
    database.close()
    died = python(code, path)
    assert (died.communicate(timeout=60)[1], died.returncode) == ("", 9)
    assert path.with_name("test.db-wal").stat().st_size > 500_000
    reader = Database(path, SCHEMA, Access.READ_ONLY)
    assert words(reader) == ["kept"]
    reader.close()
    database = Database(path, SCHEMA, Access.SHARED)
    with database.transaction():
        database.execute(INSERT, ("next",))
    assert words(database) == ["kept", "next"]
    database.close()


BUSY = """
import select, sys
from pathlib import Path
from zchat.database import Access, Database
from tests.test_database import INSERT, SCHEMA

database, count = Database(Path(sys.argv[1]), SCHEMA, Access.ONE_WRITER), 0
while not select.select([sys.stdin], [], [], 0)[0]:
    with database.transaction():
        database.execute(INSERT, (f"busy {count}",))
    count += 1
    if count == 10:
        print("busy", flush=True)
database.close()
"""


def test_a_copy_beside_a_process_that_commits_again_and_again_comes_to_an_end(path: Path) -> None:
    """And is of one moment: all that was committed up to then, and nothing of what came later."""
    database = Database(path, SCHEMA, Access.ONE_WRITER)
    with database.transaction():
        database.execute_many(INSERT, [("x" * 100_000,)] * 120)
    database.close()
    busy = python(BUSY, path)
    assert busy.stdout is not None
    assert busy.stdout.readline() == "busy\n"
    reader = Database(path, SCHEMA, Access.READ_ONLY)
    reader.copy_to(path.with_name("copy.db"))
    reader.close()
    assert busy.poll() is None
    finished(busy)
    copied = all_in(path.with_name("copy.db"), SCHEMA)[120:]
    assert copied == [f"busy {count}" for count in range(len(copied))]
    assert 10 <= len(copied) < len(all_in(path, SCHEMA)[120:])


def test_a_copy_that_fails_leaves_nothing_behind(path: Path) -> None:
    database = Database(path, SCHEMA, Access.SHARED)
    database.close()
    with pytest.raises(StoreTrouble, match="closed database"):
        database.copy_to(path.with_name("copy.db"))
    assert not path.with_name("copy.db").exists()


# ---- a full disk ----


@pytest.mark.parametrize("access", WRITING)
def test_a_file_that_may_not_grow_is_full_and_holds_what_it_held(
    path: Path, access: Access
) -> None:
    """By SQLite's own bound, which it reports as it does a full disk."""
    database = Database(path, SCHEMA, access)
    with database.transaction():
        database.execute(INSERT, ("kept",))
    (pages,) = database.execute("PRAGMA page_count").fetchone()
    database.execute(f"PRAGMA max_page_count = {pages}")
    says = r"No space to write .*\(SQLITE_FULL\)\."
    with pytest.raises(StoreFull, match=says), database.transaction():
        database.execute(INSERT, ("x" * 100_000,))
    database.execute(f"PRAGMA max_page_count = {pages + 100}")
    with database.transaction():
        database.execute(INSERT, ("kept, too",))
    assert words(database) == ["kept", "kept, too"]
    database.close()


FULL_DISK = """
import resource, sys
from pathlib import Path
from zchat.database import Access, Database
from zchat.errors import StoreFull
from tests.test_database import INSERT, SCHEMA, words

path, access = Path(sys.argv[1]), Access[sys.argv[2]]
def most(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

most(0)
try:
    Database(path, SCHEMA, access)
except StoreFull as error:
    print("making", flush=True)
most(resource.RLIM_INFINITY)
database = Database(path, SCHEMA, access)
most(60_000)
try:
    with database.transaction():
        database.execute(INSERT, ("x" * 100_000,))
except StoreFull as error:
    print("writing", flush=True)
most(resource.RLIM_INFINITY)
with database.transaction():
    database.execute(INSERT, ("kept",))
assert words(database) == ["kept"]
try:
    most(1000)
    database.copy_to(path.with_name("copy.db"))
except StoreFull as error:
    assert "copy.db" in str(error)
    print("copying", flush=True)
most(resource.RLIM_INFINITY)
database.copy_to(path.with_name("copy.db"))
database.close()
"""


@pytest.mark.parametrize("access", WRITING)
def test_a_full_disk_is_told_and_with_room_all_goes_on(path: Path, access: Access) -> None:
    """While the file is made, while it is written, and while it is copied."""
    path.parent.mkdir()
    said = finished(python(FULL_DISK, path, access.name))
    assert said.split() == ["making", "writing", "copying"]
    copy = Database(path.with_name("copy.db"), SCHEMA, Access.READ_ONLY)
    assert words(copy) == ["kept"]
    copy.close()
