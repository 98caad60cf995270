"""What shells need to complete our command lines: a script each, and how a line is read.

Theory of operation. The script calls the program with the line so far; click finds what could come
next. What is completed may be of others' making (a room's name is whoever's who wrote the invite),
and lands in a command line: it is quoted by the shell's own means, so that nothing in it is obeyed.
zsh and fish quote by themselves, bash does not.

Rules of this file: a key press never ends in an error and never says anything.
"""

import os
from collections.abc import Callable

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
    split_arg_string,
)

from zchat.config import home
from zchat.ui.safe import safe_line

_BASH = r"""# Completion of %(prog_name)s.
%(complete_func)s() {
    local line="${COMP_LINE:0:COMP_POINT}" quote="" type value
    case "${COMP_WORDS[COMP_CWORD]}" in [\"\']*) quote="${COMP_WORDS[COMP_CWORD]:0:1}" ;; esac
    COMPREPLY=()
    while IFS=, read -r type value; do
        case "$type" in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain)
                # Outside of quotes all is escaped; inside only what means nothing there is taken.
                if [[ -z $quote ]]; then printf -v value %%q "$value"
                elif [[ $quote == "'" && $value == *"'"* ]]; then continue
                elif [[ $quote == '"' && $value == *[\"\$\`\\!]* ]]; then continue
                fi
                COMPREPLY+=("$value") ;;
        esac
    done < <(env COMP_WORDS="$line" COMP_WORDBREAKS="$COMP_WORDBREAKS" \
        %(complete_var)s=bash_complete "$1" 2>/dev/null)
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class Bash(BashComplete):
    """Reads the line as it stands: COMP_WORDS is cut at colons as well."""

    source_template = _BASH
    _kept = 0  # how much of what was typed stands before what bash wants

    def source(self) -> str:
        return ShellComplete.source(self)  # without a word about the version of another bash

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ["COMP_WORDS"]
        words = split_arg_string(line)
        # One more letter makes one more word where the last one has ended.
        incomplete = words.pop() if len(split_arg_string(f"{line}x")) == len(words) else ""
        raw = line[-len(incomplete) :] if incomplete and line.endswith(incomplete) else ""
        breaks = [mark for mark in ":=@" if mark in os.environ.get("COMP_WORDBREAKS", "")]
        # What stands before such a mark stays, unless it is quoted: bash wants only the rest.
        self._kept = max((raw.rfind(mark) + 1 for mark in breaks), default=0)
        if raw and line[: -len(raw)].endswith(("'", '"')):
            self._kept = 0
        return words[1:], incomplete

    def format_completion(self, item: CompletionItem) -> str:
        return f"{item.type},{item.value[self._kept :]}"


class Zsh(ZshComplete):
    """As click has it, but silent."""

    source_template = ZshComplete.source_template.replace(
        "zsh_complete %(prog_name)s)}", "zsh_complete %(prog_name)s 2>/dev/null)}"
    )


class Fish(FishComplete):
    """As click has it, but silent, and a comma in a name stays."""

    source_template = FishComplete.source_template.replace(
        'string split ","', 'string split -m1 ","'
    ).replace("%(prog_name)s);", "%(prog_name)s 2>/dev/null);")


SHELLS: dict[str, type[ShellComplete]] = {"bash": Bash, "zsh": Zsh, "fish": Fish}
for _shell in SHELLS.values():
    add_completion_class(_shell)

_Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]
_RECENT = 500


def _silently(names: Callable[[click.Context], set[str]], *, listed: bool = False) -> _Completer:
    """Names that begin as typed; with `listed`, the last one of a list with commas."""

    def complete(
        context: click.Context, parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        before, comma, begun = incomplete.rpartition(",") if listed else ("", "", incomplete)
        try:
            found = sorted(name for name in names(context) if name.startswith(begun))
        except Exception:  # a key press must never end in an error
            return []
        usable = (name for name in found if _is_usable(name) and not (listed and "," in name))
        return [CompletionItem(f"{before}{comma}{name}") for name in usable]

    return complete


def _is_usable(name: str) -> bool:
    """Whether it is what it looks like, and cannot be taken for an option."""
    return safe_line(name) == name and not name.startswith("-")


def _rooms(_: click.Context) -> set[str]:
    from zchat.member.profile import Profile

    return Profile(home()).all_rooms()


def _members(_: click.Context) -> set[str]:
    from zchat.member.profile import Profile

    return set(Profile(home()).members())


def _speakers(_: click.Context) -> set[str]:
    """Who spoke last in the room that was typed, where its key lies in the profile.

    click has no parameters for a line that ends with an option without its value.
    """
    from zchat.member.archive import end_of, read
    from zchat.member.profile import Profile
    from zchat.protocol.keys import RoomKeys

    profile, names = Profile(home()), set()
    typed = set(split_arg_string(os.environ["COMP_WORDS"]))
    for member in profile.members():
        vault = profile.vault(member)
        try:
            for known in vault.rooms():
                if known.record.root and known.record.room in typed:
                    keys, path = RoomKeys(known.record.root), vault.replica_path(known.tag)
                    end = end_of(path, keys)
                    names |= {said.name for said in read(path, keys, max(1, end - _RECENT), end)}
        finally:
            vault.close()
    return names


complete_rooms = _silently(_rooms)
complete_members = _silently(_members)
complete_speakers = _silently(_speakers, listed=True)
