//! What the codec costs, in ns per operation: `cargo bench --bench codec`. Each figure is the best of several rounds,
//! which other programs on the machine disturb least.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark prints, and has frames of its own")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use respgate::command;
use respgate::resp::reply::{ReplyScanner, ScannedReply};
use respgate::resp::request::{Request, RequestLimits, RequestScanner, Scanned, encode};

const ROUNDS: u32 = 15;
const ROUND: Duration = Duration::from_millis(30);

/// Times `run`, which performs `operations` operations.
fn measure(name: &str, operations: u32, mut run: impl FnMut()) {
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let (start, mut runs) = (Instant::now(), 0u32);
        while start.elapsed() < ROUND {
            for _ in 0..100 {
                run();
            }
            runs += 100;
        }
        best = best.min(start.elapsed().as_nanos() as f64 / f64::from(runs) / f64::from(operations));
    }
    println!("{name:44} {best:8.1} ns");
}

fn frame(args: &[&[u8]]) -> Vec<u8> {
    let mut frame = Vec::new();
    encode(args, &mut frame);
    frame
}

/// Scans every request in `input` and does something with each.
fn scan_requests(input: &[u8], mut each: impl FnMut(&Request<'_>)) {
    let (limits, mut scanner, mut at) = (RequestLimits::default(), RequestScanner::default(), 0);
    while let Scanned::Request(request) = scanner.scan(black_box(&input[at..]), &limits) {
        at += request.len();
        each(&request);
    }
    assert_eq!(at, input.len());
}

fn scan_replies(input: &[u8]) {
    let (mut scanner, mut at) = (ReplyScanner::default(), 0);
    while let ScannedReply::Complete { len, .. } = scanner.scan(black_box(&input[at..])) {
        at += len;
    }
    assert_eq!(at, input.len());
}

fn requests() {
    let get = frame(&[b"GET", b"key:000000001234"]);
    let set = frame(&[b"SET", b"key:000000001234", &[b'x'; 64]]);
    let hset = frame(&[&b"HSET"[..], b"h", b"a", b"1", b"b", b"2", b"c", b"3", b"d", b"4"]);
    let skim = |request: &Request<'_>| {
        black_box(request.argc());
    };
    measure("scan GET", 1, || scan_requests(&get, skim));
    measure("scan SET of 64 bytes", 1, || scan_requests(&set, skim));
    measure("scan HSET of 4 fields", 1, || scan_requests(&hset, skim));
    measure("scan SET of 16 KiB", 1, {
        let set = frame(&[b"SET", b"key:000000001234", &[b'x'; 16384]]);
        move || scan_requests(&set, skim)
    });
    for (name, one) in [("GET", &get), ("SET", &set)] {
        let batch = one.repeat(16);
        measure(&format!("scan {name}, 16 in a pipeline"), 16, || scan_requests(&batch, skim));
        measure(&format!("scan and find {name}, 16 in a pipeline"), 16, || {
            scan_requests(&batch, |request| {
                black_box(command::find(request));
            });
        });
    }
    measure("the arguments of HSET", 1, {
        let request = Request::parse(&hset).unwrap();
        move || {
            black_box(black_box(&request).args().map(<[u8]>::len).sum::<usize>());
        }
    });
}

fn lookups() {
    for name in ["GET", "set", "ZREVRANGEBYSCORE", "NOSUCHCOMMAND"] {
        measure(&format!("look up {name}"), 1, || {
            black_box(command::lookup(black_box(name.as_bytes())));
        });
    }
    let config = frame(&[b"CONFIG", b"GET", b"maxmemory"]);
    let request = Request::parse(&config).unwrap();
    measure("find CONFIG GET", 1, || {
        black_box(command::find(black_box(&request)));
    });
}

fn replies() {
    let bulk = [&b"$64\r\n"[..], &[b'x'; 64], b"\r\n"].concat();
    let ok = b"+OK\r\n".repeat(16);
    let array = [&b"*10\r\n"[..], &b"$5\r\nhello\r\n".repeat(10)].concat();
    measure("scan +OK, 16 in a row", 16, || scan_replies(&ok));
    measure("scan a bulk of 64 bytes", 1, || scan_replies(&bulk));
    measure("scan a bulk of 64 bytes, 16 in a row", 16, {
        let batch = bulk.repeat(16);
        move || scan_replies(&batch)
    });
    measure("scan an integer", 1, || scan_replies(b":1234\r\n"));
    measure("scan an array of 10", 1, || scan_replies(&array));
    measure("scan an array of 1000, per element", 1000, {
        let large = [&b"*1000\r\n"[..], &b"$5\r\nhello\r\n".repeat(1000)].concat();
        move || scan_replies(&large)
    });
}

fn main() {
    requests();
    lookups();
    replies();
}
