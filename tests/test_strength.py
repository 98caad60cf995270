"""What a passphrase costs to break: words are counted, inventions judged, and both priced."""

import math
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zchat.errors import BadPassphrase, WeakPassphrase
from zchat.member.strength import ENOUGH_BITS, bits, price
from zchat.protocol.words import generate_passphrase, word_list

EACH = math.log2(7772)


def test_drawn_words_are_counted_each_once() -> None:
    """However they are written; a word said twice is no second word."""
    one, two, three = word_list()[100:400:100]
    for written in (
        f"{one}-{two}-{three}",
        f" {one} {two}  {three}\n",
        f"{one.upper()}-{two} {three}",
    ):
        assert bits(written) == pytest.approx(3 * EACH)
    assert bits(f"{one}-{two}-{one}-{two}") == pytest.approx(2 * EACH)
    assert bits(one) == pytest.approx(EACH)


@settings(deadline=None)
@given(st.integers(0, 2**64))
def test_a_made_passphrase_is_always_enough(seed: int) -> None:
    """Four different words are: the six of a made one hardly ever repeat."""
    made = generate_passphrase(Random(seed).randrange)
    assert bits(made) >= 4 * EACH > ENOUGH_BITS


@pytest.mark.parametrize(
    "weak",
    [
        *("x", "1234", "password", "Password1!", "letmein", "qwertyuiop", "aaaaaaaaaaaaaaaa"),
        *("abcabcabcabcabcabc", "summer2024", "liverpool", "19840101", "p4ssw0rd", "zchat"),
        *("a" * 900, "correct", "iloveyou2"),
    ],
)
def test_what_people_take_costs_next_to_nothing(weak: str) -> None:
    assert bits(weak) < 30
    assert float(price(bits(weak))) < 130


@pytest.mark.parametrize(
    "strong", ["x7#kQ!m2vR9$wLp4", "ZqWv mYtK pLdR xHnB", "ĉu vi ŝatas 鯨 kaj ĵ?"]
)
def test_what_nobody_guesses_is_enough(strong: str) -> None:
    assert bits(strong) > ENOUGH_BITS


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cc", "Cs", "Cn"]), min_size=1, max_size=100))
def test_the_end_of_a_line_and_spaces_around_make_nothing_stronger(text: str) -> None:
    """A passphrase from a file ends in a line feed that keys are not derived from."""
    if not text.strip(" "):
        return
    try:
        plain = bits(text)
    except BadPassphrase:
        return
    assert plain >= 0
    assert bits(f"{text}\n") == bits(f"  {text} \r\n") == plain


@pytest.mark.parametrize("unusable", ["", "  ", "\n", "a\x00b", "\ud800", "x" * 1025])
def test_what_cannot_be_a_passphrase_has_no_strength(unusable: str) -> None:
    with pytest.raises(BadPassphrase):
        bits(unusable)


@pytest.mark.parametrize(
    ("strength", "dollars"),
    [
        (0, "0.01"),
        (15, "0.01"),
        (20, "0.25"),
        (21.9, "0.93"),
        (22, "1"),
        (23.4, "3"),
        (26, "16"),
        (28.6, "97"),
        (28.64, "100"),
        (30, "260"),
        (32, "1,000"),
        (50, "270,000,000"),
        (77.5, "51,000,000,000,000,000"),
    ],
)
def test_the_price_is_what_half_of_all_guesses_cost(strength: float, dollars: str) -> None:
    """2^21 guesses for a dollar; two digits, for nobody knows it better."""
    assert price(strength) == dollars


@settings(deadline=None)
@given(st.floats(0, 200), st.floats(0, 200))
def test_more_bits_never_cost_less(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert _dollars(low) <= _dollars(high)
    exact = 2 ** (high - 22)
    assert exact < 0.01 or _dollars(high) == pytest.approx(exact, rel=0.5)


def _dollars(strength: float) -> float:
    return float(price(strength).replace(",", ""))


def test_the_sentence_about_a_weak_one_names_its_price() -> None:
    error = WeakPassphrase(dollars=price(bits("Password1!")))
    assert str(error) == "That passphrase is too weak for a new room: about $0.01 to break."
    assert "--weak-passphrase" in error.advice
