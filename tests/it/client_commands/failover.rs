//! The commands in a failover: no error, no stranger's id, and two respgates that find each other's workers again.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::{Line, names};
use crate::support::client::Client;
use crate::support::deployment::{Deployment, NAME, Plan};
use crate::support::port::free_port;
use crate::support::proxy::Proxy;
use crate::support::servers::Flavor;
use crate::support::wait;

/// The first id that a connection to the server has in a list.
const FOREIGN: u64 = 8_000_000_000_000_000;

fn lines(reply: &[u8]) -> Vec<Line> {
    let text = String::from_utf8_lossy(reply);
    assert!(text.starts_with('$'), "{text}");
    text.lines().skip(1).filter(|line| !line.is_empty()).map(|line| Line(line.to_owned())).collect()
}

fn own_id(client: &mut Client) -> u64 {
    let reply = String::from_utf8(client.call(&["CLIENT", "ID"])).expect("text");
    reply.trim().trim_start_matches(':').parse().expect("a number")
}

/// With two respgates, each with a blocked worker. One respgate has a tenant too, which never sees anybody else.
#[test]
fn lists_go_on_in_a_failover() {
    let deployment = Deployment::start(&Plan { replicas: 1, ..Plan::new(Flavor::Valkey) });
    deployment.wait_until_redundant();
    let (port, shop) = (free_port(), free_port());
    let toml = format!(
        "[listeners.app]\naddress = \"127.0.0.1:{port}\"\nadmin-commands = \"allow\"\n\
         [listeners.shop]\naddress = \"127.0.0.1:{shop}\"\ntenant = \"shop\"\n[tenants.shop]\n\
         [upstreams.main]\nurl = \"{}\"\n",
        deployment.url()
    );
    let mut proxy = Proxy::start_file(2, &toml);
    let mut other = Proxy::start_with(&deployment.url(), 1, &["--admin-commands", "allow"]);
    for proxy in [&mut proxy, &mut other] {
        proxy.allow_log("lost");
        proxy.allow_log("primary");
        proxy.allow_log("failover");
        // On a busy machine one may answer late.
        proxy.allow_log("Sentinel");
    }
    let connect = |port: u16, name: &str| {
        let mut client = Client::connect(port);
        client.deadline(Duration::from_secs(60));
        client.expect(&["CLIENT", "SETNAME", name], "+OK\r\n");
        client
    };
    let (mut asker, mut mate, mut here) =
        (connect(port, "asker"), connect(shop, "mate"), connect(port, "here"));
    let mut other_asker = connect(other.port, "other-asker");
    let mut there = connect(other.port, "there");
    let ids: BTreeSet<u64> = [&mut asker, &mut mate, &mut here].into_iter().map(own_id).collect();
    let mate_id = own_id(&mut mate);
    here.send_command(&["BLPOP", "q1", "0"]);
    there.send_command(&["BLPOP", "q2", "0"]);
    let sees_all = |asker: &mut Client, own: &[&str]| {
        let mut expected: Vec<&str> = [own, &["here", "there"]].concat();
        expected.sort_unstable();
        let mut shown = names(asker, &[]);
        // Sentinels name their connections.
        shown.retain(|name| !name.starts_with("sentinel-"));
        shown == expected
    };
    let both_see_all = |asker: &mut Client, other_asker: &mut Client| {
        sees_all(asker, &["asker", "mate"]) && sees_all(other_asker, &["other-asker"])
    };
    wait::until("each respgate to show both workers", || both_see_all(&mut asker, &mut other_asker));

    assert_eq!(deployment.sentinels[0].run_text(&["SENTINEL", "FAILOVER", NAME]), "+OK\r\n");
    let promoted = &deployment.replicas[0];
    let (mut lists, begun) = (0, Instant::now());
    let mut is_over = false;
    while !is_over {
        assert!(begun.elapsed() < Duration::from_secs(60), "no failover");
        for line in lines(&asker.call(&["CLIENT", "LIST"])) {
            let id: u64 = line.field("id").parse().expect("a number");
            assert!(ids.contains(&id) || id > FOREIGN, "{line:?}");
        }
        let own: Vec<u64> = lines(&mate.call(&["CLIENT", "LIST"]))
            .iter()
            .map(|line| line.field("id").parse().expect("a number"))
            .collect();
        assert_eq!(own, [mate_id]);
        asker.expect(&["CLIENT", "KILL", "NAME", "nobody"], ":0\r\n");
        lists += 1;
        is_over =
            promoted.run_text(&["ROLE"]).contains("master") && both_see_all(&mut asker, &mut other_asker);
    }
    assert!(lists > 5, "{lists} lists in {:?}", begun.elapsed());
    // Nobody noticed: the workers wait on the new primary.
    promoted.run(&["RPUSH", "q1", "x"]);
    here.expect_reply("*2\r\n$2\r\nq1\r\n$1\r\nx\r\n");
    promoted.run(&["RPUSH", "q2", "y"]);
    there.expect_reply("*2\r\n$2\r\nq2\r\n$1\r\ny\r\n");
}
