//! Every command of the table, with every option that the server documents, runs on a lease. Afterwards the connection is
//! closed, or the server describes it as before and a session that gets it is answered as on a fresh connection.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use respgate::command::{Flags, RouteClass, Spec, TABLE, Trace, Verb};

use super::Described;
use super::requests::{Documented, Words};
use crate::support::client::{Client, encode};
use crate::support::compare::Pair;
use crate::support::servers::Flavor;
use crate::support::wait::{self, PATIENCE};

/// What ends the server, its role or the connections of this test, and what dials another server.
const LEFT_OUT: &[&str] = &["SHUTDOWN", "FAILOVER", "REPLICAOF", "SLAVEOF", "CLIENT|KILL", "MIGRATE"];

/// What surrounds requests, so that they run on a lease whatever their command is.
const SURROUNDINGS: [[&str; 2]; 2] = [["WATCH", "UNWATCH"], ["MULTI", "EXEC"]];

/// How long a reply is waited for that may not come.
const UNANSWERED: Duration = Duration::from_millis(100);

/// A function that tries to leave something on the connection that calls it.
const LIBRARY: &str = "#!lua name=lib
redis.register_function('x', function() redis.setresp(3) redis.call('SELECT', 5) return redis.call('READONLY') end)";

/// Keys and channels that requests name.
const NAMES: [&str; 3] = ["k", "x", "p"];

struct Matrix {
    pair: Pair,
    version: &'static str,
    /// Administrative commands reach the server.
    administration: bool,
    /// What a fresh connection answers to [`Matrix::probe`].
    fresh: Vec<String>,
    observer: Client,
    /// The connection that the next lease uses, as the server describes it.
    idle: Described,
    requests: usize,
}

impl Matrix {
    fn start(flavor: Flavor, version: &'static str, administration: bool) -> Self {
        let admin_commands = if administration { "allow" } else { "deny" };
        let pair = Pair::start_with(flavor, &[], &["--admin-commands", admin_commands]);
        let mut observer = pair.server.client();
        observer.expect(&["FUNCTION", "LOAD", LIBRARY], "$3\r\nlib\r\n");
        let (fresh, idle) = probe(pair.server.client(), &mut observer, version);
        let mut matrix = Self { pair, version, administration, fresh, observer, idle, requests: 0 };
        matrix.idle = matrix.probe(&"nothing");
        matrix
    }

    /// A session gets the lease that was used last, and must be answered as on a fresh connection. Returns what the
    /// server says of that connection.
    #[track_caller]
    fn probe(&mut self, after: &dyn Debug) -> Described {
        let (answers, idle) = probe(self.pair.proxy.client(), &mut self.observer, self.version);
        assert_eq!(answers, self.fresh, "after {after:?}");
        idle
    }

    /// Runs all requests in one session, one after another. Returns when its lease has ended.
    fn run_together(&mut self, surroundings: [&str; 2], requests: &[Words]) {
        const END: &str = "the end of the requests";
        let mut client = self.pair.proxy.client();
        client.call(&["HELLO", self.version]);
        let [before, after] = surroundings.map(surrounding);
        let requests_sent: Vec<u8> = requests.iter().flat_map(|request| encode(request)).collect();
        client.send([before, requests_sent, after].concat());
        client.send_command(&["ECHO", END]);
        while client.reply() != format!("${}\r\n{END}\r\n", END.len()).as_bytes() {}
        self.requests += requests.len();
    }

    /// Runs one request in a session that then leaves, whatever the request did to it.
    fn run_alone(&mut self, surroundings: [&str; 2], request: &Words) {
        let mut client = self.pair.proxy.client();
        client.call(&["HELLO", self.version]);
        let [before, after] = surroundings.map(surrounding);
        client.send(before);
        client.reply();
        client.send_command(request);
        // Some commands need an empty connection, and a few are not answered.
        client.deadline(UNANSWERED);
        let _ = client.try_reply();
        client.deadline(PATIENCE);
        client.send(after);
        client.end_writes();
        client.rest();
        self.requests += 1;
    }

    /// Waits until the connection has been closed, or is as it was. Returns true if it is used again.
    #[track_caller]
    fn judge(&mut self, what: &dyn Debug, thorough: bool) -> bool {
        let before = self.idle.clone();
        let started = Instant::now();
        loop {
            let all = Described::all(&mut self.observer);
            let Some(now) = all.into_iter().find(|one| one.field("id") == before.field("id")) else { break };
            if now.state() == before.state() {
                break;
            }
            if now.state_without_database() == before.state_without_database() {
                self.check_database(what, now.field("db"));
                break;
            }
            assert!(started.elapsed() < PATIENCE, "{what:?} leaves\n{}\nof\n{}", now.0, before.0);
        }
        self.idle = self.probe(what);
        let kept = self.idle.field("id") == before.field("id");
        if thorough && self.version == "3" {
            self.check_tracking(what);
            self.idle = self.probe(what);
        }
        kept
    }

