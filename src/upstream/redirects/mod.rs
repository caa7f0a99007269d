//! Follows the redirects of a cluster's nodes for the commands of shared connections: sends each redirected command to the node that
//! runs it, at once or as soon as there is one, and fails it after `hold-timeout`.
//!
//! A pump hands over what its node has not run. The reply keeps its place ([`Replies::redirected`](super::replies::Replies::redirected)).
//! `step` decides how a command goes on, and `waiting` keeps those that cannot be sent yet.

mod step;
mod under_way;
mod waiting;

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until};

use self::step::{NextStep, TooManyRedirects};
use self::under_way::UnderWay;
use self::waiting::{Fate, WaitingCommand, WaitingCommands};
use super::config::LiveConfig;
use super::connection::open::ConnectionKey;
use super::replies::Replies;
use super::shared::lane::Lane;
use super::shared::queue::redirected::RedirectedRequest;
use crate::cluster::redirect::Redirect;
use crate::cluster::slot::Slot;
use crate::command::key_index::keys_of;
use crate::command::{self, Found};
use crate::hint::Hint;
use crate::metrics::Counters;
use crate::resp::request::Request;
use crate::topology::{Address, Generation};

/// The pause before the next look whether a command that may be sent has a node that takes it. News of the cluster end it.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// The time for which a command waits for news of the cluster, when the node that redirected it is still the one that serves its slot.
const NEWS: Duration = Duration::from_millis(500);

/// The lane at a node, and which primary that is.
pub(in crate::upstream) struct NodeLane {
    pub(in crate::upstream) lane: Rc<Lane>,
    /// The primary; `None` while the shard has none.
    pub(in crate::upstream) generation: Option<Generation>,
}

/// Finds the lanes of a cluster.
pub(in crate::upstream) trait SlotLanes {
    /// Returns the lane for `key` at the only primary; `None` in front of a cluster.
    fn only(&self, _key: &ConnectionKey) -> Option<NodeLane> {
        None
    }

    /// Returns the lane for `key` at the primary with this address. Returns `None` while no shard has such a primary.
    fn at(&self, address: &Address, key: &ConnectionKey) -> Option<NodeLane>;

    /// Returns the lane for `key` at the shard that serves `slot`.
    fn of(&self, slot: Slot, key: &ConnectionKey) -> NodeLane;

    /// Takes note that a node has said that the primary with this address serves `slot`. Does nothing if no shard has such a primary.
    fn moved(&self, slot: Slot, to: &Address);

    /// Takes note that a node has said that `slot` is on its way to another node.
    fn is_on_its_way(&self, slot: Slot);
}

/// The node that has not run some commands.
pub(in crate::upstream) struct RedirectingNode<'a> {
    pub(in crate::upstream) key: &'a ConnectionKey,
    pub(in crate::upstream) generation: Generation,
    pub(in crate::upstream) address: Option<&'a Address>,
}

/// Follows the redirects of one worker's side of a cluster. See the module.
pub(in crate::upstream) struct Redirects {
    /// True while the upstream is a cluster.
    active: Cell<bool>,
    config: Rc<LiveConfig>,
    counters: Rc<Counters>,
    hints: mpsc::Sender<Hint>,
    lanes: OnceCell<Weak<dyn SlotLanes>>,
    waiting: RefCell<WaitingCommands>,
    under_way: RefCell<UnderWay>,
    news: Notify,
}

impl Redirects {
    /// Creates the part. It follows no redirect before [`Self::send_by`] and [`Self::set_active`].
    pub(in crate::upstream) fn new(
        config: Rc<LiveConfig>,
        counters: Rc<Counters>,
        hints: mpsc::Sender<Hint>,
    ) -> Rc<Self> {
        let (active, lanes, waiting, under_way, news) = Default::default();
        Rc::new(Self { active, config, counters, hints, lanes, waiting, under_way, news })
    }

