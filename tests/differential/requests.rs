//! Random requests: right by the server's documentation, and then, some of them, made wrong.

use fastrand::Rng;
use respgate::command::{RouteClass, Spec, TABLE, Verb};

use crate::docs::{Argument, Kind};
use crate::session::Request;
use crate::vocabulary::{Vocabulary, pick};

/// Commands that are never drawn, and why.
pub const LEFT_OUT: &[(&str, &str)] = &[
    ("SHUTDOWN", "ends the server"),
    ("REPLICAOF", "makes the server a replica"),
    ("SLAVEOF", "makes the server a replica"),
    ("FAILOVER", "stops the server's writes"),
    ("CLIENT|PAUSE", "stops the server for the test itself"),
    ("CLIENT|KILL", "names connections by ids or addresses, which differ"),
    ("CLIENT|UNBLOCK", "names connections by ids or addresses, which differ"),
    ("MIGRATE", "connects to another server"),
    ("DEBUG", "can end or stop the server"),
    ("MONITOR", "shows the other traffic of the server, which differs"),
    ("SAVE", "writes to the disk"),
    ("BGSAVE", "writes to the disk, and takes time"),
    ("BGREWRITEAOF", "writes to the disk, and takes time"),
    ("CONFIG|SET", "changes the server for the sessions that follow"),
    ("CONFIG|REWRITE", "writes to the disk"),
    ("CONFIG|RESETSTAT", "resets statistics by which the test counts commands"),
    ("ACL|SETUSER", "changes the server for the sessions that follow"),
    ("ACL|DELUSER", "changes the server for the sessions that follow"),
    ("ACL|LOAD", "changes the server for the sessions that follow"),
    ("ACL|SAVE", "writes to the disk"),
    ("MODULE|LOAD", "changes the server for the sessions that follow"),
    ("MODULE|LOADEX", "changes the server for the sessions that follow"),
    ("MODULE|UNLOAD", "changes the server for the sessions that follow"),
    ("PFSELFTEST", "takes seconds"),
    ("PSYNC", "makes the connection a replica's connection; see above"),
    ("SYNC", "makes the connection a replica's connection; see above"),
    ("REPLCONF", "makes the connection a replica's connection; see above"),
    ("SCRIPT|DEBUG", "makes the connection a debugger's connection; see above"),
    ("LOLWUT", "draws a random picture"),
];

/// What else the test leaves out or does not compare, and why.
pub const NEVER_DRAWN: &[(&str, &str)] = &[
    (
        "requests that are not well-formed RESP, inline commands",
        "respgate's framing is strict, so it closes connections that a server keeps; the integration tests cover it",
    ),
    (
        "passwords, users with fewer permissions, tenants, TLS, fan-in, failovers",
        "the server has one user without a password, and respgate has two plain listeners; the integration tests cover the rest",
    ),
    ("`XADD` with the id `*`", "the server makes the id from its clock; the test writes `7-*` instead"),
    (
        "a time to live that ends during the session",
        "whether the key is still there depends on the time of the next command; the test draws times that are over or far away",
    ),
    (
        "scripts that use random numbers or the time",
        "their replies differ between any two runs; the test draws from a fixed list of scripts",
    ),
    (
        "commands behind a blocked client's command in the same write, and pipelines while a client tracks with `BCAST`",
        "what the server sends then depends on the time at which it reads each request; the test sends one request at a time",
    ),
    (
        "the reply to `SYNC`, `PSYNC`, `REPLCONF` and `SCRIPT DEBUG`",
        "they turn the connection over to another protocol, which respgate refuses with `-ERR respgate: … turns its connection over to another protocol …`; the test sends them, ignores the reply, and compares the sessions of other clients",
    ),
    (
        "a session after a difference that changes its state",
        "the state of the client or the data differs from there on; the test ends the session without comparing the data",
    ),
    (
        "replies that `CLIENT REPLY` turns off",
        "there is nothing to compare; the test compares the data at the end",
    ),
    (
        "the library name of respgate's connections in the server's `CLIENT LIST`",
        "respgate names its connections `lib-name=respgate`; the test checks that clients leave no other state there",
    ),
];

pub fn left_out(spec: &Spec) -> bool {
    LEFT_OUT.iter().any(|(name, _)| *name == spec.name)
}

/// Makes requests for one server.
pub struct Maker<'a> {
    pub words: &'a Vocabulary,
    /// Whether administrative commands that change something are drawn: they must mean the same both ways.
    pub admin: bool,
}

