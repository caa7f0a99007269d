//! Parses HELLO and writes its reply.

use super::client::{Client, valid_name};
use super::refusal;
use crate::command::option_is_whole as is;
use crate::resp::Resp;
use crate::resp::error_line::ErrorLine;
use crate::resp::request::Request;
use crate::resp::write;
use crate::topology::ServerInfo;

/// Holds the arguments of a well-formed HELLO.
#[derive(Debug, PartialEq, Eq)]
pub struct Hello {
    /// The requested version; `None` keeps the current one.
    pub resp: Option<Resp>,
    /// The user and password of the AUTH option.
    pub auth: Option<(Vec<u8>, Vec<u8>)>,
    /// The name of the SETNAME option.
    pub name: Option<Vec<u8>>,
}

/// Parses HELLO's arguments in the server's order, so that the first error is the one that the server would name.
///
/// # Errors
/// Returns the server's error line.
pub fn parse(request: &Request<'_>) -> Result<Hello, ErrorLine> {
    let mut args = request.args().skip(1);
    let mut hello = Hello { resp: None, auth: None, name: None };
    if let Some(version) = args.next() {
        hello.resp = Some(match std::str::from_utf8(version).ok().and_then(integer) {
            Some(2) => Resp::V2,
            Some(3) => Resp::V3,
            Some(_) => return Err(refusal::NO_PROTOCOL.into()),
            None => return Err(refusal::PROTOCOL_NOT_AN_INTEGER.into()),
        });
    }
    while let Some(option) = args.next() {
        if is(option, "AUTH") {
            let (Some(user), Some(password)) = (args.next(), args.next()) else {
                return Err(refusal::bad_hello_option(option));
            };
            hello.auth = Some((user.into(), password.into()));
        } else if is(option, "SETNAME") {
            let Some(name) = args.next() else { return Err(refusal::bad_hello_option(option)) };
            if !valid_name(name) {
                return Err(refusal::BAD_NAME.into());
            }
            hello.name = Some(name.into());
        } else {
            return Err(refusal::bad_hello_option(option));
        }
    }
    Ok(hello)
}

/// Parses an integer as the server does: no sign but a minus, no leading zeros, no blanks.
pub fn integer(text: &str) -> Option<i64> {
    let value: i64 = text.parse().ok()?;
    (value.to_string() == text).then_some(value)
}

/// Writes the reply, with the client's own id and the upstream's version.
pub fn reply(out: &mut Vec<u8>, client: &Client, server: &ServerInfo) {
    let resp = client.resp;
    write::map(out, resp, 7 + usize::from(server.availability_zone.is_some()));
    for (name, value) in [("server", &server.server), ("version", &server.version)] {
        write::bulk(out, name.as_bytes());
        write::bulk(out, value.as_bytes());
    }
    write::bulk(out, b"proto");
    write::integer(out, if resp == Resp::V3 { 3 } else { 2 });
    write::bulk(out, b"id");
    write::integer(out, i64::try_from(client.id).unwrap_or(i64::MAX));
    for (name, value) in [("mode", "standalone"), ("role", "master")] {
        write::bulk(out, name.as_bytes());
        write::bulk(out, value.as_bytes());
    }
    write::bulk(out, b"modules");
    write::array(out, server.modules.len());
    for module in &server.modules {
        write::map(out, resp, if module.origin.is_some() { 4 } else { 2 });
        write::bulk(out, b"name");
        write::bulk(out, module.name.as_bytes());
        write::bulk(out, b"ver");
        write::integer(out, module.version);
        if let Some((path, arguments)) = &module.origin {
            write::bulk(out, b"path");
            write::bulk(out, path.as_bytes());
            write::bulk(out, b"args");
            write::array(out, arguments.len());
            arguments.iter().for_each(|argument| write::bulk(out, argument.as_bytes()));
        }
    }
    if let Some(zone) = &server.availability_zone {
        write::bulk(out, b"availability_zone");
        write::bulk(out, zone.as_bytes());
    }
}
