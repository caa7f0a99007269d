//! Checks whether the peer accepts the credentials. AUTH or PING is the first command on the connection, so this step
//! also finds peers that speak another protocol.

use bytes::Bytes;
use tokio::time::Instant;

use super::finding::{Finding, Step};
use super::peer::{Channel, Kind, Peer};
use super::sniff;
use super::words::quoted;
use crate::net::tls::handshake_error;
use crate::resp::control::ControlError;
use crate::resp::server_error::ServerError;
use crate::resp::value::Value;
use crate::topology::Address;

/// The answer to the first command.
#[derive(Debug)]
enum Answer {
    /// The peer accepts the connection.
    Accepted,
    /// The peer accepts the connection, and takes its certificate for this user.
    Certified(String),
    /// The peer answered with this error line.
    Refused(Bytes),
    /// The peer answered in TLS, or not at all on a port that speaks TLS.
    Tls,
    /// The peer answered with a TLS alert; the text is its reason. With TLS 1.3 a server checks the client's
    /// certificate only after the client has ended the handshake.
    Alert(String),
    /// The peer closed the connection, or the connection broke.
    Closed,
    /// The peer did not answer in time.
    Silent,
    /// The peer answered in another protocol.
    Foreign(String),
}

/// Whether later steps can use the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// Later steps can use the connection.
    In,
    /// The server requires credentials, and the configuration leaves them to the clients.
    Waiting,
    /// Later steps cannot use the connection.
    Out,
}

/// Sends AUTH, or PING without credentials, and returns a finding about the answer. `to` is the address of the
/// connection.
pub(super) async fn log_in(channel: &mut Channel, peer: &Peer, to: &Address) -> (Finding, Admission) {
    let deadline = Instant::now() + peer.answer_timeout();
    let result = match &peer.credentials {
        None => channel.call(&[b"PING"], deadline).await,
        Some(credentials) => {
            let password = credentials.password.expose();
            match &credentials.username {
                Some(user) => channel.call(&[b"AUTH", user.as_bytes(), password], deadline).await,
                None => channel.call(&[b"AUTH", password], deadline).await,
            }
        }
    };
    let answer = match result {
        Ok(Value::Error(line)) => Answer::Refused(line),
        Ok(_) if peer.credentials.is_none() && peer.encrypted() => certified(channel, deadline).await,
        Ok(_) => Answer::Accepted,
        Err(_) if !peer.encrypted() && sniff::speaks_tls(to).await => Answer::Tls,
        Err(ControlError::Io(error)) if peer.encrypted() => {
            Answer::Alert(handshake_error::explain(&error, handshake_error::Peer::Server).text)
        }
        Err(ControlError::Closed | ControlError::Unanswered | ControlError::Io(_)) => Answer::Closed,
        Err(ControlError::Timeout) => Answer::Silent,
        Err(ControlError::Protocol(why)) => Answer::Foreign(why),
    };
    judge(peer, answer)
}

/// Asks which user the connection is, which its certificate may have decided.
async fn certified(channel: &mut Channel, deadline: Instant) -> Answer {
    match channel.call(&[b"ACL", b"WHOAMI"], deadline).await {
        Ok(reply) => match reply.text() {
            Some(user) if user != "default" => Answer::Certified(user.to_owned()),
            _ => Answer::Accepted,
        },
        // The next step reports the error.
        Err(_) => Answer::Accepted,
    }
}

