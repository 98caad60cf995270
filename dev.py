#!/usr/bin/env python3
"""The one task runner: sets up `.venv` from the hash locks and runs the project's own commands.

    python3 dev.py start [ARG ...]   set up what running needs, then become `zchat start`
    python3 dev.py join  [ARG ...]   the same, then become `zchat join`
    python3 dev.py test  [ARG ...]   set up what testing needs, then run the whole suite
    python3 dev.py check             style, types, import rules
    python3 dev.py simulate [ARG ...]  both halves under seeds (--steps N --seeds K, --planted)
    python3 dev.py threats [ID ...]  every attack and its test (--compose MINUTES [--seed S])
    python3 dev.py bench [--full]    measure, beside other servers; writes docs/performance.md
    python3 dev.py faults [ARG ...]  fault sweeps on the real program (--only F1,F2, --long)
    python3 dev.py lock              renew requirements.lock and requirements-dev.lock

Rules of this file: Python's standard library only. An old Python gets a sentence and no traceback,
so its version is looked at before anything that it could not run. A set-up that was broken off or
is stale is made anew: the stamp is written last. While the locks stay the same nothing goes to the
network. What pip says goes to stderr, for stdout belongs to the command.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036  this line is for those who have an older one
    sys.exit(
        "dev.py: Python 3.11 or newer is needed; this is {}.{}. Install one and run it with that, "
        "for example: python3.11 dev.py start".format(*sys.version_info[:2])
    )

try:
    import contextlib
    import fcntl
    import functools
    import hashlib
    import importlib.util
    import os
    import shutil
    import subprocess
    import tomllib
    import venv
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import NoReturn
except ModuleNotFoundError as error:  # some systems split the library, too
    sys.exit(
        f"dev.py: this Python is without a part of its standard library ({error.name}). On Debian "
        "and Ubuntu: apt install python3 python3-venv"
    )

HERE = Path(__file__).resolve().parent
VENV = HERE / ".venv"
PYTHON = VENV / "bin" / "python"
LOCKS = {"run": HERE / "requirements.lock", "dev": HERE / "requirements-dev.lock"}
# What each lock is made of besides the program's own dependencies (pyproject.toml).
GROUPS = {"run": "build", "dev": "dev"}


def fail(sentence: str) -> NoReturn:
    """Say it on stderr, and end with 1."""
    sys.exit(f"dev.py: {sentence}")


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Only one set-up at a time in this checkout."""
    with (HERE / ".venv.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("dev.py: another set-up is under way here; waiting for it ...", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def stamp(kind: str) -> Path:
    """Where the stamp of a finished set-up of this kind stands."""
    return VENV / f"stamp-{kind}"


def wanted_stamp(kind: str) -> str:
    """What `.venv` must be made from: the lock, how we install, this Python, this place."""
    project = tomllib.loads((HERE / "pyproject.toml").read_text("utf-8"))
    installs = project["build-system"], project["project"]
    # Not sys.executable: with .venv activated it is another one, of the same Python.
    made_from = repr((sys.version, sys.base_prefix, str(HERE), installs)).encode()
    return hashlib.sha256(made_from + LOCKS[kind].read_bytes()).hexdigest()


def is_fresh(kind: str) -> bool:
    """Whether a finished set-up of this kind stands there."""
    made = PYTHON.exists() and stamp(kind).is_file()
    return made and stamp(kind).read_text() == wanted_stamp(kind)


def pip(*arguments: str) -> None:
    """Install with the environment's pip."""
    options = ["--disable-pip-version-check", "--no-input", "-q"]
    done = subprocess.run(
        [str(PYTHON), "-m", "pip", "install", *options, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr.fileno(),
        cwd=HERE,
    )
    if done.returncode:
        fail(
            "setting up .venv failed (see above). Is there a network, and room on the disk? "
            "Run the same command again; nothing half-made is used."
        )


def set_up(kind: str) -> None:
    """Make `.venv` fit the lock of this kind ("run" or "dev")."""
    if is_fresh(kind):
        return
    if importlib.util.find_spec("ensurepip") is None:
        fail(
            "this Python has no ensurepip, so no virtual environment can be made. On Debian and "
            "Ubuntu: apt install python3-venv"
        )
    with alone():
        if is_fresh(kind):
            return
        print("dev.py: setting up .venv (once, about half a minute) ...", file=sys.stderr)
        if not any(is_fresh(other) for other in LOCKS):
            shutil.rmtree(VENV, ignore_errors=True)
            venv.EnvBuilder(with_pip=True, symlinks=True).create(VENV)
        pip("--require-hashes", "-r", str(LOCKS[kind]))
        pip("--no-deps", "--no-build-isolation", "-e", ".")
        compile_ahead()
        for made in {kind, "run"}:
            stamp(made).write_text(wanted_stamp(made))
        print("dev.py: done. zchat is .venv/bin/zchat from now on.", file=sys.stderr)


def compile_ahead() -> None:
    """Byte code, lest each process makes its own where Python is told to keep none."""
    subprocess.run([PYTHON, "-m", "compileall", "-q", "zchat"], cwd=HERE)


def run(*command: str) -> None:
    """Run a module of the environment; its failure is ours."""
    done = subprocess.run([PYTHON, "-m", *command], cwd=HERE)
    if done.returncode:
        sys.exit(done.returncode)


def become(command: str, arguments: list[str]) -> None:
    """Become a command of zchat."""
    set_up("run")
    os.execv(PYTHON, [str(PYTHON), "-m", "zchat", command, *arguments])


def test(arguments: list[str]) -> None:
    """Run the suite; without arguments all of it, with branch coverage."""
    set_up("dev")
    compile_ahead()
    if arguments:
        run("pytest", *arguments)
        return
    run("coverage", "erase")
    # One worker more than cores: many a test waits for processes that wait.
    workers = str((os.cpu_count() or 1) + 1)
    run("coverage", "run", "-m", "pytest", "-n", workers, "--dist", "worksteal")
    run("coverage", "combine", "-q")
    run("coverage", "report", "--skip-empty")


def check(arguments: list[str]) -> None:
    """Style, types, import rules."""
    set_up("dev")
    run("ruff", "format", "--check", ".")
    run("ruff", "check", ".")
    run("mypy", *arguments)
    run("pytest", "-q", "tests/test_house.py")


def lock(arguments: list[str]) -> None:
    """Renew the locks: hashes for every platform, no registry's name in them."""
    set_up("dev")
    for kind, path in LOCKS.items():
        command = ["uv", "pip", "compile", "--universal", "--python-version", "3.11", "-q"]
        command += ["--generate-hashes", "--no-header", "--no-annotate", "--no-emit-index-url"]
        run(*command, "--group", GROUPS[kind], *arguments, "-o", str(path), "pyproject.toml")


def simulate(arguments: list[str]) -> None:
    """Both halves in one process, under seeds; or the bugs planted in them."""
    set_up("dev")
    run("tests.simulation", *arguments)


def threats(arguments: list[str]) -> None:
    """Every attack, its test and what shows that the test can fail."""
    set_up("dev")
    run("tests.threats", *arguments)


def bench(arguments: list[str]) -> None:
    """Measure everything, and write down what was measured."""
    set_up("dev")
    compile_ahead()
    run("benchmarks.run", *arguments)


def faults(arguments: list[str]) -> None:
    """Real brokers and members, and everything that can go wrong around them."""
    set_up("dev")
    run("tests.faults", *arguments)


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "start": functools.partial(become, "start"),
    "join": functools.partial(become, "join"),
    "test": test,
    "check": check,
    "simulate": simulate,
    "faults": faults,
    "threats": threats,
    "bench": bench,
    "lock": lock,
}


def main() -> None:
    """Dispatch; without a known command, say what there is."""
    command = COMMANDS.get(sys.argv[1] if len(sys.argv) > 1 else "")
    if command is None:
        print((__doc__ or "").strip(), file=sys.stderr)
        sys.exit(2)
    try:
        command(sys.argv[2:])
    except KeyboardInterrupt:
        sys.exit(130)
    except (OSError, subprocess.CalledProcessError) as error:
        fail(f"{error}. Mend that and run the same command again; nothing half-made is used.")


if __name__ == "__main__":
    main()
