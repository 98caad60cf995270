"""A second implementation of the protocol, from docs/protocol.md alone.

The rules of this file:

- It is written from the page, not from the program, and imports nothing of the program: only the
  standard library, libsodium (through PyNaCl), and the word list that the xkcdpass package holds.
- It follows the page section by section, in the page's order and with the page's names, so that
  the two can be laid side by side.
- Pure functions: the same arguments give the same bytes. Randomness and time are arguments.
- Whatever is refused is refused as ``Failure(name)``: a name of section 7's table, "malformed"
  for bytes that are no message, batch, birth or head, "disconnect" for an answer that ends the
  connection, a verdict of section 9, "newer" for an invite of another version, "refused" for
  everything else.
- Where the page can be read in two ways, the comment says which way was taken ("Read as: ...").
- Clarity before speed; nothing here is meant to run against an attacker's clock.
"""

import base64
import hashlib
import hmac
import ipaddress
import re
import struct
import unicodedata
import urllib.parse
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any, NamedTuple, TypeAlias

import nacl.bindings as sodium
import nacl.exceptions

Value: TypeAlias = "int | str | bytes | bool | list[Value] | dict[str, Value] | None"
Fields: TypeAlias = dict[str, Any]


class Failure(Exception):
    """Something the page refuses; the argument is the name it fails as."""


# --- 2. Notation ---------------------------------------------------------------------------------

PLACES = 2**63  # a place, and every int of a word, is below this
TIP = PLACES - 1


def u8(number: int) -> bytes:
    """One byte."""
    return struct.pack(">B", number)


def u32(number: int) -> bytes:
    """Four bytes, big-endian."""
    return struct.pack(">I", number)


def u64(number: int) -> bytes:
    """Eight bytes, big-endian."""
    return struct.pack(">Q", number)


def H(label: str, size: int, data: bytes, key: bytes = b"") -> bytes:  # noqa: N802, the page's name
    """BLAKE2b of `size` bytes, the label (padded with zero bytes) as its personal parameter."""
    person = label.encode("ascii").ljust(16, b"\0")
    return hashlib.blake2b(data, digest_size=size, key=key, person=person).digest()


def public_key(seed: bytes) -> bytes:
    """The Ed25519 public key of a seed."""
    return sodium.crypto_sign_seed_keypair(seed)[0]


def sign(digest: bytes, seed: bytes) -> bytes:
    """An Ed25519 signature (64 bytes) over a digest: the digest is the message that is signed."""
    return sodium.crypto_sign(digest, sodium.crypto_sign_seed_keypair(seed)[1])[:64]


def signature_holds(signature: bytes, digest: bytes, key: bytes) -> bool:
    """Whether libsodium verifies the signature."""
    try:
        sodium.crypto_sign_open(signature + digest, key)
    except nacl.exceptions.BadSignatureError:
        return False
    return True


# --- 2. MessagePack values -----------------------------------------------------------------------


def pack(value: Value) -> bytes:
    """One MessagePack value; integers and lengths in their shortest form."""
    match value:
        case None:
            return b"\xc0"
        case bool():
            return b"\xc3" if value else b"\xc2"
        case int():
            return _pack_int(value)
        case str():
            raw = value.encode("utf-8")
            return _pack_length(len(raw), (0xA0, 31), (0xD9, 0xDA, 0xDB)) + raw
        case bytes():
            return _pack_length(len(value), None, (0xC4, 0xC5, 0xC6)) + value
        case list():
            items = b"".join(map(pack, value))
            return _pack_length(len(value), (0x90, 15), (None, 0xDC, 0xDD)) + items
        case dict():
            pairs = b"".join(pack(key) + pack(item) for key, item in value.items())
            return _pack_length(len(value), (0x80, 15), (None, 0xDE, 0xDF)) + pairs


def _pack_int(number: int) -> bytes:
    """The shortest form; a number that is not negative is always in an unsigned one."""
    if 0 <= number < 0x80 or -0x20 <= number < 0:
        return u8(number & 0xFF)
    for step, size in enumerate((1, 2, 4, 8)):
        if number >= 0 and number.bit_length() <= 8 * size:
            return u8(0xCC + step) + number.to_bytes(size, "big")
        if number < 0 and (number + 1).bit_length() < 8 * size:
            return u8(0xD0 + step) + number.to_bytes(size, "big", signed=True)
    raise Failure("malformed")


def _pack_length(
    length: int, fix: tuple[int, int] | None, codes: tuple[int | None, int, int]
) -> bytes:
    """The head of a str, bin, array or map: in the first byte, or in 1, 2 or 4 bytes after it."""
    if fix is not None and length <= fix[1]:
        return u8(fix[0] | length)
    for code, size in zip(codes, (1, 2, 4), strict=True):
        if code is not None and length < 2 ** (8 * size):
            return u8(code) + length.to_bytes(size, "big")
    raise Failure("malformed")


