//! `cargo test --test hostile -- memory [WORDS OF A ROW]`: known ways to make respgate keep much, one at a time, and what its process
//! takes meanwhile. Meant for a release build (`RESPGATE_BIN`): passwords are checked at their full price.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::arena::{Arena, Door, Layout, Limits, Setting, connect};
use crate::support::client::{Client, encode};
use crate::support::servers::Flavor;

/// How long attackers stay once they have sent everything.
const HELD: Duration = Duration::from_secs(3);

/// How long respgate has to give memory back when they have left.
const AFTERWARDS: Duration = Duration::from_secs(3);

/// How long an attacker waits for respgate to take a byte.
const PATIENCE: Duration = Duration::from_secs(1);

/// One way.
struct Row {
    name: &'static str,
    /// In MiB.
    max_buffered: usize,
    layout: Layout,
    /// Connects, sends, and gives what stays open.
    attack: fn(&Arena) -> Vec<TcpStream>,
}

const ROWS: [Row; 9] = [
    row("10 names of 20 MiB (CLIENT SETNAME)", |arena| held(arena, 10, |_| named(b"SETNAME", 20 << 20))),
    row("10 library names of 20 MiB (CLIENT SETINFO)", |arena| {
        held(arena, 10, |_| encode(&[&b"CLIENT"[..], b"SETINFO", b"LIB-NAME", &long(20 << 20)]))
    }),
    row("20 tracking prefixes of 20 MiB", |arena| {
        let track = || encode(&[&b"CLIENT"[..], b"TRACKING", b"ON", b"BCAST", b"PREFIX", &long(20 << 20)]);
        held(arena, 20, |_| [encode(&["HELLO", "3"]), track()].concat())
    }),
    row("100 subscriptions to names of 3 MiB", |arena| {
        held(arena, 100, |number| encode(&[&b"SUBSCRIBE"[..], &[number as u8; 1], &long(3 << 20)]))
    }),
    row("200 transactions of 1 MB", |arena| {
        let set = encode(&[&b"SET"[..], b"a:k2", &long(60 << 10)]);
        held(arena, 200, |_| [encode(&["MULTI"]), set.repeat(16)].concat())
    }),
    Row {
        name: "300 unfinished requests of 240 kB",
        max_buffered: 64,
        layout: Layout::Listeners,
        attack: |arena| {
            let mut unfinished = encode(&[&b"SET"[..], b"a:k2", &long(400_000)]);
            unfinished.truncate(240_000);
            held(arena, 300, |_| unfinished.clone())
        },
    },
    // Few: the kernel keeps some MiB of each, and the machine has little for all sockets.
    row("30 readers that do not read 20 MiB each", |arena| {
        held(arena, 30, |_| encode(&["GET", "a:k1"]).repeat(20))
    }),
    Row {
        name: "2,000 subscribers by fan-in that do not read, 40 messages of 100 kB",
        max_buffered: 128,
        layout: Layout::Listeners,
        attack: |arena| {
            let open = open(arena, Door::FanMob, 2000, |_| encode(&["SUBSCRIBE", "a:c1"]));
            thread::sleep(Duration::from_secs(2));
            let mut publisher = Client::connect_to(arena.doors.address(Door::Free));
            for _ in 0..40 {
                publisher.call(&[&b"PUBLISH"[..], b"a:c1", &long(100_000)]);
            }
            open
        },
    },
    Row {
        name: "300 wrong passwords from as many addresses",
        max_buffered: 32,
        layout: Layout::Users,
        attack: |arena| open(arena, Door::Free, 300, |_| encode(&["AUTH", "free", "wrong"])),
    },
];

const fn row(name: &'static str, attack: fn(&Arena) -> Vec<TcpStream>) -> Row {
    Row { name, max_buffered: 32, layout: Layout::Listeners, attack }
}

fn named(subcommand: &[u8], length: usize) -> Vec<u8> {
    encode(&[b"CLIENT", subcommand, &long(length)])
}

