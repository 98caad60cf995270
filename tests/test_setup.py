"""dev.py as a user runs it: a fresh checkout, an empty home, a plain locale, nobody at the keys.

Rules of this file: dev.py is started with the Python below any virtual environment, in a copy of
the checkout under a path with spaces. One test installs for real, and is marked so. For the others
a stand-in takes the place of the standard library's `venv`: its environment is a shell script that
notes what it was asked, talks as pip talks, and can be told to fail or to take its time.
"""

import ast
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.processes import PATIENCE_S, project_files, wait_for

HERE = Path(__file__).parent.parent
DEV = HERE / "dev.py"
PYTHON = Path(sys.base_prefix, "bin", f"python{sys.version_info[0]}.{sys.version_info[1]}")

# Settings of whoever runs the tests that a newcomer does not have. Those of pip and of proxies
# stay: they are the machine's way to the network.
_NOT_INHERITED = re.compile(r"PYTHON|COVERAGE|COV_|ZCHAT_|XDG_|LC_|VIRTUAL_ENV|PYTEST")

STAND_IN = '''
"""In the place of the standard library's `venv`."""
import os, pathlib

SCRIPT = """#!/bin/sh
IFS='|'
echo "$*" >> "$ASKED"
case "$2" in
pip)
    echo "pip talks to stdout"
    while test -e "$ASKED.hold"; do sleep 0.05; done
    test ! -e "$ASKED.fail";;
compileall) ;;
*)
    if test -n "$REAL"; then exec "$REAL" "$@"; fi
    echo "the program talks in $PWD"
    exit 5;;
esac
"""

class EnvBuilder:
    def __init__(self, *, with_pip, symlinks):
        assert with_pip and symlinks

    def create(self, place):
        python = pathlib.Path(place, "bin", "python")
        python.parent.mkdir(parents=True)
        python.write_text(SCRIPT)
        python.chmod(0o755)
        with open(os.environ["ASKED"], "a") as asked:
            asked.write("made\\n")
'''

WITHOUT_ENSUREPIP = """
import sys
from importlib.machinery import PathFinder

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name == "ensurepip" else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
"""

AN_OLD_ONE = """
import runpy, sys
sys.version_info = (3, 10, 13, "final", 0)
sys.argv = ["dev.py", "start"]
runpy.run_path("dev.py", run_name="__main__")
"""

SET_UP = [
    "made",
    "-m|pip|install|--disable-pip-version-check|--no-input|-q|--require-hashes|-r|{lock}",
    "-m|pip|install|--disable-pip-version-check|--no-input|-q|--no-deps|--no-build-isolation|-e|.",
    "-m|compileall|-q|zchat",
]


class Checkout:
    """A copy of this checkout, and a home with nothing in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "a check out"
        self.home = folder / "an empty home"
        self.modules = folder / "modules"
        self._asked = folder / "asked"
        self._started: list[subprocess.Popen[str]] = []
        self.home.mkdir(parents=True)
        self.modules.mkdir()
        copy_tracked_files(self.folder)

    @property
    def venv(self) -> Path:
        return self.folder / ".venv"

    @property
    def asked(self) -> list[str]:
        """What the stand-in was asked, oldest first, and forget it."""
        said = self._asked.read_text().splitlines() if self._asked.exists() else []
        self._asked.unlink(missing_ok=True)
        return said

    def stand_in(self, *, holds: bool = False, fails: bool = False) -> None:
        """From now on nothing is installed; pip takes its time, or fails."""
        (self.modules / "venv.py").write_text(STAND_IN)
        for name, wanted in (("hold", holds), ("fail", fails)):
            sign = self._asked.with_name(f"asked.{name}")
            sign.touch() if wanted else sign.unlink(missing_ok=True)

    def environment(self, **more: str) -> dict[str, str]:
        inherited = {k: v for k, v in os.environ.items() if not _NOT_INHERITED.match(k)}
        own = {"HOME": str(self.home), "LANG": "C", "TERM": "dumb", "ASKED": str(self._asked)}
        return {**inherited, **own, "PYTHONPATH": str(self.modules), **more}

    def start(
        self, *command: str | Path, stdin: int = subprocess.DEVNULL, **more: str
    ) -> "subprocess.Popen[str]":
        """Start a command in the checkout."""
        started = subprocess.Popen(
            command,
            cwd=self.folder,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment(**more),
            start_new_session=True,
        )
        self._started.append(started)
        return started

    def run(
        self, *command: str | Path, stdin: str = "", **more: str
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command in the checkout, with nobody at the keys if there is no stdin."""
        source = subprocess.PIPE if stdin else subprocess.DEVNULL
        started = self.start(*command, stdin=source, **more)
        out, err = started.communicate(stdin or None, timeout=500)
        return subprocess.CompletedProcess(command, started.returncode, out, err)

    def dev(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """`python3 dev.py ARGUMENTS`."""
        return self.run(PYTHON, "dev.py", *arguments)

    def wait_until_asked(self, what: str) -> None:
        wait_for(
            f"pip is asked for {what}",
            lambda: self._asked.exists() and what in self._asked.read_text(),
        )

    def close(self) -> None:
        for started in self._started:
            if started.poll() is None:
                os.killpg(started.pid, signal.SIGKILL)
            started.communicate()


def copy_tracked_files(folder: Path) -> None:
    """What somebody who clones this state gets."""
    for path in project_files():
        copy = folder / path.relative_to(HERE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Checkout]:
    """A fresh one, whose processes end with the test."""
    made = Checkout(tmp_path)
    yield made
    made.close()


def is_one_sentence(done: "subprocess.CompletedProcess[str]") -> bool:
    """Whether it failed with a single line, which is dev.py's."""
    lines = done.stderr.splitlines()
    return done.returncode == 1 and len(lines) == 1 and lines[0].startswith("dev.py: ")


def older_pythons() -> list[Path]:
    """Those too old for this project that are installed here, one of each version."""
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep)]
    folders += Path(os.environ.get("PYENV_ROOT", "/nowhere")).glob("versions/*/bin")
    found: dict[str, Path] = {}
    for name in (f"python3.{minor}" for minor in range(6, 11)):
        for path in (folder / name for folder in folders if folder.name != "shims"):
            if path.exists():
                found.setdefault(name, path)
    return list(found.values())


