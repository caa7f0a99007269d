//! What the doctor finds on a replica from which clients read.

use super::{Diagnosis, HEALTHY, examine_configuration};
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

on_both_servers!(a_replica_that_shall_serve_reads);

fn a_replica_that_shall_serve_reads(flavor: Flavor) {
    let primary = Server::start(flavor);
    let replica = Server::start_with(flavor, &["--replicaof", "127.0.0.1", &primary.port.to_string()]);
    let set_user = |server: &Server, rules: &[&str]| {
        let all = [&["ACL", "SETUSER", "app", "reset", "on", ">hunter2", "~*"], rules].concat();
        assert_eq!(server.run_text(&all), "+OK\r\n");
    };
    set_user(&primary, &["+@all"]);
    primary.run(&["SET", "key", "value"]);
    let text = |reads: &str| {
        format!(
            "[tenants.all]\ndefault = true\nreads = \"{reads}\"\n[upstreams.main]\n\
             url = \"redis://app:hunter2@127.0.0.1:{}\"\nreplicas = [\"127.0.0.1:{}\"]\n",
            primary.port, replica.port
        )
    };
    let examine = || {
        let diagnosis = examine_configuration(&text("prefer-replica"));
        // respgate serves clients without the replica.
        assert_eq!(diagnosis.code, HEALTHY, "{:#}", diagnosis.document);
        diagnosis
    };

    examine().says("replica", "login", &["warning: ", "Users are not replicated"]);
    set_user(&replica, &["+@all", "-info"]);
    examine().says(
        "replica",
        "reads",
        &["warning: serves no reads: the replica does not tell", "+info and +role"],
    );
    set_user(&replica, &["+@all"]);
    let serves = |diagnosis: &Diagnosis| diagnosis.step("replica", "reads")[0].contains("ok: serves reads");
    wait::until("the replica's link", || serves(&examine()));

    replica.run(&["REPLICAOF", "127.0.0.1", "1"]);
    examine().says("replica", "reads", &["warning: serves no reads: ", "primary"]);
    // Nobody reads there, so nobody asks.
    let other = examine_configuration(&text("primary"));
    assert!(other.step("replica", "reads").is_empty(), "{:#}", other.document);
}
