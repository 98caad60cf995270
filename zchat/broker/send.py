"""What the broker wants sent, and what is undone where it cannot be."""

from dataclasses import dataclass
from typing import NamedTuple

from zchat.protocol.limits import MAX_WINDOW_BYTES
from zchat.protocol.wire import Frames


@dataclass(eq=False, slots=True)
class Subscription:
    """A cursor in a room. Weights are running sums of wire bytes, so bytes in flight subtract."""

    route: bytes
    room: bytes
    number: int
    window: int
    after: int
    after_weight: int
    cursor: int
    cursor_weight: int
    needs_lineage: bool
    answering: tuple[int, ...]  # JOINs not answered yet, each by an ENTRIES of its own
    queued: bool = False

    @property
    def room_left(self) -> int:
        """Bytes that may still go under way."""
        in_flight = self.cursor_weight - self.after_weight
        return min(self.window, MAX_WINDOW_BYTES) - in_flight

    @property
    def is_nearly_full(self) -> bool:
        """Whether less than a quarter of the window is left: its member owes an acknowledgement.

        Filling the rest with a batch cut short would leave every member at a place of its own, and
        each would have to be packed for alone (RFC 813 calls it the silly window).
        """
        return self.room_left <= 0 or 4 * self.room_left < self.window

    @property
    def may_be_sent_to(self) -> bool:
        """Whether its member does not owe an acknowledgement first."""
        return self.is_idle or not self.is_nearly_full

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way: then one entry may be, whatever its size."""
        return self.cursor == self.after


class Former(NamedTuple):
    """What a subscription was before a Send moved it."""

    cursor: int
    cursor_weight: int
    needs_lineage: bool
    answering: tuple[int, ...]


class Send(NamedTuple):
    """Frames for a route. `former` is what its cursor goes back to if they cannot be sent."""

    route: bytes
    frames: Frames
    subscription: Subscription | None = None
    former: Former | None = None