    /// Begins or ceases to follow redirects: the upstream is a cluster from now on, or is none any more. Commands that wait go on to
    /// wait for a node.
    pub(in crate::upstream) fn set_active(&self, active: bool) {
        self.active.set(active);
    }

    /// Returns true while the upstream is a cluster.
    pub(in crate::upstream) fn is_active(&self) -> bool {
        self.active.get()
    }

    /// Sends redirected commands by these lanes.
    pub(in crate::upstream) fn send_by(&self, lanes: Weak<dyn SlotLanes>) {
        let _ = self.lanes.set(lanes);
    }

    /// Takes over commands that `node` has not run, each with its error reply.
    pub(in crate::upstream) fn follow(
        &self,
        node: &RedirectingNode<'_>,
        refused: Vec<(RedirectedRequest, Redirect, Box<[u8]>)>,
    ) {
        for (request, redirect, line) in refused {
            self.count(&redirect);
            self.follow_one(node, request, &redirect, line);
        }
        self.note_news();
    }

    fn follow_one(
        &self,
        node: &RedirectingNode<'_>,
        mut request: RedirectedRequest,
        redirect: &Redirect,
        why: Box<[u8]>,
    ) {
        let now = Instant::now();
        let (tries, since) = request.replies.tries().unwrap_or((Default::default(), now));
        let step = match NextStep::after(redirect, node.address, tries) {
            Ok(step) => step,
            Err(TooManyRedirects) => return self.fail(&request, &self.too_many_redirects(&why)),
        };
        let slot = redirect.slot().or_else(|| slot_of(&request.bytes));
        self.tell_discovery(redirect, node, &step);
        self.note_moving(redirect, slot);
        request.replies.set_tries(step.tries);
        if !step.pause.is_zero() {
            request.arrival = request.arrival.delayed_for_primary();
        }
        let command = WaitingCommand {
            request,
            key: node.key.clone(),
            // A command whose slot is unknown is tried again where it was.
            to: step.to.or_else(|| node.address.filter(|_| slot.is_none()).cloned()),
            slot,
            asks: step.asks,
            origin: None,
            from: node.generation,
            ready: now + step.pause,
            deadline: since + self.config.get().hold_timeout,
            why,
        };
        self.send_or_wait(command, now);
    }

    fn send_or_wait(&self, command: WaitingCommand, now: Instant) {
        self.under_way.borrow_mut().remove(command.series(), &command.request.replies);
        let sent = match command.ready <= now && !self.waiting.borrow().is_behind(&command) {
            true => self.send(command, now),
            false => Fate::Waits(command),
        };
        if let Fate::Waits(command) = sent {
            self.wait(command);
        }
    }

    /// Takes over reads that a replica, reached by connections for `key`, has not run. They go to the primaries of their slots.
    pub(in crate::upstream) fn send_to_primaries(
        &self,
        key: &ConnectionKey,
        from: Generation,
        refused: Vec<(RedirectedRequest, Redirect, Box<[u8]>)>,
    ) {
        let now = Instant::now();
        for (request, redirect, why) in refused {
            self.count(&redirect);
            self.counters.replica_reads_returned.inc();
            let slot = redirect.slot().or_else(|| slot_of(&request.bytes));
            self.note_moving(&redirect, slot);
            // What a replica knows of the cluster may be older than what discovery knows, so no slot moves because of it.
            self.hint(Hint::ClusterDown(from));
            let since = request.replies.tries().map_or(now, |(_, since)| since);
            let command = WaitingCommand {
                request,
                key: key.clone(),
                to: None,
                slot,
                asks: false,
                origin: None,
                from,
                ready: now,
                deadline: since + self.config.get().hold_timeout,
                why,
            };
            self.send_or_wait(command, now);
        }
        self.note_news();
    }

