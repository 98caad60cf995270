"""How the world outside learns that the loop turns: a health address, and systemd's watchdog.

Theory of operation. The loop calls `beat` once per turn. A thread of the standard library's HTTP
server answers from what the last beat left behind; it touches nothing else of the broker, so a
stuck loop shows as one, and a dead thread stops nothing.

    GET /healthz   200 while the loop turns, else 503
    GET /readyz    the same; 503 while it shuts down
    GET /metrics   counters in the Prometheus text format

Rules of this file: loopback only; counters name words and sizes, never a room or a key.
"""

import os
import socket
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

from zchat.errors import CannotListen

_STUCK_AFTER_S = 5.0
_WATCHDOG_S = 2.0
_MOST_ASKING = 16


class Pulse:
    """Counts its beats, tells systemd, and answers HTTP where an address is given."""

    def __init__(self, host: str = "", port: int = 0) -> None:
        self.counts: Mapping[str, int] = {}
        self.gauges: Mapping[str, int] = {}
        self._beat_at = time.monotonic()
        self._told_at = 0.0
        self._stopping = False
        self._server = _serve(self, host, port) if host else None

    @property
    def is_alive(self) -> bool:
        """Whether the loop has turned lately."""
        return time.monotonic() - self._beat_at < _STUCK_AFTER_S

    @property
    def is_ready(self) -> bool:
        return self.is_alive and not self._stopping

    def beat(self, now: float, counts: Mapping[str, int], gauges: Mapping[str, int]) -> None:
        """The loop has turned."""
        self._beat_at = now
        if now - self._told_at >= _WATCHDOG_S:
            first, self._told_at = not self._told_at, now
            self.counts, self.gauges = dict(counts), dict(gauges)
            _tell_systemd("READY=1\nWATCHDOG=1" if first else "WATCHDOG=1")

    def stopping(self) -> None:
        """The broker shuts down; it still answers."""
        self._stopping = True
        _tell_systemd("STOPPING=1")

    def close(self) -> None:
        """Give back the address."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()


class _Http(ThreadingHTTPServer):
    """Answers a few at a time: it is for one machine's own monitoring."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._free = threading.BoundedSemaphore(_MOST_ASKING)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Who finds no thread free is hung up on, and comes again."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """In the thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, *_: object) -> None:
        """Nothing: whoever asked is gone."""


def _serve(pulse: Pulse, host: str, port: int) -> ThreadingHTTPServer:
    handler = type("Handler", (_Handler,), {"pulse": pulse})
    try:
        server = _Http((host, port), handler)
    except OSError as error:
        raise CannotListen(address=f"{host}:{port}", reason=error.strerror) from None
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
    return server


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    pulse: ClassVar[Pulse]
    timeout = 5

    def do_GET(self) -> None:
        """Answer one of the three paths."""
        if self.path == "/metrics":
            self._answer(200, _metrics(self.pulse))
        elif self.path in ("/healthz", "/readyz"):
            well = self.pulse.is_alive if self.path == "/healthz" else self.pulse.is_ready
            self._answer(200 if well else 503, "ok\n" if well else "not well\n")
        else:
            self._answer(404, "there are /healthz, /readyz and /metrics\n")

    def _answer(self, status: int, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: who asks, and how often, is not worth a line."""


def _metrics(pulse: Pulse) -> str:
    lines = ["# TYPE zchat_events_total counter"]
    lines += [f'zchat_events_total{{event="{name}"}} {n}' for name, n in pulse.counts.items()]
    for name, value in pulse.gauges.items():
        lines += [f"# TYPE zchat_{name} gauge", f"zchat_{name} {value}"]
    return "\n".join(lines) + "\n"


def _tell_systemd(state: str) -> None:
    """sd_notify(3), where systemd asked for it."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.setblocking(False)  # nobody may be reading
        try:
            notify.sendto(state.encode(), address)
        except OSError:
            return  # the watchdog will notice
