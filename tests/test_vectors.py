"""The program and the reference give what the test vectors record, case by case.

The rules of this file:

- One function for each file and each side takes a case, recomputes everything from the case's
  inputs, and returns it with the outcome: all of it must equal what is recorded, and of a good case
  nothing but the inputs may be left over.
- What the program never hands out (a digest on the way to a signature, an inner key) is taken from
  the case and held to what the program made with it: the signature must hold over that digest, the
  hash under that key must be the program's. Only then is it returned.
"""

import ast
import base64
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import pytest
from nacl import bindings

from tests import make_vectors, reference
from tests.make_vectors import Case, plain, unspell
from zchat.errors import BadInput, BadInvite, Incompatible, Malformed, Unopenable, WrongLogKey
from zchat.log.contract import Addition, Entry, MemoryLog
from zchat.member import invite
from zchat.member.checked import CheckedLog, Seen, Segment, ServerContradiction, Step
from zchat.member.session import Phase, Session, Timing
from zchat.protocol import body, ledger, seal, wire, words
from zchat.protocol.envelope import EnvelopeClass, check_outline, envelope_id
from zchat.protocol.keys import Author, RoomKeys, derive_root, room_salt
from zchat.protocol.labels import Label, digest
from zchat.protocol.ledger import Contradiction, Genesis, Head, LogKey

Values: TypeAlias = dict[str, Any]
Side: TypeAlias = Callable[[Case], Values]

# What is given; everything else in a case is to be recomputed.
INPUTS = {
    "words": {"code", "word"},
    "passphrases": {"typed"},
    "rooms": {"typed", "curve_key", "log_key"},
    "keys": {
        *("typed_passphrase", "typed_room", "curve_key", "log_key", "log_seed", "master_seed"),
        *("randomness", "timestamp", "body", "random"),
    },
    "envelopes": {"root", "master_seed", "class", "timestamp", "body", "randomness", "known"},
    "bodies": {"class", "raw"},
    "ledger": {
        *("what", "log_seed", "room_tag", "log_key", "random", "parent", "parent_n", "parent_h"),
        *("lineage", "ids", "before", "first", "n", "h", "expired"),
    },
    "proofs": {"claim", "room_tag", "log_key", "low", "high", "ids", "x"},
    "seen": {"room_tag", "log_key", "lineage", "ids", "place", "seen", "heard_at"},
    "verify": {"root", "log", "n", "h", "expired", "members", "spoken"},
    "invites": {"line"},
    "batches": {"batch"},
    "frames": {"to", "frames", "invite_log_key"},
}


# --- The program ----------------------------------------------------------------------------------


def _program_words(given: Case) -> Values:
    if "code" in given:
        spoken = words.code_words(unspell(given["code"]))
        listed = words.word_list()
        return {"words": spoken, "indexes": [listed.index(word) for word in spoken]}
    if "word" in given:
        return {"outcome": "ok" if given["word"] in words.word_list() else "refused"}
    listed = words.word_list()
    return {"count": len(listed), "sha256": hashlib.sha256("\n".join(listed).encode()).digest()}


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
    return {
        "room": room_name,
        "passphrase": passphrase,
        "salt": salt,
        "root": root,
        **_program_inner_keys(room, author, given),
        **_program_seal(room, author, EnvelopeClass.LOG, given),
        **_program_first_log(room, author, given),
    }


def _program_inner_keys(room: RoomKeys, author: Author, given: Case) -> Values:
    epoch_key, seed = unspell(given["epoch_key"]), unspell(given["member_seed"])
    header = unspell(given["header"])
    both = digest(Label.MESSAGE, 64, room.tag + header, epoch_key)
    assert both == b"".join(room.message_keys(header))
    assert bindings.crypto_sign_seed_keypair(seed)[0] == author.public
    return {"epoch_key": epoch_key, "member_seed": seed}


