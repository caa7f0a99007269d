//! One Sentinel or node, from its name to a connection that has been let in.

use std::fmt;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use super::finding::{Finding, Step};
use super::login::{self, Admission};
use super::scripts::Refused;
use super::{dns, tcp, tls};
use crate::net::tls::Loaded;
use crate::net::tls::client::{ClientProfile, ClientSet};
use crate::resp::control::Control;
use crate::secret::Credentials;
use crate::topology::Address;

/// The least time that the doctor gives an answer: longer than most configurations, to tell slow from dead.
const LEAST_PATIENCE: Duration = Duration::from_secs(3);

/// What is at the other end, as far as the configuration knows.
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
}

/// Whom to walk to.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) kind: Kind,
    pub(super) address: Address,
    pub(super) credentials: Option<Credentials>,
    /// Why the password is not known: the program that should print it failed.
    pub(super) no_password: Option<String>,
    /// How TLS is done; `None` is plain text.
    pub(super) tls: Option<Loaded<ClientProfile, ClientSet>>,
    /// How long the proxy lets connecting take.
    pub(super) connect_limit: Duration,
    /// How long the proxy lets an answer take.
    pub(super) answer_limit: Duration,
    /// `client-auth = "required"`.
    pub(super) clients_bring_their_own: bool,
    /// For which of respgate's users the credentials are; `None`: for respgate itself.
    pub(super) of_user: Option<String>,
    /// As a Sentinel announced it; `None` if it is configured.
    pub(super) announced: Option<Address>,
    /// What respgate refuses its clients.
    pub(super) refused: Refused,
    /// What else to do if it cannot be connected; empty, or begins with `; `.
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
            of_user: None,
            announced: None,
            refused: Refused::default(),
            hint: String::new(),
        }
    }

    pub(super) fn encrypted(&self) -> bool {
        self.tls.is_some() && matches!(self.address, Address::Tcp { .. })
    }

    /// The settings with its user and password.
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

    /// How long the doctor waits for an answer.
    pub(super) fn patience(&self) -> Duration {
        self.answer_limit.max(LEAST_PATIENCE)
    }
}

/// Any byte stream, encrypted or not.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

impl fmt::Debug for dyn Duplex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a connection")
    }
}

/// Commands on such a stream.
pub(super) type Channel = Control<Box<dyn Duplex>>;

/// The first four steps, and a connection if something more can be asked on it.
pub(super) async fn reach(peer: &Peer) -> (Vec<Finding>, Option<Channel>) {
    let mut findings = Vec::new();
    let (finding, ips) = dns::look_up(&peer.address, peer.connect_limit.max(LEAST_PATIENCE)).await;
    findings.push(finding);
    if ips.as_ref().is_some_and(Vec::is_empty) {
        let steps = [Step::Connect, Step::Tls, Step::Login];
        findings.extend(steps.map(|step| Finding::not_tried(step, "the name has no address")));
        return (findings, None);
    }
    let (finding, connected) = tcp::connect(&peer.address, ips, peer.connect_limit, &peer.hint).await;
    findings.push(finding);
    let Some((to, stream)) = connected else {
        let steps = [Step::Tls, Step::Login];
        findings.extend(steps.map(|step| Finding::not_tried(step, "there is no connection")));
        return (findings, None);
    };
    let (finding, stream) = tls::shake_hands(peer, &to, stream).await;
    findings.push(finding);
    let Some(stream) = stream else {
        findings.push(Finding::not_tried(Step::Login, "the TLS handshake failed"));
        return (findings, None);
    };
    if let Some(why) = &peer.no_password {
        let remedy =
            "mend the program that is to print the password: run it by hand, as the user that runs respgate";
        findings.push(Finding::broken(Step::Login, format!("there is no password: {why}"), remedy));
        return (findings, None);
    }
    let mut channel = Control::new(stream);
    let (finding, admission) = login::log_in(&mut channel, peer, &to).await;
    findings.push(finding);
    (findings, (admission == Admission::In).then_some(channel))
}
