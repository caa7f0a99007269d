//! A Sentinel or a node to check, and the connection to it.

use std::fmt;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use super::refused::RefusedCommands;
use crate::net::tls::Loaded;
use crate::net::tls::client::{ClientProfile, ClientSet};
use crate::resp::control::Control;
use crate::secret::Credentials;
use crate::topology::Address;

/// The least time limit of the doctor for an answer. It is longer than that of most configurations, so that the doctor
/// can tell a slow peer from a dead one.
pub(super) const MIN_TIMEOUT: Duration = Duration::from_secs(3);

/// The kind of a peer, according to the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Sentinel,
    Server,
}

impl Kind {
    pub(super) fn noun(self) -> &'static str {
        match self {
            Self::Sentinel => "Sentinel",
            Self::Server => "server",
        }
    }

    /// Returns the name of the setting for the trusted CAs.
    pub(super) fn ca_key(self) -> &'static str {
        match self {
            Self::Server => "--upstream-ca (tls-ca)",
            Self::Sentinel => "sentinel-tls-ca",
        }
    }
}

/// A Sentinel or node to check, and the settings for it.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) kind: Kind,
    pub(super) address: Address,
    pub(super) credentials: Option<Credentials>,
    /// Why the password is not known: the error of the program that should print it.
    pub(super) no_password: Option<String>,
    /// The TLS settings; `None` is plain text.
    pub(super) tls: Option<Loaded<ClientProfile, ClientSet>>,
    /// The proxy's time limit for connecting.
    pub(super) connect_limit: Duration,
    /// The proxy's time limit for an answer.
    pub(super) answer_limit: Duration,
    /// True with `client-auth = "required"`: clients bring their own credentials.
    pub(super) clients_bring_their_own: bool,
    /// True if the configuration says that the node belongs to a cluster.
    pub(super) in_cluster: bool,
    /// The name of respgate's user to whom the credentials belong; `None`: they are respgate's own.
    pub(super) of_user: Option<String>,
    /// The address that a Sentinel announced; `None` for a configured address.
    pub(super) announced: Option<Address>,
    /// The commands that respgate refuses its clients.
    pub(super) refused: RefusedCommands,
    /// A further remedy if connecting fails; empty, or begins with `; `.
    pub(super) hint: String,
}

impl Peer {
    pub(super) fn new(kind: Kind, address: Address) -> Self {
        Self {
            kind,
            address,
            credentials: None,
            no_password: None,
            tls: None,
            connect_limit: Duration::from_secs(2),
            answer_limit: Duration::from_secs(2),
            clients_bring_their_own: false,
            in_cluster: false,
            of_user: None,
            announced: None,
            refused: RefusedCommands::default(),
            hint: String::new(),
        }
    }

    pub(super) fn encrypted(&self) -> bool {
        self.tls.is_some() && matches!(self.address, Address::Tcp { .. })
    }

    /// Returns the names of the settings for the peer's user and password.
    pub(super) fn keys(&self) -> (String, String) {
        let (user, password) = match (&self.of_user, self.kind) {
            (Some(name), _) => {
                let keys = ["upstream-username", "upstream-password-file"];
                return keys.map(|key| format!("{key} of [users.{name}]")).into();
            }
            (None, Kind::Sentinel) => {
                ("--sentinel-user (sentinel-username)", "--sentinel-password-file (sentinel-password-file)")
            }
            (None, Kind::Server) => {
                ("--upstream-user (username)", "--upstream-password-file (password-file)")
            }
        };
        (user.into(), password.into())
    }

    /// Returns the doctor's time limit for an answer.
    pub(super) fn answer_timeout(&self) -> Duration {
        self.answer_limit.max(MIN_TIMEOUT)
    }
}

/// A byte stream, encrypted or not.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

impl fmt::Debug for dyn Duplex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a connection")
    }
}

/// A client of the control plane on such a stream.
pub(super) type Channel = Control<Box<dyn Duplex>>;
