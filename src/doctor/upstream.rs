//! Checks one upstream: its Sentinels, what they name together, and these nodes.

use std::collections::HashSet;
use std::sync::Arc;

use super::account::obtain;
use super::agreement::{self, Vote};
use super::cluster;
use super::concurrently::concurrently;
use super::finding::{Finding, Level, Section, Step, Subject};
use super::node;
use super::peer::{Kind, Peer};
use super::reach::reach;
use super::reads::ReadsCheck;
use super::refused::RefusedCommands;
use super::role::Expected;
use super::sentinel::{self, Answer};
use super::users;
use crate::config::Upstream;
use crate::discovery::cluster::survey::ClusterSurvey;
use crate::discovery::config::{ClusterConfig, DiscoveryConfig, SentinelConfig};
use crate::rotation::source::Account;
use crate::secret::Credentials;
use crate::topology::Address;
use crate::upstream::config::{ClientAuth, UpstreamConfig};

/// The greatest number of Sentinels, and of replicas, to check.
const MAX_PEERS: usize = 16;

/// Checks everything that the upstream's configuration names, and the nodes and Sentinels that its Sentinels name. `reads` is true if
/// clients read from its replicas.
pub(super) async fn examine(
    upstream: Upstream,
    users: Vec<(String, Account)>,
    refused: RefusedCommands,
    reads: bool,
) -> Vec<Section> {
    let logins = Logins {
        data: obtain(&upstream.account).await,
        sentinels: obtain(&upstream.sentinel_account).await,
        refused,
    };
    match upstream.discovery {
        DiscoveryConfig::Fixed(ref address) => {
            let peer = server(&upstream, &logins, address.clone());
            let read = upstream.replicas.iter().filter(|_| reads).take(MAX_PEERS);
            let replicas = read.map(|address| {
                let replica = server(&upstream, &logins, address.clone());
                reading_replica(replica, peer.clone(), upstream.config.clone(), users.clone())
            });
            let replicas = concurrently(replicas);
            let (primary, replicas) = tokio::join!(
                primary(peer.clone(), upstream.config.clone(), Expected::Primary, &users),
                replicas
            );
            [vec![primary], replicas].concat()
        }
        DiscoveryConfig::Cluster(ref cluster) => by_cluster(&upstream, &logins, cluster, &users, reads).await,
        DiscoveryConfig::Sentinel(ref sentinels) => {
            let sentinels = Arc::new(sentinels.clone());
            by_sentinels(upstream, logins, sentinels, users, reads).await
        }
    }
}

/// The credentials of respgate, or why they are not known.
struct Logins {
    data: Result<Option<Credentials>, String>,
    sentinels: Result<Option<Credentials>, String>,
    refused: RefusedCommands,
}

/// Checks the primary, and logs in to it as every user of respgate's that has credentials of its own.
async fn primary(
    peer: Peer,
    config: UpstreamConfig,
    expected: Expected,
    users: &[(String, Account)],
) -> Section {
    let mut section = node::examine(peer.clone(), config, expected, None).await;
    log_in_users(&mut section, &peer, users).await;
    section
}

/// Checks a replica from which clients read. respgate serves clients without it, so nothing is broken.
async fn reading_replica(
    peer: Peer,
    primary: Peer,
    config: UpstreamConfig,
    users: Vec<(String, Account)>,
) -> Section {
    let check = ReadsCheck { primary, bound: config.lag_bound };
    let mut section = node::examine(peer.clone(), config, Expected::Replica, Some(check)).await;
    log_in_users(&mut section, &peer, &users).await;
    section.soften();
    section
}

/// Logs in as every user, if the node can be reached.
async fn log_in_users(section: &mut Section, peer: &Peer, users: &[(String, Account)]) {
    if section
        .findings
        .iter()
        .any(|finding| finding.step == Step::Tls && matches!(finding.level, Level::Ok | Level::Warning))
    {
        section.findings.extend(users::examine(peer, users).await);
    }
}

