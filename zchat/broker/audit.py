"""Everything a broker's store holds, in a form people can read.

Rules of this file: read-only, beside a live broker too; a page at a time, for the broker's WAL only
grows while somebody reads, and who reads these lines may take a day; every column of every row of
every table, whatever they are, so that nothing can be stored that is not shown; the part of an
envelope that is in clear is named.
"""

from collections.abc import Iterator
from pathlib import Path

from zchat.database import Access, Database
from zchat.errors import Unopenable
from zchat.log.sqlite import SCHEMA
from zchat.protocol.envelope import EnvelopeClass, check_outline, take_apart

_PAGE_ROWS = 256


def audit_lines(path: Path) -> Iterator[str]:
    """Lines of plain ASCII. Raises StoreTrouble, StoreUnreadable."""
    database = Database(path, SCHEMA, Access.READ_ONLY)
    try:
        with database.failures():
            tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            for (table,) in tables.fetchall():
                yield from _table_lines(database, table)
    finally:
        database.close()


def _table_lines(database: Database, table: str) -> Iterator[str]:
    yield f"table {table}"
    page = f'SELECT rowid, * FROM "{table}" WHERE rowid >= ? ORDER BY rowid LIMIT ?'  # noqa: S608
    first, count = -(1 << 63), _PAGE_ROWS
    while count == _PAGE_ROWS:
        cursor = database.execute(page, (first, _PAGE_ROWS))
        columns = [column[0] for column in cursor.description][1:]
        rows = cursor.fetchall()
        count = len(rows)
        for number, *row in rows:
            first = number + 1
            yield "  row"
            for column, value in zip(columns, row, strict=True):
                if column == "envelope" and value is not None:
                    yield from _envelope_lines(value)
                else:
                    yield f"    {column}: {_shown(value)}"


def _shown(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else ascii(value)


def _envelope_lines(envelope: bytes) -> Iterator[str]:
    """All of an envelope: what stands in clear is all that the broker can know of it."""
    yield f"    envelope: {len(envelope)} bytes"
    try:
        check_outline(envelope, EnvelopeClass.LOG)
    except Unopenable:
        yield f"      damaged: {envelope.hex()}"
        return
    parts = take_apart(envelope)
    header = parts.header
    yield f"      in clear: version {header.version}, suite {header.suite}"
    yield f"      in clear: class {header.envelope_class}, epoch {header.epoch}"
    yield f"      in clear: timestamp {header.timestamp_ms} ms"
    yield f"      in clear: nonce {header.nonce.hex()}"
    yield f"      in clear: sender's room key {header.sender.hex()}"
    yield f"      in clear: key commitment {parts.commitment.hex()}"
    yield f"      sealed: {parts.box.hex()}"
    yield f"      in clear: signature {parts.signature.hex()}"
