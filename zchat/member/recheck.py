"""An export with proof, checked again by whoever has it: every byte of it means something.

Theory of operation. The chain is followed line by line without any key. With the room's keys each
envelope is opened, its signature checked, and what stands beside it compared; and the head that
each message counter-signs is judged as a member judges it who reads the log (section 9 of the
contract), over the part of the log that the file has.

Rules of this file: a check that fails ends it, with the line and the check; what the file shows of
a server or an author is no failure of the file, and is told as a finding.
"""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from zchat.database import Access
from zchat.errors import BadRoomName, Malformed, StoreEmpty, Unopenable
from zchat.log.contract import Entry, MemoryLog, Tip
from zchat.log.sqlite import SqliteLog
from zchat.member.checked import CheckedLog, Seen, ServerContradiction
from zchat.member.export import beside
from zchat.member.numbers import Incarnation, Missing
from zchat.member.rows import Blame
from zchat.member.vault import RoomRecord, Vault
from zchat.protocol.body import Logged, Text, Void, decode_logged, seen_head
from zchat.protocol.envelope import EnvelopeClass
from zchat.protocol.export import (
    MAX_LINE_BYTES,
    VERSION,
    Chain,
    Closing,
    Line,
    Opening,
    unpack,
    version_of,
)
from zchat.protocol.keys import RoomKeys
from zchat.protocol.ledger import (
    NO_HEAD_BYTES,
    NO_LOG,
    Contradiction,
    Head,
    head_holds,
    judge,
)
from zchat.protocol.limits import ID_BYTES, MAX_BATCH_BYTES, MAX_BATCH_ENTRIES
from zchat.protocol.seal import open_envelope
from zchat.protocol.words import canonical_room_name

_MOST_FINDINGS = 20


class Finding(NamedTuple):
    """What a sound file shows of somebody, at entry `n`."""

    n: int
    blame: Blame
    text: str


class Checked(NamedTuple):
    """What holds. Without keys all but the head, `bare` and the findings is 0 or empty."""

    head: Head
    messages: int
    others: int  # entries that open and are no messages: filled numbers, kinds of another version
    bare: int  # entries of which the file has the id only
    members: int
    missing: int  # numbers of authors that are not there
    before: int  # counter-signed heads that lie before the range, where nothing can be compared
    findings: list[Finding]
    words: list[str]  # of a whole log: as /verify says them at its end


