//! respgate to Sentinels, and to the nodes that they announce.

use super::*;
use crate::support::certificates::By;
use crate::support::deployment::{Deployment, Plan, PlanTls};

on_both_servers!(sentinels_with_an_authority_of_their_own);

/// Sentinels have an authority of their own, and announce nodes by IP addresses that no certificate names.
fn sentinels_with_an_authority_of_their_own(flavor: Flavor) {
    let certificates = Certificates::new();
    certificates.server("node", By::Intermediate, &["node-a.internal"]);
    certificates.server("sentinel", By::Other, &["sentinel.internal"]);
    let tls = PlanTls { certificates: &certificates, node: "node", sentinel: "sentinel" };
    let deployment = Deployment::start(&Plan { sentinels: 2, tls: Some(tls), ..Plan::new(flavor) });
    let (url, port) = (deployment.url(), deployment.primary.announced());
    let upstream = |sentinel_ca: &str| {
        format!(
            "[upstreams.main]\nurl = \"{url}\"\ntls-ca = \"{}\"\n\
             tls-server-names = {{ \"127.0.0.1:{port}\" = \"node-a.internal\" }}\n\
             sentinel-tls-ca = \"{}\"\nsentinel-tls-server-name = \"sentinel.internal\"\n\
             hold-timeout = \"300ms\"\n",
            certificates.path("ca.pem"),
            certificates.path(sentinel_ca),
        )
    };
    let proxy = Proxy::start_file(1, &upstream("other-ca.pem"));
    serves(&mut proxy.client());
    if flavor == Flavor::Redis {
        return;
    }
    // The nodes' authority is not the Sentinels'.
    let mut proxy = Proxy::launch_file(&[], 1, &upstream("ca.pem"));
    proxy.allow_log("\"WARN\"");
    let reply = String::from_utf8(proxy.client().call(&["GET", "k"])).expect("text");
    assert!(reply.starts_with("-ERR respgate: ") && reply.contains("no authority trusted here"), "{reply}");
}
