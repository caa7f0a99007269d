"""The real respgate runs with each rendered configuration, and each rendered probe says what it must."""

import contextlib
import pathlib
import re
import shutil
import tempfile
import unittest

import chart
import scenarios
from pod import Container
from servers import Certificates, Client, Servers, until


@contextlib.contextmanager
def scenario(name):
    """A scenario whose servers do not run yet, and the documents that its values render."""
    with tempfile.TemporaryDirectory(prefix="respgate-chart-") as folder:
        folder = pathlib.Path(folder)
        servers = Servers(folder)
        try:
            it = scenarios.Scenario(name, folder, servers)
            yield it, it.documents()
        finally:
            servers.stop()


@contextlib.contextmanager
def running(it, documents, pod):
    """respgate's container of this pod."""
    folder = it.folder / "container"
    container = Container(folder, [*documents, *it.objects], pod)
    try:
        container.start()
        yield container
    finally:
        container.stop()
        shutil.rmtree(folder)


class Probes(unittest.TestCase):
    def check(self, name):
        with scenario(name) as (it, documents):
            pods = [(of, pod) for of, pod in chart.pods(documents) if chart.respgate(pod)]
            self.assertTrue(pods)
            # Without a primary: alive, and not started.
            with running(it, documents, pods[0][1]) as container:
                container.wait_for("livenessProbe")
                self.assertFalse(container.probe("startupProbe"))
                self.assertEqual(container.http("/readyz")[0], 503)
                it.start()
                container.wait_for("startupProbe")
                self.assertTrue(container.probe("livenessProbe"))
                container.terminate()
                self.assertEqual(container.exit_code(), 0)
            for of, pod in pods:
                with self.subTest(pod=of), running(it, documents, pod) as container:
                    self.serves_and_drains(it, documents, container)

    def serves_and_drains(self, it, documents, container):
        container.wait_for("startupProbe")
        client = Client(it.listener, it.tls)
        self.assertEqual(client.call("SET", "chart", it.name), "+OK")
        self.assertEqual(client.call("GET", "chart"), it.name)
        self.status_and_control(container)
        self.helm_test(it, documents, container)
        self.drains(it, container, client)

    def status_and_control(self, container):
        """`kubectl exec` needs no arguments for these."""
        status = container.run("status")
        self.assertEqual(status.returncode, 0, status)
        self.assertIn("ready", status.stdout)
        level = container.run("ctl", "log-level", "debug")
        self.assertEqual(level.returncode, 0, level)

    def helm_test(self, it, documents, container):
        """The pod of `helm test` reaches respgate by its Service."""
        found = [pod for name, pod in chart.pods(documents) if name == "Pod r-respgate-doctor"]
        if not found:
            return
        (doctor,) = found[0]["containers"]
        (url,) = [word for word in doctor["args"] if "://" in word]
        service = chart.find(documents, "Service")
        port = service["spec"]["ports"][0]["port"]
        self.assertIn(f"://{service['metadata']['name']}.default.svc:{port}", url)
        arguments = [word.replace("r-respgate.default.svc", "localhost") for word in doctor["args"]]
        pod = {**found[0], "containers": [{**doctor, "name": "respgate"}]}
        inside = Container(it.folder / "doctor", [*documents, *it.objects], pod)
        try:
            result = inside.run(*arguments)
            self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        finally:
            shutil.rmtree(it.folder / "doctor")

    def drains(self, it, container, client):
        """A blocked client keeps the drain going: alive, not ready, and no new clients. Then the process ends."""
        if container.has("readinessProbe"):
            self.assertTrue(container.probe("readinessProbe"))
        client.send("BLPOP", "chart-queue", "0")
        other = Client(it.listener, it.tls)
        until("the client to block", lambda: "blocked_clients:1" in other.call("INFO", "clients"))
        container.terminate()
        if container.has("readinessProbe"):
            # Nodes that do not know yet still send clients, which it accepts.
            until("readiness to fail", lambda: not container.probe("readinessProbe"))
            late = Client(it.listener, it.tls)
            self.assertEqual(late.call("PING"), "+PONG")
            late.close()
        self.assertTrue(container.probe("livenessProbe"))
        self.assertIsNone(container.process.poll(), "it waits for the blocked client")
        until("the other client to be sent away", lambda: ended(other))
        client.close()
        self.assertEqual(container.exit_code(), 0)


def ended(client):
    try:
        return client.call("PING") == ""
    except OSError:
        return True


