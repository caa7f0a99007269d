//! Scripts call commands that respgate does not see: what it warns of, and the ACL rules that it gives against that.

use std::fs;
use std::process::{Command, Output};

use respgate::command::TABLE;
use respgate::command::category::Categories;

use crate::support::port::free_port;
use crate::support::proxy::{Proxy, binary};
use crate::support::servers::{Flavor, Server};

/// `respgate COMMAND --config` with this configuration.
fn respgate(command: &str, toml: &str) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("respgate.toml");
    fs::write(&path, toml).expect("the configuration");
    Command::new(binary())
        .args([command, "--listen", &format!("127.0.0.1:{}", free_port()), "--config"])
        .arg(path)
        .env_clear()
        .output()
        .expect("respgate")
}

fn text(output: &Output) -> String {
    [&*output.stdout, &output.stderr].map(String::from_utf8_lossy).concat()
}

/// The rules behind `ACL SETUSER USER` in a text.
fn rules<'a>(text: &'a str, user: &str) -> Vec<&'a str> {
    let (_, rest) = text.split_once(&format!("ACL SETUSER {user} ")).unwrap_or_else(|| panic!("{text}"));
    // Long ones go on in the next line.
    let is_rule = |word: &&str| word.starts_with(['+', '-', '~', '&']) || word.starts_with("reset");
    rest.split_whitespace().take_while(is_rule).collect()
}

fn server_with_user(flavor: Flavor) -> (Server, String) {
    let server = Server::start(flavor);
    server.run(&["ACL", "SETUSER", "app", "on", "nopass", "~*", "&*", "+@all"]);
    let toml = format!("[upstreams.main]\nurl = \"redis://app:any@127.0.0.1:{}\"\n", server.port);
    (server, toml)
}

on_both_servers!(the_acl_line_closes_administration_to_scripts);

/// `check` names the line, `doctor` sees whether it is needed, the server takes it, no administrative command is left to
/// scripts, and respgate works as before.
fn the_acl_line_closes_administration_to_scripts(flavor: Flavor) {
    let (server, toml) = server_with_user(flavor);
    let proxy = Proxy::start_file(2, &toml);
    let mut client = proxy.client();
    assert!(client.call(&["SLOWLOG", "RESET"]).starts_with(b"-NOPERM"));
    assert!(client.call(&["EVAL", "return redis.call('SLOWLOG', 'LEN')", "0"]).starts_with(b":"));

    let checked = text(&respgate("check", &toml));
    assert!(checked.contains("warning: ") && checked.contains("NOSCRIPT"), "{checked}");
    let before = text(&respgate("doctor", &toml));
    assert!(before.contains("scripts of user \"app\" can run SLOWLOG LEN"), "{before}");
    let line = rules(&checked, "app");
    assert_eq!(line, rules(&before, "app"));
    assert_eq!(server.run(&[&["ACL", "SETUSER", "app"], &*line].concat()), b"+OK\r\n", "{line:?}");
    let after = text(&respgate("doctor", &toml));
    assert!(after.contains("scripts of user \"app\" can run nothing that a listener refuses"), "{after}");

    let admin = Categories::named("admin").expect("a category");
    let words = TABLE.iter().filter(|spec| Categories::of(spec).contains(admin)).map(|spec| spec.name);
    for name in words.filter(|name| !["ROLE", "LASTSAVE"].contains(name)) {
        let spec = TABLE.iter().find(|spec| spec.name == name).expect("a row");
        let mut call: Vec<String> = name.split('|').map(str::to_owned).collect();
        call.resize(usize::from(spec.arity.unsigned_abs()), "1".into());
        let call = call.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(",");
        let reply = client.call(&["EVAL", &format!("return redis.call({call})"), "0"]);
        let reply = String::from_utf8_lossy(&reply).into_owned();
        let stopped = [
            "ACL failure",
            "can't run this command",
            "not allowed from script",
            "Unknown",
            "unknown subcommand",
        ];
        assert!(stopped.iter().any(|why| reply.contains(why)), "{name}: {reply}");
    }

    // A respgate that begins now works, too.
    drop(proxy);
    let proxy = Proxy::start_file(2, &toml);
    let mut client = proxy.client();
    client.expect(&["SET", "k", "v"], "+OK\r\n");
    client.expect(&["EVAL", "return redis.call('GET', KEYS[1])", "1", "k"], "$1\r\nv\r\n");
    client.send("MULTI\r\nGET k\r\nEXEC\r\nRPUSH l x\r\nBLPOP l 1\r\nSELECT 2\r\nGET k\r\n");
    for reply in
        ["+OK\r\n", "+QUEUED\r\n", "*1\r\n$1\r\nv\r\n", ":1\r\n", "*2\r\n$1\r\nl\r\n$1\r\nx\r\n", "+OK\r\n"]
    {
        client.expect_reply(reply);
    }
    client.expect_reply("$-1\r\n");
    for command in
        [&["CONFIG", "GET", "maxmemory"][..], &["ROLE"], &["INFO", "server"], &["COMMAND", "COUNT"]]
    {
        assert!(!client.call(command).starts_with(b"-"), "{command:?}");
    }
    assert!(client.call(&["LASTSAVE"]).starts_with(b":"));
}

on_both_servers!(the_acl_line_of_a_tenant_holds_its_scripts_to_its_policy);

/// What `check` prints for a tenant whose policy allows scripts holds those to that policy.
fn the_acl_line_of_a_tenant_holds_its_scripts_to_its_policy(flavor: Flavor) {
    for (policy, refused, allowed) in [
        ("read-only = true", "EVAL_RO \"return redis.call('SLOWLOG','RESET')\" 0", "EVAL_RO \"return 7\" 0"),
        (
            "commands = [\"+@all\", \"-@dangerous\", \"+info\"]\nkey-prefixes = [\"app1:\"]\nscripts = \"declared-keys\"",
            "EVAL \"return redis.call('SET','other','x')\" 0",
            "EVAL \"redis.call('SET','app1:k','x') return 7\" 0",
        ),
        (
            "commands = [\"+@read\", \"+@scripting\"]\nscripts = \"declared-keys\"",
            "EVAL \"return redis.call('SET','k','x')\" 0",
            "EVAL \"redis.call('GET','k') return 7\" 0",
        ),
    ] {
        let (server, upstream) = server_with_user(flavor);
        let toml = format!("{upstream}[tenants.shop]\ndefault = true\n{policy}\n");
        let call = |line: &str| {
            let proxy = Proxy::start_file(1, &toml);
            let mut client = proxy.client();
            client.send(format!("{line}\r\n"));
            client.reply()
        };
        assert!(!call(refused).starts_with(b"-"), "{policy}: a server stops {refused} by itself");
        let checked = text(&respgate("check", &toml));
        let line = rules(&checked, "NAME");
        assert_eq!(server.run(&[&["ACL", "SETUSER", "app"], &*line].concat()), b"+OK\r\n", "{line:?}");
        assert!(call(refused).starts_with(b"-"), "{policy}");
        assert_eq!(call(allowed), b":7\r\n", "{policy}");
    }
}
