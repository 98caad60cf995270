"""The broker's loop without CURVE, for P2 alone: the program itself has no plaintext listener.

Everything else is the program's: drain, one durable commit a turn, encode once, hand out.
"""

import sys
from pathlib import Path

import zmq

from zchat.broker.core import Core, Limits, Peer
from zchat.broker.folder import BrokerKeys, load_keys, log_path
from zchat.broker.server import _ROUTER_OPTIONS, Server
from zchat.database import Access
from zchat.log.sqlite import SqliteLog

_PLENTY = 1_000_000_000
_CURVE = (zmq.CURVE_SERVER, zmq.ZAP_DOMAIN, zmq.ZAP_ENFORCE_DOMAIN)


class PlainServer(Server):
    """A server on an ipc:// socket, where everybody is the same peer."""

    def _make_router(self, keys: BrokerKeys) -> "zmq.Socket[bytes]":
        router = self._context.socket(zmq.ROUTER)
        for option, value in _ROUTER_OPTIONS.items():
            if option not in _CURVE:
                router.setsockopt(option, value)
        return router

    def bind(self, endpoint: str) -> None:
        """Listen; nobody is asked for a key, and connections without an address are not watched."""
        self._router.disable_monitor()
        self._router.bind(endpoint)

    def _is_let_in(self, route: bytes, first: zmq.Frame) -> bool:
        self._core.connected(route, Peer(b"", "ipc"))
        return True


def serve(folder: Path, endpoint: str) -> None:
    """Run it until SIGTERM."""
    log = SqliteLog(log_path(folder), Access.ONE_WRITER)
    keys = load_keys(folder)
    allowed = Limits(
        post_burst=_PLENTY, posts_per_s=_PLENTY, control_burst=_PLENTY, controls_per_s=_PLENTY
    )
    core = Core(log, keys.log_key, allowed, "plain")
    server = PlainServer(keys, log, core, connections_per_address=_PLENTY)
    server.bind(endpoint)
    server.run()
    server.close()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2])
