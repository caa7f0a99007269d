//! Checks which node the Sentinels name together, and whether they could carry out a failover. Pure.

use std::collections::{HashMap, HashSet};

use super::finding::{Finding, Step};
use super::loopback::is_loopback;
use super::sentinel::{Answer, Replica};
use super::words::{count, list};
use crate::discovery::consensus::{candidate, same_node};
use crate::discovery::event::Claim;
use crate::topology::Address;

/// A Sentinel and its answer.
#[derive(Clone, Debug)]
pub(super) struct Vote {
    /// The address that the doctor dialled.
    pub(super) sentinel: Address,
    /// True if the configuration names the Sentinel; false if another Sentinel named it.
    pub(super) configured: bool,
    /// The Sentinel's answer; `None` if it gave none, for whatever reason.
    pub(super) answer: Option<Answer>,
}

/// The result of comparing the answers.
#[derive(Debug, Default)]
pub(super) struct Agreement {
    pub(super) findings: Vec<Finding>,
    /// The primary that the Sentinels name together, if they do; the address is as announced.
    pub(super) named: Option<Address>,
    /// The replicas that could take over; the addresses are as announced.
    pub(super) replicas: Vec<Address>,
    /// True if more than half of all Sentinels, including those that do not answer, name that node. Sentinels that do
    /// not answer are then only a warning.
    pub(super) by_majority: bool,
}

/// Compares the answers by the proxy's own rule: a majority of the Sentinels that answer decides.
pub(super) fn agree(
    all_votes: &[Vote],
    name: &str,
    upstream: &str,
    nat: &HashMap<Address, Address>,
) -> Agreement {
    let all_votes = without_duplicates(all_votes);
    let answers: Vec<(&Address, &Answer)> =
        all_votes.iter().filter_map(|vote| Some((&vote.sentinel, vote.answer.as_ref()?))).collect();
    let mut agreement = Agreement::default();
    if answers.is_empty() {
        // The findings of each Sentinel report already what is broken.
        let why = "no Sentinel gives an answer, so nobody says where the primary is";
        agreement.findings.push(Finding::not_tried(Step::Agreement, why));
        return agreement;
    }
    let claims: Vec<&Claim> = answers.iter().filter_map(|(_, answer)| answer.view.claim.as_ref()).collect();
    let Some((chosen, votes)) = candidate(&claims, None) else {
        let why = format!("no Sentinel that answers knows a primary named {name:?}");
        agreement.findings.push(Finding::not_tried(Step::Agreement, why));
        return agreement;
    };
    let total = total(&all_votes, &answers);
    if votes * 2 <= answers.len() {
        agreement.findings.push(statements(
            Finding::broken(
                Step::Agreement,
                format!("the Sentinels disagree on where {name:?} is, and none is named by most of them"),
                "in a failover this passes within seconds: run this again. If it lasts, they watch different \
                 deployments under one name, or lost each other: SENTINEL REMOVE and MONITOR on those that are wrong",
            ),
            &answers,
        ));
        return agreement;
    }
    agreement.by_majority = votes * 2 > total;
    agreement.findings.push(agreement_finding(&answers, &chosen, votes, total, agreement.by_majority));
    agreement.findings.extend(quorum(&answers, total));
    agreement.findings.extend(loopback(&answers, &chosen, upstream, nat));
    let (finding, replicas) = replicas(&answers, &chosen);
    agreement.findings.extend(finding);
    agreement.replicas = replicas;
    agreement.named = Some(chosen.address);
    agreement
}

/// Returns each Sentinel once, even if it has several addresses.
fn without_duplicates(all_votes: &[Vote]) -> Vec<&Vote> {
    let mut seen = HashSet::new();
    all_votes
        .iter()
        .filter(|vote| {
            let id = vote.answer.as_ref().and_then(|answer| answer.id.as_ref());
            id.is_none_or(|id| seen.insert(id))
        })
        .collect()
}

/// Returns the number of all Sentinels, including those that do not answer.
fn total(all_votes: &[&Vote], answers: &[(&Address, &Answer)]) -> usize {
    let configured = all_votes.iter().filter(|vote| vote.configured).count();
    let counted = answers.iter().map(|(_, answer)| answer.view.total).max().unwrap_or(0);
    configured.max(counted).max(answers.len())
}

