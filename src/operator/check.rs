//! Asks the target of a switch whether it can take over.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::greeted::{ANSWER_LIMIT, connect, is_primary};
use super::history::History;
use super::operators::{Operators, Steered};
use super::primaries;
use super::target::{DataProof, Reach, Target};
use super::users::{self, check_users, select_all};
use crate::net::stream::Stream;
use crate::resp::control::Control;
use crate::topology::Address;
use crate::upstream::IdentityUse;
use crate::upstream::access::Access;
use crate::upstream::config::UpstreamConfig;

/// The longest time that discovery may take to find the target's primary.
const FIND_LIMIT: Duration = Duration::from_secs(4);

/// The longest time that all checks of users and databases may take.
const CHECK_LIMIT: Duration = Duration::from_secs(4);

/// The number of nodes that are connected to at the same time.
const AT_ONCE: usize = 16;

/// The number of missing commands that are named.
const NAMED_COMMANDS: usize = 20;

/// A target whose primary was found, or the primaries of its shards. Connections to all servers stay open, so that the check under the
/// hold is short.
pub(super) struct Candidate {
    /// The address of the target's primary, or of that of its home shard.
    pub(super) address: Address,
    /// Follows the target.
    pub(super) reach: Reach,
    /// The connections to the primaries of the target, the home shard's first.
    nodes: Vec<(Address, Control<Stream>)>,
    /// The present server; holds the reason if it cannot be asked.
    source: Result<Control<Stream>, String>,
    users: Vec<IdentityUse>,
    /// The way of the upstream from discovery to the workers.
    steered: Steered,
    /// True if the target names the servers that the upstream is at.
    is_same_place: bool,
    /// The databases in which sessions are, or start.
    databases: BTreeSet<u32>,
}

/// Finds the primaries of the target and connects to all servers.
pub(super) async fn open(
    operators: &Operators,
    steered: &Steered,
    target: &Target,
    config: &UpstreamConfig,
) -> Result<Candidate, String> {
    // Its log lines say that they are not about the address that the upstream is at.
    let mut reach = target.open(config, &format!("{} ({target})", config.name), &operators.ctx);
    let _ = timeout(FIND_LIMIT, found(&mut reach)).await;
    let addresses = found_now(&reach)?;
    let nodes = timeout(CHECK_LIMIT, connect_all(&addresses, &reach.access)).await;
    let nodes = nodes.unwrap_or_else(|_| Err(too_long()))?;
    let source = {
        let primary = steered.topology.borrow().primary().cloned();
        let access = steered.access.borrow().clone();
        match primary {
            Some(primary) => connect(&primary.address, &access).await,
            None => Err("no primary is known".into()),
        }
    };
    let users = users::users(operators, steered).await;
    let is_same_place = steered.target.borrow().is_same_place(target);
    let Some(address) = addresses.first().cloned() else { return Err("it has no primary".into()) };
    let mut databases = users::databases(operators, steered).await;
    databases.insert(config.database);
    let steered = steered.clone();
    Ok(Candidate { address, reach, nodes, source, users, steered, is_same_place, databases })
}

/// Returns the present primaries of a target.
fn found_now(reach: &Reach) -> Result<Vec<Address>, String> {
    let cluster = reach.discovery.cluster.as_ref().map(|cluster| cluster.borrow().clone());
    let primaries = primaries::of(&reach.discovery.topology.borrow(), cluster.as_deref())?;
    Ok(primaries.iter().map(|primary| primary.address.clone()).collect())
}

