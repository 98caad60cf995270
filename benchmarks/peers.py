"""Other servers, started with a configuration of their own, on loopback or a unix socket.

Each peer is as fast as its settings make it: limits, logs and histories that cost time are off,
what makes it durable is on where the row says so. Their clients are plain sockets: a member is a
handshake, and after it a stream of bytes whose length says how many messages came. So every peer is
drained by the same few lines, and no client library decides a figure.

What is not installed is left out with the reason.
"""

import base64
import contextlib
import itertools
import os
import re
import shutil
import socket
import ssl
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from benchmarks.harness import Server

_PATIENCE_S = 10.0
_QUIET_S = 0.3


class Missing(Exception):
    """Not on this machine."""


def free_port() -> int:
    """A port nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate and its key, for a TLS peer. Raises Missing without openssl."""
    if shutil.which("openssl") is None:
        raise Missing("openssl is not installed")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    command += f" -subj /CN=localhost -out {cert} -keyout {key}"
    subprocess.run(command.split(), check=True, capture_output=True)
    for path in (cert, key):
        path.chmod(0o644)
    return cert, key


class Peer:
    """A server, and how its clients talk. `ahead`: messages a publisher may be ahead of members."""

    name: ClassVar[str]
    program: ClassVar[str]
    tls: ClassVar[bool] = False
    unix: ClassVar[bool] = False
    stores: ClassVar[str] = "no"
    encrypts: ClassVar[str] = "no"
    durable: ClassVar[str] = "no"
    acknowledgement: ClassVar[bytes] = b""  # a mark that each one holds once
    ahead: ClassVar[int] = 1_024
    weight: ClassVar[float] = 1.0  # the share of the messages that its speed allows
    version_flag: ClassVar[str] = "--version"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.path = folder / "peer.sock"
        folder.chmod(0o755)
        self.configure()
        self._log = (folder / "log").open("wb")
        self._process = subprocess.Popen(
            self.command(), stdout=self._log, stderr=subprocess.STDOUT, cwd=folder
        )
        self.server = Server(self._process.pid)
        self._await()

    @classmethod
    def version(cls) -> str:
        """The program's own word. Raises Missing."""
        if shutil.which(cls.program) is None:
            raise Missing(f"{cls.program} is not installed")
        done = subprocess.run(
            [cls.program, cls.version_flag], capture_output=True, text=True, check=False
        )
        found = re.search(r"\d+\.\d+(\.\d+)?", done.stdout + done.stderr)
        return found[0] if found else "?"

    def configure(self) -> None:
        """Write the configuration."""

    def command(self) -> list[str]:
        """What starts it in the foreground."""
        raise NotImplementedError  # of a kind, each of which has its own

    def _await(self) -> None:
        ends = time.monotonic() + _PATIENCE_S
        while True:
            try:
                self.raw_socket().close()
                return
            except OSError:
                if time.monotonic() > ends or self._process.poll() is not None:
                    said = (self.folder / "log").read_text(errors="replace")[-300:]
                    self.close()
                    raise Missing(f"{self.name} does not start: {said}") from None
                time.sleep(0.05)

    def raw_socket(self) -> socket.socket:
        """A connection without a handshake."""
        if self.unix:
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(str(self.path))
        else:
            connection = socket.create_connection(("127.0.0.1", self.port), _PATIENCE_S)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(_PATIENCE_S)
        return connection

    def connect(self) -> socket.socket:
        """A connection that may speak."""
        connection = self.raw_socket()
        return encrypted(connection) if self.tls else connection

    def subscribe(self, connection: socket.socket) -> None:
        """Enter the room."""
        raise NotImplementedError  # of a kind, each of which has its own

    def publication(self, content: bytes) -> bytes:
        """What a publisher writes for one message."""
        raise NotImplementedError  # of a kind, each of which has its own

    def await_acknowledgements(self, connection: socket.socket, number: int) -> None:
        """Make ready for acknowledgements on this connection, where that takes something."""

    def acknowledged(self, content: bytes, number: int) -> bytes:
        """What connection `number` writes for a message that is acknowledged to it."""
        return self.publication(content)

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE_S)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._log.close()


