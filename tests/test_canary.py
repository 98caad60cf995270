"""What only members may know is nowhere at the server: not on its wire, its disk, its memory.

Strings that occur nowhere else are planted in a passphrase, a name, a room's name and a text; then
everything the server had is searched for them, in the forms in which they could lie there. The
same search over a member's memory finds them all, and over the server's finds its own public key:
a search that finds nothing because it does not work is no proof.

Rules of this file: what is searched is the real thing: bytes a proxy took off the wire, files as
they lie on the disk, the memory of the living process. The test here pays for Argon2id in full.
"""

import base64
import contextlib
import os
import re
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.processes import Running, wait_for, zchat
from zchat.broker.folder import load_keys

NAME = "canary-name-tsyrkq"
ROOM = "canary-room-wvxbzp"
TEXT = "canary-text-hgnmdl says the bird"
FRIEND = "canary-friend-jfucqe"
_CHUNK = 1 << 20


def forms(planted: str) -> set[bytes]:
    """A string as it could lie about: letters of one, two and four bytes, hexadecimal, base64."""
    raw = planted.encode()
    found = {raw, planted.encode("utf-16-le"), planted.encode("utf-32-le"), raw.hex().encode()}
    found |= {raw.hex().upper().encode(), raw[::-1]}
    for shift in range(3):
        # Whole groups of three bytes only: they look the same whatever stands around them.
        whole = raw[shift : shift + (len(raw) - shift) // 3 * 3]
        found |= {base64.b64encode(whole), base64.urlsafe_b64encode(whole)}
    return found


def hits(where: bytes, planted: dict[str, str]) -> list[str]:
    """Which of the planted strings stand in these bytes, in any form."""
    return [what for what, text in planted.items() if any(form in where for form in forms(text))]


@pytest.mark.parametrize("form", sorted(forms("canary-in-a-mine")))
def test_the_search_finds_every_form(form: bytes) -> None:
    """In the middle of other bytes."""
    assert hits(b"\x00\x01coal" + form + b"dust", {"bird": "canary-in-a-mine"}) == ["bird"]
    assert hits(b"\x00\x01coal" + form[1:] + b"dust", {"bird": "canary-in-a-mine"}) == []


# ---- the wire ----


class Wiretap:
    """A TCP proxy that keeps every byte of both directions."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.taken = bytearray()
        self._ends = threading.Event()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while not self._ends.is_set():
            if select.select([self._listener], [], [], 0.05)[0]:
                client, _ = self._listener.accept()
                thread = threading.Thread(target=self._relay, args=(client,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _relay(self, client: socket.socket) -> None:
        server = socket.create_connection(("127.0.0.1", self._port))
        with contextlib.suppress(OSError), client, server:
            other = {client: server, server: client}
            while not self._ends.is_set():
                for ready in select.select([client, server], [], [], 0.05)[0]:
                    data = ready.recv(65_536)
                    if not data:
                        return
                    self.taken += data
                    other[ready].sendall(data)

    def close(self) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join()
        self._listener.close()


@contextmanager
def wiretap(port: int) -> Iterator[Wiretap]:
    """Between members and the server at this port."""
    tap = Wiretap(port)
    try:
        yield tap
    finally:
        tap.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


# ---- memory and disk ----


def memory_of(pid: int) -> bytes:
    """All that a process has written to, as it stands."""
    pieces = []
    with Path(f"/proc/{pid}/mem").open("rb", 0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            area = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)
            if area is None:
                continue
            start, end = int(area[1], 16), int(area[2], 16)
            with contextlib.suppress(OSError, OverflowError):  # not ours to read: the kernel's own
                for at in range(start, end, _CHUNK):
                    memory.seek(at)
                    pieces.append(memory.read(min(_CHUNK, end - at)))
    return b"".join(pieces)


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def files_under(folder: Path) -> bytes:
    """Every file of a folder, and its name."""
    whole = b""
    for path in sorted(folder.rglob("*")):
        whole += os.fsencode(path.relative_to(folder)) + b"\n"
        whole += path.read_bytes() if path.is_file() else b""
    return whole


# ---- the test ----


@contextmanager
def first_minute(folder: Path, tap: Wiretap, port: int) -> Iterator[tuple[Running, Running, str]]:
    """A host who starts, a friend who joins by line and passphrase, and one text of each.

    Gives the two processes and the passphrase that was made.
    """
    where = ["--listen", f"127.0.0.1:{port}", "--advertise", tap.address]
    host = Running(folder / "host", "start", "--name", NAME, "--room", ROOM, *where)
    friend = None
    try:
        host.expect_note(r"zchat://")
        wait_for("the passphrase", lambda: passphrase_in(host.err) != "")
        line = re.search(r"zchat://\S+", host.err)
        assert line
        assert tap.address in line[0]
        passphrase = folder / "passphrase"
        passphrase.write_text(passphrase_in(host.err) + "\n")
        by_file = ["--passphrase-file", str(passphrase), "--name", FRIEND]
        host.type(f"{TEXT}\n")
        host.expect(f": {TEXT}$")
        friend = Running(folder / "friend", "join", line[0], *by_file)
        friend.expect(f"{NAME}~[0-9a-f]{{4}}: {TEXT}$")
        friend.type(f"{TEXT}, too\n")
        host.expect(f"{FRIEND}~[0-9a-f]{{4}}: {TEXT}, too$")
        yield host, friend, passphrase_in(host.err)
    finally:
        for process in (friend, host):
            if process is not None:
                process.end()
                process.end_input()


def passphrase_in(shown: str) -> str:
    """Six words of the list, joined by hyphens."""
    found = re.search(r"\b[a-z]+(?:-[a-z]+){5}\b", shown)
    return found[0] if found else ""


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="memory is read by Linux's /proc")
def test_nothing_that_members_know_is_at_the_server(tmp_path: Path) -> None:
    """Passphrase, names, room and text: on no wire, in no file, log or memory of the server."""
    port = free_port()
    with wiretap(port) as tap, first_minute(tmp_path, tap, port) as (host, friend, passphrase):
        planted = {"passphrase": passphrase, "name": NAME, "room": ROOM, "text": TEXT}
        planted["friend"] = FRIEND
        (server,) = children_of(host.process.pid)
        folder = tmp_path / "host" / "broker"
        own_key = load_keys(folder).log_key.public

        assert sorted(hits(memory_of(host.process.pid), planted)) == sorted(planted)
        assert {"name", "text", "friend"} <= set(hits(memory_of(friend.process.pid), planted))
        of_server = memory_of(server)
        assert own_key in of_server, "the search reads the server's memory"
        assert hits(of_server, planted) == []

        on_disk = files_under(folder)
        assert len(on_disk) > 10_000
        assert hits(on_disk, planted) == []
        audit = zchat(tmp_path / "host", "broker", "audit").stdout
        assert audit.count("sealed: ") == 2
        assert hits(audit.encode(), planted) == []

        told = Path(f"/proc/{server}/cmdline").read_bytes()
        told += Path(f"/proc/{server}/environ").read_bytes()
        assert hits(told, planted) == []
        assert hits((folder / "start.log").read_bytes(), planted) == []
    assert b"CURVE" in tap.taken
    assert len(tap.taken) > 5_000
    assert hits(bytes(tap.taken), planted) == []
    assert hits(files_under(folder), planted) == []
    # A member's own folder bears its name; the rest in it is sealed under the vault's key.
    sealed = {what: planted[what] for what in ("passphrase", "room", "text")}
    for name in ("host", "friend"):
        assert hits(files_under(tmp_path / name / "members"), sealed) == []
