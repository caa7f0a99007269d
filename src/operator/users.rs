//! The users and databases that clients use at an upstream, and whether a server accepts them.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::greeted::{ANSWER_LIMIT, greeted};
use super::operators::{Operators, Steered};
use crate::net::stream::Stream;
use crate::resp::Resp;
use crate::resp::control::Control;
use crate::secret::Credentials;
use crate::topology::Address;
use crate::upstream::IdentityUse;
use crate::upstream::access::Access;

/// The number of users that are checked at the same time.
const AT_ONCE: usize = 16;

/// Returns the users that have connections now, and respgate's own users that have credentials for the upstream.
pub(super) async fn users(operators: &Operators, steered: &Steered) -> Vec<IdentityUse> {
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

/// Returns the databases in which sessions are.
pub(super) async fn databases(operators: &Operators, steered: &Steered) -> BTreeSet<u32> {
    let mut databases = BTreeSet::new();
    for worker in &operators.workers {
        databases.extend(worker.databases_in_use(steered.number).await.unwrap_or_default());
    }
    databases
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

/// Authenticates each user other than respgate's own at each address, and selects its databases.
pub(super) async fn check_users(
    addresses: &[Address],
    access: &Access,
    users: &[IdentityUse],
) -> Result<(), String> {
    let access = Arc::new(access.clone());
    let mut checks: JoinSet<Result<(), String>> = JoinSet::new();
    for used in users.iter().filter(|used| !used.is_own) {
        for address in addresses {
            if checks.len() >= AT_ONCE
                && let Some(checked) = checks.join_next().await
            {
                checked.map_err(|error| error.to_string())??;
            }
            checks.spawn(check_user(address.clone(), access.clone(), used.clone()));
        }
    }
    while let Some(checked) = checks.join_next().await {
        checked.map_err(|error| error.to_string())??;
    }
    Ok(())
}

async fn check_user(address: Address, access: Arc<Access>, used: IdentityUse) -> Result<(), String> {
    let resp = if used.resp3 { Resp::V3 } else { Resp::V2 };
    let name = used.credentials.as_deref().map_or("default", Credentials::user);
    let checked = async {
        let mut control = greeted(&address, &access, used.credentials.as_deref(), resp).await?;
        select_all(&mut control, &used.databases).await
    };
    checked.await.map_err(|why| format!("user {name:?}: {why}"))
}

/// Selects each database in turn.
pub(super) async fn select_all(
    control: &mut Control<Stream>,
    databases: &BTreeSet<u32>,
) -> Result<(), String> {
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
