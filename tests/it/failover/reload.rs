//! The configuration changes while another node takes over.

use super::*;
use crate::support::port::free_port;

on_both_servers!(reloads_during_a_failover);

/// Listeners come and go, and limits and timeouts change. Clients notice a pause, and nothing else.
fn reloads_during_a_failover(flavor: Flavor) {
    let mut drill = Drill::start(flavor);
    let url = drill.deployment.url();
    let other = free_port();
    let loaded =
        || drill.proxy.metric("respgate_reloads_total", &["kind=\"configuration\"", "outcome=\"ok\""]);
    drill.note("SENTINEL FAILOVER");
    let reply = drill.deployment.sentinels[0].run_text(&["SENTINEL", "FAILOVER", NAME]);
    assert_eq!(reply, "+OK\r\n");
    for round in 0..10 {
        let listener =
            format!("[listeners.other]\naddress = \"127.0.0.1:{other}\"\nmax-clients = {}\n", round + 1);
        let (more, before) = (if round % 2 == 0 { &*listener } else { "" }, loaded());
        drill.proxy.rewrite(&format!(
            "[limits]\nmax-args = {}\n{more}[upstreams.main]\nurl = \"{url}\"\nhold-timeout = \"{}s\"\nmax-leased = {}\n",
            1000 + round,
            40 + round,
            100 + round
        ));
        wait::until("the new configuration", || loaded() > before);
    }
    let (_, survivor) = drill.wait_for_switch();
    thread::sleep(Duration::from_secs(2));
    let (verdict, _) = drill.finish(survivor);
    drill.report("reloads during a failover", &verdict);
    assert_eq!((verdict.lost, verdict.doubled), (0, 0), "{verdict}");
    assert!(verdict.refused.is_empty(), "{verdict}: {:?}", verdict.refused);
    assert_eq!((verdict.unknown, verdict.dropped), (0, 0), "{verdict}");
}