class Recheck:
    """One file, read once from its beginning. Raises Malformed where a check fails."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._number = 0
        raw = self._next()
        with self._naming_the_line():
            version = version_of(raw)
            if version not in (None, VERSION):
                reason = f"it is an export of version {version}, and this zchat reads {VERSION}"
                raise Malformed(reason=reason)
            self.opening = unpack(raw, Opening)
            self._chain = Chain(self.opening)
            self._kept = _Kept(self.opening)
            self._check_room(self.opening.room)

    @staticmethod
    def _check_room(room: str) -> None:
        try:
            if canonical_room_name(room) == room:
                return
        except BadRoomName:
            pass
        raise Malformed(reason="the room's name is in another form than its own")

    def _next(self) -> bytes:
        self._number += 1
        raw = self._file.readline(MAX_LINE_BYTES)
        if not raw.endswith(b"\n"):
            is_long = len(raw) == MAX_LINE_BYTES
            what = "it is too long" if is_long else "the file is cut short there"
            raise Malformed(reason=f"line {self._number}: {what}")
        return raw

    @contextmanager
    def _naming_the_line(self, where: str = "") -> Iterator[None]:
        try:
            yield
        except Malformed as error:
            reason = f"line {self._number}{where}: {error.facts['reason']}"
            raise Malformed(reason=reason) from None

    def compare(self, record: RoomRecord) -> None:
        """With what a member knows of this room, whose tag comes from its name and its origin.

        And with the log key of its invite: anybody could sign a log with one of their own.
        """
        opening, origin = self.opening, record.origin
        keys = origin.curve_key.hex(), origin.log_key.hex()
        pinned = record.server.keys.log_key.hex()
        with self._naming_the_line():
            if (opening.room, opening.origin) != (record.room, keys):
                raise Malformed(reason="its room or origin is not that of the room you know")
            if opening.log_key != pinned:
                reason = f"its log key is {opening.log_key}, and that of your invite is {pinned}"
                raise Malformed(reason=reason)

    def run(self, keys: RoomKeys | None, progress: Callable[[int], None]) -> Checked:
        """All checks; without keys those that need none. `progress` hears of each place."""
        chain, reading = self._chain, _Reading(keys, self.opening, self._kept)
        while not chain.is_complete:
            raw = self._next()
            with self._naming_the_line(f" (#{chain.n + 1})"):
                line = unpack(raw, Line)
                chain.take(line)
                reading.take(line, chain.hash)
            progress(chain.n)
        raw = self._next()
        with self._naming_the_line():
            head = chain.close(unpack(raw, Closing))
        if self._file.read(1):
            raise Malformed(reason=f"line {self._number + 1}: something stands behind the head")
        return reading.close(head)

    def lies_on(self, own: CheckedLog, head: Head) -> Seen:
        """How the file, which holds up to `head`, lies to a log that a member has checked itself.

        AHEAD says that there is no place at which the two could be compared.
        """
        if own.log == NO_LOG or own.log in [log.log for log in self._chain.lineage[1:]]:
            return Seen.AHEAD
        if head.log != own.log or head.n <= own.n:
            return own.judge(head, own.n + 1)
        try:
            return Seen.FITS if self._kept.hash_at(b"", own.n) == own.hash else Seen.FORK
        except LookupError:
            return Seen.AHEAD

    def agrees_up_to(self, own: CheckedLog, n: int) -> bool:
        """Whether the file and a member's own log are known to be the same up to a place."""
        try:
            return 0 < n <= own.n and self._kept.hash_at(b"", n) == own.hash_at(n)
        except LookupError:
            return False

    def proof_against(self, own: CheckedLog, head: Head) -> Contradiction | None:
        """Of a file that forks from one's own log: what shows that to everybody."""
        if head.n <= own.n or head.log != own.log:
            return own.proof_against(head)
        opening = self.opening
        ids: list[bytes] = []
        while own.n + len(ids) < head.n:
            after = own.n + len(ids)
            ids += [entry.id for entry in self._kept.read(b"", after + 1, head.n)]
        start = self._kept.hash_at(b"", own.n)
        room, log_key = bytes.fromhex(opening.tag), bytes.fromhex(opening.log_key)
        return Contradiction(room, log_key, own.head, head, tuple(ids), start)


class _Kept(MemoryLog):
    """Ids and hashes of a part of a log, as the replica that a CheckedLog reads.

    What lies before the part is a LookupError.
    """

    def __init__(self, opening: Opening) -> None:
        super().__init__()
        self._opening = opening
        self._first = opening.first
        self._hashes = bytearray.fromhex(opening.before)
        self._ids = bytearray()
        self._places: dict[bytes, int] = {}

    def keep(self, n: int, entry_id: bytes, hash_n: bytes) -> int:
        """Add an entry; the place where its id stands already, or 0."""
        self._hashes += hash_n
        self._ids += entry_id
        former = self._places.setdefault(entry_id, n)
        return former if former != n else 0

    def tip(self, room: bytes) -> Tip:
        log = bytes(ID_BYTES)
        return Tip(self._opening.lineage, log, 0, log, 0, 0, NO_HEAD_BYTES)

    def hash_at(self, room: bytes, n: int) -> bytes:
        return self._cut(self._hashes, n - self._first + 1)

    def read(
        self,
        room: bytes,
        first: int,
        last: int,
        most_bytes: int = MAX_BATCH_BYTES,
        most_entries: int = MAX_BATCH_ENTRIES,
    ) -> list[Entry]:
        last = min(last, first + most_entries - 1)
        return [
            Entry(n, self._cut(self._ids, n - self._first), b"", None)
            for n in range(first, last + 1)
        ]

    @staticmethod
    def _cut(kept: bytearray, at: int) -> bytes:
        cut = bytes(kept[at * ID_BYTES : (at + 1) * ID_BYTES]) if at >= 0 else b""
        if not cut:
            raise LookupError
        return cut


