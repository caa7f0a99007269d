//! Whom do the Sentinels name together, and could they carry out a failover? Pure.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use super::finding::{Finding, Step};
use super::sentinel::{Answer, Replica};
use super::words::{count, list};
use crate::discovery::consensus::{candidate, same_node};
use crate::discovery::event::Claim;
use crate::topology::Address;

/// One Sentinel, and what it said.
#[derive(Clone, Debug)]
pub(super) struct Vote {
    /// Where it was dialled.
    pub(super) sentinel: Address,
    /// Whether it is configured; else another Sentinel named it.
    pub(super) configured: bool,
    /// `None`: nothing, for whichever reason.
    pub(super) answer: Option<Answer>,
}

/// What came out.
#[derive(Debug, Default)]
pub(super) struct Agreement {
    pub(super) findings: Vec<Finding>,
    /// Whom to follow, where the Sentinels agree; as announced.
    pub(super) named: Option<Address>,
    /// The replicas that could take over, as announced.
    pub(super) replicas: Vec<Address>,
    /// Whether more than half of all Sentinels there are name that node: those that do not answer are then no more
    /// than a flaw.
    pub(super) by_majority: bool,
}

/// Puts the answers together, by the proxy's own rule: a majority of those that answer, whoever is silent.
pub(super) fn agree(
    voices: &[Vote],
    name: &str,
    upstream: &str,
    nat: &HashMap<Address, Address>,
) -> Agreement {
    let voices = one_each(voices);
    let answers: Vec<(&Address, &Answer)> =
        voices.iter().filter_map(|voice| Some((&voice.sentinel, voice.answer.as_ref()?))).collect();
    let mut agreement = Agreement::default();
    if answers.is_empty() {
        // What is broken has been said of each.
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
    let total = total(&voices, &answers);
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
    agreement.findings.push(verdict(&answers, &chosen, votes, total, agreement.by_majority));
    agreement.findings.extend(quorum(&answers, total));
    agreement.findings.extend(loopback(&answers, &chosen, upstream, nat));
    let (finding, replicas) = replicas(&answers, &chosen);
    agreement.findings.extend(finding);
    agreement.replicas = replicas;
    agreement.named = Some(chosen.address);
    agreement
}

/// Each Sentinel once, however many addresses it has.
fn one_each(voices: &[Vote]) -> Vec<&Vote> {
    let mut seen = HashSet::new();
    voices
        .iter()
        .filter(|voice| {
            let id = voice.answer.as_ref().and_then(|answer| answer.id.as_ref());
            id.is_none_or(|id| seen.insert(id))
        })
        .collect()
}

/// How many Sentinels there are, the silent ones included.
fn total(voices: &[&Vote], answers: &[(&Address, &Answer)]) -> usize {
    let configured = voices.iter().filter(|voice| voice.configured).count();
    let counted = answers.iter().map(|(_, answer)| answer.view.total).max().unwrap_or(0);
    configured.max(counted).max(answers.len())
}

fn verdict(
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
            "mend the silent ones: the next failure may leave no majority",
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

/// Whether the Sentinels, as configured and as they see each other, could agree on a failover.
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
    let (sentinel, complaint) =
        answers.iter().find_map(|(sentinel, answer)| Some((sentinel, answer.no_quorum.as_ref()?)))?;
    Some(Finding::warning(
        Step::Agreement,
        format!(
            "a failover would fail for want of Sentinels that see each other: {sentinel} says {complaint}"
        ),
        "start the missing Sentinels, or mend the network between them (port 26379, both ways)",
    ))
}

/// A Sentinel elsewhere that names `127.0.0.1` means its own machine.
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

pub(super) fn is_loopback(address: &Address) -> bool {
    match address {
        Address::Unix(_) => true,
        Address::Tcp { host, .. } => {
            host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
        }
    }
}

/// The replicas, by the Sentinel that knows most of them.
fn replicas(answers: &[(&Address, &Answer)], chosen: &Claim) -> (Option<Finding>, Vec<Address>) {
    let named_it = |answer: &Answer| answer.view.claim.as_ref().is_some_and(|claim| same_node(claim, chosen));
    let known = answers.iter().filter(|(_, answer)| named_it(answer)).map(|(_, answer)| &answer.replicas);
    let Some(replicas) = known.max_by_key(|replicas| replicas.len()) else { return (None, Vec::new()) };
    let faulty: Vec<&Replica> = replicas.iter().filter(|replica| replica.fault.is_some()).collect();
    let fit: Vec<Address> =
        replicas.iter().filter(|it| it.fault.is_none()).map(|it| it.address.clone()).collect();
    let finding = match (&fit[..], &faulty[..]) {
        ([], []) => Finding::warning(
            Step::Replicas,
            "the Sentinels know no replica: when the primary dies, nothing can take its place",
            "start a replica (`replicaof`), and look at ROLE on the primary to see whether it is connected",
        ),
        ([], _) => Finding::warning(
            Step::Replicas,
            "no replica could take over",
            "mend one of these; INFO replication there and on the primary shows both ends of the link",
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
            "mend the others, or let the Sentinels forget those that are gone for good: SENTINEL RESET NAME, on one \
             after the other",
        ),
    };
    let finding = faulty.iter().fold(finding, |finding, replica| {
        let why = replica.fault.as_deref().unwrap_or_default();
        finding.detail(format!("{}: {why}", replica.address))
    });
    (Some(finding.fact("fit", fit.len()).fact("known", replicas.len())), fit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::event::View;
    use crate::doctor::finding::Level;

    fn voice(number: u16, primary: Option<(&str, u64)>, total: usize) -> Vote {
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
            replicas: vec![Replica { address: Address::tcp("10.0.0.9", 6379), fault: None }],
            names: Vec::new(),
        };
        Vote { sentinel: Address::tcp(format!("s{number}"), 26379), configured: true, answer: Some(answer) }
    }

    fn silent(number: u16) -> Vote {
        Vote { answer: None, ..voice(number, None, 1) }
    }

    fn agreed(voices: &[Vote]) -> (Agreement, Level) {
        let agreement = agree(voices, "mymaster", "main", &HashMap::new());
        let level = agreement.findings.iter().map(|finding| finding.level).max().unwrap();
        (agreement, level)
    }

    #[test]
    fn three_that_agree_are_well() {
        let voices: Vec<Vote> = (1..=3).map(|number| voice(number, Some(("10.0.0.5", 1)), 3)).collect();
        let (agreement, level) = agreed(&voices);
        assert_eq!(level, Level::Ok);
        assert!(agreement.by_majority);
        assert_eq!(agreement.named.unwrap(), Address::tcp("10.0.0.5", 6379));
        assert_eq!(agreement.replicas, [Address::tcp("10.0.0.9", 6379)]);
    }

    #[test]
    fn silence_is_a_flaw_in_a_minority_and_broken_in_a_majority() {
        let up = |number| voice(number, Some(("10.0.0.5", 1)), 3);
        let (agreement, level) = agreed(&[up(1), up(2), silent(3)]);
        assert!(level == Level::Warning && agreement.by_majority && agreement.named.is_some());
        let (agreement, level) = agreed(&[up(1), silent(2), silent(3)]);
        assert!(level == Level::Broken && !agreement.by_majority && agreement.named.is_some());
        let (agreement, level) = agreed(&[silent(1), silent(2)]);
        assert!(level == Level::NotTried && agreement.named.is_none());
    }

    #[test]
    fn disagreement_is_shown_with_who_says_what() {
        let old = |number| voice(number, Some(("10.0.0.5", 1)), 3);
        let new = |number| voice(number, Some(("10.0.0.6", 2)), 3);
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
        let (agreement, _) = agreed(&[voice(1, None, 1)]);
        assert!(agreement.findings[0].seen.contains("\"mymaster\""));
        let mut lonely = voice(1, Some(("10.0.0.5", 1)), 3);
        lonely.answer.as_mut().unwrap().lost = vec!["10.0.0.2:26379".into()];
        let (agreement, _) = agreed(&[lonely]);
        assert_eq!(agreement.findings[0].details, ["s1:26379 has no connection to Sentinel 10.0.0.2:26379"]);
        let mut greedy = voice(1, Some(("10.0.0.5", 1)), 3);
        greedy.answer.as_mut().unwrap().quorum = Some(4);
        let (agreement, _) = agreed(&[greedy, voice(2, Some(("10.0.0.5", 1)), 3)]);
        assert!(agreement.findings.iter().any(|it| it.seen.contains("never be a failover")));
    }

    #[test]
    fn a_sentinel_elsewhere_that_says_loopback() {
        let voices: Vec<Vote> = (1..=3).map(|number| voice(number, Some(("127.0.0.1", 1)), 3)).collect();
        let (agreement, level) = agreed(&voices);
        assert_eq!(level, Level::Broken);
        let finding = agreement.findings.iter().find(|it| it.seen.contains("this one")).unwrap();
        assert!(finding.remedy.as_ref().unwrap().contains("\"127.0.0.1:6379\" = "));
        let nat = HashMap::from([(Address::tcp("127.0.0.1", 6379), Address::tcp("db", 6379))]);
        let agreement = agree(&voices, "mymaster", "main", &nat);
        assert!(agreement.findings.iter().all(|it| it.level == Level::Ok));
        let mut local = voices;
        local.iter_mut().for_each(|voice| voice.sentinel = Address::tcp("127.0.0.1", 26379));
        assert_eq!(agreed(&local).1, Level::Ok);
    }

    #[test]
    fn one_sentinel_under_two_addresses_votes_once() {
        let one = voice(1, Some(("10.0.0.5", 1)), 1);
        let twin = Vote { sentinel: Address::tcp("10.0.0.1", 26379), ..one.clone() };
        let (agreement, _) = agreed(&[one, twin]);
        assert!(
            agreement.findings[0].seen.starts_with("the only Sentinel"),
            "{}",
            agreement.findings[0].seen
        );
    }
}