MAX_DEPTH = 16  # maps and arrays inside one another, a body itself counted (section 8)


def unpack(data: bytes) -> Value:
    """The value of exactly these bytes: decode, encode again, and compare."""
    value, end = _unpack(data, 0, MAX_DEPTH)
    if end != len(data) or pack(value) != data:
        raise Failure("malformed")
    return value


def _unpack(data: bytes, at: int, depth: int) -> tuple[Value, int]:
    """One value that begins at `at`, and where it ends; `depth` maps or arrays may still open.

    Words are read with it too: none of them nests so deep.
    """
    code = _take(data, at, 1)[0]
    at += 1
    if code < 0x80:
        return code, at
    if code >= 0xE0:
        return code - 0x100, at
    if code in (0xC0, 0xC2, 0xC3):
        return {0xC0: None, 0xC2: False, 0xC3: True}[code], at
    if 0xCC <= code <= 0xD3:
        size = 1 << ((code - 0xCC) % 4)
        number = int.from_bytes(_take(data, at, size), "big", signed=code >= 0xD0)
        return number, at + size
    length, at = _unpack_length(data, at, code)
    if 0xA0 <= code < 0xC0 or 0xD9 <= code <= 0xDB:
        return _utf8(_take(data, at, length)), at + length
    if 0xC4 <= code <= 0xC6:
        return _take(data, at, length), at + length
    if depth == 0:
        raise Failure("malformed")
    if 0x90 <= code < 0xA0 or code in (0xDC, 0xDD):
        return _unpack_array(data, at, length, depth - 1)
    return _unpack_map(data, at, length, depth - 1)


def _unpack_length(data: bytes, at: int, code: int) -> tuple[int, int]:
    """The length that a str, bin, array or map announces, and where its content begins."""
    if 0x80 <= code < 0xA0:
        return code & 0x0F, at
    if 0xA0 <= code < 0xC0:
        return code & 0x1F, at
    sizes = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
    sizes |= {0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}
    if code not in sizes:  # floats, extensions, and the byte that is never used
        raise Failure("malformed")
    size = sizes[code]
    return int.from_bytes(_take(data, at, size), "big"), at + size


def _unpack_array(data: bytes, at: int, length: int, depth: int) -> tuple[Value, int]:
    """The items of an array."""
    items: list[Value] = []
    for _ in range(length):
        item, at = _unpack(data, at, depth)
        items.append(item)
    return items, at


def _unpack_map(data: bytes, at: int, length: int, depth: int) -> tuple[Value, int]:
    """The pairs of a map: every key a str, none twice."""
    pairs: dict[str, Value] = {}
    for _ in range(length):
        key, at = _unpack(data, at, depth)
        if not isinstance(key, str) or key in pairs:
            raise Failure("malformed")
        pairs[key], at = _unpack(data, at, depth)
    return pairs, at


def _take(data: bytes, at: int, size: int) -> bytes:
    """`size` bytes at `at`, all of them there."""
    if at + size > len(data):
        raise Failure("malformed")
    return data[at : at + size]


