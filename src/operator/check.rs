//! Asks the target of a switch whether it can take over.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::history::History;
use super::operators::{Operators, Steered};
use super::target::{DataProof, Reach, Target};
use crate::net::stream::Stream;
use crate::resp::Resp;
use crate::resp::control::Control;
use crate::resp::greeting::{Greeting, Role, greet, role_from_reply};
use crate::secret::Credentials;
use crate::topology::{Address, Topology};
use crate::upstream::IdentityUse;
use crate::upstream::access::Access;
use crate::upstream::config::UpstreamConfig;

/// The longest time that discovery may take to find the target's primary.
const FIND_LIMIT: Duration = Duration::from_secs(4);

/// The longest time that all checks of users and databases may take.
const CHECK_LIMIT: Duration = Duration::from_secs(4);

/// The longest time that a node may take for one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// The number of users that are checked at the same time.
const AT_ONCE: usize = 16;

/// The number of missing commands that are named.
const NAMED_COMMANDS: usize = 20;

/// A target whose primary was found. Connections to both servers stay open, so that the check under the hold is short.
pub(super) struct Candidate {
    /// The address of the target's primary.
    pub(super) address: Address,
    /// Follows the target.
    pub(super) reach: Reach,
    target: Control<Stream>,
    /// The present server; holds the reason if it cannot be asked.
    source: Result<Control<Stream>, String>,
    users: Vec<IdentityUse>,
    /// The way of the upstream from discovery to the workers.
    steered: Steered,
    /// True if the target names the servers that the upstream is at.
    is_same_place: bool,
}

/// Finds the primary of the target and connects to both servers.
pub(super) async fn open(
    operators: &Operators,
    steered: &Steered,
    target: &Target,
    config: &UpstreamConfig,
) -> Result<Candidate, String> {
    // Its log lines say that they are not about the address that the upstream is at.
    let reach = target.open(config, &format!("{} ({target})", config.name), &operators.ctx);
    let mut topology = reach.discovery.topology.clone();
    let found = timeout(FIND_LIMIT, topology.wait_for(|found| matches!(found, Topology::Known(_)))).await;
    let found = found.ok().and_then(|found| Some(found.ok()?.primary()?.address.clone()));
    let Some(address) = found else {
        return Err(match &*reach.discovery.topology.borrow() {
            Topology::Unknown(outage) => outage.to_string(),
            Topology::Failing(_, sign) => format!("a failover is under way there ({sign})"),
            Topology::Known(primary) => format!("{} did not answer in time", primary.address),
        });
    };
    let own = connect(&address, &reach.access).await?;
    let source = {
        let primary = steered.topology.borrow().primary().cloned();
        let access = steered.access.borrow().clone();
        match primary {
            Some(primary) => connect(&primary.address, &access).await,
            None => Err("no primary is known".into()),
        }
    };
    let users = users(operators, steered).await;
    let is_same_place = steered.target.borrow().is_same_place(target);
    let steered = steered.clone();
    Ok(Candidate { address, reach, target: own, source, users, steered, is_same_place })
}

impl Candidate {
    /// Checks users, databases and data. Returns the commands that the target lacks.
    pub(super) async fn check(&mut self, proof: DataProof) -> Result<Vec<String>, String> {
        let own_databases: BTreeSet<u32> =
            self.users.iter().filter(|used| used.is_own).flat_map(|used| used.databases.clone()).collect();
        select_all(&mut self.target, &own_databases)
            .await
            .map_err(|why| format!("respgate's own user: {why}"))?;
        let checks = check_users(&self.address, &self.reach.access, &self.users);
        match timeout(CHECK_LIMIT, checks).await {
            Ok(checked) => checked?,
            Err(_) => return Err(format!("its answers took longer than {} s", CHECK_LIMIT.as_secs())),
        }
        self.check_data(proof).await?;
        Ok(self.missing_commands().await)
    }

    /// Checks, while commands wait, that the target is a primary still and holds all data.
    pub(super) async fn verify(&mut self, proof: DataProof) -> Result<(), String> {
        match &*self.reach.discovery.topology.borrow() {
            Topology::Known(primary) if primary.address == self.address => {}
            Topology::Unknown(outage) => return Err(outage.to_string()),
            Topology::Known(_) | Topology::Failing(..) => return Err("its primary is changing".into()),
        }
        let reply = self.target.call(&[b"ROLE"], Instant::now() + ANSWER_LIMIT).await;
        let reply = reply.map_err(|error| format!("{}: {error}", self.address))?;
        match role_from_reply(&reply) {
            Some(Role::Primary { .. }) => {}
            // The user may not ask; discovery has found it to be a primary.
            None if reply.error().is_some() => {}
            _ => return Err(format!("{} is not a primary any more", self.address)),
        }
        self.check_data(proof).await
    }

