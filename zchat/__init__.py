"""zchat: a group chat for people who share a passphrase and do not trust the server.

The house, from the ground up:
    errors, config, files, database, clock   what everything stands on
    protocol/   what travels: pure functions and types
    log/        ordered, append-only, chained stores
    broker/     the half that must not be trusted: relays and stores what it cannot open
    member/     the half that holds the keys: seals, opens, checks, remembers
    ui/         faces: the command line, line mode
Imports go down only; the broker's half imports nothing that opens a message.
"""

__version__ = "0.1.0"