class _Reading:
    """What a reader with the keys makes of the entries, one after the other."""

    def __init__(self, keys: RoomKeys | None, opening: Opening, kept: _Kept) -> None:
        self._keys = keys
        self._opening = opening
        self._kept = kept
        self._room, self._log_key = bytes.fromhex(opening.tag), bytes.fromhex(opening.log_key)
        self._checked = CheckedLog(self._room, self._log_key, self._kept)
        self._names: dict[bytes, tuple[int, str]] = {}  # by key: the last entry, and its name
        self._numbers: dict[tuple[bytes, bytes], Incarnation] = {}
        self._voids: set[tuple[bytes, bytes, int]] = set()
        self._seen: dict[tuple[bytes, bytes], int] = {}
        self._messages = self._others = self._bare = self._before = 0
        self._findings: list[Finding] = []

    def take(self, line: Line, hash_n: bytes) -> None:
        """The next entry, whose link holds. Raises Malformed."""
        entry = Entry(line.n, bytes.fromhex(line.id), hash_n, line.envelope)
        former = self._kept.keep(entry.n, entry.id, hash_n)
        if former:
            text = f"it stored a message twice (#{former} and #{entry.n})"
            self._find(entry.n, Blame.SERVER, text)
        if line.envelope is None:
            self._bare += 1
        elif self._keys is not None:
            sender, body = self._open(self._keys, entry, line)
            self._names[sender] = entry.n, body.name
            self._number(sender, body, entry.n)
            self._judge(sender, body, entry.n)

    @staticmethod
    def _open(keys: RoomKeys, entry: Entry, line: Line) -> tuple[bytes, Logged]:
        """The author and the body, once both are what stands beside the envelope."""
        assert entry.envelope is not None
        try:
            header, raw = open_envelope(keys, entry.envelope, EnvelopeClass.LOG)
            body = decode_logged(raw)
        except Unopenable as error:
            raise Malformed(reason=f"its envelope fails check `{error.check}`") from None
        inside = beside(entry, header, body)
        for field in Line.__struct_fields__:
            if getattr(line, field) != getattr(inside, field):
                raise Malformed(reason=f"its `{field}` is not the one inside its envelope")
        return header.sender, body

    def _number(self, sender: bytes, body: Logged, n: int) -> None:
        """The author's own number: of two entries with one, the lower place counts."""
        author = sender, body.incarnation
        numbers = self._numbers.get(author)
        if numbers is None:
            numbers = self._numbers[author] = Incarnation()
            if self._opening.first > 1:
                numbers.excuse(Missing(1, body.seq - 1, 0))
        taken = numbers.take(body.seq, n)
        number = (*author, body.seq)
        if isinstance(body, Void):
            self._voids.add(number)
        self._messages += isinstance(body, Text) and not taken.repeats
        self._others += not isinstance(body, Text) or bool(taken.repeats)
        if taken.repeats and not isinstance(body, Void) and number not in self._voids:
            text = f"{body.name} sent two different messages with one number: #{taken.repeats} "
            self._find(n, Blame.AUTHOR, f"{text}counts, #{n} does not")

    def _judge(self, sender: bytes, body: Logged, n: int) -> None:
        """The head that the author counter-signed."""
        head, who = seen_head(body), body.name
        author = sender, body.incarnation
        if head.n < self._seen.get(author, 0):
            self._find(n, Blame.AUTHOR, f"{who} claims to have seen less than before (#{n})")
        self._seen[author] = max(head.n, self._seen.get(author, 0))
        try:
            verdict = self._checked.judge(head, n)
        except LookupError:
            self._before += 1
            holds = head_holds(head, self._room, self._log_key)
            verdict = Seen.FITS if holds else Seen.FORGED
        if verdict is Seen.FORK:
            text = f"it showed {who} another history (from #{head.n} or before)"
            self._find(n, Blame.SERVER, text)
        elif verdict is Seen.OTHER_LOG:
            self._find(n, Blame.SERVER, f"it showed {who} another log of this room")
        elif verdict is Seen.FORGED:
            self._find(n, Blame.AUTHOR, f"{who} claims a history the server never signed (#{n})")
        elif verdict is Seen.LOST:
            text = f"{who} saw #{head.n} of a former log, which the server lost"
            self._find(n, Blame.UNKNOWN, text)

    def _find(self, n: int, blame: Blame, text: str) -> None:
        """Of too many the first, but for the server's first: that one decides."""
        is_first = blame is Blame.SERVER and not any(f.blame is blame for f in self._findings)
        if is_first or len(self._findings) < _MOST_FINDINGS:
            self._findings.append(Finding(n, blame, text))

    def close(self, head: Head) -> Checked:
        """What holds, once the head does; and whether a log after a restore holds its past."""
        if self._opening.first == 1:
            self._checked.head = head
            try:
                self._checked.settle()
            except ServerContradiction as found:
                self._find(head.n, Blame.SERVER, str(found))
        return Checked(
            head=head,
            messages=self._messages,
            others=self._others,
            bare=self._bare,
            members=len(self._names),
            missing=sum(numbers.missing_count() for numbers in self._numbers.values()),
            before=self._before,
            findings=self._findings,
            words=self._words(head),
        )

    def _words(self, head: Head) -> list[str]:
        if self._keys is None or self._opening.first > 1:
            return []
        names = ((key, name) for key, (n, name) in self._names.items() if n > head.expired)
        return self._keys.verification_code(head, names)


