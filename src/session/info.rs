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

/// What an INFO asks for that respgate answers.
pub(super) struct InfoRequest {
    /// The sections of the server; `None` if the request names none of them.
    sections: Option<Vec<Vec<u8>>>,
    /// True if the request names respgate's own section.
    own: bool,
}

/// Returns what an INFO asks for.
pub(super) fn request(request: &Request<'_>) -> InfoRequest {
    let own = names_respgate(request);
    let sections =
        if own { sections(request) } else { Some(request.args().skip(1).map(<[u8]>::to_vec).collect()) };
    InfoRequest { sections, own }
}

/// Returns the other sections that an INFO names; `None` if it names no other.
fn sections(request: &Request<'_>) -> Option<Vec<Vec<u8>>> {
    let others: Vec<Vec<u8>> =
        request.args().skip(1).filter(|section| !is(section, SECTION)).map(<[u8]>::to_vec).collect();
    (!others.is_empty()).then_some(others)
}

/// Returns the text of an INFO with the lines of a server that belongs to no cluster.
fn standalone(text: &[u8]) -> Vec<u8> {
    let mut shown = Vec::with_capacity(text.len() + 16);
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        shown.extend_from_slice(match line.trim_ascii_end() {
            b"redis_mode:cluster" => b"redis_mode:standalone\r\n",
            b"server_mode:cluster" => b"server_mode:standalone\r\n",
            b"cluster_enabled:1" => b"cluster_enabled:0\r\n",
            _ => line,
        });
    }
    shown
}

impl Session {
    /// Answers an INFO that names the section, or whose reply must not show a cluster. The server answers for the other sections.
    pub(super) async fn run_info(&mut self, InfoRequest { sections, own }: InfoRequest) {
        let upstream = self.ctx.upstream.clone();
        let (directory, index) = (self.ctx.directory.clone(), self.ctx.upstream_number);
        let identity = self.client.identity.clone();
        let gather = async {
            let mut text = match (sections, identity) {
                (Some(sections), Some(identity)) => {
                    let mut words: Vec<&[u8]> = vec![b"INFO"];
                    words.extend(sections.iter().map(Vec::as_slice));
                    if upstream.is_cluster() {
                        upstream.until_primary().await?;
                    }
                    let reply = upstream.ask(&identity, &words).await?;
                    let text = reply.bytes().unwrap_or_default();
                    if upstream.is_cluster() { standalone(text) } else { text.to_vec() }
                }
                // The server has no such section.
                (None, Some(identity)) if identity.is_of_a_client() => {
                    upstream.check_permission(&identity, &[b"INFO", SECTION.as_bytes()]).await?;
                    Vec::new()
                }
                _ => Vec::new(),
            };
            if !own {
                return Ok((text, Figures::default()));
            }
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
                if own {
                    text.extend_from_slice(self.section(&figures).as_bytes());
                }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_shows_a_cluster() {
        let text = b"# Server\r\nredis_mode:cluster\r\nserver_mode:cluster\r\nos:Linux\r\n\r\n# Cluster\r\ncluster_enabled:1\r\n";
        let shown = standalone(text);
        assert_eq!(
            String::from_utf8_lossy(&shown),
            "# Server\r\nredis_mode:standalone\r\nserver_mode:standalone\r\nos:Linux\r\n\r\n# Cluster\r\ncluster_enabled:0\r\n"
        );
        assert_eq!(standalone(b"cluster_enabled:10"), b"cluster_enabled:10");
    }
}
