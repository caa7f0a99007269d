"""What the chart renders: valid for Kubernetes, safe, and fitting together; and what it refuses."""

import json
import pathlib
import re
import subprocess
import tempfile
import tomllib
import unittest

import kubernetes_validate
import yaml

import chart
import policy
import scenarios

KUBERNETES = ["1.29.0", "1.33.0", "1.37.0"]
# What the examples expect of the cluster.
ELSEWHERE = {"valkey-sentinel", "app", "valkey", "provider-ca"}


def values(name):
    return chart.CHART / f"ci/{name}-values.yaml"


def validate(documents, version):
    """Yields what is wrong by the schemas of Kubernetes, and of the custom resources."""
    custom = [it for it in documents if "." in it["apiVersion"].split("/")[0]
              and not it["apiVersion"].split("/")[0].endswith(".k8s.io")]
    for document in documents:
        if document in custom:
            continue
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"{document['kind']} {document['metadata']['name']}: {error.message}"
    checked = subprocess.run(
        ["node", chart.TOOLS / "crds.mjs"], input=json.dumps(custom), capture_output=True, text=True, timeout=60)
    yield from checked.stdout.splitlines()
    if checked.stderr:
        yield checked.stderr


class Rendered(unittest.TestCase):
    def each(self):
        """Each values file's name and rendered documents."""
        return [(name, chart.template(values(name))) for name in scenarios.names()]

    def test_every_mode_has_values(self):
        modes = {yaml.safe_load(values(name).read_text())["mode"] for name in scenarios.names()}
        self.assertEqual(modes, {"sidecar", "gateway", "bridge"})

    def test_it_is_valid_for_each_version_of_kubernetes(self):
        for name in scenarios.names():
            for version in KUBERNETES:
                with self.subTest(values=name, version=version):
                    documents = chart.template(values(name), version=version)
                    self.assertEqual(list(validate(documents, version)), [])

    def test_a_fault_would_be_found(self):
        for kind, path, fault in [
            ("Deployment", ["spec", "template", "spec", "containers", 0, "livenesProbe"], {}),
            ("Deployment", ["spec", "replicas"], "two"),
            ("PodMonitor", ["spec", "podMetricsEndpoints"], {}),
        ]:
            documents = chart.template(values("gateway"))
            place = chart.find(documents, kind)
            for step in path[:-1]:
                place = place[step]
            place[path[-1]] = fault
            self.assertEqual(len(list(validate(documents, "1.33.0"))), 1, path)

    def test_pods_have_no_rights(self):
        for name, documents in self.each():
            self.assertEqual([*policy.security(documents), *policy.readable(documents)], [], name)

    def test_names_lead_somewhere(self):
        for name, documents in self.each():
            self.assertEqual(list(policy.references(documents, ELSEWHERE)), [], name)

    def test_figures_fit_together(self):
        for name, documents in self.each():
            text = chart.find(documents, "ConfigMap", "r-respgate")["data"]["respgate.toml"]
            self.assertEqual(list(policy.sizes(documents, tomllib.loads(text))), [], name)

    def test_settings_are_merged(self):
        document = chart.find(chart.template(values("gateway")), "ConfigMap")
        table = tomllib.loads(document["data"]["respgate.toml"])
        main = table["upstreams"]["main"]
        self.assertEqual((main["hold-timeout"], main["retry-reads"], main["max-connections"]), ("45s", False, 100))
        self.assertTrue(main["url"].startswith("redis-sentinel://"))
        self.assertEqual(table["tenants"]["web"], {"default": True, "in-flight": 1000, "networks": ["10.0.0.0/8"]})
        off = chart.template(values("gateway"), settings__workers=0)
        self.assertEqual(tomllib.loads(chart.find(off, "ConfigMap")["data"]["respgate.toml"])["workers"], 0)

    def test_a_gateway_is_complete(self):
        kinds = sorted(it["kind"] for it in chart.template(values("gateway")))
        self.assertEqual(kinds, [
            "ConfigMap", "Deployment", "HorizontalPodAutoscaler", "NetworkPolicy", "Pod", "PodDisruptionBudget",
            "PodMonitor", "PrometheusRule", "Service", "ServiceAccount"])
        deployment = chart.find(chart.template(values("gateway")), "Deployment")["spec"]
        self.assertEqual(deployment["strategy"]["rollingUpdate"]["maxUnavailable"], 0)
        self.assertNotIn("replicas", deployment, "the autoscaler decides")

    def test_a_read_port_leads_through_service_and_policy_to_a_listener(self):
        documents = chart.template(values("gateway"))
        listeners = tomllib.loads(chart.find(documents, "ConfigMap", "r-respgate")["data"]["respgate.toml"])["listeners"]
        self.assertEqual(listeners["reads"], {"address": "0.0.0.0:6380", "reads": "prefer-replica"})
        service = {it["name"]: it for it in chart.find(documents, "Service")["spec"]["ports"]}
        self.assertEqual((service["redis-read"]["port"], service["redis-read"]["targetPort"]), (6380, "redis-read"))
        admitted = chart.find(documents, "NetworkPolicy")["spec"]["ingress"][0]["ports"]
        self.assertEqual([it["port"] for it in admitted], ["redis", "redis-read"])
        without = chart.template(values("gateway"), listener__readPort="null")
        self.assertEqual(len(chart.find(without, "Service")["spec"]["ports"]), 1)

    def test_the_network_policy_admits_the_pod_of_helm_test(self):
        documents = chart.template(values("gateway"))
        peers = chart.find(documents, "NetworkPolicy")["spec"]["ingress"][0]["from"]
        admitted = [it["podSelector"]["matchLabels"] for it in peers]
        self.assertEqual(admitted, [{"app": "web"}, chart.find(documents, "Pod")["metadata"]["labels"]])

    def test_rules_are_those_of_the_repository(self):
        rendered = chart.find(chart.template(values("gateway")), "PrometheusRule")["spec"]
        source = yaml.safe_load((chart.ROOT / "deploy/prometheus/alerts.yml").read_text())
        self.assertEqual(rendered, source)
        documents = chart.template(values("gateway"), prometheusRule__runbookUrl="https://git.example/respgate/")
        rules = [rule for group in chart.find(documents, "PrometheusRule")["spec"]["groups"] for rule in group["rules"]]
        urls = [rule["annotations"]["runbook_url"] for rule in rules]
        self.assertTrue(all(it.startswith("https://git.example/respgate/docs/runbook.md#") for it in urls), urls)

    def test_rules_find_the_pods_of_the_chart(self):
        rules = (chart.ROOT / "deploy/prometheus/alerts.yml").read_text()
        jobs = set(re.findall(r'job=~"([^"]*)"', rules))
        documents = chart.template(values("gateway"), fullnameOverride="cache")
        (endpoint,) = chart.find(documents, "PodMonitor")["spec"]["podMetricsEndpoints"]
        (job,) = [it["replacement"] for it in endpoint["relabelings"] if it["targetLabel"] == "job"]
        self.assertTrue(jobs)
        for pattern in jobs:
            self.assertRegex(job, f"^({pattern})$")

    def test_the_dashboard_is_that_of_the_repository(self):
        documents = chart.template(values("gateway"), dashboard__enabled="true")
        text = chart.find(documents, "ConfigMap", "r-respgate-dashboard")["data"]["respgate.json"]
        source = chart.ROOT / "deploy/grafana/respgate.json"
        self.assertEqual(json.loads(text), json.loads(source.read_text()))

    def test_the_package_is_the_same_chart(self):
        with tempfile.TemporaryDirectory() as folder:
            chart.helm("package", chart.CHART, "--destination", folder)
            (package,) = pathlib.Path(folder).glob("*.tgz")
            for name in scenarios.names():
                self.assertEqual(chart.template(values(name), chart=package), chart.template(values(name)))

    def test_helm_finds_no_fault(self):
        for name in scenarios.names():
            chart.helm("lint", "--strict", chart.CHART, "--values", values(name))

    def test_names_stay_short_enough(self):
        for document in chart.template(values("gateway-tls"), release="a" * 53):
            self.assertLessEqual(len(document["metadata"]["name"]), 63)


