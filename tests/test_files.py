"""Files: private, whole or as before, locked as long as a process lives.

Rules of this file: another process is another process; a death is os._exit at a chosen system call,
seen by an audit hook; a full disk is RLIMIT_FSIZE. Nothing of files.py is replaced.
"""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import finished, mode, python, umask
from zchat.errors import StoreBusy, StoreFull, StoreTrouble
from zchat.files import (
    is_locked,
    lock_file,
    make_once,
    private_folder,
    storage_errors,
    sync_folder,
    take_lock,
    write_private,
)

# ---- private ----


def test_a_folder_and_its_new_parents_are_for_the_owner_only(tmp_path: Path) -> None:
    """Whatever the umask; a folder that was there keeps its mode."""
    tmp_path.chmod(0o755)
    with umask(0):
        assert private_folder(tmp_path / "a" / "b" / "c") == tmp_path / "a" / "b" / "c"
    for made in ("a", "a/b", "a/b/c"):
        assert mode(tmp_path / made) == 0o700
    assert mode(tmp_path) == 0o755
    private_folder(tmp_path)
    assert mode(tmp_path) == 0o755


def test_a_relative_folder_is_made_where_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    private_folder(Path("here/there"))
    assert mode(tmp_path / "here" / "there") == 0o700


def test_many_processes_can_make_one_folder(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from zchat.files import private_folder\n"
        "sys.stdin.read(1); private_folder(Path(sys.argv[1]))"
    )
    folder = tmp_path / "a" / "b" / "c"
    processes = [python(code, folder) for _ in range(4)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("x")
        process.stdin.flush()
    assert [finished(process) for process in processes] == [""] * 4
    assert mode(folder) == 0o700


@pytest.mark.parametrize("in_the_way", ["file", "file/below"])
def test_a_file_in_the_place_of_a_folder_is_an_error_with_a_sentence(
    tmp_path: Path, in_the_way: str
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreTrouble, match=r"The store .*file.* failed: \w.*\."):
        private_folder(tmp_path / in_the_way)


def test_a_written_file_is_private_whatever_the_umask_and_whatever_it_was(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_bytes(b"before")
    path.chmod(0o644)
    with umask(0):
        write_private(path, b"content")
        take_lock(path).release()
    assert path.read_bytes() == b"content"
    assert (mode(path), mode(lock_file(path))) == (0o600, 0o600)


# ---- whole ----


def test_a_file_is_written_whole_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    for content in (b"", b"one", bytes(300_000)):
        write_private(tmp_path / "file", content)
        assert (tmp_path / "file").read_bytes() == content
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_what_cannot_be_written_is_an_error_with_a_sentence(tmp_path: Path) -> None:
    """No folder, or a folder in its place: and no draft is left."""
    with pytest.raises(StoreTrouble, match="No such file or directory"):
        write_private(tmp_path / "none" / "file", b"x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreTrouble, match="failed: "):
        write_private(tmp_path / "folder", b"x")
    with pytest.raises(StoreTrouble, match="No such file or directory"):
        sync_folder(tmp_path / "none")
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]


FULL_DISK = """
import resource, sys
from pathlib import Path
from zchat.errors import StoreFull
from zchat.files import write_private

resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
try:
    write_private(Path(sys.argv[1]), bytes(100_000))
except StoreFull as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""


def test_a_full_disk_leaves_what_was_there_and_says_so(tmp_path: Path) -> None:
    write_private(tmp_path / "file", b"before")
    said = finished(python(FULL_DISK, tmp_path / "file"))
    assert said == f"No space to write {tmp_path / 'file'}: File too large.\n"
    assert (tmp_path / "file").read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


DIES = """
import os, sys
from pathlib import Path
from zchat.files import write_private

def watch(event, arguments):
    if event == sys.argv[2] and sys.argv[1] in str(arguments):
        os._exit(9)

sys.addaudithook(watch)
write_private(Path(sys.argv[1]), b"after")
os._exit(9)
"""


@pytest.mark.parametrize(
    ("dies_at", "holds"),
    [("none", b"after"), ("os.rename", b"before")],
    ids=["when all is done", "before the draft takes its place"],
)
def test_a_death_while_writing_leaves_the_one_or_the_other(
    tmp_path: Path, dies_at: str, holds: bytes
) -> None:
    """A draft may be left, and is as private as the file."""
    write_private(tmp_path / "file", b"before")
    finished(python(DIES, tmp_path / "file", dies_at), code=9)
    assert (tmp_path / "file").read_bytes() == holds
    assert all(mode(path) == 0o600 for path in tmp_path.iterdir())
    write_private(tmp_path / "file", b"again")
    assert (tmp_path / "file").read_bytes() == b"again"


WRITER = """
import sys
from pathlib import Path
from zchat.files import write_private

for number in range(200):
    write_private(Path(sys.argv[1]), b"%05d" % number * 2000)
    if number == 0:
        print("begun", flush=True)
"""


def test_a_reader_beside_the_writer_sees_whole_files_only(tmp_path: Path) -> None:
    process = python(WRITER, tmp_path / "file")
    assert process.stdout is not None
    process.stdout.readline()
    seen: set[bytes] = set()
    while process.poll() is None:
        content = (tmp_path / "file").read_bytes()
        assert content == content[:5] * 2000
        seen.add(content[:5])
    finished(process)
    assert (tmp_path / "file").read_bytes() == b"00199" * 2000
    assert len(seen) > 1


# ---- made once ----


def test_a_file_is_made_once_and_read_ever_after(tmp_path: Path) -> None:
    path = tmp_path / "new" / "key"
    assert make_once(path, b"first") == b"first"
    assert make_once(path, b"second") == b"first"
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    path.unlink()
    path.mkdir()
    with pytest.raises(StoreTrouble, match="Is a directory"):
        make_once(path, b"third")


def test_processes_that_make_a_file_at_once_agree(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from zchat.files import make_once\n"
        "sys.stdin.read(1); print(make_once(Path(sys.argv[1]), os.urandom(8)).hex())"
    )
    processes = [python(code, tmp_path / "profile" / "key") for _ in range(5)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("x")
        process.stdin.flush()
    told = {finished(process) for process in processes}
    assert told == {(tmp_path / "profile" / "key").read_bytes().hex() + "\n"}


# ---- locked ----

HOLDER = """
import sys
from pathlib import Path
from zchat.files import take_lock

with take_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
print("released", flush=True)
sys.stdin.readline()
"""

WAITER = """
import sys
from pathlib import Path
from zchat.files import take_lock

print("asking", flush=True)
take_lock(Path(sys.argv[1]), wait_s=float("inf"))
print("held", flush=True)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that holds the lock of `file` until it reads a line, and ends with the next."""
    process = python(HOLDER, tmp_path / "file")
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_lock_is_of_one_process_and_is_given_back(
    tmp_path: Path, holder: "subprocess.Popen[str]"
) -> None:
    assert holder.stdin is not None
    assert holder.stdout is not None
    with pytest.raises(StoreBusy, match=r"file is in use by another process\."):
        take_lock(tmp_path / "file")
    take_lock(tmp_path / "another file").release()
    holder.stdin.write("\n")
    holder.stdin.flush()
    assert holder.stdout.readline() == "released\n"
    take_lock(tmp_path / "file").release()


def test_a_lock_dies_with_its_process(tmp_path: Path, holder: "subprocess.Popen[str]") -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    take_lock(tmp_path / "file").release()


def test_who_waits_for_a_lock_gets_it(tmp_path: Path) -> None:
    """The waiting process is stopped by the lock alone: it goes on when that is released."""
    lock = take_lock(tmp_path / "file")
    waiter = python(WAITER, tmp_path / "file")
    assert waiter.stdout is not None
    assert waiter.stdout.readline() == "asking\n"
    os.set_blocking(waiter.stdout.fileno(), False)
    assert waiter.stdout.read(1) == ""
    os.set_blocking(waiter.stdout.fileno(), True)
    lock.release()
    assert finished(waiter) == "held\n"


def test_two_locks_of_one_process_exclude_each_other(tmp_path: Path) -> None:
    """Released twice is released once: the second does not take another's lock away."""
    lock = take_lock(tmp_path / "file")
    with pytest.raises(StoreBusy):
        take_lock(tmp_path / "file")
    lock.release()
    second = take_lock(tmp_path / "file")
    lock.release()
    with pytest.raises(StoreBusy):
        take_lock(tmp_path / "file")
    second.release()


def test_who_asks_whether_a_file_is_locked_is_not_taken_for_its_owner(tmp_path: Path) -> None:
    """Another asks at the same instant; nothing is left behind where nobody ever locked it."""
    assert not is_locked(tmp_path / "file")
    assert not list(tmp_path.iterdir())
    with take_lock(tmp_path / "file"):
        assert is_locked(tmp_path / "file")
    with lock_file(tmp_path / "file").open() as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)
        assert not is_locked(tmp_path / "file")


def test_a_program_started_meanwhile_does_not_hold_the_lock(tmp_path: Path) -> None:
    """Else a broker could not start again while an editor that it once opened still runs."""
    with take_lock(tmp_path / "file"):
        child = subprocess.Popen(
            [sys.executable, "-c", "print('runs', flush=True); input()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            close_fds=False,
        )
        assert child.stdout is not None
        assert child.stdout.readline() == b"runs\n"
    try:
        take_lock(tmp_path / "file").release()
    finally:
        child.communicate(b"\n")
    assert child.returncode == 0


def test_a_lock_refused_leaves_no_descriptor_open(tmp_path: Path) -> None:
    with take_lock(tmp_path / "file"):
        before = set(Path("/dev/fd").iterdir())
        for _ in range(3):
            with pytest.raises(StoreBusy):
                take_lock(tmp_path / "file")
        assert set(Path("/dev/fd").iterdir()) == before


def test_a_file_system_without_locks_is_not_taken_for_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No such file system is at hand: the one call is made to fail as it does there."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(StoreTrouble, match="No locks available") as caught:
        take_lock(tmp_path / "file")
    assert not isinstance(caught.value, StoreBusy)


def test_a_lock_in_a_folder_that_is_not_there_is_an_error_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StoreTrouble, match="No such file or directory"):
        take_lock(tmp_path / "none" / "file")


# ---- errors ----


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, StoreFull),
        (errno.EDQUOT, StoreFull),
        (errno.EFBIG, StoreFull),
        (errno.EACCES, StoreTrouble),
        (errno.EIO, StoreTrouble),
        (errno.EROFS, StoreTrouble),
    ],
)
def test_an_error_of_the_system_becomes_ours_with_its_reason(
    number: int, kind: type[StoreTrouble]
) -> None:
    with pytest.raises(StoreTrouble) as caught, storage_errors(Path("/a/file")):
        raise OSError(number, os.strerror(number))
    assert type(caught.value) is kind
    assert str(caught.value).endswith(f"{os.strerror(number)}.")
    assert "/a/file" in str(caught.value)


def test_an_error_without_a_number_keeps_its_words() -> None:
    with pytest.raises(StoreTrouble, match="something else"), storage_errors(Path("/a/file")):
        raise OSError("something else")
