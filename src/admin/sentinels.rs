//! Counts Sentinels by their view of the primary. Pure.

use crate::discovery::DiscoveryStatus;
use crate::discovery::consensus::{candidate, same_node};
use crate::discovery::event::Claim;
use crate::discovery::sentinel_table::{SentinelError, SentinelState};
use crate::topology::{Primary, Topology};

/// The views, as metrics show them.
const LABELS: [&str; 6] = ["agrees", "other", "unknown", "refused", "unreachable", "pending"];

/// Returns the number of Sentinels with each view, or nothing if the upstream has no Sentinels.
///
/// A Sentinel `agrees` if it names the primary that respgate follows; while there is none, if it
/// names the node that most Sentinels name.
pub(super) fn views(status: &DiscoveryStatus, topology: &Topology) -> Vec<(&'static str, u64)> {
    if status.sentinels.is_empty() {
        return Vec::new();
    }
    let claims: Vec<&Claim> = status
        .sentinels
        .iter()
        .filter_map(|sentinel| match &sentinel.state {
            SentinelState::Answered(view) => view.claim.as_ref(),
            SentinelState::Pending | SentinelState::Failed(_) => None,
        })
        .collect();
    let most = candidate(&claims, None).map(|(claim, _)| claim);
    let agrees = |claim: &Claim| match topology.primary() {
        Some(primary) => names(claim, primary),
        None => most.as_ref().is_some_and(|most| same_node(claim, most)),
    };
    let labels = status.sentinels.iter().map(|sentinel| match &sentinel.state {
        SentinelState::Answered(view) => match &view.claim {
            Some(claim) if agrees(claim) => "agrees",
            Some(_) => "other",
            None => "unknown",
        },
        SentinelState::Failed(SentinelError::Refused(_)) => "refused",
        SentinelState::Failed(SentinelError::Unreachable(_)) => "unreachable",
        SentinelState::Pending => "pending",
    });
    let mut counts = LABELS.map(|label| (label, 0));
    for label in labels {
        counts.iter_mut().filter(|(of, _)| *of == label).for_each(|(_, count)| *count += 1);
    }
    counts.into()
}

/// Returns true if the claim is about this node: it has its address, or its run id where Sentinels
/// mix names and IP addresses.
fn names(claim: &Claim, primary: &Primary) -> bool {
    claim.address == primary.address
        || primary.node.as_ref().is_some_and(|node| claim.run_id.as_deref() == Some(&*node.0))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::discovery::event::View;
    use crate::discovery::sentinel_table::SentinelStatus;
    use crate::topology::{Address, Generation, Outage};

    fn answers(port: Option<u16>) -> SentinelState {
        let claim = port.map(|port| Claim {
            address: Address::tcp("10.0.0.1", port),
            epoch: 1,
            run_id: None,
            flags: "master".into(),
            failover_state: None,
        });
        SentinelState::Answered(View { claim, others: Vec::new(), total: 3 })
    }

    fn counted(states: Vec<SentinelState>, topology: &Topology) -> Vec<(&'static str, u64)> {
        let sentinels = states.into_iter().enumerate().map(|(number, state)| SentinelStatus {
            address: Address::tcp("10.0.1.1", 26379 + number as u16),
            seed: true,
            id: None,
            subscribed: true,
            state,
            last_notice: None,
        });
        let status = DiscoveryStatus { sentinels: sentinels.collect(), ..DiscoveryStatus::default() };
        let mut counts = views(&status, topology);
        counts.retain(|(_, count)| *count > 0);
        counts
    }

    fn follows(port: u16) -> Topology {
        Topology::Known(Arc::new(Primary {
            generation: Generation(1),
            address: Address::tcp("10.0.0.1", port),
            config_epoch: Some(1),
            server: None,
            node: None,
        }))
    }

    #[test]
    fn sentinels_are_counted_by_their_view() {
        let failed = |error: fn(String) -> SentinelError| SentinelState::Failed(error(String::new()));
        let states = vec![
            answers(Some(7001)),
            answers(Some(7001)),
            answers(Some(7002)),
            answers(None),
            failed(SentinelError::Refused),
            failed(SentinelError::Unreachable),
            SentinelState::Pending,
        ];
        let expected =
            [("agrees", 2), ("other", 1), ("unknown", 1), ("refused", 1), ("unreachable", 1), ("pending", 1)];
        assert_eq!(counted(states, &follows(7001)), expected);
    }

    #[test]
    fn without_a_primary_the_majority_is_the_measure() {
        let unknown = Topology::Unknown(Arc::new(Outage::Starting));
        let states = vec![answers(Some(7001)), answers(Some(7002)), answers(Some(7002))];
        assert_eq!(counted(states, &unknown), [("agrees", 2), ("other", 1)]);
    }

    #[test]
    fn a_fixed_address_has_no_sentinels() {
        assert!(views(&DiscoveryStatus::default(), &follows(7001)).is_empty());
    }
}
