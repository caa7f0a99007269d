"""Thousands of clients that said one thing and then stay: what each costs a proxy, and the server."""

import socket
import ssl
import time
from dataclasses import dataclass

from .fleet import SetupError, raise_nofile
from .kernel import resident_bytes
from .variants import Variant

ASK = b"*1\r\n$4\r\nPING\r\n*2\r\n$3\r\nGET\r\n$7\r\nmissing\r\n"
ANSWER = b"+PONG\r\n$-1\r\n"
REPLY_SECONDS = 10
SETTLE_SECONDS = 5
SPARE_FILES = 200


@dataclass
class Idle:
    """`shared` are the server's connections from the proxy that carried the clients' commands; `others` the
    rest of the proxy's, such as a probe's."""

    clients: int
    bytes_before: int
    bytes_after: int
    shared: int
    others: int

    @property
    def bytes_per_client(self) -> float:
        return (self.bytes_after - self.bytes_before) / self.clients


def allow_files(clients: int) -> None:
    """Raises the limit of open files; to be called before the children start, which inherit it."""
    raise_nofile(2 * clients + SPARE_FILES)  # a proxy without sharing holds two sockets per client


def measure(variant: Variant, server_port: int, clients: int, tls: ssl.SSLContext | None = None) -> Idle:
    """Connects `clients`, has each ask PING and GET once, and reads the proxy's memory before and after. With `tls`,
    they speak it.

    The proxy should have served nobody before, or memory it kept from then hides what the clients cost.
    """
    with socket.create_connection(("127.0.0.1", server_port), timeout=REPLY_SECONDS) as control:
        _ask_once(variant.port, tls).close()  # code pages and first buffers are not the clients'
        before = _settled(variant.proxy.pid)
        open_sockets = []
        try:
            for _ in range(clients):
                open_sockets.append(_ask_once(variant.port, tls))
            after = _settled(variant.proxy.pid)
            shared, others = _connections(control)
        finally:
            for client in open_sockets:
                client.close()
    return Idle(clients, before, after, shared, others)


def _ask_once(port: int, tls: ssl.SSLContext | None) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), timeout=REPLY_SECONDS)
    if tls:
        client = tls.wrap_socket(client, server_hostname="localhost")
    client.sendall(ASK)
    answer = b""
    while len(answer) < len(ANSWER):
        piece = client.recv(4096)
        if not piece:
            break
        answer += piece
    if answer != ANSWER:
        client.close()
        raise SetupError(f"port {port} answered PING and GET of a missing key with {answer!r}")
    return client


def _settled(pid: int) -> int:
    """The resident memory once it has not moved for half a second, or after 5 s whatever it is then."""
    deadline = time.monotonic() + SETTLE_SECONDS
    last, since = resident_bytes(pid), time.monotonic()
    while time.monotonic() < deadline and time.monotonic() - since < 0.5:
        time.sleep(0.05)
        now = resident_bytes(pid)
        if now != last:
            last, since = now, time.monotonic()
    return last


def _connections(control: socket.socket) -> tuple[int, int]:
    """The server's clients other than `control`: those whose last command was the idle clients', and the rest."""
    control.sendall(b"*2\r\n$6\r\nCLIENT\r\n$4\r\nLIST\r\n")
    reader = control.makefile("rb")
    length = int(reader.readline().removeprefix(b"$"))
    lines = reader.read(length + 2).decode().splitlines()
    commands = [field.removeprefix("cmd=") for line in lines for field in line.split() if field.startswith("cmd=")]
    shared = sum(command in ("get", "ping") for command in commands)
    return shared, len(commands) - shared - commands.count("client|list")
