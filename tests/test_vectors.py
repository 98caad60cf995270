"""The program and the reference give what the test vectors record, case by case.

The rules of this file:

- One function for each file and each side takes a case, recomputes what it can from the case's
  inputs, and returns it with the outcome. Everything it returns must equal what is recorded.
- The reference must return every recorded value but the inputs; the program, what it hands out.
- Where the program is known to leave the page, the case stands in `DISAGREEMENTS` and must fail:
  whoever mends the program, or the page, removes the line.
"""

import json
from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec
import pytest

from tests import make_vectors, reference
from tests.make_vectors import Case, plain, unspell
from zchat.errors import BadInput, BadInvite, Malformed, Unopenable
from zchat.member import invite
from zchat.protocol import body, ledger, seal, wire, words
from zchat.protocol.envelope import EnvelopeClass, check_outline, envelope_id
from zchat.protocol.keys import Author, RoomKeys, derive_root, room_salt
from zchat.protocol.ledger import Contradiction, Genesis, Head, LogKey

Values: TypeAlias = dict[str, Any]
Side: TypeAlias = Callable[[Case], Values]

# What is given; everything else in a case is to be recomputed.
INPUTS = {
    "words": {"code", "word"},
    "passphrases": {"typed"},
    "rooms": {"typed", "curve_key", "log_key"},
    "keys": {
        *("typed_passphrase", "typed_room", "curve_key", "log_key", "master_seed"),
        *("randomness", "timestamp", "body"),
    },
    "envelopes": {"root", "master_seed", "class", "timestamp", "body", "randomness", "known"},
    "bodies": {"class", "raw"},
    "ledger": {
        *("what", "log_seed", "room_tag", "log_key", "random", "parent", "parent_n", "parent_h"),
        *("lineage", "ids", "before", "first", "n", "h", "expired"),
    },
    "proofs": {"claim", "room_tag", "log_key", "low", "high", "ids", "x"},
    "verify": {"root", "log", "n", "h", "expired", "members", "spoken"},
    "invites": {"line"},
    "batches": {"batch"},
    "frames": {"to", "frames"},
}

_UNICODE = "UnicodeDecodeError gets out of msgspec: it is not one of its DecodeErrors"
_FORM = "msgspec takes every form of an integer, and a word is not encoded again"
_BASE64 = "base64 is decoded leniently"

DISAGREEMENTS = {
    "passphrases: 1,025 bytes before words are joined": "the length is taken after step 3",
    "bodies: text: not UTF-8": _UNICODE,
    "bodies: text: a surrogate": _UNICODE,
    "bodies: void: name not UTF-8": _UNICODE,
    "bodies: beat: name not UTF-8": _UNICODE,
    "bodies: unknown: kind not UTF-8": _UNICODE,
    "bodies: unknown: incarnation is str in base64": "msgspec.convert takes base64 for bytes",
    "proofs: P2: x is h and one byte more": "struct cuts x to 32 bytes: it convicts an honest key",
    "invites: room that moved: last letter mangled": _BASE64,
    "invites: padding": _BASE64,
    "invites: padding where none is due": _BASE64,
    "invites: plus for minus": _BASE64,
    "invites: slash for underscore": _BASE64,
    "invites: IPv6 in brackets that is of a version to come": "urlsplit takes IPvFuture",
    "invites: room: percent sign and no hex": "unquote leaves a bare percent sign as it is",
    "invites: room: percent sign at the end": "unquote leaves a bare percent sign as it is",
    "frames: HELLO: word is not the first pair": "msgspec finds the tag in any place",
    "frames: HELLO: integer in long form": _FORM,
    "frames: HELLO: integer in signed form": _FORM,
    "frames: HELLO: not UTF-8": _UNICODE,
    "frames: HELLO: word not UTF-8": _UNICODE,
    "frames: HELLO: key not UTF-8": _UNICODE,
    "frames: REFUSE: text not UTF-8": _UNICODE,
    "frames: REFUSE: room 8 bytes": "only the most bytes are bounded",
}


# --- The program ----------------------------------------------------------------------------------


