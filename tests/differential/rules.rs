//! Every difference that is tolerated, with its reason. What no rule covers is a fault. `docs/differences.md` is made of
//! these rules.

use respgate::command::{self, Flags, RouteClass, Spec, Trace, Verb};

use crate::cluster_rules::{ALL_SHARDS, CLUSTER_RULES, depends_on_its_node};
use crate::lane::AdminLevel;
use crate::requests::{LEFT_OUT, NEVER_DRAWN};
use crate::seen::{
    Seen, confirms_nothing, in_order, same_client, same_libraries, same_parameters, without_id,
    without_stream_times,
};
use crate::support::servers::Flavor;
use crate::value::{Item, Value};

/// What becomes of a session after a difference that a rule covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It goes on: only this frame differs.
    GoesOn,
    /// It ends: the state of the client or the data differs from here on.
    Parts,
}

/// Where a difference comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// respgate: its users see it.
    Respgate,
    /// A cluster behind respgate: its users see it.
    Cluster,
    /// The test: it also stands between two runs without respgate.
    Test,
}

/// A documented difference.
pub struct Rule {
    /// What differs, as a heading.
    pub name: &'static str,
    pub origin: Origin,
    /// How and why it differs, in whole sentences.
    pub reason: &'static str,
    pub effect: Effect,
    pub covers: fn(&Seen<'_>) -> bool,
}

/// Commands whose replies depend on the clock, on chance, on memory, or on what else the server does.
const UNSTEADY: &[&str] = &[
    "TIME",
    "ROLE",
    "SCAN",
    "RANDOMKEY",
    "LASTSAVE",
    "INFO",
    "MEMORY|USAGE",
    "MEMORY|STATS",
    "MEMORY|DOCTOR",
    "MEMORY|MALLOC-STATS",
    "LATENCY|DOCTOR",
    "LATENCY|GRAPH",
    "LATENCY|HISTOGRAM",
    "LATENCY|HISTORY",
    "LATENCY|LATEST",
    "LATENCY|RESET",
    "SLOWLOG|GET",
    "SLOWLOG|LEN",
    "ACL|GENPASS",
    "ACL|LOG",
    "CLIENT|LIST",
    "FUNCTION|STATS",
    "OBJECT|IDLETIME",
    "OBJECT|FREQ",
    "SRANDMEMBER",
    "HRANDFIELD",
    "ZRANDMEMBER",
];

/// Commands that give the members of a hash table in its order.
const UNORDERED: &[&str] = &[
    "KEYS",
    "SCAN",
    "SSCAN",
    "HSCAN",
    "ZSCAN",
    "SMEMBERS",
    "SUNION",
    "SINTER",
    "SDIFF",
    "HGETALL",
    "HKEYS",
    "HVALS",
    "COMMAND",
    "COMMAND|LIST",
    "COMMAND|DOCS",
    "COMMAND|INFO",
    "ACL|CAT",
    "PUBSUB|CHANNELS",
    "PUBSUB|SHARDCHANNELS",
    "FUNCTION|LIST",
];

/// Administrative commands that respgate always answers or passes on at `admin-commands = "read-only"`.
const SHOWN: &[&str] = &[
    "LATENCY|DOCTOR",
    "LATENCY|GRAPH",
    "LATENCY|HISTOGRAM",
    "LATENCY|HISTORY",
    "LATENCY|LATEST",
    "MODULE|LIST",
    "CLIENT|LIST",
];

/// The rules, in the order in which they are tried.
pub const RULES: &[Rule] = &[
    Rule {
        name: "Connection numbers",
        origin: Origin::Respgate,
        reason: "`CLIENT ID`, and `id` in the reply to `HELLO`, are respgate's own numbers and not the server's, because \
                 a client keeps its number when a failover changes its connection to the server.",
        effect: Effect::GoesOn,
        covers: |seen| {
            if seen.is(&["CLIENT|ID"]) {
                return seen.integers().is_some();
            }
            seen.is(&["HELLO"])
                && seen.values().is_some_and(|(direct, through)| without_id(direct) == without_id(through))
        },
    },
    Rule {
        name: "`CLIENT INFO`",
        origin: Origin::Respgate,
        reason: "respgate answers `CLIENT INFO` itself, because the server knows respgate's connections and not its clients. Name, user, \
                 database, protocol version and library are the same as on the server. The other fields describe the client's connection \
                 to respgate, or are 0 where only the server knows them.",
        effect: Effect::GoesOn,
        covers: |seen| {
            seen.is(&["CLIENT|INFO"])
                && seen.both_answer()
                && seen.values().is_some_and(|(direct, through)| same_client(direct, through))
        },
    },
    Rule {
        name: "Clock, chance and memory",
        origin: Origin::Test,
        reason: "The replies of these commands depend on the time, on random numbers, on memory, or on the other connections of the \
                 server. The test compares their type.",
        effect: Effect::GoesOn,
        covers: |seen| seen.is(UNSTEADY) && seen.both_answer(),
    },
    Rule {
        name: "Order in hash tables",
        origin: Origin::Test,
        reason: "The order of keys, members and function libraries depends on the history of the server's hash table. The test compares \
                 everything but the order.",
        effect: Effect::GoesOn,
        covers: |seen| {
            seen.values().is_some_and(|(direct, through)| {
                direct != through
                    && (seen.is(UNORDERED) && in_order(direct) == in_order(through)
                        || seen.is(&["FUNCTION|DUMP"]) && same_libraries(direct, through))
            })
        },
    },
    Rule {
        name: "`SPOP`",
        origin: Origin::Test,
        reason: "`SPOP` removes random members, so the data differs afterwards. The test ends the session.",
        effect: Effect::Parts,
        covers: |seen| seen.is(&["SPOP"]) && seen.both_answer(),
    },
    Rule {
        name: "Messages by several patterns",
        origin: Origin::Test,
        reason: "A subscriber receives a message once for each of its patterns that match the channel. The order is the order of a hash table of \
                 the server. The test compares the channel and the text.",
        effect: Effect::GoesOn,
        covers: |seen| {
            seen.values().is_some_and(|(direct, through)| {
                let (Some(direct), Some(through)) = (direct.members(), through.members()) else {
                    return false;
                };
                let by_pattern = direct.first().and_then(Value::text) == Some(b"pmessage");
                by_pattern && direct.first() == through.first() && direct.get(2..) == through.get(2..)
            })
        },
    },
    Rule {
        name: "Time to live",
        origin: Origin::Test,
        reason: "A time to live depends on the time at which a command set it. The test accepts a difference of two seconds.",
        effect: Effect::GoesOn,
        covers: |seen| {
            let most = match () {
                () if seen.is(&["TTL", "EXPIRETIME"]) => 2,
                () if seen.is(&["PTTL", "PEXPIRETIME"]) => 2_000,
                () => return false,
            };
            seen.integers().is_some_and(|(direct, through)| {
                direct > 0 && through > 0 && direct.abs_diff(through) <= most
            })
        },
    },
    Rule {
        name: "Times in streams",
        origin: Origin::Test,
        reason: "A stream keeps the times at which a consumer was last seen and an entry was last delivered. The test compares \
                 everything but these times.",
        effect: Effect::GoesOn,
        covers: |seen| {
            seen.is(&["XPENDING", "XINFO|STREAM", "XINFO|CONSUMERS", "XINFO|GROUPS"])
                && seen.values().is_some_and(|(direct, through)| {
                    without_stream_times(direct) == without_stream_times(through)
                })
        },
    },
    Rule {
        name: "`DUMP`",
        origin: Origin::Test,
        reason: "The dump of a stream contains the times of its consumers, and the dump of a large set or hash has the order of its hash \
                 table. The test compares the type and the length.",
        effect: Effect::GoesOn,
        covers: |seen| {
            seen.is(&["DUMP"])
                && seen.values().is_some_and(|(direct, through)| {
                    // Set, hash, and three formats of streams.
                    let varies = |dump: &&[u8]| matches!(dump.first(), Some(2 | 4 | 15 | 19 | 21));
                    let facts = |value: &Value| value.text().filter(varies).map(|dump| (dump[0], dump.len()));
                    facts(direct).is_some() && facts(direct) == facts(through)
                })
        },
    },
    Rule {
        name: "`CLIENT LIST`",
        origin: Origin::Respgate,
        reason: "respgate answers `CLIENT LIST` itself: it shows its clients, and the server's connections that are not its own. It takes the \
                 filters of Valkey 9 with every server, and a user that does not exist is no error.",
        effect: Effect::GoesOn,
        covers: |seen| {
            seen.is(&["CLIENT|LIST"])
                && seen.admin != AdminLevel::Deny
                && !seen.queued
                && (seen.both_answer() || seen.direct_says("ERR "))
        },
    },
    Rule {
        name: "Administrative commands",
        origin: Origin::Respgate,
        reason: "respgate refuses administrative commands with the server's own `-NOPERM … has no permissions to run the '…' command`, and \
                 adds the setting that causes it, because one client would act on all clients of the server. At `admin-commands = \"deny\"` it refuses all of them. At \
                 `\"read-only\"` it passes on `LATENCY DOCTOR`, `GRAPH`, `HISTOGRAM`, `HISTORY` and `LATEST`, and `MODULE LIST`, and answers `CLIENT LIST`. It also \
                 passes on `GET` and `LEN` of `SLOWLOG` and `COMMANDLOG` where the server has one user: these logs show the \
                 commands of all users.",
        effect: Effect::GoesOn,
        covers: |seen| {
            let level = seen.admin;
            let Some(spec) = seen.spec.filter(|spec| spec.route == RouteClass::Admin) else { return false };
            if level == AdminLevel::Allow || level == AdminLevel::ReadOnly && SHOWN.contains(&spec.name) {
                return false;
            }
            let name = spec.name.to_ascii_lowercase();
            // Redis 7.0 does not name the user.
            ["this user", "User default"].iter().any(|user| {
                let text = format!(
                    "NOPERM {user} has no permissions to run the '{name}' command (respgate: admin-commands = \"{}\")",
                    level.name()
                );
                seen.through_error() == Some(text.as_bytes())
            })
        },
    },
    Rule {
        name: "`CONFIG GET`",
        origin: Origin::Respgate,
        reason: "Some parameters are secrets. At `admin-commands = \"deny\"`, respgate answers with an empty list unless every name is on a \
                 short list of harmless parameters. At `\"read-only\"`, it leaves out passwords, users, key files, ACL files and \
                 parameters that it does not know, and it writes each name in lower case and in the server's own order.",
        effect: Effect::GoesOn,
        covers: |seen| {
            let Some((direct, through)) = seen.values().filter(|_| seen.is(&["CONFIG|GET"])) else {
                return false;
            };
            match seen.admin {
                AdminLevel::Deny => seen.both_answer() && through.members().is_some_and(<[Value]>::is_empty),
                AdminLevel::ReadOnly => seen.both_answer() && same_parameters(direct, through),
                AdminLevel::Allow => false,
            }
        },
    },
    Rule {
        name: "`UNSUBSCRIBE` without a subscription",
        origin: Origin::Respgate,
        reason: "Valkey 8.0 answers `-NOSUB`. respgate answers what all other versions answer, a confirmation with the count 0, because \
                 it answers itself and libraries expect the confirmation.",
        effect: Effect::Parts,
        covers: |seen| {
            let refused = seen.direct_says("NOSUB");
            seen.flavor == Flavor::Valkey && (refused || confirms_nothing(seen.through))
        },
    },
    Rule {
        name: "Commands of newer servers",
        origin: Origin::Respgate,
        reason: "respgate answers `CLIENT SETINFO`, `CLIENT CAPA` and `CLIENT MAINT_NOTIFICATIONS` whether the server knows them or not. Before it passes a command on that the \
                 server is too old for, it checks the number of arguments and what the connection may do, and so may refuse it for another \
                 reason than the server.",
        effect: Effect::GoesOn,
        covers: |seen| {
            let unknown =
                seen.direct_says("ERR unknown subcommand") || seen.direct_says("ERR unknown command");
            let refused = [
                "ERR wrong number",
                "ERR respgate: this command is not possible inside",
                "ERR This instance has cluster support disabled",
                "ERR Can't execute",
            ];
            // The table has the number of arguments that the newest server takes.
            let stricter = seen.direct_says("ERR wrong number")
                && (seen.through_says("ERR Can't execute")
                    || seen.through_says("ERR This instance has cluster support disabled"))
                && seen.spec.is_some_and(|spec| command::arity_ok(spec, seen.request.len() as u32));
            // Of a container that the server lacks, respgate names the subcommand.
            let container =
                seen.direct_says("ERR unknown command") && seen.through_says("ERR unknown subcommand");
            stricter
                || container
                || unknown
                    && seen.spec.is_some()
                    && (seen.is(&["CLIENT|SETINFO", "CLIENT|CAPA", "CLIENT|MAINT_NOTIFICATIONS"])
                        || refused.iter().any(|text| seen.through_says(text)))
        },
    },
    Rule {
        name: "Scripts that the server does not know",
        origin: Origin::Respgate,
        reason: "respgate tells a server the scripts that clients have sent by `EVAL` and `SCRIPT LOAD`, so that none is missing after a failover. \
                 So `EVALSHA` can find a script that the server itself never ran, for example because its transaction was discarded.",
        effect: Effect::Parts,
        covers: |seen| {
            // For each script: the server knows it, or only respgate does.
            let known = |value: &Value| value.members().map(<[Value]>::to_vec).unwrap_or_default();
            let more = |(direct, through): (&Value, &Value)| {
                let (direct, through) = (known(direct), known(through));
                direct.len() == through.len()
                    && direct.iter().zip(&through).all(|(left, right)| left <= right)
            };
            seen.direct_says("NOSCRIPT") && seen.is(&["EVALSHA", "EVALSHA_RO", "SCRIPT|SHOW"])
                || seen.is(&["SCRIPT|EXISTS"]) && seen.both_answer() && seen.values().is_some_and(more)
        },
    },
    Rule {
        name: "`HELLO` that fails",
        origin: Origin::Respgate,
        reason: "Redis 7.0 sets the name of `SETNAME` also when a later option of `HELLO` is wrong. respgate answers `HELLO` itself and then changes nothing, as Valkey does.",
        effect: Effect::Parts,
        covers: |seen| {
            seen.failed_hello && seen.flavor == Flavor::Redis && seen.is(&["CLIENT|INFO", "CLIENT|GETNAME"])
        },
    },
    Rule {
        name: "Ended subscriptions",
        origin: Origin::Respgate,
        reason: "When a subscriber leaves or sends `RESET`, respgate closes the subscriber's connection to the server. The server sees the end a \
                 moment later. Until then `PUBLISH` and `PUBSUB` count the subscription.",
        effect: Effect::GoesOn,
        covers: |seen| {
            let counts = seen.spec.is_some_and(|spec| spec.name.starts_with("PUBSUB|"));
            seen.ended && (counts || seen.is(&["PUBLISH", "SPUBLISH"])) && seen.both_answer()
        },
    },
    Rule {
        name: "The message of `WAIT`",
        origin: Origin::Respgate,
        reason: "respgate publishes an empty message on `__respgate:wait` before `WAIT` and `WAITAOF`, because these commands wait only for the \
                 writes of their own connection, and the client's writes went over another one. Clients that subscribe to this channel, \
                 or to a pattern such as `*`, receive the message.",
        effect: Effect::Parts,
        covers: |seen| {
            let names = |value: &Value| value.text() == Some(b"__respgate:wait");
            matches!(seen.through, Item::Frame(value) if value.members().is_some_and(|members| members.iter().any(names)))
        },
    },
    Rule {
        name: "Two replies to one command",
        origin: Origin::Respgate,
        reason: "Some servers answer a command twice: `CLIENT TRACKING … BCAST` with prefixes that overlap, and scripts or functions whose \
                 error contains a line break (CVE-2025-67733); redis 7.0 also writes a message into the reply to the `EXEC` that published it. respgate \
                 closes the connection, because it cannot tell which reply belongs to which command.",
        effect: Effect::Parts,
        covers: |seen| {
            let scripted = seen.spec.is_some_and(|spec| spec.flags.contains(Flags::SCRIPT));
            let twice = seen.is(&["CLIENT|TRACKING"]) || seen.split && (scripted || seen.is(&["EXEC"]));
            let push = |value: &Value| value.members().is_some_and(|all| all.iter().any(Value::is_push));
            let inside = matches!(seen.direct, Item::Frame(value) if push(value));
            (twice || inside) && *seen.through == Item::Closed
        },
    },
    Rule {
        name: "NUL in an option",
        origin: Origin::Respgate,
        reason: "Servers compare options as C strings, up to the first NUL. respgate refuses a NUL in a command about the connection, \
                 and in the options of `XREAD` and `XREADGROUP`, because it compares whole options. After such a command the server and \
                 respgate may disagree on whether replies are on (`CLIENT REPLY`) or the client waits (`XREAD BLOCK`), so a reply may be \
                 missing, and the test ends the session.",
        effect: Effect::Parts,
        covers: |seen| seen.nul && matches!(seen.through, Item::Frame(value) if value.error().is_some()),
    },
    Rule {
        name: "`CLIENT HELP`",
        origin: Origin::Respgate,
        reason: "respgate answers `CLIENT HELP` itself, because not every subcommand of the server works through respgate. The reply \
                 lists those that do.",
        effect: Effect::GoesOn,
        covers: |seen| {
            let first = |value: &Value| value.members()?.first()?.text().map(<[u8]>::to_vec);
            let own = b"CLIENT <subcommand> [<arg> [value] [opt] ...]. Through respgate these are:";
            seen.is(&["CLIENT|HELP"])
                && seen.both_answer()
                && seen.values().is_some_and(|(_, through)| first(through).as_deref() == Some(own))
        },
    },
    Rule {
        name: "Connection commands inside `MULTI`",
        origin: Origin::Respgate,
        reason: "respgate refuses commands that change the connection (`SUBSCRIBE` and the like, `HELLO`, `AUTH`, `CLIENT …`, \
                 `MONITOR`) inside a transaction, because respgate, not the server, keeps this state, and because the replies to \
                 `SUBSCRIBE` would break the order of the replies in `EXEC`. The texts are `-ERR respgate: subscriptions cannot change inside a \
                 transaction`, `-ERR respgate: this command is not possible inside a transaction` and `-ERR respgate: commands about the connection are \
                 not possible inside a transaction`.",
        effect: Effect::Parts,
        covers: |seen| {
            let texts: [&[u8]; 3] = [
                b"ERR respgate: subscriptions cannot change inside a transaction",
                b"ERR respgate: this command is not possible inside a transaction",
                b"ERR respgate: commands about the connection are not possible inside a transaction",
            ];
            let tracking = seen.is(&["CLIENT|TRACKING"])
                && seen.through_says("ERR respgate: CLIENT TRACKING needs RESP3 (HELLO 3) and no REDIRECT");
            let relayed = seen.spec.is_some_and(|spec| spec.trace == Trace::OtherProtocol)
                && seen.through_says("ERR respgate: ");
            seen.queued
                && (tracking || relayed || seen.through_error().is_some_and(|error| texts.contains(&error)))
        },
    },
    Rule {
        name: "User and protocol version of a pinned connection",
        origin: Origin::Respgate,
        reason: "respgate refuses `AUTH` and `HELLO` while a client has a `WATCH`, a subscription or `CLIENT TRACKING` open, because that \
                 state belongs to one connection to the server, and another user or protocol version needs another connection. The error \
                 names the state and the command that ends it.",
        effect: Effect::Parts,
        covers: |seen| {
            let text = "ERR respgate: neither the user nor the protocol version can change while the connection keeps ";
            seen.is(&["AUTH", "HELLO"]) && seen.through_says(text)
        },
    },
    Rule {
        name: "`CLIENT TRACKING`",
        origin: Origin::Respgate,
        reason: "respgate refuses `CLIENT TRACKING` in RESP2 and with `REDIRECT`, because client ids are respgate's own, and the server \
                 cannot send messages to them. Use `HELLO 3`.",
        effect: Effect::Parts,
        covers: |seen| {
            seen.is(&["CLIENT|TRACKING"])
                && seen.through_says("ERR respgate: CLIENT TRACKING needs RESP3 (HELLO 3) and no REDIRECT")
        },
    },
    Rule {
        name: "Names with other bytes",
        origin: Origin::Respgate,
        reason: "respgate answers `-ERR unknown command` or `-ERR unknown subcommand` if the name has a byte outside printable ASCII. \
                 Servers compare names as C strings, up to the first NUL, and may run another command. Without replies, the test ends \
                 the session at such a name.",
        effect: Effect::Parts,
        covers: |seen| {
            let odd = |word: &Vec<u8>| !word.iter().all(u8::is_ascii_graphic);
            seen.request.iter().take(2).any(odd)
                && (seen.through_says("ERR unknown command") || seen.through_says("ERR unknown subcommand"))
        },
    },
];

/// Every rule, in the order in which they are tried.
pub fn all_rules() -> impl Iterator<Item = &'static Rule> {
    RULES.iter().chain(CLUSTER_RULES)
}

