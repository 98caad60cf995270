"""Settings: where they come from, what is refused, and that config/*.toml tells the truth."""

import tomllib
from pathlib import Path

import msgspec
import pytest

from zchat.config import BrokerConfig, MemberConfig, load
from zchat.errors import BadConfig

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
    ],
)
def test_bad_files_are_refused_with_the_reason(tmp_path: Path, content: str, says: str) -> None:
    """The sentence names the setting, or the nearest one."""
    file = tmp_path / "member.toml"
    file.write_text(content)
    with pytest.raises(BadConfig, match=says):
        load(MemberConfig, file, {}, {})


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
