//! What Sentinels say, parsed: replies to queries, and the events that they publish. Pure.

use bytes::Bytes;

use crate::discovery::config::SentinelConfig;
use crate::resp::value::Value;
use crate::topology::Address;

/// The events that respgate subscribes to: all that say something about where the primary is or will be
/// (documentation of Sentinel, "Pub/Sub messages"; valkey's sentinel.c). The first is the one that matters most, and
/// is subscribed to alone where an ACL forbids the whole list.
pub(super) const CHANNELS: &[&str] = &[
    "+switch-master",
    "+try-failover",
    "+elected-leader",
    "+failover-state-select-slave",
    "+selected-slave",
    "+failover-state-send-slaveof-noone",
    "+failover-state-wait-promotion",
    "+promoted-slave",
    "+failover-state-reconf-slaves",
    "+slave-reconf-done",
    "+failover-end",
    "+failover-end-for-timeout",
    "-failover-abort-not-elected",
    "-failover-abort-no-good-slave",
    "-failover-abort-slave-timeout",
    "+sdown",
    "-sdown",
    "+odown",
    "-odown",
    "+new-epoch",
    "+config-update-from",
    "+slave",
    "+sentinel",
    "+reboot",
    "+role-change",
    "-role-change",
    "+convert-to-slave",
    "+fix-slave-config",
    "+tilt",
    "-tilt",
    "+reset-master",
    "+monitor",
    "-monitor",
];

/// What an event says. Only ever a reason to ask: a payload may be stale, since a restarted Sentinel repeats an old
/// switch (redis/redis#12798).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The Sentinel has taken up another primary.
    Switched {
        /// The former primary, as announced.
        from: Address,
        /// The new one, as announced.
        to: Address,
    },
    /// A failover that this Sentinel leads has reached a step.
    Failover(FailoverStep),
    /// Enough Sentinels find the primary down (`true`), or no longer.
    ObjectivelyDown(bool),
    /// This Sentinel alone finds the primary down (`true`), or no longer.
    SubjectivelyDown(bool),
    /// Anything else that may change an answer: another configuration, epoch, node or Sentinel.
    Other,
}

/// An event, and the nodes that it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Heard {
    /// What it says.
    pub(super) notice: Notice,
    /// The primary at that time: NAT is applied. `None` if the event names none.
    pub(super) primary: Option<Address>,
    /// The replica, in events about one: NAT is applied.
    pub(super) replica: Option<Address>,
}

/// Steps of a failover, published only by the Sentinel that leads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailoverStep {
    /// `+try-failover`: it stands for election. The first sign of all.
    Started,
    /// `+elected-leader`: it may go on.
    Elected,
    /// Choosing, or has chosen, the replica to promote; nothing has changed yet.
    Selecting,
    /// The replica is being told to be a primary: from here on two nodes may take writes.
    Promoting,
    /// The replica says that it is a primary.
    Promoted,
    /// The other replicas are being pointed at it.
    Reconfiguring,
    /// Done.
    Ended,
    /// Given up; the old primary stays.
    Aborted,
}

/// A Sentinel's answers to one round of questions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// `None`: it does not know the name.
    pub claim: Option<Claim>,
    /// The other Sentinels that it knows and is connected to.
    pub others: Vec<Peer>,
    /// How many Sentinels it counts, itself and the dead included: what its own majority is reckoned from.
    pub total: usize,
}

/// Whom a Sentinel names as primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Where to dial: NAT is applied.
    pub address: Address,
    /// Rises with every failover; the higher one is right. 0 if the Sentinel's ACL hides it.
    pub epoch: u64,
    /// The node's run id, where the Sentinel knows it.
    pub run_id: Option<String>,
    /// The Sentinel's flags for it, for example `master,o_down`.
    pub flags: String,
    /// The state of a failover under way.
    pub failover_state: Option<String>,
}

