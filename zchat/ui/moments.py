"""Moments as people type them: 2d, 3h, 10m, 2026-11-21, 2026-11-21T12:00."""

import re
import time
from datetime import datetime

from zchat.errors import Usage

_UNIT_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}


def since_ms(typed: str) -> int:
    """Milliseconds since 1970 of that long ago, or of that local date. Raises Usage."""
    ago = re.fullmatch(r"(\d{1,6})\s*([smhdw])", typed.strip())
    if ago:
        return max(0, time.time_ns() // 1_000_000 - int(ago[1]) * _UNIT_MS[ago[2]])
    try:
        moment = datetime.fromisoformat(typed.strip())
        return max(0, int(moment.astimezone().timestamp() * 1000))
    except (ValueError, OverflowError, OSError):
        reason = f"{typed!r} is no time: say 2d, 3h, 10m, or a date like 2026-11-21T12:00"
        raise Usage(reason=reason) from None
