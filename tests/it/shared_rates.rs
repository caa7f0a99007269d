//! Rates that several respgates share through the server.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::deployment::{Deployment, NAME, Plan};
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

/// Of all respgates together; each has half of it to itself while it is not shared.
const TENANT: &str =
    "[tenants.shop]\ndefault = true\ncommands-per-second = 400\ncommands-burst = 40\nshared-by = 2\n";

/// Two respgates, with one and with two workers.
fn start(url: &str) -> [Proxy; 2] {
    [1, 2].map(|workers| {
        let toml = format!("[upstreams.main]\nurl = \"{url}\"\n{TENANT}");
        let mut proxy = Proxy::start_file(workers, &toml);
        proxy.allow_log("\"WARN\"");
        wait_until_shared(&proxy, true);
        proxy
    })
}

fn url(server: &Server) -> String {
    format!("redis://127.0.0.1:{}", server.port)
}

fn wait_until_shared(proxy: &Proxy, shared: bool) {
    wait::until("the rates to be shared, or no longer", || {
        proxy.metric("respgate_rates_shared", &[]) == f64::from(u8::from(shared))
    });
}

/// Sends `count` commands from each of two clients of each respgate. Returns how long it took to answer them all.
fn flood(proxies: &[&Proxy], count: usize) -> Duration {
    let mut clients: Vec<_> = proxies.iter().flat_map(|proxy| [proxy.client(), proxy.client()]).collect();
    let began = Instant::now();
    thread::scope(|scope| {
        for client in &mut clients {
            scope.spawn(move || {
                (0..count).for_each(|_| client.send_command(&["GET", "k"]));
                (0..count).for_each(|_| assert_eq!(client.reply(), b"$-1\r\n"));
            });
        }
    });
    began.elapsed()
}

/// How many commands a respgate may have in hand when nothing has passed for a while: a twentieth of a second's, and
/// the server's burst.
const IN_HAND: f64 = 20.0 + 40.0;

#[test]
fn together_they_keep_to_the_rate_and_one_alone_has_all_of_it() {
    let server = Server::start(Flavor::Valkey);
    let [one, other] = start(&url(&server));
    let took = flood(&[&one, &other], 300).as_secs_f64();
    // 1200 commands at 400 a second.
    let least = (1200.0 - 20.0 - IN_HAND) / 400.0 * 0.95;
    assert!(took > least, "{took} s, at least {least} s");
    assert!(took < 2.0 * least + 10.0, "{took} s, at least {least} s");

    // Half of the rate alone would take 2.8 s. A busy machine may be slower than the rate, but hardly each time.
    let mut tries = Vec::new();
    let fast = (0..4).any(|_| {
        let took = flood(&[&one], 300).as_secs_f64();
        tries.push(took);
        assert!(took > (600.0 - IN_HAND) / 400.0 * 0.95, "{took} s for 600 commands");
        took < 2.2
    });
    assert!(fast, "one alone took {tries:?} s for 600 commands");
    assert_eq!(one.metric("respgate_rate_fallbacks_total", &[]), 0.0);
}

on_both_servers!(each_keeps_to_its_part_while_scripts_are_refused);

/// A server that refuses the script: each keeps to its half, says so once, and shares again when it is allowed.
fn each_keeps_to_its_part_while_scripts_are_refused(flavor: Flavor) {
    let server = Server::start(flavor);
    let [one, other] = start(&url(&server));
    server.run(&["ACL", "SETUSER", "default", "-eval"]);
    [&one, &other].into_iter().for_each(|proxy| wait_until_shared(proxy, false));
    assert_eq!(one.metric("respgate_rate_fallbacks_total", &[]), 1.0);
    let ready = one.http("/readyz");
    assert!(ready.starts_with("HTTP/1.1 200") && ready.contains("not shared: NOPERM"), "{ready}");
    let took = flood(&[&one, &other], 110).as_secs_f64();
    // 220 commands each at 200 a second, 20 of them at once.
    assert!(took > 0.95 && took < 10.0, "{took} s");
    server.run(&["ACL", "SETUSER", "default", "+eval"]);
    [&one, &other].into_iter().for_each(|proxy| wait_until_shared(proxy, true));
    assert!(!one.http("/readyz").contains("not shared"));
    assert_eq!(one.log().matches("cannot share rates").count(), 1, "{}", one.log());
}

#[test]
fn rates_are_shared_again_after_the_server_was_away() {
    let mut server = Server::start(Flavor::Valkey);
    let [mut one, other] = start(&url(&server));
    one.allow_log("");
    server.crash();
    wait_until_shared(&one, false);
    server.restart(&[]);
    [&one, &other].into_iter().for_each(|proxy| wait_until_shared(proxy, true));
    assert!(flood(&[&one, &other], 60).as_secs_f64() > (240.0 - 20.0 - IN_HAND) / 400.0 * 0.95);
}

/// The new primary is asked from then on, and clients notice nothing of the limits.
#[test]
fn rates_are_shared_through_the_primary_after_a_failover() {
    let deployment = Deployment::start(&Plan { replicas: 1, ..Plan::new(Flavor::Valkey) });
    deployment.wait_until_redundant();
    let [one, other] = start(&deployment.url());
    assert_eq!(deployment.sentinels[0].run(&["SENTINEL", "FAILOVER", NAME]), b"+OK\r\n");
    let replica = &deployment.replicas[0];
    let asked = |proxy: &Proxy| {
        let before = replica.run(&["GET", "__respgate:limit:{shop}:commands-per-second"]);
        proxy.client().expect(&["GET", "k"], "$-1\r\n");
        flood(&[proxy], 20);
        let now = replica.run(&["GET", "__respgate:limit:{shop}:commands-per-second"]);
        replica.run_text(&["ROLE"]).contains("master") && before != now
    };
    wait::until("the new primary to be asked", || asked(&one) && asked(&other));
    [&one, &other].into_iter().for_each(|proxy| wait_until_shared(proxy, true));
}
