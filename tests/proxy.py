"""A TCP proxy of ours between members and a server: it keeps what passes, and can misbehave.

Rules of this file: a proxy forwards every byte in order unless its weather says otherwise; weather
can change at any time; what it cuts is cut on both sides.
"""

import contextlib
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_POLL_S = 0.05
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of no time: close sends RST


@dataclass
class Weather:
    """What happens to bytes on their way."""

    delay_s: float = 0.0
    slice_bytes: int = 65_536  # forwarded in pieces of so many bytes
    cut_after: int = -1  # the next connection is cut once so many bytes, of both ways, have passed
    resets: bool = False  # cut with RST, not with FIN
    is_hole: bool = False  # everything is swallowed, and nobody is told
    swallows: str = ""  # "to server" or "to member": only this way is a hole
    refuses: bool = False  # nobody gets through


class Proxy:
    """One listener in front of a port of this machine. `taken` is every byte of both directions."""

    def __init__(self, port: int, weather: Weather | None = None) -> None:
        self.port = port
        self.weather = weather or Weather()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1_024)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.taken = bytearray()
        self._ends = threading.Event()
        self._generation = 0  # connections of an earlier one are dropped
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while not self._ends.is_set():
            if not select.select([self._listener], [], [], _POLL_S)[0]:
                continue
            client, _ = self._listener.accept()
            if self.weather.refuses:
                client.close()
                continue
            cut_after, self.weather.cut_after = self.weather.cut_after, -1
            thread = threading.Thread(target=self._relay, args=(client, cut_after), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _relay(self, client: socket.socket, cut_after: int) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self.port))
        except OSError:  # the server is down
            client.close()
            return
        with contextlib.suppress(OSError), client, server:
            self._forward(client, server, cut_after)
            if self.weather.resets:
                for end in (client, server):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    def _forward(self, client: socket.socket, server: socket.socket, cut_after: int) -> None:
        other = {client: server, server: client}
        passed, generation = 0, self._generation
        while not self._ends.is_set() and generation == self._generation:
            if cut_after == 0:
                return
            for ready in select.select([client, server], [], [], _POLL_S)[0]:
                most = 65_536 if cut_after < 0 else cut_after - passed
                data = ready.recv(most)
                if not data:
                    return
                self.taken += data
                passed += len(data)
                self._pass(data, other[ready], "to server" if ready is client else "to member")
                if passed == cut_after:
                    return

    def _pass(self, data: bytes, to: socket.socket, way: str) -> None:
        weather = self.weather
        if weather.is_hole or weather.swallows == way:
            return
        for at in range(0, len(data), weather.slice_bytes):
            if weather.delay_s:
                time.sleep(weather.delay_s)
            to.sendall(data[at : at + weather.slice_bytes])

    def drop(self) -> None:
        """Cut every connection there is."""
        self._generation += 1

    def close(self) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join()
        self._listener.close()


@contextmanager
def proxy(port: int, weather: Weather | None = None) -> Iterator[Proxy]:
    """Between members and the server at this port."""
    made = Proxy(port, weather)
    try:
        yield made
    finally:
        made.close()


def free_port() -> int:
    """A port that was free just now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
