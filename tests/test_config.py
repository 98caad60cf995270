"""Settings: where they come from, what is refused, and that config/*.toml tells the truth."""

import pwd
import tomllib
from pathlib import Path
from typing import NoReturn

import msgspec
import pytest

from zchat.config import BrokerConfig, MemberConfig, home, load
from zchat.errors import BadConfig, NoHome

CONFIG = Path(__file__).parent.parent / "config"


@pytest.mark.parametrize(
    ("name", "kind"), [("broker", BrokerConfig), ("member", MemberConfig)], ids=["broker", "member"]
)
def test_the_example_files_are_the_defaults(
    name: str, kind: type[BrokerConfig] | type[MemberConfig]
) -> None:
    """Every setting stands in its file with its default, and nothing else does."""
    written = tomllib.loads((CONFIG / f"{name}.toml").read_text("utf-8"))
    assert list(written) == list(kind.__struct_fields__)
    assert msgspec.convert(written, kind) == kind()


def test_flag_beats_environment_beats_file(tmp_path: Path) -> None:
    """And each value knows where it came from."""
    file = tmp_path / "member.toml"
    file.write_text('name = "file"\nhistory = 1\ntimeout_s = 3\n')
    environment = {"ZCHAT_NAME": "environment", "ZCHAT_HISTORY": "2"}
    config, origins = load(MemberConfig, file, {"name": "flag", "history": None}, environment)
    assert (config.name, config.history, config.timeout_s) == ("flag", 2, 3.0)
    assert origins["name"] == "flag"
    assert origins["history"] == "environment ZCHAT_HISTORY"
    assert origins["timeout_s"] == f"file {file}"
    assert origins["beat_min_s"] == "default"


def test_no_file_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile without files has the defaults; with one, the file's."""
    monkeypatch.setenv("ZCHAT_HOME", str(tmp_path))
    assert load(BrokerConfig, None, {}, {})[0] == BrokerConfig()
    (tmp_path / "broker.toml").write_text("post_burst = 7\n")
    assert load(BrokerConfig, None, {}, {})[0].post_burst == 7


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("histroy = 3\n", "did you mean 'history'"),
        ("history = -1\n", "history"),
        ("history = 'many'\n", "history"),
        ("beat_min_s = 0\n", "beat_min_s"),
        ("schema = 2\n", "schema"),
        ("= nonsense", "not TOML"),
        (f"history = {'9' * 5_000}", "not TOML"),
        (f"allow = {'[' * 5_000}", "not TOML"),
    ],
)
def test_bad_files_are_refused_with_the_reason(tmp_path: Path, content: str, says: str) -> None:
    """The sentence names the setting, or the nearest one."""
    file = tmp_path / "member.toml"
    file.write_text(content)
    with pytest.raises(BadConfig, match=says):
        load(MemberConfig, file, {}, {})


def test_an_environment_that_is_not_utf_8_is_refused() -> None:
    with pytest.raises(BadConfig, match="environment ZCHAT_NAME: it is not UTF-8"):
        load(MemberConfig, None, {}, {"ZCHAT_NAME": "\udcff"})


@pytest.mark.parametrize(
    ("kind", "name", "value", "says"),
    [
        (MemberConfig, "timeout_s", "abc", "a number above 0 and of at most 86,400, not 'abc'"),
        (MemberConfig, "timeout_s", "0", "a number above 0 and of at most 86,400, not '0'"),
        (MemberConfig, "timeout_s", "nan", "a number above 0 and of at most 86,400, not 'nan'"),
        (MemberConfig, "history", "1.5", "a whole number of at least 0 and of at most 100,000"),
        (MemberConfig, "schema", "2", "1, not '2'"),
        (BrokerConfig, "post_burst", "", "a whole number of at least 1, not ''"),
        (BrokerConfig, "listen", 5577, 'text, as in "text", not 5577'),
        (BrokerConfig, "allow", [7], r'a list of texts, as in \["one", "two"\], not \[7\]'),
        (BrokerConfig, "allow", "key", r'a list of texts, as in \["one", "two"\], not \'key\''),
    ],
)
def test_a_bad_value_is_told_in_words_of_our_own(
    tmp_path: Path, kind: type[BrokerConfig], name: str, value: object, says: str
) -> None:
    """The setting, what it can be, what it was, and where that came from."""
    file = tmp_path / "settings.toml"
    file.write_text(f"{name} = {value!r}\n")
    with pytest.raises(
        BadConfig, match=f"{file}: {name} must be .*not {value!r}".replace("[", "\\[")
    ):
        load(kind, file, {}, {})
    with pytest.raises(BadConfig, match=f"^flag: {name} must be {says}"):
        load(kind, None, {name: value}, {"ZCHAT_HOME": str(tmp_path)})


def test_a_list_in_the_environment_has_commas(tmp_path: Path) -> None:
    """It cannot be written in another way there."""
    file = tmp_path / "broker.toml"
    file.write_text("allow = ['x']\n")
    allow = load(BrokerConfig, file, {}, {"ZCHAT_ALLOW": "aa, bb,"})[0].allow
    assert allow == ("aa", "bb")


def test_without_any_home_it_is_said_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container, for a user whom its system does not know."""

    def unknown(_: int) -> NoReturn:
        raise KeyError

    for name in ("HOME", "XDG_DATA_HOME", "ZCHAT_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert home().is_absolute()
    with monkeypatch.context() as stranger:
        stranger.setattr(pwd, "getpwuid", unknown)
        with pytest.raises(NoHome, match="~ has no home folder") as found:
            home()
    assert "ZCHAT_HOME=" in found.value.advice
    monkeypatch.setenv("ZCHAT_HOME", "~nobody-of-this-name/zchat")
    with pytest.raises(NoHome, match="~nobody-of-this-name/zchat has no home folder"):
        home()


def test_a_bad_environment_is_named(tmp_path: Path) -> None:
    """Not the file is to blame."""
    file = tmp_path / "member.toml"
    file.write_text("")
    with pytest.raises(BadConfig, match="environment ZCHAT_HISTORY"):
        load(MemberConfig, file, {}, {"ZCHAT_HISTORY": "lots"})


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    """A file in the profile need not."""
    with pytest.raises(BadConfig):
        load(MemberConfig, tmp_path / "missing.toml", {}, {})
