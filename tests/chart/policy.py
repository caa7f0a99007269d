"""What every pod of the chart must keep to, and whether the documents fit each other."""

import re

import chart

# What respgate's process takes at most, beside 1.5 times max-buffered; `make hostile` holds respgate to it.
BASE_MEMORY = 64 << 20
UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}


def size(text):
    number, unit = re.fullmatch(r"(\d+)([A-Za-z]*)", str(text)).groups()
    return int(number) * UNITS[unit]


def security(documents):
    """Yields each rule of pod security that a pod or container breaks."""
    for name, pod in chart.pods(documents):
        def rule(kept, text, name=name):
            if not kept:
                yield f"{name}: {text}"

        of_pod = pod.get("securityContext", {})
        yield from rule(pod.get("automountServiceAccountToken") is False, "mounts the token of a service account")
        yield from rule(of_pod.get("runAsNonRoot") is True, "may run as root")
        yield from rule(of_pod.get("seccompProfile") == {"type": "RuntimeDefault"}, "has no seccomp profile")
        for key in ("hostNetwork", "hostPID", "hostIPC"):
            yield from rule(not pod.get(key), f"has {key}")
        yield from rule(not any("hostPath" in it for it in pod.get("volumes", [])), "mounts a path of the node")
        for container in chart.containers(pod):
            of = container.get("securityContext", {})
            who = f"container {container['name']}"
            yield from rule(of.get("runAsNonRoot") is True and of.get("runAsUser", 0) > 0, f"{who} may run as root")
            yield from rule(of.get("readOnlyRootFilesystem") is True, f"{who} can write to its root")
            yield from rule(of.get("allowPrivilegeEscalation") is False, f"{who} can gain privileges")
            yield from rule(not of.get("privileged"), f"{who} is privileged")
            yield from rule(of.get("capabilities") == {"drop": ["ALL"]}, f"{who} keeps capabilities")
            yield from rule(of.get("seccompProfile") == {"type": "RuntimeDefault"}, f"{who} has no seccomp profile")
            resources = container.get("resources", {})
            yield from rule("memory" in resources.get("limits", {}), f"{who} has no limit of memory")
            yield from rule({"cpu", "memory"} <= set(resources.get("requests", {})), f"{who} requests nothing")
            yield from rule(not any("hostPort" in it for it in container.get("ports", [])), f"{who} has a hostPort")


def readable(documents):
    """Yields each secret file that respgate's user could not read."""
    for name, pod in chart.pods(documents):
        grouped = "fsGroup" in pod.get("securityContext", {})
        for volume in pod.get("volumes", []):
            mode = volume.get("secret", {}).get("defaultMode", 0o644)
            if not mode & (0o040 if grouped else 0o004):
                yield f"{name}: respgate's user cannot read {volume['name']} ({mode:o})"


def references(documents, elsewhere):
    """Yields each name that leads nowhere. `elsewhere` are the ConfigMaps and Secrets that the cluster has."""
    made = {it["metadata"]["name"] for it in documents if it["kind"] in ("ConfigMap", "Secret")}
    made |= {it["spec"]["secretName"] for it in documents if it["kind"] == "Certificate"}
    made |= {it["spec"]["target"]["name"] for it in documents if it["kind"] == "ExternalSecret"}
    known = made | set(elsewhere)
    accounts = {it["metadata"]["name"] for it in documents if it["kind"] == "ServiceAccount"} | {"default"}
    labels = {}
    for document in documents:
        if document["kind"] in ("Deployment", "Job"):
            labels[document["metadata"]["name"]] = document["spec"]["template"]["metadata"]["labels"]
    for name, pod in chart.pods(documents):
        volumes = {it["name"] for it in pod.get("volumes", [])}
        if pod.get("serviceAccountName", "default") not in accounts:
            yield f"{name}: no service account {pod['serviceAccountName']}"
        for volume in pod.get("volumes", []):
            source = volume.get("configMap", {}).get("name") or volume.get("secret", {}).get("secretName")
            if source and source not in known:
                yield f"{name}: volume {volume['name']} is of {source}, which nobody makes"
        for container in chart.containers(pod):
            ports = {it["name"] for it in container.get("ports", [])}
            for mount in container.get("volumeMounts", []):
                if mount["name"] not in volumes:
                    yield f"{name}: no volume {mount['name']}"
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                port = container.get(probe, {}).get("httpGet", {}).get("port")
                if port is not None and port not in ports:
                    yield f"{name}: {probe} asks port {port}, which the container does not name"
            for variable in container.get("env", []):
                source = variable.get("valueFrom", {})
                source = source.get("configMapKeyRef") or source.get("secretKeyRef")
                if source and source["name"] not in known:
                    yield f"{name}: {variable['name']} is from {source['name']}, which nobody makes"

    def selects(selector):
        return any(all(of.get(key) == value for key, value in selector.items()) for of in labels.values())

    for document in documents:
        kind, name, spec = document["kind"], document["metadata"]["name"], document.get("spec", {})
        selector = {
            "Service": lambda: spec["selector"],
            "Deployment": lambda: spec["selector"]["matchLabels"],
            "PodDisruptionBudget": lambda: spec["selector"]["matchLabels"],
            "NetworkPolicy": lambda: spec["podSelector"]["matchLabels"],
            "PodMonitor": lambda: spec["selector"]["matchLabels"],
        }.get(kind)
        if selector and not selects(selector()):
            yield f"{kind} {name} selects no pod"
        if kind == "HorizontalPodAutoscaler" and spec["scaleTargetRef"]["name"] not in labels:
            yield f"{kind} {name} scales nothing"


def sizes(documents, configuration):
    """Yields what the figures of respgate's pods contradict; `configuration` is respgate.toml as a table."""
    buffered = size(configuration.get("limits", {}).get("max-buffered", "512MiB"))
    for name, pod in chart.pods(documents):
        container = chart.respgate(pod)
        if container is None:
            continue
        limit = size(container["resources"]["limits"]["memory"])
        if limit < buffered * 3 // 2 + BASE_MEMORY:
            yield f"{name}: max-buffered {buffered} does not fit into {limit} bytes"
        seconds = [configuration.get("drain-timeout", "30s"), configuration.get("drain-delay", "0s")]
        if pod["terminationGracePeriodSeconds"] <= sum(int(it.removesuffix("s")) for it in seconds):
            yield f"{name}: is killed in its drain"
        ready = container.get("readinessProbe")
        if ready:
            for upstream in configuration.get("upstreams", {}).values():
                hold = int(upstream.get("hold-timeout", "40s").replace("1m", "60s").removesuffix("s"))
                if ready["periodSeconds"] * ready["failureThreshold"] <= hold:
                    yield f"{name}: leaves the Service while commands wait for a primary (hold-timeout {hold} s)"
