"""Addresses that the kernel is to keep from the door while they come too often.

Theory of operation. libzmq computes a whole handshake before it asks whether a peer may come in,
and in the thread that computes it everybody's messages wait. So who came too often is turned away
where it costs nothing: a filter on the listening socket drops what would begin a connection
(classic BPF, McCanne and Jacobson 1993; socket(7), SO_ATTACH_FILTER; no privilege is needed). An
address is barred for connections that TCP has made, so nobody can have another's barred.

One attempt in sixteen comes through all the same. It tells whether the storm goes on, so that what
waits outside does not rush in only to be barred again; and who shares the address comes in, too.
An address is let come as soon as it tries less than twice as often as it may.

An address here is one, or a network of them with a prefix of whole 32 bits.

Rules of this file: only SYNs are dropped, never what belongs to a connection; where the system has
no such filter nothing is barred and nothing fails; a filter names a bounded number of addresses.
"""

import contextlib
import ctypes
import ipaddress
import logging
import os
import socket
import struct
import sys
from collections import Counter
from collections.abc import Iterable

from zchat.protocol.limits import KEPT_AWAY_S

_MOST_BARRED = 16  # each accepted connection is charged for the filter; 20 KiB may be the most
_ONE_IN = 16  # a power of two

_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27  # asm-generic/socket.h; the module has no names
_TCP_FLAGS, _SYN, _ACK = 13, 0x02, 0x10  # the data of a TCP socket's filter begins with its header
_IP_HEADER = 0xFFF00000  # SKF_NET_OFF
_SOURCE_AT = {4: _IP_HEADER + 12, 6: _IP_HEADER + 8}
_WORD_BITS = 32
_RANDOM = 0xFFFFF000 + 56  # SKF_AD_OFF + SKF_AD_RANDOM

_BYTE, _WORD, _AND, _SHIFT_RIGHT, _IF_EQUAL, _RETURN = 0x30, 0x20, 0x54, 0x74, 0x15, 0x06
_DROP, _LET_THROUGH = 0, 0xFFFFFFFF
_INSTRUCTION = struct.Struct("HBBI")  # struct sock_filter: code, jump if true, if false, operand

logger = logging.getLogger("zchat.broker")


class Doorstep:
    """The filter on one listening socket. Times are seconds on any monotonic clock.

    `rate`: how many connections a second an address may begin; `one_in`: how many attempts there
    are to one that comes through, a power of two.
    """

    def __init__(self, rate: float, one_in: int = _ONE_IN) -> None:
        self._one_in = one_in
        self._storm = 2 * rate * KEPT_AWAY_S / one_in  # attempts that come through within a term
        self._most = _MOST_BARRED
        self._listener: socket.socket | None = None
        self._until: dict[str, float] = {}
        self._attempts: Counter[str] = Counter()

    def watch(self, descriptor: int) -> None:
        """The descriptor that listens; a copy of it is kept."""
        if sys.platform == "linux":
            self._listener = socket.socket(fileno=os.dup(descriptor))

    def bar(self, address: str, now: float) -> None:
        """Keep an address away for a term, and for more of them while it goes on."""
        if self._listener is None or address in self._until or len(self._until) >= self._most:
            return
        if not _is_network(address):
            return
        self._until[address] = now + KEPT_AWAY_S
        if self._attach():
            logger.warning("%s connects too often: it is kept away while it goes on", address)
        else:  # the filter that stands, stands
            del self._until[address]
            self._most = len(self._until)

    def came_through(self, address: str) -> None:
        """A connection was made; of who is barred it is counted."""
        if address in self._until:
            self._attempts[address] += 1

    def settle(self, now: float) -> None:
        """Let those come whose storm is over. To be called now and then."""
        for address in [each for each, until in self._until.items() if until <= now]:
            if self._attempts.pop(address, 0) >= self._storm:
                self._until[address] = now + KEPT_AWAY_S
            else:
                del self._until[address]
                self._attach()

    def _attach(self) -> bool:
        """Have the kernel know who is barred now; whether it takes that."""
        assert self._listener is not None
        instructions = ctypes.create_string_buffer(program(self._until, self._one_in))
        length = len(instructions) // _INSTRUCTION.size  # rounded down: a NUL stands at the end
        attached = struct.pack("HP", length, ctypes.addressof(instructions))  # struct sock_fprog
        try:
            if self._until:
                self._listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, attached)
            else:
                self._listener.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
        except OSError as error:
            logger.warning("an address cannot be kept away: %s", error)
            return False
        return True

    def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None


def _is_network(address: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_network(address).prefixlen % _WORD_BITS == 0
    return False


def program(addresses: Iterable[str], one_in: int) -> bytes:
    """Drop attempts from these addresses, but for one in so many; let all else through."""
    let_through = _INSTRUCTION.pack(_RETURN, 0, 0, _LET_THROUGH)
    head = [
        _INSTRUCTION.pack(_BYTE, 0, 0, _TCP_FLAGS),
        _INSTRUCTION.pack(_AND, 0, 0, _SYN | _ACK),
        _INSTRUCTION.pack(_IF_EQUAL, 1, 0, _SYN),
        let_through,
    ]
    blocks = (_drop_from(ipaddress.ip_network(address), one_in) for address in addresses)
    return b"".join([*head, *blocks, let_through])


def _drop_from(network: ipaddress.IPv4Network | ipaddress.IPv6Network, one_in: int) -> bytes:
    """Compare the IP version, then the source, 32 bits at a time; go on behind if one differs."""
    packed = network.network_address.packed[: network.prefixlen // 8]
    words = struct.unpack(f">{network.prefixlen // _WORD_BITS}I", packed)
    behind = 2 * len(words) + 4
    block = [
        _INSTRUCTION.pack(_BYTE, 0, 0, _IP_HEADER),
        _INSTRUCTION.pack(_SHIFT_RIGHT, 0, 0, 4),
        _INSTRUCTION.pack(_IF_EQUAL, 0, behind, network.version),
    ]
    for at, word in enumerate(words):
        behind -= 2
        block.append(_INSTRUCTION.pack(_WORD, 0, 0, _SOURCE_AT[network.version] + 4 * at))
        block.append(_INSTRUCTION.pack(_IF_EQUAL, 0, behind, word))
    block += [
        _INSTRUCTION.pack(_WORD, 0, 0, _RANDOM),
        _INSTRUCTION.pack(_AND, 0, 0, one_in - 1),
        _INSTRUCTION.pack(_IF_EQUAL, 1, 0, 0),
        _INSTRUCTION.pack(_RETURN, 0, 0, _DROP),
    ]
    return b"".join(block)
