"""Writes the SBOM of the release binary, target/respgate.cdx.json, and validates it against CycloneDX's own schema.

It lists the crates that are linked into the binary for one target, with the features of the release, and the Rust standard
library. Build scripts, procedural macros and tests are not part of the binary. If the binary's debug symbols are there
(`make build`), every crate that they name must be listed.

The same commit gives the same file: its time is that of the commit, or SOURCE_DATE_EPOCH.
"""

import datetime
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tomllib
import uuid

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "target/respgate.cdx.json"
SYMBOLS = ROOT / "target/release/respgate.debug"
TARGET = os.environ.get("SBOM_TARGET", "x86_64-unknown-linux-gnu")


def output(*words):
    return subprocess.run(words, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def linked():
    """The names and versions of the crates that the binary consists of."""
    words = ["--locked", "--package", "respgate", "--target", TARGET, "--edges", "normal,no-proc-macro", "--prefix", "none"]
    lines = output("cargo", "tree", *words, "--format", "{p}").splitlines()
    found = {tuple(line.split()[:2]) for line in lines if line.strip()}
    return {(name, version.removeprefix("v")) for name, version in found}


def purl(name, version):
    return f"pkg:cargo/{name}@{version}"


def component(package, checksum):
    name, version = package["name"], package["version"]
    found = {"type": "library", "bom-ref": purl(name, version), "name": name, "version": version}
    if package["description"]:
        found["description"] = " ".join(package["description"].split())
    if checksum:
        found["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    # The older form of two licences is a slash.
    found["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
    found["purl"] = purl(name, version)
    if package["repository"]:
        found["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
    return found


def document():
    metadata = json.loads(output("cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", TARGET))
    names = linked()
    packages = {p["id"]: p for p in metadata["packages"] if (p["name"], p["version"]) in names}
    if len(packages) != len(names):
        sys.exit("deploy/supply/sbom.py: cargo tree and cargo metadata do not name the same crates")
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    checksums = {(p["name"], p["version"]): p.get("checksum") for p in lock["package"]}
    components, dependencies, root = [], [], None
    compiler = dict(line.split(": ", 1) for line in output("rustc", "--version", "--verbose").splitlines()[1:])
    standard = f"pkg:generic/rust-std@{compiler['release']}"
    for node in metadata["resolve"]["nodes"]:
        package = packages.get(node["id"])
        if not package:
            continue
        found = component(package, checksums[package["name"], package["version"]])
        needs = {purl(packages[d["pkg"]]["name"], packages[d["pkg"]]["version"]) for d in node["deps"]
                 if d["pkg"] in packages and any(kind["kind"] is None for kind in d["dep_kinds"])}
        if package["name"] == "respgate":
            root = found | {"type": "application"}
            needs.add(standard)
        else:
            components.append(found)
        dependencies.append({"ref": found["bom-ref"], "dependsOn": sorted(needs)})
    components.append({
        "type": "library", "bom-ref": standard, "name": "rust-std", "version": compiler["release"],
        "description": f"The Rust standard library, {compiler['commit-hash']}",
        "licenses": [{"expression": "MIT OR Apache-2.0"}], "purl": standard,
    })
    components.sort(key=lambda found: found["bom-ref"])
    dependencies.sort(key=lambda found: found["ref"])
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or output("git", "log", "-1", "--format=%ct"))
    content = json.dumps([root, components, dependencies], sort_keys=True)
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.UUID(hashlib.sha256(content.encode()).hexdigest()[:32], version=4)}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.datetime.fromtimestamp(epoch, datetime.timezone.utc).isoformat(),
            "component": root,
            "properties": [{"name": "respgate:target", "value": TARGET}],
        },
        "components": components,
        "dependencies": dependencies,
    }


def missing(names):
    """The crates that the debug symbols name and `names` does not have."""
    path = re.compile(rb"/registry/src/[^/\0]+/([A-Za-z0-9_-]+)-([0-9]+\.[0-9]+\.[0-9]+[^/\0]*)/")
    seen = {(name.decode(), version.decode()) for name, version in path.findall(SYMBOLS.read_bytes())}
    print(f"deploy/supply/sbom.py: the debug symbols name {len(seen)} crates")
    return sorted(seen - names)


def main():
    bom = document()
    text = json.dumps(bom, indent=1, sort_keys=True) + "\n"
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if error:
        sys.exit(f"deploy/supply/sbom.py: the SBOM is no CycloneDX 1.6: {error}")
    OUTPUT.write_text(text)
    print(f"deploy/supply/sbom.py: {len(bom['components'])} components, valid CycloneDX 1.6: {OUTPUT.relative_to(ROOT)}")
    if SYMBOLS.exists():
        left_out = missing({(found["name"], found["version"]) for found in bom["components"]})
        if left_out:
            sys.exit(f"deploy/supply/sbom.py: the binary has crates that the SBOM lacks: {left_out}")


main()
