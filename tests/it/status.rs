//! `/status`: the document, its schema, its history, and who gets which page.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::deployment::{Deployment, Plan};
use crate::support::proxy::{Proxy, binary};
use crate::support::servers::{Flavor, Server};
use crate::support::wait;

pub fn document(proxy: &Proxy, path: &str) -> Value {
    let answer = proxy.http(path);
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("application/json"), "{head}");
    serde_json::from_str(body).expect("JSON")
}

/// Makes every object of a schema refuse keys that it does not name.
fn closed(schema: &mut Value) {
    if let Value::Object(object) = schema {
        if object.contains_key("properties") {
            object.insert("additionalProperties".into(), json!(false));
        }
        object.values_mut().for_each(closed);
    }
}

/// The document fits the published schema, and the schema names every key.
#[track_caller]
pub fn assert_fits(proxy: &Proxy, status: &Value) {
    let mut schema = document(proxy, "/status/schema");
    closed(&mut schema);
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    let errors: Vec<_> =
        validator.iter_errors(status).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:#?}\n{status:#}");
}

on_both_servers!(the_document_fits_its_schema, workers: [1, 2]);

fn the_document_fits_its_schema(flavor: Flavor, workers: usize) {
    let deployment = Deployment::start(&Plan { replicas: 1, ..Plan::new(flavor) });
    deployment.wait_until_redundant();
    let proxy = Proxy::start_file(
        workers,
        &format!(
            "latency = \"on\"\n[upstreams.main]\nurl = {:?}\nmax-leased = 8\n[tenants.t]\ndefault = true\nconnections = 10\n\
             commands-per-second = 1000\nmax-buffered = \"1MiB\"\n",
            deployment.url()
        ),
    );
    let mut clients: Vec<_> = (0..3).map(|_| proxy.client()).collect();
    clients[0].send_command(&["BLPOP", "queue", "0"]);
    clients[1].expect(&["MULTI"], "+OK\r\n");
    clients[2].send_command(&["SUBSCRIBE", "news"]);
    clients[2].reply();
    let mut writer = proxy.client();
    let status = wait::until_some("everything to be shown", wait::PATIENCE, || {
        writer.expect(&["SET", "k", "v"], "+OK\r\n");
        let status = document(&proxy, "/status");
        let upstream = &status["upstreams"][0];
        let pins = &upstream["pins"];
        let pinned = ["blocking", "transaction", "subscription"].iter().all(|reason| pins[reason] == 1);
        let replica = &upstream["replication"]["replicas"][0];
        let replicated = replica["link"] == "connected" && replica["lag_bytes"].is_u64();
        (pinned && replicated && upstream["latency"]["p99_ms"].is_f64()).then_some(status)
    });
    assert_fits(&proxy, &status);
    let upstream = &status["upstreams"][0];
    assert_eq!(upstream["state"], "serving");
    assert_eq!(upstream["primary"]["generation"], 1);
    assert_eq!(upstream["leases"]["in_use"], 3);
    assert_eq!(upstream["leases"]["max"], 8);
    assert_eq!(upstream["clients"]["connected"], 4);
    let sentinels = upstream["sentinels"].as_array().expect("Sentinels");
    assert!(
        sentinels.len() == 3 && sentinels.iter().all(|sentinel| sentinel["agrees"] == true),
        "{sentinels:#?}"
    );
    assert_eq!(status["listeners"][0]["clients"], 4);
    assert_eq!(
        status["tenants"][0]["limits"][0],
        json!({ "limit": "connections", "max": 10, "used": 4.0, "delayed": 0, "refused": 0 })
    );
    assert_eq!(status["control"]["permitted"], false);
    assert_eq!(status["warnings"], json!([]));
    let history = document(&proxy, "/status/history");
    let p99 = history["upstreams"]["main"]["p99_ms"].as_array().expect("the p99");
    assert!(p99.iter().any(|ms| ms.as_f64() > Some(0.0)), "{history:#}");

    clients[1].expect(&["DISCARD"], "+OK\r\n");
    wait::until("the pin to end", || document(&proxy, "/status")["upstreams"][0]["pins"]["transaction"] == 0);
}