/// A documented difference of a command whose effect the client does not see in its reply, after `CLIENT REPLY OFF` or `SKIP`
/// or in a transaction. The session ends there.
pub struct SilentRule {
    pub name: &'static str,
    pub reason: &'static str,
    pub covers: fn(&Unseen) -> bool,
}

/// A command without a reply, or one whose reply is QUEUED.
pub struct Unseen {
    pub spec: &'static Spec,
    /// Its reply is QUEUED.
    pub queued: bool,
    /// A cluster stands behind respgate.
    pub cluster: bool,
    /// It has keys in several slots.
    pub spread: bool,
    /// Between a MULTI without a reply and its EXEC.
    pub in_transaction: bool,
}

/// The rules for what is not seen.
pub const SILENT_RULES: &[SilentRule] = &[
    SilentRule {
        name: "`QUIT` without replies",
        reason: "A server closes the connection after it has written the reply to `QUIT`. After `CLIENT REPLY OFF` it writes no reply, and so it \
                 keeps the connection. respgate closes it.",
        covers: |unseen| !unseen.queued && unseen.spec.verb == Verb::Quit,
    },
    SilentRule {
        name: "`SPOP` without replies",
        reason: "`SPOP` removes random members. The test ends the session and does not compare the data.",
        covers: |unseen| !unseen.queued && unseen.spec.name == "SPOP",
    },
    SilentRule {
        name: "Refusals that are not seen",
        reason: "respgate also refuses the commands of the sections above for a client that has turned replies off. The client gets no error.",
        covers: |unseen| {
            let pinned = matches!(
                unseen.spec.verb,
                Verb::Hello | Verb::Auth | Verb::ClientTracking | Verb::ClientNoTouch
            );
            let connection = !matches!(
                unseen.spec.route,
                RouteClass::Shared | RouteClass::Lease | RouteClass::LeaseIfBlock
            );
            let queued = matches!(
                unseen.spec.verb,
                Verb::Multi
                    | Verb::Exec
                    | Verb::Discard
                    | Verb::Ping
                    | Verb::Echo
                    | Verb::Select
                    | Verb::Watch
                    | Verb::Unwatch
            );
            !unseen.queued && (pinned || unseen.in_transaction && connection && !queued)
        },
    },
    SilentRule {
        name: "Replies of a cluster that are not seen",
        reason: "A client that has turned replies off does not see that a cluster refuses keys in several slots, or the keys of a script.",
        covers: |unseen| {
            unseen.cluster && !unseen.queued && (unseen.spread || depends_on_its_node(unseen.spec))
        },
    },
    SilentRule {
        name: "Commands for all shards in a transaction",
        reason: "In a transaction, `FLUSHALL`, `FLUSHDB`, `SCRIPT LOAD` and the like concern the node of its keys only. The test ends the session.",
        covers: |unseen| {
            unseen.cluster
                && (unseen.queued || unseen.in_transaction)
                && ALL_SHARDS.contains(&unseen.spec.name)
        },
    },
];

