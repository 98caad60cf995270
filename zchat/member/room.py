"""One room as one process holds it: keys, replica, checked log, transcript, presence, numbers.

Theory of operation. What comes from the server is checked as a segment, opened, kept in the replica
with one commit, and only then told. What the user says is sealed over the last checked head, put in
the outbox, and only then handed out to be sent. The first contradiction of the server is kept with
the room (`fault`): from then on nothing is posted, and reading goes on as far as the chain holds.

Rules of this file: no socket; time and randomness come from `Clock`; whoever holds the replica's
lock writes it, another process of the same member goes on from its end in memory.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from zchat.clock import Clock
from zchat.errors import ServerFault, Unopenable
from zchat.log.sqlite import SqliteLog
from zchat.member.checked import CheckedLog, Seen, Segment, ServerContradiction, Step
from zchat.member.delivery import Delivery
from zchat.member.names import shown_name
from zchat.member.opening import Opener
from zchat.member.outbox import Outbox
from zchat.member.presence import Presence, Rhythm
from zchat.member.replica import open_replica
from zchat.member.rows import (
    ACCUSES,
    Blame,
    Composed,
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
from zchat.member.seen import SeenBy
from zchat.member.session import Arrived, Glimpsed, Outgoing, Receipt
from zchat.member.transcript import Readable, Transcript
from zchat.member.trust import Judgements
from zchat.member.vault import RoomRecord, Vault
from zchat.protocol.body import (
    canonical_name,
    decode_cast,
    seen_head,
)
from zchat.protocol.envelope import EnvelopeClass
from zchat.protocol.keys import RoomKeys
from zchat.protocol.ledger import Head, judge
from zchat.protocol.limits import ASK_BYTES, CLOCK_TOLERANCE_MS
from zchat.protocol.seal import open_envelope

_LONGEST_STEP_S = 1.0
_OWED_S = 0.25  # a receipt that our log has not reached by then is kept for the next run
_MOST_REMEMBERED = 10_000  # of keys, which anybody who has the passphrase can make up
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
        self._replica = open_replica(vault.replica_path(keys.tag), keys.tag)
        self.checked = CheckedLog(keys.tag, record.server.keys.log_key, self._replica)
        self._is_writer = isinstance(self._replica, SqliteLog)
        self._opener = Opener(keys)
        self._outbox = Outbox(keys, vault, clock, self.checked)
        self._delivery = Delivery(withheld_s, self.checked.n)
        self._trust = Judgements(vault, keys.tag)
        self.transcript = Transcript(self._outbox.own_key, self.checked, self._trust)
        self.presence = Presence(rhythm, clock.now())
        self._seen = SeenBy(self.checked)
        self._behind_n: int | None = None
        self._ticked_at = clock.now()
        self._is_stale = False
        self._kept_owed: frozenset[Head] = frozenset()  # as the vault holds them
        self._owed_at = clock.now()
        self._began_ms = clock.wall_ms()
        self._lost_ms = 0  # when we last stood at the end, and were cut off
        self._has_glimpsed = False
        self._warned: set[tuple[bytes, Seen]] = set()
        self.tip = self.checked.n

    @property
    def tag(self) -> bytes:
        return self.keys.tag

    @property
    def own_key(self) -> bytes:
        return self._outbox.own_key

    @property
    def is_slow(self) -> bool:
        """Whether the server delivers next to nothing of what it speaks of."""
        return self._delivery.is_slow

    @property
    def awaits_end(self) -> bool:
        """Whether the user accepted the server's log, and it has not said yet where that ends."""
        return self.record.accepted_n < 0

    @property
    def asks_again(self) -> bool:
        """Whether entries are late: then join anew, before anybody is accused."""
        return self._delivery.asks_again

    @property
    def fault(self) -> str:
        """The server's first contradiction here; empty if none."""
        return self.record.fault

    @property
    def accused(self) -> str:
        """What the server stands accused of: its contradiction, or what it holds back just now."""
        return self.fault or self._delivery.withheld

    def close(self) -> None:
        """Keep the receipts that our log has not reached, and let the replica go."""
        self._keep_owed()
        self._replica.close()

    # ---- reading ----

    def replay(self) -> Iterator[Row]:
        """The rows of what the replica holds, from the first entry. Once, before anything else."""
        n = 0
        while n < self.checked.n:
            entries = self._replica.read(self.tag, n + 1, self.checked.n)
            for entry in entries:
                yield from self.with_fault(self.transcript.apply(entry, self._opener.reopen(entry)))
            n = entries[-1].n

    def recall(self) -> list[Happening]:
        """What earlier runs' receipts say about our log, if anything."""
        self._kept_owed = frozenset(self._vault.owed(self.tag))
        by_place = sorted(self._kept_owed, key=lambda head: head.n)
        return [row for head in by_place for row in self._owed(head)]

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
        opened = ((entry, self._opener.open(entry.envelope)) for entry in entries)
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
        opened = self._opener.open_all(segment.entries)
        live = self.transcript.caught_up
        arrived_ms = self._clock.wall_ms()
        kept = [
            entry._replace(
                envelope=entry.envelope if readable else None,
                arrived_ms=arrived_ms,
                live=live or self._was_due(readable),
            )
            for entry, readable in zip(segment.entries, opened, strict=True)
        ]
        self.checked.advance(segment, kept)
        self._delivery.progressed()
        self._behind_n = None
        rows: list[Happening] = []
        if passed_over:
            text = f"entry #{kept[0].n} cannot be received from the server and was passed over"
            rows.append(Notice(kept[0].n, State.GAP, Blame.UNKNOWN, text))
        for entry, readable in zip(kept, opened, strict=True):
            rows += self.with_fault(self.transcript.apply(entry, readable))
            if live and readable and readable.header.sender != self.own_key:
                self._seen.shown(readable.header.sender, seen_head(readable.body))
        if self._is_writer:
            self._outbox.let_go({entry.id for entry in kept})
        return [*self._outbox.confirm((entry.n, entry.id) for entry in kept), *rows]

    def _was_due(self, readable: Readable | None) -> bool:
        """Whether it should have come before the connection was lost: a cut hides no delay."""
        sent_ms = readable.header.timestamp_ms if readable else self._lost_ms
        return sent_ms + CLOCK_TOLERANCE_MS < self._lost_ms

    def _settle(self) -> list[Happening]:
        rows: list[Happening] = []
        try:
            self.checked.settle()
        except ServerContradiction as found:
            rows += self._at_fault(found)
        return [*rows, *self._delivery.settled(self.checked.n, self.checked.promised_n())]

    def _in_step(self, segment: Segment) -> list[Happening]:
        if segment.step is Step.IN_STEP and self.awaits_end:
            return self._announced(segment.head)
        if segment.step is Step.IN_STEP and segment.head.n <= self.checked.n:
            self._behind_n = None
            self.checked.refresh(segment)
        return [] if segment.step is Step.GAP else [self._progress()]

    def _announced(self, head: Head) -> list[Happening]:
        """Where the accepted log ends; nothing of it is here yet, and it must get there."""
        self.checked.witness(head, owed=True)
        self._settle_accepted(caught_up=False)
        return []

    def _progress(self) -> Progress:
        """How far we are; at the end for the first time, what comes from now on is live."""
        caught_up = self.checked.n >= self.tip
        self.transcript.caught_up = self.transcript.caught_up or caught_up
        self._settle_accepted(caught_up=caught_up)
        return Progress(self.checked.n, max(self.tip, self.checked.n), caught_up)

    def _settle_accepted(self, *, caught_up: bool) -> None:
        """Accepted is what stood in the log when a rejoined member first asked, and no more.

        Where it ended is signed, and never more than there turns out to be.
        """
        if self.awaits_end:  # another process may have been told
            self._renew(self._vault.room(self.tag) or self.record)
        accepted_n = self.record.accepted_n
        if accepted_n < 0:
            accepted_n = max(self.checked.n, self.checked.promised_n())
        if caught_up or self.is_slow:  # who signs an end far ahead and then trickles gains nothing
            accepted_n = min(accepted_n, self.checked.n)
        if accepted_n != self.record.accepted_n:
            self._save(accepted_n=accepted_n)

    def disconnected(self) -> None:
        """What comes next may be older than it looks."""
        if self.transcript.caught_up:
            self._lost_ms = self._clock.wall_ms()
        self.transcript.caught_up = False
        self._delivery.disconnected()
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
        self._renew(self._vault.update_room(self.tag, self.record, **changes))

    def _renew(self, record: RoomRecord) -> None:
        """What the vault holds by now; but no rejoin elsewhere brings us to another log."""
        if record.rejoins == self.record.rejoins:
            self.record = record

    def _behind(self, segment: Segment) -> list[Happening]:
        """A lower end proves nothing: ask again; the second time it is told."""
        self.transcript.caught_up = False
        if self._behind_n is None:
            self._behind_n = segment.kept_n
            text = f"the server is behind: it shows {segment.kept_n} of {self.checked.n} messages"
            return [Notice(0, State.STALE, Blame.UNKNOWN, text)]
        lost = self.checked.n - segment.kept_n
        messages = "1 message" if lost == 1 else f"{lost} messages"
        text = f"it went back {messages}, from #{self.checked.n} to #{segment.kept_n}"
        return self._at_fault(ServerContradiction(text))

    def _new_log(self, segment: Segment) -> list[Happening]:
        kept, end = segment.kept_n, max(self.checked.n, self.checked.promised_n())
        lost = f"lost #{kept + 1}-#{end}" if kept < end else "lost nothing we know of"
        told = self._at_fault(ServerContradiction(f"it {lost} and started a new log"))
        self._save(kept_n=kept)
        return told

    def _owed(self, head: Head) -> list[Happening]:
        """The head of an earlier run's receipt: our log must reach it on the same chain."""
        if self.checked.witness(head, owed=True) in (Seen.FORK, Seen.OTHER_LOG):
            text = f"it gave a receipt for #{head.n} of another history than this"
            proof = self.checked.proof_against(head)
            return self._at_fault(ServerContradiction(text, proof))
        return []

    def _keep_owed(self) -> None:
        """What is owed is for the next run, too; one that only reads in memory takes none back."""
        owed = self.checked.owed
        settled = self._kept_owed - owed if self._is_writer else frozenset()
        if settled or owed - self._kept_owed:
            more, rejoins = owed - self._kept_owed, self.record.rejoins
            self._vault.save_owed(self.tag, more, settled, rejoins)
            self._kept_owed = self._kept_owed - settled | owed

    # ---- writing ----

    def compose(
        self, texts: Sequence[str], reply_to: bytes | None = None, *, anyway: bool = False
    ) -> tuple[list[Outgoing], list[Composed]]:
        """Seal texts and commit them to the outbox, all or none.

        Raises TextTooLong, StoreTrouble, and ServerFault once the server contradicted itself.
        """
        self._renew(self._vault.room(self.tag) or self.record)  # another process may have found it
        if self.fault and not anyway:
            raise ServerFault(text=self.fault)
        return self._outbox.compose(self.record.name, texts, reply_to)

    def resume(self) -> list[Outgoing]:
        """What processes that are dead left in the outbox, and is not in the log."""
        return self._outbox.resume(self.record.left)

    def say_anew(self) -> tuple[list[Outgoing], list[Composed]]:
        """What was said before a rejoin, once the accepted log is read to its end."""
        if self.fault or self.is_slow or self.checked.n < self.tip:
            return [], []
        return self._outbox.say_anew(self.record.name)

    def refused_for_good(self, entry_id: bytes) -> tuple[list[Outgoing], list[Happening]]:
        """The broker says that it will never take this envelope: what goes out, what to tell."""
        outgoing, is_sound = self._outbox.refused(entry_id, self.record.name)
        if not is_sound:
            return outgoing, []
        text = "the server refuses a message of yours that is sound; it stays in your outbox"
        return outgoing, [Notice(0, State.GAP, Blame.UNKNOWN, text)]

    def receipt(self, receipt: Receipt) -> list[Happening]:
        """A STORED: what it confirms. Raises Malformed."""
        word, ids = receipt
        try:
            self.checked.check_receipt(word, ids, owed=not self.unconfirmed.isdisjoint(ids))
        except ServerContradiction as found:
            return self._at_fault(found)
        return [*self._outbox.confirm(enumerate(ids, word.first))]

    @property
    def unconfirmed(self) -> frozenset[bytes]:
        """Ids of our envelopes that no signed head covers yet."""
        return self._outbox.unconfirmed

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
        return self._outbox.beat(self.record.name, parts, leaving=leaving)

    def heard(self, envelope: bytes, now: float) -> list[Happening]:
        """A CAST: who it is from, what history it vouches for, whether it echoes us."""
        try:
            header, raw = open_envelope(self.keys, envelope, EnvelopeClass.CAST)
            beat = decode_cast(raw)
        except Unopenable:
            return []
        key = header.sender
        if key == self.own_key:
            before_us = header.timestamp_ms < self._began_ms
            return [*self.transcript.own_key_rows(beat.incarnation, 0, before_us=before_us)]
        head = seen_head(beat)
        has_rejoined = self.record.rejoins > 0 or self.record.accepted_n != 0
        verdict = self.checked.witness(head, keep=not has_rejoined)
        rows: list[Happening] = []
        if has_rejoined and verdict in (Seen.FORK, Seen.OTHER_LOG):
            rows += self._warn(key, verdict, [self._left_history(key, beat.name)])
        elif verdict not in (Seen.FITS, Seen.AHEAD):
            rows += self._warn(key, verdict, self.transcript.judged(key, verdict, head, 0))
        self._seen.shown(key, head)
        vouches = verdict is Seen.FITS and head.n > 0 and self.transcript.knows(key)
        change = self.presence.heard(key, beat, now, vouches=vouches, jitter=self._clock.chance())
        if change and not self._trust.is_muted(key):
            rows.append(Here(key, self._name_of(key, beat.name), change.here))
        return rows

    def _left_history(self, key: bytes, name: str) -> Notice:
        """Who has not rejoined yet goes on vouching for the history that this member has left."""
        text = f"{self._name_of(key, name)} still holds another history: the one you left, perhaps"
        return Notice(0, State.UNVERIFIED, Blame.NOBODY, text)

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
        n, promised_n = self.checked.n, self.checked.promised_n()
        late = self._delivery.tick(passed, n, promised_n, self.tip, following=following)
        self.transcript.caught_up = self.transcript.caught_up or self.is_slow
        if self.is_slow and not self.awaits_end:
            self._settle_accepted(caught_up=False)
        if now - self._owed_at >= _OWED_S:  # what is reached by then costs no commit
            self._owed_at = now
            self._keep_owed()
        return [*late, *self._staleness(now)]

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

    def seen_by(self, n: int) -> list[str]:
        """Which other members' programs have shown to hold our log up to place `n`."""
        names = ((key, self.presence.name_of(key)) for key in self._seen.keys(n))
        return sorted(self._name_of(key, name) for key, name in names)

    def verification_code(self, n: int) -> list[str]:
        """Eight words over the log up to its place n <= our end (half a second)."""
        expired = min(self.checked.expired, n)
        names: dict[bytes, str] = {}
        at = expired
        while at < n:
            entries = self._replica.read(self.tag, at + 1, n)
            for entry in entries:
                readable = self._opener.reopen(entry)
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


def in_words(seconds: float) -> str:
    """A duration as people say it: 40 s, 3 min, 2 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.0f} h"
