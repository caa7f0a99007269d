//! The words that random requests are made of. Few of each kind, so that commands meet each other's data.

use std::collections::HashMap;

use fastrand::Rng;

use crate::docs::{self, Doc};
use crate::wire::Wire;

/// Keys of one type of value each: what a command of that group finds there is mostly what it can use.
const KEYS: &[(&str, &[&str])] = &[
    ("string", &["s1", "s2", "s3"]),
    ("bitmap", &["s1", "bits"]),
    ("hyperloglog", &["p1", "p2"]),
    ("list", &["l1", "l2"]),
    ("hash", &["h1", "h2"]),
    ("set", &["t1", "t2"]),
    ("sorted-set", &["z1", "z2"]),
    ("geo", &["g1", "z2"]),
    ("stream", &["x1", "x2"]),
];

/// Returns true if a word is one of the keys.
pub fn is_key(word: &[u8]) -> bool {
    word == b"nothing" || KEYS.iter().any(|(_, keys)| keys.iter().any(|key| key.as_bytes() == word))
}

/// What sessions begin with, so that commands find data.
pub const DATA: &[&[&str]] = &[
    &["SET", "s1", "12"],
    &["SET", "s2", "hello world"],
    &["SETBIT", "bits", "17", "1"],
    &["PFADD", "p1", "a", "b", "c"],
    &["RPUSH", "l1", "a", "b", "c", "1", "a"],
    &["RPUSH", "l2", "3", "1", "2"],
    &["HSET", "h1", "a", "1", "b", "2.5", "c", ""],
    &["SADD", "t1", "a", "b", "c"],
    &["SADD", "t2", "1", "2", "3"],
    &["ZADD", "z1", "1", "a", "2", "b", "2.5", "c"],
    &["GEOADD", "g1", "13.361389", "38.115556", "a", "15.087269", "37.502669", "b"],
    &["XADD", "x1", "1-1", "a", "1"],
    &["XADD", "x1", "2-1", "b", "2", "c", "3"],
    &["XGROUP", "CREATE", "x1", "grp", "0"],
];

/// Scripts that leave the same data and give the same reply whenever they run.
const SCRIPTS: &[&str] = &[
    "return 1",
    "return {1, 2.9, 'x', false, {ok='fine'}, {err='MINE of my own'}}",
    "return redis.call('GET', KEYS[1])",
    "return redis.call('SET', KEYS[1], ARGV[1])",
    "return redis.call('LPUSH', KEYS[1], 'a', 'b')",
    "return redis.pcall('INCR', KEYS[1])",
    "return {KEYS[1], ARGV[1], ARGV[2]}",
    "redis.setresp(3); return redis.call('HGETALL', KEYS[1])",
    "redis.call('SELECT', 2); return redis.call('SET', 's1', 'in two')",
    "return redis.call('PUBLISH', 'ch1', 'from a script')",
    "return redis.error_reply('READONLY not really')",
    "return redis.status_reply('QUEUED')",
    "return redis.call('BLPOP', 'nokey', 0)",
    "return redis.call('NOSUCH')",
    "not lua",
    "#!lua flags=no-writes\nreturn redis.call('SET', 's1', 'x')",
];

const FUNCTIONS: &[&str] = &[
    "#!lua name=lib1\nredis.register_function('f1', function(keys, args) return redis.call('SET', keys[1] or 's1', args[1] or 'x') end)",
    "#!lua name=lib1\nredis.register_function{function_name='f1', callback=function(keys, args) return {keys, args} end, flags={'no-writes'}}",
    "#!lua name=lib2\nredis.register_function('f2', function() return redis.call('INCR', 's3') end)",
    "#!lua name=lib2\nnot lua",
    "no shebang",
];

pub const SMALL: &[&str] = &["0", "1", "2", "3", "-1", "5", "100"];
const DOUBLES: &[&str] = &["1", "2.5", "-1", "0", "inf", "-inf", "nan", "3.0", "1e308", "0.1"];
const VALUES: &[&str] = &[
    "a",
    "b",
    "c",
    "1",
    "2.5",
    "",
    "hello",
    "h\u{e9}llo",
    "x\0y",
    "a b",
    "line\r\nbreak",
    "0123456789012345678901234567890123456789012345678901234567890123456789",
    "member",
    "-7",
];
const NUMBERS_OF_MANY_KINDS: &[&str] = &[
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775808",
    "99999999999999999999",
    "4294967296",
    "1e3",
    "0x10",
    "+1",
    "01",
    " 1",
    "1 ",
    "-0",
    "",
    "1.0",
    "one",
    "1\0",
    "\0",
];

/// What a server has of its own, besides words.
pub struct Vocabulary {
    pub docs: HashMap<String, Doc>,
    /// Values as DUMP gives them.
    dumps: Vec<Vec<u8>>,
    /// Functions as FUNCTION DUMP gives them.
    functions: Vec<u8>,
    /// Names of the first scripts.
    shas: Vec<String>,
}

impl Vocabulary {
    /// Asks a server. Its data is as empty afterwards as it was before.
    pub fn read(control: &mut Wire) -> Self {
        let docs = docs::read(control);
        let shas =
            SCRIPTS.iter().take(6).map(|script| control.ask_text(&["SCRIPT", "LOAD", script])).collect();
        control.ask_all(DATA);
        let dump = |key: &&str| control.ask(&["DUMP", key]).text().unwrap_or_default().to_vec();
        let dumps = ["s1", "l1", "h1", "z1", "x1"].iter().map(dump).collect();
        control.ask(&["FUNCTION", "LOAD", FUNCTIONS[0]]);
        let functions = control.ask(&["FUNCTION", "DUMP"]).text().unwrap_or_default().to_vec();
        control.ask_all(&[&["FLUSHALL"], &["SCRIPT", "FLUSH"], &["FUNCTION", "FLUSH"]]);
        Self { docs, dumps, functions, shas }
    }

