"""deploy/kubernetes/*.yaml, for those who have no Helm, are what the chart renders."""

import os
import unittest

import policy
import chart

FOLDER = chart.ROOT / "deploy/kubernetes"
HEADER = """\
# For those who have no Helm: rendered from deploy/helm/respgate with {name}-values.yaml by `make chart-manifests`.
# The Secret `valkey` with the key `password` is yours: kubectl create secret generic valkey --from-file=password
"""


class Manifests(unittest.TestCase):
    def test_each_is_what_the_chart_renders(self):
        found = sorted(FOLDER.glob("*-values.yaml"))
        self.assertEqual([path.name for path in found], ["gateway-values.yaml", "sidecar-values.yaml"])
        for values in found:
            name = values.name.removesuffix("-values.yaml")
            text = chart.helm("template", "respgate", chart.CHART, "--kube-version", "1.33.0", "--values", values)
            lines = [line for line in text.splitlines() if not line.startswith("# Source: ")]
            wanted = HEADER.format(name=name) + "\n".join(lines) + "\n"
            path = FOLDER / f"{name}.yaml"
            if os.environ.get("CHART_WRITE_MANIFESTS"):
                path.write_text(wanted)
            self.assertEqual(path.read_text(), wanted, "write it with: make chart-manifests")
            documents = chart.template(values)
            self.assertEqual([*policy.security(documents), *policy.references(documents, {"valkey"})], [])


if __name__ == "__main__":
    unittest.main()
