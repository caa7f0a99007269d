//! Passages about what a connection is: subscriptions, tracking, names, protocol versions, and what is left of it.

use respgate::command::{RouteClass, TABLE};

use super::{Draft, request};
use crate::requests::left_out;
use crate::session::Step;
use crate::vocabulary::pick;

pub fn pubsub(draft: &mut Draft<'_>) {
    const SUBSCRIBER: &[&str] = &[
        "SUBSCRIBE",
        "SUBSCRIBE",
        "PSUBSCRIBE",
        "SSUBSCRIBE",
        "UNSUBSCRIBE",
        "PUNSUBSCRIBE",
        "SUNSUBSCRIBE",
        "PING",
        "GET",
        "RESET",
        "QUIT",
        "SELECT",
        "ECHO",
        "MULTI",
        "CLIENT|SETNAME",
        "HELLO",
        "EVAL",
        "CLIENT|REPLY",
    ];
    const SENDER: &[&str] = &[
        "PUBLISH",
        "PUBLISH",
        "SPUBLISH",
        "PUBSUB|CHANNELS",
        "PUBSUB|NUMSUB",
        "PUBSUB|NUMPAT",
        "PUBSUB|SHARDCHANNELS",
        "PUBSUB|SHARDNUMSUB",
        "EVAL",
        "MULTI",
        "EXEC",
    ];
    let client = draft.client();
    let request = draft.one_of(&SUBSCRIBER[..4]);
    draft.one(client, request);
    for _ in 0..draft.rng.usize(2..9) {
        if draft.rng.u8(..5) < 2 {
            let count = draft.rng.usize(1..4);
            let requests = (0..count).map(|_| draft.one_of(SUBSCRIBER)).collect();
            draft.send(client, requests);
        } else {
            let other = draft.other(client);
            let count = draft.rng.usize(1..4);
            let requests = (0..count).map(|_| draft.one_of(SENDER)).collect();
            draft.send(other, requests);
        }
    }
}