def _program_seal(room: RoomKeys, author: Author, by: EnvelopeClass, given: Case) -> Values:
    """An envelope and all there is on the way to it."""
    spoken, randomness = unspell(given["body"]), unspell(given["randomness"])
    envelope = seal.seal(room, author, by, spoken, given["timestamp"], randomness)
    header, box, signature = envelope[:71], envelope[103:-64], envelope[-64:]
    nonce = author.nonce(randomness, spoken)
    ek, com = room.message_keys(header)
    return {
        "room_tag": room.tag,
        "member_key": author.public,
        "nonce_input": randomness + spoken,
        "nonce": nonce,
        "header": header,
        "ek": ek,
        "com": com,
        "plaintext": bindings.crypto_secretbox_open(box, nonce, ek),
        "box": box,
        "signed": _covered(signature, given["signed"], author.public),
        "signature": signature,
        "envelope": envelope,
        "length": len(envelope),
        "id": envelope_id(envelope),
    }


def _covered(signature: bytes, signed: str, key: bytes) -> bytes:
    """The recorded digest, if that is what the program's signature covers; else BadSignature."""
    return bindings.crypto_sign_open(signature + unspell(signed), key)


def _program_first_log(room: RoomKeys, author: Author, given: Case) -> Values:
    log_key = LogKey(unspell(given["log_seed"]))
    genesis = Genesis(room.tag, unspell(given["log_key"]), unspell(given["random"]))
    birth = log_key.sign_birth(genesis)
    (h,) = ledger.chain(genesis.log, 1, [envelope_id(unspell(given["envelope"]))])
    head = log_key.sign_head(room.tag, genesis.log, 1, h, 0)
    members = [(author.public, "alice")]
    return {
        "genesis": genesis.packed,
        "log": genesis.log,
        "birth_signed": _covered(birth[136:], given["birth_signed"], log_key.public),
        "birth": birth,
        "h": h,
        "head_signed": _covered(head.signature, given["head_signed"], log_key.public),
        "head": head.packed,
        **{
            f"verify_{name}": value
            for name, value in _program_code(room, head, members, given, "verify_").items()
        },
    }


def _program_code(
    room: RoomKeys, head: Head, members: list[tuple[bytes, str]], given: Case, prefix: str = ""
) -> Values:
    """The verification code, and what is on the way to it."""
    data, code = unspell(given[f"{prefix}data"]), unspell(given[f"{prefix}code"])
    password, spoken = (
        f(head, members) for f in (room.verification_password, room.verification_code)
    )
    assert digest(Label.VERIFY, 32, data, room.root) == password
    assert words.code_words(code) == spoken
    return {"data": data, "password": password, "code": code, "words": spoken}


def _program_envelope(given: Case) -> Values:
    room = RoomKeys(unspell(given["root"]))
    by = EnvelopeClass(given["class"])
    if "randomness" not in given:
        return _program_open(room, by, unspell(given["envelope"]), given)
    made = _program_seal(room, Author(unspell(given["master_seed"]), room), by, given)
    return {**_program_open(room, by, made["envelope"], given), **made}


def _program_open(room: RoomKeys, by: EnvelopeClass, envelope: bytes, given: Case) -> Values:
    """Check 4 stands where the program makes it, between two of its functions."""
    check_outline(envelope, by)
    if envelope_id(envelope).hex() in given.get("known", ()):
        return {"outcome": "ignored"}
    header, spoken = seal.open_envelope(room, envelope, by)
    (body.decode_logged if by is EnvelopeClass.LOG else body.decode_cast)(spoken)
    sealed = "randomness" in given
    read = {"body": spoken, "timestamp": header.timestamp_ms} if sealed else {}
    return {"envelope": envelope, **read}


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
    signed = _covered(birth[136:], given["signed"], log_key)
    return {"genesis": genesis.packed, "log": genesis.log, "signed": signed, "birth": birth}


def _program_lineage(given: Case) -> Values:
    births = [unspell(birth) for birth in given["lineage"]]
    if any(len(birth) != 200 for birth in births):
        return {"outcome": "malformed"}
    try:
        logs = ledger.read_lineage(births, unspell(given["room_tag"]), unspell(given["log_key"]))
    except Malformed:  # the program has one name for both
        return {"outcome": "refused"}
    same = logs[0].log == unspell(given["log"])
    return {"outcome": "ok" if same else "refused", **({"log": logs[0].log} if same else {})}