def _program_words(given: Case) -> Values:
    if "code" in given:
        spoken = words.code_words(unspell(given["code"]))
        listed = words.word_list()
        return {"words": spoken, "indexes": [listed.index(word) for word in spoken]}
    if "word" in given:
        return {"outcome": "ok" if given["word"] in words.word_list() else "refused"}
    return {"count": len(words.word_list())}


def _program_passphrase(given: Case) -> Values:
    return {"canonical": words.canonical_passphrase(given["typed"])}


def _program_room(given: Case) -> Values:
    room = words.canonical_room_name(given["typed"])
    salt = room_salt(unspell(given["curve_key"]), unspell(given["log_key"]), room)
    return {"room": room, "utf8": room.encode(), "salt": salt}


def _program_keys(given: Case) -> Values:
    room_name = words.canonical_room_name(given["typed_room"])
    passphrase = words.canonical_passphrase(given["typed_passphrase"])
    salt = room_salt(unspell(given["curve_key"]), unspell(given["log_key"]), room_name)
    root = derive_root(passphrase, salt)
    room = RoomKeys(root)
    author = Author(unspell(given["master_seed"]), room)
    ek, com = room.message_keys(unspell(given["header"]))
    return {
        "room": room_name,
        "passphrase": passphrase,
        "salt": salt,
        "root": root,
        "room_tag": room.tag,
        "member_key": author.public,
        "nonce": author.nonce(unspell(given["randomness"]), unspell(given["body"])),
        "ek": ek,
        "com": com,
    }


def _program_envelope(given: Case) -> Values:
    room = RoomKeys(unspell(given["root"]))
    by = EnvelopeClass(given["class"])
    if "randomness" not in given:
        return _program_open(room, by, unspell(given["envelope"]), given)
    author = Author(unspell(given["master_seed"]), room)
    spoken, randomness = unspell(given["body"]), unspell(given["randomness"])
    envelope = seal.seal(room, author, by, spoken, given["timestamp"], randomness)
    ek, com = room.message_keys(envelope[:71])
    return {
        **_program_open(room, by, envelope, given),
        "room_tag": room.tag,
        "member_key": author.public,
        "nonce": author.nonce(randomness, spoken),
        "header": envelope[:71],
        "ek": ek,
        "com": com,
        "box": envelope[103:-64],
        "signature": envelope[-64:],
        "envelope": envelope,
        "length": len(envelope),
        "id": envelope_id(envelope),
    }


def _program_open(room: RoomKeys, by: EnvelopeClass, envelope: bytes, given: Case) -> Values:
    """Check 4 stands where the program makes it, between two of its functions."""
    check_outline(envelope, by)
    if envelope_id(envelope).hex() in given.get("known", ()):
        return {"outcome": "ignored"}
    header, spoken = seal.open_envelope(room, envelope, by)
    (body.decode_logged if by is EnvelopeClass.LOG else body.decode_cast)(spoken)
    sealed = "randomness" in given
    return {"body": spoken, "timestamp": header.timestamp_ms} if sealed else {}


def _program_body(given: Case) -> Values:
    raw = unspell(given["raw"])
    decode = body.decode_cast if given["class"] else body.decode_logged
    read = decode(raw)
    if not isinstance(read, body.Unknown):
        return {"raw": body.encode(read), "pairs": make_vectors.pairs(read)}
    return {"pairs": {name: getattr(read, name) for name in body.Unknown.__struct_fields__}}


def _program_ledger(given: Case) -> Values:
    return {
        "birth": _program_birth,
        "lineage": _program_lineage,
        "restored": _program_restored,
        "chain": _program_chain,
        "head": _program_head,
        "receipt": _program_receipt,
    }[given["what"]](given)


def _program_birth(given: Case) -> Values:
    room_tag, log_key, random = (unspell(given[n]) for n in ("room_tag", "log_key", "random"))
    parent = (unspell(given["parent"]), given["parent_n"], unspell(given["parent_h"]))
    genesis = Genesis(room_tag, log_key, random, *parent)
    birth = LogKey(unspell(given["log_seed"])).sign_birth(genesis)
    return {"genesis": genesis.packed, "log": genesis.log, "birth": birth}