/// Another Sentinel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Where to dial: NAT is applied.
    pub address: Address,
    /// Its own id (`SENTINEL MYID`), which stays when its address changes.
    pub id: Option<String>,
}

/// Why a Sentinel's reply is of no use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadReply {
    /// An error line.
    Error(Bytes),
    /// A shape that no Sentinel sends.
    Malformed(&'static str),
}

/// Reads the replies to `SENTINEL GET-MASTER-ADDR-BY-NAME`, `SENTINEL MASTER` and `SENTINEL SENTINELS`.
///
/// The address is taken from the first: while the leader still reconfigures replicas, its `MASTER` shows the old
/// address beside the new epoch (valkey's sentinel.c, `sentinelGetCurrentMasterAddress`).
pub fn view(
    get: &Value,
    primary: &Value,
    sentinels: &Value,
    config: &SentinelConfig,
) -> Result<View, BadReply> {
    if let Value::Error(line) = get {
        return Err(BadReply::Error(line.clone()));
    }
    let (others, total) = peers(sentinels, config);
    let announced = match get {
        Value::Null => return Ok(View { claim: None, others, total }),
        get => match get.elements() {
            Some([host, port]) => address(host, port),
            _ => None,
        }
        .ok_or(BadReply::Malformed("the reply to GET-MASTER-ADDR-BY-NAME is not an address"))?,
    };
    let text = |key| primary.field(key).and_then(Value::text);
    let same_node = primary
        .field("ip")
        .zip(primary.field("port"))
        .and_then(|(host, port)| address(host, port))
        .is_some_and(|shown| shown == announced);
    let claim = Claim {
        address: translated(announced, config),
        epoch: text("config-epoch").and_then(|epoch| epoch.parse().ok()).unwrap_or(0),
        run_id: text("runid").filter(|id| same_node && is_id(id)).map(str::to_owned),
        flags: text("flags").unwrap_or_default().chars().take(200).collect(),
        failover_state: text("failover-state").map(|state| state.chars().take(50).collect()),
    };
    Ok(View { claim: Some(claim), others, total })
}

/// The Sentinels that are worth dialling, and how many there are in all.
fn peers(sentinels: &Value, config: &SentinelConfig) -> (Vec<Peer>, usize) {
    let listed = sentinels.elements().unwrap_or_default();
    let live = |entry: &&Value| {
        let flags = entry.field("flags").and_then(Value::text).unwrap_or_default();
        !flags.split(',').any(|flag| flag == "disconnected" || flag == "s_down")
    };
    let peer = |entry: &Value| {
        Some(Peer {
            address: translated(address(entry.field("ip")?, entry.field("port")?)?, config),
            id: entry.field("runid").and_then(Value::text).filter(|id| is_id(id)).map(str::to_owned),
        })
    };
    (listed.iter().filter(live).filter_map(peer).collect(), listed.len() + 1)
}

/// The reply to `SENTINEL MYID`; `None` before Redis 6.2 or without the permission.
pub fn own_id(reply: &Value) -> Option<String> {
    reply.text().filter(|id| is_id(id)).map(str::to_owned)
}

/// Reads an event as `(channel, payload)`; `None` if it is about another primary than `name`.
pub(super) fn notice(channel: &str, payload: &str, name: &str) -> Option<Notice> {
    if channel == "+switch-master" {
        return switched(payload, name);
    }
    if concerns_other_primary(payload, name) {
        return None;
    }
    // The subject is an instance of any kind; only the primary's own state is news of that kind.
    let is_primary = payload.starts_with("master ");
    Some(match channel {
        "+try-failover" => Notice::Failover(FailoverStep::Started),
        "+elected-leader" => Notice::Failover(FailoverStep::Elected),
        "+failover-state-select-slave" | "+selected-slave" => Notice::Failover(FailoverStep::Selecting),
        "+failover-state-send-slaveof-noone" | "+failover-state-wait-promotion" => {
            Notice::Failover(FailoverStep::Promoting)
        }
        "+promoted-slave" => Notice::Failover(FailoverStep::Promoted),
        "+failover-state-reconf-slaves" | "+slave-reconf-done" => {
            Notice::Failover(FailoverStep::Reconfiguring)
        }
        "+failover-end" | "+failover-end-for-timeout" => Notice::Failover(FailoverStep::Ended),
        abort if abort.starts_with("-failover-abort-") => Notice::Failover(FailoverStep::Aborted),
        "+odown" | "-odown" if is_primary => Notice::ObjectivelyDown(channel.starts_with('+')),
        "+sdown" | "-sdown" if is_primary => Notice::SubjectivelyDown(channel.starts_with('+')),
        _ => Notice::Other,
    })
}