/// `docs/differences.md`.
pub fn document() -> String {
    let mut text = String::from(
        "# Differences from a direct connection\n\n\
         Made from the rules of the differential test (`tests/differential/rules.rs`); change them there, and run `make differential-docs`.\n\n\
         The test runs random sessions of several clients, each with a server itself and through respgate, and compares every reply and \
         every push byte for byte, and the data. These are the differences that it tolerates. Any other is a fault: please report it.\n\n\
         `-ERR respgate: …` is respgate speaking; every other error is in the server's words.\n",
    );
    let section = |text: &mut String, origin: Origin| {
        for rule in all_rules().filter(|rule| rule.origin == origin) {
            text.push_str(&format!("\n### {}\n\n{}\n", rule.name, rule.reason));
        }
    };
    text.push_str("\n## What clients of respgate see\n");
    section(&mut text, Origin::Respgate);
    for rule in SILENT_RULES {
        text.push_str(&format!("\n### {}\n\n{}\n", rule.name, rule.reason));
    }
    text.push_str(
        "\n## What clients of a cluster see\n\n[Clusters](cluster.md) tells which node a command goes to.\n",
    );
    section(&mut text, Origin::Cluster);
    text.push_str(
        "\n## What the test does not compare\n\nThese differ between any two runs, without respgate too.\n",
    );
    section(&mut text, Origin::Test);
    text.push_str("\n## How the test draws and compares\n\n| what | reason |\n|---|---|\n");
    for (what, reason) in NEVER_DRAWN {
        text.push_str(&format!("| {what} | {reason} |\n"));
    }
    text.push_str("\n## Commands that the test does not send\n\n| command | because it |\n|---|---|\n");
    for (name, reason) in LEFT_OUT {
        text.push_str(&format!("| `{}` | {reason} |\n", name.replace('|', " ")));
    }
    text
}
