//! Client-side caching.

use crate::support::compare::Pair;
use crate::support::servers::Flavor;

on_both_servers!(invalidations_arrive);

fn invalidations_arrive(flavor: Flavor) {
    let pair = Pair::start(flavor);
    for options in [&[][..], &["BCAST"], &["OPTIN"], &["NOLOOP"]] {
        pair.compare(|client| {
            let other = client.another();
            client.call(&["HELLO", "3", "SETNAME", "x"]);
            let command: Vec<&str> = ["CLIENT", "TRACKING", "ON"].iter().chain(options).copied().collect();
            client.call(&command);
            if options == ["OPTIN"] {
                client.call(&["CLIENT", "CACHING", "YES"]);
            }
            client.call(&["GET", "k"]);
            client.call(&["CLIENT", "TRACKINGINFO"]);
            client.call_on(other, &["SET", "k", "new"]);
            client.replies(1);
            client.call(&["GET", "k"]);
            client.call(&["CLIENT", "TRACKING", "OFF"]);
            client.call(&["GET", "k"]);
            client.call_on(other, &["SET", "k", "newer"]);
            client.call(&["PING"]);
        });
    }
}

on_both_servers!(a_local_command_ends_caching);

/// CLIENT CACHING speaks of the next command, also when respgate answers that itself.
fn a_local_command_ends_caching(flavor: Flavor) {
    let pair = Pair::start(flavor);
    for between in [&["HELLO", "3", "SETNAME", "x"][..], &["NOSUCH"], &["EXEC"], &["CLIENT", "GETNAME"]] {
        pair.compare(|client| {
            let other = client.another();
            client.call(&["HELLO", "3", "SETNAME", "x"]);
            client.call(&["CLIENT", "TRACKING", "ON", "OPTIN"]);
            client.call(&["CLIENT", "CACHING", "YES"]);
            client.call(between);
            client.call(&["GET", "k"]);
            client.call_on(other, &["SET", "k", "new"]);
            // Comes with an invalidation before it, or without.
            client.send("PING\r\n");
            client.replies(if between[0] == "CLIENT" { 2 } else { 1 });
        });
    }
}

#[test]
fn refused_forms() {
    let pair = Pair::start(Flavor::Valkey);
    pair.compare(|client| {
        client.call(&["HELLO", "3", "SETNAME", "x"]);
        client.call(&["CLIENT", "TRACKING", "MAYBE"]);
        client.call(&["CLIENT", "TRACKING", "ON", "NOSUCH"]);
        client.call(&["CLIENT", "CACHING", "YES"]);
        client.call(&["CLIENT", "TRACKINGINFO"]);
        client.call(&["CLIENT", "GETREDIR"]);
    });
    // RESP2 has no pushes, and a redirection names another connection's number, and respgate's numbers are its own.
    let mut client = pair.proxy.client();
    assert!(client.call(&["CLIENT", "TRACKING", "ON"]).starts_with(b"-"));
    assert!(client.call(&["CLIENT", "TRACKING", "ON", "REDIRECT", "1"]).starts_with(b"-"));
    client.expect(&["PING"], "+PONG\r\n");
}
