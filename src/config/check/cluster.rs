//! Refuses what cannot work with a cluster.

use super::super::report::Report;
use super::super::setting::Setting;
use crate::topology::Address;
use crate::upstream::config::Pool;

/// Checks the settings of an upstream that is a cluster.
pub(super) fn check(
    replicas: &Setting<Vec<Address>>,
    pool: &Setting<Pool>,
    database: &Setting<u32>,
    report: &mut Report,
) {
    if let Some(place) = replicas.place() {
        report.error(place, "the nodes of the cluster name the replicas; leave it out");
    }
    if let Setting::Given(Pool::Session, place) = pool {
        report.error(
            place,
            "\"session\" gives each client one connection, and a client of a cluster needs several; leave it out",
        );
    }
    if let Setting::Given(number, place) = database
        && *number > 0
    {
        report.warn(
            place,
            "most clusters have database 0 only; others need Valkey 9.0 or later with its `cluster-databases`",
        );
    }
}
