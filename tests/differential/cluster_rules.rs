//! The differences that are tolerated when a cluster stands behind respgate; see `rules.rs`.

use respgate::command::{Flags, RouteClass};

use crate::rules::{Effect, Origin, Rule};
use crate::seen::Seen;
use crate::slots::in_several;
use crate::value::Item;

/// Commands that concern all shards outside of a transaction, and only the node of its keys inside.
pub const ALL_SHARDS: &[&str] = &[
    "DBSIZE",
    "KEYS",
    "RANDOMKEY",
    "SCAN",
    "FLUSHALL",
    "FLUSHDB",
    "SCRIPT|LOAD",
    "SCRIPT|FLUSH",
    "SCRIPT|EXISTS",
    "FUNCTION|LOAD",
    "FUNCTION|DELETE",
    "FUNCTION|FLUSH",
    "FUNCTION|RESTORE",
];

/// The rules of a cluster, in the order in which they are tried, after those of any server.
pub const CLUSTER_RULES: &[Rule] = &[
    Rule {
        name: "Keys in several slots",
        origin: Origin::Cluster,
        reason: "A command with keys in several slots gets `-CROSSSLOT Keys in request don't hash to the same slot`, unless respgate can \
                 divide it ([Clusters](cluster.md#commands-with-keys-in-several-slots)). So does a command in a transaction, or a \
                 `WATCH`, whose keys belong to another slot than those before.",
        effect: Effect::Parts,
        covers: |seen| crosses_slots(seen) && !fails_both_ways(seen),
    },
    Rule {
        name: "Keys in several slots, and another error",
        origin: Origin::Cluster,
        reason: "Servers of a cluster check the slots of the keys first. A command that is wrong in another way too gets `-CROSSSLOT …` for that \
                 reason, and not the error of a single server.",
        effect: Effect::GoesOn,
        covers: |seen| crosses_slots(seen) && fails_both_ways(seen),
    },
    Rule {
        name: "One database",
        origin: Origin::Cluster,
        reason: "The servers of a cluster have one database, unless Valkey 9 is told otherwise by `cluster-databases`. `SELECT`, `MOVE`, `SWAPDB` and \
                 `COPY … DB` give the errors of a server of a cluster, in scripts too. The test compares them with a server that has one database.",
        effect: Effect::GoesOn,
        covers: |seen| {
            // A server exchanges database 0 with itself.
            let nothing_done = seen.is(&["SWAPDB"]);
            names_cluster_mode(seen) && (fails_both_ways(seen) || nothing_done)
        },
    },
    Rule {
        name: "`SORT` by other keys",
        origin: Origin::Cluster,
        reason: "The servers of a cluster refuse `BY` and `GET` of `SORT` with patterns, which may name keys of other nodes.",
        effect: Effect::Parts,
        covers: |seen| {
            seen.is(&["SORT", "SORT_RO"])
                && (seen.through_says("ERR BY option of SORT denied in")
                    || seen.through_says("ERR GET option of SORT denied in"))
        },
    },
    Rule {
        name: "Scripts and the keys of other nodes",
        origin: Origin::Cluster,
        reason: "A script may use keys of its own node only, and functions and newer scripts keys of one slot only. The server refuses others.",
        effect: Effect::Parts,
        covers: |seen| {
            let texts = [
                "ttempted to access a non local key",
                "ttempted to access keys that do not hash to the same slot",
            ];
            let script = seen.spec.is_some_and(|spec| spec.flags.contains(Flags::SCRIPT));
            script && texts.iter().any(|text| through_contains(seen, text))
        },
    },
    Rule {
        name: "Scripts that only one node has run",
        origin: Origin::Cluster,
        reason: "`EVALSHA` finds scripts of `SCRIPT LOAD` at every node, and those of `EVAL` at the node that ran it. `SCRIPT EXISTS` says 1 for a \
                 script that every primary has, and `SCRIPT SHOW` asks one node.",
        effect: Effect::Parts,
        covers: |seen| {
            seen.is(&["EVALSHA", "EVALSHA_RO", "SCRIPT|SHOW"]) && seen.through_says("NOSCRIPT")
                || seen.is(&["SCRIPT|EXISTS"]) && seen.both_answer()
        },
    },
    Rule {
        name: "`CLIENT TRACKING` in a cluster",
        origin: Origin::Cluster,
        reason: "respgate refuses `CLIENT TRACKING`, because a connection hears of the keys of one node only.",
        effect: Effect::Parts,
        covers: |seen| {
            seen.is(&["CLIENT|TRACKING"])
                && seen.through_says("ERR respgate: CLIENT TRACKING is not possible in a cluster")
        },
    },
    Rule {
        name: "State on the connection to another node",
        origin: Origin::Cluster,
        reason: "A client with watched keys, `SUBSCRIBE` in RESP3 or a transaction has a connection to one node. respgate refuses commands that need \
                 a connection of their own to another node.",
        effect: Effect::Parts,
        covers: |seen| {
            seen.through_says(
                "ERR respgate: the keys of this command belong to another node than the state on the client",
            )
        },
    },
    Rule {
        name: "Commands without keys in a transaction",
        origin: Origin::Cluster,
        reason: "A transaction runs at the node of its keys. So commands such as `KEYS` and `DBSIZE` show that node only, and `PUBLISH` counts its \
                 subscribers only.",
        effect: Effect::GoesOn,
        covers: |seen| {
            let read = [
                "DBSIZE",
                "KEYS",
                "RANDOMKEY",
                "SCAN",
                "PUBLISH",
                "SPUBLISH",
                "SCRIPT|EXISTS",
                "FUNCTION|LIST",
                "FUNCTION|DUMP",
            ];
            let counts = seen.spec.is_some_and(|spec| spec.name.starts_with("PUBSUB|"));
            seen.executed && (counts || seen.is(&read)) && seen.both_answer()
        },
    },
    Rule {
        name: "`PUBLISH` in scripts",
        origin: Origin::Cluster,
        reason: "A script runs at the node of its keys, and so its `PUBLISH` counts the subscribers there. respgate subscribes at the home shard. The \
                 message reaches all subscribers.",
        effect: Effect::GoesOn,
        covers: |seen| {
            let script = seen.spec.is_some_and(|spec| spec.flags.contains(Flags::SCRIPT));
            script
                && seen.request.iter().any(|word| word.windows(7).any(|part| part == b"PUBLISH"))
                && seen.integers().is_some_and(|(direct, through)| through < direct)
        },
    },
    Rule {
        name: "The order of ended subscriptions",
        origin: Origin::Test,
        reason: "`UNSUBSCRIBE`, `PUNSUBSCRIBE` and `SUNSUBSCRIBE` without names end all subscriptions, in the order of a hash table, which differs from \
                 process to process.",
        effect: Effect::GoesOn,
        covers: |seen| {
            let all =
                seen.is(&["UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE", "RESET"]) && seen.request.len() == 1;
            all && seen.values().is_some_and(|(direct, through)| {
                let (Some([kind, _, count]), Some([other, _, left])) = (direct.members(), through.members())
                else {
                    return false;
                };
                kind == other && count == left
            })
        },
    },
    Rule {
        name: "Parameters of the servers",
        origin: Origin::Test,
        reason: "The nodes of a cluster have other ports, folders and parameters than the server that the test compares them with.",
        effect: Effect::GoesOn,
        covers: |seen| seen.cluster && seen.is(&["CONFIG|GET"]) && seen.both_answer(),
    },
];

fn crosses_slots(seen: &Seen<'_>) -> bool {
    seen.through_error() == Some(b"CROSSSLOT Keys in request don't hash to the same slot")
        && (seen.bound || in_several(seen.request))
}

fn fails_both_ways(seen: &Seen<'_>) -> bool {
    let error = |item: &Item| matches!(item, Item::Frame(value) if value.error().is_some());
    error(seen.direct) && error(seen.through)
}

fn names_cluster_mode(seen: &Seen<'_>) -> bool {
    through_contains(seen, "cluster mode") || through_contains(seen, "another database")
}

fn through_contains(seen: &Seen<'_>, text: &str) -> bool {
    seen.cluster && seen.through_error().is_some_and(|error| String::from_utf8_lossy(error).contains(text))
}

/// Returns true if a command has its keys in script texts, or concerns other nodes than the one that runs it, so that it may do
/// other things than on one server.
pub fn depends_on_its_node(spec: &respgate::command::Spec) -> bool {
    spec.flags.contains(Flags::SCRIPT) || spec.name.starts_with("SORT") || spec.route == RouteClass::Admin
}
