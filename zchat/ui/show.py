"""What happens in a room, as lines for people and as objects for scripts.

Rules of this file: text out, nothing printed; every field that others filled is made safe here; the
JSON fields are a promise (`zchat tail --help`): they are added to, never changed, under version v.
"""

from datetime import UTC, datetime

from zchat.member.rows import (
    Here,
    Joined,
    MemberView,
    Message,
    Notice,
    Row,
    ServerSays,
    State,
    Status,
)
from zchat.ui.safe import safe_json, safe_line, safe_lines

JSON_VERSION = 1
_LAST_MS = 253_402_000_000_000  # days before the end of year 9999, where datetime ends


def clock_time(ms: int) -> str:
    """HH:MM in local time."""
    return datetime.fromtimestamp(_bounded(ms) / 1000).astimezone().strftime("%H:%M")


def day(ms: int) -> str:
    """The local day, as in day separators."""
    return datetime.fromtimestamp(_bounded(ms) / 1000).astimezone().strftime("%A, %d %B %Y")


def iso_time(ms: int) -> str:
    """RFC 3339 in UTC, to the millisecond."""
    moment = datetime.fromtimestamp(_bounded(ms) / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _bounded(ms: int) -> int:
    """A sender's clock can say anything."""
    return min(ms, _LAST_MS)


def message_line(message: Message) -> str:
    """HH:MM NAME: TEXT, on one line whatever the text."""
    return "".join(message_parts(message))


def message_parts(message: Message) -> tuple[str, str]:
    """The same: who, and what."""
    return _prefix(message), safe_line(message.text) + _marks(message)


def message_rows(message: Message) -> list[tuple[str, str]]:
    """The same with the text's own line breaks; each row names its sender, so none can be faked."""
    prefix, texts = _prefix(message), safe_lines(message.text)
    texts[-1] += _marks(message)
    return [(prefix, text) for text in texts]


def _prefix(message: Message) -> str:
    time = clock_time(message.sent_at_ms)
    if message.status is Status.UNREADABLE:
        return f"{time} -- "
    return f"{time} {safe_line(message.shown)}: "


def _marks(message: Message) -> str:
    if message.status is Status.LATE:
        sent, arrived = clock_time(message.sent_at_ms), clock_time(message.arrived_ms)
        return f" [sent {sent}, arrived {arrived}]"
    return " [clock?]" if message.status is Status.CLOCK else ""


def other_line(row: Notice | Joined | Here) -> str:
    """Anything that is not a message, as one line."""
    if isinstance(row, Joined):
        return f"-- {safe_line(row.shown)} spoke here for the first time"
    if isinstance(row, Here):
        return f"-- {safe_line(row.name)} {'is here' if row.here else 'left'}"
    loud = "!! " if row.state in (State.FORKED, State.KEY_CHANGED) else "-- "
    return loud + safe_line(row.text)


_KEPT = "what you write is kept in the outbox, and goes out by itself"
_REFUSALS = {
    "storage": f"the server's store cannot take or give it just now; {_KEPT}",
    "room-full": f"this room is full on the server; {_KEPT} once there is room",
    "too-many-rooms": f"the server takes no more rooms from you; {_KEPT} once it does",
}


def refusal_lines(says: ServerSays) -> list[str]:
    """What the server said when it refused something, and in words of ours what that means."""
    said = safe_line(f"server says: {says.code} {says.text}".rstrip())
    meaning = _REFUSALS.get(says.code)
    return [said, meaning] if meaning else [said]


def row_json(room: str, row: Row) -> str:
    """One JSON object."""
    if isinstance(row, Message):
        return message_json(room, row)
    fields: dict[str, object] = {"v": JSON_VERSION, "room": room}
    if isinstance(row, Notice):
        fields |= {"n": row.n, "kind": "notice", "state": str(row.state), "text": row.text}
        fields["blame"] = row.blame.value
    elif isinstance(row, Joined):
        fields |= {"n": row.n, "kind": "join", "sender": row.sender.hex(), "name": row.name}
        fields["verified"] = row.verified
    else:
        fields |= {"n": 0, "kind": "here" if row.here else "left", "sender": row.key.hex()}
        fields["name"] = row.name
    return safe_json(fields)


def message_json(room: str, message: Message) -> str:
    """A message as one JSON object."""
    return safe_json(message_fields(room, message))


def message_fields(room: str, message: Message) -> dict[str, object]:
    """A message for scripts."""
    return {
        "v": JSON_VERSION,
        "room": room,
        "n": message.n,
        "id": message.id.hex(),
        "sender": message.sender.hex(),
        "name": message.name,
        "own": message.own,
        "verified": message.verified,
        "sent_at": iso_time(message.sent_at_ms),
        "received_at": iso_time(message.arrived_ms),
        "kind": str(message.kind),
        "text": message.text,
        "reply_to": message.reply_to.hex() if message.reply_to else None,
        "status": str(message.status),
    }


def member_fields(room: str, member: MemberView) -> dict[str, object]:
    """A member for scripts."""
    return {
        "v": JSON_VERSION,
        "room": room,
        "name": member.name,
        "key": member.key.hex(),
        "own": member.own,
        "verified": member.verified,
        "here": member.here,
        "first_n": member.first_n,
        "last_n": member.last_n,
        "last_at": iso_time(member.last_at_ms),
    }


def member_line(member: MemberView) -> str:
    """A member for people."""
    return "".join(member_parts(member))


def member_parts(member: MemberView) -> tuple[str, str]:
    """The same: the name, and what is known."""
    trust = "you" if member.own else "verified" if member.verified else "not verified"
    last = f"{day(member.last_at_ms)} {clock_time(member.last_at_ms)}"
    return safe_line(member.shown), f"  {trust}, last spoke {last}"
