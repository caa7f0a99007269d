//! Parses what Sentinels send: replies to queries, and events. Pure.

use std::time::Duration;

use bytes::Bytes;

use crate::discovery::config::SentinelConfig;
use crate::resp::value::Value;
use crate::topology::Address;

/// The events that respgate subscribes to: all that tell something about where the primary is or will be (documentation
/// of Sentinel, "Pub/Sub messages"; valkey's sentinel.c). The first event is the most important: respgate subscribes to
/// it alone where an ACL forbids the whole list.
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
    "-failover-abort-master-timeout",
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

/// The content of an event. It is never more than a reason to query the Sentinels: a payload may be stale, since a
/// restarted Sentinel publishes an old switch again (redis/redis#12798).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The Sentinel has switched to another primary.
    Switched {
        /// The former primary's announced address.
        from: Address,
        /// The new primary's announced address.
        to: Address,
    },
    /// A failover that this Sentinel leads has reached a step.
    Failover(FailoverStep),
    /// `true`: a quorum of Sentinels finds the primary down. `false`: it does not any more.
    ObjectivelyDown(bool),
    /// `true`: this Sentinel alone finds the primary down. `false`: it does not any more.
    SubjectivelyDown(bool),
    /// Any other event after which an answer may change: another configuration, epoch, node or Sentinel.
    Other,
}

/// A parsed event of a Sentinel, and the nodes that it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SentinelEvent {
    /// The content of the event.
    pub(super) notice: Notice,
    /// The primary at the time of the event, after address translation (NAT). `None` if the event names none.
    pub(super) primary: Option<Address>,
    /// The replica, in events about one, after address translation (NAT).
    pub(super) replica: Option<Address>,
}

/// The steps of a failover. Only the Sentinel that leads the failover publishes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailoverStep {
    /// `+try-failover`: the Sentinel stands for election. This is the first sign of a failover.
    Started,
    /// `+elected-leader`: the Sentinel has won the election.
    Elected,
    /// The leader chooses, or has chosen, the replica to promote; no node has changed its role yet.
    Selecting,
    /// The leader tells the replica to become a primary: from here on two nodes may accept writes.
    Promoting,
    /// The replica says that it is a primary.
    Promoted,
    /// The leader points the other replicas at the new primary.
    Reconfiguring,
    /// The failover has ended.
    Ended,
    /// The leader has given the failover up; the old primary stays.
    Aborted,
}

/// A Sentinel's answers to one round of queries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The primary that the Sentinel names; `None` if it does not know the name.
    pub claim: Option<Claim>,
    /// The other Sentinels that the Sentinel knows and is connected to.
    pub others: Vec<Peer>,
    /// The number of Sentinels that the Sentinel counts, including itself and dead ones. Its own majority is more than
    /// half of this number.
    pub total: usize,
}

/// The node that a Sentinel names as primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The address to dial, after address translation (NAT).
    pub address: Address,
    /// The config-epoch. Every failover raises it, so the claim with the higher epoch is right. 0 if the Sentinel's ACL
    /// hides it.
    pub epoch: u64,
    /// The node's run id, if the Sentinel knows it.
    pub run_id: Option<String>,
    /// The Sentinel's flags for the node, for example `master,o_down`.
    pub flags: String,
    /// The state of the failover under way, if there is one.
    pub failover_state: Option<String>,
}

/// Another Sentinel that a Sentinel knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The address to dial, after address translation (NAT).
    pub address: Address,
    /// The other Sentinel's own id (`SENTINEL MYID`). It stays when the address changes.
    pub id: Option<String>,
}

/// Why discovery cannot use a Sentinel's reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadReply {
    /// The reply is this error line.
    Error(Bytes),
    /// The reply has a shape that no Sentinel sends; the text describes it.
    Malformed(&'static str),
}

/// Parses the replies to `SENTINEL GET-MASTER-ADDR-BY-NAME`, `SENTINEL MASTER` and `SENTINEL SENTINELS`.
///
/// The function takes the address from the first reply: while the leader still reconfigures replicas, its reply to
/// `SENTINEL MASTER` shows the old address with the new epoch (valkey's sentinel.c, `sentinelGetCurrentMasterAddress`).
///
/// # Errors
///
/// Returns [`BadReply`] if the first reply is an error line or has a shape that no Sentinel sends.
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

/// Returns the other Sentinels to which the Sentinel is connected, and the number of all Sentinels that it counts.
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

