"""The interactive prompt of a command-line client, on a real pseudo-terminal. Arguments: PROGRAM HOST PORT."""

import os
import pty
import re
import select
import signal
import sys
import time

HOST, PORT = sys.argv[-2:]
DATABASE = "0" if "ONE_DATABASE" in os.environ else "3"
PROGRAM = sys.argv[-3]
# Colours, cursor movements and the hints that are drawn while typing.
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07|\r|Reading messages\.\.\.[^)]*\)\n?")


class Terminal:
    def __init__(self, *arguments):
        self.pid, self.file = pty.fork()
        if self.pid == 0:
            # A dumb terminal gets a plain prompt; no history file, no help looked up from the server.
            os.environ.update(TERM="dumb", REDISCLI_HISTFILE="/dev/null", VALKEYCLI_HISTFILE="/dev/null")
            os.execvp(PROGRAM, [PROGRAM, "-h", HOST, "-p", PORT, *arguments])
        self.buffer = ""

    def until(self, pattern):
        """Everything up to and including the pattern."""
        deadline = time.monotonic() + 30
        while not (found := re.search(pattern, self.buffer)):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.file], [], [], left)[0]:
                sys.exit(f"{PROGRAM}: {pattern!r} did not come; got {self.buffer!r}")
            try:
                chunk = os.read(self.file, 65536)
            except OSError:
                chunk = b""
            if not chunk:
                sys.exit(f"{PROGRAM} ended before {pattern!r}; got {self.buffer!r}")
            self.buffer = ESCAPES.sub("", self.buffer + chunk.decode())
        text, self.buffer = self.buffer[: found.end()], self.buffer[found.end() :]
        return text

    def type(self, line):
        os.write(self.file, line.encode() + b"\n")

    def prompt(self):
        text = self.until(r"(127\.0\.0\.1:\d+|not connected)(\[\d+\])?(\(TX\))?(\(subscribed mode\))?> ")
        return text.replace(PORT, "PORT")

    def run(self, line):
        self.type(line)
        print(self.prompt(), flush=True)

    def until_it_waits(self):
        """Until the program sleeps. A signal that comes before `select` would make it select a closed socket and abort."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with open(f"/proc/{self.pid}/stat") as file:
                # The state is the first word after the name, which is in parentheses.
                if file.read().rpartition(")")[2].split()[0] == "S":
                    return
            time.sleep(0.001)
        sys.exit(f"{PROGRAM} did not wait for messages")

    def end(self):
        self.type("QUIT")
        _, status = os.waitpid(self.pid, 0)
        print("exit", os.waitstatus_to_exitcode(status))


def session(*arguments):
    print("---", *arguments, flush=True)
    terminal = Terminal(*arguments)
    print(terminal.prompt())
    for line in [
        "SET greeting 'hello world'",
        "GET greeting",
        "HSET h a 1 b 2",
        "HGETALL h",
        "LPUSH greeting x",
        "MULTI",
        "INCR n",
        "GET n",
        "EXEC",
        "MULTI",
        "DISCARD",
        f"SELECT {DATABASE}",
        "GET greeting",
        "SELECT 0",
        "BLPOP empty 0.1",
        "WATCH n",
        "UNWATCH",
        "CLIENT SETNAME me",
        "CLIENT GETNAME",
        "HELLO 3 SETNAME other",
        "CLIENT GETNAME",
        "3 INCR counter",
        "NOSUCH",
    ]:
        if line.startswith("HELLO"):
            # Its reply names the server's version and the connection's number.
            terminal.type(line)
            terminal.prompt()
        else:
            terminal.run(line)
    terminal.end()


def subscriber():
    """Ctrl-C leaves the subscription and gives the prompt back."""
    print("--- subscriber", flush=True)
    terminal = Terminal()
    terminal.prompt()
    terminal.type("SUBSCRIBE news")
    print(terminal.until(r"integer\) 1"), flush=True)
    other = Terminal()
    other.prompt()
    other.run("PUBLISH news hello")
    other.end()
    print(terminal.until(r'"hello"'), flush=True)
    terminal.until_it_waits()
    os.kill(terminal.pid, signal.SIGINT)
    terminal.until("> ")
    terminal.run("PING")
    terminal.end()


session()
session("-3")
subscriber()