/// Waits until every primary of a target is found.
async fn found(reach: &mut Reach) {
    while found_now(reach).is_err() {
        let discovery = &mut reach.discovery;
        let changed = async {
            match &mut discovery.cluster {
                Some(cluster) => cluster.changed().await,
                None => std::future::pending().await,
            }
        };
        let changed = tokio::select! {
            changed = discovery.topology.changed() => changed,
            changed = changed => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Connects to every node as respgate itself.
async fn connect_all(
    addresses: &[Address],
    access: &Access,
) -> Result<Vec<(Address, Control<Stream>)>, String> {
    let mut nodes = Vec::with_capacity(addresses.len());
    for some in addresses.chunks(AT_ONCE) {
        let mut connecting = Vec::with_capacity(some.len());
        for address in some {
            let (address, access) = (address.clone(), access.clone());
            connecting.push(async move { Ok((address.clone(), connect(&address, &access).await?)) });
        }
        nodes.extend(all_of(connecting).await?);
    }
    Ok(nodes)
}

/// Runs all futures at the same time. Returns their results in order.
async fn all_of<T: Send + 'static>(
    futures: Vec<impl Future<Output = Result<T, String>> + Send + 'static>,
) -> Result<Vec<T>, String> {
    let mut running = JoinSet::new();
    for (place, future) in futures.into_iter().enumerate() {
        running.spawn(async move { (place, future.await) });
    }
    let mut results = Vec::with_capacity(running.len());
    while let Some(ended) = running.join_next().await {
        let (place, result) = ended.map_err(|error| error.to_string())?;
        results.push((place, result?));
    }
    results.sort_by_key(|(place, _)| *place);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}

fn too_long() -> String {
    format!("its answers took longer than {} s", CHECK_LIMIT.as_secs())
}

impl Candidate {
    /// Checks users, databases and data. Returns the commands that the target lacks.
    pub(super) async fn check(&mut self, proof: DataProof) -> Result<Vec<String>, String> {
        let mut databases: BTreeSet<u32> =
            self.users.iter().filter(|used| used.is_own).flat_map(|used| used.databases.clone()).collect();
        if self.is_cluster() {
            // Most clusters have one database only, so unused connections in others are no obstacle.
            databases.clone_from(&self.databases);
            let kept = &self.databases;
            self.users.iter_mut().for_each(|used| used.databases.retain(|number| kept.contains(number)));
        }
        let addresses: Vec<Address> = self.nodes.iter().map(|(address, _)| address.clone()).collect();
        let selected = async {
            for (_, node) in &mut self.nodes {
                let checked = select_all(node, &databases).await;
                checked.map_err(|why| format!("respgate's own user: {why}"))?;
            }
            check_users(&addresses, &self.reach.access, &self.users).await
        };
        timeout(CHECK_LIMIT, selected).await.unwrap_or_else(|_| Err(too_long()))?;
        self.check_data(proof).await?;
        Ok(self.missing_commands().await)
    }

    /// Returns true if the target is a cluster.
    fn is_cluster(&self) -> bool {
        self.reach.discovery.cluster.is_some()
    }

    /// Checks, while commands wait, that every node of the target is a primary still, and that they hold all data.
    pub(super) async fn verify(&mut self, proof: DataProof) -> Result<(), String> {
        let (mut now, mut before) = (found_now(&self.reach)?, Vec::new());
        before.extend(self.nodes.iter().map(|(address, _)| address.clone()));
        now.sort_by_cached_key(ToString::to_string);
        before.sort_by_cached_key(ToString::to_string);
        if now != before {
            return Err("its primary is changing".into());
        }
        let mut asking = Vec::with_capacity(self.nodes.len());
        for (address, mut node) in std::mem::take(&mut self.nodes) {
            asking.push(async move {
                is_primary(&address, &mut node).await?;
                Ok((address, node))
            });
        }
        self.nodes = all_of(asking).await?;
        self.check_data(proof).await
    }

    async fn check_data(&mut self, proof: DataProof) -> Result<(), String> {
        // An upstream that never had a primary has written nothing.
        let has_served = self.steered.status.borrow().has_served;
        if proof == DataProof::Stated || self.is_same_place || !has_served || self.are_same_nodes() {
            return Ok(());
        }
        let present = self.steered.cluster.borrow().is_some();
        if present || self.is_cluster() {
            return Err(format!(
                "whether it continues the data cannot be checked, because {} a cluster, which has no replication history as a whole; state --data-copied if the data was copied",
                if present { "the upstream is" } else { "it is" }
            ));
        }
        let unknown = |which: &str, why: &str| {
            format!(
                "whether it continues the data cannot be checked, because the {which} server does not tell its replication history ({why}); state --data-copied if the data was copied"
            )
        };
        // The present server first: its history only grows.
        let source = match &mut self.source {
            Ok(control) => history(control).await,
            Err(why) => Err(why.clone()),
        };
        let source = source.map_err(|why| unknown("present", &why))?;
        let Some((_, target)) = self.nodes.first_mut() else { return Err(unknown("new", "it is gone")) };
        let target = history(target).await.map_err(|why| unknown("new", &why))?;
        target.continues(&source).map_err(|broken| broken.to_string())
    }

    /// Returns true if the primaries of the target are the nodes that the upstream is at, under whichever addresses.
    fn are_same_nodes(&self) -> bool {
        let present = self.steered.cluster.borrow().clone();
        let target = self.reach.discovery.cluster.as_ref().map(|cluster| cluster.borrow().clone());
        primaries::are_same_nodes(
            (&self.steered.topology.borrow(), present.as_deref()),
            (&self.reach.discovery.topology.borrow(), target.as_deref()),
        )
    }

    /// Returns the first [`NAMED_COMMANDS`] commands that the present server knows and the target does not. Servers before version 7
    /// do not list their commands.
    async fn missing_commands(&mut self) -> Vec<String> {
        let Ok(source) = &mut self.source else { return Vec::new() };
        let Some((_, target)) = self.nodes.first_mut() else { return Vec::new() };
        let (Some(known), Some(offered)) = (commands(source).await, commands(target).await) else {
            return Vec::new();
        };
        let mut missing: Vec<String> = known.difference(&offered).cloned().collect();
        missing.sort();
        missing.truncate(NAMED_COMMANDS);
        missing
    }
}

async fn history(control: &mut Control<Stream>) -> Result<History, String> {
    let reply = control.call(&[b"INFO", b"replication"], Instant::now() + ANSWER_LIMIT).await;
    let reply = reply.map_err(|error| error.to_string())?;
    match (reply.text(), reply.error()) {
        (_, Some(line)) => Err(line.escape_ascii().to_string()),
        (Some(info), None) => History::from_info(info).ok_or_else(|| "INFO lacks it".into()),
        (None, None) => Err("INFO is no text".into()),
    }
}

/// Returns the names of the server's commands; `None` if it does not list them.
async fn commands(control: &mut Control<Stream>) -> Option<HashSet<String>> {
    let reply = control.call(&[b"COMMAND", b"LIST"], Instant::now() + ANSWER_LIMIT).await.ok()?;
    let names = reply.elements()?.iter().filter_map(|name| name.text().map(str::to_owned));
    Some(names.collect())
}
