"""What a member's program can say: messages and notices, and the words for whose fault it is.

Rules of this file: types only. Every text in here may hold what others wrote; it reaches a screen
through ui/safe.py and in no other way. The state ids are the same in every face and in the docs.
"""

from enum import Enum, StrEnum
from typing import NamedTuple

from zchat.protocol.ledger import Contradiction


class Blame(Enum):
    """Whose fault. Only SERVER is ever shown as the server's, and ends a command with exit 4."""

    NOBODY = "nobody"
    UNKNOWN = "unknown"
    AUTHOR = "author"
    SERVER = "server"


class State(StrEnum):
    """The seven states a room or a row can be in."""

    OK = "ok"
    UNVERIFIED = "unverified"
    STALE = "stale"
    GAP = "gap"
    LATE = "late"
    KEY_CHANGED = "key-changed"
    FORKED = "forked"


class Status(StrEnum):
    """How a message stands."""

    STORED = "stored"
    PENDING = "pending"
    LATE = "late"
    CLOCK = "clock"
    UNREADABLE = "unreadable"


class Kind(StrEnum):
    """What a row is about."""

    TEXT = "text"
    UNKNOWN = "unknown"  # a body of a kind this version cannot show
    UNREADABLE = "unreadable"


class Message(NamedTuple):
    """An entry of the log as one shows it. `name` is the author's own, `shown` carries its mark."""

    n: int
    id: bytes
    sender: bytes
    name: str
    shown: str
    own: bool
    verified: bool
    kind: Kind
    text: str
    reply_to: bytes | None
    sent_at_ms: int
    arrived_ms: int
    status: Status


class Notice(NamedTuple):
    """Something to know that nobody said. `n` is the entry it is about, 0 if none."""

    n: int
    state: State
    blame: Blame
    text: str
    proof: Contradiction | None = None


class Joined(NamedTuple):
    """Somebody spoke here for the first time, with entry `n`."""

    n: int
    sender: bytes
    name: str
    shown: str
    verified: bool


class Here(NamedTuple):
    """Somebody came (`here`) or left."""

    key: bytes
    name: str
    here: bool


Row = Message | Notice | Joined | Here


ACCUSES = "the server contradicted itself: "


def accusation(text: str, n: int = 0, proof: Contradiction | None = None) -> Notice:
    """The server's fault, and nobody else's; `text` says what "it" did, `n` at which entry."""
    return Notice(n, State.FORKED, Blame.SERVER, ACCUSES + text, proof)


def is_fault(what: object) -> bool:
    """Whether this accuses the server: the only thing that ends a command with exit 4."""
    return isinstance(what, Notice) and what.blame is Blame.SERVER


class Confirmed(NamedTuple):
    """A signed head covers one's own envelope; `n` is its place."""

    id: bytes
    n: int


class Progress(NamedTuple):
    """The checked log ends at `n`, the server's at `tip`; `caught_up` when they meet."""

    n: int
    tip: int
    caught_up: bool


class Glimpse(NamedTuple):
    """The newest messages, ahead of the checked log: they opened, their past is not checked yet."""

    messages: tuple[Message, ...]
    n: int  # the place they end at, and its hash: our chain must get there
    hash: bytes


class Composed(NamedTuple):
    """One's own message is in the outbox, not yet confirmed."""

    id: bytes
    name: str
    text: str


class ServerSays(NamedTuple):
    """The broker refused something; `text` is its own."""

    code: str
    text: str


class Connection(NamedTuple):
    """The connection to the server carries, or does not; `reason` is ours."""

    online: bool
    reason: str


Happening = Row | Confirmed | Progress | Glimpse | Composed | ServerSays | Connection


class Event(NamedTuple):
    """Something happened in a room (empty tag: in all of them)."""

    room: bytes
    what: Happening


class MemberView(NamedTuple):
    """A member as one lists it."""

    key: bytes
    name: str
    shown: str
    own: bool
    verified: bool
    here: bool
    first_n: int
    last_n: int
    last_at_ms: int
