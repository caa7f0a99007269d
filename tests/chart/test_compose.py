"""deploy/compose.yaml and deploy/Dockerfile: each service's command runs as a process, with an address of its own in place
of its name, and with other ports."""

import json
import os
import pathlib
import re
import subprocess
import tempfile
import unittest

import yaml

import chart
from pod import BINARY
from servers import Client, free_port, stop, until

FILE = chart.ROOT / "deploy/compose.yaml"
DOCKERFILE = chart.ROOT / "deploy/Dockerfile"


def instruction(name):
    """The last instruction of a kind in the Dockerfile, on one line."""
    text = DOCKERFILE.read_text().replace("\\\n", " ")
    return [line.split(" ", 1)[1] for line in text.splitlines() if line.startswith(f"{name} ")][-1]


class Service:
    """One service as a process."""

    def __init__(self, name, about, project):
        self.name, self.about, self.project = name, about, project
        self.process = None
        self.log = project.folder / f"{name}.log"

    def command(self, words):
        """A command of the file, as the container would run it."""
        words = [self.project.changed(word).replace("$$", "$") for word in words]
        words = [word.replace("0.0.0.0", self.project.addresses[self.name]) for word in words]
        words = [word.replace("/tmp/", f"{self.project.folder}/{self.name}-") for word in words]
        if words[0] == "valkey-server":
            words += ["--bind", self.project.addresses[self.name], "--dir", str(self.project.folder)]
        elif words[0] == "sh":
            words[2] = words[2].replace("\nsentinel monitor", f"\nbind {self.project.addresses[self.name]}\nsentinel monitor")
        elif words[0].startswith("--"):
            words = [BINARY, *words]
        return words

    def environment(self):
        given = {name: self.project.changed(value) for name, value in self.about.get("environment", {}).items()}
        if "build" in self.about:
            name, value = instruction("ENV").split("=")
            given[name] = self.project.changed(value).replace("0.0.0.0", self.project.addresses[self.name])
        return {"PATH": os.environ["PATH"], **given}

    def start(self):
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(self.command(self.about["command"]), env=self.environment(),
                                            stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def healthy(self):
        """Runs the health check of the service, or that of its image."""
        check = self.about["healthcheck"].get("test")
        if check is None:
            check = ["CMD", *json.loads(instruction("HEALTHCHECK").split(" CMD ")[1])]
        assert check[0] == "CMD", check
        words = [BINARY if word == "/usr/local/bin/respgate" else self.project.changed(word) for word in check[1:]]
        return subprocess.run(words, env=self.environment(), capture_output=True, timeout=30).returncode == 0


class Project:
    """All services of the file."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        services = yaml.safe_load(FILE.read_text())["services"]
        self.addresses = {name: f"127.1.{os.getpid() % 250}.{number}" for number, name in enumerate(services, 1)}
        self.ports = {"6379": free_port(), "26379": free_port(), "9121": free_port()}
        self.services = {name: Service(name, about, self) for name, about in services.items()}
        self.started = []

    def changed(self, text):
        for port, real in self.ports.items():
            text = re.sub(rf"\b{port}\b", str(real), text)
        for name, address in self.addresses.items():
            text = re.sub(rf"(?<![\w/.-]){name}(?![\w.-]*\.conf)(?![\w-])|(?<=//){name}(?=:)", address, text)
        return text

    def up(self, name):
        """Starts a service after those that it depends on."""
        if name in self.started:
            return
        needed = self.services[name].about.get("depends_on", [])
        conditions = needed if isinstance(needed, dict) else {it: {} for it in needed}
        for other, condition in conditions.items():
            self.up(other)
            if condition.get("condition") == "service_healthy":
                until(f"{other} to be healthy", self.services[other].healthy)
        self.services[name].start()
        self.started.append(name)

    def down(self):
        for name in reversed(self.started):
            stop(self.services[name].process)


class Compose(unittest.TestCase):
    def test_the_application_counts_on_in_a_failover(self):
        with tempfile.TemporaryDirectory(prefix="respgate-compose-") as folder:
            project = Project(folder)
            try:
                for name in project.services:
                    project.up(name)
                self.counts_on(project)
            finally:
                project.down()

    def counts_on(self, project):
        log = project.services["app"].log
        numbers = lambda: [int(line) for line in log.read_text().split()]
        until("the application to count", lambda: numbers()[-1:] > [2])
        sentinel = Sentinel(project)
        until("the Sentinels and the replica to be complete", sentinel.complete)
        self.assertEqual(sentinel.call("SENTINEL", "FAILOVER", "mymaster"), "+OK")
        until("the failover", lambda: sentinel.primary() == project.addresses["valkey-2"])
        seen = len(numbers())
        until("the application to count on", lambda: len(numbers()) > seen + 4)
        lines = log.read_text().split()
        self.assertEqual([int(it) for it in lines], list(range(1, len(lines) + 1)), "nothing was lost or counted twice")
        status = subprocess.run([BINARY, "status"], env=project.services["respgate"].environment(),
                                capture_output=True, text=True, timeout=30)
        self.assertIn(f"primary {project.addresses['valkey-2']}", status.stdout)


class Sentinel:
    """Asks the first Sentinel."""

    def __init__(self, project):
        self.client = Client(project.ports["26379"], host=project.addresses["sentinel-1"])

    def call(self, *words):
        return self.client.call(*words)

    def primary(self):
        return self.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster")[0]

    def complete(self):
        """Returns true if the Sentinels know each other, and the replica has all data."""
        about = table(self.call("SENTINEL", "MASTER", "mymaster"))
        replicas = [table(it) for it in self.call("SENTINEL", "REPLICAS", "mymaster")]
        in_sync = [it["master-link-status"] for it in replicas] == ["ok"]
        return about["num-other-sentinels"] == "2" and in_sync


def table(fields):
    return dict(zip(fields[::2], fields[1::2]))


class Dockerfile(unittest.TestCase):
    def test_the_image_has_no_rights(self):
        self.assertEqual(instruction("USER"), "65532:65532")
        self.assertEqual(instruction("STOPSIGNAL"), "SIGTERM")
        respgate = yaml.safe_load(FILE.read_text())["services"]["respgate"]
        self.assertEqual((respgate["read_only"], respgate["cap_drop"]), (True, ["ALL"]))

    def test_what_is_named_exists(self):
        respgate = yaml.safe_load(FILE.read_text())["services"]["respgate"]
        build = respgate["build"]
        self.assertEqual((FILE.parent / build["context"] / build["dockerfile"]).resolve(), DOCKERFILE)
        self.assertIn(f"/{instruction('ENTRYPOINT').strip('[]').strip(chr(34)).lstrip('/')}",
                      DOCKERFILE.read_text().split("COPY --from=build", 1)[1])
        version = re.search(r'^version = "(.*)"', (chart.ROOT / "Cargo.toml").read_text(), re.M).group(1)
        self.assertEqual(respgate["image"], f"respgate:{version}")
        about = yaml.safe_load((chart.CHART / "Chart.yaml").read_text())
        self.assertEqual(about["appVersion"], version)


if __name__ == "__main__":
    unittest.main()
