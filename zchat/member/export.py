"""A room's log as a file with proof: the lines of an export, from what a member keeps.

Rules of this file: nothing is written and nothing is asked of a server; an entry at a time, however
long the room; what stands beside an envelope is a function of the envelope alone.
"""

from collections.abc import Iterator

from zchat.errors import StoreUnreadable, Unopenable
from zchat.log.contract import Entry, Log, Tip
from zchat.member.profile import Opened
from zchat.protocol.body import Logged, Text, Unknown, decode_logged
from zchat.protocol.envelope import Header, take_apart
from zchat.protocol.export import Closing, Line, Opening, pack
from zchat.protocol.seal import reopen_envelope


def beside(entry: Entry, header: Header, body: Logged) -> Line:
    """The line of an entry whose envelope opened."""
    return Line(
        n=entry.n,
        id=entry.id.hex(),
        hash=entry.hash.hex(),
        envelope=entry.envelope,
        sender=header.sender.hex(),
        name=body.name,
        incarnation=body.incarnation.hex(),
        seq=body.seq,
        sent_ms=header.timestamp_ms,
        kind=kind_of(body),
        text=body.text if isinstance(body, Text) else None,
        reply_to=body.reply_to.hex() if isinstance(body, Text) and body.reply_to else None,
    )


def kind_of(body: Logged) -> str:
    """The kind as the body itself has it."""
    if isinstance(body, Unknown):
        return body.kind
    return "text" if isinstance(body, Text) else "void"


class Proof:
    """What of a room is exported with proof: `first` to `last`, in `lines`."""

    def __init__(self, opened: Opened, replica: Log, since_ms: int = 0) -> None:
        self._opened = opened
        self._replica = replica
        self._tag = opened.keys.tag
        self._tip = replica.tip(self._tag)
        self.last = self._tip.n if self._tip else 0
        self.first = self._first_since(since_ms) if since_ms else 1

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to prove."""
        return self.first > self.last

    def _entries(self, first: int) -> Iterator[Entry]:
        while first <= self.last:
            entries = self._replica.read(self._tag, first, self.last)
            yield from entries
            first = entries[-1].n + 1

    def _first_since(self, since_ms: int) -> int:
        """The first place whose author says that it was sent since then."""
        for entry in self._entries(1):
            if entry.envelope and take_apart(entry.envelope).header.timestamp_ms >= since_ms:
                return entry.n
        return self.last + 1

    def lines(self) -> Iterator[bytes]:
        """The lines of the file, each with its end. Raises StoreUnreadable."""
        assert self._tip is not None and not self.is_empty
        yield pack(self._opening(self._tip))
        for entry in self._entries(self.first):
            yield pack(self._line(entry))
        yield pack(Closing(head=self._tip.head))

    def _opening(self, tip: Tip) -> Opening:
        record = self._opened.record
        before = self._replica.hash_at(self._tag, self.first - 1)
        return Opening(
            room=record.room,
            origin=(record.origin.curve_key.hex(), record.origin.log_key.hex()),
            tag=self._tag.hex(),
            log_key=record.server.keys.log_key.hex(),
            lineage=tip.births,
            first=self.first,
            last=self.last,
            before=before.hex(),
        )

    def _line(self, entry: Entry) -> Line:
        if entry.envelope is None:
            return Line(n=entry.n, id=entry.id.hex(), hash=entry.hash.hex(), envelope=None)
        try:
            header, raw = reopen_envelope(self._opened.keys, entry.envelope, entry.id)
            return beside(entry, header, decode_logged(raw))
        except Unopenable:
            path = self._opened.vault.replica_path(self._tag)
            raise StoreUnreadable(path=path, reason=f"entry #{entry.n} is damaged") from None