def _program_restored(given: Case) -> Values:
    packed = unspell(given["genesis"])
    parent, n, h = packed[64:96], int.from_bytes(packed[96:104], "big"), packed[104:]
    ids = [unspell(i) for i in given["ids"]]
    end = [parent, *ledger.chain(parent, 1, ids[:n])][-1]
    return {"outcome": "ok" if len(ids) >= n and end == h else "refused", "genesis": packed}


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
    signed = _covered(made.signature, given["signed"], log_key)
    return {"log": made.log, "signed": signed, "head": made.packed}


def _program_receipt(given: Case) -> Values:
    head = Head.unpack(unspell(given["head"]))
    holds = ledger.head_holds(head, unspell(given["room_tag"]), unspell(given["log_key"]))
    ids = [unspell(i) for i in given["ids"]]
    hashes = ledger.chain(unspell(given["before"]), given["first"], ids)
    exact = given["first"] + len(ids) - 1 == head.n and hashes[-1:] == [head.hash]
    return {"outcome": "ok" if holds and exact else "refused", "head": head.packed}


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


_VERDICTS = {
    Seen.FITS: "ok",
    Seen.FORK: "fork",
    Seen.OTHER_LOG: "other log",
    Seen.LOST: "lost",
    Seen.FORGED: "forged",
}


def _program_seen(given: Case) -> Values:
    room, log_key = unspell(given["room_tag"]), unspell(given["log_key"])
    births, ids = [unspell(b) for b in given["lineage"]], [unspell(i) for i in given["ids"]]
    log = ledger.read_lineage(births, room, log_key)[0].log
    hashes = ledger.chain(log, 1, ids)
    entries = [Entry(n, ids[n - 1], hashes[n - 1], None) for n in range(1, len(ids) + 1)]
    held = entries[: given.get("heard_at", len(ids))]
    replica = MemoryLog()
    end = Head(log, len(held), held[-1].hash, 0, bytes(64))
    replica.append([Addition(room, held, log, births=tuple(births), head=end.packed)])
    checked = CheckedLog(room, log_key, replica)
    seen = Head.unpack(unspell(given["seen"]))
    if "heard_at" in given:
        return _program_heard(checked, seen, entries[len(held) :])
    return {"outcome": _VERDICTS[checked.judge(seen, given["place"])]}


def _program_heard(checked: CheckedLog, seen: Head, entries: list[Entry]) -> Values:
    """What a beat's head says when it is heard, and when the log gets there."""
    values = {"when_heard": "kept" if checked.witness(seen) is Seen.AHEAD else "decided"}
    end = Head(checked.log, entries[-1].n, entries[-1].hash, 0, bytes(64))
    checked.advance(Segment(Step.ON, entries, end), entries)
    try:
        checked.settle()
    except ServerContradiction:
        return {**values, "outcome": "fork"}
    return {**values, "outcome": _VERDICTS[checked.witness(seen)]}


def _program_verify(given: Case) -> Values:
    room = RoomKeys(unspell(given["root"]))
    head = Head(unspell(given["log"]), given["n"], unspell(given["h"]), given["expired"], bytes(64))
    members = [(unspell(key), name) for key, name in given["members"]]
    made = _program_code(room, head, members, given)
    same = made["words"] == given["spoken"]
    return {"room_tag": room.tag, **made, "outcome": "ok" if same else "refused"}