def _utf8(data: bytes) -> str:
    """Text of valid UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise Failure("malformed") from None


# --- 2. The types that words and bodies name ------------------------------------------------------

Check: TypeAlias = Callable[[object], bool]


def an_int(low: int = 0, high: int = PLACES - 1) -> Check:
    """Int in a range: below 2^63 if nothing else is said, as in words, places and numbers."""
    return lambda v: isinstance(v, int) and not isinstance(v, bool) and low <= v <= high


def a_str(low: int, high: int) -> Check:
    """Str of so many code points."""
    return lambda v: isinstance(v, str) and low <= len(v) <= high


def a_bin(*sizes: int) -> Check:
    """Bin of exactly one of these sizes."""
    return lambda v: isinstance(v, bytes) and len(v) in sizes


def an_array(low: int, high: int, item: Check) -> Check:
    """Array of so many items."""
    return lambda v: isinstance(v, list) and low <= len(v) <= high and all(map(item, v))


def a_bool(value: object) -> bool:
    """Bool."""
    return isinstance(value, bool)


def a_head(value: object) -> bool:
    """bin144 whose n and expired are below 2^63, and expired is not above n (section 5)."""
    if not isinstance(value, bytes) or len(value) != 144:
        return False
    _, n, _, expired, _ = struct.unpack(">32sQ32sQ64s", value)
    return bool(expired <= n < PLACES)


def a_map(pairs: dict[str, Check]) -> Check:
    """Map of exactly these keys, in this order."""
    return lambda v: (
        isinstance(v, dict) and list(v) == list(pairs) and all(pairs[k](v[k]) for k in pairs)
    )


# --- 3. Frames, 4. Words --------------------------------------------------------------------------

MAX_WORD = 16_384
MAX_BATCH = 196_608
MAX_ENVELOPE = {0: 69_632, 1: 1_024}  # by class

_SUBSCRIPTION = a_map(
    {
        "room": a_bin(16),
        "log": a_bin(32),
        "sub": an_int(),
        "after": an_int(),
        "hash": a_bin(32),
        "window": an_int(0, 1_048_576),
    }
)

TO_BROKER: dict[str, dict[str, Check]] = {
    "HELLO": {"req": an_int(1), "protocol": an_int(), "software": a_str(1, 64)},
    "JOIN": {"req": an_int(1), "rooms": an_array(1, 64, _SUBSCRIPTION)},
    "PAGE": {
        "req": an_int(1),
        "room": a_bin(16),
        "log": a_bin(32),
        "first": an_int(1),
        "last": an_int(1),
        "ids_only": a_bool,
    },
    "POST": {"room": a_bin(16), "k": an_int(1)},
    "CAST": {"room": a_bin(16)},
    "LEAVE": {"req": an_int(1), "room": a_bin(16)},
}
TO_MEMBER: dict[str, dict[str, Check]] = {
    "READY": {
        "req": an_int(1),
        "protocol": an_int(),
        "software": a_str(1, 64),
        "log_key": a_bin(32),
        "post_burst": an_int(1),
        "post_rate": an_int(1),
    },
    "STORED": {
        "room": a_bin(16),
        "k": an_int(1),
        "log": a_bin(32),
        "first": an_int(1),
        "before": a_bin(32),
        "head": a_head,
    },
    "CAST": {"room": a_bin(16)},
    "ENTRIES": {
        "req": an_int(),
        "room": a_bin(16),
        "log": a_bin(32),
        "first": an_int(1),
        "before": a_bin(32),
        "head": lambda v: v == b"" or a_head(v),
        "tip": an_int(),
        "lineage": an_array(0, 16, a_bin(200)),
    },
    "REFUSE": {
        "req": an_int(),
        "k": an_int(),
        "code": a_str(1, 32),
        "room": a_bin(16, 0),
        "retry_after_ms": an_int(0, 86_400_000),
        "text": a_str(0, 200),
    },
}
SECOND_FRAME = {
    "POST": MAX_ENVELOPE[0],
    "CAST": MAX_ENVELOPE[1],
    "ENTRIES": MAX_BATCH,
    "STORED": MAX_BATCH,
}


def encode_word(word: str, fields: Fields) -> bytes:
    """Frame 0: the pair `word` first, the others as they come."""
    return pack({"word": word, **fields})


def decode_word(frame: bytes, words: dict[str, dict[str, Check]]) -> tuple[str, Fields]:
    """Name and fields of a word that may come this way (`TO_BROKER` or `TO_MEMBER`)."""
    if len(frame) > MAX_WORD:
        raise Failure("malformed")
    value = unpack(frame)
    if not isinstance(value, dict) or next(iter(value), None) != "word":
        raise Failure("malformed")
    word = value.pop("word")
    if not isinstance(word, str) or word not in words or not a_map(words[word])(value):
        raise Failure("malformed")
    return word, value


def decode_message(
    frames: Sequence[bytes], words: dict[str, dict[str, Check]]
) -> tuple[str, Fields, bytes | None]:
    """A message of one or two frames: word, fields, and the second frame where there is one."""
    if len(frames) not in (1, 2):
        raise Failure("malformed")
    word, fields = decode_word(frames[0], words)
    if word == "REFUSE" and fields["req"] and fields["k"]:
        raise Failure("malformed")
    second = frames[1] if len(frames) == 2 else None
    if (second is not None) != (word in SECOND_FRAME):
        raise Failure("malformed")
    if second is not None and len(second) > SECOND_FRAME[word]:
        raise Failure("malformed")
    if second is not None and word in ("ENTRIES", "STORED"):
        items = decode_batch(second)
        if word == "STORED" and (not items or any(i.envelope is not None for i in items)):
            raise Failure("malformed")
    return word, fields, second


def check_ready(ready: Fields, invite_log_key: bytes) -> None:
    """Whether a member goes on after this READY."""
    if ready["log_key"] != invite_log_key or ready["protocol"] != 1:
        raise Failure("disconnect")


# --- 4. Batches -----------------------------------------------------------------------------------

MAX_ITEMS = 512


class Item(NamedTuple):
    """An item of a batch: an envelope, or a bare id."""

    envelope: bytes | None
    id: bytes


def encode_batch(items: Sequence[Item]) -> bytes:
    """A row of items, nothing between, nothing after."""
    return b"".join(
        u32(0) + item.id if item.envelope is None else u32(len(item.envelope)) + item.envelope
        for item in items
    )


def decode_batch(batch: bytes) -> list[Item]:
    """The items of a batch, each with its id; whether they are envelopes is not looked at here."""
    if len(batch) > MAX_BATCH:
        raise Failure("malformed")
    items: list[Item] = []
    at = 0
    while at < len(batch):
        length = int.from_bytes(_take(batch, at, 4), "big")
        if len(items) == MAX_ITEMS:
            raise Failure("malformed")
        content = _take(batch, at + 4, length or 32)
        items.append(Item(content, envelope_id(content)) if length else Item(None, content))
        at += 4 + len(content)
    return items


# --- 5. The log is a ledger -----------------------------------------------------------------------

NOTHING = bytes(32)


class Genesis(NamedTuple):
    """How a log begins; the parent is zero for a room's first log."""

    room_tag: bytes
    log_key: bytes
    random: bytes
    parent: bytes = NOTHING
    parent_n: int = 0
    parent_h: bytes = NOTHING