fn judge(peer: &Peer, answer: Answer) -> (Finding, Admission) {
    let what = peer.kind.noun();
    let broken = |seen: String, remedy: &str| (Finding::broken(Step::Login, seen, remedy), Admission::Out);
    match answer {
        Answer::Accepted => {
            let seen = match &peer.credentials {
                Some(credentials) => {
                    format!("logged in as user {:?}", credentials.username.as_deref().unwrap_or("default"))
                }
                None => "no password is configured, and none is wanted".into(),
            };
            (Finding::ok(Step::Login, seen), Admission::In)
        }
        Answer::Certified(user) => {
            let seen = format!("no password is configured: the certificate is user {user:?}");
            (Finding::ok(Step::Login, seen), Admission::In)
        }
        Answer::Refused(line) => refusal(peer, &line),
        Answer::Tls => broken(
            "the port speaks TLS, but respgate is configured to speak plain text".into(),
            match peer.kind {
                Kind::Server => {
                    "use rediss:// instead of redis:// (with Sentinels rediss-sentinel://), or the server's \
                     plain-text port if it has one"
                }
                Kind::Sentinel => "use rediss-sentinel://, or the Sentinel's plain-text port if it has one",
            },
        ),
        Answer::Alert(text) => {
            let (seen, remedy) = text.split_once("; ").unwrap_or((&text, "look at its log"));
            broken(format!("the {what} {seen}"), remedy)
        }
        Answer::Closed => broken(
            format!("the {what} closed the connection on the first command, without a word"),
            "something else may listen on that port (a proxy, a load balancer without a live server, a port that wants \
             TLS); look at its log",
        ),
        Answer::Silent => broken(
            format!("the {what} accepted the connection and then sent nothing"),
            "it may hang or be stopped, or be busy with one long command (its log and `redis-cli --latency` there tell), \
             or something that is no Valkey or Redis listens on that port",
        ),
        Answer::Foreign(why) => broken(
            format!("what answers is not a Valkey or Redis server: {why}"),
            "check the host and the port",
        ),
    }
}