    async fn check_data(&mut self, proof: DataProof) -> Result<(), String> {
        // An upstream that never had a primary has written nothing.
        let has_served = self.steered.status.borrow().has_served;
        if proof == DataProof::Stated || self.is_same_place || !has_served || self.is_same_node() {
            return Ok(());
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
        let target = history(&mut self.target).await.map_err(|why| unknown("new", &why))?;
        target.continues(&source).map_err(|broken| broken.to_string())
    }

    /// Returns true if the target's primary is the node that the upstream is at, under whichever address.
    fn is_same_node(&self) -> bool {
        let node = |topology: &Topology| topology.primary().and_then(|primary| primary.node.clone());
        let present = node(&self.steered.topology.borrow());
        present.is_some() && present == node(&self.reach.discovery.topology.borrow())
    }

    /// Returns the first [`NAMED_COMMANDS`] commands that the present server knows and the target does not. Servers before version 7
    /// do not list their commands.
    async fn missing_commands(&mut self) -> Vec<String> {
        let Ok(source) = &mut self.source else { return Vec::new() };
        let (Some(known), Some(offered)) = (commands(source).await, commands(&mut self.target).await) else {
            return Vec::new();
        };
        let mut missing: Vec<String> = known.difference(&offered).cloned().collect();
        missing.sort();
        missing.truncate(NAMED_COMMANDS);
        missing
    }
}

/// Connects as respgate itself, and checks that the node is a primary.
async fn connect(address: &Address, access: &Access) -> Result<Control<Stream>, String> {
    let credentials = access.login.newest_within(ANSWER_LIMIT).await.map_err(|why| why.to_string())?;
    let mut control = greeted(address, access, credentials.as_deref(), Resp::V2).await?;
    control.set_resp(Resp::V2);
    Ok(control)
}

async fn greeted(
    address: &Address,
    access: &Access,
    credentials: Option<&Credentials>,
    resp: Resp,
) -> Result<Control<Stream>, String> {
    let stream = access.dialer.dial(address).await.map_err(|error| error.to_string())?;
    let mut control = Control::new(stream);
    let denied = access.login.denied(credentials);
    let greeting = Greeting { denied: Some(&denied), redirect: false, ..Greeting::new(credentials, resp, 0) };
    let greeted = greet(&mut control, &greeting, Instant::now() + ANSWER_LIMIT).await;
    match greeted.map_err(|error| format!("{address}: {error}"))?.role {
        Some(Role::Primary { .. }) | None => Ok(control),
        Some(_) => Err(format!("{address} is not a primary")),
    }
}

/// Returns the users that have connections now, and respgate's own users that have credentials for the upstream.
async fn users(operators: &Operators, steered: &Steered) -> Vec<IdentityUse> {
    let mut users: Vec<IdentityUse> = Vec::new();
    for worker in &operators.workers {
        for used in worker.identities_in_use(steered.number).await.unwrap_or_default() {
            add(&mut users, used);
        }
    }
    let configured = operators.tenants.borrow().users.clone();
    for user in configured.iter().flat_map(|users| users.all()) {
        if let Some(Ok(Some(credentials))) =
            user.login(&steered.config.borrow().name).map(|login| login.newest())
        {
            let databases = BTreeSet::new();
            add(
                &mut users,
                IdentityUse { credentials: Some(credentials), is_own: false, databases, resp3: false },
            );
        }
    }
    users
}

/// Adds the databases of `used` to those of the same user.
fn add(users: &mut Vec<IdentityUse>, used: IdentityUse) {
    let same = |known: &&mut IdentityUse| {
        known.is_own == used.is_own && (used.is_own || known.credentials == used.credentials)
    };
    match users.iter_mut().find(same) {
        Some(known) => {
            known.databases.extend(used.databases);
            known.resp3 |= used.resp3;
        }
        None => users.push(used),
    }
}

/// Authenticates each user other than respgate's own, and selects its databases.
async fn check_users(address: &Address, access: &Access, users: &[IdentityUse]) -> Result<(), String> {
    let access = Arc::new((address.clone(), access.clone()));
    let mut checks: JoinSet<Result<(), String>> = JoinSet::new();
    for used in users.iter().filter(|used| !used.is_own).cloned() {
        if checks.len() >= AT_ONCE
            && let Some(checked) = checks.join_next().await
        {
            checked.map_err(|error| error.to_string())??;
        }
        let access = access.clone();
        checks.spawn(async move {
            let (address, access) = &*access;
            let resp = if used.resp3 { Resp::V3 } else { Resp::V2 };
            let name = used.credentials.as_deref().map_or("default", Credentials::user);
            let checked = async {
                let mut control = greeted(address, access, used.credentials.as_deref(), resp).await?;
                select_all(&mut control, &used.databases).await
            };
            checked.await.map_err(|why| format!("user {name:?}: {why}"))
        });
    }
    while let Some(checked) = checks.join_next().await {
        checked.map_err(|error| error.to_string())??;
    }
    Ok(())
}

/// Selects each database in turn.
async fn select_all(control: &mut Control<Stream>, databases: &BTreeSet<u32>) -> Result<(), String> {
    for database in databases.iter().filter(|database| **database != 0) {
        let mut digits = itoa::Buffer::new();
        let words: [&[u8]; 2] = [b"SELECT", digits.format(*database).as_bytes()];
        let reply =
            control.call(&words, Instant::now() + ANSWER_LIMIT).await.map_err(|error| error.to_string())?;
        if let Some(line) = reply.error() {
            return Err(format!(
                "clients use database {database}, which it refuses: {}",
                line.escape_ascii()
            ));
        }
    }
    Ok(())
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
