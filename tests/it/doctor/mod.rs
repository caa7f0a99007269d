//! `respgate doctor`: each thing that can be broken has its words and its exit code.

mod reads;
mod tls;

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::client::Client;
use crate::support::deployment::{Deployment, Plan};
use crate::support::port::free_port;
use crate::support::proxy::{Proxy, binary};
use crate::support::scripted::{Said, Scripted, as_primary, as_sentinel};
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

const HEALTHY: i32 = 0;
const MISCONFIGURED: i32 = 64;
const BROKEN: i32 = 69;

/// Runs the doctor with nothing in its environment.
fn doctor(arguments: &[&str]) -> Output {
    let listen = format!("127.0.0.1:{}", free_port());
    Command::new(binary())
        .args(["doctor", "--listen", &listen])
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .output()
        .expect("respgate doctor")
}

/// What it says as JSON, with its exit code.
struct Diagnosis {
    document: Value,
    code: i32,
}

fn examine(arguments: &[&str]) -> Diagnosis {
    let output = doctor(&[arguments, &["--json"]].concat());
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let document: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let code = output.status.code().expect("an exit code");
    assert_eq!(document["exit_code"], code);
    assert_eq!(document["healthy"], code == HEALTHY);
    Diagnosis { document, code }
}

fn url(port: u16) -> String {
    format!("redis://127.0.0.1:{port}")
}

/// Examines a configuration file with this text.
fn examine_configuration(text: &str) -> Diagnosis {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), text).expect("the configuration");
    examine(&["--config", &file.path().to_string_lossy()])
}

fn examine_url(url: &str) -> Diagnosis {
    examine(&["--upstream", url])
}

impl Diagnosis {
    /// The findings of a step, each as `level: seen (details) -> remedy`.
    fn step(&self, subject: &str, step: &str) -> Vec<String> {
        let sections = self.document["sections"].as_array().expect("sections");
        let findings = sections
            .iter()
            .filter(|section| section["subject"] == subject)
            .flat_map(|section| section["findings"].as_array().expect("findings"));
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        findings
            .filter(|finding| finding["step"] == step)
            .map(|it| {
                format!(
                    "{}: {} {} -> {}",
                    text(&it["level"]),
                    text(&it["seen"]),
                    it["details"],
                    text(&it["remedy"])
                )
            })
            .collect()
    }

    /// A step has these words, and the exit code says that something is broken.
    #[track_caller]
    fn is_broken(&self, subject: &str, step: &str, words: &[&str]) {
        self.says(subject, step, &[&["broken: "], words].concat());
        assert_eq!(self.code, BROKEN, "{:#}", self.document);
    }

    #[track_caller]
    fn says(&self, subject: &str, step: &str, words: &[&str]) {
        let found = self.step(subject, step);
        let fits = found.iter().any(|text| words.iter().all(|word| text.contains(word)));
        assert!(fits, "{words:?} are not in {found:#?} of {:#}", self.document);
    }
}

on_both_servers!(a_healthy_deployment);

fn a_healthy_deployment(flavor: Flavor) {
    let plan = Plan { replicas: 1, password: Some("hunter2"), ..Plan::new(flavor) };
    let deployment = Deployment::start(&plan);
    deployment.wait_until_redundant();
    // One is configured, the others are learnt from it.
    let seed = format!("redis-sentinel://:hunter2@127.0.0.1:{}/3#mymaster", deployment.sentinels[0].port);
    // Right after their start, Sentinels have yet to connect to each other.
    let diagnosis = wait::until_some("three Sentinels to be walked to", wait::PATIENCE, || {
        let diagnosis = examine_url(&seed);
        (diagnosis.step("sentinel", "sentinel").len() == 3).then_some(diagnosis)
    });
    assert_eq!(diagnosis.code, HEALTHY, "{:#}", diagnosis.document);
    diagnosis.says("sentinels", "agreement", &["ok: all 3 Sentinels name 127.0.0.1"]);
    diagnosis.says("primary", "login", &["ok: logged in as user \"default\""]);
    diagnosis.says("primary", "server", &["ok: ", flavor.name()]);
    diagnosis.says("primary", "role", &["ok: a primary, followed by 1 replica"]);
    diagnosis.says("primary", "database", &["ok: database 3"]);
    diagnosis.says("primary", "latency", &["20 PINGs: median"]);
    diagnosis.says("replica", "role", &["ok: a replica of", "connected"]);
    let output = doctor(&["--upstream", &seed]);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(text.contains("  ok         latency    20 PINGs"), "{text}");
    assert!(!text.contains('\x1b') && !text.contains("hunter2"), "{text}");
    assert_eq!(output.status.code(), Some(HEALTHY));
}

