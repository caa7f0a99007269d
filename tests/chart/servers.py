"""Real servers and Sentinels, and certificates, in a folder of a test."""

import socket
import subprocess
import time

PATIENCE = 30


def until(what, condition, patience=PATIENCE):
    """Polls until the condition is true, and returns what it gave."""
    deadline = time.monotonic() + patience
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {patience} s for {what}")
        time.sleep(0.05)


_sockets = []


def free_port():
    """A port that no other call gets; below the range of outgoing connections."""
    for port in range(12000 + (id(_sockets) // 4096) % 15000, 32000):
        if port in _sockets:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _sockets.append(port)
        return port
    raise AssertionError("no free port")


def stop(process, patience=PATIENCE):
    """Ends a process that the test started."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Servers:
    """Starts servers of one test, and ends them with `stop`."""

    def __init__(self, folder):
        self.folder = folder
        self.processes = []

    def start(self, name, lines, port, program="valkey-server"):
        """A server or Sentinel with this configuration."""
        home = self.folder / name
        home.mkdir()
        path = home / "server.conf"
        path.write_text("\n".join([*lines, f"dir {home}", ""]))
        with open(home / "log", "wb") as log:
            self.processes.append(
                subprocess.Popen([program, str(path)], stdout=log, stderr=log, stdin=subprocess.DEVNULL))
        until(f"{name} to listen", lambda: accepts(port))

    def server(self, port, *lines):
        self.start("server", [f"port {port}", "bind 127.0.0.1", 'save ""', *lines], port)

    def sentinels(self, ports, primary, *lines):
        for number, port in enumerate(ports):
            monitor = [f"sentinel monitor mymaster 127.0.0.1 {primary} {len(ports) // 2 + 1}"]
            common = [f"port {port}", "bind 127.0.0.1", *monitor, *lines]
            self.start(f"sentinel-{number}", common, port, program="valkey-sentinel")

    def stop(self):
        for process in self.processes:
            process.kill()
            process.wait()


def accepts(port):
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Certificates:
    """An authority, and certificates that it signs."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        self.authority("ca")

    def run(self, *arguments):
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True)

    def authority(self, name):
        self.run("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
                 "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.crt")

    def sign(self, name, common_name, *names, days=20):
        """Returns the files of a Secret of type kubernetes.io/tls: tls.crt, tls.key and ca.crt."""
        alternative = "subjectAltName=" + ",".join(["DNS:" + common_name, *("DNS:" + it for it in names)])
        (self.folder / f"{name}.ext").write_text(alternative + "\n")
        self.run("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj",
                 f"/CN={common_name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        self.run("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
                 "-days", str(days), "-extfile", f"{name}.ext", "-out", f"{name}.crt")
        files = {"tls.crt": f"{name}.crt", "tls.key": f"{name}.key", "ca.crt": "ca.crt"}
        return {key: (self.folder / file).read_text() for key, file in files.items()}

    def path(self, file):
        return self.folder / file


class Client:
    """A client that knows as much RESP as the tests need."""

    def __init__(self, port, context=None, host="127.0.0.1"):
        self.socket = socket.create_connection((host, port), timeout=PATIENCE)
        if context:
            self.socket = context.wrap_socket(self.socket, server_hostname="localhost")
        self.file = self.socket.makefile("rb")

    def send(self, *words):
        parts = [f"*{len(words)}\r\n".encode()]
        for word in words:
            parts.append(f"${len(word.encode())}\r\n{word}\r\n".encode())
        self.socket.sendall(b"".join(parts))

    def reply(self):
        line = self.file.readline().rstrip(b"\r\n").decode()
        kind, rest = line[:1], line[1:]
        if kind == "*":
            return [self.reply() for _ in range(int(rest))] if int(rest) >= 0 else None
        if kind == "$":
            return self.file.read(int(rest) + 2)[:-2].decode() if int(rest) >= 0 else None
        return line

    def call(self, *words):
        self.send(*words)
        return self.reply()

    def close(self):
        self.file.close()
        self.socket.close()
