//! A failover with reads on replicas: no error, and nobody misses an own write.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use super::sent_to_replicas;
use crate::support::client::Client;
use crate::support::deployment::{Deployment, NAME, Plan};
use crate::support::proxy::Proxy;
use crate::support::servers::Flavor;
use crate::support::wait;

/// Clients that write and read at once.
const CLIENTS: u64 = 8;

on_both_servers!(a_planned_failover, |flavor| {
    failover(flavor, |deployment| {
        deployment.sentinels[0].run(&["SENTINEL", "FAILOVER", NAME]);
    });
});

fn failover(flavor: Flavor, begin: fn(&Deployment)) {
    let deployment = Deployment::start(&Plan { replicas: 2, down_after_ms: 60_000, ..Plan::new(flavor) });
    deployment.wait_until_redundant();
    let text = format!(
        "[tenants.all]\ndefault = true\nreads = \"prefer-replica\"\n[upstreams.main]\nurl = \"{}\"\n",
        deployment.url()
    );
    let proxy = Proxy::start_file(2, &text);
    let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (client, stop, rounds) = (proxy.client(), Arc::clone(&stop), Arc::clone(&rounds));
            thread::spawn(move || work(client, number, &stop, &rounds))
        })
        .collect();
    wait::until("reads from replicas", || sent_to_replicas(&proxy) > 100.0);
    begin(&deployment);
    wait::until("a new primary", || {
        let named = deployment.sentinels[0].run_text(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME]);
        !named.contains(&format!("\r\n{}\r\n", deployment.primary.port))
    });
    let (before, done) = (sent_to_replicas(&proxy), rounds.load(Ordering::Relaxed));
    wait::until("work with the new primary", || rounds.load(Ordering::Relaxed) > done + 200);
    wait::until("reads from its replicas", || sent_to_replicas(&proxy) > before + 100.0);
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().expect("a client saw an error or an old value");
    }
}

/// Writes a number, and reads it some times.
fn work(mut client: Client, number: u64, stop: &AtomicBool, rounds: &AtomicU64) {
    client.deadline(Duration::from_secs(30));
    let key = format!("drill:{number}");
    let mut value = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        value += 1;
        let shown = value.to_string();
        client.expect(&["SET", &key, &shown], "+OK\r\n");
        for pause in [0, 0, 20, 0] {
            thread::sleep(Duration::from_millis(pause));
            client.expect(&["GET", &key], &format!("${}\r\n{shown}\r\n", shown.len()));
        }
        rounds.fetch_add(1, Ordering::Relaxed);
    }
}
