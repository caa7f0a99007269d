"""Runs respgate's container of a rendered pod as a process: with the variables, files and ports that Kubernetes would give.

Mounts are folders below a folder of the test, made as Kubernetes makes them: files are links into `..data`, which is a
link to the folder of the newest version. Paths in variables and in the configuration are changed accordingly.

Run by root, the process has the user and groups of the container, and files have the owner and mode of the volume."""

import atexit
import functools
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import tomllib
import urllib.error
import urllib.request

import chart
from servers import stop, until

BINARY = os.path.abspath(os.environ.get("RESPGATE_BIN") or chart.ROOT / "target/debug/respgate")


@functools.cache
def program():
    """The program under test, at a path that every user can reach."""
    if not pathlib.Path(BINARY).exists():
        raise SystemExit(f"{BINARY} is missing. Build it with: cargo build --locked")
    if os.geteuid() != 0:
        return BINARY
    folder = pathlib.Path(tempfile.mkdtemp(prefix="respgate-program-"))
    atexit.register(shutil.rmtree, folder)
    folder.chmod(0o755)
    return shutil.copy(BINARY, folder / "respgate")


class Container:
    """respgate's container of one pod. `documents` hold the ConfigMaps and Secrets that it uses."""

    def __init__(self, folder, documents, pod):
        self.folder = folder
        self.folder.mkdir()
        self.folder.parent.chmod(0o711)
        self.group = pod.get("securityContext", {}).get("fsGroup", 0)
        self.documents = {(it["kind"], it["metadata"]["name"]): it for it in documents}
        self.spec = chart.respgate(pod)
        self.volumes = {it["name"]: it for it in pod.get("volumes", [])}
        self.mounts = {it["mountPath"]: it["name"] for it in self.spec.get("volumeMounts", [])}
        self.versions = 0
        self.process = None
        for path, volume in self.mounts.items():
            self.root(path).mkdir(parents=True, exist_ok=True)
            self.mount(path, self.volumes[volume])

    def root(self, path):
        return self.folder / path.lstrip("/")

    def changed(self, text):
        """A text with the paths of mounts as they are here."""
        pattern = "|".join(re.escape(path) for path in sorted(self.mounts, key=len, reverse=True))
        return re.sub(f"({pattern})(?=[/\"]|$)", lambda found: str(self.root(found.group(1))), text)

    def files(self, volume):
        """The files of a ConfigMap or Secret, by name."""
        source = volume.get("configMap") or volume.get("secret")
        if source is None:
            return None
        kind = "ConfigMap" if "configMap" in volume else "Secret"
        document = self.documents[kind, source.get("name") or source.get("secretName")]
        data = {**document.get("data", {}), **document.get("stringData", {})}
        items = source.get("items") or [{"key": key, "path": key} for key in data]
        return {it["path"]: self.changed(data[it["key"]]) for it in items}

    def mount(self, path, volume):
        files = self.files(volume)
        folder = self.root(path)
        if files is None:
            folder.chmod(0o777)
            return
        self.versions += 1
        version = folder / f"..version_{self.versions}"
        version.mkdir()
        source = volume.get("configMap") or volume.get("secret")
        for name, text in files.items():
            (version / name).write_text(text)
            (version / name).chmod(source.get("defaultMode", 0o644))
            if os.geteuid() == 0:
                os.chown(version / name, 0, self.group)
            if not (folder / name).is_symlink():
                (folder / name).symlink_to(f"..data/{name}")
        (folder / "..data_tmp").symlink_to(version.name)
        (folder / "..data_tmp").rename(folder / "..data")

    def update(self, kind, name, **data):
        """Changes a ConfigMap or Secret, and its files as the kubelet does."""
        document = self.documents[kind, name]
        document.setdefault("stringData" if kind == "Secret" else "data", {}).update(data)
        for path, mounted in self.mounts.items():
            volume = self.volumes[mounted]
            source = volume.get("configMap") or volume.get("secret") or {}
            if name in (source.get("name"), source.get("secretName")):
                self.mount(path, volume)

    def environment(self):
        values = {}
        for variable in self.spec.get("env", []):
            if "value" in variable:
                # Kubernetes puts in variables that stand before this one; others stay as they are written.
                known = lambda found: values.get(found.group(1), found.group(0))
                value = re.sub(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)", known, variable["value"])
            else:
                of = variable["valueFrom"]
                kind, reference = ("ConfigMap", of["configMapKeyRef"]) if "configMapKeyRef" in of else (
                    "Secret", of["secretKeyRef"])
                document = self.documents[kind, reference["name"]]
                value = {**document.get("data", {}), **document.get("stringData", {})}[reference["key"]]
            values[variable["name"]] = self.changed(value)
        return values

    def configuration(self):
        """respgate.toml as a table."""
        return tomllib.loads(self.root("/etc/respgate/respgate.toml").read_text())

    def identity(self):
        """The user and the groups of the container's processes."""
        if os.geteuid() != 0:
            return {}
        of = self.spec["securityContext"]
        return {"user": of["runAsUser"], "group": of["runAsGroup"], "extra_groups": [self.group] if self.group else []}

    def run(self, *arguments):
        """Runs another command in the container, as `kubectl exec` does."""
        return subprocess.run([program(), *arguments], env=self.environment(), cwd="/", capture_output=True, text=True,
                              timeout=60, **self.identity())

    def start(self):
        self.log = self.folder / "log"
        arguments = [program(), *self.spec.get("args", [])]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(arguments, env=self.environment(), cwd="/", stdout=log, stderr=log,
                                            stdin=subprocess.DEVNULL, **self.identity())

    def port(self, name):
        return next(it["containerPort"] for it in self.spec["ports"] if it["name"] == name)

    def http(self, path):
        """The status and the text of a page of the admin listener; (0, "") if nothing answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port('admin')}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            assert self.process.poll() is None, f"respgate ended:\n{self.log.read_text()}"
            return 0, ""

    def probe(self, name):
        """Returns true if the rendered probe passes."""
        probe = self.spec[name]["httpGet"]
        assert probe["port"] == "admin"
        return 200 <= self.http(probe["path"])[0] < 400

    def has(self, name):
        return name in self.spec

    def wait_for(self, name, patience=30):
        try:
            until(f"{name} to pass", lambda: self.probe(name), patience)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.http('/readyz')[1]}\n{self.log.read_text()}") from None

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def exit_code(self, patience=30):
        return self.process.wait(patience)

    def stop(self):
        if self.process:
            stop(self.process)
