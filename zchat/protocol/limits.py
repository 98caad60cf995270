"""Every bound of the protocol, named, and how they relate.

Rules of this file: a number that appears in docs/protocol.md and decides something stands here and
nowhere else; a bound that must stay below another says so in an assert at the end.
"""

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

PROTOCOL_VERSION: Final = 1

# Fixed widths, in bytes.
KEY_BYTES: Final = 32
ID_BYTES: Final = 32
TAG_BYTES: Final = 16
NONCE_BYTES: Final = 24
SIGNATURE_BYTES: Final = 64
SECRETBOX_TAG_BYTES: Final = 16
INCARNATION_BYTES: Final = 16
ASK_BYTES: Final = 8
HEADER_BYTES: Final = 71
GENESIS_BYTES: Final = 136
BIRTH_BYTES: Final = GENESIS_BYTES + SIGNATURE_BYTES
HEAD_BYTES: Final = 144

# What people say.
MAX_TEXT_BYTES: Final = 64 * KIB
MAX_NAME_CHARS: Final = 32
MAX_ROOM_BYTES: Final = 64
MAX_PASSPHRASE_BYTES: Final = 1 * KIB
MAX_BODY_BYTES: Final = 65 * KIB
MAX_ECHOES: Final = 32
MAX_NESTING: Final = 16  # of values in a body of a kind not known yet

# What travels.
PADDING_FLOOR_BYTES: Final = 512
ENVELOPE_OVERHEAD_BYTES: Final = HEADER_BYTES + KEY_BYTES + SECRETBOX_TAG_BYTES + SIGNATURE_BYTES
MIN_ENVELOPE_BYTES: Final = ENVELOPE_OVERHEAD_BYTES + PADDING_FLOOR_BYTES
MAX_ENVELOPE_BYTES: Final = 68 * KIB
MAX_CAST_BYTES: Final = 1 * KIB
MAX_WORD_BYTES: Final = 16 * KIB
MAX_BATCH_BYTES: Final = 192 * KIB
MAX_BATCH_ENTRIES: Final = 512
ITEM_PREFIX_BYTES: Final = 4
MAX_MESSAGE_BYTES: Final = 256 * KIB  # ZMQ_MAXMSGSIZE; libzmq kills the connection above it
MAX_LINEAGE: Final = 16

# Who may have how much.
MAX_PLACE: Final = 2**63 - 1
TIP: Final = MAX_PLACE
MAX_WINDOW_BYTES: Final = 1 * MIB
MAX_ROOMS_PER_CONNECTION: Final = 64
MAX_PAGES_WAITING: Final = 8

# A broker's defaults; config/broker.toml can change them.
POST_BURST: Final = 2_000
POSTS_PER_S: Final = 50
CAST_BURST: Final = 32
CASTS_PER_S: Final = 5
CONTROL_BURST: Final = 256
CONTROLS_PER_S: Final = 32
ADDRESS_FACTOR: Final = 4  # one address may use this many access keys' rates
CONNECTIONS_PER_ADDRESS: Final = 64
HANDSHAKE_BURST: Final = 512
HANDSHAKES_PER_S: Final = 32
KEPT_AWAY_S: Final = 5  # an address that came more often, and as long again while it goes on
ROOMS_PER_ACCESS_KEY: Final = 64
ROOMS_PER_BROKER: Final = 100_000
ROOM_BYTES: Final = 1 * GIB
MAX_ADDRESS_SPACE: Final = 4 * GIB  # of a process: the last bound on what others can send it

# Time, in seconds.
ANSWER_TIMEOUT_S: Final = 10.0
IDLE_JOIN_S: Final = 60.0
WITHHELD_S: Final = 30.0
BEAT_MIN_S: Final = 60.0
BEAT_MAX_S: Final = 300.0
CLOCK_TOLERANCE_MS: Final = 5 * 60 * 1000

# Argon2id: constants of the protocol version, believed from nobody.
ROOT_OPS: Final = 3
ROOT_MEMORY_BYTES: Final = 256 * MIB
VERIFY_OPS: Final = 2
VERIFY_MEMORY_BYTES: Final = 64 * MIB


def padme(length: int) -> int:
    """Round `length` (>= 2 bytes) up so that its size tells at most log log of it.

    At most 12 % larger. Nikitin et al., "Reducing Metadata Leakage from Encrypted Files and
    Communication with PURBs", PETS 2019, algorithm 1.
    """
    exponent = length.bit_length() - 1
    step = 1 << (exponent - exponent.bit_length())
    return -(-length // step) * step


def padded_length(body_bytes: int) -> int:
    """Length of the plaintext that a body of `body_bytes` bytes travels in."""
    return padme(max(PADDING_FLOOR_BYTES, ITEM_PREFIX_BYTES + body_bytes))


# One envelope with the longest text fits; one batch holds the longest envelope; one message holds
# the longest batch with CURVE's 33 bytes; a cast is never as long as a word or a batch.
assert HEAD_BYTES == 2 * ID_BYTES + 8 + 8 + SIGNATURE_BYTES
assert GENESIS_BYTES == TAG_BYTES + KEY_BYTES + 16 + ID_BYTES + 8 + ID_BYTES
assert MAX_TEXT_BYTES + KIB <= MAX_BODY_BYTES
assert padded_length(MAX_BODY_BYTES) + ENVELOPE_OVERHEAD_BYTES <= MAX_ENVELOPE_BYTES
assert MAX_ENVELOPE_BYTES + ITEM_PREFIX_BYTES <= MAX_BATCH_BYTES
assert MAX_BATCH_ENTRIES * (ITEM_PREFIX_BYTES + ID_BYTES) <= MAX_BATCH_BYTES
assert max(MAX_BATCH_BYTES, MAX_WORD_BYTES, MAX_ENVELOPE_BYTES) + 33 < MAX_MESSAGE_BYTES
assert MAX_LINEAGE * BIRTH_BYTES + KIB <= MAX_WORD_BYTES
assert MAX_ROOMS_PER_CONNECTION * 200 + KIB <= MAX_WORD_BYTES
assert MIN_ENVELOPE_BYTES <= MAX_CAST_BYTES < MAX_WORD_BYTES
assert MAX_BATCH_BYTES < MAX_WINDOW_BYTES
assert BEAT_MIN_S <= BEAT_MAX_S