    /// Takes note of a slot that is on its way to another node.
    fn note_moving(&self, redirect: &Redirect, slot: Option<Slot>) {
        if let (Redirect::Ask { .. } | Redirect::TryAgain, Some(slot)) = (redirect, slot)
            && let Some(lanes) = self.lanes.get().and_then(Weak::upgrade)
        {
            lanes.is_on_its_way(slot);
        }
    }

    /// Sends a hint to discovery. If many wait already, one more would add nothing.
    fn hint(&self, hint: Hint) {
        let _ = self.hints.try_send(hint);
    }

    fn wait(&self, command: WaitingCommand) {
        let added = self.waiting.borrow_mut().add(command, self.config.get().hold_buffer);
        if let Err(command) = added {
            self.fail(&command.request, &self.overflow());
        }
    }

    /// Takes over the requests of clients whose earlier commands wait, because `lane` has lost its connection to the primary `from`:
    /// on its next connection they would overtake those. The lane's queue is settled.
    pub(in crate::upstream) fn keep_order(&self, lane: &Rc<Lane>, from: Generation) {
        if self.waiting.borrow().is_empty() {
            return;
        }
        let clients = self.waiting.borrow().clients();
        self.take_over_from(lane, from, |client| clients.contains(&client), b"the connection to it was lost");
    }

    /// Takes over every request of a lane whose shard is gone. The lane has no connection, and its queue is settled.
    pub(in crate::upstream) fn take_over(&self, lane: &Rc<Lane>) {
        self.take_over_from(lane, Generation(0), |_| true, b"it has left the cluster");
    }

    fn take_over_from(
        &self,
        lane: &Rc<Lane>,
        from: Generation,
        is_taken: impl Fn(*const Replies) -> bool,
        why: &[u8],
    ) {
        let taken = lane.queue.borrow_mut().take_behind(is_taken);
        let now = Instant::now();
        for request in taken {
            let since = request.replies.tries().map_or(now, |(_, since)| since);
            let command = WaitingCommand {
                key: lane.key().clone(),
                slot: slot_of(&request.bytes),
                to: None,
                asks: false,
                origin: Some(lane.clone()),
                from,
                ready: now,
                deadline: since + self.config.get().hold_timeout,
                why: why.into(),
                request,
            };
            self.under_way.borrow_mut().remove(command.series(), &command.request.replies);
            self.wait(command);
        }
        self.note_news();
    }

    /// Sends a command, or fails it if it has waited too long.
    fn send(&self, mut command: WaitingCommand, now: Instant) -> Fate {
        if command.deadline <= now {
            self.counters.hold_expired.inc();
            self.fail(&command.request, &self.expired(&command));
            return Fate::Gone;
        }
        let Some(lanes) = self.lanes.get().and_then(Weak::upgrade) else { return Fate::Gone };
        let series = command.series();
        let free = |(lane, _): &(Rc<Lane>, bool)| !self.under_way.borrow().is_elsewhere(series, lane);
        match destination(&*lanes, &command, now).filter(free) {
            Some((lane, asks)) => {
                self.under_way.borrow_mut().add(series, &command.request.replies, &lane);
                lane.push_redirected(command.request, asks);
                Fate::Gone
            }
            None => {
                command.request.arrival = command.request.arrival.delayed_for_primary();
                Fate::Waits(command)
            }
        }
    }

    /// Sends the commands that wait, as soon as that is possible.
    pub(in crate::upstream) async fn send_waiting(self: Rc<Self>) {
        loop {
            let next = self.waiting.borrow().next_at();
            match next {
                None => self.news.notified().await,
                Some(next) => {
                    let next = next.max(Instant::now() + LOOK_AGAIN);
                    tokio::select! {
                        () = self.news.notified() => {}
                        () = sleep_until(next) => {}
                    }
                }
            }
            self.review();
        }
    }

    /// Takes note that a shard has another primary, or a slot another shard.
    pub(in crate::upstream) fn note_news(&self) {
        if !self.waiting.borrow().is_empty() {
            self.news.notify_one();
        }
    }