#[test]
fn nothing_is_there() {
    let diagnosis = examine_url("redis://nosuch.invalid:6379");
    diagnosis.is_broken("primary", "dns", &["nosuch.invalid", "check the spelling"]);
    diagnosis.says("primary", "connect", &["not tried: "]);
    let diagnosis = examine_url(&url(free_port()));
    diagnosis.is_broken("primary", "connect", &["refuses the connection", "check that the server runs"]);
    diagnosis.says("primary", "latency", &["not tried: "]);
    let diagnosis = examine_url("unix:/nonexistent/valkey.sock");
    diagnosis.is_broken("primary", "connect", &["does not exist", "unixsocket"]);
    let server = Server::start(Flavor::Valkey);
    let diagnosis = examine_url(&format!("unix:{}", server.socket().display()));
    assert_eq!(diagnosis.code, HEALTHY, "{:#}", diagnosis.document);
}

on_both_servers!(credentials);

fn credentials(flavor: Flavor) {
    let server = Server::start_with(flavor, &["--requirepass", "secret"]);
    server.run(&["ACL", "SETUSER", "app", "on", ">apple", "~*", "+@all", "-@admin", "-@dangerous"]);
    let at = format!("127.0.0.1:{}", server.port);
    let diagnosis = examine_url(&format!("redis://app:banana@{at}"));
    diagnosis.is_broken("primary", "login", &["WRONGPASS", "\"app\"", "ACL GETUSER app"]);
    assert!(!diagnosis.document.to_string().contains("banana"));
    let diagnosis = examine_url(&format!("redis://{at}"));
    diagnosis.is_broken("primary", "login", &["requires a password, and none is configured", "client-auth"]);

    let file = tempfile::NamedTempFile::new().expect("a file");
    let toml = format!("[upstreams.main]\naddress = \"{at}\"\nclient-auth = \"required\"\n");
    std::fs::write(file.path(), toml).expect("the configuration");
    let diagnosis = examine(&["--config", &file.path().to_string_lossy()]);
    diagnosis.says("primary", "login", &["warning: ", "clients bring their own"]);
    assert_eq!(diagnosis.code, HEALTHY);

    // A program that prints the password is run, and may fail.
    for (program, code) in [("[\"printf\", \"secret\"]", HEALTHY), ("[\"false\"]", BROKEN)] {
        let toml = format!("[upstreams.main]\naddress = \"{at}\"\npassword-command = {program}\n");
        std::fs::write(file.path(), toml).expect("the configuration");
        let diagnosis = examine(&["--config", &file.path().to_string_lossy()]);
        assert_eq!(diagnosis.code, code, "{:#}", diagnosis.document);
        let words = if code == HEALTHY { "logged in" } else { "there is no password: false failed" };
        diagnosis.says("primary", "login", &[words]);
    }

    // Neither ROLE nor INFO: the rest is well.
    let diagnosis = examine_url(&format!("redis://app:apple@{at}"));
    diagnosis.says("primary", "role", &["warning: ", "neither ROLE nor INFO", "+role"]);
    assert!(diagnosis.step("primary", "clients").is_empty());
    assert_eq!(diagnosis.code, HEALTHY);

    let open = Server::start(flavor);
    let diagnosis = examine_url(&format!("redis://:secret@127.0.0.1:{}", open.port));
    diagnosis.is_broken("primary", "login", &["default user has none", "leave"]);
}