def _program_lineage(given: Case) -> Values:
    births = [unspell(birth) for birth in given["lineage"]]
    if any(len(birth) != 200 for birth in births):
        return {"outcome": "malformed"}
    try:
        logs = ledger.read_lineage(births, unspell(given["room_tag"]), unspell(given["log_key"]))
    except Malformed:  # the program has one name for both
        return {"outcome": "refused"}
    return {"outcome": "ok" if logs[0].log == unspell(given["log"]) else "refused"}


def _program_restored(given: Case) -> Values:
    packed = unspell(given["genesis"])
    parent, n, h = packed[64:96], int.from_bytes(packed[96:104], "big"), packed[104:]
    ids = [unspell(i) for i in given["ids"]]
    end = [parent, *ledger.chain(parent, 1, ids[:n])][-1]
    return {"outcome": "ok" if len(ids) >= n and end == h else "refused"}


def _program_chain(given: Case) -> Values:
    ids = [unspell(i) for i in given["ids"]]
    return {"hashes": ledger.chain(unspell(given["before"]), given["first"], ids)}


def _program_head(given: Case) -> Values:
    head = Head.unpack(unspell(given["head"]))
    room, log_key = unspell(given["room_tag"]), unspell(given["log_key"])
    if not ledger.head_holds(head, room, log_key):
        return {"outcome": "refused"}
    place = (unspell(given["log"]), given["n"], unspell(given["h"]), given["expired"])
    made = LogKey(unspell(given["log_seed"])).sign_head(room, *place)
    return {"head": made.packed}


def _program_receipt(given: Case) -> Values:
    head = Head.unpack(unspell(given["head"]))
    holds = ledger.head_holds(head, unspell(given["room_tag"]), unspell(given["log_key"]))
    ids = [unspell(i) for i in given["ids"]]
    hashes = ledger.chain(unspell(given["before"]), given["first"], ids)
    exact = given["first"] + len(ids) - 1 == head.n and hashes[-1:] == [head.hash]
    return {"outcome": "ok" if holds and exact else "refused"}


def _program_proof(given: Case) -> Values:
    evidence = Contradiction(
        unspell(given["room_tag"]),
        unspell(given["log_key"]),
        Head.unpack(unspell(given["low"])),
        Head.unpack(unspell(given["high"])),
        tuple(unspell(i) for i in given.get("ids", ())),
        unspell(given.get("x", "")),
    )
    proof = ledger.judge(evidence)
    return {"outcome": "ok" if proof and proof.value == given["claim"] else "refused"}


def _program_verify(given: Case) -> Values:
    room = RoomKeys(unspell(given["root"]))
    head = Head(unspell(given["log"]), given["n"], unspell(given["h"]), given["expired"], bytes(64))
    members = [(unspell(key), name) for key, name in given["members"]]
    spoken = room.verification_code(head, members)
    same = spoken == given["spoken"]
    return {"room_tag": room.tag, "words": spoken, "outcome": "ok" if same else "refused"}


def _program_invite(given: Case) -> Values:
    read = invite.parse_invite(given["line"])
    keys, origin = read.server.keys, read.origin
    return {
        "host": read.server.host,
        "port": read.server.port,
        "room": read.room,
        "curve_key": keys.curve_key,
        "log_key": keys.log_key,
        "origin": [] if origin == keys else [origin.curve_key, origin.log_key],
        "written": str(read),
    }


def _program_batch(given: Case) -> Values:
    batch = unspell(given["batch"])
    items = wire.unpack_batch(batch)
    pieces = [(item.bare_id, item.envelope) for item in items]
    ids = [i if e is None else envelope_id(e) for i, e in pieces]
    return {
        "batch": wire.pack_batch(pieces),
        "lengths": [len(e or b"") for _, e in pieces],
        "ids": b"".join(ids),
    }


def _program_frames(given: Case) -> Values:
    frames = [unspell(frame) for frame in given["frames"]]
    word: wire.ToBroker | wire.ToMember
    if given["to"] == "broker":
        word, _ = wire.decode_to_broker(frames)
    else:
        word, _ = wire.decode_to_member(frames)
    if isinstance(word, wire.Stored) or (isinstance(word, wire.Entries) and word.head):
        Head.unpack(word.head)  # whoever reads the word looks at its head first
    fields = msgspec.to_builtins(word, builtin_types=(bytes,))
    return {"word": fields.pop("word"), "fields": fields}


