"""redis-py with a credential provider whose token is rotated twice: between commands, and while commands run."""

import os
import threading
import time

import redis
from redis.credentials import CredentialProvider

from transcript import HOST, PORT, TLS, say

SECONDS = 15
STEPS = 8


class Tokens(CredentialProvider):
    """Returns the current token of the server's user `app`, and counts how often it was fetched."""

    admin = redis.Redis(host=HOST, port=int(os.environ["SERVER_PORT"]))
    issued = 1

    def __init__(self):
        self.fetched = 0

    def get_credentials(self):
        self.fetched += 1
        return "app", f"token-{Tokens.issued}"

    def rotate(self):
        self.admin.execute_command("ACL", "SETUSER", "app", "resetpass", f">token-{Tokens.issued + 1}")
        Tokens.issued += 1
        self.admin.execute_command("CLIENT", "KILL", "USER", "app")


class Worker:
    """Runs one kind of command on a client of its own, and collects the errors."""

    def __init__(self, name, command):
        self.name = name
        self.tokens = Tokens()
        client = redis.Redis(host=HOST, port=PORT, credential_provider=self.tokens, **TLS)
        self.command = command(client)
        self.done = 0
        self.errors = []

    def step(self):
        try:
            self.command()
            self.done += 1
        except redis.RedisError as error:
            self.errors.append(error)

    def steps(self):
        """Runs the command until it has succeeded STEPS times."""
        wanted, until = self.done + STEPS, time.monotonic() + SECONDS
        while self.done < wanted:
            assert time.monotonic() < until, f"{self.name}: no recovery: {self.errors[-3:]}"
            self.step()

    def report(self, rotation):
        for error in self.errors:
            print("error", self.name, rotation, type(error).__name__, error)
        print("failed", self.name, rotation, len(self.errors), flush=True)
        self.errors.clear()
        assert self.tokens.fetched >= 2, f"{self.name}: the new token was not fetched"
        self.tokens.fetched = 1


def script(client):
    registered = client.register_script("return redis.call('INCR', KEYS[1])")
    return lambda: registered(keys=["scripted"])


KINDS = {
    "read": lambda client: lambda: client.get("k"),
    "write": lambda client: lambda: client.incr("n"),
    "script": script,
    "pop": lambda client: lambda: client.blpop("none", 0.01),
}

for name, command in KINDS.items():
    worker = Worker(name, command)
    worker.steps()
    say("served", [name, len(worker.errors)])
    worker.tokens.rotate()
    worker.steps()
    worker.report("idle")

    stop = threading.Event()

    def run():
        while not stop.is_set():
            worker.step()

    def wait_for_progress():
        wanted, until = worker.done + STEPS, time.monotonic() + SECONDS
        while worker.done < wanted:
            assert time.monotonic() < until, f"{name}: no recovery: {worker.errors[-3:]}"
            time.sleep(0.005)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    wait_for_progress()
    worker.tokens.rotate()
    wait_for_progress()
    stop.set()
    thread.join()
    worker.report("busy")
