//! Socket activation: systemd opens the sockets and passes them.

use crate::support::client::Client;
use crate::support::port::free_port;
use crate::support::proxy::Proxy;
use crate::support::servers::{Flavor, Server};

use super::site::Site;

/// Does what systemd does: opens the sockets, makes them descriptors 3 and up, and becomes the program. The words after
/// the script are `name=port` or `name=path`, then `--`.
const ACTIVATE: &str = r#"
import fcntl, os, socket, sys
end = sys.argv.index("--")
names, opened = [], []
for word in sys.argv[1:end]:
    name, place = word.split("=")
    if place.isdigit():
        server = socket.socket(socket.AF_INET)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", int(place)))
    else:
        server = socket.socket(socket.AF_UNIX)
        server.bind(place)
    server.listen(64)
    names.append(name)
    opened.append(server)
# Away from the numbers that they are to get.
high = [fcntl.fcntl(server.fileno(), fcntl.F_DUPFD_CLOEXEC, 100) for server in opened]
for index, fd in enumerate(high):
    os.dup2(fd, 3 + index, inheritable=True)
os.environ.update(LISTEN_FDS=str(len(high)), LISTEN_FDNAMES=":".join(names), LISTEN_PID=str(os.getpid()))
os.execvp(sys.argv[end + 1], sys.argv[end + 1:])
"#;

#[test]
fn sockets_of_systemd_are_used_and_survive_an_upgrade() {
    let server = Server::start(Flavor::Valkey);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("clients.sock");
    let (named, unknown) = (free_port(), free_port());
    let sockets = [
        // The configuration says another address, and the name decides.
        format!("app={named}"),
        // The path decides.
        format!("anything={}", path.display()),
        format!("surplus={unknown}"),
    ];
    let mut wrapper = vec!["python3", "-c", ACTIVATE];
    wrapper.extend(sockets.iter().map(String::as_str));
    wrapper.push("--");
    let more = format!(
        "[listeners.app]\naddress = \"127.0.0.1:1\"\n[listeners.local]\naddress = \"unix:{}\"\n",
        path.display()
    );
    let url = format!("redis://127.0.0.1:{}", server.port);
    let mut site = Site::start_under(&wrapper, "", &url, &more);
    site.proxy.allow_log("respgate closes a socket that systemd passed");
    for _ in 0..2 {
        Client::connect(named).expect(&["PING"], "+PONG\r\n");
        Client::connect_unix(&path).expect(&["PING"], "+PONG\r\n");
        assert!(Client::try_connect(([127, 0, 0, 1], unknown).into()).is_err());
        let old = site.newest();
        site.upgrade();
        site.wait_for_end(old);
    }
    drop(site);
    assert!(path.exists(), "the file belongs to systemd");
}

/// The variables of another process mean nothing.
#[test]
fn sockets_of_another_process_are_not_used() {
    let server = Server::start(Flavor::Valkey);
    let environment = ["env", "LISTEN_FDS=3", "LISTEN_PID=1", "LISTEN_FDNAMES=a:b:c"];
    let toml = format!("[upstreams.main]\naddress = \"127.0.0.1:{}\"\n", server.port);
    let proxy = Proxy::launch_file(&environment, 1, &toml);
    proxy.wait_until_ready();
    proxy.client().expect(&["PING"], "+PONG\r\n");
}
