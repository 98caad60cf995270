"""The house stands as docs/architecture.md draws it: who may import whom, and that it is tidy.

The table below is that page's. A broker's file that imports what opens messages makes this red:
that is how end-to-end encryption is visible in the code.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent.parent
PACKAGE = HERE / "zchat"

OPEN_PROTOCOL = {
    f"zchat.protocol.{name}"
    for name in ("limits", "labels", "envelope", "ledger", "wire", "evidence", "export")
}
OPENING_PROTOCOL = {
    f"zchat.protocol.{name}" for name in ("words", "keys", "seal", "body", "backup")
}
GROUND = {"zchat.errors", "zchat.clock", "zchat.files", "zchat.database", "zchat.config", "zchat"}

# Which names (or prefixes) a room may import besides the standard library and its own files.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "clock": set(),
    "files": {"zchat.errors"},
    "config": {"zchat.errors", "zchat.protocol.limits", "msgspec", "platformdirs"},
    "database": {"zchat.errors", "zchat.files"},
    "protocol/limits": set(),
    "protocol/labels": set(),
    "protocol/envelope": {"zchat.errors", *OPEN_PROTOCOL},
    "protocol/wire": {"zchat.errors", "msgspec", *OPEN_PROTOCOL},
    "protocol/evidence": {"zchat.errors", "msgspec", *OPEN_PROTOCOL},
    "protocol/export": {"zchat.errors", "msgspec", *OPEN_PROTOCOL},
    "protocol/ledger": {"zchat.errors", "nacl", *OPEN_PROTOCOL},
    "protocol": {"zchat.errors", "msgspec", "nacl", *OPEN_PROTOCOL, *OPENING_PROTOCOL},
    "log": {"zchat.errors", "zchat.files", "zchat.database", *OPEN_PROTOCOL},
    "broker": {
        *("zchat.errors", "zchat.files", "zchat.database", "zchat.log", "zmq"),
        *OPEN_PROTOCOL,
    },
    "member": {
        *("zchat.log", "zchat.protocol", "zmq", "nacl", "msgspec", "confusable_homoglyphs"),
        *("zxcvbn", "keyring", *GROUND),
    },
    "ui": {
        *("zchat.member", "zchat.protocol.limits", *GROUND),
        *("prompt_toolkit", "segno", "wcwidth"),
    },
    "lab": {
        *("zchat.broker", "zchat.log", "zchat.errors", "zchat.ui.safe", "msgspec", "nacl", "zmq"),
        *OPEN_PROTOCOL,
    },
    "ui/cli": {
        *("zchat.member", "zchat.ui", "zchat.broker", "zchat.log", "click", "msgspec"),
        *(
            "zchat.protocol.limits",
            "zchat.protocol.words",
            "zchat.protocol.ledger",
            "zchat.protocol.keys",
        ),
        *("zchat.protocol.evidence", "zchat.protocol.export", "zchat.protocol.backup"),
        *("zchat.lab", *GROUND),
    },
    "__main__": {"zchat.ui.cli.main"},
    "__init__": set(),
}


def sources() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def module_of(path: Path) -> str:
    """zchat.log.sqlite for zchat/log/sqlite.py."""
    parts = path.relative_to(HERE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports_of(tree: ast.AST) -> Iterator[str]:
    """Every module that is imported anywhere in a file, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide who imports whom"
            module = node.module or ""
            yield from (
                f"{module}.{alias.name}" if _is_module(f"{module}.{alias.name}") else module
                for alias in node.names
            )


def _is_module(name: str) -> bool:
    path = HERE / name.replace(".", "/")
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def room_of(path: Path) -> str:
    """The longest row of the table that a file falls under."""
    name = path.relative_to(PACKAGE).with_suffix("").as_posix()
    rows = [row for row in MAY_IMPORT if name == row or name.startswith(row + "/")]
    assert rows, f"{name} is on no floor of the house"
    return max(rows, key=len)


def breaches(path: Path, source: str) -> list[str]:
    """Imports of a file that its room may not have."""
    room = room_of(path)
    own_folder = f"zchat.{room.replace('/', '.')}"
    allowed = MAY_IMPORT[room]
    found = []
    for name in imports_of(ast.parse(source)):
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names:
            continue
        inside = name == own_folder or name.startswith(own_folder + ".")
        listed = any(name == entry or name.startswith(entry + ".") for entry in allowed - {"zchat"})
        if not (inside and "protocol" not in room) and not listed and name not in allowed:
            found.append(f"{module_of(path)} imports {name}")
    return found


@pytest.mark.parametrize("path", sources(), ids=module_of)
def test_imports_go_down_only(path: Path) -> None:
    """Each file imports only what its room may."""
    assert breaches(path, path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    ("place", "planted"),
    [
        ("broker/core.py", "from zchat.protocol.seal import open_envelope"),
        ("broker/server.py", "import zchat.protocol.keys"),
        ("log/sqlite.py", "from zchat.protocol import body"),
        ("member/room.py", "from zchat.broker import core"),
        ("protocol/wire.py", "from zchat.log import contract"),
        ("protocol/envelope.py", "import nacl"),
        ("ui/safe.py", "import zmq"),
    ],
)
def test_a_planted_breach_is_found(place: str, planted: str) -> None:
    """The rule can turn red."""
    assert breaches(PACKAGE / place, f"def f():\n    {planted}\n")


def test_no_circles() -> None:
    """No file imports itself by way of others."""
    graph = {
        module_of(path): {
            name for name in imports_of(ast.parse(path.read_text("utf-8"))) if _is_module(name)
        }
        for path in sources()
        if path.name != "__init__.py"
    }
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way, name))
        if name in done:
            return
        for imported in graph.get(name, ()):
            visit(imported, (*way, name))
        done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("path", sources(), ids=module_of)
def test_files_are_tidy(path: Path) -> None:
    """Every file says what it is for; functions fit a screen; nothing is left lying about."""
    source = path.read_text("utf-8")
    tree = ast.parse(source)
    assert ast.get_docstring(tree), "a file opens with its reason"
    assert not re.search(r"\b(TODO|FIXME|XXX)\b", source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            assert length <= 60, f"{node.name} has {length} lines"


def test_dangerous_calls_are_nowhere() -> None:
    """No unpickling, no evaluation, no plaintext ZeroMQ server, no compression."""
    banned = re.compile(
        r"recv_pyobj|recv_json|recv_serialized|pickle|\beval\(|\bexec\(|zlib|gzip|lzma|bz2"
        r"|NULL_MECHANISM|curve_server\s*=\s*0"
    )
    for path in sources():
        assert not banned.search(path.read_text("utf-8")), path


def test_every_error_is_raised_somewhere() -> None:
    """An error nobody raises is a leftover."""
    text = "\n".join(p.read_text("utf-8") for p in sources() if p.name != "errors.py")
    errors = ast.parse((PACKAGE / "errors.py").read_text("utf-8"))
    names = {node.name for node in errors.body if isinstance(node, ast.ClassDef)}
    bases = {
        base.id
        for node in errors.body
        if isinstance(node, ast.ClassDef)
        for base in node.bases
        if isinstance(base, ast.Name)
    }
    unused = {name for name in names - bases if not re.search(rf"\b{name}\b", text)}
    assert unused == set()