    fn review(&self) {
        let now = Instant::now();
        // Lanes do not come back here from a push, so the borrow is safe.
        self.waiting.borrow_mut().review(now, |command| self.send(command, now));
    }

    fn count(&self, redirect: &Redirect) {
        match redirect {
            Redirect::Moved { .. } => self.counters.redirects_moved.inc(),
            Redirect::Ask { .. } => self.counters.redirects_ask.inc(),
            Redirect::TryAgain => self.counters.redirects_tryagain.inc(),
            Redirect::ClusterDown => self.counters.redirects_clusterdown.inc(),
        }
    }

    fn tell_discovery(&self, redirect: &Redirect, node: &RedirectingNode<'_>, step: &NextStep) {
        let hint = match (redirect, &step.to) {
            (Redirect::Moved { slot, .. }, Some(to)) => {
                if let Some(lanes) = self.lanes.get().and_then(Weak::upgrade) {
                    lanes.moved(*slot, to);
                }
                Hint::Moved { slot: *slot, to: to.clone() }
            }
            // Discovery learns from the nodes which slots are on their way.
            _ => Hint::ClusterDown(node.generation),
        };
        self.hint(hint);
    }

    fn fail(&self, request: &RedirectedRequest, line: &str) {
        self.counters.redirects_failed.inc();
        request.fail(line.as_bytes());
    }

    fn too_many_redirects(&self, why: &[u8]) -> String {
        format!(
            "-ERR respgate: the nodes of the cluster redirected this command too often (upstream '{}'); the last one said: {}\r\n",
            self.config.name,
            shown(why)
        )
    }

    fn overflow(&self) -> String {
        format!(
            "-ERR respgate: commands that wait for a node of the cluster fill hold-buffer (upstream '{}'); raise hold-buffer\r\n",
            self.config.name
        )
    }

    fn expired(&self, command: &WaitingCommand) -> String {
        let slot = command.slot.map_or_else(|| "?".to_owned(), |slot| slot.number().to_string());
        let waited = self.config.get().hold_timeout.as_secs();
        format!(
            "-ERR respgate: no node of the cluster ran this command for {waited} s (slot {slot}, upstream '{}', hold-timeout); the last one said: {}\r\n",
            self.config.name,
            shown(&command.why)
        )
    }
}

/// Returns the lane that takes a command at `now`, and whether ASKING must precede it there.
fn destination(lanes: &dyn SlotLanes, command: &WaitingCommand, now: Instant) -> Option<(Rc<Lane>, bool)> {
    let named = command.to.as_ref().and_then(|to| lanes.at(to, &command.key));
    let (node, asks) = match (lanes.only(&command.key), named, command.slot) {
        (Some(only), ..) => (only, false),
        (None, Some(named), _) => (named, command.asks),
        (None, None, None) => {
            let origin = command.origin.as_ref().filter(|origin| origin.takes_redirected());
            return origin.map(|origin| (origin.clone(), false));
        }
        (None, None, Some(slot)) => {
            let serving = lanes.of(slot, &command.key);
            // Discovery has not found the named node yet. The one that redirected would only do it again.
            let stale = command.to.is_some() && serving.generation == Some(command.from);
            if stale && now < command.ready + NEWS {
                return None;
            }
            (serving, false)
        }
    };
    (node.generation.is_some() && node.lane.takes_redirected()).then_some((node.lane, asks))
}

/// Returns the slot of a request's first key. It is slow: only redirected requests need it.
fn slot_of(request: &[u8]) -> Option<Slot> {
    let request = Request::parse(request)?;
    let Some(Found::Spec(spec)) = command::find(&request) else { return None };
    let mut slot = None;
    let _ = keys_of(spec).all(&request, |key| {
        slot = Some(Slot::of(key));
        false
    });
    slot
}

/// Returns a server's error line without control characters, for an error of respgate's own.
fn shown(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    text.trim_start_matches('-').chars().filter(|c| !c.is_control()).take(200).collect()
}