def encode_genesis(genesis: Genesis) -> bytes:
    """136 bytes."""
    return struct.pack(">16s32s16s32sQ32s", *genesis)


def decode_genesis(data: bytes) -> Genesis:
    """The parts of 136 bytes."""
    return Genesis(*struct.unpack(">16s32s16s32sQ32s", data))


def log_id(genesis: bytes) -> bytes:
    """The name of a log, which is also the hash before its first entry."""
    return H("zchat/1 log id", 32, genesis)


def birth(genesis: bytes, log_seed: bytes) -> bytes:
    """200 bytes: a genesis and the log key's signature."""
    return genesis + sign(H("zchat/1 genesis", 64, genesis), log_seed)


def check_birth(data: bytes, room_tag: bytes, log_key: bytes) -> Genesis:
    """A birth whose signature, room tag, log key and parent are right."""
    if len(data) != 200:
        raise Failure("malformed")
    genesis = decode_genesis(data[:136])
    digest = H("zchat/1 genesis", 64, data[:136])
    if not signature_holds(data[136:], digest, log_key):
        raise Failure("refused")
    if genesis.room_tag != room_tag or genesis.log_key != log_key:
        raise Failure("refused")
    if not parent_is_sound(genesis):
        raise Failure("refused")
    return genesis


def parent_is_sound(genesis: Genesis) -> bool:
    """Without a parent n and h are zero; at a parent's place 0, h is the parent's log id."""
    if genesis.parent == NOTHING:
        return genesis.parent_n == 0 and genesis.parent_h == NOTHING
    if genesis.parent_n == 0:
        return genesis.parent_h == genesis.parent
    return genesis.parent_n < PLACES


def check_lineage(
    lineage: Sequence[bytes], log: bytes, room_tag: bytes, log_key: bytes
) -> list[Genesis]:
    """The births of `log` and its ancestors, newest first, each naming the next one's log id."""
    if not 1 <= len(lineage) <= 16:
        raise Failure("refused")
    births = [check_birth(data, room_tag, log_key) for data in lineage]
    if births[-1].parent != NOTHING and len(births) < 16:
        raise Failure("refused")
    named = [log] + [genesis.parent for genesis in births]
    for data, name in zip(lineage, named, strict=False):
        if log_id(data[:136]) != name:
            raise Failure("refused")
    return births


def check_restored(genesis: Genesis, ids: Sequence[bytes]) -> None:
    """The entries 1...n that survived, folded from the parent's log id, give the parent's h."""
    if fold(genesis.parent, 0, ids[: genesis.parent_n]) != genesis.parent_h:
        raise Failure("refused")
    if len(ids) < genesis.parent_n:
        raise Failure("refused")


def chain(before: bytes, n: int, entry_id: bytes) -> bytes:
    """The hash at place n, from the hash at n-1 and the id at n."""
    return H("zchat/1 chain", 32, before + u64(n) + entry_id)


def fold(before: bytes, n: int, ids: Sequence[bytes]) -> bytes:
    """The hash after the ids of places n+1, n+2, ..., from the hash at n."""
    for place, entry_id in enumerate(ids, n + 1):
        before = chain(before, place, entry_id)
    return before


class Head(NamedTuple):
    """A signed place."""

    log: bytes
    n: int
    h: bytes
    expired: int
    signature: bytes


def head_digest(room_tag: bytes, log: bytes, n: int, h: bytes, expired: int) -> bytes:
    """What the head's signature covers."""
    return H("zchat/1 head", 64, room_tag + log + u64(n) + h + u64(expired))


def sign_head(room_tag: bytes, log: bytes, n: int, h: bytes, expired: int, seed: bytes) -> bytes:
    """144 bytes: a head."""
    signature = sign(head_digest(room_tag, log, n, h, expired), seed)
    return log + u64(n) + h + u64(expired) + signature