/// As [`notice`], with the nodes.
pub(super) fn heard(channel: &str, payload: &str, config: &SentinelConfig) -> Option<Heard> {
    let notice = notice(channel, payload, &config.primary_name)?;
    let (primary, replica) = match &notice {
        Notice::Switched { from, .. } => (Some(from.clone()), None),
        _ => parties(payload, &config.primary_name),
    };
    let dialled = |announced| translated(announced, config);
    Some(Heard { notice, primary: primary.map(dialled), replica: replica.map(dialled) })
}

/// The primary and the replica of `master <name> <ip> <port>` and of `slave <name> <ip> <port> @ <primary> <ip>
/// <port>`; more may follow in both.
fn parties(payload: &str, name: &str) -> (Option<Address>, Option<Address>) {
    let node = |text: &str| {
        let mut fields = text.split(' ');
        parsed_address(fields.next()?, fields.next()?.parse().ok()?)
    };
    let named = |text: &str| node(text.strip_prefix(name)?.strip_prefix(' ')?);
    match payload.split_once(" @ ") {
        Some((subject, of)) => {
            let replica = subject.strip_prefix("slave ").and_then(|rest| node(rest.split_once(' ')?.1));
            (named(of), replica)
        }
        None => (payload.strip_prefix("master ").and_then(named), None),
    }
}

/// `<name> <old ip> <old port> <new ip> <new port>`, read from the right: only the name could hold a space.
fn switched(payload: &str, name: &str) -> Option<Notice> {
    let mut fields = payload.rsplitn(5, ' ');
    let mut next = || fields.next();
    let (new_port, new_host, old_port, old_host) = (next()?, next()?, next()?, next()?);
    (next()? == name).then_some(())?;
    Some(Notice::Switched {
        from: parsed_address(old_host, old_port.parse().ok()?)?,
        to: parsed_address(new_host, new_port.parse().ok()?)?,
    })
}

/// Whether a payload of the form `<type> <name> <ip> <port>[ @ <primary> <ip> <port>]` names another primary. Payloads
/// of another form (`+new-epoch 7`, `+tilt #tilt mode entered`) concern every primary.
fn concerns_other_primary(payload: &str, name: &str) -> bool {
    if let Some((_, of)) = payload.split_once(" @ ") {
        return of.split(' ').next() != Some(name);
    }
    payload.strip_prefix("master ").is_some_and(|rest| rest.split(' ').next() != Some(name))
}

fn address(host: &Value, port: &Value) -> Option<Address> {
    parsed_address(host.text()?, port.integer()?.try_into().ok()?)
}

/// A usable address. Sentinel announces port 0 for what it does not know, and hosts are names or bare IP addresses.
fn parsed_address(host: &str, port: u16) -> Option<Address> {
    let plausible = (1..=255).contains(&host.len()) && host.bytes().all(|byte| byte.is_ascii_graphic());
    (plausible && port != 0).then(|| Address::tcp(host, port))
}

fn translated(announced: Address, config: &SentinelConfig) -> Address {
    config.nat.get(&announced).cloned().unwrap_or(announced)
}

/// Ids are 40 hexadecimal digits; Sentinel shows an empty one before it knows.
fn is_id(id: &str) -> bool {
    id.len() == 40 && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests;
