"""Write the test vectors: `python -m tests.make_vectors` makes tests/vectors/*.json anew.

The rules of this file:

- Every value comes from the program's own code, from fixed inputs and fixed randomness; the same
  program writes the same bytes. What the program does not hand out (a digest on the way to a
  signature, say) is computed with its `digest` and its labels.
- Every outcome is stated here by hand, from docs/protocol.md: "ok", the name of the check that
  fails, "malformed" for bytes that are no message, head, batch or birth, "disconnect" for an
  answer that ends the connection, "newer" for an invite of another version, a verdict on a `seen`
  ("fork", "other log", "lost", "forged"), "refused" for all else.
- A file is a list of cases: a name, inputs, intermediate values, the outcome. A case that fails
  differs from a good one in one thing, which its name says.
- Bytes are hex. Long bytes with repeats are a list whose items are hex, or [hex, times]; a text
  of more than 2,000 letters is given as its UTF-8 in this way.
"""

import base64
import hashlib
import itertools
import json
import re
import struct
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

import msgspec
from nacl import bindings, pwhash

from zchat.member import invite
from zchat.protocol import body, ledger, seal, wire, words
from zchat.protocol.envelope import EnvelopeClass, Header, envelope_id
from zchat.protocol.keys import Author, RoomKeys, derive_root, room_salt
from zchat.protocol.labels import Label, digest
from zchat.protocol.ledger import Genesis, Head, LogKey
from zchat.protocol.limits import VERIFY_MEMORY_BYTES, VERIFY_OPS, padded_length

FOLDER = Path(__file__).parent / "vectors"

Case: TypeAlias = dict[str, Any]

LOG, CAST = EnvelopeClass.LOG, EnvelopeClass.CAST
ED25519_ORDER = 2**252 + 27742317777372353535851937790883648493
_REPEATS = re.compile(rb"(.{1,36}?)\1{31,}", re.DOTALL)


