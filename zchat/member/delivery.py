"""Whether the server delivers what it signed, and what it speaks of.

Theory of operation. Two clocks run while the server owes entries. One accuses: of signed entries
not one came, for the whole limit, on one connection. The other only tells: next to nothing came of
what the server speaks of, over however many connections; a bad line looks the same.

Rules of this file: time comes in as what has passed; nobody is accused without being asked again.
"""

from zchat.member.rows import Blame, Notice, State, accusation

_CRAWL = 100  # entries within the limit: fewer is next to nothing


class Delivery:
    """The clocks of one room; `limit_s` is how long signed entries may take."""

    def __init__(self, limit_s: float, n: int) -> None:
        self._limit_s = limit_s
        self._withheld_s = 0.0
        self._pace_n, self._pace_s = n, 0.0
        self.withheld = ""  # what is withheld just now, as one says it
        self.is_slow = False  # delivers next to nothing of what it speaks of
        self.asks_again = False  # entries are late: join anew before anybody is accused

    def progressed(self) -> None:
        """Entries came."""
        self._withheld_s = 0.0

    def disconnected(self) -> None:
        """The connection is gone, and what was under way with it."""
        self._withheld_s = 0.0

    def settled(self, n: int, promised_n: int) -> list[Notice]:
        """The log reaches `n` now; whether that ends what was withheld."""
        if not self.withheld or promised_n > n:
            return []
        self.withheld = ""
        return [Notice(0, State.OK, Blame.NOBODY, "the server delivered what it held back")]

    def tick(
        self, passed_s: float, n: int, promised_n: int, tip: int, *, following: bool
    ) -> list[Notice]:
        """Time has passed: the log ends at `n`, heads are signed to `promised_n`."""
        return [
            *self._withhold(passed_s, n, promised_n, following=following),
            *self._pace(passed_s, n, tip, following=following),
        ]

    def _withhold(
        self, passed_s: float, n: int, promised_n: int, *, following: bool
    ) -> list[Notice]:
        self.asks_again = False
        if not following or promised_n <= n or self.withheld:
            return []
        before, self._withheld_s = self._withheld_s, self._withheld_s + passed_s
        self.asks_again = before < self._limit_s / 3 <= self._withheld_s
        if self._withheld_s < self._limit_s:
            return []
        self.withheld = f"it signed #{promised_n} and does not deliver what follows #{n}"
        return [accusation(self.withheld)]

    def _pace(self, passed_s: float, n: int, tip: int, *, following: bool) -> list[Notice]:
        """A server that delivers next to nothing of what it speaks of, however it excuses itself.

        No verdict, for a bad line looks the same; but from here on what comes is judged as live,
        and its unsigned word for where the log ends counts no more.
        """
        if n >= tip:
            self._pace_n, self._pace_s, self.is_slow = n, 0.0, False
        elif following:
            self._pace_s += passed_s
        if self._pace_s < self._limit_s:
            return []
        crawls, self._pace_n, self._pace_s = n - self._pace_n < _CRAWL, n, 0.0
        if not crawls or self.is_slow:
            return []
        self.is_slow = True
        text = f"the server speaks of #{tip} and has delivered up to #{n}, next to nothing of late"
        return [Notice(0, State.STALE, Blame.UNKNOWN, f"{text}: it may hold messages back")]
