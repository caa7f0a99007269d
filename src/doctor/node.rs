//! Checks one data server: the primary, or a replica that may become it.

use super::finding::{Finding, Section, Step, Subject};
use super::peer::{Channel, Peer};
use super::reach::reach;
use super::reads::{self, ReadsCheck};
use super::role::Expected;
use super::{clients, database, latency, role, scripts, server};
use crate::resp::control::ControlError;
use crate::upstream::config::UpstreamConfig;

/// Connects to a node and runs all steps on it. `reads` is what is checked of a replica from which clients read.
pub(super) async fn examine(
    peer: Peer,
    upstream: UpstreamConfig,
    expected: Expected,
    reads: Option<ReadsCheck>,
) -> Section {
    let (mut findings, channel) = reach(&peer).await;
    match channel {
        None => {
            let steps =
                [Some(Step::Server), Some(Step::Role), reads.map(|_| Step::Reads), Some(Step::Latency)];
            findings.extend(
                steps
                    .into_iter()
                    .flatten()
                    .map(|step| Finding::not_tried(step, "it needs a connection that is logged in")),
            );
        }
        Some(mut channel) => {
            if let Err(error) =
                run_steps(&mut channel, &peer, &upstream, expected, reads, &mut findings).await
            {
                findings.push(Finding::broken(
                    Step::Server,
                    format!("in the middle of the questions, the connection failed: {error}"),
                    "run this again; if it lasts, look at the server's log",
                ));
            }
        }
    }
    Section {
        subject: if expected == Expected::Replica { Subject::Replica } else { Subject::Primary },
        name: upstream.name,
        address: peer.address.to_string(),
        findings,
    }
}

async fn run_steps(
    channel: &mut Channel,
    peer: &Peer,
    upstream: &UpstreamConfig,
    expected: Expected,
    reads: Option<ReadsCheck>,
    findings: &mut Vec<Finding>,
) -> Result<(), ControlError> {
    findings.push(server::examine(channel, peer).await?);
    findings.push(role::examine(channel, peer, expected).await?);
    if let Some(check) = reads {
        findings.push(reads::examine(channel, peer, &check).await?);
    }
    findings.extend(database::examine(channel, peer, upstream.database).await?);
    findings.extend(clients::examine(channel, peer, upstream.max_connections).await?);
    // If clients bring their own users, the rights of respgate's user tell nothing about theirs.
    if expected != Expected::Replica && !peer.clients_bring_their_own {
        findings.extend(scripts::examine(channel, peer).await?);
    }
    findings.push(latency::examine(channel, peer).await?);
    Ok(())
}
