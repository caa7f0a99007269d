//! What `respgate doctor` says of a cluster.

use std::process::Command;

use serde_json::Value;

use crate::support::cluster::{Cluster, ClusterPlan};
use crate::support::port::free_port;
use crate::support::proxy::binary;
use crate::support::servers::{Flavor, Server};

/// Runs the doctor. Returns its exit code, and each finding as `subject step level: seen`.
fn examine(url: &str) -> (i32, Vec<String>) {
    let listen = format!("127.0.0.1:{}", free_port());
    examine_with(&["--listen", &listen, "--upstream", url])
}

fn examine_with(arguments: &[&str]) -> (i32, Vec<String>) {
    let output =
        Command::new(binary()).args(["doctor", "--json"]).args(arguments).output().expect("respgate doctor");
    let document: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let sections = document["sections"].as_array().expect("sections");
    let findings = sections.iter().flat_map(|section| {
        let findings = section["findings"].as_array().expect("findings");
        findings.iter().map(|finding| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let (subject, step) = (text(&section["subject"]), text(&finding["step"]));
            format!("{subject} {step} {}: {}", text(&finding["level"]), text(&finding["seen"]))
        })
    });
    (output.status.code().expect("an exit code"), findings.collect())
}

#[track_caller]
fn assert_has(findings: &[String], wanted: &str) {
    assert!(findings.iter().any(|finding| finding.starts_with(wanted)), "{wanted} in {findings:#?}");
}

on_both_servers!(a_cluster_is_examined);

fn a_cluster_is_examined(flavor: Flavor) {
    let mut servers = Cluster::three(flavor);
    let (code, findings) = examine(&servers.url());
    assert_eq!(code, 0, "{findings:#?}");
    assert_has(&findings, "node cluster ok: a node of a cluster; it knows 6 nodes");
    assert_has(&findings, "cluster cluster ok: all 16384 slots are served, by 3 shards");
    assert_has(&findings, "cluster agreement ok: each primary has a config epoch of its own, up to 3");
    assert_has(&findings, "cluster replicas ok: each primary has a replica");
    assert_eq!(findings.iter().filter(|finding| finding.starts_with("primary role ok")).count(), 3);
    // If clients read from replicas, these are examined, too.
    assert!(!findings.iter().any(|finding| finding.starts_with("replica ")), "{findings:#?}");
    let file = tempfile::Builder::new().suffix(".toml").tempfile().expect("a file");
    let text = format!(
        "[listeners.app]\naddress = \"127.0.0.1:{}\"\nreads = \"prefer-replica\"\n[upstreams.main]\nurl = \"{}\"\n",
        free_port(),
        servers.url()
    );
    std::fs::write(file.path(), text).expect("a configuration");
    let (code, findings) = examine_with(&["--config", &file.path().to_string_lossy()]);
    assert_eq!(code, 0, "{findings:#?}");
    assert_eq!(
        findings.iter().filter(|finding| finding.starts_with("replica reads ok")).count(),
        3,
        "{findings:#?}"
    );
    // Without replicas, the next crash of that node loses its slots.
    servers.remove_node(3);
    servers.wait_until_agreed();
    let (code, findings) = examine(&format!("redis-cluster://127.0.0.1:{}", servers.server(1).port));
    assert_eq!(code, 0, "{findings:#?}");
    let alone = format!(
        "cluster replicas warning: no replica could take over from 127.0.0.1:{}",
        servers.server(0).port
    );
    assert_has(&findings, &alone);
}

#[test]
fn slots_without_a_primary_are_named() {
    let plan = ClusterPlan { replicas: 0, ..ClusterPlan::new(Flavor::Valkey) };
    let servers = Cluster::start(&plan);
    for node in 0..3 {
        servers.server(node).client().expect(&["CLUSTER", "DELSLOTS", "7"], "+OK\r\n");
    }
    let (code, findings) = examine(&servers.url());
    assert_eq!(code, 69, "{findings:#?}");
    assert_has(&findings, "cluster cluster broken: 1 of 16384 slots have no primary: 7-7");
}

#[test]
fn a_server_without_a_cluster_is_named() {
    let server = Server::start(Flavor::Redis);
    let (code, findings) = examine(&format!("redis-cluster://127.0.0.1:{}", server.port));
    assert_eq!(code, 69, "{findings:#?}");
    assert_has(&findings, "node cluster broken: asked for the cluster, it answers: ");
}
