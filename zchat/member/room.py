"""One room as one process holds it: keys, replica, checked log, transcript, presence, numbers.

Theory of operation. What comes from the server is checked as a segment, opened, kept in the replica
with one commit, and only then told. What the user says is sealed over the last checked head, put in
the outbox, and only then handed out to be sent. The first contradiction of the server is kept with
the room (`fault`): from then on nothing is posted, and reading goes on as far as the chain holds.

Rules of this file: no socket; time and randomness come from `Clock`; whoever holds the replica's
lock writes it, another process of the same member goes on from its end in memory.
"""

import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from zchat.clock import Clock
from zchat.database import Access
from zchat.errors import ServerFault, StoreBusy, StoreEmpty, TextTooLong, Unopenable
from zchat.log.contract import Entry, Log, MemoryLog
from zchat.log.overlay import Overlay
from zchat.log.sqlite import SqliteLog
from zchat.member.checked import CheckedLog, Seen, Segment, ServerContradiction, Step
from zchat.member.names import shown_name
from zchat.member.presence import Presence, Rhythm
from zchat.member.rows import (
    ACCUSES,
    Blame,
    Composed,
    Confirmed,
    Glimpse,
    Happening,
    Here,
    MemberView,
    Notice,
    Progress,
    Row,
    State,
    accusation,
)
from zchat.member.session import Arrived, Glimpsed, Outgoing, Receipt
from zchat.member.transcript import Readable, Transcript
from zchat.member.vault import Pending, RoomRecord, Vault
from zchat.protocol.body import (
    Beat,
    Text,
    Void,
    canonical_name,
    decode_cast,
    decode_logged,
    encode,
    seen_head,
)
from zchat.protocol.envelope import EnvelopeClass, check_outline, envelope_id
from zchat.protocol.keys import Author, RoomKeys
from zchat.protocol.ledger import NO_HEAD, Head, judge
from zchat.protocol.limits import ASK_BYTES, MAX_TEXT_BYTES
from zchat.protocol.seal import open_envelope, reopen_envelope, seal

_LONGEST_STEP_S = 1.0
_MOST_REMEMBERED = 10_000  # of keys, which anybody who has the passphrase can make up
_CRAWL = 100  # entries within the time limit for withheld ones: fewer is next to nothing
_SLICE = 16  # envelopes that one core opens at a time
_LONG_WAY = 2_000  # entries to go, from where the newest are asked for ahead of them
_GLIMPSED = 60
_NO_PROOF = "There is no proof of it that others could check"
_WHAT_NOW = "Tell the others by another way; `zchat rejoin ROOM` shows the way on."


class RoomStatus(NamedTuple):
    """How a room stands: its state, and the parts of the sentence that says so."""

    state: State
    verified: int
    members: int
    missing: int
    stale_s: float
    behind: int
    fault: str


class _Judgements:
    """`Trust` over the vault, remembered for the life of the process."""

    def __init__(self, vault: Vault, tag: bytes) -> None:
        self._vault = vault
        self._tag = tag
        self._verified: dict[bytes, bool] = {}
        self._muted: dict[bytes, bool] = {}

    def is_verified(self, key: bytes) -> bool:
        return self._remembered(self._verified, key, self._vault.is_verified)

    def is_muted(self, key: bytes) -> bool:
        return self._remembered(self._muted, key, self._vault.is_muted)

    def _remembered(
        self, known: dict[bytes, bool], key: bytes, ask: Callable[[bytes, bytes], bool]
    ) -> bool:
        if key not in known:
            if len(known) >= _MOST_REMEMBERED:
                known.clear()
            known[key] = ask(self._tag, key)
        return known[key]

    def wrote(self, incarnation: bytes) -> bool:
        return self._vault.wrote(incarnation)

    def forget(self) -> None:
        """Ask the vault again: something was judged."""
        self._verified.clear()
        self._muted.clear()