fn long(length: usize) -> Vec<u8> {
    vec![b'n'; length]
}

fn held(arena: &Arena, count: usize, bytes: impl Fn(usize) -> Vec<u8>) -> Vec<TcpStream> {
    open(arena, Door::Free, count, bytes)
}

/// Connections from as many addresses, and what each sends.
fn open(arena: &Arena, door: Door, count: usize, bytes: impl Fn(usize) -> Vec<u8>) -> Vec<TcpStream> {
    let connections = (0..count).filter_map(|number| {
        let source = Ipv4Addr::new(127, 0, 2 + (number / 250) as u8, 1 + (number % 250) as u8);
        let mut stream = connect(arena.doors.address(door), source).ok()?;
        stream.set_write_timeout(Some(PATIENCE)).ok()?;
        // respgate may refuse, or close.
        let _ = stream.write_all(&bytes(number));
        Some(stream)
    });
    connections.collect()
}

/// Runs all rows whose name contains `wanted` on this server, and says how many of them failed.
pub fn run(flavor: Flavor, workers: usize, wanted: &str) -> usize {
    let mut failed = 0;
    println!(
        "{} with {workers} workers, in MiB: resident at most (allowed), counted at most, resident afterwards",
        flavor.name()
    );
    for row in ROWS.iter().filter(|row| row.name.contains(wanted)) {
        let limits = Limits { max_buffered: row.max_buffered << 20, is_tight: false };
        let arena = Arena::start(Setting { flavor, workers, layout: row.layout, limits }, "tag");
        let (peak, counted, over) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
        let served = thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    peak.fetch_max(arena.proxy.anonymous_bytes(), Ordering::Relaxed);
                    let buffered = arena.proxy.metric("respgate_buffered_bytes", &[]);
                    counted.fetch_max(buffered as usize, Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(20));
                }
            });
            let connections = (row.attack)(&arena);
            thread::sleep(HELD);
            let served = bystander(&arena);
            drop(connections);
            over.store(true, Ordering::Relaxed);
            served
        });
        thread::sleep(AFTERWARDS);
        let (peak, after) = (peak.into_inner() >> 20, arena.proxy.anonymous_bytes() >> 20);
        let counted = counted.into_inner() >> 20;
        let allowed = limits.max_resident() >> 20;
        let verdict = match served {
            Err(what) => format!("FAULT: a bystander: {what}"),
            Ok(()) if peak > allowed => "FAULT".to_owned(),
            Ok(()) => "ok".to_owned(),
        };
        failed += usize::from(verdict != "ok");
        println!("  {peak:>5} ({allowed:>4}) {counted:>7} {after:>10}  {}: {verdict}", row.name);
        let _ = arena.end();
    }
    failed
}

/// An ordinary client writes and reads a value of 1 MiB.
fn bystander(arena: &Arena) -> Result<(), String> {
    let error = |error: std::io::Error| error.to_string();
    let mut stream = connect(arena.doors.address(Door::Victims), Ipv4Addr::LOCALHOST).map_err(error)?;
    // Passwords of others may be checked first.
    stream.set_read_timeout(Some(Duration::from_secs(60))).map_err(error)?;
    let value = long(1 << 20);
    let (mut questions, mut owed) = (Vec::new(), Vec::<u8>::new());
    if let Some(login) = arena.doors.login(Door::Victims) {
        questions.extend(login);
        owed.extend(b"+OK\r\n");
    }
    questions.extend(encode(&[&b"SET"[..], b"v:k", &value]));
    questions.extend(encode(&["GET", "v:k"]));
    owed.extend(b"+OK\r\n");
    owed.extend(format!("${}\r\n", value.len()).as_bytes());
    owed.extend(&value);
    owed.extend(b"\r\n");
    stream.write_all(&questions).map_err(error)?;
    let mut got = vec![0; owed.len()];
    stream.read_exact(&mut got).map_err(error)?;
    if got == owed { Ok(()) } else { Err(format!("got {}", got[..80].escape_ascii())) }
}