#[test]
fn servers_that_will_not_do() {
    let mut primary = Server::start(Flavor::Valkey);
    let replica =
        Server::start_with(Flavor::Valkey, &["--replicaof", "127.0.0.1", &primary.port.to_string()]);
    let of = format!("a replica of 127.0.0.1:{}", primary.port);
    examine_url(&url(replica.port)).is_broken("primary", "role", &[&of, "READONLY", "redis-sentinel://"]);
    primary.crash();
    wait::until("the replica to miss its primary", || {
        replica.run_text(&["INFO", "replication"]).contains("master_link_status:down")
    });
    examine_url(&url(replica.port)).is_broken("primary", "role", &[&of, "has lost the link"]);

    let cluster = Server::start_with(Flavor::Valkey, &["--cluster-enabled", "yes"]);
    examine_url(&url(cluster.port)).is_broken("primary", "server", &["cluster"]);
    examine_url(&format!("{}/99", url(replica.port))).is_broken("primary", "database", &["99", "databases"]);

    let full = Server::start_with(Flavor::Valkey, &["--maxclients", "3"]);
    let diagnosis = examine_url(&url(full.port));
    diagnosis.says("primary", "clients", &["warning: ", "of 3 connections", "max-connections"]);
    let mut clients: Vec<Client> = (0..3).map(|_| full.client()).collect();
    clients.iter_mut().for_each(|client| drop(client.call(&["PING"])));
    examine_url(&url(full.port)).is_broken(
        "primary",
        "login",
        &["as many clients as it allows", "maxclients"],
    );
}

/// What no server on loopback says on demand.
#[test]
fn servers_that_are_not_ready() {
    let cases: [(&str, &str, [&str; 2]); 4] = [
        ("-DENIED Redis is running in protected mode because x", "login", ["protected mode", "requirepass"]),
        ("-LOADING Redis is loading the dataset in memory", "server", ["still loads its data", "wait"]),
        ("-MISCONF Errors writing to the AOF file: x", "server", ["refuses writes", "disk space"]),
        ("-MASTERDOWN Link with MASTER is down and x", "server", ["link to its primary is down", "role"]),
    ];
    for (line, step, words) in cases {
        let scripted = Scripted::start(move |command| {
            let ping = command[0] == "PING";
            let error = || Said::Bytes(format!("{line}\r\n").into_bytes());
            match as_primary(command) {
                Some(_) if ping || step == "login" => error(),
                Some(bytes) => Said::Bytes(bytes),
                None => Said::Bytes(b"-ERR unknown command\r\n".to_vec()),
            }
        });
        examine_url(&url(scripted.port)).is_broken("primary", step, &words);
    }
}