pub fn tracking(draft: &mut Draft<'_>) {
    let client = draft.client();
    if draft.rng.u8(..8) > 0 {
        draft.words(client, &["HELLO", "3"]);
    }
    let on = *pick::<&[&str]>(
        &[
            &["CLIENT", "TRACKING", "ON"][..],
            &["CLIENT", "TRACKING", "ON", "BCAST"],
            &["CLIENT", "TRACKING", "on", "OPTIN"],
            &["CLIENT", "TRACKING", "ON", "OPTOUT"],
            &["CLIENT", "TRACKING", "ON", "NOLOOP"],
            &["CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "s", "PREFIX", "h"],
            &["CLIENT", "TRACKING", "ON\0x", "BCAST"],
            &["CLIENT", "TRACKING", "ON", "BCAST\0x"],
        ],
        draft.rng,
    );
    if draft.rng.u8(..4) == 0 {
        let request = draft.one_of(&["CLIENT|TRACKING"]);
        draft.one(client, request);
    } else {
        draft.words(client, on);
    }
    for _ in 0..draft.rng.usize(1..8) {
        match draft.rng.u8(..6) {
            0..3 => {
                let other = draft.other(client);
                let count = draft.rng.usize(1..3);
                let requests = (0..count)
                    .map(|_| {
                        draft.one_of(&[
                            "SET", "SET", "HSET", "LPUSH", "DEL", "FLUSHALL", "MSET", "INCR", "EVAL",
                        ])
                    })
                    .collect();
                draft.send(other, requests);
            }
            3 | 4 => {
                let count = draft.rng.usize(1..4);
                let requests = (0..count)
                    .map(|_| {
                        draft.one_of(&[
                            "GET", "GET", "MGET", "HGETALL", "LRANGE", "SET", "EVAL", "MULTI", "EXEC",
                        ])
                    })
                    .collect();
                draft.send(client, requests);
            }
            _ => {
                let request = draft.one_of(&[
                    "CLIENT|CACHING",
                    "CLIENT|TRACKINGINFO",
                    "CLIENT|GETREDIR",
                    "CLIENT|TRACKING",
                    "SELECT",
                    "HELLO",
                    "RESET",
                    "CLIENT|NO-TOUCH",
                    "SUBSCRIBE",
                ]);
                draft.one(client, request);
            }
        }
    }
}

pub fn client_state(draft: &mut Draft<'_>) {
    let client = draft.client();
    let names: Vec<&str> = TABLE
        .iter()
        .filter(|spec| spec.name.starts_with("CLIENT|") && spec.route != RouteClass::Admin && !left_out(spec))
        .map(|spec| spec.name)
        .chain([
            "SELECT",
            "HELLO",
            "RESET",
            "AUTH",
            "ACL|WHOAMI",
            "GET",
            "EVAL",
            "MULTI",
            "QUIT",
            "ECHO",
            "PING",
        ])
        .collect();
    for _ in 0..draft.rng.usize(2..8) {
        let request = draft.one_of(&names);
        draft.one(client, request);
    }
    draft.words(client, &["CLIENT", "INFO"]);
}

pub fn greeting(draft: &mut Draft<'_>) {
    let client = draft.client();
    for _ in 0..draft.rng.usize(1..5) {
        let version = *pick(&["2", "3"], draft.rng);
        let mut requests = vec![request(&["HELLO", version])];
        if draft.rng.u8(..3) == 0 {
            requests = vec![draft.one_of(&["HELLO", "AUTH", "RESET", "SELECT"])];
        }
        requests.extend(draft.data(0, 4));
        draft.together_or_not(client, requests);
    }
}

pub fn muted(draft: &mut Draft<'_>) {
    let client = draft.client();
    for _ in 0..draft.rng.usize(1..4) {
        let mode = *pick(&["OFF", "SKIP", "ON", "off", "skip"], draft.rng);
        let mut requests = vec![request(&["CLIENT", "REPLY", mode])];
        requests.extend(draft.data(0, 3));
        if draft.rng.u8(..3) == 0 {
            requests.push(draft.one_of(&[
                "MULTI",
                "EXEC",
                "SUBSCRIBE",
                "UNSUBSCRIBE",
                "BLPOP",
                "CLIENT|REPLY",
                "PING",
                "SELECT",
                "EVAL",
                "HELLO",
            ]));
        }
        draft.together_or_not(client, requests);
    }
    draft.words(client, &["CLIENT", "REPLY", "ON"]);
    draft.words(client, &["PING"]);
}

pub fn left_behind(draft: &mut Draft<'_>) {
    let client = draft.client();
    if draft.rng.bool() {
        draft.words(client, &["HELLO", "3"]);
    }
    for _ in 0..draft.rng.usize(1..3) {
        let mut request = draft.one_of(&[
            "CLIENT|TRACKING",
            "CLIENT|NO-TOUCH",
            "CLIENT|NO-EVICT",
            "CLIENT|REPLY",
            "CLIENT|CAPA",
            "CLIENT|SETINFO",
            "CLIENT|SETNAME",
            "CLIENT|CACHING",
            "WATCH",
            "MULTI",
            "SUBSCRIBE",
            "SELECT",
            "BLPOP",
            "CLIENT|TRACKING",
            "CLIENT|TRACKING",
        ]);
        if draft.rng.bool() {
            let at = draft.rng.usize(request.len().min(2)..request.len() + 1);
            if let Some(word) = request.get_mut(at) {
                word.extend_from_slice(b"\0x");
            }
        }
        draft.one(client, request);
    }
    draft.steps.push(Step::Leave { client });
    if draft.maker.admin && draft.rng.u8(..4) == 0 {
        let words = *pick::<&[&str]>(
            &[
                &["SCRIPT", "DEBUG", "YES"][..],
                &["SCRIPT", "DEBUG", "SYNC"],
                &["REPLCONF", "listening-port", "1"],
                &["REPLCONF", "capa", "eof"],
                &["PSYNC", "?", "-1"],
                &["SYNC"],
            ],
            draft.rng,
        );
        draft.steps.push(Step::Hit { client, request: request(words) });
    }
    for _ in 0..draft.rng.usize(1..5) {
        let client = draft.client();
        let request =
            draft.one_of(&["EVAL", "BLPOP", "SUBSCRIBE", "MULTI", "EXEC", "SET", "GET", "WATCH", "XADD"]);
        draft.one(client, request);
    }
}

pub fn administrative(draft: &mut Draft<'_>) {
    let names: Vec<&str> = TABLE
        .iter()
        .filter(|spec| spec.route == RouteClass::Admin && !left_out(spec))
        .map(|spec| spec.name)
        .collect();
    let client = draft.client();
    for _ in 0..draft.rng.usize(1..4) {
        let request = draft.one_of(&names);
        draft.one(client, request);
    }
}