# ---- before anything is set up ----


@pytest.mark.parametrize("arguments", [(), ("nonsense",), ("--help",)], ids=lambda a: " ".join(a))
def test_without_a_known_command_it_says_what_there_is(
    checkout: Checkout, arguments: tuple[str, ...]
) -> None:
    """On stderr, with exit code 2, and nothing is set up for it."""
    done = checkout.dev(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    for command in ("start", "join", "test", "check", "lock"):
        assert f"\n    python3 dev.py {command} " in done.stderr
    assert "Traceback" not in done.stderr
    assert not checkout.venv.exists()


def test_a_python_that_says_it_is_old_gets_one_sentence(checkout: Checkout) -> None:
    """It names the version that is needed and the one that came; there is no traceback."""
    done = checkout.run(PYTHON, "-c", AN_OLD_ONE)
    assert is_one_sentence(done), done.stderr
    assert "Python 3.11 or newer is needed; this is 3.10." in done.stderr
    assert not checkout.venv.exists()


@pytest.mark.parametrize("python", older_pythons(), ids=lambda path: path.name)
def test_an_old_python_gets_one_sentence(checkout: Checkout, python: Path) -> None:
    """Each that is installed here can read the file far enough to say it."""
    done = checkout.run(python, "dev.py", "start")
    assert is_one_sentence(done), done.stderr
    assert f"this is {python.name.removeprefix('python')}." in done.stderr


def test_the_version_is_looked_at_before_anything_newer() -> None:
    """The whole file is grammar of 3.6, and what comes before the look is one import of sys."""
    tree = ast.parse(DEV.read_text("utf-8"), feature_version=(3, 6))
    docstring, first, second = tree.body[:3]
    assert isinstance(docstring, ast.Expr)
    assert ast.unparse(first) == "import sys"
    assert isinstance(second, ast.If)
    assert ast.unparse(second.test) == "sys.version_info < (3, 11)"


def test_a_python_without_ensurepip_gets_one_sentence(checkout: Checkout) -> None:
    """It names the package that some systems split off."""
    (checkout.modules / "sitecustomize.py").write_text(WITHOUT_ENSUREPIP)
    done = checkout.dev("start")
    assert is_one_sentence(done), done.stderr
    assert "apt install python3-venv" in done.stderr
    assert not checkout.venv.exists()


def test_a_python_without_half_its_library_gets_one_sentence(checkout: Checkout) -> None:
    """As with a package that holds the least of it."""
    without = WITHOUT_ENSUREPIP.replace("ensurepip", "tomllib")
    (checkout.modules / "sitecustomize.py").write_text(without)
    done = checkout.dev("start")
    assert is_one_sentence(done), done.stderr
    assert "(tomllib)" in done.stderr
    assert not checkout.venv.exists()


def test_what_the_system_refuses_is_one_sentence(checkout: Checkout) -> None:
    """Here the place of the lock is taken by a folder."""
    checkout.stand_in()
    (checkout.folder / ".venv.lock").mkdir()
    done = checkout.dev("start")
    assert is_one_sentence(done), done.stderr
    assert ".venv.lock" in done.stderr


# ---- the set-up, with a stand-in ----


@pytest.mark.parametrize("command", ["start", "join"])
def test_the_first_run_sets_up_and_the_next_ones_do_not(checkout: Checkout, command: str) -> None:
    """Then it is the program: its arguments, its output, its exit code, the user's folder."""
    checkout.stand_in()
    lock = str(checkout.folder / "requirements.lock")
    program = f"-m|zchat|{command}|--name|two words"
    wanted = [line.format(lock=lock) for line in SET_UP]
    for expected in ([*wanted, program], [program], [program]):
        done = checkout.dev(command, "--name", "two words")
        assert done.returncode == 5, done.stderr
        assert done.stdout == f"the program talks in {checkout.folder}\n"
        assert checkout.asked == expected


def test_stdout_holds_nothing_of_pip(checkout: Checkout) -> None:
    """Nor of dev.py: both talk to stderr."""
    checkout.stand_in()
    done = checkout.dev("start")
    assert done.stdout == f"the program talks in {checkout.folder}\n"
    assert done.stderr.count("pip talks to stdout\n") == 2
    assert "dev.py: setting up .venv (once, about half a minute) ...\n" in done.stderr
    assert "dev.py: done. zchat is .venv/bin/zchat from now on.\n" in done.stderr


def append(name: str, text: str) -> Callable[[Checkout], None]:
    """A change to a file of the checkout."""

    def change(checkout: Checkout) -> None:
        with (checkout.folder / name).open("a") as file:
            file.write(text)

    return change


def move(checkout: Checkout) -> None:
    checkout.folder = checkout.folder.rename(checkout.folder.with_name("elsewhere"))


UNFIT: dict[str, Callable[[Checkout], None]] = {
    "another lock": append("requirements.lock", "# changed\n"),
    "another project": append("pyproject.toml", '\n[project.urls]\nx = "y"\n'),
    "a stale stamp": lambda checkout: append(".venv/stamp-run", "x")(checkout),
    "no stamp": lambda checkout: (checkout.venv / "stamp-run").unlink(),
    "no python": lambda checkout: (checkout.venv / "bin" / "python").unlink(),
    "another place": move,
}


@pytest.mark.parametrize("change", UNFIT.values(), ids=UNFIT)
def test_an_environment_that_does_not_fit_is_made_anew(
    checkout: Checkout, change: Callable[[Checkout], None]
) -> None:
    """Nothing of the former one is left in it."""
    checkout.stand_in()
    checkout.dev("start")
    (checkout.venv / "leftover").touch()
    change(checkout)
    assert "made" in checkout.asked
    checkout.dev("start")
    assert "made" in checkout.asked
    assert not (checkout.venv / "leftover").exists()
    checkout.dev("start")
    assert "made" not in checkout.asked


def test_a_failed_install_is_one_sentence_and_never_used(checkout: Checkout) -> None:
    """No stamp is left, and the next run makes it anew."""
    checkout.stand_in(fails=True)
    done = checkout.dev("start")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("dev.py: setting up .venv failed (see above).")
    assert "Traceback" not in done.stderr
    assert "zchat" not in "".join(checkout.asked)
    checkout.stand_in()
    assert checkout.dev("start").returncode == 5
    assert checkout.asked[0] == "made"


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGINT], ids=lambda by: by.name)
def test_a_set_up_that_was_broken_off_is_made_anew(checkout: Checkout, by: signal.Signals) -> None:
    """Ctrl-C leaves no traceback; what was half made is never used."""
    checkout.stand_in(holds=True)
    broken = checkout.start(PYTHON, "dev.py", "start")
    checkout.wait_until_asked("--require-hashes")
    os.killpg(broken.pid, by)
    _, err = broken.communicate(timeout=PATIENCE_S)
    assert broken.returncode == (130 if by is signal.SIGINT else -by)
    assert "Traceback" not in err
    (checkout.venv / "leftover").touch()
    checkout.stand_in()
    assert "--require-hashes" in checkout.asked[-1]
    assert checkout.dev("start").returncode == 5
    assert checkout.asked[0] == "made"
    assert not (checkout.venv / "leftover").exists()


