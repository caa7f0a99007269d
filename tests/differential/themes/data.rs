//! Passages about data: commands, transactions, blocking, scripts, databases.

use super::{Draft, request};
use crate::session::Step;

pub fn plain(draft: &mut Draft<'_>) {
    for _ in 0..draft.rng.usize(1..4) {
        let client = draft.client();
        let mut requests = draft.data(1, 6);
        if draft.rng.u8(..4) == 0 {
            requests.push(draft.maker.any(draft.rng));
        }
        draft.together_or_not(client, requests);
    }
}

pub fn transaction(draft: &mut Draft<'_>) {
    let client = draft.client();
    let mut requests = vec![request(&["MULTI"])];
    requests.extend(draft.data(0, 5));
    if draft.rng.u8(..5) == 0 {
        requests.push(draft.one_of(&[
            "SELECT",
            "PING",
            "ECHO",
            "CLIENT|ID",
            "CLIENT|GETNAME",
            "MULTI",
            "WATCH",
            "UNWATCH",
            "RESET",
            "QUIT",
            "BLPOP",
            "BLMOVE",
            "XREAD",
            "WAIT",
            "HELLO",
            "SUBSCRIBE",
            "READONLY",
        ]));
        requests.extend(draft.data(0, 2));
    }
    let end = match draft.rng.u8(..12) {
        0..8 => request(&["EXEC"]),
        8 | 9 => request(&["DISCARD"]),
        10 => request(&["EXEC", "x"]),
        _ => request(&["DISCARD", "x"]),
    };
    requests.push(end);
    if draft.rng.u8(..4) == 0 {
        requests.extend([request(&["EXEC"]), request(&["PING"])]);
    }
    if draft.rng.bool() {
        draft.send(client, requests);
    } else {
        draft.together_or_not(client, requests);
    }
}

pub fn watched(draft: &mut Draft<'_>) {
    let client = draft.client();
    let other = if draft.rng.u8(..4) == 0 { client } else { draft.other(client) };
    draft.words(client, &["WATCH", "s1", "s3"]);
    if draft.rng.u8(..3) == 0 {
        let select = draft.one_of(&["SELECT", "UNWATCH", "GET"]);
        draft.one(client, select);
    }
    if draft.rng.u8(..3) > 0 {
        let change = draft.one_of(&["SET", "INCR", "DEL", "FLUSHALL", "FLUSHDB", "SWAPDB", "GET"]);
        draft.one(other, change);
    }
    draft.words(client, &["MULTI"]);
    let requests = draft.data(0, 3);
    draft.together_or_not(client, requests);
    draft.words(client, &["EXEC"]);
}

pub fn blocking(draft: &mut Draft<'_>) {
    const BLOCKING: &[&str] = &[
        "BLPOP",
        "BRPOP",
        "BLMOVE",
        "BRPOPLPUSH",
        "BLMPOP",
        "BZMPOP",
        "BZPOPMIN",
        "BZPOPMAX",
        "XREAD",
        "XREADGROUP",
        "WAIT",
        "WAITAOF",
    ];
    let client = draft.client();
    let other = draft.other(client);
    if draft.rng.u8(..3) > 0 {
        draft.words(other, &["DEL", "l1", "l2", "z1", "z2"]);
    }
    for _ in 0..draft.rng.usize(1..3) {
        let mut requests = vec![draft.one_of(BLOCKING)];
        if draft.rng.u8(..3) == 0 {
            requests.extend(draft.data(1, 3));
        }
        draft.send(client, requests);
        if draft.rng.u8(..3) == 0 {
            let third = draft.client();
            let request = draft.one_of(BLOCKING);
            draft.one(third, request);
        }
    }
    for _ in 0..draft.rng.usize(1..5) {
        let wakes = draft.one_of(&[
            "LPUSH",
            "RPUSH",
            "RPUSH",
            "ZADD",
            "ZADD",
            "XADD",
            "LMOVE",
            "RENAME",
            "COPY",
            "DEL",
            "SET",
            "XGROUP|CREATE",
            "XGROUP|DESTROY",
            "RESTORE",
            "SORT",
            "SWAPDB",
            "FLUSHALL",
        ]);
        draft.one(other, wakes);
    }
    if draft.rng.bool() {
        draft.steps.push(Step::Leave { client });
    }
}

pub fn scripts(draft: &mut Draft<'_>) {
    const NAMES: &[&str] = &[
        "EVAL",
        "EVAL",
        "EVALSHA",
        "EVALSHA",
        "EVAL_RO",
        "EVALSHA_RO",
        "SCRIPT|LOAD",
        "SCRIPT|LOAD",
        "SCRIPT|EXISTS",
        "SCRIPT|FLUSH",
        "SCRIPT|KILL",
        "SCRIPT|SHOW",
        "GET",
        "MULTI",
        "EXEC",
    ];
    for _ in 0..draft.rng.usize(2..6) {
        let client = draft.client();
        let count = draft.rng.usize(1..4);
        let requests = (0..count).map(|_| draft.one_of(NAMES)).collect();
        draft.send(client, requests);
    }
}

pub fn functions(draft: &mut Draft<'_>) {
    const NAMES: &[&str] = &[
        "FUNCTION|LOAD",
        "FUNCTION|LOAD",
        "FCALL",
        "FCALL",
        "FCALL_RO",
        "FUNCTION|LIST",
        "FUNCTION|DELETE",
        "FUNCTION|DUMP",
        "FUNCTION|RESTORE",
        "FUNCTION|FLUSH",
        "FUNCTION|STATS",
        "FUNCTION|KILL",
    ];
    for _ in 0..draft.rng.usize(2..7) {
        let client = draft.client();
        let request = draft.one_of(NAMES);
        draft.one(client, request);
    }
}

pub fn databases(draft: &mut Draft<'_>) {
    let client = draft.client();
    for _ in 0..draft.rng.usize(2..6) {
        let mut requests =
            vec![draft.one_of(&["SELECT", "SELECT", "SELECT", "MOVE", "SWAPDB", "COPY", "FLUSHDB", "RESET"])];
        requests.extend(draft.data(0, 3));
        let client = if draft.rng.u8(..4) == 0 { draft.client() } else { client };
        draft.together_or_not(client, requests);
    }
}
