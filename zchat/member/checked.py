"""The log as this member has checked it: chain, heads, lineage, and what contradicts them.

Theory of operation. The replica holds entries 1...n whose ids fold into a head that the server
signed. A segment moves it on only as a whole, ending at a signed head. Every other head of this
room that ever comes by (in a message, a beat, a receipt) must lie on the same chain; one that does
not, with a signature that holds, is the server's contradiction, and `proof_against` puts both heads
and the ids between them together as evidence.

Rules of this file: only what the server's own signature or its own frames show is called its fault;
docs/protocol.md section 9 numbers the rules of a segment. Nothing is changed by a check that fails.
"""

import itertools
from enum import Enum
from typing import NamedTuple

from zchat.errors import Malformed
from zchat.log.contract import Addition, Entry, Log
from zchat.protocol.envelope import envelope_id
from zchat.protocol.ledger import (
    NO_HEAD,
    NO_LOG,
    Contradiction,
    Genesis,
    Head,
    chain,
    head_holds,
    link,
    read_lineage,
)
from zchat.protocol.limits import MAX_BATCH_ENTRIES, SIGNATURE_BYTES
from zchat.protocol.wire import Entries, Item, Stored

_MOST_PROMISED = 64


class ServerContradiction(Exception):
    """The server contradicted itself; the proof is there where two signed heads show it."""

    def __init__(self, text: str, proof: Contradiction | None = None) -> None:
        self.text, self.proof = text, proof
        super().__init__(text)


class Step(Enum):
    """What a segment means for the replica."""

    ON = "entries to keep"
    IN_STEP = "nothing new"
    GAP = "entries were lost between: join again"
    BEHIND = "the server's end is below ours"
    GONE = "the server has no such room, but we have"
    NO_ROOM = "the server has no such room, and neither have we"
    NEW_LOG = "the server started a new log that goes on from ours"
    CONTRADICTION = "what the server shows cannot be"


class Segment(NamedTuple):
    """A checked ENTRIES: what it means, the new entries, the head they end at."""

    step: Step
    entries: list[Entry]
    head: Head
    births: tuple[bytes, ...] = ()
    kept_n: int = 0  # BEHIND: the server's end; NEW_LOG: how much of ours it keeps


class Seen(Enum):
    """How a counter-signed head lies to the checked log."""

    FITS = "fits"
    AHEAD = "above our end"
    FORK = "contradicts our log"
    OTHER_LOG = "another log of this room that ours does not name"
    LOST = "a part of a former log that a restore lost"
    FORGED = "the server never signed it"