impl Maker<'_> {
    /// Any command of the table.
    pub fn any(&self, rng: &mut Rng) -> Request {
        loop {
            let spec = pick(&TABLE, rng);
            if !left_out(spec) && (spec.route != RouteClass::LocalError || rng.u8(..12) == 0) {
                return self.of(spec, rng);
            }
        }
    }

    /// Any command whose way is by the shared lane, or any that leases a connection for its own reply only: they can stand
    /// anywhere in a session without changing what the connection is.
    pub fn data(&self, rng: &mut Rng) -> Request {
        loop {
            let spec = pick(&TABLE, rng);
            let plain =
                matches!(spec.route, RouteClass::Shared | RouteClass::Lease | RouteClass::LeaseIfBlock);
            if plain && !left_out(spec) {
                return self.of(spec, rng);
            }
        }
    }

    /// A command of these names.
    pub fn one_of(&self, names: &[&str], rng: &mut Rng) -> Request {
        self.named(pick::<&str>(names, rng), rng)
    }

    pub fn named(&self, name: &str, rng: &mut Rng) -> Request {
        let spec = TABLE.iter().find(|spec| spec.name == name);
        self.of(spec.unwrap_or_else(|| panic!("the table lacks {name}")), rng)
    }

    /// A request, which one time in five is not quite right.
    pub fn of(&self, spec: &Spec, rng: &mut Rng) -> Request {
        let mut request = self.right(spec, rng);
        if rng.u8(..5) == 0 {
            self.spoil(spec, &mut request, rng);
        }
        if rng.u8(..20) == 0 {
            request[0] = any_case(&request[0], rng);
        }
        // An id that the server makes of its clock is another one each time.
        if spec.name == "XADD" {
            let by_clock = |word: &&mut Vec<u8>| word.split(|byte| *byte == 0).next() == Some(b"*");
            request.iter_mut().filter(by_clock).for_each(|word| *word = b"7-*".to_vec());
        }
        request
    }

    /// A request as the documentation says, but with values that need not make sense together.
    pub fn right(&self, spec: &Spec, rng: &mut Rng) -> Request {
        let mut request: Request = spec.name.split('|').map(|word| word.as_bytes().to_vec()).collect();
        let Some(doc) = self.words.docs.get(spec.name) else {
            let least = usize::from(spec.arity.unsigned_abs());
            while request.len() < least {
                request.push(self.words.text(spec.name, "value", rng));
            }
            return request;
        };
        let mut making = Making { words: self.words, command: spec.name, group: &doc.group, keys: None };
        doc.arguments.iter().for_each(|argument| making.argument(argument, &mut request, rng));
        request
    }

    fn spoil(&self, spec: &Spec, request: &mut Request, rng: &mut Rng) {
        let name = spec.name.split('|').count();
        let at = rng.usize(name..request.len().max(name) + 1);
        match rng.u8(..8) {
            0 if at < request.len() => {
                request.remove(at);
            }
            1 => request.insert(at, self.words.misfit(rng)),
            2 | 3 if at < request.len() => request[at] = self.words.misfit(rng),
            4 if at < request.len() => request[at].extend_from_slice(b"\0x"),
            5 if at < request.len() => request[at] = any_case(&request[at].clone(), rng),
            6 if at + 1 < request.len() => request.swap(at, at + 1),
            7 => request.truncate(at),
            // A name that the server may find by its start.
            _ if rng.u8(..6) == 0 => request[name - 1].extend_from_slice(b"\0x"),
            _ => request.push(self.words.text(spec.name, "value", rng)),
        }
        // Whether a key with a short time to live is still there when the next command comes is not known.
        if matches!(spec.verb, Verb::Set) || spec.name.contains("EX") {
            for word in request.iter_mut().skip(2) {
                if word.len() < 4 && word.iter().all(u8::is_ascii_digit) {
                    word.extend_from_slice(b"000000");
                }
            }
        }
    }
}

struct Making<'a> {
    words: &'a Vocabulary,
    command: &'a str,
    group: &'a str,
    /// How many keys the number before them has announced.
    keys: Option<usize>,
}

impl Making<'_> {
    fn argument(&mut self, argument: &Argument, out: &mut Request, rng: &mut Rng) {
        if argument.optional && rng.u8(..10) >= 4 {
            return;
        }
        let announced = if argument.kind == Kind::Key { self.keys.take() } else { None };
        let times = match announced {
            Some(keys) => keys,
            None if argument.multiple => rng.usize(1..4),
            None => 1,
        };
        for time in 0..times {
            if let Some(token) = &argument.token
                && (time == 0 || argument.repeats_token)
            {
                let token = token.as_bytes();
                out.push(if rng.u8(..6) == 0 { any_case(token, rng) } else { token.to_vec() });
            }
            self.value(argument, out, rng);
        }
    }

    fn value(&mut self, argument: &Argument, out: &mut Request, rng: &mut Rng) {
        let name = argument.name.as_str();
        match argument.kind {
            Kind::PureToken => {}
            Kind::OneOf if !argument.children.is_empty() => {
                self.argument_always(pick(&argument.children, rng), out, rng);
            }
            Kind::OneOf | Kind::Block => {
                argument.children.iter().for_each(|child| self.argument(child, out, rng));
            }
            Kind::Key => out.push(self.words.key(self.group, rng)),
            Kind::Integer if name == "numkeys" => {
                let keys = rng.usize(1..3);
                self.keys = Some(keys);
                out.push(keys.to_string().into_bytes());
            }
            Kind::Integer => out.push(self.words.integer(self.command, name, rng)),
            Kind::Double => out.push(self.words.double(name, rng)),
            Kind::UnixTime => {
                let milli = if self.command.starts_with('P') || argument.token.as_deref() == Some("PXAT") {
                    "milliseconds"
                } else {
                    name
                };
                out.push(self.words.time(self.command, milli, rng));
            }
            Kind::Pattern => out.push(self.words.text(self.command, "pattern", rng)),
            Kind::String => out.push(self.words.text(self.command, name, rng)),
        }
    }

    fn argument_always(&mut self, argument: &Argument, out: &mut Request, rng: &mut Rng) {
        if argument.optional {
            // An option that was chosen is there.
            let before = out.len();
            for _ in 0..20 {
                self.argument(argument, out, rng);
                if out.len() > before {
                    break;
                }
            }
        } else {
            self.argument(argument, out, rng);
        }
    }
}

fn any_case(word: &[u8], rng: &mut Rng) -> Vec<u8> {
    word.iter()
        .map(|byte| if rng.bool() { byte.to_ascii_lowercase() } else { byte.to_ascii_uppercase() })
        .collect()
}
