"""`zchat help TOPIC` and `zchat completion SHELL`: what is looked up, what is installed once.

Rules of this file: a topic is paragraphs; what looks like a table is one, in `zchat man`, too.
"""

import re
import textwrap

import click

from zchat.errors import NoTopic, did_you_mean
from zchat.ui.cli.common import data, terminal_columns
from zchat.ui.cli.shells import SHELLS
from zchat.ui.schema import explained

TOPICS = {
    "exit-codes": """\
0    done
1    something you can mend: the input, a name, a file, a room that is not known
2    usage: an option or an argument; or a passphrase was needed and there was no terminal
3    the network or the storage failed; what you sent is kept in the outbox
4    the server contradicted itself; nothing more was sent (zchat rejoin ROOM)
5    refused by a limit of the server
6    no answer in time; what you sent is kept in the outbox
7    wrong passphrase (an empty room), or a store or a backup that cannot be read
8    the server's store failed, is damaged, or lacks what was confirmed (zchat broker)
70   a bug of ours; a report is kept in a file
130  interrupted
143  terminated""",
    "json": explained(),
    "environment": """\
ZCHAT_HOME             one folder for all files of a profile (else the platform's own place)
ZCHAT_PASSPHRASE_FILE  a file that holds the passphrase
ZCHAT_<SETTING>        any setting of config/member.toml or config/broker.toml, in capitals
NO_COLOR               no colours, whatever it says, unless it is empty
FORCE_COLOR            colours in a pipe, too, unless it is 0 or empty
TERM=dumb              no colours, and no prompt that stays in place

For colours --color goes first (auto, always, never), then NO_COLOR, then FORCE_COLOR; else names
have them in a terminal. They are made of keys, and none says what is not written as well.

A passphrase itself never comes by the environment or the command line: others could read it.""",
    "trust": """\
A room is whoever knows its passphrase. Each member has a key; a name is only a label.

name~4f2a         not verified: compare eight words by voice (zchat verify ROOM)
verified          you compared, and said so: zchat verify ROOM --matches N --with alice
looks like alice  another key with a name like hers
ok                everything you have seen is one signed history
stale             nobody has proved lately that the server is not holding things back
gap               numbered messages that never came: never sent, or not stored
late, clock       the sender's time and the time of arrival are far apart
SERVER FORKED / WENT BACK   it signed two histories. Tell the others by another way, then
                  zchat rejoin ROOM. The proof can be checked by anybody: zchat evidence check.""",
    "passphrase": """\
zchat start makes six words of a list of 7,772: about 77 bits. Say them, or send them by another
way than the invite. Capitals, spaces and hyphens between words do not matter.

Whoever has the passphrase can read the room's whole history, and nobody can take it away again:
after a leak, only a new passphrase or a new room name helps.

--remember keeps the room's key (not the passphrase), for you only: scripts then need neither a
prompt nor half a second of Argon2id. It says where: in your profile, or so that it opens only with
the operating system's keyring, where the extra is installed (pipx install '.[keyring]') and one
works. zchat whoami says it again. Jobs without a desktop session (cron) cannot reach a keyring: for
them it is ZCHAT_KEYRING_S=0 zchat tail ROOM --remember.""",
    "proof": """\
zchat export ROOM --proof -o FILE keeps each message with what shows that it is real: the envelope
its author signed, its place in the chain, and the head that the server signed over all of them.

zchat evidence check FILE checks all of that again, offline, for whoever has the room's passphrase
or a profile that remembers the room. One changed byte is found, and the line named.

It proves         which key said what, in which order, up to the last entry of the file
Held against      your own log, if this profile has one: a server that showed two is found out
By the words      that it is the log that others have: zchat verify ROOM --at N says the same ones
It does not       say whose a key is, that nothing came later, or that a clock was right
Left out          an envelope can be, and that is counted; none can be changed, moved or added
With --since      only these entries; of what came before it has one hash

Signatures can be passed on: who has FILE and the passphrase can show anybody who said what.

Of a server that contradicted itself there is a proof of its own, which needs no key at all: a file
that zchat names when it finds out. zchat evidence check reads both, for scripts with --json.""",
    "scripting": """\
Once, with a terminal:   zchat tail ops --remember
Then, without one:       make 2>&1 | zchat send ops
                         zchat tail ops -f --json | jq -r .text
                         zchat send ops "done" || echo "exit $?"

send ends with 0 only once the server has signed for everything; what it could not send stays in
the outbox and goes out with the next send or join. Data is on stdout, words for people on stderr.
With --wait seen it ends with 0 only once another member's program has shown that it holds all of
it, which the server cannot feign; with 6 if that took longer than --timeout.

For a command for each message there is --exec:

    zchat tail ops -f --others --exec ./bot.sh

It is split as a shell would split it, and started without one (a pipeline is a matter for a
script, or for sh -c). On its stdin is the text (with
--json the whole object), in its environment every other field of zchat help json:

MESSAGE_ROOM         the room's name
MESSAGE_N            its place in the log
MESSAGE_ID           what another one would answer it by
MESSAGE_SENDER       its author's key
MESSAGE_NAME         what its author goes by; anybody can take any name
MESSAGE_OWN          1 if you said it, else 0
MESSAGE_VERIFIED     1 if you compared keys with its author, else 0
MESSAGE_SENT_AT      by its author's clock
MESSAGE_RECEIVED_AT  by yours
MESSAGE_KIND         text; with --all also unknown, unreadable
MESSAGE_REPLY_TO     the id of what it answers; empty for none
MESSAGE_STATUS       stored, late or clock

One runs at a time, in log order. One that is missing, fails, or takes longer than --exec-timeout
is told on stderr, and the next message has its turn; without -f the end is then exit 1. With -f it
runs for what comes from now on; a bot that keeps the last MESSAGE_N goes on with --after N.

--others leaves out your own messages, so that a bot does not answer itself. This is an echo (two
of them in one room answer each other for ever):

    zchat tail ops -f --others --exec 'zchat send ops --whole -'

Topics: exit-codes, json, environment.""",
}