fn agreement_finding(
    answers: &[(&Address, &Answer)],
    chosen: &Claim,
    votes: usize,
    total: usize,
    by_majority: bool,
) -> Finding {
    let address = &chosen.address;
    let finding = if !by_majority {
        Finding::broken(
            Step::Agreement,
            format!("only {votes} of {total} Sentinels name a primary from here: {address}"),
            "respgate starts with a minority, after 2 s; but a failover needs most of them, and respgate would not \
             learn of it. Mend the Sentinels above, or the way to them",
        )
    } else if votes < answers.len() {
        let seen =
            format!("{votes} of {} Sentinels name {address}, and the rest another node", answers.len());
        let remedy = "in a failover this passes within seconds: run this again. If it lasts, tell the odd ones where \
                      the primary is: SENTINEL REMOVE, then MONITOR";
        statements(Finding::warning(Step::Agreement, seen, remedy), answers)
    } else if votes < total {
        let seen = format!("{votes} of {total} Sentinels answer, and all of them name {address}");
        Finding::warning(
            Step::Agreement,
            seen,
            "fix the Sentinels that do not answer: the next failure may leave no majority",
        )
    } else if total < 3 {
        let seen = format!(
            "{} {address}, and there are no others",
            if total == 1 { "the only Sentinel names".to_owned() } else { "both Sentinels name".to_owned() }
        );
        let remedy = "run three Sentinels or more, on different machines: with fewer, the loss of one means that \
                      there is no failover";
        Finding::warning(Step::Agreement, seen, remedy)
    } else {
        Finding::ok(Step::Agreement, format!("all {total} Sentinels name {address}"))
    };
    let losses = answers.iter().filter(|(_, answer)| !answer.lost.is_empty()).map(|(sentinel, answer)| {
        format!("{sentinel} has no connection to Sentinel {}", list(answer.lost.iter().cloned()))
    });
    losses
        .fold(finding, Finding::detail)
        .fact("primary", address.to_string())
        .fact("epoch", chosen.epoch)
        .fact("votes", votes)
        .fact("sentinels", total)
}

fn statements(finding: Finding, answers: &[(&Address, &Answer)]) -> Finding {
    answers.iter().fold(finding, |finding, (sentinel, answer)| {
        finding.detail(match &answer.view.claim {
            Some(claim) => format!("{sentinel} names {} (epoch {})", claim.address, claim.epoch),
            None => format!("{sentinel} does not know the name"),
        })
    })
}

/// Returns a finding if the Sentinels, as configured and as they see each other, could not agree on a failover.
fn quorum(answers: &[(&Address, &Answer)], total: usize) -> Option<Finding> {
    let quorum = answers.iter().filter_map(|(_, answer)| answer.quorum).max()?;
    if quorum > total {
        return Some(Finding::warning(
            Step::Agreement,
            format!(
                "the quorum is {quorum}, and there are only {}: there will never be a failover",
                count(total, "Sentinel")
            ),
            "lower it: SENTINEL SET NAME quorum N on each, with N more than half of them",
        ));
    }
    let (sentinel, reason) =
        answers.iter().find_map(|(sentinel, answer)| Some((sentinel, answer.no_quorum.as_ref()?)))?;
    Some(Finding::warning(
        Step::Agreement,
        format!("a failover would fail because too few Sentinels see each other: {sentinel} says {reason}"),
        "start the missing Sentinels, or fix the network between them (port 26379, both ways)",
    ))
}

/// Returns a finding if a Sentinel on another machine names `127.0.0.1`, by which it means its own machine.
fn loopback(
    answers: &[(&Address, &Answer)],
    chosen: &Claim,
    upstream: &str,
    nat: &HashMap<Address, Address>,
) -> Option<Finding> {
    if !is_loopback(&chosen.address) || nat.contains_key(&chosen.address) {
        return None;
    }
    let named_it = |answer: &Answer| answer.view.claim.as_ref().is_some_and(|claim| same_node(claim, chosen));
    let (sentinel, _) =
        answers.iter().find(|(sentinel, answer)| named_it(answer) && !is_loopback(sentinel))?;
    Some(Finding::broken(
        Step::Agreement,
        format!(
            "Sentinel {sentinel} says that the primary is at {}: to the Sentinel that is its own machine, from here it \
             is this one",
            chosen.address
        ),
        format!(
            "give `sentinel monitor` an address that others can reach, and the server `replica-announce-ip`; or \
             translate it here, in [upstreams.{upstream}.nat]: \"{}\" = \"HOST:PORT\"",
            chosen.address
        ),
    ))
}

