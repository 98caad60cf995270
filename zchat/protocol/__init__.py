"""What travels: pure functions and types. No I/O, no clock, no randomness of its own.

`limits labels wire envelope ledger` are what everybody may read; `words keys seal body` open
messages, and the broker's half never imports them (a test holds that).
"""
