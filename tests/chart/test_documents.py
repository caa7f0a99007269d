"""The examples of docs/kubernetes.md render, are valid, and give a configuration that respgate accepts."""

import pathlib
import re
import shutil
import tempfile
import unittest

import yaml

import chart
import policy
from pod import Container
from servers import Certificates
from test_render import validate

PAGE = chart.ROOT / "docs/kubernetes.md"
PARENT = """\
apiVersion: v2
name: shop
version: 1.0.0
dependencies:
  - name: respgate
    version: 0.2.0
    repository: file://../respgate
"""


def blocks(name):
    """The YAML blocks of the page that begin with the name of a file."""
    return re.findall(rf"^```yaml\n# {re.escape(name)}\n(.*?)^```", PAGE.read_text(), re.M | re.S)


class Examples(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="respgate-docs-"))
        self.addCleanup(shutil.rmtree, self.folder)
        certificates = Certificates(self.folder / "certificates")
        authority = certificates.path("ca.crt").read_text()
        self.objects = [
            {"kind": "Secret", "metadata": {"name": "valkey"}, "stringData": {"password": "hunter2"}},
            {"kind": "Secret", "metadata": {"name": "respgate-upstream"}, "stringData": {"password": "hunter2"}},
            {"kind": "Secret", "metadata": {"name": "respgate-client-tls"},
             "stringData": certificates.sign("client", "app")},
            {"kind": "ConfigMap", "metadata": {"name": "provider-ca"}, "data": {"ca.crt": authority}},
        ]

    def test_values(self):
        modes = []
        for number, text in enumerate(blocks("values.yaml")):
            with self.subTest(values=text):
                path = self.folder / f"{number}.yaml"
                path.write_text(text)
                documents = chart.template(path, release="respgate")
                self.sound(documents)
                modes.append(yaml.safe_load(text)["mode"])
                _, pod = next((of, pod) for of, pod in chart.pods(documents) if chart.respgate(pod))
                container = Container(self.folder / str(number), [*documents, *self.objects], pod)
                checked = container.run("check")
                self.assertEqual(checked.returncode, 0, checked.stdout + checked.stderr)
                # The page says of these two what to do.
                known = "clients need no AUTH; set client-auth|scripts can run administrative commands"
                warnings = [it for it in (checked.stdout + checked.stderr).splitlines() if "warning: " in it]
                self.assertEqual([it for it in warnings if not re.search(known, it)], [])
        self.assertEqual(set(modes), {"sidecar", "gateway", "bridge"})

    def sound(self, documents):
        self.assertEqual(list(validate(documents, "1.33.0")), [])
        self.assertEqual(list(policy.security(documents)), [])
        self.assertEqual(list(policy.references(documents, {"valkey", "provider-ca"})), [])

    def test_another_chart_includes_the_sidecar(self):
        parent = self.folder / "parent"
        (parent / "templates").mkdir(parents=True)
        (parent / "Chart.yaml").write_text(PARENT)
        (deployment,) = blocks("templates/deployment.yaml")
        (parent / "templates/deployment.yaml").write_text(deployment)
        values = yaml.safe_load(blocks("values.yaml")[0])
        values["example"]["enabled"] = False
        (parent / "values.yaml").write_text(yaml.safe_dump({"respgate": values}))
        shutil.copytree(chart.CHART, parent / "charts/respgate")
        documents = chart.template(chart=parent)
        self.assertEqual(list(validate(documents, "1.33.0")), [])
        self.assertEqual(list(policy.references(documents, set())), [])
        pod = chart.find(documents, "Deployment")["spec"]["template"]["spec"]
        (sidecar,) = pod["initContainers"]
        self.assertEqual((sidecar["name"], sidecar["restartPolicy"]), ("respgate", "Always"))
        self.assertEqual({it["name"] for it in pod["volumes"]}, {"respgate-config", "respgate-run"})

    def test_values_that_the_page_names_exist(self):
        known = yaml.safe_load((chart.CHART / "values.yaml").read_text())
        named = set(re.findall(r"`([a-z]\w+(?:\.\w+)+)`", PAGE.read_text()))
        named = {it for it in named if it.split(".")[0] in known}
        self.assertGreater(len(named), 15)
        for name in named:
            place = known
            for step in name.split("."):
                # Below settings, the keys are respgate's.
                if place == {}:
                    break
                self.assertIn(step, place, name)
                place = place[step]


if __name__ == "__main__":
    unittest.main()
