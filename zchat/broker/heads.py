"""Signs places of rooms: only what is durable, and the newest place of a busy room only once."""

from zchat.log.contract import BrokerLog, Tip
from zchat.protocol.ledger import LogKey

_REMEMBERED = 4_096


class Heads:
    """Heads of the rooms of one log. They are deterministic, so nothing of them is stored."""

    def __init__(self, log: BrokerLog, key: LogKey) -> None:
        self._log = log
        self._key = key
        self._newest: dict[bytes, tuple[Tip, bytes]] = {}

    def tip(self, room: bytes) -> Tip:
        """The end of a room that exists."""
        tip = self._log.tip(room)
        assert tip is not None
        return tip

    def at(self, room: bytes, n: int) -> bytes:
        """The signed head at place n, packed. What `Log` holds is durable, so it may be signed."""
        tip = self.tip(room)
        if n != tip.n:
            return self._sign(room, tip, n, self._log.hash_at(room, n))
        held = self._newest.get(room)
        if held is None or held[0] != tip:
            if len(self._newest) >= _REMEMBERED:
                self._newest.clear()
            held = self._newest[room] = tip, self._sign(room, tip, n, tip.hash)
        return held[1]

    def _sign(self, room: bytes, tip: Tip, n: int, hash_n: bytes) -> bytes:
        return self._key.sign_head(room, tip.log, n, hash_n, min(tip.expired, n)).packed
