"""How dear a passphrase is to guess, for the choice of a new one.

The price: at 256 MiB and three passes, about 2^21 guesses of Argon2id cost a dollar of rented
hardware, and half of all guesses find the passphrase on average. zxcvbn judges what people make up;
words drawn from the list are counted.
"""

import math

from zchat.protocol.words import passphrase_entropy_bits

ENOUGH_BITS = 50
_GUESSES_PER_DOLLAR_BITS = 21
_ZXCVBN_LONGEST = 72  # it refuses longer ones


def bits(passphrase: str) -> float:
    """Bits of a passphrase, as an attacker who knows how people choose would count them."""
    counted = passphrase_entropy_bits(passphrase)
    if counted is not None:
        return counted
    from zxcvbn import zxcvbn

    guesses_log10: float = zxcvbn(passphrase[:_ZXCVBN_LONGEST])["guesses_log10"]
    return guesses_log10 / math.log10(2)


def price(strength_bits: float) -> str:
    """What breaking it costs on average, in dollars, with two digits."""
    dollars = 2 ** (strength_bits - 1 - _GUESSES_PER_DOLLAR_BITS)
    if dollars < 1:
        return "less than 1"
    digits = 10 ** max(0, math.floor(math.log10(dollars)) - 1)
    return f"{round(dollars / digits) * digits:,.0f}"