/// During a failover: the document fits, and says what happens.
#[test]
fn a_failover_is_shown_while_it_lasts() {
    let deployment = Deployment::start(&Plan { replicas: 1, ..Plan::new(Flavor::Valkey) });
    deployment.wait_until_redundant();
    let mut proxy = Proxy::start_with(&deployment.url(), 2, &[]);
    proxy.allow_log("");
    deployment.primary.signal("STOP");
    let mut client = proxy.client();
    client.send_command(&["SET", "k", "v"]);
    let during = wait::until_some("the hold", wait::PATIENCE, || {
        let status = document(&proxy, "/status");
        let upstream = &status["upstreams"][0];
        (upstream["hold"]["active"] == true && upstream["failover"]["elapsed_ms"].is_u64()).then_some(status)
    });
    assert_fits(&proxy, &during);
    assert!(!during["warnings"].as_array().expect("warnings").is_empty());
    client.expect_reply("+OK\r\n");
    let after = wait::until_some("the failover", wait::PATIENCE, || {
        let status = document(&proxy, "/status");
        let upstream = &status["upstreams"][0];
        (upstream["failovers"][0]["first_success_ms"].is_u64() && upstream["state"] == "serving")
            .then_some(status)
    });
    assert_fits(&proxy, &after);
    assert_eq!(
        after["upstreams"][0]["primary"]["address"],
        format!("127.0.0.1:{}", deployment.replicas[0].port)
    );
    let history = document(&proxy, "/status/history");
    let series = &history["upstreams"]["main"];
    let lengths = ["unix_ms", "commands", "clients", "held", "p99_ms"]
        .map(|name| series[name].as_array().map(Vec::len));
    assert!(lengths[0] > Some(1) && lengths.iter().all(|length| *length == lengths[0]), "{history:#}");
    deployment.primary.signal("CONT");
}

/// Programs get text at `/`, browsers get the page with a policy that lets nothing else in.
#[test]
fn browsers_and_programs_get_different_pages() {
    let server = Server::start(Flavor::Valkey);
    let proxy = Proxy::start(&format!("redis://127.0.0.1:{}", server.port));
    let text = proxy.http("/");
    assert!(text.contains("text/plain") && text.contains("/status"), "{text}");
    let page = proxy.http_with("/", "Accept: text/html,*/*;q=0.8\r\n");
    assert!(page.contains("content-type: text/html") && page.contains("<!doctype html>"), "{page}");
    for path in ["/page/main.js", "/page/page.css", "/page/icon.svg"] {
        let part = proxy.http(path);
        assert!(part.starts_with("HTTP/1.1 200"), "{path}: {part}");
        for header in [
            "content-security-policy: default-src 'none'; script-src 'self'",
            "x-content-type-options: nosniff",
        ] {
            assert!(part.contains(header), "{path}: {part}");
        }
    }
    // A browser has no token before the page has asked for it.
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("token");
    std::fs::write(&path, "0123456789abcdef").expect("the token");
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .expect("permissions");
    let file =
        format!("read-token-file = {path:?}\n[upstreams.main]\naddress = \"127.0.0.1:{}\"\n", server.port);
    let guarded = Proxy::start_file(1, &file);
    for (path, code) in [
        ("/", 200),
        ("/page/main.js", 200),
        ("/status", 401),
        ("/status/clients", 401),
        ("/status/history", 401),
        ("/slow", 401),
    ] {
        let answer = guarded.http(path);
        assert!(answer.starts_with(&format!("HTTP/1.1 {code}")), "{path}: {answer}");
    }
    let answer = guarded.http_with("/status", "Authorization: Bearer 0123456789abcdef\r\n");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(proxy.http("/page/../main.rs").starts_with("HTTP/1.1 404"));
}

/// With the configuration file, `respgate status` asks the control socket, which needs no token.
#[test]
fn the_control_socket_shows_the_status_without_a_token() {
    let server = Server::start(Flavor::Valkey);
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("token"), "0123456789abcdef").expect("the token");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(path("token"), mode).expect("permissions");
    let file = format!(
        "control-socket = {:?}\nread-token-file = {:?}\n[upstreams.main]\naddress = \"127.0.0.1:{}\"\n",
        path("control.sock"),
        path("token"),
        server.port
    );
    // The address is that of a flag of the running respgate; a token of readers needs one in the file.
    std::fs::write(path("respgate.toml"), format!("admin = \"127.0.0.1:1\"\n{file}"))
        .expect("the configuration");
    let proxy = Proxy::start_file(1, &file);
    let status = |flags: &[&str]| {
        let output = Command::new(binary()).arg("status").args(flags).output().expect("respgate status");
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let (code, text) = status(&["--config", &path("respgate.toml")]);
    assert!(code == Some(0) && text.contains("upstream main: primary"), "{text}");
    let (code, text) = status(&["--admin", &format!("127.0.0.1:{}", proxy.admin)]);
    assert!(code == Some(69) && text.contains("only readers with a token"), "{text}");
}