    /// The connection has been moved to another database: whoever selects that may get it.
    #[track_caller]
    fn check_database(&mut self, what: &dyn Debug, database: &str) {
        for (selected, mark) in [(database, database), ("0", "0")] {
            self.observer.expect(&["SELECT", selected], "+OK\r\n");
            self.observer.expect(&["SET", "mark", mark], "+OK\r\n");
        }
        let mut client = self.pair.proxy.client();
        client.call(&["HELLO", self.version]);
        client.expect(&["SELECT", database], "+OK\r\n");
        let got = client.call(&["EVAL", "return redis.call('GET', 'mark')", "0"]);
        assert_eq!(got, format!("${}\r\n{database}\r\n", database.len()).as_bytes(), "after {what:?}");
    }

    /// A session that turns tracking on must not be told of keys that others have read.
    #[track_caller]
    fn check_tracking(&mut self, what: &dyn Debug) {
        let mut client = self.pair.proxy.client();
        client.call(&["HELLO", self.version]);
        client.expect(&["CLIENT", "TRACKING", "ON"], "+OK\r\n");
        disturb(&mut self.observer);
        let got = client.call(&["GET", "own"]);
        assert_eq!(got.escape_ascii().to_string(), "_\\r\\n", "after {what:?}");
    }

    fn run(mut self) {
        let documented = Documented::by(&self.pair.server);
        for spec in TABLE.iter().filter(|spec| !LEFT_OUT.contains(&spec.name)) {
            let requests = documented.requests(spec);
            for surroundings in SURROUNDINGS {
                if leaves_nothing(spec, self.administration) {
                    self.run_together(surroundings, &requests);
                    let kept = self.judge(&(surroundings[0], spec.name), false);
                    assert!(kept, "{surroundings:?} {}: its connection was closed", spec.name);
                    continue;
                }
                for request in &requests {
                    self.run_alone(surroundings, request);
                    self.judge(&(surroundings[0], request), true);
                }
            }
        }
        let Self { requests, version, pair, .. } = self;
        eprintln!("{requests} requests of RESP{version} on {}", pair.server.flavor.name());
        assert!(requests > 3000, "{requests} requests");
    }
}

/// Whether a command leaves nothing as the table says, or never reaches the server. Those can run one after another, since
/// none may affect the next.
fn leaves_nothing(spec: &Spec, administration: bool) -> bool {
    match spec.route {
        RouteClass::LocalError => true,
        // Harmless parameters are read whatever the listener allows.
        RouteClass::Admin => !administration && spec.verb != Verb::ConfigGet,
        RouteClass::Virtual => false,
        // Behind a container's name stands a subcommand that may be unknown.
        _ => spec.trace == Trace::Nothing && !spec.flags.contains(Flags::CONTAINER),
    }
}

fn surrounding(command: &str) -> Vec<u8> {
    if command == "WATCH" { encode(&["WATCH", "w"]) } else { encode(&[command]) }
}

/// What tells a connection that has state from one that has none, and what the server says of it afterwards.
#[track_caller]
fn probe(mut client: Client, observer: &mut Client, version: &str) -> (Vec<String>, Described) {
    observer.send("SET mark 0\r\nDEL h\r\nHSET h f v\r\n");
    (0..3).for_each(|_| drop(observer.reply()));
    client.call(&["HELLO", version]);
    client.expect(&["WATCH", "probe"], "+OK\r\n");
    let id = wait::until_some("the connection of the probe", PATIENCE, || {
        let all = Described::all(observer);
        let mut watching = all.iter().filter(|one| one.field("cmd") == "watch");
        match (watching.next(), watching.next()) {
            (Some(one), None) => Some(one.field("id").to_owned()),
            _ => None,
        }
    });
    let questions: &[&[&str]] = &[
        &["CLIENT", "TRACKINGINFO"],
        &["CLIENT", "GETREDIR"],
        &["ACL", "WHOAMI"],
        &["EVAL", "return redis.call('GET', 'mark')", "0"],
        &["HGETALL", "h"],
    ];
    client.send(questions.iter().flat_map(|question| encode(question)).collect::<Vec<u8>>());
    let mut answers: Vec<Vec<u8>> = questions.iter().map(|_| client.reply()).collect();
    disturb(observer);
    answers.push(client.call(&["EVAL", "return 'nothing came'", "0"]));
    client.expect(&["UNWATCH"], "+OK\r\n");
    let described = wait::until_some("the end of the probe", PATIENCE, || {
        let all = Described::all(observer);
        all.into_iter().find(|one| one.field("id") == id && one.field("cmd") == "unwatch")
    });
    (answers.iter().map(|answer| answer.escape_ascii().to_string()).collect(), described)
}

/// Does what trackers, subscribers and monitors are told of.
fn disturb(observer: &mut Client) {
    for name in NAMES {
        for command in ["SET", "DEL", "PUBLISH", "SPUBLISH"] {
            let words = [command, name, "disturbed"];
            observer.send_command(if command == "DEL" { &words[..2] } else { &words });
        }
    }
    NAMES.iter().for_each(|_| observer.replies_are(&["+OK\r\n", ":1\r\n", ":0\r\n", ":0\r\n"]));
}

#[test]
fn valkey_without_administration() {
    Matrix::start(Flavor::Valkey, "3", false).run();
}

#[test]
fn valkey_with_administration() {
    Matrix::start(Flavor::Valkey, "2", true).run();
}

#[test]
fn redis_without_administration() {
    Matrix::start(Flavor::Redis, "2", false).run();
}

#[test]
fn redis_with_administration() {
    Matrix::start(Flavor::Redis, "3", true).run();
}
