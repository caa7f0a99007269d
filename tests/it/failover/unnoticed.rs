//! Failovers while clients only hold leases, only subscribe, or do not exist: each is one entry.

use super::*;
use crate::support::client::Client;

#[derive(Clone, Copy, Debug)]
enum Traffic {
    None,
    Scripts,
    Pop,
    Subscriber,
    FanIn,
}

#[test]
fn every_failover_is_one_entry_on_valkey() {
    every_failover_is_one_entry(Flavor::Valkey, 1);
}

#[test]
fn every_failover_is_one_entry_on_redis() {
    every_failover_is_one_entry(Flavor::Redis, 2);
}

fn every_failover_is_one_entry(flavor: Flavor, workers: usize) {
    for traffic in [Traffic::None, Traffic::Scripts, Traffic::Pop, Traffic::Subscriber, Traffic::FanIn] {
        // Only one of them needs the time that Sentinels take between two.
        let failovers = if matches!(traffic, Traffic::None) { 2 } else { 1 };
        let deployment = Deployment::start(&plan(flavor));
        deployment.wait_until_redundant();
        let pubsub = if matches!(traffic, Traffic::FanIn) { "fan-in" } else { "dedicated" };
        let toml = format!(
            "[upstreams.main]\nurl = \"{}\"\n[tenants.all]\ndefault = true\npubsub = \"{pubsub}\"\n",
            deployment.url()
        );
        let mut proxy = Proxy::start_file(workers, &toml);
        proxy.allow_log("\"WARN\"");
        let mut client = proxy.client();
        begin(&mut client, traffic);
        for count in 1..=failovers {
            wait::until_some("a Sentinel to begin a failover", Duration::from_secs(40), || {
                let reply = deployment.sentinels[0].run_text(&["SENTINEL", "FAILOVER", NAME]);
                (reply == "+OK\r\n").then_some(())
            });
            wait::until("its entry", || entries(&proxy) >= count);
        }
        if matches!(traffic, Traffic::None) {
            client.expect(&["GET", "nothing"], "$-1\r\n");
        }
        thread::sleep(Duration::from_secs(2));
        let text = proxy.http("/failovers");
        assert_eq!(entries(&proxy), failovers, "{traffic:?}: {text}");
        assert_eq!(proxy.metric("respgate_failovers_total", &[]), failovers as f64, "{traffic:?}");
        if matches!(traffic, Traffic::Subscriber) {
            assert!(text.contains("\"migrated\": 1"), "{text}");
        }
        drop((client, proxy));
    }
}

on_both_servers!(a_script_of_unknown_outcome_is_part_of_the_entry, unknown_script);

/// A write on a lease is under way when the primary dies.
fn unknown_script(flavor: Flavor) {
    let mut deployment = Deployment::start(&plan(flavor));
    deployment.wait_until_redundant();
    let mut proxy = Proxy::start(&deployment.url());
    proxy.allow_log("\"WARN\"");
    let mut client = proxy.client();
    let script = ["EVAL", "return redis.call('INCR', KEYS[1])", "1", "n"];
    client.expect(&script, ":1\r\n");
    deployment.primary.signal("STOP");
    client.send_command(&script);
    client.expect_silence(Duration::from_millis(300));
    deployment.primary.crash();
    let reply = client.reply();
    assert!(reply.starts_with(b"-OUTCOMEUNKNOWN "), "{}", reply.escape_ascii());
    wait::until("its entry", || entries(&proxy) == 1);
    let text = proxy.http("/failovers");
    assert!(text.contains("\"unknown\": 1") && text.contains("\"lossless\": false"), "{text}");
    assert_eq!(proxy.metric("respgate_outcome_unknown_total", &[]), 1.0);
}

fn begin(client: &mut Client, traffic: Traffic) {
    match traffic {
        Traffic::None => {}
        Traffic::Scripts => client.expect(&["EVAL", "return 'x'", "0"], "$1\r\nx\r\n"),
        Traffic::Pop => client.send_command(&["BLPOP", "nothing", "0"]),
        Traffic::Subscriber | Traffic::FanIn => {
            client.expect(&["SUBSCRIBE", "news"], "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n");
        }
    }
}

fn entries(proxy: &Proxy) -> usize {
    proxy.http("/failovers").matches("began_unix_ms").count()
}
