"""How dear a passphrase is to guess, for the choice of a new one.

The price: at 256 MiB and three passes, about 2^21 guesses of Argon2id cost a dollar of rented
hardware, and half of all guesses find the passphrase on average. zxcvbn judges what people make up;
words drawn from the list are counted.
"""

import math

from zchat.protocol.words import canonical_passphrase, passphrase_entropy_bits

ENOUGH_BITS = 50
_GUESSES_PER_DOLLAR_BITS = 21
_ZXCVBN_LONGEST = 72  # it refuses longer ones


def bits(passphrase: str) -> float:
    """Bits of a passphrase, as an attacker who knows how people choose would count them.

    What is judged is what keys are derived from, without the end of a line. Raises BadPassphrase.
    """
    canonical = canonical_passphrase(passphrase).decode()
    counted = passphrase_entropy_bits(canonical)
    if counted is not None:
        return counted
    from zxcvbn import zxcvbn

    guesses_log10: float = zxcvbn(canonical[:_ZXCVBN_LONGEST])["guesses_log10"]
    return guesses_log10 / math.log10(2)


def price(strength_bits: float) -> str:
    """What breaking it costs on average, in dollars, with two digits; a cent at least."""
    dollars = 2 ** (strength_bits - 1 - _GUESSES_PER_DOLLAR_BITS)
    if dollars < 1:
        return f"{max(0.01, dollars):.2f}"
    digits = 10 ** max(0, math.floor(math.log10(dollars)) - 1)
    return f"{round(dollars / digits) * digits:,}"