def _program_invite(given: Case) -> Values:
    read = invite.parse_invite(given["line"])
    keys, origin = read.server.keys, read.origin
    fragment = str(read).partition("#")[2]
    return {
        "host": read.server.host,
        "port": read.server.port,
        "room": read.room,
        "curve_key": keys.curve_key,
        "log_key": keys.log_key,
        "origin": [] if origin == keys else [origin.curve_key, origin.log_key],
        "payload": base64.urlsafe_b64decode(fragment + "=" * (-len(fragment) % 4)),
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
    frames = tuple(unspell(frame) for frame in given["frames"])
    word: wire.ToBroker | wire.ToMember
    if given["to"] == "broker":
        word, _ = wire.decode_to_broker(frames)
    else:
        _hear(frames, given)
        word, _ = wire.decode_to_member(frames)
    fields = msgspec.to_builtins(word, builtin_types=(bytes,))
    return {"word": fields.pop("word"), "fields": fields}


def _hear(frames: wire.Frames, given: Case) -> None:
    """Let a member's session take the frames, as the answer to its HELLO or behind a READY."""
    invited = unspell(given.get("invite_log_key", make_vectors.LOG_KEY.public.hex()))
    session = Session(invited, Timing(10.0, 60.0, 65_536), "zchat", "chat.example.org:7000")
    session.opened(0.0)
    if "invite_log_key" not in given:
        session.receive(wire.encode(msgspec.structs.replace(make_vectors.READY, req=1)), 0.0)
        assert session.phase is Phase.READY
    session.receive(frames, 0.0)
    if session.malformed:
        raise Malformed(reason="the session dropped and counted it")
    assert session.phase is Phase.READY


PROGRAM: dict[str, Side] = {
    "words": _program_words,
    "passphrases": _program_passphrase,
    "rooms": _program_room,
    "keys": _program_keys,
    "envelopes": _program_envelope,
    "bodies": _program_body,
    "ledger": _program_ledger,
    "proofs": _program_proof,
    "seen": _program_seen,
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
    sealed = _reference_seal(tag, epoch_key, seed, 0, given)
    return {
        "room": room,
        "passphrase": passphrase.encode(),
        "salt": salt,
        "root": root,
        "epoch_key": epoch_key,
        "member_seed": seed,
        **sealed,
        **_reference_first_log(root, sealed, given),
    }


def _reference_seal(tag: bytes, key: bytes, seed: bytes, cls: int, given: Case) -> Values:
    """An envelope and all there is on the way to it."""
    spoken, random = unspell(given["body"]), unspell(given["randomness"])
    nonce = reference.nonce(spoken, random, seed)
    sender = reference.public_key(seed)
    header = reference.header(cls, given["timestamp"], nonce, sender)
    ek, com = reference.message_keys(tag, header, key)
    envelope = reference.seal(tag, key, seed, cls, given["timestamp"], spoken, random)
    box = envelope[103:-64]
    return {
        "room_tag": tag,
        "member_key": sender,
        "nonce_input": random + spoken,
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
        "id": reference.envelope_id(envelope),
    }


def _reference_first_log(root: bytes, sealed: Values, given: Case) -> Values:
    tag, seed = sealed["room_tag"], unspell(given["log_seed"])
    parts = reference.Genesis(tag, unspell(given["log_key"]), unspell(given["random"]))
    genesis = reference.encode_genesis(parts)
    log = reference.log_id(genesis)
    h = reference.chain(log, 1, sealed["id"])
    data = reference.verification_data(log, 1, h, 0, {sealed["member_key"]: "alice"})
    password = reference.verification_password(data, root)
    code = reference.verification_code(password, tag)
    return {
        "genesis": genesis,
        "log": log,
        "birth_signed": reference.H("zchat/1 genesis", 64, genesis),
        "birth": reference.birth(genesis, seed),
        "h": h,
        "head_signed": reference.head_digest(tag, log, 1, h, 0),
        "head": reference.sign_head(tag, log, 1, h, 0, seed),
        "verify_data": data,
        "verify_password": password,
        "verify_code": code,
        "verify_words": reference.verification_words(code),
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
    made = _reference_seal(tag, key, seed, given["class"], given)
    opened = reference.open_envelope(made["envelope"], tag, key, given["class"])
    read = {"member_key": opened.sender, "timestamp": opened.timestamp, "id": opened.id}
    return {**made, **read, "body": reference.encode_body(opened.body)}


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


def _reference_seen(given: Case) -> Values:
    room_tag, log_key = unspell(given["room_tag"]), unspell(given["log_key"])
    births, ids = [unspell(b) for b in given["lineage"]], [unspell(i) for i in given["ids"]]
    log = reference.log_id(births[0][:136])
    logs = reference.check_lineage(births, log, room_tag, log_key)
    seen = unspell(given["seen"])
    if "heard_at" in given:
        assert reference.is_kept(seen, given["heard_at"], logs)
    reference.judge_seen(seen, given["place"], logs, ids, room_tag, log_key)
    return {"when_heard": "kept"}


def _reference_verify(given: Case) -> Values:
    root = unspell(given["root"])
    tag = reference.room_tag(root)
    members = {unspell(key): name for key, name in given["members"]}
    place = (unspell(given["log"]), given["n"], unspell(given["h"]), given["expired"])
    data = reference.verification_data(*place, members)
    password = reference.verification_password(data, root)
    code = reference.verification_code(password, tag)
    spoken = reference.verification_words(code)
    return {
        "room_tag": tag,
        "data": data,
        "password": password,
        "code": code,
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
    if "invite_log_key" in given:
        reference.check_ready(fields, unspell(given["invite_log_key"]))
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
    "seen": _reference_seen,
    "verify": _reference_verify,
    "invites": _reference_invite,
    "batches": _reference_batch,
    "frames": _reference_frames,
}


# --- The tests ------------------------------------------------------------------------------------


def _cases() -> list[Any]:
    found = []
    for file in make_vectors.MAKERS:
        cases = json.loads((make_vectors.FOLDER / f"{file}.json").read_text("utf-8"))
        found += [pytest.param(file, case, id=f"{file}: {case['name']}") for case in cases]
    return found


CASES = _cases()


@pytest.mark.parametrize(("file", "case"), CASES)
def test_the_program_gives_what_is_recorded(file: str, case: Case) -> None:
    try:
        values = {"outcome": "ok", **PROGRAM[file](case)}
    except Unopenable as failure:
        values = {"outcome": failure.check}
    except Malformed:
        values = {"outcome": "malformed"}
    except (WrongLogKey, Incompatible):
        values = {"outcome": "disconnect"}
    except BadInvite as failure:
        values = {"outcome": "newer" if "newer version" in str(failure) else "refused"}
    except BadInput:
        values = {"outcome": "refused"}
    _compare(file, case, values)


@pytest.mark.parametrize(("file", "case"), CASES)
def test_the_reference_gives_what_is_recorded(file: str, case: Case) -> None:
    try:
        values = {"outcome": "ok", **REFERENCE[file](case)}
    except reference.Failure as failure:
        values = {"outcome": failure.args[0]}
    _compare(file, case, values)


def _compare(file: str, case: Case, values: Values) -> None:
    """What was recomputed equals what is recorded, and of a good case that is all but the inputs.

    A value that is not recorded (a box too long to write down) is left out.
    """
    found = {name: plain(value) for name, value in values.items() if name in case}
    assert found == {name: case[name] for name in found}
    if values["outcome"] == "ok":
        assert case.keys() - values.keys() - {"name"} <= INPUTS[file]


@pytest.mark.parametrize("file", make_vectors.MAKERS)
def test_the_vectors_are_what_would_be_written_now(file: str) -> None:
    written = (make_vectors.FOLDER / f"{file}.json").read_text("utf-8")
    assert written == make_vectors.render(make_vectors.MAKERS[file]())


def test_no_file_of_vectors_is_left_over() -> None:
    written = {path.name for path in make_vectors.FOLDER.iterdir()}
    assert written == {f"{file}.json" for file in make_vectors.MAKERS}


@pytest.mark.parametrize("file", make_vectors.MAKERS)
def test_a_file_names_its_cases_apart_and_lets_most_fail(file: str) -> None:
    cases = json.loads((make_vectors.FOLDER / f"{file}.json").read_text("utf-8"))
    assert len({case["name"] for case in cases}) == len(cases)
    failing = sum(case["outcome"] != "ok" for case in cases)
    assert failing * 2 >= len(cases)


def test_the_reference_imports_nothing_but_the_standard_library_and_libsodium() -> None:
    tree = ast.parse(Path(reference.__file__).read_text("utf-8"))
    names = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module or "."]
            if isinstance(node, ast.ImportFrom)
            else [a.name for a in node.names]
        )
    }
    assert "nacl" in names
    assert names - {"nacl"} <= sys.stdlib_module_names