PROGRAM: dict[str, Side] = {
    "words": _program_words,
    "passphrases": _program_passphrase,
    "rooms": _program_room,
    "keys": _program_keys,
    "envelopes": _program_envelope,
    "bodies": _program_body,
    "ledger": _program_ledger,
    "proofs": _program_proof,
    "verify": _program_verify,
    "invites": _program_invite,
    "batches": _program_batch,
    "frames": _program_frames,
}


# --- The reference --------------------------------------------------------------------------------


def _reference_words(given: Case) -> Values:
    listed = reference.word_list()
    if "code" in given:
        spoken = reference.verification_words(unspell(given["code"]))
        return {"words": spoken, "indexes": [listed.index(word) for word in spoken]}
    if "word" in given:
        return {"outcome": "ok" if given["word"] in listed else "refused"}
    return {"count": len(listed), "sha256": reference.word_list_digest()}


def _reference_passphrase(given: Case) -> Values:
    return {"canonical": reference.passphrase(given["typed"]).encode()}


def _reference_room(given: Case) -> Values:
    room = reference.room_name(given["typed"])
    salt = reference.salt(unspell(given["curve_key"]), unspell(given["log_key"]), room)
    return {"room": room, "utf8": room.encode(), "salt": salt}


def _reference_keys(given: Case) -> Values:
    room = reference.room_name(given["typed_room"])
    passphrase = reference.passphrase(given["typed_passphrase"])
    salt = reference.salt(unspell(given["curve_key"]), unspell(given["log_key"]), room)
    root = reference.root(passphrase, salt)
    tag, epoch_key = reference.room_tag(root), reference.epoch_key(root)
    seed = reference.member_seed(tag, unspell(given["master_seed"]))
    nonce = reference.nonce(unspell(given["body"]), unspell(given["randomness"]), seed)
    header = reference.header(0, given["timestamp"], nonce, reference.public_key(seed))
    ek, com = reference.message_keys(tag, header, epoch_key)
    return {
        "room": room,
        "passphrase": passphrase.encode(),
        "salt": salt,
        "root": root,
        "room_tag": tag,
        "epoch_key": epoch_key,
        "member_seed": seed,
        "member_key": reference.public_key(seed),
        "nonce": nonce,
        "header": header,
        "ek": ek,
        "com": com,
    }


def _reference_envelope(given: Case) -> Values:
    root = unspell(given["root"])
    tag, key = reference.room_tag(root), reference.epoch_key(root)
    if "randomness" not in given:
        envelope = unspell(given["envelope"])
        known = frozenset(unspell(i) for i in given.get("known", ()))
        reference.open_envelope(envelope, tag, key, given["class"], known)
        return {"envelope": envelope}
    seed = reference.member_seed(tag, unspell(given["master_seed"]))
    spoken, random = unspell(given["body"]), unspell(given["randomness"])
    nonce = reference.nonce(spoken, random, seed)
    sender = reference.public_key(seed)
    header = reference.header(given["class"], given["timestamp"], nonce, sender)
    ek, com = reference.message_keys(tag, header, key)
    envelope = reference.seal(tag, key, seed, given["class"], given["timestamp"], spoken, random)
    box = envelope[103:-64]
    opened = reference.open_envelope(envelope, tag, key, given["class"])
    return {
        "room_tag": tag,
        "member_key": opened.sender,
        "timestamp": opened.timestamp,
        "nonce": nonce,
        "header": header,
        "ek": ek,
        "com": com,
        "plaintext": reference.plaintext(spoken),
        "box": box,
        "signed": reference.signed_digest(tag, header, com, box),
        "signature": envelope[-64:],
        "envelope": envelope,
        "length": len(envelope),
        "id": opened.id,
    }


