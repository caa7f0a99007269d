//! Parses what one node says of its cluster: CLUSTER NODES, which has epochs, and CLUSTER SLOTS, which has the endpoints that the
//! nodes want clients to use. Pure. Everything here may be stale or hostile.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::cluster::slot::Slot;
use crate::resp::value::Value;
use crate::topology::Address;

/// The greatest number of nodes that respgate reads of one view. A cluster has at most about 1,000.
const MAX_NODES: usize = 1024;

/// The greatest number of ranges of slots that respgate reads of one node. More would be single slots with gaps between them.
const MAX_RANGES: usize = 8192;

/// The longest id of a node, in bytes. Servers use 40.
const MAX_ID: usize = 64;

/// The places of the times of the last ping and pong in a line of CLUSTER NODES.
const TIMES: RangeInclusive<usize> = 4..=5;

/// The longest host name, in bytes.
const MAX_HOST: usize = 255;

/// The id under which a cluster knows a node. It stays the same when the node restarts.
pub(super) type ClusterNodeId = Arc<str>;

/// What a node says that a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ClaimedRole {
    Primary,
    /// It replicates the node of this id.
    Replica(ClusterNodeId),
}

/// What a node says of one node: of itself, or of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NodeClaim {
    pub(super) id: ClusterNodeId,
    /// Where clients reach it; `None` if the speaker does not know.
    pub(super) address: Option<Address>,
    pub(super) role: ClaimedRole,
    /// Its config epoch; that of its primary if it is a replica.
    pub(super) epoch: u64,
    /// True if the speaker speaks of itself.
    pub(super) is_myself: bool,
    /// True if a majority of the primaries finds that it has failed, as far as the speaker knows.
    pub(super) has_failed: bool,
    /// True if the speaker finds itself that it may have failed, or knows that it has.
    pub(super) is_suspected: bool,
    /// The slots that it serves.
    pub(super) slots: Vec<RangeInclusive<u16>>,
    /// The slots that are on their way from it or to it. A node says this of itself only.
    pub(super) moving: Vec<Slot>,
}

/// What one node says of all nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ClusterView {
    pub(super) nodes: Vec<NodeClaim>,
}

/// Where clients reach a node.
enum Endpoint {
    /// At this host.
    Host(String),
    /// At the host at which they reached the speaker.
    SameHost,
    /// The node has no endpoint of the preferred kind.
    Unknown,
}

/// The kind of endpoint that the speaker prefers, for nodes of which CLUSTER SLOTS does not speak.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Preference {
    Ip,
    Hostname,
    SameHost,
}

/// Reads the replies to CLUSTER NODES and CLUSTER SLOTS. `asked` is the address at which the node was asked, and `nat` maps
/// announced addresses to those to dial. Returns `None` if the first reply is none of CLUSTER NODES.
pub(super) fn view(
    nodes: &Value,
    slots: &Value,
    asked: &Address,
    nat: &HashMap<Address, Address>,
) -> Option<ClusterView> {
    let lines: Vec<NodeLine<'_>> =
        nodes.text()?.lines().take(MAX_NODES).filter_map(NodeLine::parse).collect();
    if !lines.iter().any(NodeLine::is_myself) {
        return None;
    }
    let endpoints = endpoints(slots);
    let preference = preference(&lines, &endpoints);
    let mut view = ClusterView::default();
    for line in &lines {
        if view.nodes.iter().any(|known| *known.id == *line.id) || line.has("handshake") {
            continue;
        }
        let address = line.address(endpoints.get(line.id), preference, asked);
        let address = address.map(|announced| nat.get(&announced).cloned().unwrap_or(announced));
        view.nodes.extend(line.claim(address));
    }
    Some(view)
}

/// Returns what a reply to CLUSTER NODES says, without the times of the last pings, which differ whenever a node is asked.
pub(super) fn without_times(nodes: &str) -> String {
    let mut rest = String::with_capacity(nodes.len());
    for line in nodes.lines() {
        let fields = line.split_ascii_whitespace().enumerate();
        for (_, field) in fields.filter(|(place, _)| !TIMES.contains(place)) {
            rest.push_str(field);
            rest.push(' ');
        }
        rest.push('\n');
    }
    rest
}

/// Returns the endpoint and port of each node of which CLUSTER SLOTS speaks.
fn endpoints(reply: &Value) -> HashMap<&str, (Endpoint, u16)> {
    let mut endpoints = HashMap::new();
    for range in reply.elements().unwrap_or_default().iter().take(MAX_RANGES) {
        for node in range.elements().unwrap_or_default().iter().skip(2).take(MAX_NODES) {
            let Some([host, port, id, ..]) = node.elements() else { continue };
            let (Some(port), Some(id)) = (port.integer().and_then(port_of), id.text()) else { continue };
            let endpoint = match host {
                Value::Null => Endpoint::SameHost,
                host => match host.text() {
                    Some("") => Endpoint::SameHost,
                    Some(host) if is_host(host) => Endpoint::Host(host.to_owned()),
                    _ => Endpoint::Unknown,
                },
            };
            if endpoints.len() < MAX_NODES {
                endpoints.insert(id, (endpoint, port));
            }
        }
    }
    endpoints
}

