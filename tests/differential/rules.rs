//! Every difference that is tolerated, with its reason. What no rule covers is a fault. `docs/differences.md` is made of
//! these rules.

use respgate::command::{self, Flags, Route, Spec, Verb};

use crate::requests::LEFT_OUT;
use crate::seen::{Seen, confirms_nothing, in_order, same_client, without_id, without_integers};
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
    "PUBSUB|CHANNELS",
    "PUBSUB|SHARDCHANNELS",
    "FUNCTION|LIST",
];

/// Returns true if respgate refuses `spec` in the words of either server, and names the setting that causes it.
fn names_the_setting(through: &Item, spec: &Spec) -> bool {
    let Item::Frame(value) = through else { return false };
    let Some(text) = value.error().and_then(|text| std::str::from_utf8(text).ok()) else { return false };
    let refused = format!(
        " has no permissions to run the '{}' command (respgate: admin-commands = \"deny\")",
        spec.name.to_ascii_lowercase()
    );
    text.starts_with("NOPERM ") && text.ends_with(&refused)
}

/// The rules, in the order in which they are tried.
pub const RULES: &[Rule] = &[
    Rule {
        name: "Connection numbers",
        origin: Origin::Respgate,
        reason: "`CLIENT ID`, and `id` in the reply to `HELLO`, number the clients of respgate and not the \
                 connections of the server, so that a number stays the same in a failover.",
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
        reason: "respgate answers it. Name, user, database, protocol version and library are as on the \
                 server. The other fields describe the client's connection to respgate, or are 0 where only \
                 the server could know them.",
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
        reason: "These replies differ between any two runs. Their type is compared.",
        effect: Effect::GoesOn,
        covers: |seen| seen.is(UNSTEADY) && seen.both_answer(),
    },
    Rule {
        name: "Order in hash tables",
        origin: Origin::Test,
        reason: "The order of keys and members depends on how a table has grown. All but the order is \
                 compared.",
        effect: Effect::GoesOn,
        covers: |seen| {
            seen.is(UNORDERED)
                && seen.values().is_some_and(|(direct, through)| {
                    direct != through && in_order(direct) == in_order(through)
                })
        },
    },
    Rule {
        name: "`SPOP`",
        origin: Origin::Test,
        reason: "It removes members at random, so the data differs from then on.",
        effect: Effect::Parts,
        covers: |seen| seen.is(&["SPOP"]) && seen.both_answer(),
    },
    Rule {
        name: "Messages by several patterns",
        origin: Origin::Test,
        reason: "A subscriber whose patterns match a channel gets the message once for each, in the order of a hash table of the server.",
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
        reason: "It depends on when the command that set it ran. Two seconds more or less are the same.",
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
        reason: "Streams keep when a consumer was last seen and when an entry was last delivered. All but the \
                 numbers is compared.",
        effect: Effect::GoesOn,
        covers: |seen| {
            seen.is(&["XPENDING", "XINFO|STREAM", "XINFO|CONSUMERS", "XINFO|GROUPS"])
                && seen
                    .values()
                    .is_some_and(|(direct, through)| without_integers(direct) == without_integers(through))
        },
    },
    Rule {
        name: "`DUMP`",
        origin: Origin::Test,
        reason: "That of a stream contains the times of its consumers. Its length is compared.",
        effect: Effect::GoesOn,
        covers: |seen| {
            seen.is(&["DUMP"])
                && seen.values().is_some_and(|(direct, through)| {
                    direct.text().map(<[u8]>::len) == through.text().map(<[u8]>::len)
                })
        },
    },
    Rule {
        name: "Administrative commands",
        origin: Origin::Respgate,
        reason: "At `admin-commands = \"deny\"`, respgate refuses commands that act on the server or on other \
                 clients with the server's `NOPERM`, and adds the setting that causes it.",
        effect: Effect::GoesOn,
        covers: |seen| {
            !seen.admin
                && seen
                    .spec
                    .is_some_and(|spec| spec.route == Route::Admin && names_the_setting(seen.through, spec))
        },
    },
    Rule {
        name: "`CONFIG GET`",
        origin: Origin::Respgate,
        reason: "At `admin-commands = \"deny\"`, respgate answers with nothing unless all parameters are on \
                 its list of harmless ones.",
        effect: Effect::GoesOn,
        covers: |seen| !seen.admin && seen.is(&["CONFIG|GET"]) && seen.both_answer(),
    },
    Rule {
        name: "`UNSUBSCRIBE` without a subscription",
        origin: Origin::Respgate,
        reason: "Valkey 8.0 answers `-NOSUB`. respgate answers as all other versions do: with a confirmation \
                 that counts 0.",
        effect: Effect::Parts,
        covers: |seen| {
            let refused = seen.direct_says("NOSUB");
            seen.flavor == Flavor::Valkey && (refused || confirms_nothing(seen.through))
        },
    },
    Rule {
        name: "Commands of newer servers",
        origin: Origin::Respgate,
        reason: "respgate answers `CLIENT SETINFO` and `CLIENT CAPA` whether the server knows them or not. Before it passes a command on that the \
                 server is too old for, it checks the number of arguments and what the connection may do, and so may refuse it for another \
                 reason than the server.",
        effect: Effect::GoesOn,
        covers: |seen| {
            let unknown =
                seen.direct_says("ERR unknown subcommand") || seen.direct_says("ERR unknown command");
            let refused = [
                "ERR wrong number",
                "ERR respgate: not possible inside",
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
                    && (seen.is(&["CLIENT|SETINFO", "CLIENT|CAPA"])
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
            seen.direct_says("NOSCRIPT") && seen.is(&["EVALSHA", "EVALSHA_RO", "SCRIPT|SHOW"])
                || seen.is(&["SCRIPT|EXISTS"]) && seen.both_answer()
        },
    },
    Rule {
        name: "`HELLO` that fails",
        origin: Origin::Respgate,
        reason: "Redis 7.0 sets the name of `SETNAME` also when a later option of `HELLO` is wrong. respgate then changes nothing, as valkey.",
        effect: Effect::Parts,
        covers: |seen| {
            seen.failed_hello && seen.flavor == Flavor::Redis && seen.is(&["CLIENT|INFO", "CLIENT|GETNAME"])
        },
    },
    Rule {
        name: "Ended subscriptions",
        origin: Origin::Respgate,
        reason: "When a subscriber leaves or sends `RESET`, respgate closes its connection to the server, which notices that a moment later. Until \
                 then `PUBLISH` and `PUBSUB` count the subscription.",
        effect: Effect::GoesOn,
        covers: |seen| {
            let counts = seen.spec.is_some_and(|spec| spec.name.starts_with("PUBSUB|"));
            seen.ended && (counts || seen.is(&["PUBLISH", "SPUBLISH"])) && seen.both_answer()
        },
    },
    Rule {
        name: "The message of `WAIT`",
        origin: Origin::Respgate,
        reason: "respgate publishes an empty message on `__respgate:wait` before `WAIT` and `WAITAOF`, so that they wait for all earlier writes. Clients \
                 that are subscribed to that channel, or to a pattern like `*`, receive it.",
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
                 can no longer tell which reply belongs to which command, and closes the connection.",
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
        reason: "Servers compare options as C strings, up to the first NUL. respgate refuses a NUL in a \
                 command about the connection, and in the options of `XREAD` and `XREADGROUP`.",
        effect: Effect::Parts,
        covers: |seen| seen.nul && matches!(seen.through, Item::Frame(value) if value.error().is_some()),
    },
    Rule {
        name: "`CLIENT HELP`",
        origin: Origin::Respgate,
        reason: "It lists what works through respgate.",
        effect: Effect::GoesOn,
        covers: |seen| seen.is(&["CLIENT|HELP"]) && seen.both_answer(),
    },
    Rule {
        name: "Connection commands inside `MULTI`",
        origin: Origin::Respgate,
        reason: "respgate refuses commands that change the connection (`SUBSCRIBE` and its kin, `HELLO`, \
                 `AUTH`, `CLIENT …`, `MONITOR`) inside a transaction: their replies would break the order of \
                 those of `EXEC`.",
        effect: Effect::Parts,
        covers: |seen| seen.queued && seen.through_says("ERR respgate: "),
    },
    Rule {
        name: "User and protocol version of a pinned connection",
        origin: Origin::Respgate,
        reason: "They cannot change while a `WATCH`, a subscription or `CLIENT TRACKING` is open: that state \
                 belongs to one connection to the server.",
        effect: Effect::Parts,
        covers: |seen| {
            seen.through_says("ERR respgate: the user and the protocol version cannot change")
                || seen.through_says("ERR respgate: neither the user nor the protocol version can change")
        },
    },
    Rule {
        name: "`CLIENT TRACKING`",
        origin: Origin::Respgate,
        reason: "It needs RESP3, and has no `REDIRECT`: connection numbers are respgate's own.",
        effect: Effect::Parts,
        covers: |seen| seen.through_says("ERR respgate: CLIENT TRACKING needs RESP3"),
    },
    Rule {
        name: "Names with other bytes",
        origin: Origin::Respgate,
        reason: "respgate knows no command or subcommand whose name has a byte outside printable ASCII. \
                 Servers compare names as C strings, and may run another command.",
        effect: Effect::Parts,
        covers: |seen| {
            let odd = |word: &Vec<u8>| !word.iter().all(u8::is_ascii_graphic);
            seen.request.iter().take(2).any(odd)
                && (seen.through_says("ERR unknown command") || seen.through_says("ERR unknown subcommand"))
        },
    },
];

/// A documented difference of a command whose reply the client does not see, after `CLIENT REPLY OFF` or `SKIP`. The session
/// ends there.
pub struct SilentRule {
    pub name: &'static str,
    pub reason: &'static str,
    pub covers: fn(&Unseen) -> bool,
}

/// A command without a reply.
pub struct Unseen {
    pub spec: &'static Spec,
    /// Between a MULTI without a reply and its EXEC.
    pub in_transaction: bool,
}

/// The rules for what is not seen.
pub const SILENT_RULES: &[SilentRule] = &[
    SilentRule {
        name: "`QUIT` without replies",
        reason: "After `CLIENT REPLY OFF` servers keep the connection of a client that sends `QUIT`, since they close it once the reply is written. \
                 respgate closes it.",
        covers: |unseen| unseen.spec.verb == Verb::Quit,
    },
    SilentRule {
        name: "`SPOP` without replies",
        reason: "Which members it has removed is not seen, so the data is not compared.",
        covers: |unseen| unseen.spec.name == "SPOP",
    },
    SilentRule {
        name: "Refusals that are not seen",
        reason: "What respgate refuses by the rules above, it also refuses a client that has turned replies off, without a word.",
        covers: |unseen| {
            let pinned = matches!(
                unseen.spec.verb,
                Verb::Hello | Verb::Auth | Verb::ClientTracking | Verb::ClientNoTouch
            );
            let connection = !matches!(unseen.spec.route, Route::Shared | Route::Lease | Route::LeaseIfBlock);
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
            pinned || unseen.in_transaction && connection && !queued
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
        for rule in RULES.iter().filter(|rule| rule.origin == origin) {
            text.push_str(&format!("\n### {}\n\n{}\n", rule.name, rule.reason));
        }
    };
    text.push_str("\n## What clients of respgate see\n");
    section(&mut text, Origin::Respgate);
    for rule in SILENT_RULES {
        text.push_str(&format!("\n### {}\n\n{}\n", rule.name, rule.reason));
    }
    text.push_str(
        "\n## What the test does not compare\n\nThese differ between any two runs, without respgate too.\n",
    );
    section(&mut text, Origin::Test);
    text.push_str("\n## Commands that the test does not send\n\n| command | because it |\n|---|---|\n");
    for (name, reason) in LEFT_OUT {
        text.push_str(&format!("| `{}` | {reason} |\n", name.replace('|', " ")));
    }
    text
}
