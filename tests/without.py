"""The program with one defence taken away, so that the row which rests on it can be seen to fail.

    python -m tests.without NAME[,NAME ...] -- zchat ARG ...

Goal: a test of a defence that cannot fail shows nothing. Method: a defence is an attribute of a
real module; here it is replaced by what a program without it would do, and then the program's own
`main` runs. In one process the same goes by `without(NAME, ...)`.

Rules of this file: the installed program has no switch for any of this; one entry takes away one
defence and nothing more, and its docstring says what is left.
"""

import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias
from unittest.mock import patch

import msgspec
import zmq
from nacl import bindings

from zchat.broker import gate as gates
from zchat.broker import server as servers
from zchat.broker.budget import Budget
from zchat.broker.core import Peer
from zchat.broker.doorstep import Doorstep
from zchat.broker.gate import Gate
from zchat.broker.server import Server
from zchat.errors import StoreTrouble
from zchat.log.contract import Entry
from zchat.member import checked, client, invite, numbers, transcript
from zchat.member import room as rooms
from zchat.member.checked import CheckedLog, Seen, Step
from zchat.member.core import Core
from zchat.member.delivery import Delivery
from zchat.member.names import NameBook
from zchat.member.presence import Presence
from zchat.member.room import Room
from zchat.member.rows import Blame, Event, Kind, Message, Notice, State, Status
from zchat.member.session import Arrived, Refused, Session
from zchat.member.transcript import Transcript
from zchat.member.vault import Vault
from zchat.protocol import body as bodies
from zchat.protocol import envelope as envelopes
from zchat.protocol import limits, seal, wire
from zchat.protocol.keys import Author, RoomKeys
from zchat.protocol.labels import Label, digest
from zchat.protocol.ledger import Head, chain
from zchat.protocol.wire import Entries, Item, Ready
from zchat.ui import line, show, visit
from zchat.ui.cli import main as command_line

Patches: TypeAlias = list[AbstractContextManager[Any]]
Defence: TypeAlias = Callable[[], Patches]

DEFENCES: dict[str, Defence] = {}


def defence(name: str) -> Callable[[Defence], Defence]:
    """Enter what takes away the defence of this name."""

    def enter(taking: Defence) -> Defence:
        assert name not in DEFENCES
        DEFENCES[name] = taking
        return taking

    return enter


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Take these defences away from this process for as long as this lasts."""
    with ExitStack() as taken:
        for name in names:
            for change in DEFENCES[name]():
                taken.enter_context(change)
        yield


def _everywhere(function: Callable[..., Any], other: Callable[..., Any]) -> Patches:
    """Another function in every module of the program that has this one."""
    name = function.__name__
    modules = [each for key, each in sys.modules.items() if key.startswith("zchat.")]
    known = [each for each in modules if getattr(each, name, None) is function]
    return [patch.object(each, name, other) for each in known]


def command(names: Sequence[str]) -> list[str]:
    """What to start instead of `python -m zchat`."""
    return [sys.executable, str(Path(__file__).resolve()), ",".join(names), "--", "zchat"]


def main() -> None:
    """Take the defences away and be the program."""
    named, program, arguments = sys.argv[1:2], sys.argv[2:4], sys.argv[4:]
    names = named[0].split(",") if named else []
    if program != ["--", "zchat"] or not DEFENCES.keys() >= set(names):
        known = ", ".join(DEFENCES)
        sys.exit(f"usage: python -m tests.without NAME[,NAME ...] -- zchat ARG ...; NAME: {known}")
    sys.argv = ["zchat", *arguments]
    with without(*names):
        command_line.main()


# ---- envelopes ----


@defence("commitment")
def _() -> Patches:
    """The commitment is not compared; the signature and the box are."""
    return [patch.object(seal, "same", lambda one, other: True)]


@defence("signature")
def _() -> Patches:
    """The author's signature is not verified; commitment and box are."""
    lenient = SimpleNamespace(**vars(bindings))
    lenient.crypto_sign_open = lambda signed, key: signed[64:]
    return [patch.object(seal, "bindings", lenient)]


