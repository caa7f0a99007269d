// Reads custom resources as a JSON list from standard input, and prints what is wrong with each, one a line.
import { readFileSync } from "node:fs";

let faults = 0;
for (const resource of JSON.parse(readFileSync(0, "utf8"))) {
  const [group, version] = resource.apiVersion.split("/");
  const packages = {
    "cert-manager.io": "cert-manager",
    "external-secrets.io": "external-secrets",
    "monitoring.coreos.com": "prometheus-operator",
  };
  const name = `${resource.kind} ${resource.metadata.name}`;
  try {
    const models = await import(`@kubernetes-models/${packages[group]}/${group}/${version}`);
    new models[resource.kind](resource).validate();
  } catch (error) {
    console.log(`${name}: ${error.message}`);
    faults += 1;
  }
}
process.exit(faults === 0 ? 0 : 1);