def spell(data: bytes) -> str | list[object]:
    """Bytes as JSON: hex, or parts where a long value repeats itself."""
    if len(data) <= 256:
        return data.hex()
    parts: list[object] = []
    at = 0
    for match in _REPEATS.finditer(data):
        if match.start() > at:
            parts.append(data[at : match.start()].hex())
        unit = match[1]
        parts.append([unit.hex(), len(match[0]) // len(unit)])
        at = match.end()
    if not parts:
        return data.hex()
    return [*parts, data[at:].hex()] if at < len(data) else parts


def unspell(spelled: str | list[Any]) -> bytes:
    """The bytes that `spell` spelled."""
    if isinstance(spelled, str):
        return bytes.fromhex(spelled)
    return b"".join(
        bytes.fromhex(part) if isinstance(part, str) else bytes.fromhex(part[0]) * part[1]
        for part in spelled
    )


def plain(value: object) -> object:
    """A value as JSON."""
    if isinstance(value, bytes):
        return spell(value)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, str) and len(value) > 2_000:
        return spell(value.encode())
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


def case(name: str, outcome: str, **values: object) -> Case:
    """One case; bytes among the values become hex."""
    made = {key: plain(value) for key, value in values.items()}
    return {"name": name, **made, "outcome": outcome}


def fixed(name: str, size: int = 32) -> bytes:
    """Bytes that stand for something random."""
    return hashlib.shake_256(f"zchat test vectors: {name}".encode()).digest(size)


def flipped(data: bytes, at: int) -> bytes:
    """The data with one bit changed."""
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


def u64(number: int) -> bytes:
    """Eight bytes, big-endian."""
    return number.to_bytes(8, "big")


def mp(value: object) -> bytes:
    """MessagePack, for what the program itself would never write."""
    return msgspec.msgpack.encode(value)


# --- What the cases have in common ---------------------------------------------------------------

CURVE_KEY = fixed("curve key")
LOG_SEED = fixed("log seed")
LOG_KEY = LogKey(LOG_SEED)
OTHER_LOG_KEY = LogKey(fixed("other log seed"))
ROOM = RoomKeys(fixed("root"))
OTHER_ROOM = RoomKeys(fixed("other root"))
ALICE_SEED = fixed("alice's master seed")
ALICE = Author(ALICE_SEED, ROOM)
BOB = Author(fixed("bob's master seed"), ROOM)
TIME_MS = 1_767_225_600_000
RANDOMNESS = fixed("randomness")
INCARNATION = fixed("incarnation", 16)

GENESIS = Genesis(ROOM.tag, LOG_KEY.public, fixed("genesis", 16))
IDS = [fixed(f"id {n}") for n in range(1, 9)]
HASHES = [GENESIS.log, *ledger.chain(GENESIS.log, 1, IDS)]


def head(n: int, expired: int = 0) -> Head:
    """A head of the common log."""
    return LOG_KEY.sign_head(ROOM.tag, GENESIS.log, n, HASHES[n], expired)


SEEN = head(3, 1).packed
VOID = body.Void("alice", INCARNATION, 4, SEEN)
TEXT = body.Text("alice", INCARNATION, 5, SEEN, "Grüße, 世界 👋", IDS[0])
BEAT = body.Beat("alice", INCARNATION, 6, SEEN, fixed("ask", 8), (fixed("echo", 8),), False)


def pairs(known: body.Text | body.Void | body.Beat, **changes: object) -> dict[str, object]:
    """A known body as the map it is on the wire, with some values changed or added."""
    decoded: dict[str, object] = msgspec.msgpack.decode(body.encode(known))
    return {**decoded, **changes}


# --- words.json -----------------------------------------------------------------------------------


def make_words() -> list[Case]:
    """The list, and the codes that are spoken with it."""
    listed = words.word_list()
    span = len(listed) ** words.CODE_WORDS
    sha256 = hashlib.sha256("\n".join(listed).encode()).digest()
    cases = [case("the list", "ok", count=len(listed), sha256=sha256)]
    numbers = {
        "all zero": 0,
        "one": 1,
        "the last word alone": len(listed) - 1,
        "two digits": len(listed),
        "the highest number": span - 1,
        "wraps to zero": span,
        "all ones": 2**128 - 1,
        "any": int.from_bytes(fixed("code", 16), "big"),
    }
    for name, number in numbers.items():
        spoken = words.code_words(number.to_bytes(16, "big"))
        indexes = [listed.index(word) for word in spoken]
        code = number.to_bytes(16, "big")
        cases.append(case(f"code: {name}", "ok", code=code, indexes=indexes, words=spoken))
    cases += [case(f"listed: {w}", "ok", word=w) for w in ("abacus", "zoom", "yippee")]
    left_out = [
        "drop-down",
        "felt-tip",
        "t-shirt",
        "yo-yo",
        "",
        "Abacus",
        "abacu",
        " zoom",
        "zoom\n",
    ]
    left_out += ["dropdown", "tshirt", "ábacus", "abacus-zoom"]
    cases += [case(f"not listed: {w!a}", "refused", word=w) for w in left_out]
    return cases


# --- passphrases.json -----------------------------------------------------------------------------


GOOD_PASSPHRASES = {
    "listed words": "abacus-zoom-yippee",
    "joined by spaces": "abacus zoom yippee",
    "joined by both, in runs": "abacus -- zoom  yippee",
    "in capitals": "Abacus-ZOOM-Yippee",
    "one word": "Abacus",
    "full-width letters": "ａｂａｃｕｓ－ｚｏｏｍ",
    "KELVIN SIGN is a k": "abacus-s\u212aid",
    "no-break space": "abacus\u00a0zoom",
    "spaces around": "  abacus zoom ",
    "trailing LF": "abacus zoom\n",
    "trailing CRLF": "abacus zoom\r\n",
    "space before the LF": "abacus zoom \n",
    "one word off the list": "Abacus  Zoom Xyzzy",
    "a word that is left out": "drop-down",
    "hyphen in front": "-abacus-zoom",
    "hyphen at the end": "abacus-zoom-",
    "only hyphens": "---",
    "hyphen U+2010 is a letter": "abacus\u2010zoom",
    "any text": "Größe ½ e\u0301",
    "zero width space is kept": "a\u200bb",
    "private use": "a\ue000",
    "1,024 bytes": "x" * 1_024,
    "1,024 bytes after the LF is off": "x" * 1_024 + "\n",
    "1,024 bytes after the spaces are off": f"  {'x' * 1_024} ",
    "1,024 bytes after NFKC": "ｘ" * 1_024,
    "1,024 bytes before words are joined": "abacus" + " " * 1_014 + "zoom",
    "spaces around that NFKC makes": "\u3000abacus zoom\u00a0\n",
    "hyphens that NFKC makes": "abacus－zoom﹣yippee",
    "CRLF after a space": "abacus zoom \r\n",
    "space, then a hyphen at the end": "abacus zoom -",
    "a hyphen": "-",
    "capitals off the list are kept": "Abacus XYZZY",
    "capital that has no small letter of the list": "zoom-YİPPEE",
    "long s is an s": "abacu\u017f zoom",
}
BAD_PASSPHRASES = {
    "empty": "",
    "only a LF": "\n",
    "only spaces": "   ",
    "only an ideographic space": "\u3000",
    "1,025 bytes": "x" * 1_025,
    "1,025 bytes of UTF-8": "ä" * 512 + "x",
    "1,025 bytes after NFKC": "½" * 205,
    "1,025 bytes before words are joined": "abacus" + " " * 1_015 + "zoom",
    "two LF": "abacus\n\n",
    "two CRLF": "abacus\r\n\r\n",
    "CR": "abacus\r",
    "LF CR": "abacus\n\r",
    "LF inside": "abacus\nzoom",
    "tab": "abacus\tzoom",
    "zero byte": "abacus\0",
    "C1 control": "a\u0085b",
    "DEL": "a\u007fb",
    "unassigned": "a\u0378",
    "noncharacter": "a\uffff",
    "noncharacter of plane 16": "a\U0010ffff",
    "lone high surrogate": "a\ud800",
    "lone low surrogate": "\udfffa",
    "LF in front": "\nabacus",
    "LF before a space": "abacus zoom\n ",
    "LF between spaces at the end": "abacus zoom \n \n",
    "tab at the end is no space": "abacus zoom\t",
    "tab in front, and a LF": "\tabacus zoom\n",
    "full-width letters, 1,025 bytes after NFKC": "ｘ" * 1_025,
    "LF and CRLF": "abacus\n\r\n",
    "spaces and a LF": "  \n",
    "spaces that NFKC makes, and a CRLF": "\u00a0\u3000\r\n",
    "NEXT LINE at the end is no LF": "abacus\u0085",
    "1,025 bytes with a hyphen too many": "abacus" + "-" * 1_015 + "zoom",
    "ESC": "\x1babacus",
}


def make_passphrases() -> list[Case]:
    """What is typed, and what goes into Argon2id."""
    cases = [
        case(name, "ok", typed=typed, canonical=words.canonical_passphrase(typed))
        for name, typed in GOOD_PASSPHRASES.items()
    ]
    return cases + [case(n, "refused", typed=typed) for n, typed in BAD_PASSPHRASES.items()]


# --- rooms.json -----------------------------------------------------------------------------------


def make_rooms() -> list[Case]:
    """What is typed, the room name, and the salt it gives."""
    good = {
        "plain": "lobby",
        "folded": "Lobby",
        "sharp s": "Straße",
        "dotted capital I": "İ",
        "full width": "ＬＯＢＢＹ",
        "ligature": "ﬁsh",
        "decomposed": "e\u0301te\u0301",
        "ypogegrammeni": "\u1f80\u0323",
        "final sigma": "ΣΑΣ",
        "emoji": "🐟",
        "punctuation": "a/b#c?d%e@f",
        "64 bytes": "r" * 64,
        "64 bytes of UTF-8": "ä" * 32,
        "64 bytes after NFKC": "ﬀ" * 32,
    }
    bad = {
        "empty": "",
        "65 bytes": "r" * 65,
        "66 bytes of UTF-8": "ä" * 33,
        "66 bytes after NFKC": "ﬀ" * 33,
        "space": "a b",
        "no-break space": "a\u00a0b",
        "ideographic space": "a\u3000b",
        "a space out of NFKC": "a\u00a8b",
        "line separator": "a\u2028b",
        "paragraph separator": "a\u2029b",
        "LF": "lobby\n",
        "tab": "a\tb",
        "zero byte": "a\0b",
        "soft hyphen": "a\u00adb",
        "zero width joiner": "a\u200db",
        "right-to-left override": "a\u202eb",
        "byte order mark": "\ufefflobby",
        "private use": "a\ue000",
        "unassigned": "a\u0378",
        "lone surrogate": "a\ud800",
    }
    cases = []
    for name, typed in good.items():
        room = words.canonical_room_name(typed)
        salt = room_salt(CURVE_KEY, LOG_KEY.public, room)
        keys = {"curve_key": CURVE_KEY, "log_key": LOG_KEY.public}
        cases.append(
            case(name, "ok", typed=typed, **keys, room=room, utf8=room.encode(), salt=salt)
        )
    return cases + [case(name, "refused", typed=typed) for name, typed in bad.items()]


# --- keys.json ------------------------------------------------------------------------------------


def make_keys() -> list[Case]:
    """From what is typed to the keys of one message. Two cases of Argon2id at its full cost."""
    return [
        _keys("words of the list", "Abacus zoom yippee\n", "Lobby"),
        _keys("any text, another room", "Größe ½", "straße"),
        _no_keys("passphrase empty", "", "lobby"),
        _no_keys("passphrase with a tab", "abacus\tzoom", "lobby"),
        _no_keys("passphrase too long", "x" * 1_025, "lobby"),
        _no_keys("room name with a space", "abacus zoom", "the lobby"),
        _no_keys("room name empty", "abacus zoom", ""),
    ]


FIRST_TEXT = body.Text("alice", INCARNATION, 1, bytes(144), "Grüße, 世界 👋")
GENESIS_RANDOM = fixed("genesis", 16)


def _keys(name: str, typed_passphrase: str, typed_room: str) -> Case:
    """The whole way, value by value: a room's keys, its first message, its log, its code."""
    room_name = words.canonical_room_name(typed_room)
    passphrase = words.canonical_passphrase(typed_passphrase)
    salt = room_salt(CURVE_KEY, LOG_KEY.public, room_name)
    root = derive_root(passphrase, salt)
    room = RoomKeys(root)
    return case(
        name,
        "ok",
        typed_passphrase=typed_passphrase,
        typed_room=typed_room,
        curve_key=CURVE_KEY,
        log_key=LOG_KEY.public,
        log_seed=LOG_SEED,
        master_seed=ALICE_SEED,
        randomness=RANDOMNESS,
        timestamp=TIME_MS,
        body=body.encode(FIRST_TEXT),
        random=GENESIS_RANDOM,
        room=room_name,
        passphrase=passphrase,
        salt=salt,
        root=root,
        room_tag=room.tag,
        epoch_key=digest(Label.EPOCH, 32, bytes(4), root),
        member_seed=digest(Label.ROOM_ID, 32, room.tag, ALICE_SEED),
        **_first_message(room),
    )


def _first_message(room: RoomKeys) -> Case:
    """From the body to the envelope's id, and on."""
    author = Author(ALICE_SEED, room)
    spoken = body.encode(FIRST_TEXT)
    envelope = seal.seal(room, author, LOG, spoken, TIME_MS, RANDOMNESS)
    header, nonce, box = envelope[:71], envelope[15:39], envelope[103:-64]
    ek, com = room.message_keys(header)
    return {
        "member_key": author.public,
        "nonce_input": RANDOMNESS + spoken,
        "nonce": nonce,
        "header": header,
        "ek": ek,
        "com": com,
        "plaintext": bindings.crypto_secretbox_open(box, nonce, ek),
        "box": box,
        "signed": digest(Label.SIGN, 64, room.tag + envelope[:-64]),
        "signature": envelope[-64:],
        "envelope": envelope,
        "id": envelope_id(envelope),
        **_first_log(room, author, envelope_id(envelope)),
    }


def _first_log(room: RoomKeys, author: Author, entry_id: bytes) -> Case:
    """A log of one entry, its head, and the verification code there."""
    genesis = Genesis(room.tag, LOG_KEY.public, GENESIS_RANDOM)
    birth = LOG_KEY.sign_birth(genesis)
    (h,) = ledger.chain(genesis.log, 1, [entry_id])
    made = LOG_KEY.sign_head(room.tag, genesis.log, 1, h, 0)
    members = {author.public: "alice"}
    data = verification_data(made, members)
    password = room.verification_password(made, members.items())
    return {
        "genesis": genesis.packed,
        "log": genesis.log,
        "birth_signed": digest(Label.GENESIS, 64, genesis.packed),
        "birth": birth,
        "h": h,
        "head_signed": digest(Label.HEAD, 64, room.tag + made.packed[:-64]),
        "head": made.packed,
        "verify_data": data,
        "verify_password": password,
        "verify_code": verification_code(password, room),
        "verify_words": room.verification_code(made, members.items()),
    }


def verification_data(at: Head, members: dict[bytes, str]) -> bytes:
    """What the verification code at a head is made of (section 10)."""
    data = at.packed[:-64] + len(members).to_bytes(4, "big")
    for key, label in sorted(members.items()):
        data += key + bytes([len(label.encode())]) + label.encode()
    return data


def verification_code(password: bytes, room: RoomKeys) -> bytes:
    """The 16 bytes whose words are read out."""
    return pwhash.argon2id.kdf(
        16, password, room.tag, opslimit=VERIFY_OPS, memlimit=VERIFY_MEMORY_BYTES
    )


def _no_keys(name: str, typed_passphrase: str, typed_room: str) -> Case:
    return case(
        name,
        "refused",
        typed_passphrase=typed_passphrase,
        typed_room=typed_room,
        curve_key=CURVE_KEY,
        log_key=LOG_KEY.public,
        master_seed=ALICE_SEED,
    )


# --- envelopes.json -------------------------------------------------------------------------------


def make_envelopes() -> list[Case]:
    """Sealing with everything on the way, and each check of section 7 failing in several ways."""
    return [*_sealed(), *_fail_outline(), *_fail_keyed(), *_fail_inside(), *_fail_twice()]


def _sealed() -> Iterable[Case]:
    filler = body.encode(body.Text("alice", INCARNATION, 5, SEEN, "x" * 300))
    spare = 508 - (len(filler) - 300)
    longest = body.Text("alice", INCARNATION, 7, SEEN, "x" * 65_536, IDS[0])
    crowd = body.Beat("🐟" * 32, INCARNATION, 6, SEEN, bytes(8), (bytes(8),) * 32, True)
    yield _seal("text", LOG, body.encode(TEXT))
    yield _seal("void", LOG, body.encode(VOID))
    yield _seal("beat", CAST, body.encode(BEAT))
    yield _seal("longest beat", CAST, body.encode(crowd))
    yield _seal("a kind not known yet", LOG, mp(pairs(VOID, kind="react", to=IDS[0])))
    yield _seal("body of 508 bytes", LOG, body.encode(_text("x" * spare)))
    yield _seal("body of 509 bytes", LOG, body.encode(_text("x" * (spare + 1))))
    yield _seal("timestamp zero", LOG, body.encode(VOID), timestamp=0)
    yield _seal("timestamp all ones", LOG, body.encode(VOID), timestamp=2**64 - 1)
    yield _seal("longest text", LOG, body.encode(longest), whole=False)


def _text(text: str) -> body.Text:
    return body.Text("alice", INCARNATION, 5, SEEN, text)


def _seal(
    name: str,
    envelope_class: EnvelopeClass,
    spoken: bytes,
    timestamp: int = TIME_MS,
    whole: bool = True,
) -> Case:
    """A good envelope; without `whole`, its length and id stand for it."""
    envelope = seal.seal(ROOM, ALICE, envelope_class, spoken, timestamp, RANDOMNESS)
    header, com, box = envelope[:71], envelope[71:103], envelope[103:-64]
    ek, _ = ROOM.message_keys(header)
    long = {"box": box, "envelope": envelope} if whole else {}
    return case(
        name,
        "ok",
        root=ROOM.root,
        master_seed=ALICE_SEED,
        **{"class": int(envelope_class)},
        timestamp=timestamp,
        body=spoken,
        randomness=RANDOMNESS,
        room_tag=ROOM.tag,
        member_key=ALICE.public,
        nonce_input=RANDOMNESS + spoken,
        nonce=header[15:39],
        header=header,
        ek=ek,
        com=com,
        plaintext=bindings.crypto_secretbox_open(box, header[15:39], ek),
        signed=digest(Label.SIGN, 64, ROOM.tag + envelope[:-64]),
        signature=envelope[-64:],
        **long,
        length=len(envelope),
        id=envelope_id(envelope),
    )


def _opening(
    name: str,
    outcome: str,
    envelope: bytes,
    by: EnvelopeClass = LOG,
    room: RoomKeys = ROOM,
    known: Sequence[bytes] = (),
) -> Case:
    """An envelope that came by a word of class `by`."""
    inputs: Case = {"root": room.root, "class": int(by)}
    if known:
        inputs["known"] = list(known)
    return case(name, outcome, **inputs, envelope=envelope)


def forged(
    spoken: bytes | None = None,
    *,
    plaintext: bytes | None = None,
    header: dict[str, Any] | None = None,
    box_key: bytes | None = None,
    box_changed_at: int | None = None,
    com: bytes | None = None,
    signer: Author = ALICE,
    room: RoomKeys = ROOM,
    sign_tag: bytes | None = None,
) -> bytes:
    """An envelope made by somebody who holds the room's keys and keeps no rule but these."""
    said = body.encode(VOID) if spoken is None else spoken
    padded = (len(said).to_bytes(4, "big") + said).ljust(padded_length(len(said)), b"\0")
    plainly = Header(1, 1, LOG, 0, TIME_MS, ALICE.nonce(RANDOMNESS, said), ALICE.public)
    made = plainly._replace(**(header or {}))
    ek, commitment = room.message_keys(made.packed)
    sealed = bindings.crypto_secretbox(plaintext or padded, made.nonce, box_key or ek)
    if box_changed_at is not None:
        sealed = flipped(sealed, box_changed_at)
    unsigned = made.packed + (com or commitment) + sealed
    signed = digest(Label.SIGN, 64, (sign_tag or room.tag) + unsigned)
    return unsigned + signer.sign(signed)


GOOD = forged()


def _fail_outline() -> Iterable[Case]:
    cast = seal.seal(ROOM, ALICE, CAST, body.encode(BEAT), TIME_MS, RANDOMNESS)
    yield _opening("good, by hand", "ok", GOOD)
    for size in (0, 1, 71, 182, 183, 183 + 511, 183 + 513, 183 + 520, 183 + 1_040):
        yield _opening(f"of {size} bytes", "length", GOOD[:size].ljust(size, b"\0"))
    yield _opening("one byte more", "length", GOOD + b"\0")
    yield _opening("one byte less", "length", GOOD[:-1])
    yield _opening("padmé, but over the maximum", "length", GOOD.ljust(183 + 69_632, b"\0"))
    yield _opening("class 1, over its maximum", "length", cast.ljust(183 + 864, b"\0"), CAST)
    yield _opening("class 0 by CAST, over its maximum", "length", GOOD.ljust(1_047, b"\0"), CAST)
    for field, value in (("version", 0), ("version", 2), ("suite", 0), ("suite", 255)):
        yield _opening(f"{field} {value}", "version", forged(header={field: value}))
    for epoch in (1, 256, 2**24, 2**32 - 1):
        yield _opening(f"epoch {epoch}", "version", forged(header={"epoch": epoch}))
    yield _opening("class 1 by POST or ENTRIES", "class", cast)
    yield _opening("class 0 by CAST", "class", GOOD, CAST)
    for number in (2, 255):
        strange = forged(header={"envelope_class": number})
        yield _opening(f"class {number}", "class", strange)
        yield _opening(f"class {number} by CAST", "class", strange, CAST)
    yield _opening("known in this log", "ignored", GOOD, known=[IDS[0], envelope_id(GOOD)])
    spoilt = flipped(GOOD, 71)
    yield _opening("known, and com is wrong", "ignored", spoilt, known=[envelope_id(spoilt)])


def _fail_keyed() -> Iterable[Case]:
    yield _opening("other room", "commitment", GOOD, room=OTHER_ROOM)
    moved = GOOD[:2] + b"\1" + GOOD[3:]
    yield _opening("sealed for the other class", "commitment", moved, CAST)
    yield _opening("timestamp changed", "commitment", flipped(GOOD, 14))
    yield _opening("nonce changed", "commitment", flipped(GOOD, 15))
    yield _opening("sender changed", "commitment", GOOD[:39] + BOB.public + GOOD[71:])
    yield _opening("com changed in its first byte", "commitment", flipped(GOOD, 71))
    yield _opening("com changed in its last byte", "commitment", flipped(GOOD, 102))
    yield _opening("com zero, signed", "commitment", forged(com=bytes(32)))
    ek, com = ROOM.message_keys(GOOD[:71])
    yield _opening("ek and com exchanged", "commitment", forged(com=ek, box_key=com))

    yield _opening("box changed", "signature", flipped(GOOD, 200))
    yield _opening("R changed", "signature", flipped(GOOD, len(GOOD) - 64))
    yield _opening("S changed", "signature", flipped(GOOD, len(GOOD) - 32))
    yield _opening("signature zero", "signature", GOOD[:-64] + bytes(64))
    yield _opening("signed by another member", "signature", forged(signer=BOB))
    yield _opening("signed for another room", "signature", forged(sign_tag=OTHER_ROOM.tag))
    raw = GOOD[:-64] + ALICE.sign(ROOM.tag + GOOD[:-64])
    yield _opening("signed over the data, not the digest", "signature", raw)
    scalar = int.from_bytes(GOOD[-32:], "little") + ED25519_ORDER
    greater = GOOD[:-32] + scalar.to_bytes(32, "little")
    yield _opening("S not canonical", "signature", greater)
    yield _opening("R of small order", "signature", _signed_with_small_r())
    # R = B and S = 1 hold for the neutral element as key, whatever the message.
    neutral = forged(header={"sender": b"\1" + bytes(31)})[:-64]
    easy = neutral + b"\x58" + b"\x66" * 31 + b"\1" + bytes(31)
    yield _opening("sender of small order", "signature", easy)


def _signed_with_small_r() -> bytes:
    """Alice's own signature with the neutral element as R: the equation holds (RFC 8032, 5.1.7)."""
    unsigned, r = GOOD[:-64], b"\1" + bytes(31)
    signed = digest(Label.SIGN, 64, ROOM.tag + unsigned)
    seed = digest(Label.ROOM_ID, 32, ROOM.tag, ALICE_SEED)
    low = int.from_bytes(hashlib.sha512(seed).digest()[:32], "little")
    secret = low & ((1 << 254) - 8) | 1 << 254
    k = int.from_bytes(hashlib.sha512(r + ALICE.public + signed).digest(), "little")
    return unsigned + r + (k * secret % ED25519_ORDER).to_bytes(32, "little")


def _fail_inside() -> Iterable[Case]:
    yield _opening("boxed under another key", "box", forged(box_key=fixed("other key")))
    yield _opening("tag of the box changed, signed", "box", forged(box_changed_at=0))
    yield _opening("last byte of the box changed, signed", "box", forged(box_changed_at=-1))

    said = body.encode(VOID)
    length = len(said).to_bytes(4, "big")
    paddings = {
        "last byte of the padding not zero": (length + said).ljust(511, b"\0") + b"\1",
        "first byte of the padding not zero": (length + said + b"\1").ljust(512, b"\0"),
        "one step too much padding": (length + said).ljust(544, b"\0"),
        "length 509 in 512": (509).to_bytes(4, "big") + bytes(508),
        "length 508 in 544": (508).to_bytes(4, "big") + bytes(540),
        "length 541 in 544": (541).to_bytes(4, "big") + bytes(540),
        "length all ones": b"\xff\xff\xff\xff" + bytes(508),
        "length little-endian": len(said).to_bytes(4, "little") + said.ljust(508, b"\0"),
    }
    for name, plaintext in paddings.items():
        yield _opening(name, "padding", forged(plaintext=plaintext))

    bodies = {
        "body empty": b"",
        "body one byte short": said[:-1],
        "body one byte long": said + b"\0",
        "body is nil": b"\xc0",
        "beat in the log": body.encode(BEAT),
    }
    for name, spoken in bodies.items():
        yield _opening(name, "body", forged(spoken))
    on_air = {"envelope_class": CAST}
    yield _opening("text on the air", "body", forged(body.encode(TEXT), header=on_air), CAST)
    yield _opening("void on the air", "body", forged(said, header=on_air), CAST)
    unknown = mp(pairs(VOID, kind="react"))
    yield _opening("unknown kind on the air", "body", forged(unknown, header=on_air), CAST)


def _fail_twice() -> Iterable[Case]:
    """Two checks would fail; the first one names the reason."""
    wrong = {"version": 2, "envelope_class": CAST}
    yield _opening("length before version", "length", forged(header={"version": 2}) + b"\0")
    yield _opening("version before class", "version", forged(header=wrong))
    unknown_class = forged(header={"envelope_class": 2}, com=bytes(32))
    yield _opening("class before commitment", "class", unknown_class)
    yield _opening("commitment before signature", "commitment", forged(com=bytes(32), signer=BOB))
    both = forged(box_key=fixed("other key"), signer=BOB)
    yield _opening("signature before box", "signature", both)
    slack = (3).to_bytes(4, "big") + b"\xc0\xc0\xc0" + b"\1" * 505
    yield _opening("padding before body", "padding", forged(plaintext=slack))


# --- bodies.json ----------------------------------------------------------------------------------

_BYTES = {"incarnation", "seen", "reply_to", "ask", "echo"}


def make_bodies() -> list[Case]:
    """Bodies of both classes: read, and unreadable."""
    good = [*_good_logged(), *_good_casts()]
    return good + [case(n, "body", **{"class": c}, raw=r) for n, c, r in _bad_bodies()]


def _good_logged() -> Iterable[Case]:
    logged: dict[str, body.Text | body.Void] = {
        "text": TEXT,
        "text, no reply": _text("hi"),
        "text with controls": _text("a\tb\n\0\u202e"),
        "text of 65,536 bytes": _text("x" * 65_536),
        "text of 65,536 bytes in two-byte letters": _text("ä" * 32_768),
        "void": VOID,
        "void, first": body.Void("a", bytes(16), 1, bytes(144)),
        "void, last number": body.Void("a", bytes(16), 2**63 - 1, bytes(144)),
        "name of 32 code points": body.Void("🐟" * 32, bytes(16), 1, bytes(144)),
        "name with a format character": body.Void("a\u200bb", bytes(16), 1, bytes(144)),
        "seen at the last place": body.Void("a", bytes(16), 1, _seen(2**63 - 1, 2**63 - 1)),
        "seen at place 0 of some log": body.Void("a", bytes(16), 1, _seen(0, 0)),
    }
    for name, said in logged.items():
        yield _readable(name, LOG, body.encode(said), pairs(said))
    unknown: dict[str, dict[str, object]] = {
        "unknown: nothing further": {},
        "unknown: every type": {"a": [1, -1, "s", b"b", True, False, None, {"k": []}]},
        "unknown: largest integers": {"a": 2**64 - 1, "b": -(2**63)},
        "unknown: integers at the joints": {
            "a": [127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32],
            "b": [-32, -33, -128, -129, -32_768, -32_769, -(2**31), -(2**31) - 1],
        },
        "unknown: lengths at the joints": {
            "a": ["x" * 31, "x" * 32, "x" * 255, "x" * 256],
            "b": [b"x" * 255, b"x" * 256],
            "c": [[0] * 15, [0] * 16],
        },
        "unknown: map of 16": {"a": {f"{n:x}": n for n in range(16)}},
        "unknown: empty key": {"": 0},
        "unknown: 16 deep": {"a": _nested(15)},
        "unknown: 16 deep, maps": {"a": _nested_maps(15)},
        "unknown: 16 deep, the last one empty": {"a": _nested(14, [])},
        "unknown: 16 deep in two places": {"a": _nested(15), "b": [_nested_maps(14)]},
    }
    for name, further in unknown.items():
        known = pairs(VOID, kind="react")
        yield _readable(name, LOG, mp({**known, **further}), known)
    for kind in ("k", "ß" * 32, "profile", "Text"):
        known = pairs(VOID, kind=kind)
        yield _readable(f"unknown: kind {kind[:8]!a}", LOG, mp(known), known)
    space = 66_560 - len(mp(pairs(VOID, kind="file", data=b"x" * 66_000))) + 66_000
    full = mp(pairs(VOID, kind="file", data=b"x" * space))
    yield _readable("unknown: 66,560 bytes", LOG, full, pairs(VOID, kind="file"))


def _good_casts() -> Iterable[Case]:
    for name, beat in {
        "beat": BEAT,
        "beat, leaving": body.Beat("a", bytes(16), 1, bytes(144), bytes(8), (), True),
        "beat, last number": body.Beat("a", bytes(16), 2**63 - 1, SEEN, bytes(8), (), False),
        "beat, seen at place 0 of some log": body.Beat(
            "a", bytes(16), 1, _seen(0, 0), bytes(8), (), False
        ),
        "beat with 32 echoes": body.Beat("a", bytes(16), 1, SEEN, bytes(8), (bytes(8),) * 32, True),
    }.items():
        yield _readable(name, CAST, body.encode(beat), pairs(beat))


def _readable(name: str, by: EnvelopeClass, raw: bytes, known: dict[str, object]) -> Case:
    """A good body and its pairs: of an unknown kind, the first five."""
    return case(name, "ok", **{"class": int(by)}, raw=raw, pairs=known)


def _seen(n: int, expired: int) -> bytes:
    return fixed("log") + u64(n) + fixed("hash") + u64(expired) + bytes(64)


def _nested(depth: int, value: object = 1) -> object:
    for _ in range(depth):
        value = [value]
    return value


def _nested_maps(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = {"m": value}
    return value


def _bad_bodies() -> Iterable[tuple[str, int, bytes]]:
    text, void, beat = body.encode(TEXT), body.encode(VOID), body.encode(BEAT)
    yield from (("empty", LOG, b""), ("empty on the air", CAST, b""), ("one byte", LOG, b"\x85"))
    for name, raw in (("text", text), ("void", void)):
        yield f"{name}: cut off", LOG, raw[:-1]
        yield f"{name}: half", LOG, raw[: len(raw) // 2]
        yield f"{name}: one byte more", LOG, raw + b"\xc0"
        yield f"{name}: on the air", CAST, raw
    yield "beat: cut off", CAST, beat[:-1]
    yield "beat: one byte more", CAST, beat + b"\0"
    yield "beat: in the log", LOG, beat
    yield "an array", LOG, mp(list(pairs(VOID).values()))
    yield "nil", LOG, b"\xc0"
    yield from _bad_values()
    yield from _bad_shapes(text, void, beat)
    yield from _bad_unknown()


def _bad_values() -> Iterable[tuple[str, int, bytes]]:
    changes: dict[str, dict[str, object]] = {
        "name empty": {"name": ""},
        "name of 33 code points": {"name": "a" * 33},
        "name with a LF": {"name": "a\nb"},
        "name with a C1 control": {"name": "a\u0085"},
        "name is bin": {"name": b"alice"},
        "name is nil": {"name": None},
        "incarnation of 15 bytes": {"incarnation": bytes(15)},
        "incarnation of 17 bytes": {"incarnation": bytes(17)},
        "incarnation is str": {"incarnation": "i" * 16},
        "seq 0": {"seq": 0},
        "seq -1": {"seq": -1},
        "seq 2^63": {"seq": 2**63},
        "seq is a float": {"seq": 4.0},
        "seq is str": {"seq": "4"},
        "seq is bool": {"seq": True},
        "seen of 143 bytes": {"seen": SEEN[:-1]},
        "seen of 145 bytes": {"seen": SEEN + b"\0"},
        "seen empty": {"seen": b""},
        "seen is nil": {"seen": None},
        "seen: n 2^63": {"seen": _seen(2**63, 0)},
        "seen: expired 2^63": {"seen": _seen(3, 2**63)},
        "seen: both 2^63": {"seen": _seen(2**63, 2**63)},
        "seen: expired above n": {"seen": _seen(3, 4)},
        "seen: expired above n = 0": {"seen": _seen(0, 1)},
        "seen: expired all ones": {"seen": _seen(2**63 - 1, 2**64 - 1)},
    }
    for name, change in changes.items():
        yield f"void: {name}", LOG, mp(pairs(VOID, **change))
        yield f"unknown: {name}", LOG, mp(pairs(VOID, kind="react", **change))
    texts: dict[str, dict[str, object]] = {
        "empty": {"text": ""},
        "of 65,537 bytes": {"text": "x" * 65_537},
        "of 65,538 bytes in two-byte letters": {"text": "ä" * 32_769},
        "is bin": {"text": b"hi"},
        "is nil": {"text": None},
        "reply_to of 31 bytes": {"reply_to": bytes(31)},
        "reply_to empty": {"reply_to": b""},
        "reply_to is str": {"reply_to": "x" * 32},
    }
    for name, change in texts.items():
        yield f"text: {name}", LOG, mp(pairs(TEXT, **change))
    beats: dict[str, dict[str, object]] = {
        "count 0": {"count": 0},
        "count 2^63": {"count": 2**63},
        "count is a float": {"count": 1.0},
        "kind is void": {"kind": "void"},
        "seen: n 2^63": {"seen": _seen(2**63, 0)},
        "ask of 7 bytes": {"ask": bytes(7)},
        "33 echoes": {"echo": [bytes(8)] * 33},
        "echo of 9 bytes": {"echo": [bytes(9)]},
        "echo is nil": {"echo": None},
        "leaving is 0": {"leaving": 0},
        "leaving is nil": {"leaving": None},
        "seen: expired above n": {"seen": _seen(3, 4)},
    }
    for name, change in beats.items():
        yield f"beat: {name}", CAST, mp(pairs(BEAT, **change))


def _without(known: body.Text | body.Void | body.Beat, key: str) -> bytes:
    return mp({k: v for k, v in pairs(known).items() if k != key})


def _bad_shapes(text: bytes, void: bytes, beat: bytes) -> Iterable[tuple[str, int, bytes]]:
    yield "void: one pair more", LOG, mp(pairs(VOID, more=1))
    yield "text: one pair more", LOG, mp(pairs(TEXT, more=1))
    yield "beat: one pair more", CAST, mp(pairs(BEAT, more=1))
    yield "text: no reply_to", LOG, _without(TEXT, "reply_to")
    yield "text: no text", LOG, _without(TEXT, "text")
    yield "void: no seen", LOG, _without(VOID, "seen")
    yield "void: no kind", LOG, _without(VOID, "kind")
    yield "beat: no leaving", CAST, _without(BEAT, "leaving")
    yield "void: pairs in another order", LOG, mp(dict(reversed(pairs(VOID).items())))
    yield "beat: pairs in another order", CAST, mp(_exchanged(pairs(BEAT), "ask"))
    swapped = pairs(TEXT)
    swapped["text"] = swapped.pop("text")
    yield "text: last pairs exchanged", LOG, mp(swapped)
    yield "text: a pair twice", LOG, b"\x88" + text[1:] + b"\xa3seq\x05"
    yield "void: kind twice", LOG, b"\x86" + void[1:] + b"\xa4kind\xa4void"
    yield "void: a key that is bin", LOG, void.replace(b"\xa3seq", b"\xc4\x03seq")
    yield "void: seq in long form", LOG, void.replace(b"\xa3seq\x04", b"\xa3seq\xcc\x04")
    yield "void: seq in signed form", LOG, void.replace(b"\xa3seq\x04", b"\xa3seq\xd0\x04")
    yield "void: name in long form", LOG, void.replace(b"\xa5alice", b"\xd9\x05alice")
    yield "void: key in long form", LOG, void.replace(b"\xa3seq", b"\xd9\x03seq")
    yield "void: bin in long form", LOG, void.replace(b"\xc4\x10", b"\xc5\x00\x10")
    yield "void: map in long form", LOG, b"\xde\x00\x05" + void[1:]
    yield "beat: array in long form", CAST, beat.replace(b"\xa4echo\x91", b"\xa4echo\xdc\0\1")
    yield "beat: count in long form", CAST, beat.replace(b"\xa5count\x06", b"\xa5count\xcd\0\6")
    yield "void: map announces one pair more", LOG, b"\x86" + void[1:]
    yield "void: map announces one pair less", LOG, b"\x84" + void[1:]
    yield "text: not UTF-8", LOG, text.replace("世".encode(), b"\xe4\xb8\x28")
    yield "text: a surrogate", LOG, text.replace("世".encode(), b"\xed\xa0\x80")
    yield "void: name not UTF-8", LOG, void.replace(b"alice", b"al\xffce")
    yield "beat: name not UTF-8", CAST, beat.replace(b"alice", b"al\xffce")


def _bad_unknown() -> Iterable[tuple[str, int, bytes]]:
    known = pairs(VOID, kind="react")
    start = b"\x86" + mp(known)[1:] + b"\xa1a"
    yield "unknown: on the air", CAST, mp(known)
    yield "unknown: kind empty", LOG, mp(pairs(VOID, kind=""))
    yield "unknown: kind of 33 code points", LOG, mp(pairs(VOID, kind="k" * 33))
    yield "unknown: kind is bin", LOG, mp(pairs(VOID, kind=b"react"))
    yield "unknown: kind not UTF-8", LOG, mp(known).replace(b"react", b"re\xffct")
    yield "unknown: cut off", LOG, mp(known)[:-1]
    yield "unknown: pairs in another order", LOG, mp(dict(reversed(known.items())))
    yield "unknown: a pair between", LOG, mp({"kind": "react", "a": 1, **known})
    yield "unknown: void's kind in capitals, no seen", LOG, mp({**_four(), "kind": "Void"})
    for name, raw in {
        "float": b"\xca\x3f\x80\x00\x00",
        "double": b"\xcb" + struct.pack(">d", 1.0),
        "not a number": b"\xcb\x7f\xf8" + bytes(6),
        "extension": b"\xd4\x05\x00",
        "timestamp": b"\xd6\xff\x00\x00\x00\x01",
        "the byte that is never used": b"\xc1",
        "integer in long form": b"\xcc\x01",
        "integer in signed form": b"\xd1\x03\xe8",
        "negative in long form": b"\xd1\xff\xff",
        "str in long form": b"\xd9\x01a",
        "bin in long form": b"\xc5\x00\x01a",
        "array in long form": b"\xdc\x00\x01\xc0",
        "map in long form": b"\xde\x00\x00",
        "a key twice": b"\x82\xa1k\x01\xa1k\x01",
        "a key that is an integer": b"\x81\x01\x01",
        "a key that is bin": b"\x81\xc4\x01k\x01",
        "a key that is nil": b"\x81\xc0\x01",
        "str not UTF-8": b"\xa1\xff",
        "key not UTF-8": b"\x81\xa1\xff\x01",
        "array longer than the body": b"\xdd\xff\xff\xff\xff",
        "map longer than the body": b"\xdf\xff\xff\xff\xff",
        "bin longer than the body": b"\xc6\xff\xff\xff\xff",
        "17 deep": mp(_nested(16)),
        "17 deep, maps": mp(_nested_maps(16)),
        "17 deep, the last one an empty array": mp(_nested(15, [])),
        "17 deep, the last one an empty map": mp(_nested(15, {})),
        "5,000 deep": b"\x91" * 5_000 + b"\x01",
        "60,000 deep": b"\x91" * 60_000 + b"\x01",
    }.items():
        yield f"unknown: {name}", LOG, start + raw
    yield "unknown: two of the five exchanged", LOG, mp(_exchanged(known, "incarnation"))
    yield "unknown: kind is not the first pair", LOG, mp(_exchanged(known, "kind"))
    yield "unknown: one byte more", LOG, mp(known) + b"\0"
    yield "unknown: one of the five twice", LOG, start[:-2] + b"\xa4name\xa5alice"
    yield "unknown: incarnation is str in base64", LOG, mp({**known, "incarnation": _base64()})
    space = 66_560 - len(mp(pairs(VOID, kind="file", data=b"x" * 66_000))) + 66_001
    yield "unknown: 66,561 bytes", LOG, mp(pairs(VOID, kind="file", data=b"x" * space))


def _exchanged(known: dict[str, object], key: str) -> dict[str, object]:
    """The same pairs, but the one of this key is the last."""
    return {**{k: v for k, v in known.items() if k != key}, key: known[key]}


def _four() -> dict[str, object]:
    return {k: v for k, v in pairs(VOID).items() if k != "seen"}


def _base64() -> str:
    return base64.b64encode(INCARNATION).decode()


# --- ledger.json ----------------------------------------------------------------------------------


def make_ledger() -> list[Case]:
    """Genesis, birth, lineage, restored entries, chain, head, receipt."""
    return [*_births(), *_lineages(), *_restored(), *_chains(), *_heads(), *_receipts()]


SECOND = Genesis(ROOM.tag, LOG_KEY.public, fixed("second", 16), GENESIS.log, 5, HASHES[5])
THIRD = Genesis(
    ROOM.tag,
    LOG_KEY.public,
    fixed("third", 16),
    SECOND.log,
    2,
    ledger.chain(SECOND.log, 1, IDS)[1],
)


def _births() -> Iterable[Case]:
    for name, genesis in {"first": GENESIS, "second": SECOND, "third": THIRD}.items():
        yield case(
            f"birth: {name}",
            "ok",
            what="birth",
            log_seed=LOG_SEED,
            **dict(zip(_GENESIS_FIELDS, genesis, strict=True)),
            genesis=genesis.packed,
            log=genesis.log,
            signed=digest(Label.GENESIS, 64, genesis.packed),
            birth=LOG_KEY.sign_birth(genesis),
        )


_GENESIS_FIELDS = ("room_tag", "log_key", "random", "parent", "parent_n", "parent_h")


def _lineages() -> Iterable[Case]:
    for source in (_good_lineages, _broken_lineages, _foreign_births, _unsound_parents):
        for name, outcome, log, lineage in source():
            yield case(
                f"lineage: {name}",
                outcome,
                what="lineage",
                room_tag=ROOM.tag,
                log_key=LOG_KEY.public,
                log=log.log,
                lineage=lineage,
            )


Lineage: TypeAlias = tuple[str, str, Genesis, list[bytes]]


def born(*logs: Genesis) -> list[bytes]:
    """Births of logs, newest first, as the broker signs them."""
    return [LOG_KEY.sign_birth(log) for log in logs]


def _generations(count: int) -> list[Genesis]:
    """So many logs, newest first, of which each lost every entry of its parent."""
    logs = [GENESIS]
    for n in range(1, count):
        parent = logs[0].log
        younger = Genesis(ROOM.tag, LOG_KEY.public, fixed(f"generation {n}", 16), parent, 0, parent)
        logs.insert(0, younger)
    return logs


def _good_lineages() -> Iterable[Lineage]:
    yield "one log", "ok", GENESIS, born(GENESIS)
    yield "two logs", "ok", SECOND, born(SECOND, GENESIS)
    yield "three logs", "ok", THIRD, born(THIRD, SECOND, GENESIS)
    for count in (15, 16):
        logs = _generations(count)
        yield f"{count} logs", "ok", logs[0], born(*logs)
    logs = _generations(17)
    yield "16 logs, the last has a parent", "ok", logs[0], born(*logs[:16])
    for name, parent_n in (("the last place", 2**63 - 1), ("place 1", 1)):
        log = SECOND._replace(parent_n=parent_n)
        yield f"parent ends at {name}", "ok", log, born(log, GENESIS)
    nothing_kept = SECOND._replace(parent_n=0, parent_hash=GENESIS.log)
    yield "parent n 0, parent h is its log id", "ok", nothing_kept, born(nothing_kept, GENESIS)


def _broken_lineages() -> Iterable[Lineage]:
    logs = _generations(17)
    yield "none", "refused", GENESIS, []
    yield "17 logs", "refused", logs[0], born(*logs)
    yield "one log, the last has a parent", "refused", SECOND, born(SECOND)
    yield "two logs, the last has a parent", "refused", THIRD, born(THIRD, SECOND)
    yield "15 logs, the last has a parent", "refused", logs[0], born(*logs[:15])
    orphan = GENESIS._replace(random=fixed("orphan", 16))
    yield "of another log", "refused", SECOND, born(GENESIS)
    yield "oldest first", "refused", SECOND, born(GENESIS, SECOND)
    yield "one left out", "refused", THIRD, born(THIRD, GENESIS)
    yield "one twice", "refused", SECOND, born(SECOND, SECOND, GENESIS)
    yield "goes on behind the first", "refused", GENESIS, born(GENESIS, orphan)
    yield "parent of another log", "refused", SECOND, born(SECOND, orphan)


def _foreign_births() -> Iterable[Lineage]:
    first, second = born(GENESIS, SECOND)
    foreign = Genesis(OTHER_ROOM.tag, LOG_KEY.public, fixed("foreign", 16))
    usurped = Genesis(ROOM.tag, OTHER_LOG_KEY.public, fixed("usurped", 16))
    yield "signature changed", "refused", GENESIS, [flipped(first, 199)]
    yield "signature of the parent changed", "refused", SECOND, [second, flipped(first, 140)]
    yield "signature of another birth", "refused", GENESIS, [first[:136] + second[136:]]
    yield "genesis changed", "refused", GENESIS, [flipped(first, 50)]
    yield "other room", "refused", foreign, born(foreign)
    theirs = OTHER_LOG_KEY.sign_birth
    yield "other log key, signed by it", "refused", usurped, [theirs(usurped)]
    yield "other log key, signed by ours", "refused", usurped, born(usurped)
    yield "signed by another key", "refused", GENESIS, [theirs(GENESIS)]
    yield "birth of 199 bytes", "malformed", GENESIS, [first[:-1]]
    yield "birth of 201 bytes", "malformed", GENESIS, [first + b"\0"]


def _unsound_parents() -> Iterable[Lineage]:
    """Births that are signed, and name a parent as none can be."""
    for name, n, h in (
        ("parent n 2^63", 2**63, HASHES[5]),
        ("parent n all ones", 2**64 - 1, HASHES[5]),
        ("parent n 0, parent h of another place", 0, HASHES[5]),
        ("parent n 0, parent h zero", 0, bytes(32)),
    ):
        log = SECOND._replace(parent_n=n, parent_hash=h)
        yield name, "refused", log, born(log, GENESIS)
    older = SECOND._replace(parent_n=2**63)
    younger = THIRD._replace(parent=older.log)
    yield "parent n 2^63 in the second birth", "refused", younger, born(younger, older, GENESIS)
    for name, n, h in (
        ("no parent, parent n 5", 5, bytes(32)),
        ("no parent, parent h not zero", 0, HASHES[5]),
        ("no parent, n and h of one", 5, HASHES[5]),
        ("no parent, parent n 2^63", 2**63, bytes(32)),
    ):
        log = GENESIS._replace(parent_n=n, parent_hash=h)
        yield name, "refused", log, born(log)
    odd = GENESIS._replace(parent_n=1)
    child = SECOND._replace(parent=odd.log)
    yield "no parent, parent n 1, in the second birth", "refused", child, born(child, odd)


def _restored() -> Iterable[Case]:
    nothing = Genesis(ROOM.tag, LOG_KEY.public, bytes(16), GENESIS.log, 0, GENESIS.log)
    claims = nothing._replace(parent_hash=HASHES[1])
    for name, outcome, genesis, ids in (
        ("five entries survived", "ok", SECOND, IDS[:5]),
        ("more has come since", "ok", SECOND, IDS),
        ("none survived", "ok", nothing, []),
        ("none survived, h of place 1", "refused", claims, IDS[:1]),
        ("an id changed", "refused", SECOND, [*IDS[:4], fixed("other id")]),
        ("two ids exchanged", "refused", SECOND, [IDS[1], IDS[0], *IDS[2:5]]),
        ("an id missing", "refused", SECOND, IDS[:4]),
        ("h of another place", "refused", SECOND._replace(parent_hash=HASHES[4]), IDS[:5]),
        ("n of another place", "refused", SECOND._replace(parent_n=4), IDS[:5]),
        ("folded under another log", "refused", SECOND._replace(parent=THIRD.log), IDS[:5]),
    ):
        yield case(
            f"restored: {name}", outcome, what="restored", genesis=genesis.packed, ids=list(ids)
        )


def _chains() -> Iterable[Case]:
    for name, before, first, ids in (
        ("from the start", GENESIS.log, 1, IDS),
        ("from the middle", HASHES[4], 5, IDS[4:]),
        ("at the last place", HASHES[1], 2**63 - 1, IDS[:1]),
    ):
        hashes = ledger.chain(before, first, ids)
        yield case(
            f"chain: {name}",
            "ok",
            what="chain",
            before=before,
            first=first,
            ids=list(ids),
            hashes=hashes,
        )


def _heads() -> Iterable[Case]:
    last = LOG_KEY.sign_head(ROOM.tag, GENESIS.log, 2**63 - 1, HASHES[8], 2**63 - 1)
    for made in (head(0), head(1), head(8, 3), head(8, 8), last):
        yield case(
            f"head: place {made.n}, {made.expired} expired",
            "ok",
            what="head",
            log_seed=LOG_SEED,
            log=made.log,
            n=made.n,
            h=made.hash,
            expired=made.expired,
            signed=digest(Label.HEAD, 64, ROOM.tag + made.packed[:-64]),
            **_head_inputs(made.packed),
        )
    yield from _bad_heads()


def _bad_heads() -> Iterable[Case]:
    good = head(8, 3)
    far = LOG_KEY.sign_head(ROOM.tag, GENESIS.log, 2**63, HASHES[8], 3)
    both = LOG_KEY.sign_head(ROOM.tag, GENESIS.log, 2**63, HASHES[8], 2**63)
    late = LOG_KEY.sign_head(ROOM.tag, GENESIS.log, 8, HASHES[8], 2**63)
    ones = LOG_KEY.sign_head(ROOM.tag, GENESIS.log, 2**64 - 1, HASHES[8], 2**64 - 1)
    start = LOG_KEY.sign_head(ROOM.tag, GENESIS.log, 0, GENESIS.log, 1)
    above = LOG_KEY.sign_head(ROOM.tag, GENESIS.log, 3, HASHES[3], 4)
    foreign = LOG_KEY.sign_head(OTHER_ROOM.tag, GENESIS.log, 8, HASHES[8], 3)
    usurped = OTHER_LOG_KEY.sign_head(ROOM.tag, GENESIS.log, 8, HASHES[8], 3)
    for name, outcome, packed in (
        ("signature changed", "refused", flipped(good.packed, 143)),
        ("log changed", "refused", flipped(good.packed, 0)),
        ("n changed", "refused", flipped(good.packed, 39)),
        ("h changed", "refused", flipped(good.packed, 40)),
        ("expired changed", "refused", flipped(good.packed, 79)),
        ("of another room", "refused", foreign.packed),
        ("of another key", "refused", usurped.packed),
        ("all zero", "refused", bytes(144)),
        ("143 bytes", "malformed", good.packed[:-1]),
        ("145 bytes", "malformed", good.packed + b"\0"),
        ("empty", "malformed", b""),
        ("n 2^63", "malformed", far.packed),
        ("n and expired 2^63", "malformed", both.packed),
        ("n and expired all ones", "malformed", ones.packed),
        ("expired 2^63", "malformed", late.packed),
        ("expired above n", "malformed", above.packed),
        ("expired above n = 0", "malformed", start.packed),
    ):
        yield case(f"head: {name}", outcome, what="head", **_head_inputs(packed))


def _head_inputs(packed: bytes) -> Case:
    return {"room_tag": ROOM.tag, "log_key": LOG_KEY.public, "head": packed}


def _receipts() -> Iterable[Case]:
    good = head(8).packed
    for name, outcome, first, before, ids, packed in (
        ("three ids", "ok", 6, HASHES[5], IDS[5:], good),
        ("one id", "ok", 8, HASHES[7], IDS[7:], good),
        ("from the start", "ok", 1, GENESIS.log, IDS, good),
        ("an id missing", "refused", 6, HASHES[5], IDS[6:], good),
        ("an id too many", "refused", 6, HASHES[4], IDS[4:], good),
        ("first is wrong", "refused", 5, HASHES[5], IDS[5:], good),
        ("before is wrong", "refused", 6, HASHES[4], IDS[5:], good),
        ("an id changed", "refused", 6, HASHES[5], [*IDS[5:7], IDS[0]], good),
        ("head not signed", "refused", 6, HASHES[5], IDS[5:], flipped(good, 143)),
    ):
        yield case(
            f"receipt: {name}",
            outcome,
            what="receipt",
            first=first,
            before=before,
            ids=list(ids),
            **_head_inputs(packed),
        )


# --- proofs.json ----------------------------------------------------------------------------------


def make_proofs() -> list[Case]:
    """What convicts a log key, and what must not."""
    return [*_good_proofs(), *_bad_proofs()]


OTHER_IDS = [fixed(f"other id {n}") for n in range(1, 9)]
OTHER_HASHES = [GENESIS.log, *ledger.chain(GENESIS.log, 1, OTHER_IDS)]
TWICE = [IDS[0], IDS[1], IDS[2], IDS[1], IDS[4]]
TWICE_HASHES = [GENESIS.log, *ledger.chain(GENESIS.log, 1, TWICE)]


def _lie(n: int, h: bytes, expired: int = 0) -> Head:
    return LOG_KEY.sign_head(ROOM.tag, GENESIS.log, n, h, expired)


def _proof(
    name: str,
    outcome: str,
    claim: str,
    low: bytes | Head,
    high: bytes | Head,
    ids: Sequence[bytes] = (),
    x: bytes | None = None,
    log_key: bytes = LOG_KEY.public,
) -> Case:
    heads = [h.packed if isinstance(h, Head) else h for h in (low, high)]
    given: Case = {} if claim == "P1" else {"ids": list(ids)}
    if claim == "P2":
        given["x"] = x
    return case(
        f"{claim}: {name}",
        outcome,
        claim=claim,
        room_tag=ROOM.tag,
        log_key=log_key,
        low=heads[0],
        high=heads[1],
        **given,
    )


def _good_proofs() -> Iterable[Case]:
    forked = OTHER_HASHES
    yield _proof("two hashes", "ok", "P1", head(3), _lie(3, forked[3]))
    yield _proof("two hashes, expired differs", "ok", "P1", head(3, 2), _lie(3, forked[3], 1))
    yield _proof("two hashes at place 0", "ok", "P1", head(0), _lie(0, forked[3]))
    strange = _lie(0, fixed("strange"))
    yield _proof("(0, log id), which nobody signed", "ok", "P1", _start(), strange)
    yield _proof("(0, log id) second", "ok", "P1", strange, _start())
    at_start = OTHER_IDS[:6]
    fork = _lie(6, forked[6])
    yield _proof("another past", "ok", "P2", head(3), fork, OTHER_IDS[3:6], forked[3])
    yield _proof("another past, one id", "ok", "P2", head(5), fork, OTHER_IDS[5:6], forked[5])
    false_start = _lie(6, ledger.chain(fixed("strange"), 1, at_start)[-1])
    yield _proof(
        "from (0, log id), which nobody signed",
        "ok",
        "P2",
        _start(),
        false_start,
        at_start,
        fixed("strange"),
    )
    yield _proof("head at place 0 is not h0", "ok", "P2", strange, head(2), IDS[:2], GENESIS.log)
    twice = _lie(5, TWICE_HASHES[5])
    yield _proof("an id twice", "ok", "P3", head(1), twice, TWICE[1:])
    yield _proof("an id twice from place 0", "ok", "P3", head(0), twice, TWICE)
    yield _proof("from (0, log id), which nobody signed", "ok", "P3", _start(), twice, TWICE)
    same = ledger.chain(HASHES[3], 4, [IDS[3]] * 3)
    yield _proof("an id three times", "ok", "P3", head(3), _lie(6, same[-1]), [IDS[3]] * 3)


def _foreign(n: int, h: bytes) -> Head:
    """A head of another room, where the same log key may say something else."""
    return LOG_KEY.sign_head(OTHER_ROOM.tag, GENESIS.log, n, h, 0)


def _other_log(n: int, h: bytes) -> Head:
    return LOG_KEY.sign_head(ROOM.tag, SECOND.log, n, h, 0)


def _usurped(n: int, h: bytes) -> Head:
    return OTHER_LOG_KEY.sign_head(ROOM.tag, GENESIS.log, n, h, 0)


def _start(h: bytes = GENESIS.log) -> bytes:
    """Place 0 of the common log, signed by nobody."""
    return GENESIS.log + u64(0) + h + u64(0) + bytes(64)


def _unsigned(made: Head) -> bytes:
    return flipped(made.packed, 143)


def _bad_proofs() -> Iterable[Case]:
    yield from _bad_p1()
    yield from _bad_p2()
    yield from _bad_p3()


def _second_start() -> bytes:
    return SECOND.log + u64(0) + SECOND.log + u64(0) + bytes(64)


def _expired_start() -> bytes:
    return GENESIS.log + u64(0) + GENESIS.log + u64(1) + bytes(64)


def _bad_p1() -> Iterable[Case]:
    lie = _lie(3, OTHER_HASHES[3])
    for name, outcome, low, high in (
        ("the same head", "refused", head(3), head(3)),
        ("same hash, expired differs", "refused", head(3, 1), head(3, 2)),
        ("other place", "refused", head(3), head(4)),
        ("other room", "refused", head(3), _foreign(3, OTHER_HASHES[3])),
        ("other log", "refused", head(3), _other_log(3, OTHER_HASHES[3])),
        ("signed by another key", "refused", head(3), _usurped(3, OTHER_HASHES[3])),
        ("bad signature, first", "refused", _unsigned(head(3)), lie),
        ("bad signature, second", "refused", head(3), _unsigned(lie)),
        ("bad signature, both", "refused", _unsigned(head(3)), _unsigned(lie)),
        ("hash changed, not signed", "refused", head(3), flipped(head(3).packed, 40)),
        ("place 0 twice, both (0, log id)", "refused", head(0), _start()),
        ("(0, another h), not signed", "refused", head(0), _start(fixed("strange"))),
        ("(0, another h) and (0, log id), not signed", "refused", _start(), _start(bytes(32))),
        ("(0, log id) of another log", "refused", _lie(0, fixed("strange")), _second_start()),
        ("expired above n = 0", "malformed", _lie(0, fixed("strange")), _expired_start()),
        ("n 2^63", "malformed", _lie(2**63, HASHES[3]), _lie(2**63, OTHER_HASHES[3])),
        ("head of 143 bytes", "malformed", head(3), lie.packed[:-1]),
        ("expired above n", "malformed", head(3), _lie(3, OTHER_HASHES[3], 4)),
    ):
        yield _proof(name, outcome, "P1", low, high)
    key = OTHER_LOG_KEY.public
    yield _proof("another log key accused", "refused", "P1", head(3), lie, log_key=key)


def _bad_p2() -> Iterable[Case]:
    fork, x, ids = _lie(6, OTHER_HASHES[6]), OTHER_HASHES[3], OTHER_IDS[3:6]
    honest, h3, mine = head(6), HASHES[3], IDS[3:6]
    yield _proof("x is h", "refused", "P2", head(3), honest, mine, h3)
    yield _proof("x is h and one byte more", "refused", "P2", head(3), honest, mine, h3 + b"\1")
    yield _proof("x is h without its last byte", "refused", "P2", head(3), honest, mine, h3[:-1])
    yield _proof("no x", "refused", "P2", head(3), honest, mine, b"")
    start = GENESIS.log
    yield _proof("x is h, which nobody signed", "refused", "P2", _start(), honest, IDS[:6], start)
    odd = _start(x)
    yield _proof("(0, another h), not signed", "refused", "P2", odd, honest, IDS[:6], start)
    yield _proof("one id too few", "refused", "P2", head(3), honest, mine[1:], HASHES[4])
    yield _proof("only the last id", "refused", "P2", head(3), honest, mine[2:], HASHES[5])
    yield _proof("one id too many", "refused", "P2", head(3), honest, IDS[2:6], HASHES[2])
    yield _proof("no ids", "refused", "P2", head(3), honest, [], HASHES[6])
    yield _proof("x does not fold", "refused", "P2", head(3), honest, mine, x)
    yield _proof("an id changed", "refused", "P2", head(3), fork, [*ids[:2], IDS[0]], x)
    yield _proof("ids exchanged", "refused", "P2", head(3), fork, [ids[1], ids[0], ids[2]], x)
    yield _proof("an id of 31 bytes", "refused", "P2", head(3), fork, [*ids[:2], ids[2][:-1]], x)
    shifted = _lie(6, ledger.chain(x, 1, ids)[-1])
    yield _proof("ids folded at other places", "refused", "P2", head(3), shifted, ids, x)
    yield _proof("the later head first", "refused", "P2", fork, head(3), ids, x)
    yield _proof("an id of 33 bytes", "refused", "P2", head(3), fork, [*ids[:2], ids[2] + b"\0"], x)
    yield _proof("the same place", "refused", "P2", head(6), fork, [], x)
    yield _proof("other room", "refused", "P2", _foreign(3, h3), fork, ids, x)
    yield _proof("other log", "refused", "P2", _other_log(3, h3), fork, ids, x)
    yield _proof("bad signature, first", "refused", "P2", _unsigned(head(3)), fork, ids, x)
    yield _proof("bad signature, second", "refused", "P2", head(3), _unsigned(fork), ids, x)
    key = OTHER_LOG_KEY.public
    yield _proof("another log key accused", "refused", "P2", head(3), fork, ids, x, key)


def _unfounded() -> Head:
    """What the ids of TWICE give where they do not begin at the log id."""
    return _lie(5, ledger.chain(OTHER_HASHES[3], 1, TWICE)[-1])


def _bad_p3() -> Iterable[Case]:
    twice, ids = _lie(5, TWICE_HASHES[5]), TWICE[1:]
    yield _proof("no id twice", "refused", "P3", head(1), head(5), IDS[1:5])
    yield _proof("no id twice, from (0, log id)", "refused", "P3", _start(), head(5), IDS[:5])
    bare = _start(OTHER_HASHES[3])
    yield _proof("(0, another h), not signed", "refused", "P3", bare, _unfounded(), TWICE)
    cut = [*TWICE[1:3], IDS[1][:-1], IDS[4]]
    yield _proof("an id of 31 bytes", "refused", "P3", head(1), twice, cut)
    yield _proof("one id too many", "refused", "P3", head(1), head(5), [IDS[1], *IDS[1:5]])
    yield _proof("one id too few", "refused", "P3", head(1), twice, ids[1:])
    again = ledger.chain(HASHES[3], 4, [IDS[0], IDS[4]])
    yield _proof("the other one is before n", "refused", "P3", head(3), _lie(5, again[-1]),
                 [IDS[0], IDS[4]])  # fmt: skip
    yield _proof("ids do not fold", "refused", "P3", head(1), head(5), ids)
    yield _proof("folds from another hash", "refused", "P3", _lie(1, OTHER_HASHES[1]), twice, ids)
    yield _proof("other room", "refused", "P3", _foreign(1, HASHES[1]), twice, ids)
    yield _proof("other log", "refused", "P3", _other_log(1, HASHES[1]), twice, ids)
    yield _proof("bad signature, first", "refused", "P3", _unsigned(head(1)), twice, ids)
    yield _proof("bad signature, second", "refused", "P3", head(1), _unsigned(twice), ids)
    yield _proof("the later head first", "refused", "P3", twice, head(1), ids)
    key = OTHER_LOG_KEY.public
    yield _proof("another log key accused", "refused", "P3", head(1), twice, ids, log_key=key)


# --- seen.json ------------------------------------------------------------------------------------

MY_IDS = [*IDS[:5], *(fixed(f"later id {n}") for n in range(6, 9))]
MY_HASHES = [SECOND.log, *ledger.chain(SECOND.log, 1, MY_IDS)]


def make_seen() -> list[Case]:
    """The `seen` of an entry, and what it says about the server or its author (section 9).

    The log is the second one, which kept five entries of the first.
    """
    return [*_good_seen(), *_bad_seen(), *_seen_in_the_third(), *_heard()]


def _mine(n: int, h: bytes | None = None) -> Head:
    """A signed head of the second log."""
    return LOG_KEY.sign_head(ROOM.tag, SECOND.log, n, MY_HASHES[n] if h is None else h, 0)


def _seen_case(
    name: str,
    outcome: str,
    place: int,
    seen: bytes | Head,
    logs: Sequence[Genesis] = (SECOND, GENESIS),
    ids: Sequence[bytes] = tuple(MY_IDS),
) -> Case:
    return case(
        name,
        outcome,
        room_tag=ROOM.tag,
        log_key=LOG_KEY.public,
        lineage=born(*logs),
        ids=list(ids),
        place=place,
        seen=seen.packed if isinstance(seen, Head) else seen,
    )


def _good_seen() -> Iterable[Case]:
    yield _seen_case("nothing seen", "ok", 1, bytes(144))
    yield _seen_case("place 0 of this log", "ok", 1, _mine(0))
    yield _seen_case("place 0 of an unknown log, not signed", "ok", 1, _seen(0, 0))
    yield _seen_case("place 0 of this log, h is not its id", "ok", 8, _unsigned(_mine(0, ODD)))
    yield _seen_case("mine", "ok", 8, _mine(3))
    yield _seen_case("mine, right before its place", "ok", 8, _mine(7))
    yield _seen_case("mine, not signed", "ok", 8, _unsigned(_mine(7)))
    yield _seen_case("the parent's, at its end", "ok", 8, head(5))
    yield _seen_case("the parent's, not signed", "ok", 4, _unsigned(head(3)))


ODD = fixed("odd hash")


def _bad_seen() -> Iterable[Case]:
    for name, outcome, place, seen in (
        ("mine, h differs", "fork", 8, _mine(7, ODD)),
        ("mine, at its own place", "fork", 7, _mine(7)),
        ("mine, beyond its place", "fork", 3, _mine(7)),
        ("mine, beyond my end", "fork", 8, _mine(9, ODD)),
        ("mine, at the last place", "fork", 8, _mine(2**63 - 1, ODD)),
        ("the parent's, h differs", "fork", 8, _lie(5, ODD)),
        ("the parent's, beyond its end", "lost", 8, head(6)),
        ("the parent's, beyond its end and its place", "lost", 6, head(8)),
        ("another log, unnamed", "other log", 8, _other(3, ODD)),
        ("another log, beyond my end", "other log", 8, _other(99, ODD)),
    ):
        yield _seen_case(name, outcome, place, seen)
        yield _seen_case(f"{name}, not signed", "forged", place, _unsigned(seen))
    foreign = LOG_KEY.sign_head(OTHER_ROOM.tag, SECOND.log, 7, ODD, 0)
    yield _seen_case("mine, h differs, of another room", "forged", 8, foreign)
    usurped = OTHER_LOG_KEY.sign_head(ROOM.tag, SECOND.log, 7, ODD, 0)
    yield _seen_case("mine, h differs, of another key", "forged", 8, usurped)


def _other(n: int, h: bytes) -> Head:
    return LOG_KEY.sign_head(ROOM.tag, fixed("unnamed log"), n, h, 0)


def _seen_in_the_third() -> Iterable[Case]:
    """The third log kept two entries of the second, and so two of the first."""
    ids = [*IDS[:2], *(fixed(f"third id {n}") for n in range(3, 9))]
    for name, outcome, seen in (
        ("the grandparent's, at the smallest end", "ok", head(2)),
        ("the grandparent's, beyond the smallest end", "lost", head(4)),
        ("the grandparent's, h differs", "fork", _lie(2, ODD)),
        ("the parent's, folded under its own id", "ok", _mine(2)),
        ("the parent's, folded under the grandparent's", "fork", _mine(2, HASHES[2])),
        ("the parent's, beyond its end of two", "lost", _mine(3)),
    ):
        yield _seen_case(name, outcome, 8, seen, (THIRD, SECOND, GENESIS), ids)


def _heard() -> Iterable[Case]:
    """Heads of beats above my end, where `heard_at` entries are checked: kept till then."""
    for name, outcome, heard_at, seen in (
        ("mine, above my end", "ok", 3, _mine(7)),
        ("mine, above my end, h differs", "fork", 3, _mine(7, ODD)),
        ("the parent's, above my end", "ok", 3, head(4)),
        ("the parent's, above my end, at its own", "ok", 4, head(5)),
        ("the parent's, above my end, h differs", "fork", 3, _lie(4, ODD)),
    ):
        made = _seen_case(f"heard: {name}", outcome, len(MY_IDS) + 1, seen)
        yield {**made, "heard_at": heard_at, "when_heard": "kept"}


# --- verify.json ----------------------------------------------------------------------------------

MEMBERS = {ALICE.public: "alice", BOB.public: "Bøb 🐟"}


def make_verify() -> list[Case]:
    """The code, and what one hears from somebody who sees something else."""
    mine = ROOM.verification_code(head(8, 3), MEMBERS.items())
    reordered = dict(reversed(MEMBERS.items()))
    cases = [
        _verify("nobody", ROOM, head(1), {}),
        _verify("two members", ROOM, head(8, 3), MEMBERS),
        _verify("two members, given in another order", ROOM, head(8, 3), reordered),
        _verify("a name of 128 bytes", ROOM, head(8, 3), {ALICE.public: "🐟" * 32}),
    ]
    renamed = {**MEMBERS, BOB.public: "bob"}
    third = Author(fixed("eve's master seed"), ROOM).public
    elsewhere = LOG_KEY.sign_head(ROOM.tag, SECOND.log, 8, HASHES[8], 3)
    for name, room, at, members in (
        ("another name", ROOM, head(8, 3), renamed),
        ("another key", ROOM, head(8, 3), {ALICE.public: "alice", third: "Bøb 🐟"}),
        ("names exchanged", ROOM, head(8, 3), dict(zip(MEMBERS, ("Bøb 🐟", "alice"), strict=True))),
        ("one member more", ROOM, head(8, 3), {**MEMBERS, third: "eve"}),
        ("one member less", ROOM, head(8, 3), {ALICE.public: "alice"}),
        ("another place", ROOM, head(7, 3), MEMBERS),
        ("another hash", ROOM, _lie(8, OTHER_HASHES[8], 3), MEMBERS),
        ("another expired", ROOM, head(8, 2), MEMBERS),
        ("another log", ROOM, elsewhere, MEMBERS),
        ("another root", OTHER_ROOM, head(8, 3), MEMBERS),
    ):
        made = _verify(name, room, at, members, spoken=mine)
        cases.append({**made, "outcome": "refused"})
    return cases


def _verify(
    name: str, room: RoomKeys, at: Head, members: dict[bytes, str], spoken: list[str] | None = None
) -> Case:
    """`spoken` is what the other one reads out; without it, the same words."""
    said = room.verification_code(at, members.items())
    password = room.verification_password(at, members.items())
    return case(
        name,
        "ok",
        root=room.root,
        log=at.log,
        n=at.n,
        h=at.hash,
        expired=at.expired,
        members=[[key, label] for key, label in members.items()],
        spoken=spoken or said,
        room_tag=room.tag,
        data=verification_data(at, members),
        password=password,
        code=verification_code(password, room),
        words=said,
    )


# --- invites.json ---------------------------------------------------------------------------------

BROKER = invite.Origin(CURVE_KEY, LOG_KEY.public)
ORIGIN = invite.Origin(fixed("origin's curve key"), OTHER_LOG_KEY.public)


def make_invites() -> list[Case]:
    """Invites read and written, and lines that are refused."""
    newer = [case(name, "newer", line=line) for name, line in _newer_invites()]
    refused = [case(name, "refused", line=line) for name, line in _bad_invites()]
    return [*_good_invites(), *newer, *refused]


def _line(
    host: str, room: str, origin: invite.Origin = BROKER, keys: invite.Origin = BROKER
) -> str:
    return str(invite.Invite(invite.Server(host, 7000, keys), room, origin))


def _good_invites() -> Iterable[Case]:
    plainly = _line("chat.example.org", "lobby")
    for name, line in {
        "name": plainly,
        "IPv4": _line("192.0.2.7", "lobby"),
        "IPv6": _line("2001:db8::7", "lobby"),
        "IPv6 that holds an IPv4": _line("::ffff:192.0.2.7", "lobby"),
        "stem": _line("chat.example.org", ""),
        "room that moved": _line("chat.example.org", "lobby", ORIGIN),
        "room beyond ASCII": _line("chat.example.org", "grüße-世界"),
        "room of reserved characters": _line("chat.example.org", "a/b#c?d%e@f:g&h+i"),
        "room of unreserved characters": _line("chat.example.org", "a-b.c_d~e"),
        "room of 64 bytes": _line("chat.example.org", "ä" * 32),
        "port 1": plainly.replace(":7000", ":1"),
        "port 65535": plainly.replace(":7000", ":65535"),
        "percent signs in lower case": _line("h", "grün").replace("%C3%BC", "%c3%bc"),
        "more percent signs than needed": plainly.replace("/lobby", "/%6cobby"),
        "room name not canonical": plainly.replace("/lobby", "/LOBBY"),
        "room name of 64 bytes after NFKC": plainly.replace("/lobby", "/" + "%EF%BD%92" * 64),
        "room of every unreserved sign": plainly.replace("/lobby", "/-._~"),
        "host of one digit": _line("7", "lobby"),
        "host of digits and dots that is no IPv4": _line("999.1.2.3.4", "lobby"),
        "host of every sign": _line("a-._Z9", "lobby"),
        "host with a dot at its end": _line("chat.example.org.", "lobby"),
        "host of 253 letters": _line("h" * 253, "lobby"),
        "IPv6 in capitals": _line("2001:DB8::7", "lobby"),
        "line of 1,024 characters": _long_line(1_024),
    }.items():
        read = invite.parse_invite(line)
        moved = read.origin != read.server.keys
        fragment = line.partition("#")[2]
        yield case(
            name,
            "ok",
            line=line,
            host=read.server.host,
            port=read.server.port,
            room=read.room,
            curve_key=read.server.keys.curve_key,
            log_key=read.server.keys.log_key,
            origin=[read.origin.curve_key, read.origin.log_key] if moved else [],
            payload=base64.urlsafe_b64decode(fragment + "=" * (-len(fragment) % 4)),
            written=str(read),
        )


def _long_line(length: int) -> str:
    """A room name that is 768 characters here and 64 canonical ones, and a host that fills up."""
    room = quote("\U0001d41a" * 64)
    rest = _line("", "lobby").replace("/lobby", f"/{room}")
    return rest.replace("//", f"//{'h' * (length - len(rest))}", 1)


def _fragment(data: bytes) -> str:
    whole = data + digest(Label.INVITE, 4, data)
    return base64.urlsafe_b64encode(whole).decode().rstrip("=")


# What becomes of a good line: its name, what is replaced, and by what.
BAD_ADDRESSES = (
    ("query part", "#", "?cost=1#"),
    ("empty query part", "#", "?#"),
    ("user part", "//h", "//alice@h"),
    ("user and password", "//h", "//alice:secret@h"),
    ("no port", ":7000", ""),
    ("empty port", ":7000", ":"),
    ("port 0", ":7000", ":0"),
    ("port 65536", ":7000", ":65536"),
    ("negative port", ":7000", ":-1"),
    ("port with a sign", ":7000", ":+7000"),
    ("port in other digits", ":7000", ":٧"),
    ("no host", "//h", "//"),
    ("space in the host", "//h", "//h h"),
    ("IPv6 without brackets", "//h", "//2001:db8::7"),
    ("IPv6 with a bracket too few", "//h", "//[2001:db8::7"),
    ("IPv6 that is none", "//h", "//[2001:db8:::7]"),
    ("IPv6 in brackets that is a name", "//h", "//[localhost]"),
    ("IPv6 in brackets that is of a version to come", "//h", "//[v1.a]"),
    ("IPv4 in brackets", "//h", "//[192.0.2.7]"),
    ("port with a zero in front", ":7000", ":07000"),
    ("port of six digits", ":7000", ":100000"),
    ("port with a space", ":7000", ": 7000"),
    ("host begins with a dot", "//h", "//.h"),
    ("host begins with a hyphen", "//h", "//-h"),
    ("host begins with an underscore", "//h", "//_h"),
    ("host beyond ASCII", "//h", "//grün"),
    ("host with a percent sign", "//h", "//h%41"),
    ("host of 254 letters", "//h", "//" + "h" * 254),
    ("IPv6 with a zone", "//h", "//[fe80::1%25eth0]"),
    ("IPv6 with a zone, its percent sign bare", "//h", "//[fe80::1%eth0]"),
    ("IPv6, nothing in the brackets", "//h", "//[]"),
    ("IPv6 with a prefix length", "//h", "//[2001:db8::/32]"),
    ("IPv6 and a letter behind the bracket", "//h", "//[2001:db8::7]h"),
    ("other scheme", "zchat:", "https:"),
    ("no scheme", "zchat://", ""),
    ("one slash", "zchat://", "zchat:/"),
)
BAD_ROOMS = (
    ("no slash", "/lobby", ""),
    ("two parts of a path", "/lobby", "/lobby/more"),
    ("slash at the end", "/lobby", "/lobby/"),
    ("room: percent sign and no hex", "lobby", "lob%zzby"),
    ("room: percent sign at the end", "lobby", "lobby%"),
    ("room: one hex digit", "lobby", "lobby%6"),
    ("room: hex with a sign", "lobby", "lob%+1by"),
    ("room: hex in other digits", "lobby", "lob%٦١by"),
    ("room: a reserved character as it is", "lobby", "lob!by"),
    ("room: a plus as it is", "lobby", "lob+by"),
    ("room: an at sign as it is", "lobby", "lob@by"),
    ("room: a colon as it is", "lobby", "lob:by"),
    ("room: a space as it is", "lobby", "lob by"),
    ("room: beyond ASCII as it is", "lobby", "grün"),
    ("room: an overlong form", "lobby", "lob%c0%afby"),
    ("room: not UTF-8", "lobby", "lob%ffby"),
    ("room: a surrogate", "lobby", "lob%ed%a0%80by"),
    ("room: a space", "lobby", "lob%20by"),
    ("room: a zero byte", "lobby", "lob%00by"),
    ("room: 65 bytes", "lobby", "r" * 65),
)


def _bad_invites() -> Iterable[tuple[str, str]]:
    yield from _bad_fragments()
    good = _line("h", "lobby")
    for name, old, new in (*BAD_ADDRESSES, *BAD_ROOMS):
        yield name, good.replace(old, new, 1)
    yield "no fragment", good.partition("#")[0]
    yield "empty", ""
    yield "empty fragment", good.partition("#")[0] + "#"
    yield "two fragments", good + "#more"
    yield "query part in the fragment", good + "?cost=1"
    yield "space in front", " " + good
    yield "space at the end", good + " "
    yield "LF at the end", good + "\n"
    yield "line of 1,025 characters", _long_line(1_025)


def _newer_invites() -> Iterable[tuple[str, str]]:
    """A first byte that is not 1, and behind it what this version cannot know."""
    start = _line("h", "lobby").partition("#")[0]
    keys = BROKER.curve_key + BROKER.log_key
    yield "newer version", f"{start}#{_fragment(bytes([2]) + keys)}"
    yield "newer version, longer", f"{start}#{_fragment(bytes([2]) + keys + bytes(33))}"
    yield "newer version, other check", f"{start}#{_unlabelled(bytes([2]) + keys)}"
    yield "newer version, one byte", f"{start}#Ag"
    yield "newer version, a stem with an origin", f"{_stem()}#{_fragment(bytes([2]) + keys * 2)}"
    fragment = _line("h", "lobby").partition("#")[2]
    yield "letter 1 mangled, which makes the version 0", f"{start}#AA{fragment[2:]}"
    yield "version 0", f"{start}#{_fragment(bytes([0]) + keys)}"
    yield "version 255", f"{start}#{_fragment(bytes([255]) + keys)}"


def _stem() -> str:
    return _line("h", "").partition("#")[0]


def _bad_fragments() -> Iterable[tuple[str, str]]:
    good = _line("h", "lobby")
    moved = _line("h", "lobby", ORIGIN)
    start, _, fragment = good.partition("#")
    keys = BROKER.curve_key + BROKER.log_key
    for at in (2, 30, 60, 91):
        letter = "A" if fragment[at] != "A" else "B"
        yield f"letter {at} mangled", f"{start}#{fragment[:at]}{letter}{fragment[at + 1 :]}"
    yield (
        "two letters exchanged",
        f"{start}#{fragment[:40]}{fragment[41]}{fragment[40]}{fragment[42:]}",
    )
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_".index(moved[-1])
    yield "room that moved: last letter mangled", moved[:-1] + _letter(last ^ 1)
    yield "cut off by one letter", good[:-1]
    yield "cut off by four letters", good[:-4]
    yield "cut off in the middle", good[: -len(fragment) // 2]
    yield "room that moved: cut off to one broker", moved[: len(good)]
    yield "one letter more", good + "A"
    yield "four letters more", good + "AAAA"
    first = bytes([1])
    yield "origin equal to the keys", f"{start}#{_fragment(first + keys * 2)}"
    yield "origin in a stem", f"{_stem()}#{_fragment(first + keys + ORIGIN.curve_key * 2)}"
    yield "version alone", f"{start}#AQ"
    yield "newer version, not in its one encoding", f"{start}#Ah"
    yield "one key", f"{start}#{_fragment(bytes([1]) + keys[:32])}"
    yield "three keys", f"{start}#{_fragment(bytes([1]) + keys + keys[:32])}"
    yield "one byte more, checked", f"{start}#{_fragment(bytes([1]) + keys + bytes(1))}"
    yield "check of another label", f"{start}#{_unlabelled(bytes([1]) + keys)}"
    yield "padding", moved + "=="
    yield "padding where none is due", good + "===="
    dashes = _line("h", "lobby", keys=invite.Origin(b"\xfb" * 32, b"\xfb" * 32),
                   origin=invite.Origin(b"\xfb" * 32, b"\xfb" * 32))  # fmt: skip
    yield "plus for minus", dashes.replace("-", "+")
    scores = _line("h", "lobby", keys=invite.Origin(b"\xff" * 32, b"\xff" * 32),
                   origin=invite.Origin(b"\xff" * 32, b"\xff" * 32))  # fmt: skip
    yield "slash for underscore", scores.replace("_", "/")
    yield "line break in the fragment", f"{good[:-20]}\n{good[-20:]}"
    yield "space in the fragment", f"{good[:-20]} {good[-20:]}"


def _letter(index: int) -> str:
    return base64.urlsafe_b64encode(bytes([index << 2])).decode()[0]


def _unlabelled(data: bytes) -> str:
    whole = data + hashlib.blake2b(data, digest_size=4).digest()
    return base64.urlsafe_b64encode(whole).decode().rstrip("=")


# --- batches.json ---------------------------------------------------------------------------------


def make_batches() -> list[Case]:
    """Items of both sorts, and rows that are cut off or too long."""
    other = forged(body.encode(TEXT))
    bare = wire.pack_item(IDS[0], None)
    full = wire.pack_item(b"", GOOD)
    good: dict[str, list[tuple[bytes, bytes | None]]] = {
        "empty": [],
        "one bare id": [(IDS[0], None)],
        "one envelope": [(envelope_id(GOOD), GOOD)],
        "both sorts": [(IDS[0], None), (envelope_id(GOOD), GOOD), (IDS[1], None)],
        "two envelopes": [(envelope_id(GOOD), GOOD), (envelope_id(other), other)],
        "an id twice": [(IDS[0], None)] * 2,
        "512 bare ids": [(IDS[0], None)] * 512,
        "512 items of one byte": [_odd(b"x")] * 512,
        "an item of one byte": [_odd(b"x")],
        "an item of 32 bytes": [_odd(IDS[0])],
        "an item of 69,633 bytes": [_odd(b"x" * 69_633)],
        "an item that fills the batch": [_odd(b"x" * (196_608 - 4))],
        "odd items between": [(IDS[0], None), _odd(b"xy"), (IDS[1], None), _odd(GOOD[:-1])],
    }
    bad = {
        "half a length": b"\0\0",
        "a length and nothing": bytes(4),
        "bare id cut off": bare[:-1],
        "second bare id cut off": bare + bare[:-1],
        "envelope cut off": full[:-1],
        "envelope and half a length": full + b"\0",
        "one byte behind": bare + b"\0",
        "three bytes behind": bare + bytes(3),
        "length all ones": b"\xff\xff\xff\xff" + GOOD,
        "length little-endian": len(GOOD).to_bytes(4, "little") + GOOD,
        "length one too high": (len(GOOD) + 1).to_bytes(4, "big") + GOOD,
        "bare id of no bytes, and an envelope": bytes(4) + full[:20],
        "bare id cut off behind an item of one byte": b"\0\0\0\1x" + bare[:-1],
        "item of one byte cut off": b"\0\0\0\1",
        "513 bare ids": bare * 513,
        "513 items of one byte": b"\0\0\0\1x" * 513,
        "512 bare ids and a zero byte": bare * 512 + b"\0",
    }
    cases = [
        case(
            name,
            "ok",
            batch=wire.pack_batch(items),
            lengths=[len(e or b"") for _, e in items],
            ids=b"".join(i for i, _ in items),
        )
        for name, items in good.items()
    ]
    return cases + [case(name, "malformed", batch=raw) for name, raw in bad.items()]


def _odd(item: bytes) -> tuple[bytes, bytes]:
    return envelope_id(item), item


# --- frames.json ----------------------------------------------------------------------------------

TAG, NO_TAG, ZERO = ROOM.tag, b"", bytes(32)
HELLO = wire.Hello(7, 1, "zchat/0.1")
READY = wire.Ready(7, 1, "zchat/0.1", LOG_KEY.public, 2_000, 50)
POSITION = wire.Position(TAG, GENESIS.log, 1, 8, HASHES[8], 65_536)
JOIN = wire.Join(8, (POSITION,))
PAGE = wire.Page(9, TAG, GENESIS.log, 1, 8, False)
POST = wire.Post(TAG, 1)
LEAVE = wire.Leave(10, TAG)
STORED = wire.Stored(TAG, 1, GENESIS.log, 8, HASHES[7], head(8).packed)
ENTRIES = wire.Entries(8, TAG, GENESIS.log, 8, HASHES[7], head(8, 8).packed, 8, ())
REFUSE = wire.Refuse(0, 3, "rate", TAG, 1_500, "slow down")


def make_frames() -> list[Case]:
    """Words as frames, both ways, and how a member takes a READY."""
    return [*_good_to_broker(), *_good_to_member(), *_bad_frames(), *_greetings()]


def _good_to_broker() -> Iterable[Case]:
    fresh = wire.Position(TAG, ZERO, 0, 0, ZERO, 0)
    tip = wire.Position(TAG, GENESIS.log, 2**63 - 1, 2**63 - 1, ZERO, 1_048_576)
    last = wire.Page(1, TAG, GENESIS.log, 2**63 - 1, 2**63 - 1, False)
    for name, word, second in (
        ("HELLO", HELLO, None),
        ("HELLO, protocol 0", wire.Hello(1, 0, "s"), None),
        ("HELLO, protocol 2", wire.Hello(2**63 - 1, 2, "ß" * 64), None),
        ("JOIN", JOIN, None),
        ("JOIN of three rooms", wire.Join(1, (POSITION, fresh, tip)), None),
        ("JOIN of a room twice", wire.Join(1, (POSITION, POSITION)), None),
        ("JOIN of 64 rooms", wire.Join(1, (fresh,) * 64), None),
        ("PAGE", PAGE, None),
        ("PAGE of bare ids", wire.Page(1, TAG, GENESIS.log, 5, 5, True), None),
        ("PAGE of the last place", last, None),
        ("PAGE whose first is beyond its last", wire.Page(1, TAG, ZERO, 6, 5, True), None),
        ("POST", POST, GOOD),
        ("POST of no bytes, last number", wire.Post(TAG, 2**63 - 1), b""),
        ("POST at its bound", POST, bytes(69_632)),
        ("CAST to the broker", wire.Cast(TAG), GOOD),
        ("CAST at its bound", wire.Cast(TAG), bytes(1_024)),
        ("LEAVE", LEAVE, None),
    ):
        yield _frames(name, "broker", word, wire.encode(word, second))


def _good_to_member() -> Iterable[Case]:
    one, ids = wire.pack_item(IDS[7], None), wire.pack_batch((i, None) for i in IDS)
    (birth,) = born(GENESIS)
    log, at_end = GENESIS.log, head(8).packed
    last = _seen(2**63 - 1, 2**63 - 1)
    full = wire.pack_batch([_odd(b"x" * (196_608 - 4))])
    for name, word, second in (
        ("READY", READY, None),
        ("STORED", STORED, one),
        ("STORED, eight ids", wire.Stored(TAG, 8, log, 1, log, at_end), ids),
        ("STORED, last place", wire.Stored(TAG, 2**63 - 1, log, 2**63 - 1, ZERO, last), one),
        ("CAST to a member", wire.Cast(TAG), GOOD),
        ("ENTRIES", ENTRIES, one),
        ("ENTRIES, an envelope and ids", ENTRIES, one + wire.pack_item(b"", GOOD) + one),
        ("ENTRIES, items that are no envelopes", ENTRIES, wire.pack_batch([_odd(b"x")] * 2)),
        ("ENTRIES at its bound", ENTRIES, full),
        ("ENTRIES, no room", wire.Entries(1, TAG, ZERO, 1, ZERO, b"", 0, ()), b""),
        (
            "ENTRIES with a lineage of 16",
            wire.Entries(0, TAG, log, 1, log, at_end, 8, (birth,) * 16),
            b"",
        ),
        ("REFUSE of a POST", REFUSE, None),
        ("REFUSE of a PAGE", wire.Refuse(9, 0, "no-log", TAG, 0, ""), None),
        ("REFUSE of a HELLO, no room", wire.Refuse(7, 0, "rate", b"", 1_000, "slow"), None),
        ("REFUSE, code not listed", wire.Refuse(5, 0, "new", b"", 0, "ß" * 200), None),
        ("REFUSE, longest", wire.Refuse(0, 2**63 - 1, "c" * 32, TAG, 86_400_000, ""), None),
    ):
        yield _frames(name, "member", word, wire.encode(word, second))


def _greetings() -> Iterable[Case]:
    """READY as the answer to a HELLO whose `req` was 1, from one who holds an invite."""
    for name, outcome, protocol, invited in (
        ("READY: protocol 1, the invite's log key", "ok", 1, LOG_KEY),
        ("READY: protocol 0", "disconnect", 0, LOG_KEY),
        ("READY: protocol 2", "disconnect", 2, LOG_KEY),
        ("READY: protocol 2^63-1", "disconnect", 2**63 - 1, LOG_KEY),
        ("READY: another log key than the invite's", "disconnect", 1, OTHER_LOG_KEY),
        ("READY: neither", "disconnect", 2, OTHER_LOG_KEY),
    ):
        word = wire.Ready(1, protocol, "zchat/0.1", LOG_KEY.public, 1, 1)
        made = _frames(name, "member", word, wire.encode(word))
        yield {**made, "invite_log_key": invited.public.hex(), "outcome": outcome}


def _frames(name: str, to: str, word: wire.Word, frames: Sequence[bytes]) -> Case:
    fields: dict[str, object] = msgspec.msgpack.decode(mp(word))
    kind = fields.pop("word")
    return case(name, "ok", to=to, frames=list(frames), word=kind, fields=fields)


def _name(word: wire.Word) -> str:
    return type(word).__name__.upper()


def _change(word: wire.Word, changes: dict[str, object]) -> bytes:
    """Frame 0 of a word with some values changed or added."""
    return mp({**msgspec.msgpack.decode(mp(word)), **changes})


def _omit(word: wire.Word, key: str) -> bytes:
    return mp({k: v for k, v in msgspec.msgpack.decode(mp(word)).items() if k != key})


def _bad_frames() -> Iterable[Case]:
    sources: tuple[Callable[[], Iterable[tuple[str, str, list[bytes]]]], ...]
    sources = (
        *(_bad_messages, _bad_maps, _bad_orders, _bad_forms),
        *(_bad_fields_to_broker, _bad_fields_to_member, _bad_batches),
    )
    for name, to, frames in itertools.chain.from_iterable(source() for source in sources):
        yield case(name, "malformed", to=to, frames=frames)


def _bad_messages() -> Iterable[tuple[str, str, list[bytes]]]:
    yield "no frame", "broker", []
    yield "three frames", "broker", [mp(POST), GOOD, b""]
    yield "HELLO with a second frame", "broker", [mp(HELLO), b""]
    yield "POST without one", "broker", [mp(POST)]
    yield "CAST without one", "broker", [mp(wire.Cast(TAG))]
    yield "ENTRIES without one", "member", [mp(ENTRIES)]
    yield "STORED without one", "member", [mp(STORED)]
    yield "REFUSE with one", "member", [mp(REFUSE), b""]
    yield "POST beyond its bound", "broker", [mp(POST), bytes(69_633)]
    yield "CAST beyond its bound", "broker", [mp(wire.Cast(TAG)), bytes(1_025)]
    yield "CAST to a member beyond its bound", "member", [mp(wire.Cast(TAG)), bytes(1_025)]
    yield "ENTRIES beyond its bound", "member", [mp(ENTRIES), bytes(196_609)]
    yield "STORED beyond its bound", "member", [mp(STORED), bytes(196_609)]
    yield "word beyond its bound", "broker", [_change(HELLO, {"software": "x" * 16_384})]
    for word, second in ((READY, []), (REFUSE, []), (ENTRIES, [b""]), (STORED, [b""])):
        yield f"{_name(word)} to the broker", "broker", [mp(word), *second]
    for asked in (HELLO, JOIN, PAGE, LEAVE):
        yield f"{_name(asked)} to a member", "member", [mp(asked)]
    yield "POST to a member", "member", [mp(POST), GOOD]


def _bad_maps() -> Iterable[tuple[str, str, list[bytes]]]:
    raw = mp(HELLO)
    for name, frame in {
        "empty": b"",
        "nil": b"\xc0",
        "an array": mp(["HELLO", 7, 1, "zchat/0.1"]),
        "no pairs": b"\x80",
        "word alone": mp({"word": "HELLO"}),
        "no word": _omit(HELLO, "word"),
        "word is not the first pair": mp(dict(reversed(msgspec.msgpack.decode(raw).items()))),
        "word unknown": _change(HELLO, {"word": "GOODBYE"}),
        "word in small letters": _change(HELLO, {"word": "hello"}),
        "word is bin": _change(HELLO, {"word": b"HELLO"}),
        "word is an integer": _change(HELLO, {"word": 1}),
        "cut off": raw[:-1],
        "a nil more": raw + b"\xc0",
        "one pair more": _change(HELLO, {"more": 1}),
        "pairs of no other word": b"\x85" + raw[1:] + b"\xa1k\x01",
        "word twice": b"\x85" + raw[1:] + b"\xa4word\xa5HELLO",
        "word twice, the first one alone": b"\x85" + raw[1:] + b"\xa4word\xa5LEAVE",
        "word twice at the beginning": b"\x85\xa4word\xa5HELLO" + raw[1:],
        "req twice": b"\x85" + raw[1:] + b"\xa3req\x07",
        "req twice, the first one alone": b"\x85" + raw[1:] + b"\xa3req\x08",
        "announces one pair more": b"\x85" + raw[1:],
        "announces one pair less": b"\x83" + raw[1:],
        "itself twice": raw * 2,
        "a zero byte more": raw + b"\0",
        "a key that is bin": raw.replace(b"\xa3req", b"\xc4\x03req"),
        "not UTF-8": raw.replace(b"zchat/0.1", b"zchat/0.\xff"),
        "word not UTF-8": raw.replace(b"HELLO", b"HELL\xff"),
        "key not UTF-8": raw.replace(b"\xa3req", b"\xa3re\xff"),
        "array longer than the frame": b"\xdd\xff\xff\xff\xff",
        "nested 15,000 deep": b"\x85" + raw[1:] + b"\xa1x" + b"\x91" * 15_000,
    }.items():
        yield f"HELLO: {name}", "broker", [frame]
    for word, to in ((JOIN, "broker"), (PAGE, "broker"), (READY, "member"), (REFUSE, "member")):
        for key in msgspec.msgpack.decode(mp(word)):
            name = f"{_name(word)}: no {key}"
            yield name, to, [_omit(word, key)]


def _bad_orders() -> Iterable[tuple[str, str, list[bytes]]]:
    """The right pairs, and not in their order."""
    free = {"word": "HELLO", "software": "s", "protocol": 1, "req": 1}
    yield "HELLO: pairs in another order", "broker", [mp(free)]
    for word, to, key, second in (
        (POST, "broker", "room", [GOOD]),
        (PAGE, "broker", "first", []),
        (READY, "member", "req", []),
        (STORED, "member", "before", [wire.pack_item(IDS[7], None)]),
        (ENTRIES, "member", "tip", [b""]),
        (REFUSE, "member", "req", []),
    ):
        frame = mp(_exchanged(msgspec.msgpack.decode(mp(word)), key))
        yield f"{_name(word)}: pairs in another order, {key} last", to, [frame, *second]
    position = _exchanged(msgspec.msgpack.decode(mp(POSITION)), "room")
    frame = _change(JOIN, {"rooms": [position]})
    yield "JOIN: pairs of a room in another order", "broker", [frame]


def _bad_forms() -> Iterable[tuple[str, str, list[bytes]]]:
    """The right pairs, and not in their shortest form."""
    for name, word, to, old, new in (
        ("integer in u8", HELLO, "broker", b"\xa3req\x07", b"\xa3req\xcc\x07"),
        ("integer in u16", HELLO, "broker", b"\xa3req\x07", b"\xa3req\xcd\0\x07"),
        ("integer in u32", HELLO, "broker", b"\xa3req\x07", b"\xa3req\xce\0\0\0\x07"),
        ("integer in u64", HELLO, "broker", b"\xa3req\x07", b"\xa3req\xcf" + u64(7)),
        ("integer in signed form", HELLO, "broker", b"\xa3req\x07", b"\xa3req\xd0\x07"),
        ("integer in signed u64", HELLO, "broker", b"\xa3req\x07", b"\xa3req\xd3" + u64(7)),
        ("word in long form", HELLO, "broker", b"\xa5HELLO", b"\xd9\x05HELLO"),
        ("key in long form", HELLO, "broker", b"\xa3req", b"\xd9\x03req"),
        ("map in long form", HELLO, "broker", b"\x84\xa4word", b"\xde\0\x04\xa4word"),
        ("map in longest form", HELLO, "broker", b"\x84\xa4", b"\xdf\0\0\0\x04\xa4"),
        ("bin in long form", PAGE, "broker", b"\xc4\x10", b"\xc5\0\x10"),
        ("array in long form", JOIN, "broker", b"\xa5rooms\x91", b"\xa5rooms\xdc\0\x01"),
        ("window in long form", JOIN, "broker", b"\xce\0\x01\0\0", b"\xcf" + u64(65_536)),
        ("sub in long form", JOIN, "broker", b"\xa3sub\x01", b"\xa3sub\xcc\x01"),
        ("retry_after_ms signed", REFUSE, "member", b"ms\xcd\x05\xdc", b"ms\xd1\x05\xdc"),
        ("text in long form", REFUSE, "member", b"\xa9slow down", b"\xd9\x09slow down"),
    ):
        frame = mp(word)
        assert frame.count(old) == 1 or name == "bin in long form", name
        yield f"{_name(word)}: {name}", to, [frame.replace(old, new, 1)]


def _bad_batches() -> Iterable[tuple[str, str, list[bytes]]]:
    bare, full = wire.pack_item(IDS[7], None), wire.pack_item(b"", GOOD)
    for name, batch in {
        "an envelope": full,
        "an envelope behind an id": bare + full,
        "an item of one byte": b"\0\0\0\1x",
    }.items():
        yield f"STORED: {name}", "member", [mp(STORED), batch]
    for word in (STORED, ENTRIES):
        yield f"{_name(word)}: bare id cut off", "member", [mp(word), bare[:-1]]
        yield f"{_name(word)}: 513 bare ids", "member", [mp(word), bare * 513]


def _bad_fields_to_broker() -> Iterable[tuple[str, str, list[bytes]]]:
    for word, second, key, value in (
        (HELLO, None, "req", 0),
        (HELLO, None, "req", 2**63),
        (HELLO, None, "req", -1),
        (HELLO, None, "req", 7.0),
        (HELLO, None, "req", "7"),
        (HELLO, None, "req", True),
        (HELLO, None, "req", None),
        (HELLO, None, "protocol", -1),
        (HELLO, None, "protocol", 2**63),
        (HELLO, None, "protocol", "1"),
        (HELLO, None, "software", ""),
        (HELLO, None, "software", "x" * 65),
        (HELLO, None, "software", b"zchat"),
        (JOIN, None, "rooms", []),
        (JOIN, None, "rooms", {}),
        (PAGE, None, "room", bytes(15)),
        (PAGE, None, "room", "r" * 16),
        (PAGE, None, "log", bytes(33)),
        (PAGE, None, "first", 0),
        (PAGE, None, "first", 2**63),
        (PAGE, None, "last", 0),
        (PAGE, None, "last", 2**63),
        (PAGE, None, "ids_only", 0),
        (PAGE, None, "ids_only", None),
        (POST, GOOD, "room", bytes(17)),
        (POST, GOOD, "room", base64.b64encode(TAG).decode()),
        (POST, GOOD, "k", 0),
        (POST, GOOD, "k", 2**63),
        (LEAVE, None, "room", b""),
    ):
        frames = [_change(word, {key: value})] + ([] if second is None else [second])
        shown = value.hex() if isinstance(value, bytes) else str(value)[:20]
        yield f"{_name(word)}: {key} {shown!a}", "broker", frames
    position = msgspec.msgpack.decode(mp(POSITION))
    for key, value in (
        ("room", bytes(15)),
        ("log", b""),
        ("sub", 2**63),
        ("sub", -1),
        ("after", 2**63),
        ("hash", bytes(31)),
        ("window", 1_048_577),
        ("more", 1),
    ):
        rooms = [{**position, key: value}]
        shown = value.hex() if isinstance(value, bytes) else str(value)
        yield f"JOIN: in a room, {key} {shown!a}", "broker", [_change(JOIN, {"rooms": rooms})]
    yield "JOIN: 65 rooms", "broker", [_change(JOIN, {"rooms": [position] * 65})]
    array = list(position.values())
    yield "JOIN: a room as an array", "broker", [_change(JOIN, {"rooms": [array]})]
    yield (
        "JOIN: rooms longer than the frame",
        "broker",
        [_change(JOIN, {"rooms": []})[:-1] + b"\xdd\xff\xff\xff\xff"],
    )


def _bad_fields_to_member() -> Iterable[tuple[str, str, list[bytes]]]:
    far, above, late = _seen(2**63, 0), _seen(3, 4), _seen(3, 2**63)
    (birth,) = born(GENESIS)
    for what, word, second, key, value in (
        ("0", READY, None, "req", 0),
        ("2^63", READY, None, "protocol", 2**63),
        ("-1", READY, None, "protocol", -1),
        ("2^63", READY, None, "post_burst", 2**63),
        ("2^63", READY, None, "post_rate", 2**63),
        ("31 bytes", READY, None, "log_key", bytes(31)),
        ("0", READY, None, "post_burst", 0),
        ("0", READY, None, "post_rate", 0),
        ("0", STORED, b"", "k", 0),
        ("2^63", STORED, b"", "k", 2**63),
        ("0", STORED, b"", "first", 0),
        ("2^63", STORED, b"", "first", 2**63),
        ("expired 2^63", STORED, b"", "head", late),
        ("empty", STORED, b"", "head", b""),
        ("143 bytes", STORED, b"", "head", bytes(143)),
        ("n 2^63", STORED, b"", "head", far),
        ("expired above n", STORED, b"", "head", above),
        ("31 bytes", STORED, b"", "before", bytes(31)),
        ("2^63", ENTRIES, b"", "req", 2**63),
        ("0", ENTRIES, b"", "first", 0),
        ("2^63", ENTRIES, b"", "first", 2**63),
        ("expired 2^63", ENTRIES, b"", "head", late),
        ("1 byte", ENTRIES, b"", "head", bytes(1)),
        ("143 bytes", ENTRIES, b"", "head", bytes(143)),
        ("145 bytes", ENTRIES, b"", "head", bytes(145)),
        ("n 2^63", ENTRIES, b"", "head", far),
        ("expired above n", ENTRIES, b"", "head", above),
        ("nil", ENTRIES, b"", "head", None),
        ("2^63", ENTRIES, b"", "tip", 2**63),
        ("17 births", ENTRIES, b"", "lineage", [birth] * 17),
        ("a birth of 199 bytes", ENTRIES, b"", "lineage", [birth[:-1]]),
        ("nil", ENTRIES, b"", "lineage", None),
        ("empty", REFUSE, None, "code", ""),
        ("33 letters", REFUSE, None, "code", "x" * 33),
        ("1 byte", REFUSE, None, "room", bytes(1)),
        ("8 bytes", REFUSE, None, "room", bytes(8)),
        ("15 bytes", REFUSE, None, "room", bytes(15)),
        ("17 bytes", REFUSE, None, "room", bytes(17)),
        ("201 letters", REFUSE, None, "text", "x" * 201),
        ("-1", REFUSE, None, "retry_after_ms", -1),
        ("86,400,001", REFUSE, None, "retry_after_ms", 86_400_001),
        ("2^63", REFUSE, None, "req", 2**63),
        ("-1", REFUSE, None, "req", -1),
        ("nil", REFUSE, None, "req", None),
        ("2^63", REFUSE, None, "k", 2**63),
        ("-1", REFUSE, None, "k", -1),
        ("nil", REFUSE, None, "k", None),
    ):
        frames = [_change(word, {key: value})] + ([] if second is None else [second])
        yield f"{_name(word)}: {key} {what}", "member", frames
    yield "REFUSE: text not UTF-8", "member", [mp(REFUSE).replace(b"slow", b"sl\xffw")]


# --- All of them ----------------------------------------------------------------------------------

MAKERS: dict[str, Callable[[], list[Case]]] = {
    "words": make_words,
    "passphrases": make_passphrases,
    "rooms": make_rooms,
    "keys": make_keys,
    "envelopes": make_envelopes,
    "bodies": make_bodies,
    "ledger": make_ledger,
    "proofs": make_proofs,
    "seen": make_seen,
    "verify": make_verify,
    "invites": make_invites,
    "batches": make_batches,
    "frames": make_frames,
}


def render(cases: list[Case]) -> str:
    """A file of cases, one to a line."""
    return "[\n" + ",\n".join(json.dumps(made) for made in cases) + "\n]\n"


def main() -> None:
    """Write every file."""
    FOLDER.mkdir(exist_ok=True)
    for name, make in MAKERS.items():
        (FOLDER / f"{name}.json").write_text(render(make()), "utf-8")


if __name__ == "__main__":
    main()