def _derive(shape: Callable[[RoomKeys, bytes], tuple[bytes, bytes]]) -> Patches:
    """A box key and commitment of less than everything."""

    def message_keys(self: RoomKeys, packed_header: bytes) -> tuple[bytes, bytes]:
        data, key = shape(self, packed_header)
        both = digest(Label.MESSAGE, 2 * limits.KEY_BYTES, data, key)
        return both[: limits.KEY_BYTES], both[limits.KEY_BYTES :]

    return [patch.object(RoomKeys, "message_keys", message_keys)]


@defence("room key")
def _() -> Patches:
    """A message's keys come from what is public: everybody can seal and open."""
    return _derive(lambda room, header: (room.tag + header, b""))


@defence("sender in key")
def _() -> Patches:
    """A message's keys say nothing of its sender; the signature is by whoever stands there."""
    return _derive(lambda room, header: (room.tag + header[:39], room._epoch_key))


@defence("header in key")
def _() -> Patches:
    """A message's keys say nothing of its header: they are one pair for the whole room."""
    return _derive(lambda room, header: (room.tag, room._epoch_key))


@defence("sealing")
def _() -> Patches:
    """The box is the text itself behind sixteen zero bytes; it is signed all the same."""
    open_box = SimpleNamespace(**vars(bindings))
    open_box.crypto_secretbox = lambda text, nonce, key: bytes(16) + text
    open_box.crypto_secretbox_open = lambda box, nonce, key: box[16:]
    return [patch.object(seal, "bindings", open_box)]


@defence("padding")
def _() -> Patches:
    """A text travels in its own length."""
    return [
        patch.object(seal, "padded_length", lambda size: limits.ITEM_PREFIX_BYTES + size),
        patch.object(envelopes, "padme", lambda length: length),
        patch.object(envelopes, "PADDING_FLOOR_BYTES", 1),
    ]


@defence("key per room")
def _() -> Patches:
    """A member signs with one key in all rooms."""

    def init(self: Author, master_seed: bytes, room: RoomKeys) -> None:
        self._seed = digest(Label.ROOM_ID, limits.KEY_BYTES, b"", master_seed)
        self.public, self._secret = bindings.crypto_sign_seed_keypair(self._seed)

    return [patch.object(Author, "__init__", init)]


@defence("salt per room")
def _() -> Patches:
    """One passphrase gives one key, whatever the room and the server."""
    return [patch.object(invite, "room_salt", lambda *_: bytes(16))]


@defence("room tag")
def _() -> Patches:
    """A room's tag says nothing of its passphrase."""
    honest = RoomKeys.__init__

    def init(self: RoomKeys, root: bytes) -> None:
        honest(self, root)
        self.tag = digest(Label.ROOM_TAG, limits.TAG_BYTES, b"lobby")

    return [patch.object(RoomKeys, "__init__", init)]


@defence("body class")
def _() -> Patches:
    """A body is what it says, whatever word it came by."""

    def decode(raw: bytes) -> Any:
        body = msgspec.msgpack.decode(raw, type=bodies.Text | bodies.Void | bodies.Beat)
        if isinstance(body, bodies.Beat):
            return bodies.Text(body.name, body.incarnation, body.count, body.seen, "I am here")
        return body

    return _everywhere(bodies.decode_logged, decode)


@defence("body errors")
def _() -> Patches:
    """That a body can be decoded is taken for granted."""
    return [patch.object(bodies, "NOT_DECODABLE", ())]


# ---- the log ----


@defence("chain")
def _() -> Patches:
    """What is sent need not fold into the head it comes with."""

    def fold(self: CheckedLog, word: Entries, items: list[Item], head: Head) -> list[Entry]:
        ids = [item.bare_id or envelopes.envelope_id(item.envelope or b"") for item in items]
        hashes = [*chain(word.before, word.first, ids)[:-1], head.hash]
        rows = zip(ids, hashes, items, strict=True)
        return [Entry(n, i, h, item.envelope) for n, (i, h, item) in enumerate(rows, word.first)]

    return [patch.object(CheckedLog, "_fold", fold)]


@defence("ends at its head")
def _() -> Patches:
    """A batch may end before or behind the head it comes with."""
    honest = CheckedLog._check_entries

    def check(
        self: CheckedLog, word: Entries, items: list[Item], head: Head, **how: Any
    ) -> checked.Segment:
        return honest(self, word, items, head._replace(n=word.first + len(items) - 1), **how)

    return [patch.object(CheckedLog, "_check_entries", check)]