/// Checks the configured nodes, what they say together, and each primary that serves slots; if clients read from replicas, those too.
async fn by_cluster(
    upstream: &Upstream,
    logins: &Logins,
    cluster: &ClusterConfig,
    users: &[(String, Account)],
    reads: bool,
) -> Vec<Section> {
    let name = &upstream.config.name;
    let mut known = HashSet::new();
    let seeds = cluster.seeds.iter().filter(|seed| known.insert(Address::clone(seed))).take(MAX_PEERS);
    let ask = |seed: &Address| {
        let peer = server(upstream, logins, seed.clone());
        cluster::ask(name.clone(), peer, cluster.nat.clone())
    };
    let asked = concurrently(seeds.map(ask)).await;
    let (mut sections, said): (Vec<Section>, Vec<_>) = asked.into_iter().unzip();
    let said: Vec<_> = said.into_iter().flatten().collect();
    if said.is_empty() {
        return sections;
    }
    // Any one of the nodes tells of all others.
    sections.iter_mut().for_each(Section::soften);
    let survey = ClusterSurvey::of(said);
    let (subject, address) = (Subject::Cluster, String::new());
    sections.push(Section { subject, name: name.clone(), address, findings: cluster::judge(&survey) });
    let node = |address: &Address| Peer {
        hint: format!(
            "; the nodes announce this address: if this machine needs another one for it, set \"{address}\" = \
             \"HOST:PORT\" in [upstreams.{name}.nat], or `cluster-announce-ip` on the node"
        ),
        in_cluster: true,
        ..server(upstream, logins, address.clone())
    };
    let serving = || survey.shards.iter().filter(|shard| shard.slots > 0);
    let primaries = serving().filter_map(|shard| shard.primary.as_ref()).take(MAX_PEERS);
    let checks = primaries.map(|address| {
        let (peer, config, users) = (node(address), upstream.config.clone(), users.to_vec());
        async move { primary(peer, config, Expected::NamedPrimary, &users).await }
    });
    let mut pairs: Vec<(Address, Address)> = Vec::new();
    for shard in serving().filter(|_| reads) {
        if let Some(primary) = &shard.primary {
            pairs.extend(shard.replicas.iter().map(|replica| (primary.clone(), replica.clone())));
        }
    }
    pairs.truncate(MAX_PEERS);
    let read = pairs.into_iter().map(|(primary, replica)| {
        reading_replica(node(&replica), node(&primary), upstream.config.clone(), users.to_vec())
    });
    let (checked, read) = tokio::join!(concurrently(checks), concurrently(read));
    sections.extend(checked.into_iter().chain(read));
    sections
}

async fn by_sentinels(
    upstream: Upstream,
    logins: Logins,
    sentinels: Arc<SentinelConfig>,
    users: Vec<(String, Account)>,
    reads: bool,
) -> Vec<Section> {
    let config = &upstream.config;
    let ask = |address: Address, announced: Option<Address>| {
        ask(
            config.name.clone(),
            sentinel_peer(&upstream, &logins, &sentinels, address, announced),
            sentinels.clone(),
        )
    };
    let mut known: HashSet<Address> = HashSet::new();
    let seeds = sentinels.seeds.iter().filter(|seed| known.insert(Address::clone(seed))).take(MAX_PEERS);
    let mut asked = concurrently(seeds.map(|seed| ask(seed.clone(), None))).await;
    let learnt = learnt(&asked, &sentinels, &known);
    asked.extend(
        concurrently(learnt.into_iter().map(|(dialled, announced)| ask(dialled, Some(announced)))).await,
    );

    let (mut sections, votes): (Vec<Section>, Vec<Vote>) = asked.into_iter().unzip();
    let agreement = agreement::agree(&votes, &sentinels.primary_name, &config.name, &sentinels.nat);
    if agreement.by_majority {
        // More than half of the Sentinels name the primary, so one that fails is only a warning.
        sections.iter_mut().for_each(Section::soften);
    }
    sections.push(Section {
        subject: Subject::Sentinels,
        name: config.name.clone(),
        address: String::new(),
        findings: agreement.findings,
    });
    let Some(named) = agreement.named else {
        let why = "the Sentinels name none that could be asked";
        let steps =
            [Step::Dns, Step::Connect, Step::Tls, Step::Login, Step::Server, Step::Role, Step::Latency];
        sections.push(Section {
            subject: Subject::Primary,
            name: config.name.clone(),
            address: String::new(),
            findings: steps.map(|step| Finding::not_tried(step, why)).into(),
        });
        return sections;
    };
    let primary_peer = server(&upstream, &logins, sentinels.nat.get(&named).unwrap_or(&named).clone());
    let replicas = agreement.replicas.into_iter().filter(|replica| *replica != named).take(MAX_PEERS);
    let nodes = [(named.clone(), Expected::NamedPrimary)]
        .into_iter()
        .chain(replicas.map(|replica| (replica, Expected::Replica)))
        .map(|(announced, expected)| {
            let dialled = sentinels.nat.get(&announced).cloned();
            let peer = Peer {
                hint: nat_hint(&config.name, &announced, dialled.as_ref()),
                announced: Some(announced.clone()),
                ..server(&upstream, &logins, dialled.unwrap_or(announced))
            };
            let (config, users, primary_peer) = (config.clone(), users.clone(), primary_peer.clone());
            async move {
                if expected != Expected::Replica {
                    return primary(peer, config, expected, &users).await;
                }
                if reads {
                    return reading_replica(peer, primary_peer, config, users).await;
                }
                let mut section = node::examine(peer, config, expected, None).await;
                section.soften();
                section
            }
        });
    sections.extend(concurrently(nodes).await);
    sections
}