class Notes(unittest.TestCase):
    def test_the_sidecars_text_is_what_the_example_has(self):
        text = chart.notes(values("sidecar"))
        pasted = yaml.safe_load("".join(re.findall(r"^      .*\n", text.split("\nor, ")[0], re.M)))
        pod = chart.find(chart.template(values("sidecar")), "Deployment")["spec"]["template"]["spec"]
        self.assertEqual(pasted, {"initContainers": pod["initContainers"], "volumes": pod["volumes"]})

    def test_a_gateways_address_is_its_services(self):
        self.assertIn("redis://r-respgate.default.svc:6379\n", chart.notes(values("gateway")))
        self.assertIn("rediss://r-respgate.default.svc:6379\n", chart.notes(values("gateway-tls")))


class Refused(unittest.TestCase):
    def refused(self, text, *files, **settings):
        with self.subTest(text=text):
            with self.assertRaises(chart.RenderError) as refusal:
                chart.template(*files, **settings)
            self.assertIn(text, str(refusal.exception))

    def test_wrong_values_have_clear_texts(self):
        url = {"upstream__url": "redis://db:6379"}
        self.refused("at '/mode': value must be one of 'sidecar', 'gateway', 'bridge'", mode="proxy", **url)
        self.refused("at '/listener/port': maximum: got 70,000, want 65,535", listener__port=70000, **url)
        self.refused("at '/drain': additional properties 'timeout' not allowed", drain__timeout="5s", **url)
        self.refused("at '': additional properties 'replicaCount' not allowed", replicaCount=3, **url)
        self.refused("at '/replicas': minimum: got 0, want 1", replicas=0, **url)
        self.refused("at '/maxBuffered': '256M' does not match", maxBuffered="256M", **url)
        self.refused("at '/image/pullPolicy': value must be one of", image__pullPolicy="Sometimes", **url)
        self.refused("name the server in upstream.url")
        self.refused("set only one of url", upstream__urlFrom__secret="app", **url)
        self.refused("upstream.url: write redis://host:6379", upstream__url="http://db:6379")
        self.refused("upstream.url holds a password", upstream__url="redis://app:hunter2@db:6379")
        self.refused("mode bridge requires TLS", mode="bridge", **url)
        self.refused("mode bridge requires TLS", mode="bridge", upstream__sentinelFrom__configMap="valkey-sentinel")
        self.refused("certManager.issuer.name", certManager__enabled="true", **url)
        self.refused("externalSecret.store.name", externalSecret__enabled="true", **url)
        self.refused("listener.tls.secret", listener__tls__requireClientCertificate="true", **url)
        self.refused("podMonitor.selector", mode="sidecar", podMonitor__enabled="true", **url)
        self.refused("leave settings empty", values("gateway-config"), settings__workers=2)

    def test_a_refusal_shows_no_password(self):
        with self.assertRaises(chart.RenderError) as refusal:
            chart.template(upstream__url="redis://app:hunter2@db:6379")
        self.assertNotIn("hunter2", str(refusal.exception))

    def test_an_old_kubernetes_is_refused(self):
        with self.assertRaisesRegex(chart.RenderError, "kubeVersion"):
            chart.template(values("gateway"), version="1.28.0")


if __name__ == "__main__":
    unittest.main()
