"""What a member believes after each entry: messages, members, gaps, whose fault.

Theory of operation. `apply` is called once per entry of the checked log, in its order, and answers
with the rows to show. Everything it remembers is a function of the entries so far, so replaying a
replica gives the same rows as living through it, but for what depends on this machine's own clock
(late, clock), which is kept with the entry.

Rules of this file: log order is the only order; timestamps decide nothing; a gap, a repetition or
an entry that does not open is never called the server's fault, for any member could cause it.
"""

from typing import NamedTuple, Protocol

from zchat.log.contract import Entry
from zchat.member.checked import CheckedLog, Seen
from zchat.member.names import NameBook, shown_name
from zchat.member.numbers import Incarnation, Missing
from zchat.member.rows import (
    Blame,
    Joined,
    Kind,
    MemberView,
    Message,
    Notice,
    Row,
    State,
    Status,
    accusation,
)
from zchat.protocol.body import Logged, Text, Unknown, Void, seen_head
from zchat.protocol.envelope import Header
from zchat.protocol.ledger import Head
from zchat.protocol.limits import CLOCK_TOLERANCE_MS


class Readable(NamedTuple):
    """An entry's envelope, opened and decoded."""

    header: Header
    body: Logged


class Trust(Protocol):
    """What this member knows of keys beyond the log."""

    def is_verified(self, key: bytes) -> bool:
        """Whether this key was compared by voice."""
        ...

    def is_muted(self, key: bytes) -> bool:
        """Whether the user does not want to read this key."""
        ...

    def wrote(self, incarnation: bytes) -> bool:
        """Whether this profile noted this incarnation of its own before using it."""
        ...


class _Member:
    """A public key, and what this room knows of it."""

    def __init__(self, key: bytes, n: int) -> None:
        self.key = key
        self.first_n = self.last_n = n
        self.last_at_ms = 0
        self.name = ""
        self.numbers: dict[bytes, Incarnation] = {}
        self.seen_n: dict[bytes, int] = {}
        self.voids: set[tuple[bytes, int]] = set()