class CheckedLog:
    """The checked end of one room's log, over its replica."""

    def __init__(self, room: bytes, log_key: bytes, replica: Log) -> None:
        self._room = room
        self._log_key = log_key
        self._replica = replica
        self._lineage: tuple[Genesis, ...] = ()
        self._ancestors: dict[bytes, list[bytes]] = {}
        self._compared: set[bytes] = set()  # former logs whose past was compared with its claim
        self._promised: set[Head] = set()  # signed heads that we cannot compare yet
        self._owed: set[Head] = set()  # of those what was given to us: nothing pushes it out
        self.log = NO_LOG
        self.head = NO_HEAD
        tip = replica.tip(room)
        if tip is not None:
            self._adopt(tip.births)
            self.head = Head.unpack(tip.head)

    @property
    def n(self) -> int:
        return self.head.n

    @property
    def hash(self) -> bytes:
        return self.head.hash if self.n else self.log

    @property
    def expired(self) -> int:
        return self.head.expired

    @property
    def replica(self) -> Log:
        return self._replica

    def _adopt(self, births: tuple[bytes, ...]) -> None:
        self._lineage = read_lineage(births, self._room, self._log_key)
        self.log = self._lineage[0].log

    # ---- segments ----

    def check(self, word: Entries, items: list[Item], *, asked_ids: bool) -> Segment:
        """What an ENTRIES means. Raises ServerContradiction; Malformed where it is no segment."""
        if not word.head:
            return self._no_room(word, items)
        head = Head.unpack(word.head)
        self._check_head(word, head)
        if self.log == NO_LOG:
            if word.first > 1 and not word.lineage:  # what names it was lost in between
                return self._gap(head)
            self._check_first_log(word)
        elif word.log != self.log:
            return self._new_log(word, head)
        if not items:
            return self._check_end(word, head)
        return self._check_entries(word, items, head, asked_ids=asked_ids)

    def _check_first_log(self, word: Entries) -> None:
        """What is owed to who begins anew stands in the log that is shown, or in a former one."""
        lineage = self._read_lineage(word)
        if lineage[0].log != word.log:
            raise ServerContradiction("its log is not the one it was born as")
        shown = {log.log for log in lineage}
        for head in self._owed:
            if head.log not in shown:
                raise ServerContradiction(f"it signed #{head.n} of another log of this room")

    def glimpse(self, word: Entries, items: list[Item]) -> list[Entry]:
        """Entries beyond our end that fold into a signed head, which our chain must reach.

        Raises ServerContradiction; Malformed where it is no page of our log beyond our end.
        """
        head = Head.unpack(word.head)
        if word.log != self.log or word.first <= self.n + 1 or not items:
            raise Malformed(reason="a page that was not asked for")
        self._check_head(word, head)
        if head.n != word.first + len(items) - 1:
            raise ServerContradiction("it sent entries that do not end at their head")
        entries = self._fold(word, items, head)
        self._owed.add(head)
        return entries

    def _no_room(self, word: Entries, items: list[Item]) -> Segment:
        if items or word.log != NO_LOG or word.tip:
            raise Malformed(reason="entries without a head")
        if self.log == NO_LOG and self.promised_n():
            raise ServerContradiction(f"it has no such room, and signed #{self.promised_n()} of it")
        step = Step.NO_ROOM if self.log == NO_LOG else Step.GONE
        return Segment(step, [], NO_HEAD)

    def _check_head(self, word: Entries, head: Head) -> None:
        if head.log != word.log or not head_holds(head, self._room, self._log_key):
            raise ServerContradiction("it sent a head that it did not sign for this log")
        if word.log == self.log and head.expired < min(self.expired, head.n):
            raise ServerContradiction("it claims to keep messages again that it had dropped")

    def _read_lineage(self, word: Entries) -> tuple[Genesis, ...]:
        try:
            return read_lineage(word.lineage, self._room, self._log_key)
        except Malformed as error:
            reason = error.facts["reason"]
            raise ServerContradiction(f"it cannot say where its log comes from: {reason}") from None

    def _new_log(self, word: Entries, head: Head) -> Segment:
        """Another log id: an honest restore names ours and where it stopped; else two logs."""
        lineage = self._read_lineage(word)
        if lineage[0].log != word.log:
            raise ServerContradiction("its log is not the one it was born as")
        parents = [log.parent for log in lineage]
        if self.log not in parents:
            raise ServerContradiction("it shows another log of this room that does not name ours")
        since = lineage[: parents.index(self.log) + 1]
        child = since[-1]
        if child.parent_n <= self.n and self.hash_at(child.parent_n) != child.parent_hash:
            raise ServerContradiction("its new log claims a past that ours never had")
        kept = min(self.n, *(log.parent_n for log in since))
        return Segment(Step.NEW_LOG, [], head, word.lineage, kept)

    def _check_end(self, word: Entries, head: Head) -> Segment:
        if head.n > self.n:
            self._promise(head)
            return Segment(Step.IN_STEP, [], head, word.lineage)
        self._compare(head)
        step = Step.BEHIND if head.n < self.n else Step.IN_STEP
        return Segment(step, [], head, word.lineage, head.n)

    def _check_entries(
        self, word: Entries, items: list[Item], head: Head, *, asked_ids: bool
    ) -> Segment:
        if head.n != word.first + len(items) - 1:
            raise ServerContradiction("it sent entries that do not end at their head")
        if word.first > self.n + 1:
            return self._gap(head)
        before = word.log if self.log == NO_LOG else self.hash_at(word.first - 1)
        if word.before != before:
            raise ServerContradiction(
                f"its log before #{word.first} is not the one it showed us",
                self._proof_of_past(word, list(map(_id_of, items)), head),
            )
        entries = self._fold(word, items, head)
        if self.n >= word.first:
            self._compare_overlap(word, entries, head)
        fresh = entries[max(0, self.n + 1 - word.first) :]
        self._check_ids(fresh, head, asked_ids=asked_ids)
        step = Step.ON if fresh else Step.IN_STEP
        return Segment(step, fresh, head, word.lineage)

    def _gap(self, head: Head) -> Segment:
        self._promise(head)
        return Segment(Step.GAP, [], head)

    def _fold(self, word: Entries, items: list[Item], head: Head) -> list[Entry]:
        previous = word.before
        entries = []
        for n, item in enumerate(items, word.first):
            entry_id = _id_of(item)
            previous = link(previous, n, entry_id)
            entries.append(Entry(n, entry_id, previous, item.envelope))
        if previous != head.hash:
            raise ServerContradiction(f"entries up to #{head.n} do not fit the head it signed")
        return entries

    def _compare_overlap(self, word: Entries, entries: list[Entry], head: Head) -> None:
        known = [entry for entry in entries if entry.n <= self.n]
        if known[-1].hash != self.hash_at(known[-1].n):
            raise ServerContradiction(
                f"it shows another #{known[-1].n} than before",
                self._proof_of_past(word, [entry.id for entry in entries], head),
            )

    def _check_ids(self, entries: list[Entry], head: Head, *, asked_ids: bool) -> None:
        ids = [entry.id for entry in entries]
        repeated = len(set(ids)) < len(ids) or any(
            self._replica.place_of(self._room, entry_id) for entry_id in ids
        )
        if repeated:
            raise ServerContradiction(
                f"it stored a message twice (up to #{head.n})", self._proof_of_repetition(head, ids)
            )
        bare = sum(entry.envelope is None and entry.n > head.expired for entry in entries)
        if bare > asked_ids:  # asked for was the id of one entry that cannot be received
            raise ServerContradiction("it holds back messages that it has not dropped")

    def _proof_of_past(self, word: Entries, ids: list[bytes], head: Head) -> Contradiction | None:
        """What it sent folds from another hash at our end than ours, or from one below."""
        if head.n <= self.n:
            return self.proof_against(head)
        known = self.n + 1 - word.first
        start = [word.before, *chain(word.before, word.first, ids[:known])][-1]
        return self._contradiction(head, ids[known:], start)

    def _proof_of_repetition(self, head: Head, fresh: list[bytes]) -> Contradiction:
        """Both places of the id must lie between the heads: where one is known, from h0 on."""
        if len(set(fresh)) < len(fresh):
            return self._contradiction(head, fresh, b"")
        ids = (*(entry.id for entry in self._read(1, self.n)), *fresh)
        return Contradiction(self._room, self._log_key, _start(head.log), head, ids)

    def _contradiction(self, later: Head, ids: list[bytes], start: bytes) -> Contradiction:
        """Evidence between our end and a head beyond it."""
        own = self.head if self.n else _start(later.log)
        return Contradiction(self._room, self._log_key, own, later, tuple(ids), start)

    def advance(self, segment: Segment, kept: list[Entry]) -> None:
        """Keep a checked segment: durable in the replica, then ours.

        `kept` are its entries as they shall be kept (without envelopes that do not open).
        """
        births = segment.births if self.log == NO_LOG else ()
        self._replica.append(
            [
                Addition(
                    room=self._room,
                    entries=kept,
                    log=segment.head.log,
                    births=births,
                    head=segment.head.packed,
                    expired=segment.head.expired,
                )
            ]
        )
        if births:
            self._adopt(births)
        self.head = segment.head

    def refresh(self, segment: Segment) -> None:
        """A head of our own end says anew which envelopes the server still keeps."""
        if segment.head.n == self.n and segment.head.expired > self.expired:
            self.advance(segment, [])

    def settle(self) -> None:
        """Compare what waited for the end now reached: heads heard of earlier, a parent's past.

        Raises ServerContradiction; called again, it goes on with what is left.
        """
        for promised in sorted(self._promised | self._owed, key=lambda head: head.n):
            if not self._may_reach(promised):
                is_owed = promised in self._owed
                self._promised.discard(promised)
                self._owed.discard(promised)
                self._compare(promised)
                if is_owed and self.judge(promised, self.n + 1) is Seen.LOST:
                    raise ServerContradiction(f"it lost #{promised.n} of what it had signed to us")
        self._check_ancestors()

    def _compare(self, head: Head) -> None:
        """A signed head at or below our end, or of a former log, must lie on our chain."""
        if self.judge(head, self.n + 1) in (Seen.FORK, Seen.OTHER_LOG):
            raise ServerContradiction(
                f"it signed another history up to #{head.n}", self.proof_against(head)
            )

    def proof_against(self, head: Head) -> Contradiction | None:
        """Evidence from a signed head of our log, at or below our end, that is not on our chain."""
        if not 0 < head.n <= self.n or head.log != self.log:
            return None
        if head.n == self.n:
            return Contradiction(self._room, self._log_key, head, self.head)
        ids = tuple(entry.id for entry in self._read(head.n + 1, self.n))
        start = self.hash_at(head.n)
        return Contradiction(self._room, self._log_key, head, self.head, ids, start)

    def _read(self, first: int, last: int) -> list[Entry]:
        entries: list[Entry] = []
        while first <= last:
            entries += self._replica.read(self._room, first, last)
            first = entries[-1].n + 1
        return entries

    def hash_at(self, n: int) -> bytes:
        """h[n] of the checked log, 0 <= n <= our end."""
        if n == 0:
            return self.log
        return self.hash if n == self.n else self._replica.hash_at(self._room, n)

    # ---- heads that others show ----

    def judge(self, seen: Head, place: int) -> Seen:
        """How the head in an entry at `place` lies to our log (section 9's table)."""
        if seen.n == 0:
            return Seen.FITS
        if seen.log == self.log and seen.n < place:
            if seen.hash == self.hash_at(seen.n):
                return Seen.FITS
            return self._if_signed(seen, Seen.FORK)
        if seen.log == self.log:
            return self._if_signed(seen, Seen.FORK)
        end = self._ancestor_end(seen.log)
        if end is None:
            return self._if_signed(seen, Seen.OTHER_LOG)
        if seen.n > end:
            return self._if_signed(seen, Seen.LOST)
        if seen.n < place and seen.hash == self._ancestor_hash(seen.log, seen.n):
            return Seen.FITS
        return self._if_signed(seen, Seen.FORK)

    @property
    def owed(self) -> frozenset[Head]:
        """Heads of receipts and glimpses beyond our end: the log must reach them."""
        return frozenset(self._owed)

    def witness(self, head: Head, *, keep: bool = True, owed: bool = False) -> Seen:
        """A head heard outside the log (a beat, a receipt): compared now, or when we get there.

        Not then, if it is not to be kept; in any case then, if it is `owed` to us: of the others,
        whoever sends many pushes out some.
        """
        if head.n == 0:
            return Seen.FITS
        if self.log != NO_LOG and not self._may_reach(head):
            return self.judge(head, self.n + 1)
        if not head_holds(head, self._room, self._log_key):
            return Seen.FORGED
        if owed:
            self._owed.add(head)
        elif keep:
            self._promise(head)
        return Seen.AHEAD

    def _may_reach(self, head: Head) -> bool:
        """Whether it stands beyond our end, in our log or in what ours keeps of a former one."""
        shared = self._ancestor_end(head.log)
        ahead = head.log == self.log or (shared is not None and head.n <= shared)
        return ahead and head.n > self.n

    def _promise(self, head: Head) -> None:
        """Remember a head beyond our end; of too many, those that we get to first."""
        self._promised.add(head)
        if len(self._promised) > _MOST_PROMISED:
            self._promised.discard(max(self._promised, key=lambda head: head.n))

    def promised_n(self) -> int:
        """The highest place the server is known to have signed beyond our end; 0 if none."""
        return max((head.n for head in self._promised | self._owed), default=0)

    def check_receipt(self, stored: Stored, ids: list[bytes], *, owed: bool) -> None:
        """A receipt's ids must fold into its signed head. Raises ServerContradiction.

        `owed`: it is for a post of ours that had none yet, so there are no more than posts.
        """
        head = Head.unpack(stored.head)
        folded = chain(stored.before, stored.first, ids)
        holds = (
            head.log == stored.log
            and head.n == stored.first + len(ids) - 1
            and folded[-1:] == [head.hash]
            and head_holds(head, self._room, self._log_key)
        )
        if not holds:
            raise ServerContradiction("it sent a receipt that does not hold")
        verdict = self.witness(head, owed=owed)
        if verdict in (Seen.FORK, Seen.OTHER_LOG):
            raise ServerContradiction(
                f"its receipt names another history up to #{head.n}", self.proof_against(head)
            )
        if verdict is Seen.LOST:
            raise ServerContradiction(f"its receipt for #{head.n} is of a log that it gave up")

    def _if_signed(self, head: Head, verdict: Seen) -> Seen:
        return verdict if head_holds(head, self._room, self._log_key) else Seen.FORGED

    # ---- former logs ----

    def _ancestor_end(self, log: bytes) -> int | None:
        """Up to which place a former log has the same ids as ours; None if it is none of ours."""
        end = None
        for younger, older in itertools.pairwise(self._lineage):
            end = younger.parent_n if end is None else min(end, younger.parent_n)
            if older.log == log:
                return end
        return None

    def _ancestor_hash(self, log: bytes, n: int) -> bytes:
        """h[n] of a former log: its own id folded with the ids that we share with it."""
        hashes = self._ancestors.setdefault(log, [log])
        while len(hashes) <= n:
            last = min(n, len(hashes) + MAX_BATCH_ENTRIES - 1)
            ids = [entry.id for entry in self._read(len(hashes), last)]
            hashes += chain(hashes[-1], len(hashes), ids)
        return hashes[n]

    def _check_ancestors(self) -> None:
        """A new log's claim on its parent's past, as soon as we hold all of that past."""
        for younger, older in itertools.pairwise(self._lineage):
            end = self._ancestor_end(older.log)
            if end != younger.parent_n or end > self.n or older.log in self._compared:
                continue
            self._compared.add(older.log)
            if self._ancestor_hash(older.log, end) != younger.parent_hash:
                raise ServerContradiction("its log claims a past that it does not hold")


def _id_of(item: Item) -> bytes:
    return item.bare_id if item.envelope is None else envelope_id(item.envelope)


def _start(log: bytes) -> Head:
    """The head at 0, which nobody need sign: h0 is the log id."""
    return Head(log, 0, log, 0, bytes(SIGNATURE_BYTES))
