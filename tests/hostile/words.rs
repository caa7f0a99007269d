//! The values that attackers write into commands: their own keys and channels, numbers, texts, scripts and passwords.
//! Nothing here is a key that a victim uses, except the treasures, which only attackers without access are given.

use fastrand::Rng;

/// Attackers' keys begin with it.
pub const OWN: &str = "a:";

/// What no log may hold: attackers' passwords contain it.
pub const PASSWORD_MARK: &str = "attackers-password";

/// Keys of the victims whose names are known. Attackers whose tenant must not reach them try.
pub const TREASURES: [&str; 6] =
    ["v:known:string", "v:known:list", "v:known:hash", "v:known:set", "v:known:zset", "v:known:stream"];

/// A channel of the victims, whose name is known.
pub const KNOWN_CHANNEL: &str = "v:known:channel";

/// Replies that a script forges, and scripts that do what a session should see undone.
const SCRIPTS: [&str; 24] = [
    "return ARGV[1]",
    "return redis.call('GET', KEYS[1])",
    "return redis.call('SET', KEYS[1], 'x')",
    "return {1, 2, {3, 'x', false}}",
    "return redis.error_reply('READONLY You can\\'t write against a read only replica.')",
    "return redis.error_reply('LOADING loading the dataset in memory')",
    "return redis.error_reply('NOAUTH Authentication required.')",
    "return redis.error_reply('MOVED 1 127.0.0.1:1')",
    "return redis.error_reply('UNBLOCKED force unblock')",
    "return redis.error_reply('MASTERDOWN link down')",
    "return redis.error_reply('EXECABORT no')",
    "error('x\\r\\n+INJECTED')",
    "error({err='x\\r\\n$3\\r\\nINJ'})",
    "return redis.status_reply('a\\r\\n+INJECTED')",
    "return redis.error_reply('x\\r\\n>2\\r\\n+invalidate')",
    "redis.setresp(3) return {map={a=1, b={double=3.5}}}",
    "redis.setresp(3) return {set={a=true}}",
    "return string.rep('x', 100000)",
    "local t = {} for i = 1, 2000 do t[i] = i end return t",
    "local t = 1 for i = 1, 60 do t = {t} end return t",
    "return redis.call('CLIENT', 'TRACKING', 'ON')",
    "return redis.call('SELECT', 1)",
    "return redis.call('PUBLISH', 'a:c1', ARGV[1] or 'x')",
    "#!lua flags=no-writes\nreturn 1",
];

const FUNCTION: &str = "#!lua name=lib\nredis.register_function('f', function(k, a) return a[1] end)";

/// Texts that break what is not careful.
const TEXTS: [&[u8]; 22] = [
    b"",
    b"x",
    b"a",
    b"0",
    b"1",
    b"-1",
    b"3.5",
    b"*",
    b"$",
    b">",
    b"1-1",
    b"(a",
    b"[b",
    b"-",
    b"+",
    b"\0",
    b"\r\n",
    b"+OK\r\n",
    b"$-1\r\n",
    b">2\r\n$10\r\ninvalidate\r\n*-1\r\n",
    b"\xff\xfe",
    b"a b c",
];

const NUMBERS: [&str; 21] = [
    "0",
    "1",
    "2",
    "3",
    "10",
    "-1",
    "-2",
    "100",
    "65536",
    "4294967296",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775808",
    "1.5",
    "1e400",
    "nan",
    "-inf",
    "+1",
    "01",
    " 1",
    "0x10",
];

/// What one attacker writes.
#[derive(Clone, Debug, Default)]
pub struct Words {
    /// Known keys and channels of victims, which this attacker must not reach.
    pub tries_treasures: bool,
}

impl Words {
    pub fn key(&self, rng: &mut Rng) -> Vec<u8> {
        if self.tries_treasures && rng.u8(..4) == 0 {
            return TREASURES[rng.usize(..TREASURES.len())].into();
        }
        format!("{OWN}k{}", rng.u8(..12)).into_bytes()
    }

    pub fn channel(&self, rng: &mut Rng) -> Vec<u8> {
        match rng.u8(..12) {
            0..3 if self.tries_treasures => KNOWN_CHANNEL.into(),
            3 if self.tries_treasures => b"v:*".to_vec(),
            4 => b"__redis__:invalidate".to_vec(),
            5 => format!("{OWN}*").into_bytes(),
            6 => b"*".to_vec(),
            _ => format!("{OWN}c{}", rng.u8(..6)).into_bytes(),
        }
    }

    /// A number for an argument of this name: small ones mostly, so that the command may succeed.
    pub fn number(&self, name: &str, rng: &mut Rng) -> Vec<u8> {
        let plausible = match name {
            "timeout" | "milliseconds" => ["0.01", "0.05", "1", "0"][rng.usize(..4)],
            "index" | "destination-db" => ["0", "0", "1", "2"][rng.usize(..4)],
            "protover" => ["2", "3"][rng.usize(..2)],
            "cursor" => "0",
            "client-id" => return rng.u16(1..400).to_string().into_bytes(),
            _ => ["0", "1", "2", "10", "-1"][rng.usize(..5)],
        };
        let chosen = if rng.u8(..8) == 0 { NUMBERS[rng.usize(..NUMBERS.len())] } else { plausible };
        chosen.as_bytes().to_vec()
    }

    /// A text for an argument of this name.
    pub fn text(&self, name: &str, rng: &mut Rng) -> Vec<u8> {
        match name {
            "channel" | "shardchannel" | "pattern" => self.channel(rng),
            "script" => SCRIPTS[rng.usize(..SCRIPTS.len())].as_bytes().to_vec(),
            "function-code" => FUNCTION.as_bytes().to_vec(),
            "function" | "library-name" => [&b"f"[..], b"lib"][rng.usize(..2)].to_vec(),
            "prefix" => [&b""[..], b"a:", b"a:k", b"b:"][rng.usize(..4)].to_vec(),
            "username" => self.user(rng),
            "password" => self.password(rng),
            "replicationid" => b"?".to_vec(),
            _ => self.any_text(rng),
        }
    }

    pub fn user(&self, rng: &mut Rng) -> Vec<u8> {
        [&b"default"[..], b"app", b"mallory", b"free", b"victim", b"nobody", b"", b"\0"][rng.usize(..8)]
            .to_vec()
    }

    pub fn password(&self, rng: &mut Rng) -> Vec<u8> {
        match rng.u8(..4) {
            0 => b"mallory-password".to_vec(),
            1 => self.any_text(rng),
            _ => format!("{PASSWORD_MARK}-{}", rng.u16(..)).into_bytes(),
        }
    }

    pub fn any_text(&self, rng: &mut Rng) -> Vec<u8> {
        TEXTS[rng.usize(..TEXTS.len())].to_vec()
    }

    pub fn any_number(&self, rng: &mut Rng) -> Vec<u8> {
        NUMBERS[rng.usize(..NUMBERS.len())].as_bytes().to_vec()
    }
}