def _reference_body(given: Case) -> Values:
    raw = unspell(given["raw"])
    pairs = reference.decode_body(raw, given["class"])
    known = (pairs["kind"], given["class"]) in reference.KINDS
    shown = pairs if known else dict(list(pairs.items())[:5])
    return {"raw": reference.encode_body(pairs), "pairs": shown}


def _reference_ledger(given: Case) -> Values:
    return {
        "birth": _reference_birth,
        "lineage": _reference_lineage,
        "restored": _reference_restored,
        "chain": _reference_chain,
        "head": _reference_head,
        "receipt": _reference_receipt,
    }[given["what"]](given)


def _reference_birth(given: Case) -> Values:
    room_tag, log_key, random = (unspell(given[n]) for n in ("room_tag", "log_key", "random"))
    parent = (unspell(given["parent"]), given["parent_n"], unspell(given["parent_h"]))
    parts = reference.Genesis(room_tag, log_key, random, *parent)
    genesis = reference.encode_genesis(parts)
    birth = reference.birth(genesis, unspell(given["log_seed"]))
    assert reference.check_birth(birth, room_tag, log_key) == parts
    return {
        "genesis": genesis,
        "log": reference.log_id(genesis),
        "signed": reference.H("zchat/1 genesis", 64, genesis),
        "birth": birth,
    }


def _reference_lineage(given: Case) -> Values:
    lineage = [unspell(birth) for birth in given["lineage"]]
    room_tag, log_key = unspell(given["room_tag"]), unspell(given["log_key"])
    logs = reference.check_lineage(lineage, unspell(given["log"]), room_tag, log_key)
    return {"log": reference.log_id(reference.encode_genesis(logs[0]))}


def _reference_restored(given: Case) -> Values:
    genesis = reference.decode_genesis(unspell(given["genesis"]))
    reference.check_restored(genesis, [unspell(i) for i in given["ids"]])
    return {"genesis": reference.encode_genesis(genesis)}


def _reference_chain(given: Case) -> Values:
    ids = [unspell(i) for i in given["ids"]]
    before, n = unspell(given["before"]), given["first"] - 1
    hashes = [reference.fold(before, n, ids[: at + 1]) for at in range(len(ids))]
    return {"hashes": hashes}


def _reference_head(given: Case) -> Values:
    packed = unspell(given["head"])
    room_tag = unspell(given["room_tag"])
    head = reference.check_head(packed, room_tag, unspell(given["log_key"]))
    place = (unspell(given["log"]), given["n"], unspell(given["h"]), given["expired"])
    return {
        "log": head.log,
        "signed": reference.head_digest(room_tag, *place),
        "head": reference.sign_head(room_tag, *place, unspell(given["log_seed"])),
    }


def _reference_receipt(given: Case) -> Values:
    head = unspell(given["head"])
    items = [reference.Item(None, unspell(i)) for i in given["ids"]]
    keys = (unspell(given["room_tag"]), unspell(given["log_key"]))
    reference.check_receipt(given["first"], unspell(given["before"]), items, head, *keys)
    return {"head": head}


def _reference_proof(given: Case) -> Values:
    keys = unspell(given["room_tag"]), unspell(given["log_key"])
    heads = unspell(given["low"]), unspell(given["high"])
    ids = [unspell(i) for i in given.get("ids", ())]
    if given["claim"] == "P1":
        reference.judge_p1(*keys, *heads)
    elif given["claim"] == "P2":
        reference.judge_p2(*keys, *heads, unspell(given["x"]), ids)
    else:
        reference.judge_p3(*keys, *heads, ids)
    return {}


def _reference_verify(given: Case) -> Values:
    root = unspell(given["root"])
    tag = reference.room_tag(root)
    members = {unspell(key): name for key, name in given["members"]}
    place = (unspell(given["log"]), given["n"], unspell(given["h"]), given["expired"])
    data = reference.verification_data(*place, members)
    password = reference.verification_password(data, root)
    spoken = reference.verification_words(reference.verification_code(password, tag))
    return {
        "room_tag": tag,
        "data": data,
        "password": password,
        "words": spoken,
        "outcome": "ok" if spoken == given["spoken"] else "refused",
    }


