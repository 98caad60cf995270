"""All lies by name.

Rules of this file: a lie's parameters are those of its constructor; their defaults say their types.
"""

import inspect

from zchat.errors import NoMatch
from zchat.lab.logged import (
    Ack,
    Delay,
    Drop,
    Impersonate,
    Inject,
    Malleable,
    Omit,
    Rot,
    Smudge,
    Transplant,
)
from zchat.lab.rogue import Lie
from zchat.lab.sent import (
    Alter,
    Downgrade,
    Forge,
    Freeze,
    Giant,
    Hide,
    Listen,
    OtherKey,
    Reorder,
    Replay,
    Salt,
    Shorten,
    Shuffle,
    Twice,
    Withhold,
)
from zchat.lab.worlds import Fork, Rollback

LIES: dict[str, type[Lie]] = {
    lie.name: lie
    for lie in (
        *(Drop, Smudge, Malleable, Inject, Impersonate, Transplant, Delay, Ack, Rot, Omit),
        *(Alter, Hide, Replay, Twice, Reorder, Shuffle, Shorten, Freeze, Withhold, Forge, Giant),
        *(Listen, Salt, Downgrade, OtherKey, Fork, Rollback),
    )
}


def parse_lie(text: str) -> Lie:
    """A lie from NAME[=VALUE][:KEY=VALUE ...]; VALUE is that of its first parameter.

    Raises NoMatch for what is none.
    """
    named, *options = text.split(":")
    name, _, value = named.partition("=")
    lie = LIES.get(name)
    if lie is None:
        raise NoMatch(reason=f"no lie is called {name!r}: `zchat lab list` shows them all")
    parameters = inspect.signature(lie).parameters
    pairs = [f"{next(iter(parameters), '')}={value}", *options] if value else options
    given = {}
    for pair in pairs:
        key, _, raw = pair.partition("=")
        if key not in parameters:
            known = ", ".join(parameters) or "nothing"
            raise NoMatch(reason=f"{name} can be told {known}, not {key!r}")
        try:
            given[key] = type(parameters[key].default)(raw)
        except ValueError:
            raise NoMatch(reason=f"{name}: {raw!r} is no {key}") from None
    return lie(**given)
