//! Client bytes: however they are split, they scan the same; what is accepted is canonical; an inline command
//! becomes one canonical request.
#![no_main]

use libfuzzer_sys::fuzz_target;
use respgate::command;
use respgate::resp::request::{
    Request, RequestError, RequestLimits, RequestScanner, Scanned, encode, split_inline,
};

/// What a scan found, without its borrow: a request by its length.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Found {
    Incomplete,
    Request(usize),
    Inline(usize),
    Skip(usize),
    Fault(RequestError),
}

fn found(scanned: Scanned<'_>) -> Found {
    match scanned {
        Scanned::Incomplete { need } => {
            assert!(need > 0);
            Found::Incomplete
        }
        Scanned::Request(request) => Found::Request(request.len()),
        Scanned::Inline { consumed } => Found::Inline(consumed),
        Scanned::Skip(count) => Found::Skip(count),
        Scanned::Malformed(fault) => Found::Fault(fault),
    }
}

fn check_canonical(raw: &[u8]) {
    let request = Request::parse(raw).expect("what was accepted is canonical");
    let args: Vec<&[u8]> = request.args().collect();
    let mut again = Vec::new();
    encode(&args, &mut again);
    assert_eq!(raw, again);
    assert_eq!(request.argc() as usize, args.len());
    assert_eq!(Some(&request.name()), args.first());
    if let Some(command::Found::Spec(spec)) = command::find(&request) {
        assert!(command::printable(request.name()));
        command::retry_of(spec, &request);
        command::may_block(spec, &request);
    }
}

fn check(input: &[u8], limits: &RequestLimits) -> Found {
    let whole = found(RequestScanner::default().scan(input, limits));
    let mut scanner = RequestScanner::default();
    let bytewise = (0..=input.len())
        .map(|end| found(scanner.scan(&input[..end], limits)))
        .find(|found| *found != Found::Incomplete)
        .unwrap_or(Found::Incomplete);
    assert_eq!(bytewise, whole);
    match whole {
        Found::Request(len) => check_canonical(&input[..len]),
        Found::Inline(len) => match split_inline(&input[..len], limits) {
            Ok(Some(frame)) => check_canonical(&frame),
            Ok(None) => panic!("a blank line is to be skipped"),
            Err(fault) => check_reply(fault),
        },
        Found::Skip(len) => assert!(len > 0 && len <= input.len()),
        Found::Fault(fault) => check_reply(fault),
        Found::Incomplete => {}
    }
    whole
}

/// The client sees one error line, whatever it sent.
fn check_reply(fault: RequestError) {
    let reply = fault.reply();
    let line = reply.strip_suffix(b"\r\n").expect("a line");
    assert!(line.starts_with(b"-ERR Protocol error: ") && !line.iter().any(|byte| b"\r\n\0".contains(byte)));
}

fuzz_target!(|input: &[u8]| {
    let limits = RequestLimits::default();
    check(input, &limits.unauthenticated());
    check(input, &RequestLimits { max_request: 64, max_bulk: 16, max_args: 4, max_inline: 32, ..limits });
    let mut rest = input;
    while let Found::Request(len) | Found::Inline(len) | Found::Skip(len) = check(rest, &limits) {
        rest = &rest[len..];
    }
});
