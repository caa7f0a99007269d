//! Answers commands from session state, byte for byte as the server would.

use super::client::{Replying, valid_name};
use super::close::Close;
use super::step::AsyncOp;
use super::{Session, hello, info, refusal};
use crate::command::{Spec, Tracking, Verb, option_is_whole as is};
use crate::resp::Resp;
use crate::resp::request::Request;
use crate::resp::write;

/// Says what happened to a local command.
pub(super) enum Outcome {
    /// The reply is in the queue.
    Answered,
    /// The session ends once its replies are written.
    Close(Close),
    /// The session must wait for the upstream first. The operation then answers.
    AsyncOp(AsyncOp),
}

use Outcome::Answered;

/// Limit of a user name or password, in bytes. A longer one is refused without a check, because respgate
/// remembers what it checks for a time. Servers take no longer ones from a client that has not authenticated.
const MAX_SECRET: usize = 16 * 1024;

/// Returns true if respgate answers a command that ends connection state, or needs it, because there is no such
/// state.
pub(super) fn answers_unpinned(client: &super::client::Client, spec: &Spec, request: &Request<'_>) -> bool {
    match spec.verb {
        Verb::ClientTracking => client.resp == Resp::V2 || Tracking::of(request).redirects,
        _ => true,
    }
}

/// Returns true if the answer depends only on what the session knows already, and changes nothing that the commands under way
/// depend on: such an answer need not wait for earlier replies.
pub(super) fn overtakes(verb: Verb) -> bool {
    matches!(
        verb,
        Verb::Ping
            | Verb::Echo
            | Verb::Quit
            | Verb::Readonly
            | Verb::Readwrite
            | Verb::AclWhoami
            | Verb::Exec
            | Verb::Discard
            | Verb::Unwatch
            | Verb::ClientTracking
            | Verb::ClientId
            | Verb::ClientGetname
            | Verb::ClientSetinfo
            | Verb::ClientNoEvict
            | Verb::ClientCapa
            | Verb::ClientReply
            | Verb::ClientHelp
            | Verb::Cluster
    )
}

/// Answers `request`. Its arity must be right, and all earlier replies delivered unless it [overtakes] them.
pub(super) fn answer(session: &mut Session, spec: &Spec, request: &Request<'_>) -> Outcome {
    let resp = session.client.resp;
    let first = request.arg(1);
    match spec.verb {
        // In RESP2, a subscriber's PING is answered in the shape of a message.
        Verb::Ping if session.is_confined() && request.argc() <= 2 => session.answer(|out| {
            write::array(out, 2);
            write::bulk(out, b"pong");
            write::bulk(out, first.unwrap_or_default());
        }),
        Verb::Ping => match (request.argc(), first) {
            (1, _) => session.answer(|out| write::simple(out, "PONG")),
            (2, Some(text)) => session.answer(|out| write::bulk(out, text)),
            _ => session.refuse(&refusal::wrong_arity("PING")),
        },
        Verb::Echo => session.answer(|out| write::bulk(out, first.unwrap_or_default())),
        Verb::Quit => {
            session.answer(write::ok);
            return Outcome::Close(Close::Finished);
        }
        Verb::Reset => {
            if let Err(line) = session.reset() {
                session.refuse_for_limit(&line);
                return Outcome::Close(Close::Full);
            }
            session.forget_read_choice();
            session.answer(|out| write::simple(out, "RESET"));
        }
        // Redis knows these commands only in a cluster; Valkey accepts them anywhere.
        Verb::Readonly | Verb::Readwrite if session.choose_reads(spec.verb == Verb::Readonly) => {
            session.answer(write::ok);
        }
        Verb::Readonly | Verb::Readwrite => match session.ctx.upstream.server() {
            Some(server) if server.server == "redis" => session.refuse(refusal::NO_CLUSTER),
            _ => session.answer(write::ok),
        },
        Verb::Auth | Verb::Hello
            if session.has_subscriptions() && changes_connection(&session.client, request) =>
        {
            session.refuse(&refusal::pinned_state(&[refusal::PinReason::Subscription]));
        }
        Verb::Hello => return say_hello(session, request),
        Verb::Auth => return authenticate(session, request),
        Verb::Select => return select(session, first.unwrap_or_default()),
        Verb::AclWhoami => {
            let user = session.client.user();
            session.answer(|out| write::bulk(out, user.as_bytes()));
        }
        Verb::Exec => session.refuse(refusal::EXEC_WITHOUT_MULTI),
        Verb::Discard => session.refuse(refusal::DISCARD_WITHOUT_MULTI),
        Verb::Unwatch => session.answer(write::ok),
        Verb::Unsubscribe | Verb::Punsubscribe | Verb::Sunsubscribe => unsubscribe(session, request),
        // An empty list does not say why it is empty, so the log does.
        Verb::ConfigGet => {
            let (_, setting) = session.admin_level();
            session.note_forbidden(Some(setting), request);
            session.answer(|out| write::map(out, resp, 0));
        }
        Verb::ClientTracking => session.refuse(
            b"-ERR respgate: CLIENT TRACKING needs RESP3 (HELLO 3) and no REDIRECT: connections are shared, so client ids are respgate's own",
        ),
        Verb::ClientList | Verb::ClientKill | Verb::ClientUnblock => {
            match session.parse_about_clients(spec.verb, request) {
                Ok(command) => return Outcome::AsyncOp(AsyncOp::Clients(Box::new(command))),
                Err(line) => session.refuse(&line),
            }
        }
        Verb::Info => return Outcome::AsyncOp(AsyncOp::Info(info::request(request))),
        _ => client(session, spec, request),
    }
    Answered
}