fn preference(lines: &[NodeLine<'_>], endpoints: &HashMap<&str, (Endpoint, u16)>) -> Preference {
    for line in lines {
        match endpoints.get(line.id) {
            Some((Endpoint::Host(host), _)) if line.hostname == Some(host) && line.ip != host => {
                return Preference::Hostname;
            }
            // A node that has not learned its own IP says the same of itself.
            Some((Endpoint::SameHost, _)) if !line.is_myself() => return Preference::SameHost,
            _ => {}
        }
    }
    Preference::Ip
}

fn port_of(number: i64) -> Option<u16> {
    u16::try_from(number).ok().filter(|port| *port > 0)
}

fn is_host(host: &str) -> bool {
    let is_known =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'%');
    !host.is_empty() && host.len() <= MAX_HOST && host.bytes().all(is_known)
}

/// One line of CLUSTER NODES:
/// `id ip:port@bus[,hostname[,name=value…]] flags primary ping pong epoch link [slots…]`.
struct NodeLine<'a> {
    id: &'a str,
    ip: &'a str,
    port: Option<u16>,
    hostname: Option<&'a str>,
    flags: &'a str,
    primary: &'a str,
    epoch: u64,
    slots: Vec<RangeInclusive<u16>>,
    moving: Vec<Slot>,
}

impl<'a> NodeLine<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace();
        let id = fields.next().filter(|id| is_id(id))?;
        let mut place = fields.next()?.split(',');
        let address = place.next()?.split('@').next()?;
        let (ip, port) = address.rsplit_once(':')?;
        let hostname = place.next().filter(|name| is_host(name) && !name.contains('='));
        let flags = fields.next()?;
        let primary = fields.next()?;
        let epoch = fields.nth(2)?.parse().ok()?;
        let _link = fields.next()?;
        // A slot on its way stands in brackets; its owner has it until the end.
        let (moving, slots): (Vec<&str>, Vec<&str>) =
            fields.take(MAX_RANGES).partition(|slots| slots.starts_with('['));
        let slots = slots.into_iter().filter_map(range).collect();
        let moving = moving.into_iter().filter_map(moving_slot).collect();
        let port = port.parse().ok().and_then(port_of);
        Some(Self { id, ip, port, hostname, flags, primary, epoch, slots, moving })
    }

    fn has(&self, flag: &str) -> bool {
        self.flags.split(',').any(|known| known == flag)
    }

    fn is_myself(&self) -> bool {
        self.has("myself")
    }

    fn address(
        &self,
        endpoint: Option<&(Endpoint, u16)>,
        preference: Preference,
        asked: &Address,
    ) -> Option<Address> {
        let same_host = |port| match asked {
            Address::Tcp { host, .. } => Some(Address::tcp(host.clone(), port)),
            Address::Unix(_) => None,
        };
        match endpoint {
            Some((Endpoint::Host(host), port)) => return Some(Address::tcp(host.clone(), *port)),
            Some((Endpoint::SameHost, port)) => return same_host(*port),
            Some((Endpoint::Unknown, _)) | None => {}
        }
        let port = self.port.filter(|_| !self.has("noaddr"))?;
        match (preference, self.hostname) {
            (Preference::SameHost, _) => same_host(port),
            (Preference::Hostname, Some(name)) => Some(Address::tcp(name, port)),
            _ if self.ip.is_empty() && self.is_myself() => same_host(port),
            _ => is_host(self.ip).then(|| Address::tcp(self.ip, port)),
        }
    }

    fn claim(&self, address: Option<Address>) -> Option<NodeClaim> {
        let role = if self.has("master") {
            ClaimedRole::Primary
        } else if self.has("slave") && is_id(self.primary) {
            ClaimedRole::Replica(self.primary.into())
        } else {
            return None;
        };
        let slots = if role == ClaimedRole::Primary { self.slots.clone() } else { Vec::new() };
        Some(NodeClaim {
            id: self.id.into(),
            address,
            role,
            epoch: self.epoch,
            is_myself: self.is_myself(),
            has_failed: self.has("fail"),
            is_suspected: self.has("fail") || self.has("fail?"),
            slots,
            moving: if self.is_myself() { self.moving.clone() } else { Vec::new() },
        })
    }
}

fn is_id(id: &str) -> bool {
    (8..=MAX_ID).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Reads `[slot->-node]` or `[slot-<-node]`.
fn moving_slot(text: &str) -> Option<Slot> {
    let (number, _) = text.strip_prefix('[')?.split_once('-')?;
    number.parse().ok().and_then(Slot::new)
}

fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let slot = |text: &str| text.parse().ok().and_then(Slot::new).map(Slot::number);
    let (first, last) = (slot(first)?, slot(last)?);
    (first <= last).then_some(first..=last)
}

#[cfg(test)]
mod tests;