/// A Sentinel's knowledge from a replica's last reply to INFO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InfoAge {
    /// The time since that reply.
    pub(super) age: Duration,
    /// True if the replica said in it that it is a primary.
    pub(super) shows_primary: bool,
}

/// Parses the reply to `SENTINEL REPLICAS`. Returns `None` if it does not list `replica`, or lacks the fields.
pub(super) fn info_age(replicas: &Value, replica: &Address, config: &SentinelConfig) -> Option<InfoAge> {
    let entry = replicas.elements()?.iter().find(|entry| {
        let announced =
            entry.field("ip").zip(entry.field("port")).and_then(|(host, port)| address(host, port));
        announced.is_some_and(|announced| translated(announced, config) == *replica)
    })?;
    let text = |key| entry.field(key).and_then(Value::text);
    Some(InfoAge {
        age: Duration::from_millis(text("info-refresh")?.parse().ok()?),
        shows_primary: text("role-reported")? == "master",
    })
}

/// Parses the reply to `SENTINEL REPLICAS`: the addresses of the replicas, after address translation (NAT).
pub(super) fn listed_replicas(replicas: &Value, config: &SentinelConfig) -> Vec<Address> {
    let entries = replicas.elements().unwrap_or_default().iter();
    let announced = entries.filter_map(|entry| address(entry.field("ip")?, entry.field("port")?));
    announced.map(|announced| translated(announced, config)).collect()
}

/// Parses the reply to `SENTINEL MYID`. Returns `None` for servers before Redis 6.2, or if the user lacks the
/// permission.
pub fn own_id(reply: &Value) -> Option<String> {
    reply.text().filter(|id| is_id(id)).map(str::to_owned)
}

/// Parses an event given as channel and payload. Returns `None` if it is about another primary than `name`.
pub(super) fn notice(channel: &str, payload: &str, name: &str) -> Option<Notice> {
    if channel == "+switch-master" {
        return switched(payload, name);
    }
    if concerns_other_primary(payload, name) {
        return None;
    }
    // The subject is an instance of any kind, but `+odown` and `+sdown` matter only if the subject is the primary.
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

/// Like [`notice`], and also returns the nodes that the event is about.
pub(super) fn sentinel_event(channel: &str, payload: &str, config: &SentinelConfig) -> Option<SentinelEvent> {
    let notice = notice(channel, payload, &config.primary_name)?;
    let (primary, replica) = match &notice {
        Notice::Switched { from, .. } => (Some(from.clone()), None),
        _ => parties(payload, &config.primary_name),
    };
    let translate = |announced| translated(announced, config);
    Some(SentinelEvent { notice, primary: primary.map(translate), replica: replica.map(translate) })
}

/// Returns the primary and the replica that a payload names. It has one of the forms `master <name> <ip> <port>` and
/// `slave <name> <ip> <port> @ <primary> <ip> <port>`; more fields may follow in both.
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

/// Parses `<name> <old ip> <old port> <new ip> <new port>` from the right: only the name can contain a space.
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

/// Returns true if a payload of the form `<type> <name> <ip> <port>[ @ <primary> <ip> <port>]` names another primary.
/// Payloads of another form (`+new-epoch 7`, `+tilt #tilt mode entered`) concern every primary.
fn concerns_other_primary(payload: &str, name: &str) -> bool {
    if let Some((_, of)) = payload.split_once(" @ ") {
        return of.split(' ').next() != Some(name);
    }
    payload.strip_prefix("master ").is_some_and(|rest| rest.split(' ').next() != Some(name))
}

fn address(host: &Value, port: &Value) -> Option<Address> {
    parsed_address(host.text()?, port.integer()?.try_into().ok()?)
}

/// Returns the address if respgate can dial it. Sentinel announces port 0 for a port that it does not know; a host is a
/// name or a bare IP address.
fn parsed_address(host: &str, port: u16) -> Option<Address> {
    let plausible = (1..=255).contains(&host.len()) && host.bytes().all(|byte| byte.is_ascii_graphic());
    (plausible && port != 0).then(|| Address::tcp(host, port))
}

fn translated(announced: Address, config: &SentinelConfig) -> Address {
    config.nat.get(&announced).cloned().unwrap_or(announced)
}

/// Returns true if `id` has the form of a run id or Sentinel id: 40 hexadecimal digits. Sentinel shows an empty id
/// before it knows a node's.
fn is_id(id: &str) -> bool {
    id.len() == 40 && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests;