def encrypted(connection: socket.socket) -> ssl.SSLSocket:
    """TLS over a connection; nobody's certificate is checked here."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context.wrap_socket(connection)


def read_until(connection: socket.socket, mark: bytes) -> bytes:
    """What comes up to and with a mark; TimeoutError where it does not."""
    got = b""
    while mark not in got:
        piece = connection.recv(65_536)
        if not piece:
            raise ConnectionError(f"closed before {mark!r}: {got[-200:]!r}")
        got += piece
    return got


def wait_quiet() -> None:
    """Until what was sent has arrived everywhere, on an idle server."""
    time.sleep(_QUIET_S)


def drain_quiet(connection: socket.socket, quiet_s: float = _QUIET_S) -> int:
    """Read until nothing comes for a while; how many bytes it was."""
    connection.settimeout(quiet_s)
    total = 0
    with contextlib.suppress(TimeoutError):
        while piece := connection.recv(65_536):
            total += len(piece)
    connection.settimeout(_PATIENCE_S)
    return total


@contextlib.contextmanager
def running(kind: type[Peer]) -> Iterator[Peer]:
    """A peer for as long as the block runs. Raises Missing."""
    kind.version()
    with tempfile.TemporaryDirectory(prefix="zchat-peer-") as folder:
        peer = kind(Path(folder))
        try:
            yield peer
        finally:
            peer.close()


# ---- Redis ----


def resp(*words: bytes) -> bytes:
    """A command as Redis reads it."""
    head = b"*%d\r\n" % len(words)
    return head + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


class Redis(Peer):
    """Publish and subscribe; nothing is kept."""

    name = "Redis pub/sub"
    program = "redis-server"
    settings: ClassVar[list[str]] = ["--appendonly", "no"]

    def configure(self) -> None:
        if self.tls:
            self.cert, self.key = certificate(self.folder)

    def command(self) -> list[str]:
        listen = ["--port", str(self.port)]
        if self.tls:
            listen = ["--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no"]
            listen += ["--tls-cert-file", str(self.cert), "--tls-key-file", str(self.key)]
            listen += ["--tls-ca-cert-file", str(self.cert)]
        if self.unix:
            listen = ["--port", "0", "--unixsocket", str(self.path)]
        limits = ["--client-output-buffer-limit", "pubsub 0 0 0", "--maxclients", "10000"]
        common = ["--bind", "127.0.0.1", "--save", "", "--dir", str(self.folder)]
        return [self.program, *listen, *common, *limits, *self.settings]

    def subscribe(self, connection: socket.socket) -> None:
        connection.sendall(resp(b"SUBSCRIBE", b"room"))
        read_until(connection, b":1\r\n")

    def publication(self, content: bytes) -> bytes:
        return resp(b"PUBLISH", b"room", content)


class RedisUnix(Redis):
    """The same over a unix socket."""

    name = "Redis pub/sub, unix socket"
    unix = True


class RedisTls(Redis):
    """The same over TLS."""

    name = "Redis pub/sub, TLS"
    encrypts = "transport"
    tls = True


class RedisStreams(Redis):
    """A stream, synced before it is acknowledged."""

    name = "Redis Streams, appendfsync always"
    stores, durable = "yes", "before the receipt"
    acknowledgement = b"$"
    settings: ClassVar[list[str]] = [
        *("--appendonly", "yes", "--appendfsync", "always"),
        *("--auto-aof-rewrite-percentage", "0"),
    ]

    def publication(self, content: bytes) -> bytes:
        return resp(b"XADD", b"room", b"*", b"e", content)


# ---- NATS ----


class Nats(Peer):
    """Core publish and subscribe; nothing is kept."""

    name = "NATS core"
    program = "nats-server"
    more: ClassVar[str] = ""

    def configure(self) -> None:
        tls = ""
        if self.tls:
            cert, key = certificate(self.folder)
            tls = f'tls {{ cert_file: "{cert}", key_file: "{key}" }}'
        more = self.more.replace("FOLDER", str(self.folder))
        (self.folder / "nats.conf").write_text(
            f"listen: 127.0.0.1:{self.port}\nmax_pending: 1GB\nping_interval: 1h\n"
            f"write_deadline: 60s\n{tls}\n{more}\n"
        )

    def command(self) -> list[str]:
        return [self.program, "-c", str(self.folder / "nats.conf")]

    def connect(self) -> socket.socket:
        connection = self.raw_socket()
        read_until(connection, b"\r\n")  # INFO comes in clear, also where TLS follows
        connection = encrypted(connection) if self.tls else connection
        connection.sendall(b'CONNECT {"verbose":false,"pedantic":false,"lang":"x"}\r\nPING\r\n')
        read_until(connection, b"PONG\r\n")
        return connection

    def subscribe(self, connection: socket.socket) -> None:
        connection.sendall(b"SUB room 1\r\nPING\r\n")
        read_until(connection, b"PONG\r\n")

    def publication(self, content: bytes) -> bytes:
        return b"PUB room %d\r\n%s\r\n" % (len(content), content)


class NatsTls(Nats):
    """The same over TLS."""

    name = "NATS core, TLS"
    encrypts = "transport"
    tls = True
    weight = 0.5


class JetStream(Nats):
    """A stream in a file, synced before it is acknowledged."""

    name = "JetStream, sync_interval always"
    stores, durable = "yes", "before the receipt"
    acknowledgement = b'"seq"'
    more = 'jetstream { store_dir: "FOLDER/js", sync_interval: always }'
    weight = 0.1

    def make_stream(self) -> None:
        """One stream over one subject."""
        with contextlib.closing(self.connect()) as connection:
            order = b'{"name":"room","subjects":["room"],"storage":"file","num_replicas":1}'
            connection.sendall(
                b"SUB reply 9\r\nPUB $JS.API.STREAM.CREATE.room reply %d\r\n%s\r\n"
                % (len(order), order)
            )
            said = read_until(connection, b"}\r\n")
            if b'"error"' in said:
                raise Missing(f"no stream: {said!r}")

    def await_acknowledgements(self, connection: socket.socket, number: int) -> None:
        connection.sendall(b"SUB acks.%d 1\r\nPING\r\n" % number)
        read_until(connection, b"PONG\r\n")

    def acknowledged(self, content: bytes, number: int) -> bytes:
        return b"PUB room acks.%d %d\r\n%s\r\n" % (number, len(content), content)


# ---- MQTT ----


class Mosquitto(Peer):
    """MQTT, quality of service 0."""

    name = "mosquitto, QoS 0"
    program = "mosquitto"
    version_flag = "-h"
    weight = 0.3

    def configure(self) -> None:
        (self.folder / "mosquitto.conf").write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n"
            "set_tcp_nodelay true\nlog_type none\n"
        )

    def command(self) -> list[str]:
        return [self.program, "-c", str(self.folder / "mosquitto.conf")]

    def connect(self) -> socket.socket:
        connection = super().connect()
        body = b"\0\4MQTT\4\2\0\0" + struct.pack(">H", 0)  # 3.1.1, clean, no keep-alive
        connection.sendall(b"\x10" + bytes([len(body)]) + body)
        read_until(connection, b"\x20\x02\0\0")
        return connection

    def subscribe(self, connection: socket.socket) -> None:
        connection.sendall(b"\x82\x09\0\1\0\4room\0")
        read_until(connection, b"\x90\x03\0\1\0")

    def publication(self, content: bytes) -> bytes:
        body = b"\0\4room" + content
        length, packed = len(body), b""
        while True:
            length, digit = divmod(length, 128)[0], length % 128
            packed += bytes([digit | 0x80 if length else digit])
            if not length:
                return b"\x30" + packed + body


# ---- IRC ----


class Ngircd(Peer):
    """IRC: a line holds 512 bytes of text, so an envelope is Base64 in three lines."""

    name = "ngircd, Base64 in 3 lines"
    program = "ngircd"
    ahead = 16  # it drops a reader for whom it would have to hold more
    weight = 0.2
    _names = itertools.count()

    def configure(self) -> None:
        path = self.folder / "ngircd.conf"
        path.write_text(
            f"[Global]\nName = irc.bench.test\nInfo = bench\nListen = 127.0.0.1\n"
            f"Ports = {self.port}\nMotdPhrase = hello\n"
            "[Limits]\nMaxConnections = 0\nMaxConnectionsIP = 0\nMaxJoins = 0\nPingTimeout = 3600\n"
            "PongTimeout = 3600\nMaxPenaltyTime = 0\nMaxNickLength = 20\n"
            "[Options]\nPAM = no\nDNS = no\nIdent = no\nSyslogFacility = local1\n"
        )
        path.chmod(0o644)

    def command(self) -> list[str]:
        return [self.program, "-n", "-f", str(self.folder / "ngircd.conf")]

    def connect(self) -> socket.socket:
        connection = super().connect()
        name = b"m%06dx%04d" % (os.getpid() % 1_000_000, next(self._names))
        connection.sendall(b"NICK %s\r\nUSER %s 0 * :m\r\n" % (name, name))
        read_until(connection, b" 376 ")
        return connection

    def subscribe(self, connection: socket.socket) -> None:
        connection.sendall(b"JOIN #room\r\n")
        read_until(connection, b" 366 ")

    def publication(self, content: bytes) -> bytes:
        text = base64.b64encode(content)
        third = -(-len(text) // 3)
        lines = (text[at : at + third] for at in range(0, len(text), third))
        return b"".join(b"PRIVMSG #room :%s\r\n" % line for line in lines)


# ---- XMPP ----


class Prosody(Peer):
    """A multi-user chat without an archive; an envelope is Base64 in a message's body."""

    name = "Prosody MUC, Base64"
    program = "prosody"
    ahead = 64
    weight = 0.02
    _names = itertools.count()

    @classmethod
    def version(cls) -> str:
        """It has no flag that says so."""
        if shutil.which(cls.program) is None:
            raise Missing(f"{cls.program} is not installed")
        asked = ["dpkg-query", "-W", "-f", "${Version}", "prosody"]
        if shutil.which("dpkg-query") is None:
            return "?"
        return subprocess.run(asked, capture_output=True, text=True, check=False).stdout or "?"

    def configure(self) -> None:
        (self.folder / "data").mkdir()
        (self.folder / "prosody.cfg.lua").write_text(
            f'run_as_root = true\ndaemonize = false\ndata_path = "{self.folder}/data"\n'
            f'pidfile = "{self.folder}/prosody.pid"\nlog = {{ warn = "{self.folder}/warnings" }}\n'
            'modules_enabled = { "saslauth" }\nmodules_disabled = { "s2s", "offline", "limits" }\n'
            f"c2s_ports = {{ {self.port} }}\nc2s_interfaces = {{ '127.0.0.1' }}\n"
            "c2s_direct_tls_ports = {}\nlegacy_ssl_ports = {}\n"
            "c2s_require_encryption = false\nallow_unencrypted_plain_auth = true\n"
            'storage = "memory"\nVirtualHost "bench"\n    authentication = "anonymous"\n'
            'Component "rooms.bench" "muc"\n    muc_room_locking = false\n'
            "    max_history_messages = 0\n    muc_room_default_history_length = 0\n"
        )

    def command(self) -> list[str]:
        return [self.program, "--config", str(self.folder / "prosody.cfg.lua"), "-F"]

    def connect(self) -> socket.socket:
        connection = super().connect()
        opening = b"<stream:stream to='bench' version='1.0' xmlns='jabber:client'"
        opening += b" xmlns:stream='http://etherx.jabber.org/streams'>"
        connection.sendall(opening)
        read_until(connection, b"</stream:features>")
        connection.sendall(
            b"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='ANONYMOUS'/>"
        )
        read_until(connection, b"<success")
        connection.sendall(opening)
        read_until(connection, b"</stream:features>")
        connection.sendall(
            b"<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>"
        )
        read_until(connection, b"</iq>")
        return connection

    def subscribe(self, connection: socket.socket) -> None:
        connection.sendall(
            b"<presence to='room@rooms.bench/m%06dx%04d'><x xmlns='http://jabber.org/protocol/muc'/>"
            b"</presence>" % (os.getpid() % 1_000_000, next(self._names))
        )
        read_until(connection, b"<subject")

    def publication(self, content: bytes) -> bytes:
        return (
            b"<message to='room@rooms.bench' type='groupchat'><body>%s</body></message>"
            % base64.b64encode(content)
        )
