"""Addresses that the kernel is to keep away from the door for a while.

Theory of operation. libzmq computes a whole handshake before it asks whether a peer may come in,
and in the thread that computes it everybody's messages wait. So who came too often is turned away
where it costs nothing: a filter on the listening socket drops the packets that would begin a
connection (classic BPF, McCanne and Jacobson 1993; socket(7), SO_ATTACH_FILTER; no privilege is
needed). An address is barred for handshakes it finished, so nobody can have another's barred.

A connection inherits the filter that stood when it was accepted. That one does not name its own
address, or it would not have come; so it drops nothing of it.

Rules of this file: where the system has no such filter nothing is barred and nothing fails; a
filter names a bounded number of addresses.
"""

import ctypes
import ipaddress
import logging
import os
import socket
import struct
import sys
from collections.abc import Iterable

_MOST_BARRED = 32  # each accepted connection is charged for the filter; 20 KiB may be the most
_SO_ATTACH_FILTER = 26  # asm-generic/socket.h; the socket module does not name it
_NETWORK_HEADER = 0xFFF00000  # SKF_NET_OFF: offsets from where the IP header begins
_SOURCE_AT = {4: (12,), 6: (8, 12, 16, 20)}  # in an IP header, 32 bits each

_LOAD_BYTE, _LOAD_WORD, _SHIFT_RIGHT, _IF_EQUAL, _RETURN = 0x30, 0x20, 0x74, 0x15, 0x06
_DROP, _LET_THROUGH = 0, 0xFFFFFFFF
_INSTRUCTION = struct.Struct("HBBI")  # struct sock_filter: code, jump if true, if false, operand

logger = logging.getLogger("zchat.broker")


class Doorstep:
    """The filter on one listening socket. Times are seconds on any monotonic clock."""

    def __init__(self) -> None:
        self._listener: socket.socket | None = None
        self._until: dict[str, float] = {}
        self._is_changed = False

    def watch(self, descriptor: int) -> None:
        """The descriptor that listens; a copy of it is kept."""
        if sys.platform == "linux":
            self._listener = socket.socket(fileno=os.dup(descriptor))

    def bar(self, address: str, until: float) -> bool:
        """Let nobody from there come to the door, from the next `settle` on.

        False where it is barred already, or cannot be.
        """
        has_place = self._listener is not None and len(self._until) < _MOST_BARRED
        if address in self._until or not has_place:
            return False
        self._until[address] = until
        self._is_changed = True
        return True

    def settle(self, now: float) -> None:
        """Let those through whose time is over, and have the kernel know of all changes."""
        over = [address for address, until in self._until.items() if until <= now]
        for address in over:
            del self._until[address]
        if self._listener is None or not (over or self._is_changed):
            return
        self._is_changed = False
        program = ctypes.create_string_buffer(dropping(self._until))
        length = len(program.raw) // _INSTRUCTION.size
        wanted = struct.pack("HP", length, ctypes.addressof(program))
        try:
            self._listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, wanted)
        except OSError as error:
            logger.warning("addresses cannot be kept away: %s", error)
            self.close()

    def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None


def dropping(addresses: Iterable[str]) -> bytes:
    """A program that drops what comes from these addresses and lets all else through."""
    blocks = (_drop_from(ipaddress.ip_address(address)) for address in addresses)
    return b"".join(blocks) + _INSTRUCTION.pack(_RETURN, 0, 0, _LET_THROUGH)


def _drop_from(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bytes:
    """Compare the IP version, then the source, 32 bits at a time; go on behind if one differs."""
    words = struct.unpack(f">{len(address.packed) // 4}I", address.packed)
    behind = 2 * len(words) + 1
    block = [
        _INSTRUCTION.pack(_LOAD_BYTE, 0, 0, _NETWORK_HEADER),
        _INSTRUCTION.pack(_SHIFT_RIGHT, 0, 0, 4),
        _INSTRUCTION.pack(_IF_EQUAL, 0, behind, address.version),
    ]
    for at, word in zip(_SOURCE_AT[address.version], words, strict=True):
        behind -= 2
        block.append(_INSTRUCTION.pack(_LOAD_WORD, 0, 0, _NETWORK_HEADER + at))
        block.append(_INSTRUCTION.pack(_IF_EQUAL, 0, behind, word))
    block.append(_INSTRUCTION.pack(_RETURN, 0, 0, _DROP))
    return b"".join(block)
