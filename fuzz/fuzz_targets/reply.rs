//! Server bytes: however they are split, and whether or not what is known good is dropped on the way, they scan the
//! same; and a frame that the redis-protocol crate accepts too has the same length there.
#![no_main]

use libfuzzer_sys::fuzz_target;
use redis_protocol::{resp2, resp3};
use respgate::resp::reply::{ReplyError, ReplyKind, ReplyScanner, ScannedReply};

/// The decoders recurse, this deep at most.
const DEPTH: usize = 64;

fn check(input: &[u8]) -> Option<(usize, ReplyKind)> {
    let whole = ReplyScanner::default().scan(input);
    let (mut bytewise, mut streamed) = (ReplyScanner::default(), ReplyScanner::default());
    let mut dropped = 0;
    for end in 0..=input.len() {
        let piece = bytewise.scan(&input[..end]);
        let mut rest = streamed.scan(&input[dropped..end]);
        if let ScannedReply::Complete { len, .. } = &mut rest {
            *len += dropped;
        }
        assert_eq!(rest, piece);
        if piece != ScannedReply::Incomplete || end == input.len() {
            assert_eq!(piece, whole);
            break;
        }
        let scanned = streamed.scanned();
        streamed.rebase(scanned);
        dropped += scanned;
    }
    match whole {
        ScannedReply::Complete { len, kind } => {
            assert!(len > 0 && len <= input.len());
            Some((len, kind))
        }
        ScannedReply::Incomplete | ScannedReply::Malformed(_) => None,
    }
}

fn shallow(frame: &[u8]) -> bool {
    let mut open: Vec<u64> = Vec::new();
    let scanned = ReplyScanner::default().scan_seen(frame, |children| {
        if children > 0 {
            open.push(children);
            return if open.len() > DEPTH { Err(ReplyError::Depth) } else { Ok(()) };
        }
        while let Some(missing) = open.last_mut() {
            *missing -= 1;
            if *missing > 0 {
                break;
            }
            open.pop();
        }
        Ok(())
    });
    if matches!(scanned, ScannedReply::Complete { .. }) {
        assert!(open.is_empty(), "a frame ends where its last element ends");
    }
    scanned != ScannedReply::Malformed(ReplyError::Depth)
}

/// The decoders take less than the scanner does (an error must be UTF-8, a double a number), so that they refuse a
/// frame says nothing. But where they see an end, it must be the same.
fn check_oracle(frame: &[u8]) {
    let bytes = frame.to_vec().into();
    if let Ok(Some((_, len))) = resp2::decode::decode_bytes(&bytes) {
        assert_eq!(len, frame.len());
    }
    if let Ok(Some((_, len))) = resp3::decode::complete::decode_bytes(&bytes) {
        assert_eq!(len, frame.len());
    }
}

fuzz_target!(|input: &[u8]| {
    let mut rest = input;
    while let Some((len, kind)) = check(rest) {
        let (frame, behind) = rest.split_at(len);
        assert!(kind != ReplyKind::Error || matches!(frame[0], b'-' | b'!' | b'|'));
        if shallow(frame) {
            check_oracle(frame);
        }
        rest = behind;
    }
});
