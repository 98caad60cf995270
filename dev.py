#!/usr/bin/env python3
"""The one task runner: sets up `.venv` from the hash locks and runs the project's own commands.

    python3 dev.py start [ARG ...]   set up what running needs, then become `zchat start`
    python3 dev.py test  [ARG ...]   set up what testing needs, then run the whole suite
    python3 dev.py check             ruff, mypy --strict, the import rules
    python3 dev.py lock              renew requirements.lock and requirements-dev.lock

Rules of this file: Python's standard library only, and nothing newer than Python 3.8 in what runs
before the version check, so that an old Python gets a sentence and not a traceback. A set-up that
was broken off or is stale is made anew: the stamp is written last. Without a change in the locks
nothing goes to the network. What pip says goes to stderr, for stdout belongs to the command.
"""

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
VENV = os.path.join(HERE, ".venv")
PYTHON = os.path.join(VENV, "bin", "python")
LOCKS = {"run": "requirements.lock", "dev": "requirements-dev.lock"}


def fail(sentence):
    """One sentence on stderr, exit 1."""
    print("dev.py: " + sentence, file=sys.stderr)
    raise SystemExit(1)


def check_python():
    """Refuse what cannot work, with the remedy."""
    if sys.version_info < (3, 11):
        fail(
            "Python 3.11 or newer is needed; this is {}.{}. Install python3.11 and run it with "
            "that: python3.11 dev.py ...".format(*sys.version_info[:2])
        )
    try:
        import ensurepip  # noqa: F401  only to learn whether it is there
    except ImportError:
        fail(
            "this Python has no ensurepip, so no virtual environment can be made. On Debian and "
            "Ubuntu: apt install python3-venv"
        )


@contextlib.contextmanager
def locked():
    """Only one set-up at a time in this checkout."""
    import fcntl

    with open(os.path.join(HERE, ".venv.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def stamp_of(kind):
    """What `.venv` must have been made from: the lock, this Python, the project's metadata."""
    digest = hashlib.sha256(repr((sys.version, sys.executable, HERE)).encode())
    for name in (LOCKS[kind], "pyproject.toml"):
        with open(os.path.join(HERE, name), "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


def stamp_path(kind):
    """Where the stamp of a finished set-up stands."""
    return os.path.join(VENV, "stamp-" + kind)


def is_fresh(kind):
    """Whether a finished set-up of this kind stands there."""
    try:
        with open(stamp_path(kind)) as file:
            return file.read() == stamp_of(kind)
    except OSError:
        return False


def pip(*arguments):
    """Run the environment's pip; it talks on stderr."""
    command = [PYTHON, "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "-q"]
    done = subprocess.run(
        [*command, *arguments], stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno(), cwd=HERE
    )
    if done.returncode:
        fail(
            "setting up .venv failed (see above). Is there a network, and room on the disk? "
            "Run the same command again; nothing half-made is kept."
        )


def set_up(kind):
    """Make `.venv` fit the lock of this kind ("run" or "dev")."""
    if is_fresh(kind):
        return
    check_python()
    with locked():
        if is_fresh(kind):
            return
        print("dev.py: setting up .venv (once; about half a minute) ...", file=sys.stderr)
        made_for = [name for name in LOCKS if is_fresh(name)]
        if not made_for:
            import venv

            shutil.rmtree(VENV, ignore_errors=True)
            venv.EnvBuilder(with_pip=True, symlinks=True).create(VENV)
        pip("--require-hashes", "-r", LOCKS[kind])
        pip("--no-deps", "--no-build-isolation", "-e", ".")
        for name in {kind, "run"}:
            with open(stamp_path(name), "w") as file:
                file.write(stamp_of(name))


def run(*command):
    """Run a tool of the environment; its failure is ours."""
    done = subprocess.run([PYTHON, "-m", *command], cwd=HERE)
    if done.returncode:
        raise SystemExit(done.returncode)


def start(arguments):
    """Become `zchat start`."""
    set_up("run")
    os.execv(PYTHON, [PYTHON, "-m", "zchat", "start", *arguments])


def test(arguments):
    """Run the suite; without arguments all of it, with branch coverage."""
    set_up("dev")
    if arguments:
        run("pytest", *arguments)
        return
    run("coverage", "erase")
    run("coverage", "run", "-m", "pytest", "-p", "no:randomly", "-n", "2", "--dist", "loadgroup")
    run("coverage", "combine", "-q")
    run("coverage", "report", "--skip-covered", "--skip-empty")


def check(arguments):
    """Style, types, import rules."""
    set_up("dev")
    run("ruff", "format", "--check", ".")
    run("ruff", "check", ".")
    run("mypy", *arguments)
    run("pytest", "-q", "tests/test_house.py")


def lock(arguments):
    """Renew the locks: hashes for every platform, no registry's name in them."""
    set_up("dev")
    uv = os.path.join(VENV, "bin", "uv")
    for kind, group in (("run", "build"), ("dev", "dev")):
        out = os.path.join(HERE, LOCKS[kind])
        command = [uv, "pip", "compile", "--universal", "--python-version", "3.11", "-q"]
        command += ["--generate-hashes", "--no-header", "--no-annotate", "--no-emit-index-url"]
        command += ["--group", group, *arguments, "-o", out, "pyproject.toml"]
        if subprocess.run(command, cwd=HERE).returncode:
            fail("the locks could not be renewed (see above)")


COMMANDS = {"start": start, "test": test, "check": check, "lock": lock}


def main():
    """Dispatch; without a known command, say what there is."""
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        print(__doc__.strip(), file=sys.stderr)
        raise SystemExit(2)
    check_python()
    COMMANDS[sys.argv[1]](sys.argv[2:])


if __name__ == "__main__":
    main()
