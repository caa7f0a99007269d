"""For each file of deploy/helm/respgate/ci: the servers that it names, and what the cluster has for it."""

import ssl

import chart
from servers import Certificates, free_port

CI = chart.CHART / "ci"


class Scenario:
    """The real addresses in place of those of a values file, and the servers there, which `start` starts."""

    def __init__(self, name, folder, servers):
        self.name = name
        self.servers = servers
        self.folder = folder
        self.primary = free_port()
        self.sentinels = [free_port() for _ in range(3)]
        self.listener, self.admin = free_port(), free_port()
        self.certificates = Certificates(folder / "certificates")
        self.password = None
        self.objects = []
        self.tls = None
        self.changes = {
            f"s{number}.example:26379": f"127.0.0.1:{port}" for number, port in enumerate(self.sentinels, 1)
        }
        self.changes |= {"db.example:6379": f"localhost:{self.primary}", "0.0.0.0:6379": f"0.0.0.0:{self.listener}"}
        prepare = getattr(self, "prepare_" + name.replace("-", "_"), None)
        self.start = self.start_sentinels
        if prepare:
            prepare()

    def values(self):
        """The values file with the real addresses."""
        text = (CI / f"{self.name}-values.yaml").read_text()
        for example, real in self.changes.items():
            text = text.replace(example, real)
        path = self.folder / "values.yaml"
        path.write_text(text)
        return path

    def documents(self):
        ports = {"listener__port": self.listener, "admin__port": self.admin}
        return chart.template(self.values(), **ports, drain__delaySeconds=2)

    def config_map(self, name, **data):
        self.objects.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})

    def secret(self, name, **data):
        self.objects.append({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data})

    def start_sentinels(self):
        self.servers.server(self.primary)
        self.servers.sentinels(self.sentinels, self.primary)

    def start_server(self):
        self.servers.server(self.primary)

    def start_with_passwords(self):
        self.servers.server(self.primary, "requirepass hunter2")
        self.servers.sentinels(
            self.sentinels, self.primary, "sentinel auth-pass mymaster hunter2", "requirepass hunter3")

    def start_with_tls(self):
        path = self.certificates.path
        self.servers.start("server", [
            "port 0", f"tls-port {self.primary}", "bind 127.0.0.1", 'save ""', "tls-auth-clients yes",
            f"tls-cert-file {path('server.crt')}", f"tls-key-file {path('server.key')}",
            f"tls-ca-cert-file {path('ca.crt')}", "user default off", "user app on >hunter2 ~* &* +@all",
        ], self.primary)

    def server_context(self):
        """TLS to the server, with the client certificate."""
        path = self.certificates.path
        context = ssl.create_default_context(cafile=path("ca.crt"))
        context.load_cert_chain(path("client.crt"), path("client.key"))
        return context

    def prepare_gateway_configmap(self):
        host = ",".join(f"127.0.0.1:{port}" for port in self.sentinels[:2]) + ",127.0.0.1"
        port = str(self.sentinels[2])
        self.config_map("valkey-sentinel", REDIS_SENTINEL_HOST=host, REDIS_SENTINEL_PORT=port)

    def prepare_gateway_url(self):
        self.secret("app", REDIS_URL=f"redis://:hunter2@127.0.0.1:{self.primary}/0")
        self.start = lambda: self.servers.server(self.primary, "requirepass hunter2")

    def prepare_gateway_tls(self):
        service = "r-respgate"
        names = [f"{service}{end}" for end in ("", ".default", ".default.svc", ".default.svc.cluster.local")]
        self.secret(f"{service}-listener-tls", **self.certificates.sign("listener", "localhost", *names))
        self.tls = ssl.create_default_context(cafile=self.certificates.path("ca.crt"))
        self.start = self.start_server

    def prepare_bridge(self):
        self.certificates.sign("server", "localhost")
        self.config_map("provider-ca", **{"ca.crt": self.certificates.path("ca.crt").read_text()})
        self.secret("r-respgate-upstream", password="hunter2\n")
        self.secret("r-respgate-client-tls", **self.certificates.sign("client", "app"))
        self.start = self.start_with_tls

    def prepare_sidecar_password(self):
        host = ",".join(f"127.0.0.1:{port}" for port in self.sentinels)
        self.config_map("valkey-sentinel", REDIS_SENTINEL_HOST=host)
        self.secret("valkey", **{"password": "hunter2", "sentinel-password": "hunter3"})
        self.start = self.start_with_passwords


def names():
    return sorted(path.name.removesuffix("-values.yaml") for path in CI.glob("*-values.yaml"))