/// Answers a subcommand of CLIENT.
fn client(session: &mut Session, spec: &Spec, request: &Request<'_>) {
    let resp = session.client.resp;
    let value = request.arg(2).unwrap_or_default();
    match spec.verb {
        Verb::ClientId => {
            let id = i64::try_from(session.client.id).unwrap_or(i64::MAX);
            session.answer(|out| write::integer(out, id));
        }
        Verb::ClientGetname if session.client.name.is_empty() => session.answer(|out| write::null(out, resp)),
        Verb::ClientGetname => {
            let name = session.client.name.to_vec();
            session.answer(|out| write::bulk(out, &name));
        }
        Verb::ClientSetname if !valid_name(value) => session.refuse(refusal::BAD_NAME),
        Verb::ClientSetname => {
            let user = session.client.login.clone();
            match session.assign(user.as_deref(), value) {
                Ok(()) => {
                    session.client.name.set(value);
                    session.update_view();
                    session.answer(write::ok);
                }
                Err(line) => session.refuse(&line),
            }
        }
        Verb::ClientSetinfo => set_info(session, value, request.arg(3).unwrap_or_default()),
        Verb::ClientInfo => {
            let mut line = Vec::new();
            session.view.with_row(session.ctx.registry.now.get(), |row| row.write(&mut line));
            line.push(b'\n');
            session.answer(|out| write::verbatim(out, resp, &line));
        }
        Verb::ClientNoEvict if is(value, "ON") || is(value, "OFF") => session.answer(write::ok),
        Verb::ClientNoEvict => session.refuse(refusal::SYNTAX),
        Verb::ClientCapa => session.answer(write::ok),
        Verb::ClientMaintNotifications => session.set_maintenance(request),
        Verb::ClientReply => reply_mode(session, value),
        Verb::ClientHelp => session.answer(|out| write::lines(out, CLIENT_HELP)),
        _ => session.refuse(refusal::NO_CLUSTER),
    }
}

const CLIENT_HELP: &[&str] = &[
    "CLIENT <subcommand> [<arg> [value] [opt] ...]. Through respgate these are:",
    "CACHING (YES|NO) | GETNAME | GETREDIR | ID | IMPORT-SOURCE (ON|OFF) | INFO",
    "KILL (<ip:port>|<filter> <value> [...]) | LIST [<filter> <value> [...]] | UNBLOCK <clientid> [TIMEOUT|ERROR]",
    "PAUSE <timeout> [WRITE|ALL] | UNPAUSE",
    "MAINT_NOTIFICATIONS (ON [MOVING-ENDPOINT-TYPE <type>]|OFF) | NO-EVICT (ON|OFF) | NO-TOUCH (ON|OFF)",
    "REPLY (ON|OFF|SKIP) | SETINFO <option> <value> | SETNAME <name> | TRACKING (ON|OFF) [...] | TRACKINGINFO",
    "HELP",
    "    Print this help.",
];

fn set_info(session: &mut Session, option: &[u8], value: &[u8]) {
    let field = if is(option, "LIB-NAME") {
        &mut session.client.lib_name
    } else if is(option, "LIB-VER") {
        &mut session.client.lib_ver
    } else {
        return session.refuse(&refusal::unrecognized_option(option));
    };
    if valid_name(value) {
        field.set(value);
        session.update_view();
        session.answer(write::ok);
    } else {
        // The server repeats the option's name in the client's spelling.
        let name = String::from_utf8_lossy(option);
        session
            .refuse(format!("-ERR {name} cannot contain spaces, newlines or special characters.").as_bytes());
    }
}

