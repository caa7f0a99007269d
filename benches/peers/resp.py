"""A client that asks a server one question at a time."""

import socket

TIMEOUT_SECONDS = 10


class Refused(Exception):
    """The server answered with an error. The text is the server's."""


class Client:
    """One connection to a port of loopback."""

    def __init__(self, port: int):
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = self._socket.makefile("rb")
        # The bytes of all replies so far.
        self.received = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._reader.close()
        self._socket.close()

    def ask(self, *words):
        """Sends a command. Returns its reply: text, a number, a list or None. Raises Refused for an error."""
        encoded = [str(word).encode() for word in words]
        parts = [b"*%d\r\n" % len(encoded), *(b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded)]
        self._socket.sendall(b"".join(parts))
        return self._reply()

    def _reply(self):
        line = self._reader.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("the server closed the connection")
        self.received += len(line)
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            raise Refused(rest.decode())
        if kind == b"+":
            return rest.decode()
        if kind == b":":
            return int(rest)
        count = int(rest)
        if count < 0:
            return None
        if kind == b"*":
            return [self._reply() for _ in range(count)]
        text = self._reader.read(count + 2)
        self.received += len(text)
        return text[:-2].decode(errors="replace")


def ask(port: int, *words):
    """Sends one command on a connection of its own. Returns its reply."""
    with Client(port) as client:
        return client.ask(*words)
