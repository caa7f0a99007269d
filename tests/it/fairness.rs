//! Clients that ask for more than the server does share it: what each gets is read from the order in which a server that
//! was stopped for a while has run their commands.

use crate::support::client::{Client, encode};
use crate::support::compare::Pair;
use crate::support::servers::Flavor;

const PIPELINE: usize = 1000;

/// Sends a whole pipeline, each command of which leaves `mark` on the list.
fn flood(client: &mut Client, mark: &str) {
    client.send(encode(&["RPUSH", "log", mark]).repeat(PIPELINE));
}

/// Reads the replies, which tell the places of the commands in the order of the server.
fn places(client: &mut Client) -> Vec<usize> {
    let number = |reply: Vec<u8>| {
        String::from_utf8_lossy(&reply).trim_start_matches(':').trim().parse().expect("a length")
    };
    (0..PIPELINE).map(|_| number(client.reply())).collect()
}

#[test]
fn a_polite_client_waits_behind_a_window_not_behind_pipelines() {
    for tenants in ["default = true\n", "client-names = [\"flood\"]\n[tenants.rest]\ndefault = true\n"] {
        let pair = Pair::start_file(
            Flavor::Valkey,
            &format!("[upstreams.main]\nurl = \"URL\"\n[tenants.flood]\n{tenants}"),
        );
        let mut polite = pair.proxy.client();
        polite.expect(&["LLEN", "log"], ":0\r\n");
        let mut flooding: Vec<_> = (0..20).map(|_| pair.proxy.client()).collect();
        for client in &mut flooding {
            client.expect(&["CLIENT", "SETNAME", "flood"], "+OK\r\n");
        }
        pair.server.signal("STOP");
        for client in &mut flooding {
            flood(client, "x");
        }
        // Answered by respgate itself, behind what it has read of the others before.
        polite.expect(&["ECHO", "x"], "$1\r\nx\r\n");
        polite.send_command(&["LLEN", "log"]);
        pair.server.signal("CONT");
        let reply = String::from_utf8(polite.reply()).expect("a length");
        let before: usize = reply.trim_start_matches(':').trim().parse().expect("a length");
        assert!(before < 2000, "{before} of {} commands went before", 20 * PIPELINE);
        for client in &mut flooding {
            assert!(places(client).is_sorted(), "a client's commands keep their order");
        }
        assert_eq!(pair.server.run_text(&["LLEN", "log"]), format!(":{}\r\n", 20 * PIPELINE));
    }
}

#[test]
fn weights_share_a_crowded_connection() {
    let tenants =
        "[tenants.heavy]\nclient-names = [\"heavy\"]\nweight = 4\n[tenants.light]\ndefault = true\n";
    let pair = Pair::start_file(Flavor::Valkey, &format!("[upstreams.main]\nurl = \"URL\"\n{tenants}"));
    let mut clients: Vec<_> = (0..20).map(|_| pair.proxy.client()).collect();
    for client in clients.iter_mut().step_by(2) {
        client.expect(&["CLIENT", "SETNAME", "heavy"], "+OK\r\n");
    }
    pair.server.signal("STOP");
    for (at, client) in clients.iter_mut().enumerate() {
        flood(client, if at % 2 == 0 { "heavy" } else { "light" });
    }
    let mut last = pair.proxy.client();
    last.expect(&["ECHO", "x"], "$1\r\nx\r\n");
    pair.server.signal("CONT");
    let mut heavy: Vec<_> = clients.iter_mut().step_by(2).flat_map(places).collect();
    heavy.sort_unstable();
    clients.iter_mut().skip(1).step_by(2).for_each(|client| drop(places(client)));
    // Beyond what went at will before the window was full, and before the heavy ones have had all they wanted.
    let among = heavy.iter().filter(|place| (2000..8000).contains(*place)).count();
    assert!((4200..5300).contains(&among), "{among} of 6000, of which four fifths are due");
}
