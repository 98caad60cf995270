"""The invite line and its parts: where the server is, and which two keys it must show.

Rules of this file: an invite holds nothing secret, and nothing that could weaken a secret: an
address, public keys, a room name, check bytes. Whatever else stands in one makes it refused
(docs/protocol.md, section 11).
"""

import base64
import binascii
import ipaddress
import re
from urllib.parse import quote, unquote_to_bytes

import msgspec

from zchat.errors import BadAddress, BadInvite, BadRoomName
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
_ADDRESS = re.compile(
    r"(\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9][A-Za-z0-9._-]{0,252}))"
    r"(:(?P<port>0|[1-9][0-9]{0,4}))?"
)
_QUOTED = re.compile(r"([A-Za-z0-9._~-]|%[0-9A-Fa-f]{2})*")  # RFC 3986: unreserved, or escaped


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
        room = quote(self.room, safe="")
        return f"{SCHEME}://{self.server.address}/{room}#{_encoded(payload)}"


def format_address(host: str, port: int) -> str:
    """HOST:PORT, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_address(typed: str, default_port: int | None = None) -> tuple[str, int]:
    """(host, port) of HOST:PORT or [IPV6]:PORT; of HOST alone where there is a default port.

    A host is an IPv4 address, an IPv6 address in brackets, or a name. Raises BadAddress.
    """
    found = _ADDRESS.fullmatch(typed)
    if found is None or not (found["port"] or default_port is not None):
        raise BadAddress(reason=f"{typed!r} is not HOST:PORT")
    if not found["port"] and typed.isdecimal():  # the system would take it for an IPv4 address
        raise BadAddress(reason=f"{typed!r} is a port without a host")
    port = int(found["port"]) if found["port"] else default_port or 0
    if port > 65_535 or (found["ipv6"] and not _is_ipv6(found["ipv6"])):
        raise BadAddress(reason=f"{typed!r} is not HOST:PORT")
    return found["ipv6"] or found["name"], port


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def stem(server: Server) -> Invite:
    """The invite that names a server and no room."""
    return Invite(server, "", server.keys)


def parse_invite(line: str) -> Invite:
    """The parts of an invite line. Raises BadInvite."""
    if not line.startswith(f"{SCHEME}://"):
        raise BadInvite(reason=f"it does not begin with {SCHEME}://")
    if len(line) > _MAX_LINE:
        raise BadInvite(reason=f"it is longer than {_MAX_LINE} characters")
    address, _, rest = line.removeprefix(f"{SCHEME}://").partition("/")
    path, hash_sign, fragment = rest.partition("#")
    if "?" in path or "?" in fragment:
        raise BadInvite(reason="it carries settings, and zchat takes none from an invite")
    if not hash_sign:
        raise BadInvite(reason="it is cut off or mixed up")
    try:
        host, port = parse_address(address)
    except BadAddress as error:
        raise BadInvite(**error.facts) from None
    if not port:
        raise BadInvite(reason="it names no port")
    room = _read_room(path)
    keys, origin = _read_fragment(fragment)
    if origin is not None and not room:
        raise BadInvite(reason="it names the origin of a room, and no room")
    return Invite(Server(host, port, keys), room, origin or keys)


def _read_room(path: str) -> str:
    if not _QUOTED.fullmatch(path):
        raise BadInvite(reason="its room name cannot be used")
    try:
        name = unquote_to_bytes(path).decode()
        return canonical_room_name(name) if name else ""
    except (UnicodeDecodeError, BadRoomName):
        raise BadInvite(reason="its room name cannot be used") from None


def _read_fragment(fragment: str) -> tuple[Origin, Origin | None]:
    """The server's keys, and the origin's where it stands there."""
    try:
        payload = base64.urlsafe_b64decode(fragment + "=" * (-len(fragment) % 4))
    except (binascii.Error, ValueError):
        raise BadInvite(reason="the part after # is mangled") from None
    if _encoded(payload) != fragment:
        raise BadInvite(reason="the part after # is mangled")
    if payload and payload[:1] != _VERSION:
        raise BadInvite(reason="it is of a newer version of zchat")
    if len(payload) not in (_ONE_BROKER, _WITH_ORIGIN):
        raise BadInvite(reason="the part after # is cut off")
    checked, check = payload[:-_CHECK_BYTES], payload[-_CHECK_BYTES:]
    if not same(check, digest(Label.INVITE, _CHECK_BYTES, checked)):
        raise BadInvite(reason="a letter after # is wrong")
    cut = [checked[at : at + KEY_BYTES] for at in range(1, len(checked), KEY_BYTES)]
    server, origin = Origin(cut[0], cut[1]), Origin(*cut[2:]) if cut[2:] else None
    if origin == server:
        raise BadInvite(reason="it names its own server as the room's origin")
    return server, origin


def _encoded(payload: bytes) -> str:
    """base64url without padding: the one encoding of these bytes."""
    return base64.urlsafe_b64encode(payload).rstrip(b"=").decode()
