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
    for table, row in _rows(path):
        if row is None:
            yield f"table {table}"
            continue
        yield "  row"
        for column, value in row.items():
            if column == "envelope" and isinstance(value, bytes):
                yield from _envelope_lines(value)
            else:
                yield f"    {column}: {value.hex() if isinstance(value, bytes) else ascii(value)}"


def audit_rows(path: Path) -> Iterator[tuple[str, dict[str, object]]]:
    """The same for programs: tables and rows, bytes in hexadecimal. Raises as audit_lines."""
    for table, row in _rows(path):
        if row is not None:
            yield table, {column: _plain(column, value) for column, value in row.items()}


def _rows(path: Path) -> Iterator[tuple[str, dict[str, object] | None]]:
    """Every table (without a row), and behind it its rows."""
    database = Database(path, SCHEMA, Access.READ_ONLY)
    try:
        with database.failures():
            tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            for (table,) in tables.fetchall():
                yield table, None
                yield from ((table, row) for row in _rows_of(database, table))
    finally:
        database.close()


def _rows_of(database: Database, table: str) -> Iterator[dict[str, object]]:
    page = f'SELECT rowid, * FROM "{table}" WHERE rowid >= ? ORDER BY rowid LIMIT ?'  # noqa: S608
    first, count = -(1 << 63), _PAGE_ROWS
    while count == _PAGE_ROWS:
        cursor = database.execute(page, (first, _PAGE_ROWS))
        columns = [column[0] for column in cursor.description][1:]
        rows = cursor.fetchall()
        count = len(rows)
        for number, *row in rows:
            first = number + 1
            yield dict(zip(columns, row, strict=True))


def _plain(column: str, value: object) -> object:
    if not isinstance(value, bytes):
        return value
    if column != "envelope":
        return value.hex()
    try:
        check_outline(value, EnvelopeClass.LOG)
    except Unopenable:
        return {"bytes": len(value), "damaged": value.hex()}
    parts = take_apart(value)
    header = parts.header
    return {
        "bytes": len(value),
        "version": header.version,
        "suite": header.suite,
        "class": int(header.envelope_class),
        "epoch": header.epoch,
        "timestamp_ms": header.timestamp_ms,
        "nonce": header.nonce.hex(),
        "sender": header.sender.hex(),
        "commitment": parts.commitment.hex(),
        "sealed": parts.box.hex(),
        "signature": parts.signature.hex(),
    }


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
