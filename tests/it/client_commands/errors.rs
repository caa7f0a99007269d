//! Bad input gets the server's own errors.

use crate::support::compare::Pair;
use crate::support::servers::Flavor;

/// Requests that every server refuses or answers alike.
const ALL: &[&str] = &[
    "LIST TYPE",
    "LIST TYPE foo",
    "LIST TYPE replica",
    "LIST TYPE master",
    "LIST TYPE primary",
    "LIST ID",
    "LIST ID x",
    "LIST ID 1 x",
    "LIST FOO bar",
    "LIST NOT-SKIPME yes",
    "LIST NOT-IDLE 2",
    "LIST SKIPME maybe",
    "KILL",
    "KILL 1.2.3.4:5",
    "KILL ID",
    "KILL ID x",
    "KILL ID 0",
    "KILL ID 1 FOO",
    "KILL TYPE foo",
    "KILL TYPE replica",
    "KILL FOO bar",
    "KILL FOO bar baz",
    "KILL SKIPME maybe",
    "KILL LADDR 1.2.3.4:5",
    "KILL ADDR a LADDR b SKIPME no",
    "UNBLOCK",
    "UNBLOCK x",
    "UNBLOCK x foo",
    "UNBLOCK 4 foo",
    "UNBLOCK 999999",
    "UNBLOCK -5",
    "UNBLOCK 999999 error",
];

/// Requests that only Valkey 9 knows.
const VALKEY_9: &[&str] = &[
    "LIST ID 0",
    "LIST ID +1",
    "LIST ID 999999 999998",
    "LIST ID TYPE replica",
    "LIST FLAGS Z",
    "LIST NOT-FLAGS ZQ",
    "LIST CAPA x",
    "LIST NOT-CAPA x",
    "LIST DB x",
    "LIST NOT-DB x",
    "LIST DB -1",
    "LIST IDLE x",
    "LIST IDLE 0",
    "LIST MAXAGE 0",
    "LIST MAXAGE x",
    "LIST NAME nobody",
    "LIST NAME a b",
    "LIST LIB-NAME nothing LIB-VER nothing",
    "LIST IP 1.2.3.4",
    "LIST IDLE 99999",
    "KILL ID 999999 999998",
    "KILL NOT-ID x",
    "KILL IDLE x",
    "KILL DB x",
    "KILL MAXAGE -1",
    "KILL NAME nobody",
];

on_both_servers!(bad_input_gets_the_server_s_errors);

fn bad_input_gets_the_server_s_errors(flavor: Flavor) {
    let pair = Pair::start_with(flavor, &[], &["--admin-commands", "allow"]);
    let nine = pair.server.run_text(&["INFO", "server"]).contains("valkey_version:9");
    let more = if nine { VALKEY_9 } else { &[] };
    for version in ["2", "3"] {
        pair.compare(|client| {
            client.call(&["SET", "k", version]);
            for line in ALL.iter().chain(more) {
                client.call(&[&["CLIENT"], &*line.split(' ').collect::<Vec<_>>()].concat());
            }
        });
    }
}

on_both_servers!(the_servers_words_apply_before_valkey_9_too);

/// What only Valkey 9 knows works with every server, with the words of Valkey 9 for errors.
fn the_servers_words_apply_before_valkey_9_too(flavor: Flavor) {
    let pair = Pair::start_with(flavor, &[], &["--admin-commands", "read-only"]);
    let mut client = pair.proxy.client();
    client.expect(&["CLIENT", "LIST", "IDLE", "0"], "-ERR idle should be greater than 0\r\n");
    client.expect(&["CLIENT", "LIST", "NAME", "nobody"], "$0\r\n\r\n");
    client.expect(&["CLIENT", "LIST", "NOT-DB", "-1"], "-ERR NOT-DB number should be between 0 and 15\r\n");
    let ids: Vec<String> = (1..12_000).map(|id| id.to_string()).collect();
    let mut words = vec!["CLIENT", "LIST", "ID"];
    words.extend(ids.iter().map(String::as_str));
    let reply = client.call(&words);
    assert!(reply.starts_with(b"-ERR respgate: the filters of CLIENT LIST"), "{}", reply.escape_ascii());
    client.expect(&["PING"], "+PONG\r\n");
}