class Own(NamedTuple):
    """How a file lies to the log that a member keeps, which ends at `n`; where a proof was kept."""

    verdict: Seen
    n: int
    proof: Path | None
    was_left: bool  # it is of a history that this member left by a rejoin


def compare_with_own(vault: Vault, recheck: Recheck, head: Head) -> Own | None:
    """Of a file that holds up to `head`; None where this member keeps no log of the room.

    A contradiction of the server is kept as evidence.
    """
    tag, log_key = bytes.fromhex(recheck.opening.tag), bytes.fromhex(recheck.opening.log_key)
    try:
        replica = SqliteLog(vault.replica_path(tag), Access.READ_ONLY)
    except StoreEmpty:
        return None
    with closing(replica):
        own, path = CheckedLog(tag, log_key, replica), None
        verdict = recheck.lies_on(own, head)
        proof = recheck.proof_against(own, head) if verdict is Seen.FORK else None
        if proof is not None and judge(proof):
            path = vault.save_evidence(tag, proof)
        accuses = verdict in (Seen.FORK, Seen.OTHER_LOG)
        was_left = accuses and _was_left(vault, recheck, own, head)
        return Own(verdict, own.n, path, was_left) if own.n else None


def _was_left(vault: Vault, recheck: Recheck, own: CheckedLog, head: Head) -> bool:
    """Whether a file that is not of one's own log is of one set aside, and not of a third.

    One set aside that our own log holds as well says nothing: a third could go on from there, too.
    Where none is there (in an imported profile), what parts from our log behind all that was
    accepted, and not before, is taken for what was left.
    """
    tag, log_key = bytes.fromhex(recheck.opening.tag), bytes.fromhex(recheck.opening.log_key)
    aside = vault.replicas_aside(tag)
    for path in aside:
        with closing(SqliteLog(path, Access.READ_ONLY)) as replica:
            left = CheckedLog(tag, log_key, replica)
            parted = own.judge(left.head, own.n + 1) is not Seen.FITS
            if parted and recheck.lies_on(left, head) is Seen.FITS:
                return True
    record = vault.room(tag)
    return not aside and record is not None and recheck.agrees_up_to(own, record.accepted_n)
