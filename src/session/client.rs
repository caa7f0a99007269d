//! What a client has told respgate about itself: the connection state that a server would keep.

use std::rc::Rc;

use tokio::time::Instant;

use crate::net::budget::{Account, Counted};
use crate::resp::Resp;
use crate::tenant::identity::ClientAttributes as Known;
use crate::upstream::connection::identity::Identity;

/// Whether the client sees replies (CLIENT REPLY).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Replying {
    /// All of them.
    #[default]
    On,
    /// None until CLIENT REPLY ON.
    Off,
    /// Not the next command's.
    SkipNext,
}

/// Connection state that is respgate's to keep, since upstream connections are shared.
pub struct Client {
    /// Unique in this process, and unchanged by failovers.
    pub id: u64,
    /// The client's own address, as the server would print it.
    pub peer: String,
    /// The address that it connected to.
    pub local: String,
    /// When it connected.
    pub since: Instant,
    /// The protocol version it speaks.
    pub resp: Resp,
    /// The selected database.
    pub database: u32,
    /// Who selected the database, if not `identity`: the server keeps it when the user changes.
    pub selector: Option<Rc<Identity>>,
    /// Who it acts as; `None` until it authenticates, where it must.
    pub identity: Option<Rc<Identity>>,
    /// The name it has authenticated as; `None` if it acts as the identity without being asked who it is.
    pub login: Option<String>,
    /// What is known of it besides.
    pub known: Known,
    /// CLIENT SETNAME.
    pub name: Counted,
    /// CLIENT SETINFO LIB-NAME.
    pub lib_name: Counted,
    /// CLIENT SETINFO LIB-VER.
    pub lib_ver: Counted,
    /// CLIENT REPLY.
    pub replying: Replying,
}

/// Where a client comes from.
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
    /// A client that has just connected. `account` counts the names that it gives.
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
            login: None,
            known: origin.known,
            name: Counted::new(account),
            lib_name: Counted::new(account),
            lib_ver: Counted::new(account),
            replying: Replying::On,
        }
    }

    /// RESET: back to what a new connection is. The library's name survives, as on the server.
    pub fn reset(&mut self, database: u32, identity: Option<Rc<Identity>>) {
        self.resp = Resp::V2;
        self.database = database;
        self.selector.clone_from(&identity);
        self.identity = identity;
        self.login = None;
        self.name.set(b"");
        // As on the server: a skip is for the reply to RESET itself.
        if self.replying == Replying::Off {
            self.replying = Replying::On;
        }
    }

    /// Acts as `identity` from now on. The database stays, as on the server, whoever selected it.
    pub fn act_as(&mut self, identity: Rc<Identity>) {
        self.identity = Some(identity);
    }

    /// The database that the client has selected as who it is.
    pub fn select(&mut self, database: u32) {
        self.database = database;
        self.selector.clone_from(&self.identity);
    }

    /// The name of the user that the client is, `default` while it is none.
    pub fn user(&self) -> String {
        let identity = || self.identity.as_ref().map_or_else(|| "default".into(), |identity| identity.user());
        self.login.clone().unwrap_or_else(identity)
    }

    /// Whether the reply to the command that is being handled is to be dropped; a single skip is used up.
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

    /// One line as CLIENT INFO and CLIENT LIST print it. Figures that only the server could know are zero.
    pub fn line(&self, command: &str) -> Vec<u8> {
        let mut line =
            format!("id={} addr={} laddr={} fd=0 name=", self.id, self.peer, self.local).into_bytes();
        line.extend_from_slice(&self.name);
        let user = self.user();
        line.extend_from_slice(
            format!(
                " age={} idle=0 flags=N db={} sub=0 psub=0 ssub=0 multi=-1 watch=0 qbuf=0 qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem=0 tot-mem=0 events=r cmd={command} user={user} redir=-1 resp={} lib-name=",
                self.since.elapsed().as_secs(),
                self.database,
                match self.resp {
                    Resp::V2 => 2,
                    Resp::V3 => 3,
                },
            )
            .as_bytes(),
        );
        line.extend_from_slice(&self.lib_name);
        line.extend_from_slice(b" lib-ver=");
        line.extend_from_slice(&self.lib_ver);
        line.push(b'\n');
        line
    }
}

/// Whether a client's or library's name is one that the server takes: bytes from `!` to `~` only
/// (validateClientAttr, observed on valkey 8.0 and redis 7.0).
pub fn valid_name(name: &[u8]) -> bool {
    name.iter().all(|byte| (b'!'..=b'~').contains(byte))
}
