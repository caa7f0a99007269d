//! Holds what a client has told respgate about itself: the connection state that a server would keep.

use std::rc::Rc;

use tokio::time::Instant;

use crate::net::budget::{Account, Counted};
use crate::resp::Resp;
use crate::tenant::identity::ClientAttributes as Known;
use crate::upstream::connection::identity::Identity;

/// Says which replies the client sees (CLIENT REPLY).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Replying {
    /// The client sees all replies.
    #[default]
    On,
    /// The client sees no replies until CLIENT REPLY ON.
    Off,
    /// The client does not see the reply to the next command.
    SkipNext,
}

/// Holds the connection state that respgate keeps for a client, since clients share upstream connections.
pub struct Client {
    /// The client's id. Unique in this process, and unchanged by failovers.
    pub id: u64,
    /// The client's own address, as the server would print it.
    pub peer: String,
    /// The address that the client connected to.
    pub local: String,
    /// When the client connected.
    pub since: Instant,
    /// The protocol version that the client speaks.
    pub resp: Resp,
    /// The selected database.
    pub database: u32,
    /// The identity that selected the database, which may differ from `identity`: the server keeps the database
    /// when the user changes.
    pub selector: Option<Rc<Identity>>,
    /// The server identity of the client. `None` before authentication where the client must authenticate.
    pub identity: Option<Rc<Identity>>,
    /// True if the newest configuration maps the client's user to another server identity than `identity`.
    pub identity_stale: bool,
    /// The user name that the client authenticated as. `None` if it has not authenticated.
    pub login: Option<String>,
    /// True if the client's certificate authenticated it as `login`.
    pub certified: bool,
    /// What the system and the client's certificate vouch for.
    pub known: Known,
    /// The name by CLIENT SETNAME.
    pub name: Counted,
    /// The library name by CLIENT SETINFO LIB-NAME.
    pub lib_name: Counted,
    /// The library version by CLIENT SETINFO LIB-VER.
    pub lib_ver: Counted,
    /// The mode of CLIENT REPLY.
    pub replying: Replying,
}

/// Describes where a client comes from.
pub struct Origin {
    /// See [`Client::id`].
    pub id: u64,
    /// See [`Client::peer`].
    pub peer: String,
    /// See [`Client::local`].
    pub local: String,
    /// See [`Client::known`].
    pub known: Known,
}

impl Client {
    /// Creates the state of a client that has just connected. `account` counts the bytes of the names that the
    /// client sets.
    pub fn new(origin: Origin, database: u32, identity: Option<Rc<Identity>>, account: &Rc<Account>) -> Self {
        Self {
            id: origin.id,
            peer: origin.peer,
            local: origin.local,
            since: Instant::now(),
            resp: Resp::V2,
            database,
            selector: identity.clone(),
            identity,
            identity_stale: false,
            login: None,
            certified: false,
            known: origin.known,
            name: Counted::new(account),
            lib_name: Counted::new(account),
            lib_ver: Counted::new(account),
            replying: Replying::On,
        }
    }

    /// Runs RESET: restores the state of a new connection. The library's name and version survive, as on the
    /// server.
    pub fn reset(&mut self, database: u32, identity: Option<Rc<Identity>>) {
        self.resp = Resp::V2;
        self.database = database;
        self.selector.clone_from(&identity);
        self.identity = identity;
        self.login = None;
        self.certified = false;
        self.name.set(b"");
        // RESET ends OFF. A pending skip stays and applies to the reply to RESET itself, as on the server.
        if self.replying == Replying::Off {
            self.replying = Replying::On;
        }
    }

    /// Gives the client another server identity. The database stays, as on the server, whoever selected it.
    pub fn act_as(&mut self, identity: Rc<Identity>) {
        self.identity = Some(identity);
    }

    /// Selects a database under the client's current identity.
    pub fn select(&mut self, database: u32) {
        self.database = database;
        self.selector.clone_from(&self.identity);
    }

    /// Returns the name of the client's user; `default` before authentication.
    pub fn user(&self) -> String {
        let identity = || self.identity.as_ref().map_or_else(|| "default".into(), |identity| identity.user());
        self.login.clone().unwrap_or_else(identity)
    }

    /// Returns true if the reply to the current command is to be dropped. Uses up a single skip.
    pub fn mutes(&mut self) -> bool {
        match self.replying {
            Replying::On => false,
            Replying::Off => true,
            Replying::SkipNext => {
                self.replying = Replying::On;
                true
            }
        }
    }
}

/// Returns true if the server accepts this name of a client or library: bytes from `!` to `~` only
/// (validateClientAttr, observed on valkey 8.0 and redis 7.0).
pub fn valid_name(name: &[u8]) -> bool {
    name.iter().all(|byte| (b'!'..=b'~').contains(byte))
}