for values in scenarios.names():
    def test(self, values=values):
        self.check(values)
    setattr(Probes, "test_" + values.replace("-", "_"), test)


class Failover(unittest.TestCase):
    def test_a_failover_restarts_nothing_and_takes_no_pod_out_of_the_service_at_once(self):
        with scenario("gateway-url") as (it, documents):
            it.start()
            _, pod = next(chart.pods(documents))
            with running(it, documents, pod) as container:
                container.wait_for("startupProbe")
                it.servers.stop()
                until("the primary to be missed", lambda: not container.probe("readinessProbe"))
                self.assertTrue(container.probe("livenessProbe"))
                # It accepts clients, and their commands wait.
                client = Client(it.listener)
                client.send("GET", "chart")
                shutil.rmtree(it.folder / "server")
                it.start()
                self.assertIsNone(client.reply(), "the new server has no such key")
                container.wait_for("readinessProbe")


class Rotation(unittest.TestCase):
    def test_a_bridge_uses_new_certificates_and_passwords_without_a_restart(self):
        with scenario("bridge") as (it, documents):
            it.start()
            _, pod = next((of, pod) for of, pod in chart.pods(documents) if chart.respgate(pod))
            with running(it, documents, pod) as container:
                container.wait_for("startupProbe")
                client = Client(it.listener)
                self.assertEqual(client.call("SET", "rotation", "1"), "+OK")
                before = expiry(container)
                container.update("Secret", "r-respgate-client-tls", **it.certificates.sign("client", "app", days=9))
                until("the new certificate to be used", lambda: expiry(container) != before)
                # The server knows both passwords for a moment, as it should when one is changed.
                self.assertEqual(client.call("ACL", "WHOAMI"), "app")
                admin = Client(it.primary, it.server_context())
                self.assertEqual(admin.call("AUTH", "app", "hunter2"), "+OK")
                self.assertEqual(admin.call("ACL", "SETUSER", "app", ">hunter4"), "+OK")
                container.update("Secret", "r-respgate-upstream", password="hunter4\n")
                until("the new password to be read", lambda: 'kind="password"' in reloads(container))
                self.assertEqual(admin.call("ACL", "SETUSER", "app", "<hunter2"), "+OK")
                admin.send("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                admin.reply()
                self.assertEqual(client.call("GET", "rotation"), "1")
                self.changes_authority(it, container, admin)
                self.assertEqual(client.call("GET", "rotation"), "1")
                container.wait_for("readinessProbe")

    def changes_authority(self, it, container, admin):
        """The provider's next certificate comes from another authority, which the ConfigMap has before."""
        after = Certificates(it.folder / "after")
        after.sign("server", "localhost")
        both = it.certificates.path("ca.crt").read_text() + after.path("ca.crt").read_text()
        container.update("ConfigMap", "provider-ca", **{"ca.crt": both})
        read = re.compile(r'\{kind="certificates",.* 2$', re.M)
        until("the authorities to be read", lambda: read.search(reloads(container)))
        files = ["tls-cert-file", after.path("server.crt"), "tls-key-file", after.path("server.key")]
        self.assertEqual(admin.call("CONFIG", "SET", *map(str, files)), "+OK")
        admin.send("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        admin.reply()

    def test_a_changed_config_map_is_used_without_a_restart(self):
        with scenario("gateway") as (it, documents):
            it.start()
            _, pod = next(chart.pods(documents))
            with running(it, documents, pod) as container:
                container.wait_for("startupProbe")
                self.assertNotIn("respgate_reloads_total{", reloads(container))
                chart_text = container.documents["ConfigMap", "r-respgate"]["data"]["respgate.toml"]
                changed = chart_text.replace("in-flight = 1000", "in-flight = 999")
                container.update("ConfigMap", "r-respgate", **{"respgate.toml": changed})
                until("the file to be read", lambda: 'kind="configuration"' in reloads(container))


def reloads(container):
    """The counts of reloads that worked."""
    lines = container.http("/metrics")[1].splitlines()
    counted = [it for it in lines if it.startswith("respgate_reloads_total{") and 'outcome="ok"' in it]
    return "\n".join(it for it in counted if not it.endswith(" 0"))


def expiry(container):
    """When the certificate that respgate shows to the server ends."""
    lines = container.http("/metrics")[1].splitlines()
    return [it for it in lines if it.startswith("respgate_tls_certificate_expiry_timestamp_seconds")]


if __name__ == "__main__":
    unittest.main()
