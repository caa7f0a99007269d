//! CLIENT UNBLOCK ends the wait of a blocked client, as the server would.

use std::thread;
use std::time::{Duration, Instant};

use super::{Site, block, id_of};
use crate::support::servers::Flavor;

on_both_servers!(a_blocked_client_is_unblocked, workers: [1, 2]);

fn a_blocked_client_is_unblocked(flavor: Flavor, workers: usize) {
    let site = Site::start(flavor, workers);
    let mut asker = site.named("asker");
    let mut worker = site.named("worker");
    let id = id_of(&mut asker, "worker");
    asker.expect(&["CLIENT", "UNBLOCK", &id], ":0\r\n");
    for (reason, reply) in [
        (&[][..], "*-1\r\n"),
        (&["TIMEOUT"], "*-1\r\n"),
        (&["error"], "-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n"),
    ] {
        block(&site.server, &mut worker, "q");
        asker.expect(&[&["CLIENT", "UNBLOCK", &id], reason].concat(), ":1\r\n");
        worker.expect_reply(reply);
        asker.expect(&["CLIENT", "UNBLOCK", &id], ":0\r\n");
    }
    for (command, reply) in [
        (&["XREAD", "BLOCK", "0", "STREAMS", "s", "$"][..], "*-1\r\n"),
        (&["BLMOVE", "a", "b", "LEFT", "LEFT", "0"], "$-1\r\n"),
        (&["BZPOPMIN", "z", "0"], "*-1\r\n"),
    ] {
        worker.send_command(command);
        crate::support::wait::until("the client to be blocked", || {
            site.server.info("clients", "blocked_clients") == 1
        });
        asker.expect(&["CLIENT", "UNBLOCK", &id], ":1\r\n");
        let got = worker.reply();
        let null = got == b"*-1\r\n" || got == b"$-1\r\n";
        assert!(null, "{command:?}: {} instead of {reply:?}", got.escape_ascii());
    }
    worker.expect(&["PING"], "+PONG\r\n");
    // A client that waits on the server by itself is none of respgate's.
    asker.expect(&["CLIENT", "UNBLOCK", "999999999"], ":0\r\n");
}

/// An element and an UNBLOCK arrive at the same time: either the client gets the element and the answer is 0, or the
/// client's time is over, the answer is 1, and the element stays. No other client is ever unblocked.
#[test]
fn the_race_has_one_winner() {
    let site = Site::start(Flavor::Valkey, 2);
    let (mut asker, mut pusher) = (site.named("asker"), site.named("pusher"));
    let mut bystander = site.named("bystander");
    let mut worker = site.named("worker");
    let id = id_of(&mut asker, "worker");
    let (mut unblocked, mut popped) = (0, 0);
    let until = Instant::now() + Duration::from_secs(5);
    let mut rounds = 0;
    while rounds < 200 && Instant::now() < until {
        rounds += 1;
        let key = format!("q{rounds}");
        worker.send_command(&["BLPOP", &key, "0"]);
        let (answer, ()) = thread::scope(|scope| {
            let asked = scope.spawn(|| asker.call(&["CLIENT", "UNBLOCK", &id]));
            pusher.expect(&["RPUSH", &key, "x"], ":1\r\n");
            (asked.join().expect("an answer"), ())
        });
        // The same connection may serve the next client at once.
        bystander.expect(
            &["BLPOP", &key, "0.001"],
            if worker.reply() == b"*-1\r\n" {
                assert_eq!(answer, b":1\r\n", "round {rounds}");
                unblocked += 1;
                // The pop left the element for the bystander.
                &*format!("*2\r\n${}\r\n{key}\r\n$1\r\nx\r\n", key.len()).leak()
            } else {
                assert_eq!(answer, b":0\r\n", "round {rounds}");
                popped += 1;
                "*-1\r\n"
            },
        );
    }
    assert_eq!(unblocked + popped, rounds);
}
