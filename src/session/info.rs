//! Answers INFO with the section `respgate`, which the server does not have.

use std::fmt::Write as _;

use super::Session;
use super::close::Close;
use super::config::AdminCommands;
use crate::clients::directory::{Figures, Query, UNANSWERED};
use crate::command::option_is_whole as is;
use crate::resp::error_line::ErrorLine;
use crate::resp::request::Request;
use crate::resp::write;

/// The name of the section.
const SECTION: &str = "respgate";

/// Returns true if an INFO names the section.
pub(super) fn names_respgate(request: &Request<'_>) -> bool {
    request.args().skip(1).any(|section| is(section, SECTION))
}

/// Returns the other sections that an INFO names; `None` if it names no other.
pub(super) fn sections(request: &Request<'_>) -> Option<Vec<Vec<u8>>> {
    let others: Vec<Vec<u8>> =
        request.args().skip(1).filter(|section| !is(section, SECTION)).map(<[u8]>::to_vec).collect();
    (!others.is_empty()).then_some(others)
}

impl Session {
    /// Answers an INFO that names the section. The server answers for `sections`.
    pub(super) async fn run_info(&mut self, sections: Option<Vec<Vec<u8>>>) {
        let upstream = self.ctx.upstream.clone();
        let (directory, index) = (self.ctx.directory.clone(), self.ctx.upstream_number);
        let identity = self.client.identity.clone();
        let gather = async {
            let mut text = match (sections, identity) {
                (Some(sections), Some(identity)) => {
                    let mut words: Vec<&[u8]> = vec![b"INFO"];
                    words.extend(sections.iter().map(Vec::as_slice));
                    let reply = upstream.ask(&identity, &words).await?;
                    reply.bytes().unwrap_or_default().to_vec()
                }
                // The server has no such section.
                (None, Some(identity)) if identity.is_of_a_client() => {
                    upstream.check_permission(&identity, &[b"INFO", SECTION.as_bytes()]).await?;
                    Vec::new()
                }
                _ => Vec::new(),
            };
            if !text.is_empty() {
                text.extend_from_slice(b"\r\n");
            }
            let figures = directory.ask(|answer| Query::Figures(index, answer)).await;
            let mut sum = Figures::default();
            figures.map_err(|_| ErrorLine::from(UNANSWERED))?.into_iter().for_each(|part| sum += part);
            Ok::<_, ErrorLine>((text, sum))
        };
        let gathered = tokio::select! {
            gathered = gather => gathered,
            () = self.until_abandoned() => {
                self.closing = Some(Close::Left);
                return;
            }
        };
        match gathered {
            Ok((mut text, figures)) => {
                text.extend_from_slice(self.section(&figures).as_bytes());
                let resp = self.client.resp;
                self.answer(|out| write::verbatim(out, resp, &text));
            }
            Err(line) => self.refuse(&line),
        }
    }

    /// Returns the section. A client of a tenant, or at the level `deny`, does not see figures about other clients.
    fn section(&self, figures: &Figures) -> String {
        let upstream = &self.ctx.upstream;
        let mut text = String::from("# Respgate\r\n");
        let mut field = |name: &str, value: &dyn std::fmt::Display| {
            let _ = write!(text, "respgate_{name}:{value}\r\n");
        };
        field("version", &env!("CARGO_PKG_VERSION"));
        field("uptime_in_seconds", &self.ctx.directory.uptime().as_secs());
        field("upstream", &upstream.config.name);
        field("hold", &u8::from(upstream.in_hold()));
        if self.tenancy.member.is_some() || self.admin_level().0 == AdminCommands::Deny {
            return text;
        }
        let primary = upstream.primary();
        field("workers", &self.ctx.directory.workers());
        field("primary", &primary.as_ref().map_or(String::new(), |primary| primary.address.to_string()));
        field("generation", &primary.as_ref().map_or(0, |primary| primary.generation.0));
        field("clients", &figures.clients);
        field("clients_leased", &figures.pinned);
        field("clients_held", &figures.held);
        field("fan_in_subscribers", &figures.subscribers);
        let [shared, leased, fan_in, idle] = figures.connections;
        field("connections_shared", &shared);
        field("connections_leased", &leased);
        field("connections_fan_in", &fan_in);
        field("connections_idle", &idle);
        text
    }
}