@defence("ids once")
def _() -> Patches:
    """An id may stand in a log twice, and a replica does not mind."""
    return [patch.object(CheckedLog, "_check_ids", lambda *_, **__: None), _lenient_replica()]


@defence("known places")
def _() -> Patches:
    """What comes is new, also what we have."""

    def check(
        self: CheckedLog, word: Entries, items: list[Item], head: Head, **_: Any
    ) -> checked.Segment:
        return checked.Segment(Step.ON, self._fold(word, items, head), head, word.lineage)

    return [patch.object(CheckedLog, "_check_entries", check), _lenient_replica()]


def _lenient_replica() -> AbstractContextManager[Any]:
    """What a replica would refuse to keep is believed without being kept."""
    honest = CheckedLog.advance

    def advance(self: CheckedLog, segment: checked.Segment, kept: list[Entry]) -> None:
        try:
            honest(self, segment, kept)
        except (AssertionError, StoreTrouble):
            self.head = segment.head

    return patch.object(CheckedLog, "advance", advance)


@defence("head signature")
def _() -> Patches:
    """Whoever says it may say how long the log is."""
    return [patch.object(checked, "head_holds", lambda *_: True)]


@defence("seen")
def _() -> Patches:
    """What history others counter-signed is not looked at."""
    return [
        patch.object(CheckedLog, "judge", lambda *_: Seen.FITS),
        patch.object(CheckedLog, "witness", lambda *_, **__: Seen.FITS),
    ]


@defence("witness")
def _() -> Patches:
    """Heads beyond our own end are forgotten: those of beats, receipts and answers."""
    gone = property(lambda self: set(), lambda self, heads: None)
    return [
        patch.object(CheckedLog, "_promise", lambda *_: None),
        patch.object(CheckedLog, "_owed", gone, create=True),
    ]


@defence("lineage")
def _() -> Patches:
    """Another log of the room is taken for the room's log, whatever it names."""

    def new_log(self: CheckedLog, word: Entries, head: Head) -> checked.Segment:
        return checked.Segment(Step.IN_STEP, [], head)

    return [patch.object(CheckedLog, "_new_log", new_log)]


@defence("behind")
def _() -> Patches:
    """A server that has less than before is only slow."""
    return [patch.object(Room, "_behind", lambda *_: [])]


@defence("withheld")
def _() -> Patches:
    """Signed heads whose entries never come are waited for in silence."""
    return [patch.object(Delivery, "_withhold", lambda *_, **__: [])]


@defence("stop at a fault")
def _() -> Patches:
    """A contradiction is told, and then everything goes on as before."""
    return [patch.object(Room, "fault", property(lambda self: ""))]


# ---- what a member believes ----


@defence("numbers")
def _() -> Patches:
    """Nobody counts: nothing is missing, nothing comes twice."""
    return [patch.object(numbers.Incarnation, "take", lambda *_: numbers.Taken())]


@defence("freshness")
def _() -> Patches:
    """Silence is peace."""
    return [patch.object(Presence, "stale_s", lambda *_: 0.0)]


@defence("echo")
def _() -> Patches:
    """Any beat proves freshness, however old it is."""
    honest = Presence.heard

    def heard(self: Presence, key: bytes, beat: bodies.Beat, now: float, **how: Any) -> Any:
        change = honest(self, key, beat, now, **how)
        self._fresh_at = now
        return change

    return [patch.object(Presence, "heard", heard)]


@defence("names")
def _() -> Patches:
    """Whoever claims a name has it."""
    return [patch.object(NameBook, "claim", lambda self, key, name: (key, name))]


@defence("mute")
def _() -> Patches:
    """Everybody is heard, whether one wants it or not."""
    return [patch.object(Vault, "is_muted", lambda *_: False)]


@defence("log order")
def _() -> Patches:
    """History is shown by its senders' clocks."""
    honest = Room.replay

    def replay(self: Room) -> Iterator[Any]:
        yield from sorted(honest(self), key=lambda row: getattr(row, "sent_at_ms", 0))

    return [patch.object(Room, "replay", replay)]


@defence("key marks")
def _() -> Patches:
    """A name is shown without its key mark."""
    bare = lambda key, name, trusted: name  # noqa: E731
    return [patch.object(module, "shown_name", bare) for module in (transcript, rooms)]