def decode_head(data: bytes) -> Head:
    """The parts of a head that is well-formed; its signature is not looked at."""
    if not a_head(data):
        raise Failure("malformed")
    return Head(*struct.unpack(">32sQ32sQ64s", data))


def check_head(data: bytes, room_tag: bytes, log_key: bytes) -> Head:
    """A head that this log key signed for this room."""
    head = decode_head(data)
    digest = head_digest(room_tag, head.log, head.n, head.h, head.expired)
    if not signature_holds(head.signature, digest, log_key):
        raise Failure("refused")
    return head


def check_receipt(
    first: int, before: bytes, batch: Sequence[Item], head: bytes, room_tag: bytes, log_key: bytes
) -> list[bytes]:
    """The ids of a STORED: they fold from `before` into a head that is signed."""
    signed = check_head(head, room_tag, log_key)
    ids = [item.id for item in batch]
    if first < 1 or len(ids) != signed.n - first + 1 or fold(before, first - 1, ids) != signed.h:
        raise Failure("refused")
    return ids


# --- 5. Contradictions ----------------------------------------------------------------------------


def judge_p1(room_tag: bytes, log_key: bytes, one: bytes, other: bytes) -> None:
    """P1: two heads of one log, same n, different h."""
    a, b = _held_to(one, room_tag, log_key), _held_to(other, room_tag, log_key)
    if a.log != b.log or a.n != b.n or a.h == b.h:
        raise Failure("refused")


def judge_p2(
    room_tag: bytes, log_key: bytes, low: bytes, high: bytes, x: bytes, ids: Sequence[bytes]
) -> None:
    """P2: the ids n+1...n' fold from some x that is not the lower head's h to the higher's h'."""
    a, b = _ordered_heads(room_tag, log_key, low, high, ids)
    if len(x) != 32 or x == a.h or fold(x, a.n, ids) != b.h:
        raise Failure("refused")


def judge_p3(
    room_tag: bytes, log_key: bytes, low: bytes, high: bytes, ids: Sequence[bytes]
) -> None:
    """P3: the ids n+1...n' fold from h to h', one id standing twice."""
    a, b = _ordered_heads(room_tag, log_key, low, high, ids)
    if fold(a.h, a.n, ids) != b.h or len(set(ids)) == len(ids):
        raise Failure("refused")


def _held_to(data: bytes, room_tag: bytes, log_key: bytes) -> Head:
    """A head that the log key is bound by: it signed it, or it is (0, h0), which nobody need."""
    head = decode_head(data)
    if head.n == 0 and head.h == head.log:
        return head
    return check_head(data, room_tag, log_key)


def _ordered_heads(
    room_tag: bytes, log_key: bytes, low: bytes, high: bytes, ids: Sequence[bytes]
) -> tuple[Head, Head]:
    """Two heads of one log with n < n', and exactly n'-n ids, each of 32 bytes."""
    a, b = _held_to(low, room_tag, log_key), _held_to(high, room_tag, log_key)
    if a.log != b.log or a.n >= b.n or len(ids) != b.n - a.n or any(len(i) != 32 for i in ids):
        raise Failure("refused")
    return a, b


# --- 6. Keys --------------------------------------------------------------------------------------


def argon2id(password: bytes, salt: bytes, t: int, kib: int, size: int) -> bytes:
    """Argon2id v1.3 with one lane."""
    algorithm = sodium.crypto_pwhash_ALG_ARGON2ID13
    return sodium.crypto_pwhash_alg(size, password, salt, t, kib * 1024, algorithm)


def salt(curve_key: bytes, log_key: bytes, room: str) -> bytes:
    """The salt, of the keys of the broker where the room was made and the canonical room name."""
    return H("zchat/1 salt", 16, curve_key + log_key + room.encode("utf-8"))


def root(passphrase: str, salt16: bytes) -> bytes:
    """The secret of a room, from a canonical passphrase."""
    return argon2id(passphrase.encode("utf-8"), salt16, t=3, kib=262_144, size=32)


def room_tag(root32: bytes) -> bytes:
    """The broker's only name for the room."""
    return H("zchat/1 room tag", 16, b"", root32)


def epoch_key(root32: bytes, epoch: int = 0) -> bytes:
    """The key from which every message's keys come."""
    return H("zchat/1 epoch", 32, u32(epoch), root32)


def member_seed(tag: bytes, master_seed: bytes) -> bytes:
    """The seed of a member's Ed25519 pair in one room."""
    return H("zchat/1 room id", 32, tag, master_seed)


