//! Clusters that speak TLS.

use rcgen::ExtendedKeyUsagePurpose;

use super::discovery::cluster;
use crate::support::certificates::{By, Certificates};
use crate::support::cluster::{Cluster, ClusterPlan};
use crate::support::proxy::Proxy;
use crate::support::servers::Flavor;
use crate::support::wait;

on_both_servers!(one_name_for_all_nodes);
on_both_servers!(announced_hostnames);

fn served(proxy: &Proxy) {
    wait::until("all slots to be served", || cluster(proxy)["slots_served"] == 16_384);
}

/// A certificate with this name, which nodes also show each other as clients.
fn certificate(certificates: &Certificates, file: &str, name: &str) {
    certificates.server_with(file, By::Root, &[name], |params| {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
    });
}

/// The nodes announce IPs, and their certificates have one name.
fn one_name_for_all_nodes(flavor: Flavor) {
    let certificates = Certificates::new();
    certificate(&certificates, "named", "node.internal");
    let plan = ClusterPlan { replicas: 0, tls: Some((&certificates, "named")), ..ClusterPlan::new(flavor) };
    let servers = Cluster::start(&plan);
    let ca = certificates.path("ca.pem");
    let url = servers.url();
    assert!(url.starts_with("rediss-cluster://"));
    let toml = format!(
        "[upstreams.main]\nurl = \"{url}\"\ntls-ca = \"{ca}\"\ntls-server-name = \"node.internal\"\n"
    );
    served(&Proxy::start_file(1, &toml));
}

/// The nodes announce hostnames, which their certificates have.
fn announced_hostnames(flavor: Flavor) {
    let certificates = Certificates::new();
    certificate(&certificates, "local", "localhost");
    let options =
        ["--cluster-announce-hostname", "localhost", "--cluster-preferred-endpoint-type", "hostname"];
    let plan = ClusterPlan {
        replicas: 0,
        options: &options,
        password: Some("secret"),
        tls: Some((&certificates, "local")),
        ..ClusterPlan::new(flavor)
    };
    let servers = Cluster::start(&plan);
    let (ca, port) = (certificates.path("ca.pem"), servers.server(0).announced());
    let toml =
        format!("[upstreams.main]\nurl = \"rediss-cluster://:secret@localhost:{port}\"\ntls-ca = \"{ca}\"\n");
    let mut proxy = Proxy::start_file(1, &toml);
    // Handshakes take long on a busy machine.
    proxy.allow_log("localhost:");
    served(&proxy);
    wait::until("the nodes to be known by their hostnames", || {
        let cluster = cluster(&proxy);
        let shards = cluster["shards"].as_array().expect("shards");
        let address = |shard: &serde_json::Value| shard["primary"]["address"].as_str().map(str::to_owned);
        shards.iter().all(|shard| address(shard).is_some_and(|address| address.starts_with("localhost:")))
    });
}