class Transcript:
    """The readable view of one room."""

    def __init__(self, own_key: bytes, checked: CheckedLog, trust: Trust) -> None:
        self._own_key = own_key
        self._checked = checked
        self._trust = trust
        self._names = NameBook()
        self._members: dict[bytes, _Member] = {}
        self._warned: set[object] = set()
        self._gone_n = 0  # the last place that had expired before we saw what stood there
        self.caught_up = False

    # ---- one entry ----

    def apply(self, entry: Entry, readable: Readable | None) -> list[Row]:
        """The rows of one entry. `readable` is None where its envelope is gone or does not open."""
        if readable is None:
            return self._unreadable(entry)
        header, body = readable
        is_new = header.sender not in self._members
        member = self._members.setdefault(header.sender, _Member(header.sender, entry.n))
        member.last_n, member.last_at_ms = entry.n, header.timestamp_ms
        rows = self._name_rows(member, body.name, entry.n)
        if is_new:
            verified = self._trust.is_verified(member.key)
            rows.insert(0, Joined(entry.n, member.key, body.name, self.shown(member.key), verified))
        if member.key == self._own_key:
            rows += self.own_key_rows(body.incarnation, entry.n)
        rows += self._seen_rows(member, body, entry.n)
        counts, number_rows = self._number(member, body, entry.n)
        rows += number_rows
        if counts and not isinstance(body, Void) and not self._trust.is_muted(member.key):
            rows.append(self._message(member, entry, header, body))
        return rows

    def glimpse(self, entry: Entry, readable: Readable | None) -> Message | None:
        """A message of people far ahead of what was applied: nothing is remembered of it."""
        if readable is None or not isinstance(readable.body, Text):
            return None
        header, body = readable
        if self._trust.is_muted(header.sender):
            return None
        trusted = header.sender == self._own_key or self._trust.is_verified(header.sender)
        shown = shown_name(header.sender, body.name, trusted=trusted)
        return self._message(_Member(header.sender, entry.n), entry, header, body)._replace(
            shown=shown, status=Status.STORED
        )

    def _unreadable(self, entry: Entry) -> list[Row]:
        if entry.n <= self._checked.expired:
            self._gone_n = entry.n
            last = self._checked.expired
            text = (
                f"messages #{entry.n}-#{last} are no longer kept by the server, "
                "and were never shown here"
            )
            notice = Notice(entry.n, State.GAP, Blame.UNKNOWN, text)
            return self._warn_once(("expired", last), notice)
        text = f"unreadable entry #{entry.n}, from a member or the server"
        status, kind = Status.UNREADABLE, Kind.UNREADABLE
        at = entry.arrived_ms
        return [
            Message(entry.n, entry.id, b"", "", "", False, False, kind, text, None, at, at, status)
        ]

    def _message(self, member: _Member, entry: Entry, header: Header, body: Logged) -> Message:
        if isinstance(body, Unknown):
            kind, reply_to = Kind.UNKNOWN, None
            text = f"a message this version cannot show ({body.kind})"
        else:
            assert isinstance(body, Text)
            kind, text, reply_to = Kind.TEXT, body.text, body.reply_to
        return Message(
            n=entry.n,
            id=entry.id,
            sender=member.key,
            name=body.name,
            shown=self.shown(member.key),
            own=member.key == self._own_key,
            verified=self._trust.is_verified(member.key),
            kind=kind,
            text=text,
            reply_to=reply_to,
            sent_at_ms=header.timestamp_ms,
            arrived_ms=entry.arrived_ms,
            status=_status(entry, header.timestamp_ms),
        )

    def _warn_once(self, what: object, notice: Notice) -> list[Row]:
        if what in self._warned:
            return []
        self._warned.add(what)
        return [notice]

    # ---- names ----

    def _name_rows(self, member: _Member, name: str, n: int) -> list[Row]:
        former, member.name = member.name, name
        if former == name:
            return []
        rows: list[Row] = []
        if former:
            text = f"{shown_name(member.key, former, trusted=False)} is now called {name}"
            rows.append(Notice(n, State.OK, Blame.NOBODY, text))
        owner, owners_name = self._names.claim(member.key, name)
        if owner == member.key:
            return rows
        shown = shown_name(member.key, name, trusted=False)
        known = shown_name(owner, owners_name, trusted=False)
        if self._trust.is_verified(owner):
            text = f"{shown} is not the {owners_name} you verified"
        elif owners_name == name:
            text = f"{shown} is another {name}, not {known}"
        else:
            text = f"{shown} looks like {known}, and is somebody else"
        rows.append(Notice(n, State.KEY_CHANGED, Blame.UNKNOWN, text))
        return rows

    def shown(self, key: bytes) -> str:
        """A member's name as screens show it."""
        member = self._members.get(key)
        name = member.name if member else "somebody"
        trusted = key == self._own_key or self._trust.is_verified(key)
        return shown_name(key, name, trusted=trusted)

    # ---- one's own key ----

    def own_key_rows(self, incarnation: bytes, n: int, *, before_us: bool = False) -> list[Row]:
        """Our own key spoke, in entry n or in a beat (n = 0): was it this profile?

        `before_us`: in a beat that was signed before this run, and may have been recorded.
        """
        if self._trust.wrote(incarnation):
            return []
        is_now = self.caught_up and not before_us
        if is_now:
            text = "your key sent a message this device did not write: somebody has your keys"
        else:
            text = "this profile was used elsewhere, or restored from a copy"
        notice = Notice(n, State.KEY_CHANGED, Blame.UNKNOWN, text)
        return self._warn_once(("own", incarnation, is_now), notice)

    # ---- the history that an author counter-signed ----

    def _seen_rows(self, member: _Member, body: Logged, n: int) -> list[Row]:
        head = seen_head(body)
        rows = self.judged(member.key, self._checked.judge(head, n), head, n)
        former = member.seen_n.get(body.incarnation, 0)
        member.seen_n[body.incarnation] = max(former, head.n)
        if head.n < former:
            text = f"{self.shown(member.key)} claims to have seen less than before (#{n})"
            rows.append(Notice(n, State.UNVERIFIED, Blame.AUTHOR, text))
        return rows

    def judged(self, key: bytes, verdict: Seen, head: Head, n: int) -> list[Row]:
        """The rows that a counter-signed head gives; SERVER only where its signature holds."""
        who = self.shown(key)
        if verdict is Seen.FORK:
            text = f"it showed {who} another history (from #{head.n} or before)"
            return [accusation(text, n, self._checked.proof_against(head))]
        if verdict is Seen.OTHER_LOG:
            return [accusation(f"it showed {who} another log of this room, unknown to ours", n)]
        if verdict is Seen.FORGED:
            where = f" (#{n})" if n else ""
            text = f"{who} claims a history the server never signed{where}"
            return [Notice(n, State.UNVERIFIED, Blame.AUTHOR, text)]
        if verdict is Seen.LOST:
            text = f"{who} saw #{head.n} of a former log, which the server lost"
            return self._warn_once(
                ("lost", head.log, head.n), Notice(n, State.GAP, Blame.UNKNOWN, text)
            )
        return []

    # ---- numbers ----

    def _number(self, member: _Member, body: Logged, n: int) -> tuple[bool, list[Row]]:
        """Whether this entry counts as a message, and what its number tells."""
        numbers = member.numbers.setdefault(body.incarnation, Incarnation())
        taken = numbers.take(body.seq, n)
        number = (body.incarnation, body.seq)
        if taken.repeats:
            return False, self._repeated(member, body, taken.repeats, n)
        if isinstance(body, Void):
            member.voids.add(number)
        if taken.missing and taken.missing.after < self._gone_n:
            numbers.excuse(taken.missing)
        elif taken.missing:
            return True, [self._missing(member, taken.missing, n)]
        return True, []

    def _repeated(self, member: _Member, body: Logged, first_n: int, n: int) -> list[Row]:
        """Two entries of one number: the lower place counts.

        No verdict where one is a Void: a server may have refused a message and stored it all the
        same, and the author then filled the number.
        """
        if isinstance(body, Void) or (body.incarnation, body.seq) in member.voids:
            return []
        who = self.shown(member.key)
        text = f"{who} sent two different messages #{body.seq}: #{first_n} counts, #{n} does not"
        return [Notice(n, State.GAP, Blame.AUTHOR, text)]

    def _missing(self, member: _Member, missing: Missing, n: int) -> Notice:
        which = f"#{missing.first}"
        if missing.size > 1:
            which += f"-#{missing.last}"
        messages = "1 message" if missing.size == 1 else f"{missing.size} messages"
        who = self.shown(member.key)
        text = f"{messages} from {who} missing ({which}): never sent or not stored"
        return Notice(n, State.GAP, Blame.UNKNOWN, text)

    # ---- the whole ----

    def missing_count(self) -> int:
        """How many numbers of all authors never came."""
        return sum(
            numbers.missing_count()
            for member in self._members.values()
            for numbers in member.numbers.values()
        )

    def knows(self, key: bytes) -> bool:
        """Whether this key has spoken here."""
        return key in self._members

    def members(self, here: frozenset[bytes]) -> list[MemberView]:
        """Who has spoken here, in the order of their first entry; `here` are heard just now."""
        return [
            MemberView(
                key=member.key,
                name=member.name,
                shown=self.shown(member.key),
                own=member.key == self._own_key,
                verified=self._trust.is_verified(member.key),
                here=member.key in here or member.key == self._own_key,
                first_n=member.first_n,
                last_n=member.last_n,
                last_at_ms=member.last_at_ms,
            )
            for member in self._members.values()
        ]


def _status(entry: Entry, sent_at_ms: int) -> Status:
    if sent_at_ms > entry.arrived_ms + CLOCK_TOLERANCE_MS:
        return Status.CLOCK
    if entry.live and entry.arrived_ms > sent_at_ms + CLOCK_TOLERANCE_MS:
        return Status.LATE
    return Status.STORED