def _reference_invite(given: Case) -> Values:
    read = reference.decode_invite(given["line"])
    payload = b"\1" + read.curve_key + read.log_key + b"".join(read.origin or ())
    return {
        "host": read.host,
        "port": read.port,
        "room": read.room or "",
        "curve_key": read.curve_key,
        "log_key": read.log_key,
        "origin": list(read.origin or ()),
        "payload": payload + reference.H("zchat/1 invite", 4, payload),
        "written": reference.encode_invite(read),
    }


def _reference_batch(given: Case) -> Values:
    items = reference.decode_batch(unspell(given["batch"]))
    return {
        "batch": reference.encode_batch(items),
        "lengths": [len(item.envelope or b"") for item in items],
        "ids": b"".join(item.id for item in items),
    }


def _reference_frames(given: Case) -> Values:
    frames = [unspell(frame) for frame in given["frames"]]
    known = reference.TO_BROKER if given["to"] == "broker" else reference.TO_MEMBER
    word, fields, _ = reference.decode_message(frames, known)
    assert reference.encode_word(word, fields) == frames[0]
    return {"word": word, "fields": fields}


REFERENCE: dict[str, Side] = {
    "words": _reference_words,
    "passphrases": _reference_passphrase,
    "rooms": _reference_room,
    "keys": _reference_keys,
    "envelopes": _reference_envelope,
    "bodies": _reference_body,
    "ledger": _reference_ledger,
    "proofs": _reference_proof,
    "verify": _reference_verify,
    "invites": _reference_invite,
    "batches": _reference_batch,
    "frames": _reference_frames,
}


# --- The tests ------------------------------------------------------------------------------------


def _cases(side: str) -> list[Any]:
    found = []
    for file in make_vectors.MAKERS:
        cases = json.loads((make_vectors.FOLDER / f"{file}.json").read_text("utf-8"))
        for case in cases:
            name = f"{file}: {case['name']}"
            reason = DISAGREEMENTS.get(name) if side == "program" else None
            ways = (AssertionError, UnicodeDecodeError)
            marks = [pytest.mark.xfail(reason=reason, raises=ways)] if reason else []
            found.append(pytest.param(file, case, id=name, marks=marks))
    return found


@pytest.mark.parametrize(("file", "case"), _cases("program"))
def test_the_program_gives_what_is_recorded(file: str, case: Case) -> None:
    try:
        values = {"outcome": "ok", **PROGRAM[file](case)}
    except Unopenable as failure:
        values = {"outcome": failure.check}
    except Malformed:
        values = {"outcome": "malformed"}
    except (BadInput, BadInvite):
        values = {"outcome": "refused"}
    _compare(case, values)


@pytest.mark.parametrize(("file", "case"), _cases("reference"))
def test_the_reference_gives_what_is_recorded(file: str, case: Case) -> None:
    try:
        values = {"outcome": "ok", **REFERENCE[file](case)}
    except reference.Failure as failure:
        values = {"outcome": failure.args[0]}
    _compare(case, values)
    if values["outcome"] == "ok":
        assert case.keys() - values.keys() - {"name"} <= INPUTS[file]


def _compare(case: Case, values: Values) -> None:
    """What was recomputed equals what is recorded; what is not recorded is left out."""
    found = {name: plain(value) for name, value in values.items() if name in case}
    assert found == {name: case[name] for name in found}


@pytest.mark.parametrize("file", make_vectors.MAKERS)
def test_the_vectors_are_what_would_be_written_now(file: str) -> None:
    written = (make_vectors.FOLDER / f"{file}.json").read_text("utf-8")
    assert written == make_vectors.render(make_vectors.MAKERS[file]())


@pytest.mark.parametrize("file", make_vectors.MAKERS)
def test_a_file_names_its_cases_apart_and_lets_most_fail(file: str) -> None:
    cases = json.loads((make_vectors.FOLDER / f"{file}.json").read_text("utf-8"))
    assert len({case["name"] for case in cases}) == len(cases)
    failing = sum(case["outcome"] != "ok" for case in cases)
    assert failing * 2 >= len(cases)


def test_every_disagreement_names_a_case() -> None:
    names = {param.id for param in _cases("program")}
    assert names >= DISAGREEMENTS.keys()