@defence("own key")
def _() -> Patches:
    """One's own key is oneself."""
    return [patch.object(Transcript, "own_key_rows", lambda *_, **__: [])]


@defence("late mark")
def _() -> Patches:
    """The sender's time is the time."""
    return [patch.object(transcript, "_status", lambda *_: Status.STORED)]


@defence("two times")
def _() -> Patches:
    """A late message is known to be late, and not shown so."""
    return [patch.object(show, "_marks", lambda message: "")]


# ---- the wire ----


@defence("one encoding")
def _() -> Patches:
    """Of a word in any encoding, with anything besides, what is known of it is taken."""
    honest = wire._decode

    def decode(frames: Sequence[bytes], decoder: Any) -> Any:
        return honest([_known_part(frames[0]), *frames[1:]] if frames else frames, decoder)

    return [patch.object(wire, "_decode", decode)]


def _known_part(word: bytes) -> bytes:
    try:
        pairs = msgspec.msgpack.decode(word)
        kind = getattr(wire, str(pairs["word"]).capitalize())
    except (*wire.NOT_DECODABLE, AttributeError, KeyError, TypeError):
        return word
    known = ("word", *kind.__struct_fields__)
    return msgspec.msgpack.encode({name: pairs[name] for name in known if name in pairs})


@defence("log key pin")
def _() -> Patches:
    """The server's log key is the one it says."""
    honest = Session._ready

    def ready(self: Session, word: Ready, now: float) -> Any:
        self._log_key = word.log_key
        return honest(self, word, now)

    return [patch.object(Session, "_ready", ready)]


@defence("protocol version")
def _() -> Patches:
    """Any version will do."""
    honest = Session._ready

    def ready(self: Session, word: Ready, now: float) -> Any:
        spoken = msgspec.structs.replace(word, protocol=limits.PROTOCOL_VERSION)
        return honest(self, spoken, now)

    return [patch.object(Session, "_ready", ready)]


@defence("curve")
def _() -> Patches:
    """A member talks to whoever answers, in the clear."""

    def plain(self: client.Client, pair: object) -> Any:
        dealer = self._context.socket(zmq.DEALER)
        dealer.linger = 0
        return dealer

    return [patch.object(client.Client, "_make_dealer", plain)]


@defence("message size")
def _() -> Patches:
    """A member takes a frame of any size."""
    return [patch.dict(client._DEALER_OPTIONS, {zmq.MAXMSGSIZE: -1})]


@defence("agree first")
def _() -> Patches:
    """The outbox goes out before the server has shown our log."""
    honest = Session._flow

    def flow(self: Session, room: Any, now: float) -> Any:
        room.agreed = True
        return honest(self, room, now)

    return [patch.object(Session, "_flow", flow)]


@defence("silence")
def _() -> Patches:
    """What does not open is asked for again."""
    honest = Core._arrived

    def arrived(self: Core, room: Room, arrived: Arrived) -> list[Any]:
        done = honest(self, room, arrived)
        whats = [event.what for event in done if isinstance(event, Event)]
        if any(isinstance(what, Message) and what.kind is Kind.UNREADABLE for what in whats):
            done += self._carry_out(self._session.join_again(room.tag, self._clock.now()))
        return done

    return [patch.object(Core, "_arrived", arrived)]


@defence("quiet reading")
def _() -> Patches:
    """Whoever gets a message says so."""
    honest = Core._arrived

    def arrived(self: Core, room: Room, arrived: Arrived) -> list[Any]:
        return [*honest(self, room, arrived), *self.farewell()]

    return [patch.object(Core, "_arrived", arrived)]


@defence("quiet typing")
def _() -> Patches:
    """Each key that is pressed is told."""
    honest = line.LineChat.__init__

    def init(self: line.LineChat, where: visit.Visit, *, colours: bool) -> None:
        honest(self, where, colours=colours)
        told = where.client
        self._session.default_buffer.on_text_changed += lambda _: told._do(told._core.farewell())

    return [patch.object(line.LineChat, "__init__", init)]


@defence("gate")
def _() -> Patches:
    """Everybody gets in."""
    return [patch.object(Gate, "_why_not", lambda *_: "")]


@defence("curve at the door")
def _() -> Patches:
    """The broker takes plain text, and asks nobody who comes."""
    return [_unasked(), *_router(curve_server=False)]


