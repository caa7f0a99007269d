//! Knows the shard channels of one client, at which link each of them is, and what the client asks for. No I/O.
//!
//! A link is the client's subscription at one shard. It carries one request at a time. A channel whose slot moves goes from one link to
//! another, and the client sees nothing of that.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;

use crate::resp::pubsub::{MAX_NAME_BYTES, MAX_SUBSCRIPTIONS};

/// A channel's name.
pub(super) type Name = Rc<[u8]>;

/// The number of a link.
pub(super) type LinkId = u32;

/// Tells the requests for one channel apart: only the newest counts.
type Ticket = u64;

/// The estimated size of one channel without its name, in bytes.
const CHANNEL_SIZE: usize = 128;

/// The number of channels in one request to a link.
const NAMES_PER_REQUEST: usize = 512;

/// The outcome of a request, or of a part of it, that the client sees.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Shown<'a> {
    /// A subscription began (true) or ended. The client now has this number of shard channels.
    Confirmed(bool, Option<&'a [u8]>, usize),
    /// The request is refused with this error line.
    Refused(&'a [u8]),
}

/// A request to a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LinkRequest {
    /// Subscribe to these channels.
    Begin(Vec<Name>),
    /// End the subscriptions to these channels.
    End(Vec<Name>),
}

/// Where a channel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Nowhere: it waits for a link.
    Nowhere,
    /// The request to this link asks for it that gave it this ticket.
    Asked(LinkId, Ticket),
    /// This link has it.
    At(LinkId),
    /// A link ends it, because the client has asked for that.
    Ending,
}

/// A channel that the client has, or asks for.
struct Channel {
    place: Place,
    /// True if the client has it.
    confirmed: bool,
}

/// A request of a link.
enum Queued {
    Begin(Vec<(Name, Ticket)>),
    /// `awaited`: the client's open request waits for it.
    End {
        names: Vec<Name>,
        awaited: bool,
    },
}

/// The requests of one link.
#[derive(Default)]
struct Link {
    under_way: Option<Queued>,
    /// True if the link has ended what is under way, and its server has not confirmed that.
    is_confirming: bool,
    waiting: VecDeque<Queued>,
}

/// The client's open request.
enum Open {
    /// The client asks for these channels. `missing` of them are at no link yet, and the first `next` are confirmed.
    Begin { names: Vec<Name>, missing: usize, next: usize },
    /// The client ends these channels.
    End(std::vec::IntoIter<Name>),
}

/// The book of one client. See the module.
#[derive(Default)]
pub(super) struct Book {
    channels: HashMap<Name, Channel>,
    /// The number of channels that the client has.
    confirmed: usize,
    /// The length of all names, in bytes.
    name_bytes: usize,
    links: BTreeMap<LinkId, Link>,
    /// The channels that wait for a link.
    displaced: Vec<Name>,
    open: Option<Open>,
    /// The error line by which the open request is refused.
    refusal: Option<Vec<u8>>,
    /// The number of requests to links that are under way or wait.
    requests: usize,
    tickets: Ticket,
    /// True if the end of a channel is confirmed once its server has confirmed it.
    exact: bool,
    /// The number of requests that the open request waits for, if it ends channels.
    ending: usize,
}

impl Book {
    /// Creates the book of a client without channels. `exact`: the end of a channel is confirmed once its server has confirmed it.
    pub(super) fn new(exact: bool) -> Self {
        Self { exact, ..Self::default() }
    }

    /// Returns the number of channels that the client has.
    pub(super) fn count(&self) -> usize {
        self.confirmed
    }

    /// Returns the estimated size of the channels, in bytes.
    pub(super) fn size(&self) -> usize {
        self.name_bytes + self.channels.len() * CHANNEL_SIZE
    }