/// Returns what an error reply to AUTH or PING means.
fn refusal(peer: &Peer, line: &[u8]) -> (Finding, Admission) {
    let answer = quoted(line, peer.credentials.as_ref());
    let what = peer.kind.noun();
    let (user_key, password_key) = peer.keys();
    let broken = |seen: String, remedy: String| (Finding::broken(Step::Login, seen, remedy), Admission::Out);
    match ServerError::of(line) {
        ServerError::WrongPassword => {
            let user = peer.credentials.as_ref().and_then(|it| it.username.as_deref()).unwrap_or("default");
            broken(
                format!(
                    "the {what} does not take the password of user {user:?}, or has no such user ({answer})"
                ),
                format!(
                    "check {user_key} and {password_key}; on the {what}, ACL GETUSER {user} shows whether the user \
                     exists and is on{}",
                    if peer.kind == Kind::Server {
                        ". Users are not replicated: after a failover the new primary needs them too"
                    } else {
                        ". The Sentinels' password may be another than the server's"
                    }
                ),
            )
        }
        ServerError::NoAuth if peer.clients_bring_their_own => (
            Finding::warning(
                Step::Login,
                format!(
                    "the {what} requires a password and respgate has none; clients bring their own ({answer})"
                ),
                format!(
                    "nothing, if that is meant; the steps below need a login: {user_key} and {password_key} give \
                     respgate one for its own checks"
                ),
            ),
            Admission::Waiting,
        ),
        ServerError::NoAuth => broken(
            format!("the {what} requires a password, and none is configured ({answer})"),
            if peer.kind == Kind::Server {
                format!(
                    "set {user_key} and {password_key}; or, if every client sends AUTH itself, client-auth = \
                     \"required\""
                )
            } else {
                format!("set {user_key} and {password_key}, which may differ from the server's")
            },
        ),
        ServerError::ProtectedMode => broken(
            format!("the {what} is in protected mode and takes no connection from another machine"),
            format!(
                "on the {what}: set a password (`requirepass`, or ACL users) or, in a closed network, \
                 `protected-mode no`; and `bind` it to the interface that is meant"
            ),
        ),
        // The server is there, and says later what it is not ready for.
        ServerError::Loading | ServerError::MasterDown | ServerError::Busy | ServerError::Misconfigured
            if peer.credentials.is_none() =>
        {
            (Finding::ok(Step::Login, "no password is configured, and none is wanted"), Admission::In)
        }
        ServerError::NoPermission if peer.credentials.is_none() => {
            let seen = "no password is wanted, but the user without one may do little: not even PING";
            (Finding::ok(Step::Login, seen), Admission::In)
        }
        ServerError::TooManyClients => broken(
            format!("the {what} has as many clients as it allows ({answer})"),
            format!(
                "raise its `maxclients`, or find out who holds the connections (CLIENT LIST on the {what}); respgate's \
                 own share is max-connections"
            ),
        ),
        ServerError::NeedlessPassword => broken(
            format!("a password is configured, but the {what}'s default user has none ({answer})"),
            format!(
                "leave {password_key} out; or name the user that the password belongs to with {user_key}; or set \
                 `requirepass` on the {what}"
            ),
        ),
        ServerError::WrongArity if peer.credentials.is_some() => broken(
            format!("the {what} knows no users, only one password ({answer}): it is older than Redis 6"),
            format!("leave {user_key} out"),
        ),
        _ => broken(
            format!("the {what} answers with an error: {answer}"),
            "check that the address is that of a Valkey or Redis server, and look at its log".into(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;
    use crate::secret::{Credentials, Secret};

    fn peer(kind: Kind, password: bool) -> Peer {
        let credentials =
            password.then(|| Credentials { username: Some("app".into()), password: Secret::new("hunter2") });
        Peer { credentials, ..Peer::new(kind, Address::tcp("10.0.0.5", 6379)) }
    }

    fn judged(peer: &Peer, line: &'static [u8]) -> (Level, Admission, String) {
        let (finding, admission) = judge(peer, Answer::Refused(Bytes::from_static(line)));
        let text = format!("{} | {}", finding.seen, finding.remedy.unwrap_or_default());
        assert!(!text.contains("hunter2"), "{text}");
        (finding.level, admission, text)
    }

    #[test]
    fn each_refusal_has_its_finding() {
        let server = peer(Kind::Server, true);
        for (line, expected) in [
            (&b"WRONGPASS invalid username-password pair or user is disabled."[..], "ACL GETUSER app"),
            (b"ERR AUTH <password> called without any password configured for the default user.", "leave"),
            (b"ERR max number of clients reached", "maxclients"),
            (b"DENIED Redis is running in protected mode because ...", "protected-mode no"),
            (b"ERR wrong number of arguments for 'auth' command", "older than Redis 6"),
            (b"ERR unknown command 'AUTH', with args beginning with: 'app' 'hunter2' ", "ERR…"),
        ] {
            let (level, admission, text) = judged(&server, line);
            assert_eq!((level, admission), (Level::Broken, Admission::Out), "{text}");
            assert!(text.contains(expected), "{text}");
        }
        let (_, _, text) = judged(&peer(Kind::Sentinel, true), b"WRONGPASS x");
        assert!(
            text.contains("sentinel-password-file") && text.contains("another than the server's"),
            "{text}"
        );
    }

    #[test]
    fn a_missing_password_is_ok_if_clients_bring_it() {
        let line = b"NOAUTH Authentication required.";
        let mut server = peer(Kind::Server, false);
        let (level, _, text) = judged(&server, line);
        assert!(level == Level::Broken && text.contains("client-auth"), "{text}");
        server.clients_bring_their_own = true;
        let (level, admission, _) = judged(&server, line);
        assert_eq!((level, admission), (Level::Warning, Admission::Waiting));
        let (level, _, text) = judged(&peer(Kind::Sentinel, false), line);
        assert!(level == Level::Broken && text.contains("sentinel-user"), "{text}");
    }

    #[test]
    fn a_server_that_is_not_ready_accepts_the_login() {
        for line in [&b"LOADING x"[..], b"MISCONF x", b"NOPERM x"] {
            assert_eq!(judged(&peer(Kind::Server, false), line).1, Admission::In);
        }
    }
}
