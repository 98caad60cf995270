"""Time and randomness, from one place, so that a test or a simulation can give its own."""

import os
import time


class Clock:
    """The machine's own."""

    def now(self) -> float:
        """Seconds on a clock that only goes forward; from no particular start."""
        return time.monotonic()

    def wall_ms(self) -> int:
        """Milliseconds since 1970, as this machine believes. Decides nothing but what is shown."""
        return time.time_ns() // 1_000_000

    def random(self, size: int) -> bytes:
        """Bytes nobody can guess."""
        return os.urandom(size)

    def chance(self) -> float:
        """Evenly in 0...1, for jitter."""
        return int.from_bytes(self.random(4), "big") / 2**32
