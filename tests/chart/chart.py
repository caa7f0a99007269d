"""Renders the chart with Helm."""

import pathlib
import subprocess

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy/helm/respgate"
TOOLS = ROOT / "target/chart"
HELM = TOOLS / "bin/helm"


class RenderError(Exception):
    """What Helm printed when it refused to render."""


def helm(*arguments):
    if not HELM.exists():
        raise SystemExit("Helm is missing. Get it with: tests/chart/install")
    result = subprocess.run([HELM, *map(str, arguments)], capture_output=True, text=True, timeout=120)
    if result.returncode != 0:
        raise RenderError(result.stderr)
    return result.stdout


def arguments(values, settings):
    """The arguments for values as YAML texts and for single settings, such as {"listener.port": 7000}."""
    given = []
    for path in values:
        given += ["--values", path]
    for key, value in settings.items():
        given += ["--set", f"{key}={value}"]
    return given


def template(*values, chart=CHART, version="1.33.0", release="r", **settings):
    """The rendered documents; `settings` are those of --set, with __ in place of dots."""
    settings = {key.replace("__", "."): value for key, value in settings.items()}
    given = arguments(values, settings)
    text = helm("template", release, chart, "--namespace", "default", "--kube-version", version, *given)
    return [document for document in yaml.safe_load_all(text) if document]


def notes(*values, **settings):
    """What Helm prints after an installation."""
    settings = {key.replace("__", "."): value for key, value in settings.items()}
    text = helm("install", "r", CHART, "--dry-run=client", *arguments(values, settings))
    return text.split("\nNOTES:\n", 1)[1]


def find(documents, kind, name=None):
    """The one document of a kind, and of a name if it is given."""
    found = [it for it in documents if it["kind"] == kind and name in (None, it["metadata"]["name"])]
    assert len(found) == 1, f"{len(found)} documents {kind} {name or ''}"
    return found[0]


def pods(documents):
    """The specification of each pod that the documents make, with its document's name."""
    for document in documents:
        name = f"{document['kind']} {document['metadata']['name']}"
        if document["kind"] == "Pod":
            yield name, document["spec"]
        elif document["kind"] in ("Deployment", "Job"):
            yield name, document["spec"]["template"]["spec"]


def containers(pod):
    """All containers of a pod."""
    return pod.get("initContainers", []) + pod["containers"]


def respgate(pod):
    """The container with respgate, or None."""
    return next((it for it in containers(pod) if it["name"] == "respgate"), None)