def room_name(text: str) -> str:
    """The canonical room name; length and categories are those of the result."""
    nfkc = unicodedata.normalize("NFKC", text)
    name = unicodedata.normalize("NFKC", nfkc.casefold())
    if _holds(name, "Cc Cf Cs Co Cn Zs Zl Zp") or not 1 <= len(name.encode("utf-8")) <= 64:
        raise Failure("refused")
    return name


def passphrase(text: str) -> str:
    """The canonical passphrase, step by step."""
    for end in ("\r\n", "\n"):
        if text.endswith(end):
            text = text[: -len(end)]
            break
    text = unicodedata.normalize("NFKC", text).strip(" ")
    if _holds(text, "Cc Cs Cn") or not 1 <= len(text.encode("utf-8")) <= 1_024:
        raise Failure("refused")
    parts = [part.lower() for part in re.split("[ -]+", text)]
    return "-".join(parts) if set(parts) <= set(word_list()) else text


def _holds(text: str, categories: str) -> bool:
    """Whether a code point of one of these categories stands in the text."""
    return any(unicodedata.category(char) in categories.split() for char in text)


def word_list() -> list[str]:
    """The EFF long word list in its own order, without the four words that hold a hyphen."""
    listed = (files("xkcdpass") / "static" / "eff-long").read_text("utf-8").split()
    return [w for w in listed if w not in ("drop-down", "felt-tip", "t-shirt", "yo-yo")]


def word_list_digest() -> bytes:
    """SHA-256 of the list, joined by LF with none at the end."""
    return hashlib.sha256("\n".join(word_list()).encode("utf-8")).digest()


# --- 7. Envelope ----------------------------------------------------------------------------------

HEADER = ">BBBIQ24s32s"  # version, suite, class, epoch, timestamp, nonce, sender: 71 bytes


