"""P10: `zchat --help`, and `zchat send` to a known broker on this machine with a remembered key.

Whole processes, from start to exit; beside them what the interpreter alone takes.

    python -m benchmarks.startup [--full] [--json]
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import harness
from benchmarks.harness import Plot, Result, at_most, spread

_IMPORTS = "python, and its imports alone"
_ZCHAT = [sys.executable, "-m", "zchat"]


def timed(command: list[str], home: Path) -> float:
    """Milliseconds that a command takes."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment["ZCHAT_HOME"] = str(home)
    started = time.perf_counter()
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    took = (time.perf_counter() - started) * 1000
    assert done.returncode == 0, done.stderr.decode()
    return took


def measure(full: bool) -> Result:
    """Each command in turn, many times."""
    rounds = 41 if full else 15
    with harness.broker() as measured, tempfile.TemporaryDirectory() as folder:
        home = Path(folder, "home")
        passphrase = Path(folder, "passphrase")
        passphrase.write_text("otter-basin-scarf-pencil-dug-wick")
        invite = str(measured.invite).replace("/#", "/bench#")
        once = ["tail", invite, "--new", "--remember", "--name", "bench"]
        timed([*_ZCHAT, *once, "--passphrase-file", str(passphrase)], home)
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            _IMPORTS: [sys.executable, "-c", "import asyncio, click, msgspec, nacl.secret, zmq"],
            "zchat --help": [*_ZCHAT, "--help"],
            "zchat send": [*_ZCHAT, "send", "bench", "a short text", "--weak-passphrase"],
        }
        took: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(rounds):
            for name, command in commands.items():
                took[name].append(timed(command, home))
    rows: list[dict[str, harness.Cell]] = [
        {"command": name, "ms": spread(held)} for name, held in took.items()
    ]
    why = f"Of it {spread(took[_IMPORTS])} ms are Python and libraries that every send needs."
    why_help = f"Of it {spread(took['python -c pass'])} ms are Python's own start."
    verdicts = [
        at_most("P10", "zchat --help", 120, spread(took["zchat --help"]), "ms", why_help),
        at_most("P10", "zchat send, key remembered", 400, spread(took["zchat send"]), "ms", why),
    ]
    bars = {name: spread(held).median for name, held in took.items()}
    return Result("Start-up", rows, verdicts, [], [Plot("startup", "Start to exit", "ms", bars)])


if __name__ == "__main__":
    harness.main(measure)