class Room:
    """A room this process reads, and perhaps writes."""

    def __init__(
        self,
        keys: RoomKeys,
        record: RoomRecord,
        vault: Vault,
        clock: Clock,
        rhythm: Rhythm,
        withheld_s: float,
    ) -> None:
        self.keys = keys
        self.record = record
        self._vault = vault
        self._clock = clock
        self._withheld_limit_s = withheld_s
        self._author = Author(vault.master_seed, keys)
        self._replica = open_replica(vault.replica_path(keys.tag), keys.tag)
        self.checked = CheckedLog(keys.tag, record.server.keys.log_key, self._replica)
        self._trust = _Judgements(vault, keys.tag)
        self.transcript = Transcript(self._author.public, self.checked, self._trust)
        self.presence = Presence(rhythm, clock.now())
        self._incarnation = b""
        self._next_seq = 1
        self._behind_n: int | None = None
        self._withheld_s = 0.0
        self._ticked_at = clock.now()
        self._withheld_text = ""
        self.asks_again = False  # entries are late: join anew before anybody is accused
        self._is_stale = False
        self.is_slow = False  # delivers next to nothing of what it speaks of
        self._pace_n, self._pace_s = self.checked.n, 0.0
        self._unconfirmed: set[bytes] = set()
        self._unkept: set[bytes] = set()  # of our outbox, what the replica does not hold yet
        self._witness = NO_HEAD
        self._has_glimpsed = False
        self._warned: set[tuple[bytes, Seen]] = set()
        self.tip = self.checked.n

    @property
    def tag(self) -> bytes:
        return self.keys.tag

    @property
    def own_key(self) -> bytes:
        return self._author.public

    @property
    def fault(self) -> str:
        """The server's first contradiction here; empty if none."""
        return self.record.fault

    @property
    def accused(self) -> str:
        """What the server stands accused of: its contradiction, or what it holds back just now."""
        return self.fault or self._withheld_text

    def close(self) -> None:
        """Keep the last receipt that our log has not reached, and let the replica go."""
        if self._witness.n > self.checked.n:
            self._vault.save_witness(self.tag, self._witness)
        self._replica.close()

    # ---- reading ----

    def replay(self) -> Iterator[Row]:
        """The rows of what the replica holds, from the first entry. Once, before anything else."""
        n = 0
        while n < self.checked.n:
            entries = self._replica.read(self.tag, n + 1, self.checked.n)
            for entry in entries:
                yield from self.with_fault(self.transcript.apply(entry, self._reopen(entry)))
            n = entries[-1].n

    def recall(self) -> list[Happening]:
        """What an earlier run's receipt says about our log, if anything."""
        witness = self._vault.witness(self.tag)
        return self._witnessed(witness) if witness.n else []

    def _open(self, envelope: bytes | None) -> Readable | None:
        if envelope is None:
            return None
        try:
            header, body = open_envelope(self.keys, envelope, EnvelopeClass.LOG)
            return Readable(header, decode_logged(body))
        except Unopenable:
            return None

    def _open_all(self, entries: Sequence[Entry]) -> list[Readable | None]:
        """As `_open`, for many: on all cores, for libsodium lets go of the interpreter."""
        if len(entries) < 2 * _SLICE:
            return [self._open(entry.envelope) for entry in entries]
        slices = (entries[at : at + _SLICE] for at in range(0, len(entries), _SLICE))
        opened = _workers().map(lambda some: [self._open(entry.envelope) for entry in some], slices)
        return list(itertools.chain.from_iterable(opened))

    def _reopen(self, entry: Entry) -> Readable | None:
        """What the replica keeps: it was opened before it was kept."""
        if entry.envelope is None:
            return None
        try:
            header, body = reopen_envelope(self.keys, entry.envelope, entry.id)
            return Readable(header, decode_logged(body))
        except Unopenable:
            return None

    def arrived(self, arrived: Arrived) -> tuple[Step, list[Happening]]:
        """An ENTRIES: what it means, and what there is to tell. Raises Malformed."""
        word, items, asked_ids = arrived
        try:
            segment = self.checked.check(word, items, asked_ids=asked_ids)
        except ServerContradiction as found:
            return Step.CONTRADICTION, self._at_fault(found)
        self._believe(word.tip)
        if segment.step in (Step.BEHIND, Step.GONE):
            return segment.step, self._behind(segment)
        if segment.step is Step.NEW_LOG:
            return Step.CONTRADICTION, self._new_log(segment)
        if segment.step is not Step.ON:
            return segment.step, self._in_step(segment)
        rows = self._keep(segment, passed_over=asked_ids)
        return segment.step, [*rows, *self._settle(), self._progress()]

    # ---- the newest entries ahead of the rest ----

    def wants_glimpse(self) -> tuple[int, int] | None:
        """The places to ask for while there is a long way to go; once per connection."""
        if self._has_glimpsed or self.tip - self.checked.n < _LONG_WAY:
            return None
        self._has_glimpsed = True
        return self.tip - _GLIMPSED + 1, self.tip

    def glimpsed(self, glimpsed: Glimpsed) -> list[Happening]:
        """What stands at the end. Its head is remembered: our chain must get there. As `arrived`.

        Nothing of it is kept, and nothing is judged by it.
        """
        try:
            entries = self.checked.glimpse(glimpsed.word, glimpsed.items)
        except ServerContradiction as found:
            return self._at_fault(found)
        opened = ((entry, self._open(entry.envelope)) for entry in entries)
        messages = (self.transcript.glimpse(entry, readable) for entry, readable in opened)
        n, hash_n = entries[-1].n, entries[-1].hash
        return [Glimpse(tuple(message for message in messages if message), n, hash_n)]

    def bears_out(self, glimpse: Glimpse) -> bool:
        """Whether the checked log has come to hold what was glimpsed."""
        return glimpse.n <= self.checked.n and self.checked.hash_at(glimpse.n) == glimpse.hash

    # ---- keeping ----

    def _believe(self, tip: int) -> None:
        """Where the server says its log ends: unsigned, so believed only while it delivers."""
        signed = max(self.checked.n, self.checked.promised_n())
        self.tip = signed if self.is_slow else max(signed, tip)

    def _keep(self, segment: Segment, *, passed_over: bool) -> list[Happening]:
        opened = self._open_all(segment.entries)
        live = self.transcript.caught_up
        arrived_ms = self._clock.wall_ms()
        kept = [
            entry._replace(
                envelope=entry.envelope if readable else None, arrived_ms=arrived_ms, live=live
            )
            for entry, readable in zip(segment.entries, opened, strict=True)
        ]
        self.checked.advance(segment, kept)
        self._withheld_s = 0.0
        self._behind_n = None
        rows: list[Happening] = []
        if passed_over:
            text = f"entry #{kept[0].n} cannot be received from the server and was passed over"
            rows.append(Notice(kept[0].n, State.GAP, Blame.UNKNOWN, text))
        for entry, readable in zip(kept, opened, strict=True):
            rows += self.with_fault(self.transcript.apply(entry, readable))
        self._let_go({entry.id for entry in kept})
        return [*self._confirm((entry.n, entry.id) for entry in kept), *rows]

    def _settle(self) -> list[Happening]:
        rows: list[Happening] = []
        try:
            self.checked.settle()
        except ServerContradiction as found:
            rows += self._at_fault(found)
        if self._withheld_text and self.checked.promised_n() <= self.checked.n:
            self._withheld_text = ""
            rows.append(Notice(0, State.OK, Blame.NOBODY, "the server delivered what it held back"))
        return rows

    def _in_step(self, segment: Segment) -> list[Happening]:
        if segment.step is Step.IN_STEP and segment.head.n <= self.checked.n:
            self._behind_n = None
            self.checked.refresh(segment)
        return [] if segment.step is Step.GAP else [self._progress()]

    def _progress(self) -> Progress:
        """How far we are; at the end for the first time, what comes from now on is live."""
        caught_up = self.checked.n >= self.tip
        self.transcript.caught_up = self.transcript.caught_up or caught_up
        if caught_up and self.record.accepted_n < 0:
            self._save(accepted_n=self.checked.n)
        return Progress(self.checked.n, max(self.tip, self.checked.n), caught_up)

    def disconnected(self) -> None:
        """What comes next may be older than it looks."""
        self.transcript.caught_up = False
        self._withheld_s = 0.0
        self._has_glimpsed = False

    # ---- the server's faults ----

    def _at_fault(self, found: ServerContradiction) -> list[Happening]:
        return [*self.with_fault([accusation(str(found), 0, found.proof)])]

    def with_fault(self, rows: Iterable[Row]) -> list[Row]:
        """The same rows; the first that accuses the server stays with the room, which stops.

        What to do about it is said right behind it.
        """
        told: list[Row] = []
        for row in map(self._unless_accepted, rows):
            told.append(row)
            if isinstance(row, Notice) and row.blame is Blame.SERVER and not self.record.fault:
                told.append(self._keep_fault(row))
        return told

    def _unless_accepted(self, row: Row) -> Row:
        """What stood in the log when its user accepted it is told, and accuses nobody again.

        The message by which a fork was found stays there for ever.
        """
        end = self.record.accepted_n
        if not isinstance(row, Notice) or row.blame is not Blame.SERVER or not row.n:
            return row
        if 0 <= end < row.n:
            return row
        told = f"accepted by your rejoin: {row.text.removeprefix(ACCUSES)}"
        return Notice(row.n, State.UNVERIFIED, Blame.NOBODY, told)

    def _keep_fault(self, accused: Notice) -> Notice:
        proof, path = accused.proof, ""
        fault = accused.text.removeprefix(ACCUSES)
        self._save(fault=fault, fault_ms=self._clock.wall_ms())  # first: it stops the posting
        if proof and judge(proof):
            path = str(self._vault.save_evidence(self.tag, proof))
            self._save(evidence=path)
        shown = f"The proof is in {path} (`zchat evidence check FILE`)" if path else _NO_PROOF
        text = f"Nothing more is sent here. {shown}. {_WHAT_NOW}"
        return Notice(accused.n, State.FORKED, Blame.NOBODY, text)

    def remember(self, *, is_unsure: bool) -> None:
        """Keep the room in the vault; unsure: nobody has spoken, and it may be mistyped."""
        self._save(is_unsure=is_unsure)

    def _save(self, **changes: object) -> None:
        """Change what the vault knows of the room; another process may have changed the rest."""
        self.record = self._vault.update_room(self.tag, self.record, **changes)

    def _behind(self, segment: Segment) -> list[Happening]:
        """A lower end proves nothing: ask again; the second time it is told."""
        self.transcript.caught_up = False
        if self._behind_n is None:
            self._behind_n = segment.kept_n
            text = f"the server is behind: it shows {segment.kept_n} of {self.checked.n} messages"
            return [Notice(0, State.STALE, Blame.UNKNOWN, text)]
        lost = self.checked.n - segment.kept_n
        text = f"it went back {lost} messages, from #{self.checked.n} to #{segment.kept_n}"
        return self._at_fault(ServerContradiction(text))

    def _new_log(self, segment: Segment) -> list[Happening]:
        kept, end = segment.kept_n, max(self.checked.n, self.checked.promised_n())
        lost = f"lost #{kept + 1}-#{end}" if kept < end else "lost nothing we know of"
        told = self._at_fault(ServerContradiction(f"it {lost} and started a new log"))
        self._save(kept_n=kept)
        return told

    def _witnessed(self, witness: Head) -> list[Happening]:
        """The head of an earlier run's receipt: our log must reach it on the same chain."""
        if self.checked.witness(witness) in (Seen.FORK, Seen.OTHER_LOG):
            text = f"it gave a receipt for #{witness.n} of another history than this"
            proof = self.checked.proof_against(witness)
            return self._at_fault(ServerContradiction(text, proof))
        return []

    # ---- writing ----

    def compose(
        self, texts: Sequence[str], reply_to: bytes | None = None, *, anyway: bool = False
    ) -> tuple[list[Outgoing], list[Composed]]:
        """Seal texts and commit them to the outbox, all or none.

        Raises TextTooLong, StoreTrouble, and ServerFault once the server contradicted itself.
        """
        self.record = self._vault.room(self.tag) or self.record  # another process may have found it
        if self.fault and not anyway:
            raise ServerFault(text=self.fault)
        for text in texts:
            size = len(text.encode())
            if size > MAX_TEXT_BYTES:
                raise TextTooLong(size=size, most=MAX_TEXT_BYTES)
        incarnation, seen, name = self._own_incarnation(), self._seen(), self.record.name
        pending = []
        for seq, text in enumerate(texts, self._next_seq):
            body = Text(name, incarnation, seq, seen, text, reply_to)
            envelope = self._seal(EnvelopeClass.LOG, body)
            pending.append(Pending(incarnation, seq, envelope_id(envelope), envelope))
        self._vault.put(self.tag, pending)
        self._next_seq += len(pending)
        composed = [Composed(row.id, name, text) for row, text in zip(pending, texts, strict=True)]
        return self._outgoing(pending), composed

    def _outgoing(self, pending: Iterable[Pending]) -> list[Outgoing]:
        outgoing = [Outgoing(row.id, row.envelope) for row in pending]
        ids = {out.id for out in outgoing}
        self._unconfirmed |= ids
        self._unkept |= ids
        return outgoing

    def _own_incarnation(self) -> bytes:
        if not self._incarnation:
            self._incarnation = self._vault.begin(self.tag)
        return self._incarnation

    def _seen(self) -> bytes:
        return self.checked.head.packed

    def _seal(self, envelope_class: EnvelopeClass, body: Text | Void | Beat) -> bytes:
        return seal(
            self.keys,
            self._author,
            envelope_class,
            encode(body),
            self._clock.wall_ms(),
            self._clock.random(32),
        )

    def resume(self) -> list[Outgoing]:
        """What processes that are dead left in the outbox, and is not in the log."""
        pending = self._vault.adopt(self.tag)
        stored = {row.id for row in pending if self._replica.place_of(self.tag, row.id)}
        self._vault.done(stored)
        return self._outgoing(row for row in pending if row.id not in stored)

    def refused_for_good(self, entry_id: bytes) -> tuple[list[Outgoing], list[Happening]]:
        """The broker says that it will never take this envelope.

        If that is true, its number is filled with a Void. If the envelope is sound, it waits in the
        outbox: a server must not be able to have its author take a message back.
        """
        row = next((row for row in self._vault.pending(self.tag) if row.id == entry_id), None)
        if row is None:
            return [], []
        try:
            check_outline(row.envelope, EnvelopeClass.LOG)
        except Unopenable:
            return self._fill(row), []
        text = "the server refuses a message of yours that is sound; it stays in your outbox"
        return [], [Notice(0, State.GAP, Blame.UNKNOWN, text)]

    def _fill(self, row: Pending) -> list[Outgoing]:
        body = Void(self.record.name, row.incarnation, row.seq, self._seen())
        envelope = self._seal(EnvelopeClass.LOG, body)
        filled = row._replace(id=envelope_id(envelope), envelope=envelope)
        self._vault.replace(row.id, filled)
        self._unconfirmed.discard(row.id)
        self._unkept.discard(row.id)
        return self._outgoing([filled])

    def receipt(self, receipt: Receipt) -> list[Happening]:
        """A STORED: what it confirms. Raises Malformed."""
        word, ids = receipt
        try:
            head = self.checked.check_receipt(word, ids)
        except ServerContradiction as found:
            return self._at_fault(found)
        if head.n > max(self.checked.n, self._witness.n):
            self._witness = head
        return self._confirm(enumerate(ids, word.first))

    def _confirm(self, places: Iterable[tuple[int, bytes]]) -> list[Happening]:
        """Envelopes of ours that a signed head covers now."""
        confirmed = [Confirmed(i, n) for n, i in places if i in self._unconfirmed]
        self._unconfirmed.difference_update(row.id for row in confirmed)
        return list(confirmed)

    def _let_go(self, kept: set[bytes]) -> None:
        """Ours that the replica holds leave the outbox.

        Not before: after an honest restore of the server only we could offer them again. (A power
        cut can still take them from the replica; then the server has them.)
        """
        if isinstance(self._replica, SqliteLog):
            self._vault.done(kept & self._unkept)
            self._unkept -= kept

    @property
    def unconfirmed(self) -> frozenset[bytes]:
        """Ids of our envelopes that no signed head covers yet."""
        return frozenset(self._unconfirmed)

    def rename(self, typed: str) -> str:
        """Messages from now on carry this name, which is returned as it will be. Raises BadName."""
        name = canonical_name(typed)
        self._save(name=name)
        return name

    # ---- beats ----

    def due_beat(self, now: float) -> bytes | None:
        """The envelope of a beat, where one is due."""
        return self._beat(now, leaving=False) if self.presence.is_due(now) else None

    def farewell(self, now: float) -> bytes:
        """The last beat: "leaving"."""
        return self._beat(now, leaving=True)

    def _beat(self, now: float, *, leaving: bool) -> bytes:
        ask = self._clock.random(ASK_BYTES)
        parts = self.presence.beat(now, ask, self._clock.chance())
        body = Beat(
            name=self.record.name,
            incarnation=self._own_incarnation(),
            count=parts.number,
            seen=self._seen(),
            ask=parts.ask,
            echo=parts.echo,
            leaving=leaving,
        )
        return self._seal(EnvelopeClass.CAST, body)

    def heard(self, envelope: bytes, now: float) -> list[Happening]:
        """A CAST: who it is from, what history it vouches for, whether it echoes us."""
        try:
            header, raw = open_envelope(self.keys, envelope, EnvelopeClass.CAST)
            beat = decode_cast(raw)
        except Unopenable:
            return []
        key = header.sender
        if key == self.own_key:
            return list(self.transcript.own_key_rows(beat.incarnation, 0))
        head = seen_head(beat)
        verdict = self.checked.witness(head)
        rows: list[Happening] = []
        if verdict not in (Seen.FITS, Seen.AHEAD):
            rows += self._warn(key, verdict, self.transcript.judged(key, verdict, head, 0))
        vouches = verdict is Seen.FITS and head.n > 0 and self.transcript.knows(key)
        change = self.presence.heard(key, beat, now, vouches=vouches, jitter=self._clock.chance())
        if change and not self._trust.is_muted(key):
            rows.append(Here(key, self._name_of(key, beat.name), change.here))
        return rows

    def _warn(self, key: bytes, verdict: Seen, rows: Sequence[Row]) -> list[Row]:
        """Once per member and kind: a beat comes every minute."""
        if (key, verdict) in self._warned:
            return []
        if len(self._warned) >= _MOST_REMEMBERED:
            self._warned.clear()
        self._warned.add((key, verdict))
        return self.with_fault(rows)

    def _name_of(self, key: bytes, name: str) -> str:
        if self.transcript.knows(key):
            return self.transcript.shown(key)
        return shown_name(key, name, trusted=self._trust.is_verified(key))

    # ---- time ----

    def tick(self, now: float, *, following: bool) -> list[Happening]:
        """What the passing of time shows: withheld entries, no proof of freshness."""
        passed = min(now - self._ticked_at, _LONGEST_STEP_S)  # a machine that slept was not waiting
        self._ticked_at = now
        return [
            *self._withheld(passed, following=following),
            *self._pace(passed, following=following),
            *self._staleness(now),
        ]

    def _pace(self, passed: float, *, following: bool) -> list[Happening]:
        """A server that delivers next to nothing of what it speaks of, however it excuses itself.

        No verdict, for a bad line looks the same; but from here on what comes is judged as live,
        and its unsigned word for where the log ends counts no more.
        """
        n = self.checked.n
        if n >= self.tip:
            self._pace_n, self._pace_s, self.is_slow = n, 0.0, False
        elif following:
            self._pace_s += passed
        if self._pace_s < self._withheld_limit_s:
            return []
        crawls, self._pace_n, self._pace_s = n - self._pace_n < _CRAWL, n, 0.0
        if not crawls or self.is_slow:
            return []
        text = f"the server speaks of #{self.tip} and has delivered up to #{n}, next to nothing of"
        self.is_slow = True
        self.transcript.caught_up = True
        return [Notice(0, State.STALE, Blame.UNKNOWN, f"{text} late: it may hold messages back")]

    def _withheld(self, passed: float, *, following: bool) -> list[Happening]:
        self.asks_again = False
        promised = self.checked.promised_n()
        if not following or promised <= self.checked.n or self._withheld_text:
            return []
        before, self._withheld_s = self._withheld_s, self._withheld_s + passed
        ask_again_at = self._withheld_limit_s / 3
        self.asks_again = before < ask_again_at <= self._withheld_s
        if self._withheld_s < self._withheld_limit_s:
            return []
        text = f"it signed #{promised} and does not deliver what follows #{self.checked.n}"
        self._withheld_text = text
        return [accusation(text)]

    def _staleness(self, now: float) -> list[Happening]:
        stale_s = self.presence.stale_s(now)
        if bool(stale_s) == self._is_stale:
            return []
        self._is_stale = bool(stale_s)
        if self._is_stale:
            text = f"no proof of freshness for {in_words(stale_s)}: the server may hold things back"
            return [Notice(0, State.STALE, Blame.UNKNOWN, text)]
        return [Notice(0, State.OK, Blame.NOBODY, "fresh again: others heard us just now")]

    # ---- asking ----

    def status(self, now: float) -> RoomStatus:
        """How the room stands, in the order of what matters most."""
        members = self.transcript.members(frozenset())
        others = [member for member in members if not member.own]
        verified = sum(member.verified for member in others)
        missing = self.transcript.missing_count()
        stale_s = self.presence.stale_s(now)
        if self.accused:
            state = State.FORKED
        elif stale_s or self.is_slow:
            state = State.STALE
        elif missing:
            state = State.GAP
        else:
            state = State.OK if verified == len(others) else State.UNVERIFIED
        behind = max(self.tip - self.checked.n, 0) if self.is_slow else 0
        return RoomStatus(state, verified, len(others), missing, stale_s, behind, self.accused)

    def members(self, now: float) -> list[MemberView]:
        """Who has spoken here, and who is here."""
        return self.transcript.members(self.presence.here(now))

    def verification_code(self, n: int) -> list[str]:
        """Eight words over the log up to its place n <= our end (half a second)."""
        expired = min(self.checked.expired, n)
        names: dict[bytes, str] = {}
        at = expired
        while at < n:
            entries = self._replica.read(self.tag, at + 1, n)
            for entry in entries:
                readable = self._reopen(entry)
                if readable:
                    names[readable.header.sender] = readable.body.name
            at = entries[-1].n
        head = Head(self.checked.log, n, self.checked.hash_at(n), expired, b"")
        return self.keys.verification_code(head, names.items())

    def verify(self, keys: Iterable[bytes], n: int) -> None:
        """These members were compared by voice at place n."""
        self._vault.verify(self.tag, keys, n)
        self._trust.forget()

    def toggle_mute(self, key: bytes) -> bool:
        """Show a member's messages no longer, or again; True if they are muted now."""
        muted = not self._trust.is_muted(key)
        self._vault.mute(self.tag, key, muted=muted)
        self._trust.forget()
        return muted

    def mark_read(self) -> None:
        """The user has seen everything up to our end."""
        self._save(read_n=self.checked.n, read_ms=self._clock.wall_ms())


@functools.cache
def _workers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="open")


def in_words(seconds: float) -> str:
    """A duration as people say it: 40 s, 3 min, 2 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.0f} h"


def open_replica(path: Path, tag: bytes) -> Log:
    """The replica of a room: written by the first process that opens it, overlaid by others."""
    try:
        return SqliteLog(path, Access.REPLICA)
    except StoreBusy:
        return Overlay(_beside_writer(path), tag)


def _beside_writer(path: Path) -> Log:
    """What another process has kept so far: it may only just be making the file."""
    try:
        return SqliteLog(path, Access.READ_ONLY)
    except StoreEmpty:
        return MemoryLog()
