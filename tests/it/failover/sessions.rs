//! What becomes of sessions that hold something when another node takes over: none of them ends.

mod each;
mod held;
mod twice;

use std::time::Instant;

use super::*;
use crate::support::client::Client;

/// How the primary is replaced.
#[derive(Clone, Copy, Debug)]
enum Way {
    Planned,
    /// The primary hands over, where the server can do that; otherwise as `Planned`.
    Coordinated,
    Crash,
    /// By hand: nobody kills the connections.
    Manual,
}

impl Drill {
    /// Another node is the primary, and respgate knows. The port of that node.
    fn replace_primary(&mut self, way: Way) -> u16 {
        self.note(format!("{way:?}"));
        let survivor = match way {
            Way::Planned => {
                let reply = self.deployment.sentinels[0].run_text(&["SENTINEL", "FAILOVER", NAME]);
                assert_eq!(reply, "+OK\r\n");
                self.wait_for_switch().1
            }
            Way::Coordinated => {
                if !coordinated::begin(&self.deployment) {
                    return self.replace_primary(Way::Planned);
                }
                self.wait_for_switch().1
            }
            Way::Crash => {
                self.deployment.primary.crash();
                self.wait_for_switch().1
            }
            Way::Manual => self.replace_by_hand(),
        };
        // A write goes through: respgate has switched.
        self.proxy.client().expect(&["SET", "switched", "yes"], "+OK\r\n");
        assert_eq!(self.node(survivor).run_text(&["GET", "switched"]), "$3\r\nyes\r\n");
        self.note("switched");
        survivor
    }
}

on_both_servers!(sessions_live_through_a_planned_failover, |flavor| live_through(flavor, Way::Planned));

#[test]
fn sessions_live_through_a_coordinated_failover() {
    live_through(Flavor::Valkey, Way::Coordinated);
}

on_both_servers!(sessions_live_through_a_crash, |flavor| live_through(flavor, Way::Crash));

// Nobody kills the connections, so that they must be left.
on_both_servers!(sessions_live_through_a_change_by_hand, |flavor| live_through(flavor, Way::Manual));

/// A tenant whose subscriptions share a link, beside those that do not.
const FAN_IN: &str = "[tenants.fan]\nclient-names = [\"fan-\"]\npubsub = \"fan-in\"\n";

/// All of them at once: to start the servers takes longer than anything else here.
fn live_through(flavor: Flavor, way: Way) {
    let mut drill = Drill::without_writers(flavor, FAN_IN);
    drill.note(format!("{} {way:?}", flavor.name()));
    let (each, many) = (each::start(&drill, way), held::Many::start(&drill));
    wait_until_blocked(&drill.deployment.primary, each.blocked + many.blocked());
    wait::until("replication", || replicated(&drill));
    let survivor = drill.replace_primary(way);
    drill.note("the sessions are looked at");
    each.check(&drill, survivor);
    many.check(&drill, way, survivor);
}

fn connect(drill: &Drill, name: &str) -> Client {
    let mut client = drill.proxy.client();
    client.expect(&["CLIENT", "SETNAME", name], "+OK\r\n");
    client
}

fn replicated(drill: &Drill) -> bool {
    let primary = drill.deployment.primary.info("replication", "master_repl_offset");
    let replicas = drill.deployment.replicas.iter();
    replicas.map(|replica| replica.info("replication", "slave_repl_offset")).all(|at| at >= primary)
}

fn wait_until_blocked(node: &Server, count: u64) {
    wait::until("blocked clients", || node.info("clients", "blocked_clients") == count);
}