#[test]
fn another_protocol() {
    let http = Scripted::start(|_| Said::Last(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()));
    examine_url(&url(http.port)).is_broken("primary", "login", &["not a Valkey or Redis server"]);
    let mute = Scripted::start(|_| Said::Last(Vec::new()));
    examine_url(&url(mute.port)).is_broken("primary", "login", &["closed the connection", "load balancer"]);

    let frozen = Server::start(Flavor::Valkey);
    frozen.signal("STOP");
    let begun = Instant::now();
    let diagnosis = examine_url(&url(frozen.port));
    frozen.signal("CONT");
    diagnosis.is_broken("primary", "login", &["then sent nothing", "hang"]);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[test]
fn sentinels_that_are_wrong() {
    let plan = Plan { sentinel_password: Some("watch"), ..Plan::new(Flavor::Valkey) };
    let mut deployment = Deployment::start(&plan);
    deployment.wait_until_redundant();
    let url = deployment.url();
    let diagnosis = examine_url(&url);
    diagnosis.is_broken("sentinel", "login", &["requires a password", "sentinel-user"]);
    diagnosis.says("primary", "connect", &["not tried: "]);
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "watch").expect("the password");
    let password = file.path().to_string_lossy().into_owned();
    let flags = ["--sentinel-password-file", password.as_str(), "--upstream"];

    let diagnosis = examine(&[&flags[..], &[&url.replace("mymaster", "nomaster")]].concat());
    diagnosis.is_broken("sentinel", "sentinel", &["\"nomaster\"", "it knows \"mymaster\""]);
    let diagnosis = examine(&[&flags[..], &[&url]].concat());
    assert_eq!(diagnosis.code, HEALTHY, "{:#}", diagnosis.document);
    diagnosis.says("sentinels", "replicas", &["warning: ", "no replica"]);

    // One of three is a flaw; two of three are too many.
    deployment.sentinels[0].crash();
    let diagnosis = examine(&[&flags[..], &[&url]].concat());
    diagnosis.says("sentinel", "connect", &["warning: ", "refuses"]);
    diagnosis.says("sentinels", "agreement", &["warning: 2 of 3 Sentinels answer"]);
    assert_eq!(diagnosis.code, HEALTHY, "{:#}", diagnosis.document);
    deployment.sentinels[1].crash();
    let diagnosis = examine(&[&flags[..], &[&url]].concat());
    diagnosis.is_broken("sentinels", "agreement", &["only 1 of 3 Sentinels", "failover"]);
    diagnosis.says("primary", "role", &["ok: a primary"]);

    let primary = deployment.primary.port;
    let diagnosis = examine_url(&format!("redis-sentinel://127.0.0.1:{primary}/0#mymaster"));
    diagnosis.is_broken("sentinel", "sentinel", &["not a Sentinel but a data server", "26379"]);
    let open = Deployment::start(&Plan { sentinels: 1, ..Plan::new(Flavor::Valkey) });
    let diagnosis = examine_url(&format!("redis://127.0.0.1:{}", open.sentinels[0].port));
    diagnosis.is_broken("primary", "role", &["a Sentinel, which holds no data", "redis-sentinel://"]);
}

/// A Sentinel with an id of its own.
fn sentinel(id: char, primary: u16) -> Scripted {
    Scripted::start(move |command| {
        Said::Bytes(match command {
            [_, what] if what.eq_ignore_ascii_case("MYID") => {
                format!("$40\r\n{}\r\n", id.to_string().repeat(40)).into_bytes()
            }
            command => as_sentinel(command, primary, 1),
        })
    })
}

#[test]
fn sentinels_that_lie() {
    let (here, there) = (Server::start(Flavor::Valkey), Server::start(Flavor::Valkey));
    let (one, other) = (sentinel('a', here.port), sentinel('b', there.port));
    let url = format!("redis-sentinel://127.0.0.1:{},127.0.0.1:{}/0#mymaster", one.port, other.port);
    let diagnosis = examine_url(&url);
    let names = format!("127.0.0.1:{} names 127.0.0.1:{} (epoch 1)", other.port, there.port);
    diagnosis.is_broken("sentinels", "agreement", &["disagree", &names]);
    diagnosis.says("primary", "role", &["not tried: "]);

    let dead = sentinel('c', free_port());
    let diagnosis = examine_url(&format!("redis-sentinel://127.0.0.1:{}/0#mymaster", dead.port));
    diagnosis.is_broken("primary", "connect", &["refuses", "[upstreams.main.nat]", "HOST:PORT"]);
}

#[test]
fn a_configuration_with_faults_is_not_walked() {
    let diagnosis = examine_url("nonsense");
    assert_eq!(diagnosis.code, MISCONFIGURED);
    assert_eq!(diagnosis.document["configuration"][0]["level"], "broken");
    let output = doctor(&["--upstream", "nonsense"]);
    assert_eq!(output.status.code(), Some(MISCONFIGURED));
    assert!(output.stdout.is_empty() && String::from_utf8_lossy(&output.stderr).contains("--upstream"));
}

#[test]
fn listeners() {
    let held = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let server = Server::start(Flavor::Valkey);
    let in_use = held.local_addr().expect("its address").to_string();
    let upstream = url(server.port);
    let diagnosis = examine(&["--listen", &in_use, "--upstream", &upstream]);
    diagnosis.says("listener", "listen", &["ok: in use"]);
    assert_eq!(diagnosis.code, HEALTHY);
    let diagnosis = examine(&["--listen", "unix:/nonexistent/respgate.sock", "--upstream", &upstream]);
    diagnosis.is_broken("listener", "listen", &["/nonexistent", "RuntimeDirectory"]);
}