    /// Returns true if the client has an open request.
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some() || self.refusal.is_some()
    }

    /// Returns true if every channel has a link, and no link has a request.
    pub(super) fn is_calm(&self) -> bool {
        self.requests == 0 && self.displaced.is_empty()
    }

    /// Returns true if [`Self::proceed`] has something to do.
    pub(super) fn is_ready(&self) -> bool {
        self.refusal.is_some()
            || match &self.open {
                Some(Open::Begin { missing, .. }) => *missing == 0,
                Some(Open::End(_)) => self.ending == 0,
                None => false,
            }
    }

    /// Returns true if `matches` holds for a channel that the client has, or asks for.
    pub(super) fn any(&self, mut matches: impl FnMut(&[u8]) -> bool) -> bool {
        self.channels.keys().any(|name| matches(name))
    }

    /// Returns true if the client gets the messages of this channel.
    pub(super) fn has(&self, name: &[u8]) -> bool {
        self.channels.get(name).is_some_and(|channel| channel.confirmed)
    }

    /// Returns true if `names` more names of `bytes` bytes exceed what one client may have.
    pub(super) fn would_exceed(&self, names: usize, bytes: usize) -> bool {
        self.channels.len() + names > MAX_SUBSCRIPTIONS || self.name_bytes + bytes > MAX_NAME_BYTES
    }

    /// Handles the client's request for channels. No request may be open.
    pub(super) fn subscribe(&mut self, names: Vec<Name>) {
        let mut missing = 0;
        for name in &names {
            if !self.channels.contains_key(name) {
                let channel = Channel { place: Place::Nowhere, confirmed: false };
                self.channels.insert(name.clone(), channel);
                self.name_bytes += name.len();
                self.displaced.push(name.clone());
                missing += 1;
            }
        }
        self.open = Some(Open::Begin { names, missing, next: 0 });
    }

    /// Takes over channels that the client has on another connection, which is lost.
    pub(super) fn adopt(&mut self, names: impl Iterator<Item = Name>) {
        for name in names {
            let channel = Channel { place: Place::Nowhere, confirmed: true };
            if self.channels.insert(name.clone(), channel).is_none() {
                self.name_bytes += name.len();
                self.confirmed += 1;
                self.displaced.push(name);
            }
        }
    }

    /// Handles the client's request to end channels; without names, all. No request may be open.
    pub(super) fn unsubscribe(&mut self, names: Vec<Name>, mut show: impl FnMut(Shown<'_>)) {
        let names = match names.is_empty() {
            true => self.channels.keys().cloned().collect(),
            false => names,
        };
        if names.is_empty() {
            return show(Shown::Confirmed(false, None, 0));
        }
        if self.exact {
            self.end_first(&names);
        }
        self.open = Some(Open::End(names.into_iter()));
    }

    /// Confirms `limit` names of the open request at most, if all of it may be confirmed, or refuses it. Returns true if it is over, or
    /// if there was none.
    pub(super) fn proceed(&mut self, limit: usize, mut show: impl FnMut(Shown<'_>)) -> bool {
        if let Some(line) = self.refusal.take() {
            self.open = None;
            show(Shown::Refused(&line));
            return true;
        }
        match self.open.take() {
            None => true,
            Some(Open::Begin { names, missing, next }) => {
                if missing > 0 {
                    self.open = Some(Open::Begin { names, missing, next });
                    return false;
                }
                let end = names.len().min(next.saturating_add(limit));
                for name in names.get(next..end).unwrap_or_default() {
                    if let Some(channel) = self.channels.get_mut(name) {
                        self.confirmed += usize::from(!std::mem::replace(&mut channel.confirmed, true));
                    }
                    show(Shown::Confirmed(true, Some(name), self.confirmed));
                }
                let over = end == names.len();
                self.open = (!over).then_some(Open::Begin { names, missing, next: end });
                over
            }
            Some(Open::End(names)) if self.ending > 0 => {
                self.open = Some(Open::End(names));
                false
            }
            Some(Open::End(mut names)) => {
                let mut ends: BTreeMap<LinkId, Vec<Name>> = BTreeMap::new();
                for name in names.by_ref().take(limit) {
                    if let Some(channel) = self.remove(&name) {
                        self.confirmed -= usize::from(channel.confirmed);
                        if let Place::At(link) = channel.place {
                            ends.entry(link).or_default().push(name.clone());
                        }
                    }
                    show(Shown::Confirmed(false, Some(&name), self.confirmed));
                }
                for (link, names) in ends {
                    self.request(link, Queued::End { names, awaited: false });
                }
                let over = names.len() == 0;
                self.open = (!over).then_some(Open::End(names));
                over
            }
        }
    }

    /// Has links end these channels before the client gets confirmations.
    fn end_first(&mut self, names: &[Name]) {
        let mut ends: BTreeMap<LinkId, Vec<Name>> = BTreeMap::new();
        for name in names {
            if let Some(channel) = self.channels.get_mut(name)
                && let Place::At(link) = channel.place
            {
                channel.place = Place::Ending;
                ends.entry(link).or_default().push(name.clone());
            }
        }
        self.ending = ends.len();
        for (link, names) in ends {
            self.request(link, Queued::End { names, awaited: true });
        }
    }

    /// Returns true if channels wait for a link.
    pub(super) fn has_displaced(&self) -> bool {
        !self.displaced.is_empty()
    }

    /// Gives the channels that wait their links, as `link_of` says; `None` while there is none. Returns those that go on waiting.
    pub(super) fn place(&mut self, mut link_of: impl FnMut(&[u8]) -> Option<LinkId>) -> Vec<Name> {
        let mut unplaced = Vec::new();
        // A refusal must say whether it concerns channels that the client has.
        let mut asked: BTreeMap<(LinkId, bool), Vec<(Name, Ticket)>> = BTreeMap::new();
        for name in std::mem::take(&mut self.displaced) {
            let Some(channel) = self.channels.get_mut(&name) else { continue };
            if channel.place != Place::Nowhere {
                continue;
            }
            match link_of(&name) {
                Some(link) => {
                    self.tickets += 1;
                    channel.place = Place::Asked(link, self.tickets);
                    asked.entry((link, channel.confirmed)).or_default().push((name, self.tickets));
                }
                None => unplaced.push(name),
            }
        }
        for ((link, _), names) in asked {
            for names in names.chunks(NAMES_PER_REQUEST) {
                self.request(link, Queued::Begin(names.to_vec()));
            }
        }
        unplaced
    }

    /// Has these channels wait for a link again.
    pub(super) fn displace(&mut self, names: Vec<Name>) {
        self.displaced.extend(names);
    }

    fn request(&mut self, link: LinkId, request: Queued) {
        self.requests += 1;
        self.links.entry(link).or_default().waiting.push_back(request);
    }

    /// Returns the next requests for the links that have none under way.
    pub(super) fn next_requests(&mut self) -> Vec<(LinkId, LinkRequest)> {
        if self.requests == 0 {
            return Vec::new();
        }
        let (channels, requests) = (&self.channels, &mut self.requests);
        let mut next = Vec::new();
        for (id, link) in &mut self.links {
            while link.under_way.is_none()
                && let Some(mut request) = link.waiting.pop_front()
            {
                let asked = match &mut request {
                    Queued::Begin(names) => {
                        // The client may have ended some of them since, or they may have moved.
                        names.retain(|(name, ticket)| is_asked(channels, name, *id, *ticket));
                        LinkRequest::Begin(names.iter().map(|(name, _)| name.clone()).collect())
                    }
                    Queued::End { names, .. } => LinkRequest::End(names.clone()),
                };
                if matches!(&asked, LinkRequest::Begin(names) if names.is_empty()) {
                    *requests -= 1;
                    continue;
                }
                link.under_way = Some(request);
                next.push((*id, asked));
            }
        }
        next
    }

    /// Takes note that a link has done its request, apart from the server's confirmation of an end.
    pub(super) fn answered(&mut self, link: LinkId) {
        match self.links.get_mut(&link) {
            Some(known) if self.exact && matches!(known.under_way, Some(Queued::End { .. })) => {
                known.is_confirming = true;
            }
            _ => self.done(link),
        }
    }

    /// Takes note that a link's server has confirmed every end.
    pub(super) fn settled(&mut self, link: LinkId) {
        if self.links.get(&link).is_some_and(|known| known.is_confirming) {
            self.done(link);
        }
    }

    /// Takes note that a link has done its request.
    pub(super) fn done(&mut self, link: LinkId) {
        let names = match self.take_under_way(link) {
            Some(Queued::Begin(names)) => names,
            Some(Queued::End { awaited: true, .. }) => {
                self.ending = self.ending.saturating_sub(1);
                return;
            }
            Some(Queued::End { awaited: false, .. }) | None => return,
        };
        let mut unwanted = Vec::new();
        for (name, ticket) in names {
            match self.channels.get_mut(&name) {
                Some(channel) if channel.place == Place::Asked(link, ticket) => {
                    channel.place = Place::At(link);
                    if !channel.confirmed {
                        self.found();
                    }
                }
                _ => unwanted.push(name),
            }
        }
        if !unwanted.is_empty() {
            // Before any request that asks for them anew.
            self.requests += 1;
            let end = Queued::End { names: unwanted, awaited: false };
            self.links.entry(link).or_default().waiting.push_front(end);
        }
    }

    /// Takes note that a link has refused its request because another shard must take it. Returns the channels that wait for a link
    /// again.
    pub(super) fn redirected(&mut self, link: LinkId) -> Vec<Name> {
        let Some(Queued::Begin(names)) = self.take_under_way(link) else { return Vec::new() };
        let mut waiting = Vec::new();
        for (name, ticket) in names {
            if let Some(channel) = self.channels.get_mut(&name)
                && channel.place == Place::Asked(link, ticket)
            {
                channel.place = Place::Nowhere;
                waiting.push(name);
            }
        }
        waiting
    }

    /// Takes note that a link has refused its request. Returns false if the client has one of its channels, and so loses it.
    pub(super) fn refused(&mut self, link: LinkId, line: &[u8]) -> bool {
        let names = self.redirected(link);
        self.give_up(&names, line)
    }

    /// Gives up channels that have no link. Refuses the open request if they are of it. Returns false if the client has one of them.
    pub(super) fn give_up(&mut self, names: &[Name], line: &[u8]) -> bool {
        let waits =
            |name: &Name| self.channels.get(name).is_some_and(|channel| channel.place == Place::Nowhere);
        let (confirmed, asked): (Vec<&Name>, Vec<&Name>) =
            names.iter().filter(|name| waits(name)).partition(|name| self.has(name));
        if !asked.is_empty() && matches!(self.open, Some(Open::Begin { .. })) {
            self.refusal.get_or_insert_with(|| line.to_vec());
            self.drop_asked();
        }
        confirmed.is_empty()
    }

    /// Takes note that the slot of a channel has left a link's server, which has ended the subscription.
    pub(super) fn moved(&mut self, link: LinkId, name: &Name) {
        let Some(channel) = self.channels.get_mut(name) else { return };
        let was_there = channel.place == Place::At(link);
        if !was_there && !matches!(channel.place, Place::Asked(at, _) if at == link) {
            return;
        }
        channel.place = Place::Nowhere;
        self.displaced.push(name.clone());
        if was_there
            && !channel.confirmed
            && let Some(Open::Begin { missing, .. }) = &mut self.open
        {
            *missing += 1;
        }
    }

    /// Drops the channels that the client has asked for and not got.
    fn drop_asked(&mut self) {
        let Some(Open::Begin { names, .. }) = self.open.take() else { return };
        let mut ends: BTreeMap<LinkId, Vec<Name>> = BTreeMap::new();
        for name in names {
            if self.has(&name) {
                continue;
            }
            if let Some(Channel { place: Place::At(link), .. }) = self.remove(&name) {
                ends.entry(link).or_default().push(name);
            }
        }
        for (link, names) in ends {
            self.request(link, Queued::End { names, awaited: false });
        }
    }

    fn take_under_way(&mut self, link: LinkId) -> Option<Queued> {
        let known = self.links.get_mut(&link)?;
        known.is_confirming = false;
        let request = known.under_way.take()?;
        self.requests -= 1;
        Some(request)
    }

    fn remove(&mut self, name: &Name) -> Option<Channel> {
        let channel = self.channels.remove(name)?;
        self.name_bytes -= name.len();
        Some(channel)
    }

    /// Takes note that a channel of the open request has a link.
    fn found(&mut self) {
        if let Some(Open::Begin { missing, .. }) = &mut self.open {
            *missing = missing.saturating_sub(1);
        }
    }
}

/// Returns true if a channel is asked for at this link with this ticket.
fn is_asked(channels: &HashMap<Name, Channel>, name: &Name, link: LinkId, ticket: Ticket) -> bool {
    channels.get(name).is_some_and(|channel| channel.place == Place::Asked(link, ticket))
}

#[cfg(test)]
mod tests;