def laid_out(text: str, columns: int) -> str:
    """A topic for a terminal that is narrower than its lines."""
    return "\n\n".join(_paragraph(part, columns) for part in text.split("\n\n"))


def _paragraph(text: str, columns: int) -> str:
    """Prose is filled; a row of a table goes on below its own text; a command stays as it is."""
    lines = text.splitlines()
    if max(map(len, lines)) <= columns:
        return text
    if not any(re.search(r"^ |\S {2,}\S", line) for line in lines):
        return textwrap.fill(" ".join(lines), columns, break_on_hyphens=False)
    return "\n".join(_row(line, columns) for line in lines)


def _row(line: str, columns: int) -> str:
    begun = re.match(r"(\S.*? {2,})\S| {5,}(?=\S)", line)
    below = " " * (begun.end(1) if begun and begun[1] else begun.end() if begun else 4)
    if (line.startswith("    ") and not begun) or len(below) > columns // 2:
        return line
    return textwrap.fill(line, columns, subsequent_indent=below, break_on_hyphens=False)


def _complete_topics(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    return [topic for topic in TOPICS if topic.startswith(incomplete)]


@click.command("help")
@click.argument("topic", required=False, shell_complete=_complete_topics)
@click.pass_context
def help_topic(context: click.Context, topic: str | None) -> None:
    """Explain a TOPIC, such as exit codes, trust or scripting; or a command.

    There are exit-codes, json, environment, trust, passphrase, proof and scripting.

    \b
        zchat help trust
    """
    if topic is None:
        data("Topics: " + ", ".join(TOPICS) + ". Commands: zchat --help")
        return
    root = context.find_root()
    assert isinstance(root.command, click.Group)
    command = root.command.get_command(root, topic)
    if command is not None:
        data(command.get_help(click.Context(command, parent=root, info_name=topic)))
        return
    if topic not in TOPICS:
        raise NoTopic(topic=topic, topics=", ".join(TOPICS), meant=did_you_mean(topic, TOPICS))
    columns = terminal_columns(1)
    data(laid_out(TOPICS[topic], columns) if columns else TOPICS[topic])


@click.command()
@click.argument("shell", type=click.Choice(list(SHELLS)))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of a shell. Rooms are completed from your profile.

    \b
        zchat completion bash > ~/.local/share/bash-completion/completions/zchat
        zchat completion zsh > ~/.zfunc/_zchat
        zchat completion fish > ~/.config/fish/completions/zchat.fish
    """
    script = SHELLS[shell](context.find_root().command, {}, "zchat", "_ZCHAT_COMPLETE").source()
    data(script.removesuffix("\n"))