fn nat_hint(upstream: &str, announced: &Address, dialled: Option<&Address>) -> String {
    match dialled {
        Some(_) => format!(
            "; the address is from [upstreams.{upstream}.nat], for {announced}, which the Sentinels announce"
        ),
        None => format!(
            "; the Sentinels announce {announced} as it is known in their own network: if this machine needs another \
             address for it, set \"{announced}\" = \"HOST:PORT\" in [upstreams.{upstream}.nat]"
        ),
    }
}

/// Returns a data server with the settings that the upstream's connections use.
fn server(upstream: &Upstream, logins: &Logins, address: Address) -> Peer {
    let config = &upstream.config;
    Peer {
        credentials: logins.data.clone().unwrap_or_default(),
        no_password: logins.data.clone().err(),
        tls: upstream.tls.clone(),
        connect_limit: config.connect_timeout,
        clients_bring_their_own: config.client_auth == ClientAuth::Required,
        refused: logins.refused.clone(),
        ..Peer::new(Kind::Server, address)
    }
}

/// Returns a Sentinel with the settings that discovery uses.
fn sentinel_peer(
    upstream: &Upstream,
    logins: &Logins,
    config: &SentinelConfig,
    address: Address,
    announced: Option<Address>,
) -> Peer {
    Peer {
        credentials: logins.sentinels.clone().unwrap_or_default(),
        no_password: logins.sentinels.clone().err(),
        tls: upstream.sentinel_tls.clone(),
        connect_limit: upstream.config.connect_timeout.min(config.timeout),
        answer_limit: config.timeout,
        announced,
        ..Peer::new(Kind::Sentinel, address)
    }
}

/// Queries one Sentinel.
async fn ask(upstream: String, peer: Peer, config: Arc<SentinelConfig>) -> (Section, Vote) {
    let (mut findings, channel) = reach(&peer).await;
    let answer: Option<Answer> = match channel {
        Some(mut channel) => {
            let (finding, answer) = sentinel::ask(&mut channel, &peer, &config).await;
            findings.push(finding);
            answer
        }
        None => {
            findings.push(Finding::not_tried(Step::Sentinel, "it needs a connection that is logged in"));
            None
        }
    };
    let section =
        Section { subject: Subject::Sentinel, name: upstream, address: peer.address.to_string(), findings };
    (section, Vote { configured: peer.announced.is_none(), sentinel: peer.address, answer })
}

/// Returns the Sentinels that others know and the configuration does not name, because respgate follows these too. Each
/// pair holds the address to dial and the announced address.
fn learnt(
    asked: &[(Section, Vote)],
    config: &SentinelConfig,
    known: &HashSet<Address>,
) -> Vec<(Address, Address)> {
    let answers = || asked.iter().filter_map(|(_, vote)| vote.answer.as_ref());
    let ids: HashSet<&String> = answers().filter_map(|answer| answer.id.as_ref()).collect();
    let mut seen = known.clone();
    answers()
        .flat_map(|answer| &answer.view.others)
        .filter(|peer| peer.id.as_ref().is_none_or(|id| !ids.contains(id)))
        .map(|peer| (config.nat.get(&peer.address).unwrap_or(&peer.address).clone(), peer.address.clone()))
        .filter(|(dialled, _)| seen.insert(dialled.clone()))
        .take(MAX_PEERS)
        .collect()
}
