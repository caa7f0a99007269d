//! Behind a load balancer that says where clients come from.

use crate::support::client::Client;
use crate::support::compare::Pair;
use crate::support::port::free_port;
use crate::support::servers::Flavor;
use crate::support::wait;

const FILE: &str = "[listeners.behind]\naddress = \"127.0.0.1:PORT\"\nproxy-protocol = [\"127.0.0.0/8\"]\n\
                    [upstreams.main]\nurl = \"URL\"\n\
                    [tenants.far]\nnetworks = [\"192.0.2.0/24\"]\n[tenants.near]\nnetworks = [\"127.0.0.0/8\"]\n";

fn line(reply: &[u8]) -> String {
    String::from_utf8_lossy(reply).into_owned()
}

#[test]
fn a_client_is_where_its_proxy_says() {
    let port = free_port();
    let mut pair = Pair::start_file(Flavor::Valkey, &FILE.replace("PORT", &port.to_string()));
    let client = || Client::connect(port);
    let mut v1 = client();
    v1.send("PROXY TCP4 192.0.2.7 10.0.0.1 12345 6379\r\nCLIENT INFO\r\n");
    let info = line(&v1.reply());
    assert!(info.contains(" addr=192.0.2.7:12345 laddr=10.0.0.1:6379 "), "{info}");
    let mut v2 = client();
    v2.send(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x08\x0a\0\0\x01\x30\x39\x18\xeb".as_slice());
    let info = line(&v2.call(&["CLIENT", "INFO"]));
    assert!(info.contains(" addr=192.0.2.8:12345 "), "{info}");
    assert_eq!(pair.proxy.metric("respgate_tenant_clients", &["far"]), 2.0);
    // A health check of the proxy's own.
    let mut local = client();
    local.send(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0PING\r\n".as_slice());
    local.expect_reply("+PONG\r\n");
    assert_eq!(pair.proxy.metric("respgate_tenant_clients", &["near"]), 1.0);
    pair.proxy.allow_log("PROXY header");
    let mut without = client();
    without.send("PING\r\n");
    assert_eq!(without.rest(), b"");
    wait::until("the log to say why", || pair.proxy.log().contains("does not begin with a PROXY header"));
    // One that stays silent keeps nobody waiting, and has a deadline.
    let mut silent = client();
    v1.expect(&["PING"], "+PONG\r\n");
    assert_eq!(silent.rest(), b"");
}
