"""What `--json` prints, object by object: `zchat help json` is made of it.

Rules of this file: under one version fields are added, never changed or taken away; a test holds
every object against what the commands print.
"""

import textwrap

# hex and time (RFC 3339, UTC) are texts. With ? it may be null; in brackets it is an array.
_MESSAGE = {
    "v": "int",
    "room": "text",
    "n": "int",
    "id": "hex",
    "sender": "hex",
    "name": "text",
    "own": "bool",
    "verified": "bool",
    "sent_at": "time",
    "received_at": "time",
    "kind": "text",
    "text": "text",
    "reply_to": "hex?",
    "status": "text",
}
_ABOUT = {"v": "int", "room": "text", "n": "int", "kind": "text"}

OBJECTS: dict[str, dict[str, str]] = {
    "tail": _MESSAGE,
    "tail: notice": {**_ABOUT, "state": "text", "text": "text", "blame": "text"},
    "tail: join": {**_ABOUT, "sender": "hex", "name": "text", "verified": "bool"},
    "tail: here": {**_ABOUT, "sender": "hex", "name": "text"},
    "search": {
        name: kind for name, kind in _MESSAGE.items() if name not in ("received_at", "status")
    },
    "members": {
        "v": "int",
        "room": "text",
        "name": "text",
        "key": "hex",
        "own": "bool",
        "verified": "bool",
        "here": "bool",
        "first_n": "int",
        "last_n": "int",
        "last_at": "time",
    },
    "verify": {"v": "int", "room": "text", "n": "int", "words": "[text]"},
    "rooms": {
        "v": "int",
        "room": "text",
        "member": "text",
        "name": "text",
        "server": "text",
        "tag": "hex",
        "remembered": "bool",
        "fault": "text",
    },
    "whoami": {
        "v": "int",
        "member": "text",
        "room": "text",
        "name": "text",
        "key": "hex?",
        "kept": "text?",
    },
    "invite": {"v": "int", "room": "text", "member": "text", "invite": "text"},
    "evidence check": {
        "v": "int",
        "kind": "text",
        "proof": "text",
        "log_key": "hex",
        "tag": "hex",
        "earlier": "int",
        "later": "int",
        "rooms": "[text]",
    },
    "check: export": {
        "v": "int",
        "kind": "text",
        "room": "text",
        "tag": "hex",
        "log_key": "hex",
        "signer": "text",
        "first": "int",
        "last": "int",
        "texts": "bool",
        "messages": "int?",
        "members": "int?",
        "others": "int?",
        "missing": "int?",
        "before": "int?",
        "bare": "int",
        "words": "[text]",
        "findings": "[object]",
        "compared": "[object]",
    },
    "config show": {
        "v": "int",
        "kind": "text",
        "name": "text",
        "value": "any",
        "origin": "text",
    },
    "doctor": {"v": "int", "subject": "text", "wrong": "text?", "remedy": "text?"},
    "broker status": {
        "v": "int",
        "running": "bool",
        "invite": "text?",
        "rooms": "int",
        "messages": "int",
        "bytes": "int",
        "store": "text",
    },
    "broker audit": {"v": "int", "table": "text", "row": "object"},
    "lab list": {"v": "int", "lie": "text", "parameters": "object", "text": "text"},
    "bench": {
        "v": "int",
        "members": "int",
        "messages_per_s": "number",
        "deliveries_per_s": "number",
        "p50_ms": "number?",
        "p99_ms": "number?",
        "delivered": "number",
    },
}

_TIED = "~"  # a space at which no row is broken

_NOTES = """\
A message's kind is text, unknown (of a newer version) or unreadable; its status stored, late, clock
or unreadable. A notice (with --all, or of a fault) has a state: ok unverified stale gap late
key-changed forked; its blame is nobody unknown author server. Of join, here and left, kind says
which it is; n is 0 where no entry is meant.

Of evidence check, kind is contradiction (proof is P1, P2 or P3 of docs/protocol.md; rooms are yours
at that server) or export. Of an export, signer says whose log_key it is: of your invite, of the
room's origin, or unknown; without the room's key texts is false, and what needs it is null. A
finding has n, blame and text. compared has one object for each log of the room that a member holds
here: member, verdict (same, other, lost or unknown), n (where that log ends), proof (a file).

    zchat tail ops -f --json | jq -r 'select(.kind == "text") | .text'"""


def explained() -> str:
    """All of it, for people."""
    paragraphs = [
        'One object a line, ASCII only; under "v": 1 fields are added, never changed.\n'
        "Types: hex and time (RFC 3339, UTC) are texts; with ? it may be null; [] is an array.\n"
        "Errors are no objects: they stand on stderr, and the exit code says which.",
    ]
    paragraphs.append("\n".join(_row(name, fields) for name, fields in OBJECTS.items()))
    return "\n\n".join([*paragraphs, _NOTES])


def _row(name: str, fields: dict[str, str]) -> str:
    said = ", ".join(f"{field}{_TIED}{kind}" for field, kind in fields.items())
    rows = textwrap.fill(f"{name:<15}{said}", 80, subsequent_indent=" " * 15)
    return rows.replace(_TIED, " ")
