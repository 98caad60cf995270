"""The invite line and its parts: where the server is, and which two keys it must show.

Rules of this file: an invite holds nothing secret, and nothing that could weaken a secret: an
address, public keys, a room name, check bytes. Whatever else stands in one makes it refused
(docs/protocol.md, section 11).
"""

import base64
import binascii
from urllib.parse import quote, unquote_to_bytes, urlsplit

import msgspec

from zchat.errors import BadInvite, BadRoomName
from zchat.protocol.keys import room_salt, same
from zchat.protocol.labels import Label, digest
from zchat.protocol.limits import KEY_BYTES
from zchat.protocol.words import canonical_room_name

SCHEME = "zchat"
_VERSION = b"\x01"
_CHECK_BYTES = 4
_ONE_BROKER = 1 + 2 * KEY_BYTES + _CHECK_BYTES
_WITH_ORIGIN = _ONE_BROKER + 2 * KEY_BYTES
_MAX_LINE = 1024


class Origin(msgspec.Struct, frozen=True):
    """The two public keys of the broker where a room was made; its salt comes from them."""

    curve_key: bytes
    log_key: bytes

    def salt(self, room: str) -> bytes:
        """The Argon2id salt of a room (canonical name) made there."""
        return room_salt(self.curve_key, self.log_key, room)


class Server(msgspec.Struct, frozen=True):
    """Where a broker is, and who it must be."""

    host: str
    port: int
    keys: Origin

    @property
    def address(self) -> str:
        return format_address(self.host, self.port)


class Invite(msgspec.Struct, frozen=True):
    """A server and a room there; the stem of an invite has no room (empty)."""

    server: Server
    room: str
    origin: Origin

    def __str__(self) -> str:
        payload = _VERSION + self.server.keys.curve_key + self.server.keys.log_key
        if self.origin != self.server.keys:
            payload += self.origin.curve_key + self.origin.log_key
        payload += digest(Label.INVITE, _CHECK_BYTES, payload)
        fragment = base64.urlsafe_b64encode(payload).rstrip(b"=").decode()
        return f"{SCHEME}://{self.server.address}/{quote(self.room, safe='')}#{fragment}"


def format_address(host: str, port: int) -> str:
    """HOST:PORT, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_address(typed: str, default_port: int) -> tuple[str, int]:
    """(host, port) of HOST, HOST:PORT or [IPV6]:PORT. Raises BadInvite."""
    try:
        parts = urlsplit(f"//{typed}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise BadInvite(reason=f"{typed!r} is not HOST:PORT") from None
    plain = all(char.isalnum() or char in ".-:_%" for char in host)
    if not (host and plain and parts.netloc == typed) or "@" in typed:
        raise BadInvite(reason=f"{typed!r} is not HOST:PORT")
    return host, default_port if port is None else port


def stem(server: Server) -> Invite:
    """The invite that names a server and no room."""
    return Invite(server, "", server.keys)


def parse_invite(line: str) -> Invite:
    """The parts of an invite line. Raises BadInvite."""
    line = line.strip()
    if len(line) > _MAX_LINE or not line.startswith(f"{SCHEME}://"):
        raise BadInvite(reason=f"it does not begin with {SCHEME}://")
    address, _, rest = line.removeprefix(f"{SCHEME}://").partition("/")
    path, hash_sign, fragment = rest.partition("#")
    if "?" in path or "?" in fragment:
        raise BadInvite(reason="it carries settings, and zchat takes none from an invite")
    if "/" in path or not hash_sign:
        raise BadInvite(reason="it is cut off or mixed up")
    host, port = parse_address(address, 0)
    if not 1 <= port <= 65_535:
        raise BadInvite(reason="it names no port")
    keys, origin = _read_fragment(fragment)
    return Invite(Server(host, port, keys), _read_room(path), origin)


def _read_room(path: str) -> str:
    try:
        name = unquote_to_bytes(path).decode()
        return canonical_room_name(name) if name else ""
    except (UnicodeDecodeError, BadRoomName):
        raise BadInvite(reason="its room name cannot be used") from None


def _read_fragment(fragment: str) -> tuple[Origin, Origin]:
    """(the server's keys, the origin's keys)."""
    try:
        padded = fragment + "=" * (-len(fragment) % 4)
        payload = base64.b64decode(padded.encode("ascii"), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise BadInvite(reason="the part after # is mangled") from None
    if payload[:1] != _VERSION or len(payload) not in (_ONE_BROKER, _WITH_ORIGIN):
        raise BadInvite(reason="the part after # is cut off, or of a newer version")
    checked, check = payload[:-_CHECK_BYTES], payload[-_CHECK_BYTES:]
    if not same(check, digest(Label.INVITE, _CHECK_BYTES, checked)):
        raise BadInvite(reason="a letter after # is wrong")
    cut = [checked[at : at + KEY_BYTES] for at in range(1, len(checked), KEY_BYTES)]
    server = Origin(cut[0], cut[1])
    return server, Origin(cut[2], cut[3]) if len(cut) == 4 else server