#[test]
fn status_of_a_running_respgate() {
    let status = |arguments: &[&str]| {
        let output = Command::new(binary())
            .arg("status")
            .args(arguments)
            .env_clear()
            .output()
            .expect("respgate status");
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let server = Server::start(Flavor::Valkey);
    let mut proxy = Proxy::start(&url(server.port));
    proxy.allow_log("no primary");
    proxy.client().expect(&["SET", "k", "v"], "+OK\r\n");
    let admin = format!("127.0.0.1:{}", proxy.admin);
    let (code, text) = wait::until_some("the command to be counted", wait::PATIENCE, || {
        let (code, text) = status(&["--admin", &admin]);
        text.contains("shared 1").then_some((code, text))
    });
    assert_eq!(code, Some(HEALTHY), "{text}");
    let primary = format!("upstream main: primary 127.0.0.1:{}", server.port);
    for words in [primary.as_str(), ": ready", "trouble      none since the start"] {
        assert!(text.contains(words), "{words} is not in {text}");
    }
    let (code, text) = status(&["--admin", &admin, "--json"]);
    let document: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!((code, &document["process"]["ready"]), (Some(HEALTHY), &Value::Bool(true)));
    assert_eq!(document["upstreams"][0]["figures"]["commands"]["shared"], 1);

    drop(server);
    let (code, text) = wait::until_some("readiness to end", wait::PATIENCE, || {
        let (code, text) = status(&["--admin", &admin]);
        proxy.client().send("*1\r\n$6\r\nDBSIZE\r\n");
        (code != Some(HEALTHY)).then_some((code, text))
    });
    assert_eq!(code, Some(BROKEN));
    assert!(text.contains("NOT READY") && text.contains("refused"), "{text}");
    let (code, text) = status(&["--admin", &format!("127.0.0.1:{}", free_port())]);
    assert!(code == Some(BROKEN) && text.contains("no respgate answers"), "{text}");
}

/// What respgate has for users of its own is tried, too: each login says whose it is.
#[test]
fn users_with_logins_of_their_own() {
    const HASH: &str =
        "$argon2id$v=19$m=8,t=1,p=1$2Huxnavx+f1swty09zxDRQ$RGYSCL3JgwR3INUYOxAuE1y5+1bBWgCYaWYxn2ZPdXQ";
    let server = Server::start(Flavor::Valkey);
    server.run(&["ACL", "SETUSER", "ann", "on", ">right-secret", "~*", "+@all"]);
    let file = tempfile::NamedTempFile::new().expect("a file");
    let user = |name: &str, command: &str| {
        format!(
            "[users.{name}]\npassword-hash = \"{HASH}\"\nupstream-username = \"ann\"\n\
             upstream-password-command = {command}\n"
        )
    };
    let text = [
        format!("[upstreams.main]\nurl = \"{}\"\n", url(server.port)),
        user("shop", "[\"echo\", \"right-secret\"]"),
        user("batch", "[\"echo\", \"wrong-secret\"]"),
        user("late", "[\"false\"]"),
    ];
    std::fs::write(file.path(), text.concat()).expect("a configuration");
    let diagnosis = examine(&["--config", &file.path().to_string_lossy()]);
    assert_eq!(diagnosis.code, BROKEN);
    let logins = diagnosis.step("primary", "login");
    let of = |user: &str| logins.iter().find(|login| login.contains(user)).expect("a login of the user");
    assert_eq!(logins.len(), 4, "{logins:?}");
    assert!(of("\"shop\"").starts_with("ok: ") && of("\"shop\"").contains("\"ann\""), "{logins:?}");
    assert!(
        of("\"batch\"").starts_with("broken: ") && of("\"batch\"").contains("[users.batch]"),
        "{logins:?}"
    );
    assert!(of("\"late\"").starts_with("broken: ") && of("\"late\"").contains("no password"), "{logins:?}");
    assert!(!logins.concat().contains("-secret"));
}
