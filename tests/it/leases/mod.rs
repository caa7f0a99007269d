//! A lease returns to the pool only if what ran on it provably left nothing: `rows` has each fault that was seen, and
//! `matrix` every command of the table with every option that the server documents.

mod matrix;
mod requests;
mod rows;

use crate::support::servers::Server;

/// What the server tells of one connection.
#[derive(Clone, Debug)]
struct Described(String);

impl Described {
    /// All connections of a server but the one that asks.
    fn all(server: &mut crate::support::client::Client) -> Vec<Self> {
        let text = String::from_utf8_lossy(&server.call(&["CLIENT", "LIST"])).into_owned();
        let lines =
            text.lines().filter(|line| line.starts_with("id=") && !line.contains(" cmd=client|list "));
        lines.map(|line| Self(line.to_owned())).collect()
    }

    fn field(&self, name: &str) -> &str {
        let found = self.0.split(' ').find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
        found.unwrap_or_default()
    }

    /// The fields that sessions leave on a connection. The others are figures that change by themselves.
    fn state(&self) -> Vec<&str> {
        const LASTING: &[&str] = &[
            "id", "addr", "laddr", "name", "db", "sub", "psub", "ssub", "multi", "watch", "user", "redir",
            "resp", "lib-name", "lib-ver", "flags", "capa",
        ];
        let lasting = |field: &&str| LASTING.contains(&field.split('=').next().unwrap_or_default());
        self.0.split(' ').filter(lasting).collect()
    }

    /// As [`Self::state`], but for the selected database.
    fn state_without_database(&self) -> Vec<&str> {
        self.state().into_iter().filter(|field| !field.starts_with("db=")).collect()
    }
}

/// Panics if a connection of the server has state that only a command makes.
#[track_caller]
fn assert_plain(server: &Server) {
    for described in Described::all(&mut server.client()) {
        let odd = described.field("flags").contains(['t', 'B', 'R', 'T', 'O', 'S', 'P'])
            || described.field("redir") != "-1"
            || described.field("sub") != "0";
        assert!(!odd, "{}", described.0);
    }
}