def _unasked() -> AbstractContextManager[Any]:
    asking = {zmq.ZAP_DOMAIN, zmq.ZAP_ENFORCE_DOMAIN}
    kept = {name: value for name, value in servers._ROUTER_OPTIONS.items() if name not in asking}
    return patch.object(servers, "_ROUTER_OPTIONS", kept)


@defence("zap handler")
def _() -> Patches:
    """Nobody answers the library when it asks who may come in."""
    return [patch.object(gates, "ZAP_ADDRESS", "inproc://nobody-asks-here")]


@defence("zap domain")
def _() -> Patches:
    """Where nobody answers, everybody may come in."""
    return [_unasked()]


@defence("handshake time")
def _() -> Patches:
    """Whoever connects may take all the time there is."""
    return _router(handshake_ivl=0)


@defence("handover")
def _() -> Patches:
    """A route goes to whoever claims it last."""
    return _router(router_handover=1)


def _router(**options: Any) -> Patches:
    """The broker's socket with other options."""
    honest = Server._make_router

    def make(self: Server, keys: Any) -> Any:
        router = honest(self, keys)
        for name, value in options.items():
            setattr(router, name, value)
        return router

    return [patch.object(Server, "_make_router", make)]


@defence("own routes")
def _() -> Patches:
    """A peer may say by which name it wants to be called."""

    def identify(self: Gate, route: bytes, frame: Any) -> Peer:
        return Peer(bytes.fromhex(str(frame.get("User-Id"))), "127.0.0.1")

    return [patch.object(Gate, "identify", identify)]


@defence("who is asked")
def _() -> Patches:
    """Who somebody is stands in what they say of themselves, or nowhere."""

    def identify(self: Gate, route: bytes, frame: Any) -> Peer:
        try:
            who = bytes.fromhex(str(frame.get("User-Id")))
        except zmq.ZMQError:
            who = bytes(32)
        return Peer(who, "127.0.0.1")

    return [patch.object(Gate, "identify", identify)]


@defence("rates")
def _() -> Patches:
    """Everybody may have as much as they like."""
    return [patch.object(Budget, "take", lambda *_: True)]


@defence("doorstep")
def _() -> Patches:
    """Who is refused may knock again at once, and costs a handshake each time."""
    return [patch.object(Doorstep, "bar", lambda *_: False)]


@defence("descriptors")
def _() -> Patches:
    """The broker makes do with the descriptors that a shell gives."""

    def few() -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))

    return [patch.object(servers, "_prepare_process", few)]


# ---- screens and people ----


@defence("server says")
def _() -> Patches:
    """A server's words stand there like the program's own."""

    def refused(self: Core, refusal: Refused) -> list[Any]:
        text = refusal.word.text
        return [Event(refusal.word.room, Notice(0, State.OK, Blame.NOBODY, text))]

    return [patch.object(Core, "_refused", refused)]


@defence("sanitiser")
def _() -> Patches:
    """What others wrote goes to the screen as it is."""
    return [
        patch.object(show, "safe_line", lambda text: text),
        patch.object(show, "safe_lines", lambda text: text.split("\n")),
    ]


@defence("gutter")
def _() -> Patches:
    """Only the first row of a message names its sender."""
    honest = show.message_rows

    def rows(message: Message) -> list[tuple[str, str]]:
        first, *rest = honest(message)
        return [first, *(("", text) for _, text in rest)]

    return _everywhere(show.message_rows, rows)


@defence("rows")
def _() -> Patches:
    """A long row is left to the terminal, which wraps it where it likes."""
    return [patch.object(line, "hanging", lambda head, text, columns: [(head, text)])]


@defence("address space")
def _() -> Patches:
    """A process may take all memory there is."""
    return [patch.object(command_line, "_bound_memory", lambda: None)]


@defence("limit note")
def _() -> Patches:
    """Nothing says who else could be reading."""
    return [patch.object(line, "_LIMIT_NOTE", "nobody else can read this room")]


@defence("strength")
def _() -> Patches:
    """Any passphrase is good enough for a new room."""
    return [patch.object(visit, "ENOUGH_BITS", 0)]


if __name__ == "__main__":
    sys.path.pop(0)  # the folder of this file: nothing in it is for the program
    main()