def test_two_at_once_wait_for_each_other(checkout: Checkout) -> None:
    """The second says that it waits, and then finds all done."""
    checkout.stand_in(holds=True)
    first = checkout.start(PYTHON, "dev.py", "start")
    checkout.wait_until_asked("--require-hashes")
    second = checkout.start(PYTHON, "dev.py", "start")
    assert second.stderr is not None
    assert "another set-up is under way here; waiting for it" in second.stderr.readline()
    checkout.stand_in()
    for process in (first, second):
        process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 5
    lock = str(checkout.folder / "requirements.lock")
    set_up = [line.format(lock=lock) for line in SET_UP]
    assert checkout.asked == [*set_up, "-m|zchat|start", "-m|zchat|start"]


def test_an_active_environment_makes_no_difference(checkout: Checkout, tmp_path: Path) -> None:
    """Run with the Python of some virtual environment, it is the same set-up."""
    other = tmp_path / "other"
    subprocess.run([PYTHON, "-m", "venv", "--without-pip", other], check=True, timeout=60)
    checkout.stand_in()
    checkout.dev("start")
    assert "made" in checkout.asked
    assert checkout.run(other / "bin" / "python", "dev.py", "start").returncode == 5
    assert checkout.asked == ["-m|zchat|start"]


def test_running_and_testing_share_one_environment(checkout: Checkout) -> None:
    """What testing needs is added to what running needs."""
    checkout.stand_in()
    checkout.dev("start")
    assert "made" in checkout.asked
    checkout.dev("test", "-x")
    asked = checkout.asked
    assert "made" not in asked
    assert any(line.endswith("requirements-dev.lock") for line in asked)
    assert asked[-1] == "-m|pytest|-x"
    checkout.dev("start")
    assert checkout.asked == ["-m|zchat|start"]


