"""Settings with their origin: flag > environment > file > default.

Rules of this file: a setting is a field of one of the Structs below, with its default, its bounds
and (in config/*.toml, which a test compares with this file) its reason. Unknown settings are
refused with the nearest name. Secrets are never settings.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct
from platformdirs import user_data_path

from zchat.errors import BadConfig, NoHome, UnreadableConfig
from zchat.protocol import limits

DEFAULT_PORT = 5577
_PREFIX = "ZCHAT_"

_Positive = Annotated[int, Meta(ge=1)]
_Seconds = Annotated[float, Meta(gt=0, le=3600)]


class BrokerConfig(Struct, forbid_unknown_fields=True, frozen=True):
    """What config/broker.toml can say."""

    schema: Annotated[int, Meta(ge=1, le=1)] = 1
    listen: str = f"127.0.0.1:{DEFAULT_PORT}"
    advertise: str = ""
    allow: tuple[str, ...] = ()
    health: str = ""
    post_burst: _Positive = limits.POST_BURST
    posts_per_s: _Positive = limits.POSTS_PER_S
    cast_burst: _Positive = limits.CAST_BURST
    casts_per_s: _Positive = limits.CASTS_PER_S
    control_burst: _Positive = limits.CONTROL_BURST
    controls_per_s: _Positive = limits.CONTROLS_PER_S
    connections_per_address: _Positive = limits.CONNECTIONS_PER_ADDRESS
    handshake_burst: _Positive = limits.HANDSHAKE_BURST
    handshakes_per_s: _Positive = limits.HANDSHAKES_PER_S
    rooms_per_access_key: _Positive = limits.ROOMS_PER_ACCESS_KEY
    rooms_per_broker: _Positive = limits.ROOMS_PER_BROKER
    room_bytes: Annotated[int, Meta(ge=limits.MAX_ENVELOPE_BYTES)] = limits.ROOM_BYTES
    keep_days: Annotated[int, Meta(ge=0)] = 0
    keep_room_bytes: Annotated[int, Meta(ge=0)] = 0


class MemberConfig(Struct, forbid_unknown_fields=True, frozen=True):
    """What config/member.toml can say."""

    schema: Annotated[int, Meta(ge=1, le=1)] = 1
    name: str = ""
    history: Annotated[int, Meta(ge=0, le=100_000)] = 1_000
    timeout_s: Annotated[float, Meta(gt=0, le=86_400)] = 30.0
    keyring_s: Annotated[float, Meta(ge=0, le=3_600)] = 15.0
    window_bytes: Annotated[int, Meta(ge=0, le=limits.MAX_WINDOW_BYTES)] = 512 * limits.KIB
    beat_min_s: _Seconds = limits.BEAT_MIN_S
    beat_max_s: _Seconds = limits.BEAT_MAX_S
    idle_join_s: Annotated[float, Meta(gt=0, le=limits.IDLE_JOIN_S)] = limits.IDLE_JOIN_S
    answer_timeout_s: _Seconds = limits.ANSWER_TIMEOUT_S
    withheld_s: _Seconds = limits.WITHHELD_S


Config = TypeVar("Config", BrokerConfig, MemberConfig)


def home() -> Path:
    """The folder of all of this profile's files: ZCHAT_HOME, else the platform's own place.

    Raises NoHome.
    """
    named = os.environ.get("ZCHAT_HOME")
    try:
        return Path(named).expanduser() if named else user_data_path("zchat", appauthor=False)
    except RuntimeError:  # "~" of nobody; HOME is not set, and the system knows none for this user
        raise NoHome(named=named or "~") from None


def load(
    kind: type[Config], path: Path | None, flags: Mapping[str, Any], environment: Mapping[str, str]
) -> tuple[Config, dict[str, str]]:
    """The settings of one kind and the origin of each.

    `path` is a file the user named (it must exist) or None for `home()/broker.toml` or
    `home()/member.toml`, which need not. Flags that are None were not given. Raises BadConfig.
    """
    names = kind.__struct_fields__
    values: dict[str, Any] = {}
    origins = dict.fromkeys(names, "default")
    file = path or home() / f"{kind.__name__.removesuffix('Config').lower()}.toml"
    if path is not None or _is_there(file):
        for name, value in _read(file, names).items():
            values[name], origins[name] = value, f"file {file}"
    for name in names:
        variable = f"{_PREFIX}{name.upper()}"
        if variable in environment:
            if not _is_text(environment[variable]):
                raise BadConfig(path=f"environment {variable}", reason="it is not UTF-8")
            values[name], origins[name] = environment[variable], f"environment {variable}"
            if kind.__struct_defaults__[names.index(name)] == ():
                values[name] = [part.strip() for part in environment[variable].split(",") if part]
    for name, value in flags.items():
        if value is not None:
            values[name], origins[name] = value, "flag"
    try:
        return msgspec.convert(values, kind, strict=False), origins
    except msgspec.ValidationError as error:
        found = re.search(r"\$\.(\w+)", str(error))
        assert found is not None, "it names the setting"
        name = found[1]
        reason = f"{name} must be {_wanted(kind, name)}, not {values[name]!r}"
        raise BadConfig(path=origins[name].removeprefix("file "), reason=reason) from None


def _wanted(kind: type[Config], name: str) -> str:
    """What a setting can be, in words."""
    info = msgspec.inspect.type_info(kind)
    assert isinstance(info, msgspec.inspect.StructType)
    wanted = next(field.type for field in info.fields if field.name == name)
    if not isinstance(wanted, msgspec.inspect.IntType | msgspec.inspect.FloatType):
        is_text = isinstance(wanted, msgspec.inspect.StrType)
        return 'text, as in "text"' if is_text else 'a list of texts, as in ["one", "two"]'
    if wanted.ge is not None and wanted.ge == wanted.le:
        return f"{wanted.ge}"
    bounds = ["above", wanted.gt], ["of at least", wanted.ge], ["of at most", wanted.le]
    said = " and ".join(f"{word} {bound:,}" for word, bound in bounds if bound is not None)
    whole = isinstance(wanted, msgspec.inspect.IntType)
    return f"a {'whole ' if whole else ''}number {said}"


def _is_text(value: str) -> bool:
    """Whether it came as UTF-8: else Python keeps its bytes as halves of surrogates."""
    try:
        return bool(value.encode() or True)
    except UnicodeEncodeError:
        return False


def _is_there(file: Path) -> bool:
    try:
        return file.exists()
    except OSError as error:  # a folder that we may not enter
        raise UnreadableConfig(path=file, reason=error.strerror or "cannot be read") from None


def _read(file: Path, names: tuple[str, ...]) -> dict[str, Any]:
    try:
        settings = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise UnreadableConfig(path=file, reason=error.strerror or "cannot be read") from None
    except (ValueError, RecursionError) as error:  # no TOML, no UTF-8, endless numbers or nests
        raise BadConfig(path=file, reason=f"not TOML: {error}") from None
    for name in settings:
        if name not in names:
            raise BadConfig(path=file, reason=f"there is no setting {name!r}{_meant(name, names)}")
    return settings


def _meant(name: str, known: Sequence[str], prefix: str = "") -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {prefix + near[0]!r}" if near else ""


def problems(environment: Mapping[str, str]) -> dict[str, list[BadConfig]]:
    """What is wrong with the settings of each kind, and with variables that set nothing."""
    return {
        "broker": _problems_of(BrokerConfig, environment),
        "member": _problems_of(MemberConfig, environment),
        "environment": list(_unknown_in(environment)),
    }


def _problems_of(kind: type[Config], environment: Mapping[str, str]) -> list[BadConfig]:
    try:
        load(kind, None, {}, environment)
    except BadConfig as error:
        return [error]
    return []


def _unknown_in(environment: Mapping[str, str]) -> Iterator[BadConfig]:
    settings = {*BrokerConfig.__struct_fields__, *MemberConfig.__struct_fields__}
    known = sorted({"HOME", "PASSPHRASE_FILE", *(name.upper() for name in settings)})
    for variable in sorted(environment):
        name = variable.removeprefix(_PREFIX)
        if name != variable and name not in known:
            reason = f"there is no setting of that name{_meant(name, known, _PREFIX)}"
            yield BadConfig(path=f"environment {variable}", reason=reason)