fn reply_mode(session: &mut Session, mode: &[u8]) {
    if is(mode, "ON") {
        session.client.replying = Replying::On;
        session.answer(write::ok);
    } else if is(mode, "OFF") {
        session.client.replying = Replying::Off;
    } else if is(mode, "SKIP") {
        if session.client.replying != Replying::Off {
            session.client.replying = Replying::SkipNext;
        }
    } else {
        session.refuse(refusal::SYNTAX);
    }
}

/// Answers an (P|S)UNSUBSCRIBE of a client without subscriptions. The classic reply names each channel and a
/// count of zero. Valkey 8.0 answers -NOSUB instead, which later versions took back.
pub(super) fn unsubscribe(session: &mut Session, request: &Request<'_>) {
    let resp = session.client.resp;
    let kind = request.name().to_ascii_lowercase();
    // The confirmation is shown whatever CLIENT REPLY says, as on the server, but it uses up a single skip.
    session.client.mutes();
    let mut confirm = |channel: Option<&[u8]>| {
        session.output.answer(|out| {
            write::push(out, resp, 3);
            write::bulk(out, &kind);
            match channel {
                Some(channel) => write::bulk(out, channel),
                None => write::null(out, resp),
            }
            write::integer(out, 0);
        });
    };
    if request.argc() == 1 {
        confirm(None);
    }
    request.args().skip(1).for_each(|channel| confirm(Some(channel)));
}

fn say_hello(session: &mut Session, request: &Request<'_>) -> Outcome {
    let hello = match hello::parse(request) {
        Ok(hello) => hello,
        Err(line) => {
            session.refuse(&line);
            return Answered;
        }
    };
    if hello.auth.is_none() && !session.admitted() {
        session.refuse(refusal::NO_AUTH_HELLO);
        return Answered;
    }
    if let Some((user, password)) = &hello.auth
        && user.len().max(password.len()) > MAX_SECRET
    {
        session.refuse(refusal::WRONG_PASSWORD);
        return Answered;
    }
    match session.ctx.upstream.server() {
        Some(server) if hello.auth.is_none() => {
            session.greet(&hello, &server);
            Answered
        }
        _ => Outcome::AsyncOp(AsyncOp::Hello(hello)),
    }
}

fn authenticate(session: &mut Session, request: &Request<'_>) -> Outcome {
    let mut args = request.args().skip(1).map(<[u8]>::to_vec);
    match (args.next(), args.next(), args.next()) {
        (user, password, None)
            if [&user, &password].into_iter().flatten().any(|text| text.len() > MAX_SECRET) =>
        {
            session.refuse(refusal::WRONG_PASSWORD);
            Answered
        }
        (Some(password), None, None) => Outcome::AsyncOp(AsyncOp::Auth { user: None, password }),
        (Some(user), Some(password), None) => Outcome::AsyncOp(AsyncOp::Auth { user: Some(user), password }),
        _ => {
            session.refuse(refusal::SYNTAX);
            Answered
        }
    }
}

/// Returns the database that SELECT's argument names, if it is a number that a database can have.
pub(super) fn database(index: &[u8]) -> Option<u32> {
    index_of(index).and_then(|index| u32::try_from(index).ok())
}

/// Returns true if an AUTH or HELLO would change the client's user or protocol version.
pub(super) fn changes_connection(client: &super::client::Client, request: &Request<'_>) -> bool {
    match hello::parse(request) {
        Ok(hello) if request.name().eq_ignore_ascii_case(b"HELLO") => {
            hello.auth.is_some() || hello.resp.is_some_and(|resp| resp != client.resp)
        }
        Ok(_) => true,
        Err(_) => !request.name().eq_ignore_ascii_case(b"HELLO"),
    }
}

/// Returns the argument as the server reads an index: an integer of 32 bits.
fn index_of(index: &[u8]) -> Option<i32> {
    number(index).and_then(|index| i32::try_from(index).ok())
}

fn number(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok().and_then(hello::integer)
}

/// Answers SELECT, or says which database the session must open first.
fn select(session: &mut Session, index: &[u8]) -> Outcome {
    match index_of(index).map(u32::try_from) {
        None if number(index).is_some() => session.refuse(refusal::NOT_AN_INT),
        None => session.refuse(refusal::NOT_AN_INTEGER),
        Some(Err(_)) => session.refuse(refusal::NO_SUCH_DATABASE),
        Some(Ok(database)) if database == session.client.database => session.answer(write::ok),
        Some(Ok(database)) => return Outcome::AsyncOp(AsyncOp::Select(database)),
    }
    Answered
}