def test_who_can_test_can_run(checkout: Checkout) -> None:
    """What testing needs holds what running needs: no second set-up."""
    checkout.stand_in()
    checkout.dev("test", "-x")
    assert checkout.asked[0] == "made"
    checkout.dev("start")
    assert checkout.asked == ["-m|zchat|start"]


def test_the_locks_agree_and_every_line_has_its_hashes() -> None:
    """All that running needs stands in both, word for word; no lock names a place to get it."""
    locks = []
    for name in ("requirements.lock", "requirements-dev.lock"):
        text = (HERE / name).read_text("utf-8")
        assert "://" not in text
        locks.append(set(re.split(r"\n(?=\S)", text.strip())))
        for pinned in locks[-1]:
            assert re.match(r"[a-z0-9_.-]+==[0-9][^\s;]*( ; .*)?( \\\n    --hash=sha256:)", pinned)
    run, dev = locks
    assert len(run) > 10
    assert run < dev


# ---- for real ----


def test_with_a_fresh_set_up_nothing_needs_a_network(checkout: Checkout) -> None:
    """In a network of its own, with nothing in it but itself, a message goes round."""
    island = ["unshare", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"']
    try:
        tried = checkout.run(*island, "sh", "true")
    except FileNotFoundError as error:
        pytest.skip(f"no network of one's own on this system: {error}")
    if tried.returncode:
        pytest.skip(f"no network of one's own is allowed here: {tried.stderr.strip()}")
    checkout.stand_in()
    checkout.dev("start")
    assert "made" in checkout.asked
    checkout.stand_in(fails=True)
    real = {"REAL": sys.executable, "PYTHONPATH": f"{checkout.modules}:{checkout.folder}"}
    command = [*island, "sh", str(PYTHON), "dev.py", "start", "--name", "alice"]
    done = checkout.run(*command, stdin="hello\n", **real)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"\d\d:\d\d alice: hello\n", done.stdout)
    assert "Server at 127.0.0.1:5577." in done.stderr
    assert checkout.asked[0] == "-m|zchat|start|--name|alice"


@pytest.mark.install
@pytest.mark.timeout(600)
def test_a_newcomer_starts_with_one_command(checkout: Checkout) -> None:
    """A real set-up from the locks, then a message, shown; the second time there is no set-up."""
    done = checkout.run(PYTHON, "dev.py", "start", stdin="hello\n")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"\d\d:\d\d \S+: hello\n", done.stdout)
    assert re.search(r"^  On the other computer:  zchat join zchat://\S+$", done.stderr, re.M)
    assert re.search(r"^  Passphrase \(.*\):\n    ([a-z]+-){5}[a-z]+$", done.stderr, re.M)
    program = checkout.run(checkout.venv / "bin" / "zchat", "--version")
    assert re.fullmatch(r"zchat, version \S+\n", program.stdout)
    again = checkout.dev("start", "--help")
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout.startswith("Usage: zchat start ")