def padme(length: int) -> int:
    """The length rounded up so that little of it shows (PURBs)."""
    e = length.bit_length() - 1
    s = e.bit_length()
    step = 1 << (e - s)
    return -(-length // step) * step


def padded_length(length: int) -> int:
    """P of a body of this length."""
    return padme(max(512, 4 + length))


def nonce(body: bytes, random32: bytes, seed: bytes) -> bytes:
    """The nonce: random, and never twice for two bodies even if the randomness repeats."""
    return H("zchat/1 nonce", 24, random32 + body, seed)


def header(cls: int, timestamp: int, nonce24: bytes, sender: bytes) -> bytes:
    """71 bytes, in clear; version and suite 1, epoch 0."""
    return struct.pack(HEADER, 1, 1, cls, 0, timestamp, nonce24, sender)


def message_keys(tag: bytes, header71: bytes, key: bytes) -> tuple[bytes, bytes]:
    """ek, which opens one box only, and com, which commits to it."""
    both = H("zchat/1 message", 64, tag + header71, key)
    return both[:32], both[32:]


def plaintext(body: bytes) -> bytes:
    """What is boxed: length, body, and zero bytes up to P."""
    return (u32(len(body)) + body).ljust(padded_length(len(body)), b"\0")


def signed_digest(tag: bytes, header71: bytes, com: bytes, box: bytes) -> bytes:
    """What the envelope's signature covers."""
    return H("zchat/1 sign", 64, tag + header71 + com + box)


def seal(
    tag: bytes, key: bytes, seed: bytes, cls: int, timestamp: int, body: bytes, random32: bytes
) -> bytes:
    """An envelope; `key` is the epoch key, `seed` the member's seed in this room."""
    nonce24 = nonce(body, random32, seed)
    header71 = header(cls, timestamp, nonce24, public_key(seed))
    ek, com = message_keys(tag, header71, key)
    box = sodium.crypto_secretbox(plaintext(body), nonce24, ek)
    return header71 + com + box + sign(signed_digest(tag, header71, com, box), seed)


def envelope_id(envelope: bytes) -> bytes:
    """The id of an envelope."""
    return H("zchat/1 id", 32, envelope)


class Opened(NamedTuple):
    """What a good envelope says."""

    sender: bytes
    timestamp: int
    id: bytes
    body: Fields


def check_broker(envelope: bytes, cls: int) -> tuple[int, bytes, bytes]:
    """Checks 1, 2 and 3, all that a broker can do: timestamp, nonce, sender.

    `cls` is the class of the word it came by, and the maximum is that of this class.
    """
    padded = len(envelope) - 183
    if padded < 512 or padme(padded) != padded or len(envelope) > MAX_ENVELOPE[cls]:
        raise Failure("length")
    version, suite, its_class, epoch, time, nonce24, sender = struct.unpack(HEADER, envelope[:71])
    if (version, suite, epoch) != (1, 1, 0):
        raise Failure("version")
    if its_class != cls:
        raise Failure("class")
    return time, nonce24, sender


def open_envelope(
    envelope: bytes, tag: bytes, key: bytes, cls: int, known: frozenset[bytes] = frozenset()
) -> Opened:
    """The checks in their order; the first that fails names the reason."""
    time, nonce24, sender = check_broker(envelope, cls)  # 1, 2, 3
    entry_id = envelope_id(envelope)
    if entry_id in known:  # 4
        raise Failure("ignored")
    header71, com = envelope[:71], envelope[71:103]
    box, signature = envelope[103:-64], envelope[-64:]
    ek, expected = message_keys(tag, header71, key)
    if not hmac.compare_digest(com, expected):  # 5
        raise Failure("commitment")
    if not signature_holds(signature, signed_digest(tag, header71, com, box), sender):  # 6
        raise Failure("signature")
    try:
        inner = sodium.crypto_secretbox_open(box, nonce24, ek)  # 7
    except nacl.exceptions.CryptoError:
        raise Failure("box") from None
    body = unpad(inner)  # 8
    return Opened(sender, time, entry_id, decode_body(body, cls))  # 9


def unpad(inner: bytes) -> bytes:
    """The body of a plaintext whose length fits P exactly and whose padding is zero."""
    length = int.from_bytes(inner[:4], "big")
    if len(inner) != padded_length(length) or any(inner[4 + length :]):
        raise Failure("padding")
    return inner[4 : 4 + length]


# --- 8. Bodies ------------------------------------------------------------------------------------

MAX_BODY = 66_560

SHARED: dict[str, Check] = {
    "kind": lambda v: isinstance(v, str),
    "name": lambda v: a_str(1, 32)(v) and isinstance(v, str) and not _holds(v, "Cc"),
    "incarnation": a_bin(16),
}
VOID: dict[str, Check] = {**SHARED, "seq": an_int(1), "seen": a_head}
TEXT: dict[str, Check] = {
    **VOID,
    "text": lambda v: isinstance(v, str) and 1 <= len(v.encode("utf-8")) <= 65_536,
    "reply_to": lambda v: v is None or a_bin(32)(v),
}
BEAT: dict[str, Check] = {
    **SHARED,
    "count": an_int(1),
    "seen": a_head,
    "ask": a_bin(8),
    "echo": an_array(0, 32, a_bin(8)),
    "leaving": a_bool,
}
KINDS = {("text", 0): TEXT, ("void", 0): VOID, ("beat", 1): BEAT}


def encode_body(pairs: Fields) -> bytes:
    """A body: the pairs in the order given."""
    return pack(pairs)


def decode_body(data: bytes, cls: int) -> Fields:
    """The pairs of a body of this class, or the failure "body"."""
    try:
        body = unpack(data)
    except Failure:
        raise Failure("body") from None
    if len(data) > MAX_BODY or not isinstance(body, dict):
        raise Failure("body")
    kind = body.get("kind")
    if not isinstance(kind, str):
        raise Failure("body")
    if (kind, cls) in KINDS:
        rules = KINDS[kind, cls]
        if list(body) != list(rules):
            raise Failure("body")
    else:
        if cls != 0 or kind in ("text", "void", "beat") or not 1 <= len(kind) <= 32:
            raise Failure("body")
        rules = VOID
        if list(body)[: len(rules)] != list(rules):
            raise Failure("body")
    if not all(check(body[name]) for name, check in rules.items()):
        raise Failure("body")
    return body


# --- 9. What a member believes: the `seen` of an entry --------------------------------------------


def judge_seen(
    packed: bytes,
    place: int,
    logs: Sequence[Genesis],
    ids: Sequence[bytes],
    room_tag: bytes,
    log_key: bytes,
) -> None:
    """The verdict on the `seen` of the entry at `place`; nothing if it fits.

    `logs` is the lineage of my log, newest first; `ids` are those of all my places, `place` one of
    them. "fork" and "other log" are the server's fault, "lost" is noted, "forged" is its author's.
    """
    seen = decode_head(packed)
    if seen.n == 0:
        return
    verdict = _verdict(seen, place, logs, ids)
    if verdict is None:
        return
    try:
        check_head(packed, room_tag, log_key)
    except Failure:
        raise Failure("forged") from None
    raise Failure(verdict)


def is_kept(packed: bytes, end: int, logs: Sequence[Genesis]) -> bool:
    """Whether the `seen` of a beat is above my end `end`, and so decided when my chain gets there.

    Read as: only where my chain can get there, in my log or in what it kept of a former one.
    """
    seen = decode_head(packed)
    names = [log_id(encode_genesis(log)) for log in logs]
    if seen.log not in names or seen.n <= end:
        return False
    return all(seen.n <= log.parent_n for log in logs[: names.index(seen.log)])


def _verdict(seen: Head, place: int, logs: Sequence[Genesis], ids: Sequence[bytes]) -> str | None:
    """What a head shows if it is signed; None if it fits."""
    names = [log_id(encode_genesis(log)) for log in logs]
    if seen.log not in names:
        return "other log"
    depth = names.index(seen.log)
    end = min((log.parent_n for log in logs[:depth]), default=place - 1)
    if depth and seen.n > end:
        return "lost"
    same = seen.n < place and fold(seen.log, 0, ids[: seen.n]) == seen.h
    return None if same else "fork"


# --- 10. The verification code --------------------------------------------------------------------


def verification_data(
    log: bytes, n: int, h: bytes, expired: int, members: dict[bytes, str]
) -> bytes:
    """What is compared; `members` gives each key the name of its last readable entry."""
    data = log + u64(n) + h + u64(expired) + u32(len(members))
    for key, name in sorted(members.items()):
        raw = name.encode("utf-8")
        data += key + u8(len(raw)) + raw
    return data


def verification_password(data: bytes, root32: bytes) -> bytes:
    """Keyed from the root, so that a server cannot grind two views to one code."""
    return H("zchat/1 verify", 32, data, root32)


def verification_code(password: bytes, tag: bytes) -> bytes:
    """16 bytes, dear to try."""
    return argon2id(password, tag, t=2, kib=65_536, size=16)


def verification_words(code: bytes) -> list[str]:
    """Eight words: the digits of x mod 7772^8, most significant first."""
    words = word_list()
    x = int.from_bytes(code, "big")
    return [words[x // 7772**power % 7772] for power in range(7, -1, -1)]


# --- 11. Invite -----------------------------------------------------------------------------------


class Invite(NamedTuple):
    """Where a room is and by which keys; a stem has no room, and only a moved room an origin."""

    host: str
    port: int
    room: str | None
    curve_key: bytes
    log_key: bytes
    origin: tuple[bytes, bytes] | None = None


MAX_INVITE = 1_024

_INVITE = re.compile(
    r"zchat://(?P<host>[A-Za-z0-9][A-Za-z0-9._-]{0,252}|\[[0-9A-Fa-f:.]+\])"
    r":(?P<port>[1-9][0-9]{0,4})"
    r"/(?P<room>(?:[A-Za-z0-9._~-]|%[0-9A-Fa-f]{2})*)#(?P<fragment>[A-Za-z0-9_-]+)",
    re.ASCII,
)


def encode_invite(invite: Invite) -> str:
    """The invite as text; every byte of the room name that is not unreserved is %XX."""
    room = "" if invite.room is None else urllib.parse.quote(invite.room, safe="")
    host = f"[{invite.host}]" if ":" in invite.host else invite.host
    keys = invite.curve_key + invite.log_key + b"".join(invite.origin or ())
    return f"zchat://{host}:{invite.port}/{room}#{encode_fragment(keys)}"


def encode_fragment(keys: bytes) -> str:
    """Version, keys and check bytes in base64url without padding."""
    data = u8(1) + keys
    data += H("zchat/1 invite", 4, data)
    return base64.urlsafe_b64encode(data).decode("ascii").rstrip("=")


def decode_invite(text: str) -> Invite:
    """An invite, or the failure "refused", or "newer".

    Read as: nothing around it, and the scheme in lower case.
    """
    match = _INVITE.fullmatch(text)
    if match is None or len(text) > MAX_INVITE or int(match["port"]) > 65_535:
        raise Failure("refused")
    host = match["host"]
    if host.startswith("["):
        host = _ipv6(host[1:-1])
    try:
        room = urllib.parse.unquote(match["room"], errors="strict")
    except UnicodeDecodeError:
        raise Failure("refused") from None
    keys = decode_fragment(match["fragment"])
    origin = (keys[64:96], keys[96:]) if len(keys) == 128 else None
    if origin is not None and (room == "" or keys[:64] == keys[64:]):
        raise Failure("refused")
    name = room_name(room) if room else None
    return Invite(host, int(match["port"]), name, keys[:32], keys[32:64], origin)


def decode_fragment(fragment: str) -> bytes:
    """The keys (64 or 128 bytes) of a fragment that is of version 1 and whose check holds.

    Read as: the one encoding comes before the version, and the version before all else.
    """
    if len(fragment) % 4 == 1:
        raise Failure("refused")
    data = base64.urlsafe_b64decode(fragment + "=" * (-len(fragment) % 4))
    if base64.urlsafe_b64encode(data).decode("ascii").rstrip("=") != fragment:
        raise Failure("refused")
    if data[0] != 1:
        raise Failure("newer")
    if len(data) not in (69, 133) or encode_fragment(data[1:-4]) != fragment:
        raise Failure("refused")
    return data[1:-4]


def _ipv6(host: str) -> str:
    """An IPv6 address, as it was written."""
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        raise Failure("refused") from None
    return host