    /// A key for a command of this group: mostly one that holds what it can use.
    pub fn key(&self, group: &str, rng: &mut Rng) -> Vec<u8> {
        let own = KEYS.iter().find(|(name, _)| *name == group).filter(|_| rng.u8(..10) < 8);
        let keys = own.map_or_else(|| pick(KEYS, rng).1, |(_, keys)| keys);
        match rng.u8(..60) {
            0 => Vec::new(),
            1 => b"k\0y".to_vec(),
            2 => b"nothing".to_vec(),
            _ => pick(keys, rng).as_bytes().to_vec(),
        }
    }

    /// An integer for an argument of this name. A time to live is long, over, or no number: whether a short one is over
    /// when the next command comes is not known.
    pub fn integer(&self, command: &str, name: &str, rng: &mut Rng) -> Vec<u8> {
        let blocks = matches!(command, "XREAD" | "XREADGROUP");
        let pool: &[&str] = match name {
            "milliseconds" if blocks => &["0", "0", "15", "-1"],
            "timeout" => &["0", "20", "20", "-1"],
            "seconds" | "milliseconds" | "ttl" => &["100000000", "200000000", "0", "-1"],
            "index" if command == "SELECT" => &["0", "1", "2", "9", "15", "16", "-1"],
            "db" | "destination-db" | "index1" | "index2" => &["0", "1", "2", "16"],
            "cursor" => &["0", "0", "0", "3"],
            "protover" => &["2", "3", "3", "4", "1"],
            "numreplicas" | "numlocal" => &["0", "0", "1"],
            _ => SMALL,
        };
        pick(pool, rng).as_bytes().to_vec()
    }

    pub fn double(&self, name: &str, rng: &mut Rng) -> Vec<u8> {
        let pool: &[&str] = match name {
            "timeout" => &["0", "0", "0.02", "0.01", "-1", "x"],
            "longitude" => &["13.361389", "15", "-180", "181"],
            "latitude" => &["38.115556", "37", "85", "91"],
            "radius" | "width" | "height" => &["200", "1", "0", "-1"],
            _ => DOUBLES,
        };
        pick(pool, rng).as_bytes().to_vec()
    }

    /// When a key's time is over. SET keeps a key whose time is over until the server finds it, some time later.
    pub fn time(&self, command: &str, name: &str, rng: &mut Rng) -> Vec<u8> {
        let pool: &[&str] = match name {
            _ if command == "SET" => &["4102444800000", "0", "-1"],
            name if name.contains("milli") => &["4102444800000", "1000", "0", "-1"],
            _ => &["4102444800", "1000", "0", "-1"],
        };
        pick(pool, rng).as_bytes().to_vec()
    }

    /// A text for an argument of this name.
    pub fn text(&self, command: &str, name: &str, rng: &mut Rng) -> Vec<u8> {
        let stream = self.docs.get(command).is_some_and(|doc| doc.group == "stream");
        let pool: &[&str] = match name {
            "script" => SCRIPTS,
            "sha1" => return pick(&self.shas, rng).clone().into_bytes(),
            "function" => &["f1", "f2", "f3"],
            "function-code" => FUNCTIONS,
            "library-name" | "library-name-pattern" => &["lib1", "lib2", "*"],
            "serialized-value" if command == "FUNCTION|RESTORE" => return self.functions.clone(),
            "serialized-value" => return pick(&self.dumps, rng).clone(),
            "channel" | "shardchannel" => &["ch1", "ch2", "ch1", ""],
            "pattern" => &["ch*", "*", "s*", "[", "h[a-b]", "ch?"],
            "group" => &["grp", "grp2"],
            "consumer" => &["alice", "bob"],
            "id" | "start" | "end" | "lastid" | "new-id" | "last-id" | "threshold" | "min-id"
            | "max-deleted-id"
                if stream =>
            {
                &["0", "0-0", "1-1", "2-1", "5-*", "6-0", "$", "-", "+", "(1-1", ">"]
            }
            "id" => &["0", "1-1", ">", "$"],
            "min" | "max" => &["-inf", "+inf", "1", "(1", "[a", "-", "+", "2", "(c"],
            "username" => &["default", "nobody"],
            "password" => &["x", ""],
            "clientname" | "connection-name" => &["app", "", "two words", "new\nline"],
            "libname" | "libver" => &["lib", "1.2", "a b"],
            "parameter" => {
                &["maxmemory", "databases", "save", "maxclients", "requirepass", "max*", "*", "MaxMemory"]
            }
            "section" => &["server", "keyspace", "nosuch"],
            "encoding" => &["u8", "i16", "u64", "u63", "x"],
            "offset" => &["0", "#1", "8", "-1"],
            "category" => &["read", "write", "nosuch"],
            "command" | "command-name" => &["GET", "SET", "XREAD", "CLIENT|ID", "nosuch"],
            _ => VALUES,
        };
        pick(pool, rng).as_bytes().to_vec()
    }

    /// What does not belong where it stands.
    pub fn misfit(&self, rng: &mut Rng) -> Vec<u8> {
        match rng.u8(..5) {
            0 | 1 => pick(NUMBERS_OF_MANY_KINDS, rng).as_bytes().to_vec(),
            2 => pick(VALUES, rng).as_bytes().to_vec(),
            3 => vec![b'x'; 1000],
            _ => (0..rng.usize(1..6)).map(|_| rng.u8(..)).collect(),
        }
    }
}

/// One of them.
pub fn pick<'a, T>(pool: &'a [T], rng: &mut Rng) -> &'a T {
    &pool[rng.usize(..pool.len())]
}