/// Returns a finding about the replicas, and those that could take over, from the Sentinel that knows the most
/// replicas.
fn replicas(answers: &[(&Address, &Answer)], chosen: &Claim) -> (Option<Finding>, Vec<Address>) {
    let named_it = |answer: &Answer| answer.view.claim.as_ref().is_some_and(|claim| same_node(claim, chosen));
    let known = answers.iter().filter(|(_, answer)| named_it(answer)).map(|(_, answer)| &answer.replicas);
    let Some(replicas) = known.max_by_key(|replicas| replicas.len()) else { return (None, Vec::new()) };
    let unfit: Vec<&Replica> = replicas.iter().filter(|replica| replica.problem.is_some()).collect();
    let fit: Vec<Address> =
        replicas.iter().filter(|it| it.problem.is_none()).map(|it| it.address.clone()).collect();
    let finding = match (&fit[..], &unfit[..]) {
        ([], []) => Finding::warning(
            Step::Replicas,
            "the Sentinels know no replica: when the primary dies, nothing can take its place",
            "start a replica (`replicaof`), and look at ROLE on the primary to see whether it is connected",
        ),
        ([], _) => Finding::warning(
            Step::Replicas,
            "no replica could take over",
            "fix one of these; INFO replication there and on the primary shows both ends of the link",
        ),
        (_, []) => Finding::ok(
            Step::Replicas,
            format!(
                "{} could take over: {}",
                count(fit.len(), "replica"),
                list(fit.iter().map(Address::to_string))
            ),
        ),
        _ => Finding::warning(
            Step::Replicas,
            format!("{} of {} replicas could take over", fit.len(), replicas.len()),
            "fix the others, or let the Sentinels forget those that are gone for good: SENTINEL RESET NAME, on one \
             after the other",
        ),
    };
    let finding = unfit.iter().fold(finding, |finding, replica| {
        let why = replica.problem.as_deref().unwrap_or_default();
        finding.detail(format!("{}: {why}", replica.address))
    });
    (Some(finding.fact("fit", fit.len()).fact("known", replicas.len())), fit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::event::View;
    use crate::doctor::finding::Level;

    fn vote(number: u16, primary: Option<(&str, u64)>, total: usize) -> Vote {
        let claim = primary.map(|(host, epoch)| Claim {
            address: Address::tcp(host, 6379),
            epoch,
            run_id: None,
            flags: "master".into(),
            failover_state: None,
        });
        let answer = Answer {
            view: View { claim, others: Vec::new(), total },
            id: Some(format!("{number:040}")),
            lost: Vec::new(),
            quorum: Some(2),
            no_quorum: None,
            replicas: vec![Replica { address: Address::tcp("10.0.0.9", 6379), problem: None }],
            names: Vec::new(),
        };
        Vote { sentinel: Address::tcp(format!("s{number}"), 26379), configured: true, answer: Some(answer) }
    }

    fn silent(number: u16) -> Vote {
        Vote { answer: None, ..vote(number, None, 1) }
    }

    fn agreed(all_votes: &[Vote]) -> (Agreement, Level) {
        let agreement = agree(all_votes, "mymaster", "main", &HashMap::new());
        let level = agreement.findings.iter().map(|finding| finding.level).max().unwrap();
        (agreement, level)
    }

    #[test]
    fn three_sentinels_that_agree_are_ok() {
        let all_votes: Vec<Vote> = (1..=3).map(|number| vote(number, Some(("10.0.0.5", 1)), 3)).collect();
        let (agreement, level) = agreed(&all_votes);
        assert_eq!(level, Level::Ok);
        assert!(agreement.by_majority);
        assert_eq!(agreement.named.unwrap(), Address::tcp("10.0.0.5", 6379));
        assert_eq!(agreement.replicas, [Address::tcp("10.0.0.9", 6379)]);
    }

    #[test]
    fn a_silent_minority_is_a_warning_and_a_silent_majority_is_broken() {
        let up = |number| vote(number, Some(("10.0.0.5", 1)), 3);
        let (agreement, level) = agreed(&[up(1), up(2), silent(3)]);
        assert!(level == Level::Warning && agreement.by_majority && agreement.named.is_some());
        let (agreement, level) = agreed(&[up(1), silent(2), silent(3)]);
        assert!(level == Level::Broken && !agreement.by_majority && agreement.named.is_some());
        let (agreement, level) = agreed(&[silent(1), silent(2)]);
        assert!(level == Level::NotTried && agreement.named.is_none());
    }

    #[test]
    fn a_disagreement_lists_what_each_sentinel_names() {
        let old = |number| vote(number, Some(("10.0.0.5", 1)), 3);
        let new = |number| vote(number, Some(("10.0.0.6", 2)), 3);
        let (agreement, level) = agreed(&[old(1), new(2), new(3)]);
        assert_eq!(level, Level::Warning);
        assert_eq!(agreement.findings[0].details.len(), 3);
        assert_eq!(agreement.named.unwrap(), Address::tcp("10.0.0.6", 6379));
        let (agreement, level) = agreed(&[old(1), new(2)]);
        assert!(level == Level::Broken && agreement.named.is_none());
        assert_eq!(agreement.findings[0].details[0], "s1:26379 names 10.0.0.5:6379 (epoch 1)");
    }

    #[test]
    fn an_unknown_name_and_too_high_a_quorum() {
        let (agreement, _) = agreed(&[vote(1, None, 1)]);
        assert!(agreement.findings[0].seen.contains("\"mymaster\""));
        let mut lonely = vote(1, Some(("10.0.0.5", 1)), 3);
        lonely.answer.as_mut().unwrap().lost = vec!["10.0.0.2:26379".into()];
        let (agreement, _) = agreed(&[lonely]);
        assert_eq!(agreement.findings[0].details, ["s1:26379 has no connection to Sentinel 10.0.0.2:26379"]);
        let mut greedy = vote(1, Some(("10.0.0.5", 1)), 3);
        greedy.answer.as_mut().unwrap().quorum = Some(4);
        let (agreement, _) = agreed(&[greedy, vote(2, Some(("10.0.0.5", 1)), 3)]);
        assert!(agreement.findings.iter().any(|it| it.seen.contains("never be a failover")));
    }

    #[test]
    fn a_remote_sentinel_that_names_a_loopback_address() {
        let all_votes: Vec<Vote> = (1..=3).map(|number| vote(number, Some(("127.0.0.1", 1)), 3)).collect();
        let (agreement, level) = agreed(&all_votes);
        assert_eq!(level, Level::Broken);
        let finding = agreement.findings.iter().find(|it| it.seen.contains("this one")).unwrap();
        assert!(finding.remedy.as_ref().unwrap().contains("\"127.0.0.1:6379\" = "));
        let nat = HashMap::from([(Address::tcp("127.0.0.1", 6379), Address::tcp("db", 6379))]);
        let agreement = agree(&all_votes, "mymaster", "main", &nat);
        assert!(agreement.findings.iter().all(|it| it.level == Level::Ok));
        let mut local = all_votes;
        local.iter_mut().for_each(|vote| vote.sentinel = Address::tcp("127.0.0.1", 26379));
        assert_eq!(agreed(&local).1, Level::Ok);
    }

    #[test]
    fn one_sentinel_under_two_addresses_votes_once() {
        let one = vote(1, Some(("10.0.0.5", 1)), 1);
        let twin = Vote { sentinel: Address::tcp("10.0.0.1", 26379), ..one.clone() };
        let (agreement, _) = agreed(&[one, twin]);
        assert!(
            agreement.findings[0].seen.starts_with("the only Sentinel"),
            "{}",
            agreement.findings[0].seen
        );
    }
}
