//! CLIENT KILL while clients work: each form ends whom it names, those connect again, and nobody else notices.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use super::{Site, list};
use crate::support::client::Client;
use crate::support::servers::Flavor;
use crate::support::wait;

/// Clients that are disconnected, and clients that must not notice.
const EACH: usize = 4;

on_both_servers!(each_form_ends_whom_it_names_under_load, workers: [1, 2]);

fn each_form_ends_whom_it_names_under_load(flavor: Flavor, workers: usize) {
    let site = Site::start(flavor, workers);
    let mut asker = site.named("asker");
    let stop = AtomicBool::new(false);
    let (reconnects, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for number in 0..EACH {
            scope.spawn(|| victim(&site, &stop, &reconnects));
            let (site, stop, done) = (&site, &stop, &done);
            scope.spawn(move || bystander(site, number, stop, done));
        }
        // Ends the threads if an assertion fails.
        let _stop = Stop(&stop);
        let victims = |asker: &mut Client| list(asker, &["NAME", "victim", "DB", "3"]);
        let addr = |asker: &mut Client| victims(asker).first().map(|line| line.field("addr").to_owned());
        let forms: [fn(&str, &str) -> Vec<String>; 8] = [
            |addr, _| vec![addr.into()],
            |_, id| vec!["ID".into(), id.into()],
            |addr, _| vec!["ADDR".into(), addr.into()],
            |_, _| vec!["NAME".into(), "victim".into()],
            |_, _| vec!["USER".into(), "default".into(), "DB".into(), "3".into()],
            |_, _| vec!["LIB-NAME".into(), "victims".into(), "SKIPME".into(), "no".into()],
            |_, _| {
                vec![
                    "NOT-NAME".into(),
                    "asker".into(),
                    "NOT-DB".into(),
                    "0".into(),
                    "TYPE".into(),
                    "normal".into(),
                ]
            },
            |_, _| vec!["MAXAGE".into(), "1".into(), "NAME".into(), "victim".into()],
        ];
        for form in forms {
            let before = reconnects.load(Ordering::Relaxed);
            wait::until("the form to end a client", || {
                let Some(addr) = addr(&mut asker) else { return false };
                let Some(id) = victims(&mut asker).first().map(|line| line.field("id").to_owned()) else {
                    return false;
                };
                let words = form(&addr, &id);
                let words: Vec<&str> =
                    ["CLIENT", "KILL"].into_iter().chain(words.iter().map(String::as_str)).collect();
                let reply = asker.call(&words);
                assert!(
                    matches!(reply[0], b'+' | b':') || reply == b"-ERR No such client\r\n",
                    "{}",
                    reply.escape_ascii()
                );
                reply == b"+OK\r\n" || reply[0] == b':' && reply != b":0\r\n"
            });
            wait::until("the client to connect again", || reconnects.load(Ordering::Relaxed) > before);
        }
    });
    assert!(done.load(Ordering::Relaxed) > 10 * EACH, "the bystanders did hardly anything");
    for count in ["respgate_upstream_connections_lost_total", "respgate_upstream_connections_replaced_total"]
    {
        assert_eq!(site.proxy.metric(count, &[]), 0.0, "{count}");
    }
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Works in database 3, and connects again whenever it is disconnected. Never gets an error, or a part of a reply.
fn victim(site: &Site, stop: &AtomicBool, reconnects: &AtomicUsize) {
    let mut connected = 0;
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut client) = Client::try_connect(site.proxy.address()) else { continue };
        if connected > 0 {
            reconnects.fetch_add(1, Ordering::Relaxed);
        }
        connected += 1;
        let commands: [(&[&str], &[u8]); 6] = [
            (&["CLIENT", "SETINFO", "LIB-NAME", "victims"], b"+OK\r\n"),
            (&["SELECT", "3"], b"+OK\r\n"),
            (&["CLIENT", "SETNAME", "victim"], b"+OK\r\n"),
            (&["SET", "k", "v"], b"+OK\r\n"),
            (&["GET", "k"], b"$1\r\nv\r\n"),
            (&["BLPOP", "nothing", "0.01"], b"*-1\r\n"),
        ];
        let (prelude, work) = commands.split_at(3);
        let mut run = |(words, expected): &(&[&str], &[u8])| {
            client.send_command(words);
            match client.try_reply() {
                Ok(reply) => {
                    assert_eq!(reply.escape_ascii().to_string(), expected.escape_ascii().to_string());
                    true
                }
                Err(_) => false,
            }
        };
        if !prelude.iter().all(&mut run) {
            continue;
        }
        while !stop.load(Ordering::Relaxed) && work.iter().all(&mut run) {}
    }
}

/// Works in database 0, and must get every reply.
fn bystander(site: &Site, number: usize, stop: &AtomicBool, done: &AtomicUsize) {
    let mut client = site.named("bystander");
    let key = format!("count:{number}");
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        count += 1;
        client.expect(&["INCR", &key], &format!(":{count}\r\n"));
        client.expect(&["BLPOP", "nothing", "0.001"], "*-1\r\n");
        client.send(
            [b"*1\r\n$5\r\nMULTI\r\n".as_slice(), b"*1\r\n$4\r\nPING\r\n", b"*1\r\n$4\r\nEXEC\r\n"].concat(),
        );
        client.replies_are(&["+OK\r\n", "+QUEUED\r\n", "*1\r\n+PONG\r\n"]);
        done.fetch_add(1, Ordering::Relaxed);
    }
}
