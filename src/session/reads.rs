//! Sends the reads of a client to a replica, if its listener or tenant wants that.
//!
//! A session may have reads under way at the primary and at one replica at once: `read_place` says when. `seen` says up to which
//! moment a replica must have applied what the primary answered. So a client sees its own writes, and time does not go backwards for
//! it when the node changes.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::Session;
use super::order::{CommandKind, LaneId};
use super::read_place::{ReadFacts, ReadPlace};
use super::read_state::{ReadSite, ReadState};
use super::step::{Pause, Step};
use crate::replica::Reads;
use crate::resp::request::Request;
use crate::upstream::config::{Pool, ReadYourWrites};
use crate::upstream::replica::lane::ReplicaLane;
use crate::upstream::replica::reads::{ReplicaChoice, ReplicaReads};
use crate::upstream::reply_sizes::Placement;
use crate::upstream::shared::queue::IfLost;

/// The time for which a read waits for a replica that nearly has what the client has seen.
const CATCH_UP: Duration = Duration::from_millis(20);

/// Where one read goes.
enum Destination {
    /// The primary. Says why no replica, if the client wants one.
    Primary(Option<Fallback>),
    Replica(Rc<ReplicaLane>),
    Wait(Pause),
    /// No replica could serve for `hold-timeout`.
    Nowhere,
}

/// Why a read goes to the primary although the client wants a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fallback {
    /// A replica lacks what the client has seen, or its connection is not open yet.
    Behind,
    /// No replica is within the bound.
    Nobody,
}

impl Session {
    /// Follows what the listener and the tenant say about reads.
    pub(super) fn follow_read_policy(&mut self) {
        let tenant =
            self.tenancy.member.as_ref().and_then(|member| member.worker_tenant().tenant.config.reads);
        let policy = tenant.unwrap_or(self.ctx.config.reads);
        let shows = self.ctx.upstream_config.read_your_writes;
        // Clients that only write tell those that read.
        let takes_part = policy != Reads::Primary || shows == ReadYourWrites::Tenant;
        if takes_part || self.lanes.reads.is_some() {
            let served = self.output.awaited() > 0 || self.output.replies.progress() > 0;
            let unknown = self.lanes.reads.as_ref().map_or(served, |reads| reads.forgets);
            // The state stays: replies of a replica may be due.
            let reads = self.lanes.reads.get_or_insert_default();
            if unknown {
                // The client may have written before a reload has set its policy.
                reads.common.seen.note_lease();
            }
            reads.waits_until = None;
            (reads.policy, reads.forgets) = (policy, shows == ReadYourWrites::Off);
            let group = (shows == ReadYourWrites::Tenant).then(|| match &self.tenancy.member {
                Some(member) => &member.worker_tenant().tenant.answered,
                None => self.ctx.upstream.answered_writes(),
            });
            reads.common.seen.share(group, Instant::now());
        }
    }

    /// Tells the clients that read of the writes whose replies this poll passes on.
    pub(super) fn announce_writes(&mut self) {
        let (came, due) = (self.output.waiting() > 0, self.output.awaited() > 0);
        if let Some(reads) = &mut self.lanes.reads {
            reads.common.seen.announce(came, due, Instant::now);
        }
    }

    /// Tells the clients that read of a command that was just answered on a connection of the session's own.
    pub(super) fn announce_leased(&self, if_lost: IfLost) {
        if let Some(reads) = &self.lanes.reads
            && CommandKind::of(if_lost) == CommandKind::Write
        {
            reads.common.seen.announce_reply(Instant::now);
        }
    }

    /// Takes note of READONLY or READWRITE. Returns false if the client cannot choose.
    pub(super) fn choose_reads(&mut self, replicas: bool) -> bool {
        match &mut self.lanes.reads {
            Some(reads) if reads.policy != Reads::Primary => {
                reads.asked = Some(replicas);
                true
            }
            _ => false,
        }
    }

    /// Forgets READONLY and READWRITE, as RESET does.
    pub(super) fn forget_read_choice(&mut self) {
        if let Some(reads) = &mut self.lanes.reads {
            reads.asked = None;
        }
    }

    /// Takes note that a command without keys, or of the only primary, was sent there.
    pub(super) fn note_sent_to_primary(&mut self, request: &Request<'_>, if_lost: IfLost) {
        if let Some(reads) = &mut self.lanes.reads {
            reads.waits_until = None;
            if !shows_no_data(request.name()) {
                reads.common.seen.sent(CommandKind::of(if_lost));
            }
        }
    }

    /// Returns true if replies of the primary are due, apart from those that a lost replica owed. In front of a cluster: those that
    /// count for all shards.
    fn awaits_primary(&self) -> bool {
        self.lanes.shared.as_ref().is_some_and(|lane| self.output.awaits(LaneId::of(lane)))
            || !self.lanes.gathers.is_empty() && self.output.awaits_any(LaneId::is_of_join)
    }

    /// Moves the floor of each primary once all that the session has sent there is answered. The replies have come before now.
    #[cold]
    pub(super) fn settle_reads(&mut self) {
        let shows_writes = self.ctx.upstream_config.read_your_writes != ReadYourWrites::Off;
        if !self.lanes.reads.as_deref().is_some_and(ReadState::is_unsettled) {
            return;
        }
        let common_due = shows_writes && self.awaits_primary();
        let (Some(reads), output) = (self.lanes.reads.as_deref_mut(), &self.output) else { return };
        if !shows_writes {
            return reads.forget_sent();
        }
        let now = Instant::now();
        let from_replicas = reads.mode() != Reads::Primary;
        let upstream = &self.ctx.upstream;
        reads.settle(
            common_due,
            |place| output.awaits(place),
            now,
            |replicas| match replicas {
                Some(replicas) if from_replicas => replicas.sample_soon(now),
                None if from_replicas && !upstream.is_cluster() => upstream.replicas().sample_soon(now),
                _ => {}
            },
        );
    }

    /// Sends a read to a replica or to the primary, or says what it waits for.
    pub(super) fn send_read(&mut self, request: &Request<'_>, if_lost: IfLost) -> Step {
        if !self.lanes.reads.as_deref().is_some_and(|reads| reads.mode() != Reads::Primary) {
            return self.send_shared(request, if_lost);
        }
        if self.ctx.upstream.is_cluster() {
            return self.send_slot_read(request, if_lost);
        }
        let replicas = self.ctx.upstream.replicas().clone();
        self.send_read_at(request, if_lost, ReadSite::Only, &replicas)
    }

    /// As [`Self::send_read`], for the data of one primary, which has these replicas.
    pub(super) fn send_read_at(
        &mut self,
        request: &Request<'_>,
        if_lost: IfLost,
        site: ReadSite,
        replicas: &Rc<ReplicaReads>,
    ) -> Step {
        match self.destination(site, replicas, Instant::now()) {
            Destination::Primary(fallback) => {
                let step = self.send_shared(request, if_lost);
                let counters = &self.ctx.upstream.counters;
                match fallback.filter(|_| matches!(step, Step::Done)) {
                    Some(Fallback::Behind) => counters.replica_fallbacks_behind.inc(),
                    Some(Fallback::Nobody) => counters.replica_fallbacks_none.inc(),
                    None => {}
                }
                step
            }
            Destination::Wait(pause) => Step::Stay(pause),
            Destination::Replica(lane) => {
                if self.output.awaited() >= self.output.replies.window(self.ctx.config.max_pipeline) {
                    return Step::Stay(Pause::Replies);
                }
                let Some(path) = self.output.reply_path(LaneId::of(&lane.lane), CommandKind::Read) else {
                    return Step::Stay(Pause::Replies);
                };
                self.end_wait();
                // Whatever becomes of the replica, the read is sent again.
                self.send_by(&lane.lane, request, IfLost::Resend, CommandKind::Read, path);
                let counters = &self.ctx.upstream.counters;
                counters.replica_reads.inc();
                lane.count_read();
                Step::Done
            }
            Destination::Nowhere => {
                self.end_wait();
                self.ctx.upstream.counters.replica_reads_expired.inc();
                let name = &self.ctx.upstream_config.name;
                let waited = self.ctx.upstream_config.hold_timeout.as_secs();
                self.refuse(
                    format!("-ERR respgate: no replica to read from for {waited} s (upstream '{name}', hold-timeout): none is within max-lag")
                        .as_bytes(),
                );
                Step::Done
            }
        }
    }

    fn destination(&mut self, site: ReadSite, replicas: &Rc<ReplicaReads>, now: Instant) -> Destination {
        self.settle_reads();
        let sizes = self.output.replies.sizes().placement();
        // Writes are under way on lanes of primaries only.
        let behind_write = self.output.reply_path(LaneId::default(), CommandKind::Read).is_none();
        let own_connection = self.ctx.upstream_config.pool == Pool::Session;
        let Some(reads) = &mut self.lanes.reads else { return Destination::Primary(None) };
        let mode = reads.mode();
        let large = sizes != Placement::Shared;
        if mode == Reads::Primary || own_connection || large {
            return Destination::Primary(None);
        }
        let moved = self.account.moved();
        let facts = ReadFacts {
            mode,
            behind_write,
            primary_due: reads.is_unsettled_at(site),
            long_away: reads.is_long_away(site, now),
        };
        let again = reads.waits_until.is_some();
        let floor = reads.floor(site, moved, again);
        let (kept, output) = (reads.lane(site), &self.output);
        let serves = || kept.is_some_and(|kept| kept.lane.is_open() && kept.serves(floor, now));
        let due = || kept.is_some_and(|kept| output.awaits(LaneId::of(&kept.lane)));
        match facts.place(serves, due) {
            ReadPlace::Primary { behind } => {
                reads.waits_until = None;
                if behind {
                    reads.at_mut(site).seen.stay_away(now);
                }
                return Destination::Primary(behind.then_some(Fallback::Behind));
            }
            ReadPlace::Replies => return Destination::Wait(Pause::Replies),
            ReadPlace::Kept => {
                if let Some(lane) = kept.cloned() {
                    replicas.keep_sampling(now);
                    return reads.go_to(site, lane);
                }
            }
            ReadPlace::Any => {}
        }
        let Some(key) = self.key() else { return Destination::Primary(None) };
        let (Some(reads), client) = (&mut self.lanes.reads, self.client.id) else {
            return Destination::Primary(None);
        };
        if reads.lane(site).is_some_and(|lane| !lane.serves(None, now)) {
            reads.leave_lane_at(site, now);
        }
        let floor = reads.floor(site, moved, again);
        let choice = replicas.choose(&key, reads.lane(site), floor, now);
        let waiting = Waiting { site, mode, now, hold_timeout: self.ctx.upstream_config.hold_timeout };
        let destination = match choice {
            ReplicaChoice::Lane(lane) => {
                let changes = reads.lane(site).is_some_and(|kept| !Rc::ptr_eq(kept, &lane));
                if changes {
                    // The session may have seen what the other replica has not applied yet.
                    reads.leave_lane_at(site, now);
                    reads.wait_or_leave(waiting)
                } else {
                    reads.go_to(site, lane)
                }
            }
            choice => {
                let soon = matches!(choice, ReplicaChoice::Soon);
                let waits = soon && reads.is_long_away(site, now) && !replicas.in_hold();
                if mode == Reads::Replica || waits {
                    reads.wait_or_leave(waiting)
                } else {
                    reads.waits_until = None;
                    Destination::Primary(Some(if soon { Fallback::Behind } else { Fallback::Nobody }))
                }
            }
        };
        if matches!(destination, Destination::Wait(_)) {
            reads.wait_for(replicas, client);
        }
        destination
    }
}

/// Returns true for commands whose reply is the same whatever the data is. Many clients send one before each use of a connection.
fn shows_no_data(name: &[u8]) -> bool {
    [b"PING", b"ECHO", b"TIME"].iter().any(|known| name.eq_ignore_ascii_case(*known))
}

/// A read that may wait for a replica.
struct Waiting {
    site: ReadSite,
    mode: Reads,
    now: Instant,
    hold_timeout: Duration,
}

impl ReadState {
    fn go_to(&mut self, site: ReadSite, lane: Rc<ReplicaLane>) -> Destination {
        self.reached_replica(site, lane.clone());
        Destination::Replica(lane)
    }

    /// Has the read wait for a replica; when it has waited long enough, it goes to the primary if its mode allows that.
    fn wait_or_leave(&mut self, waiting: Waiting) -> Destination {
        let Waiting { site, mode, now, hold_timeout } = waiting;
        let limit = if mode == Reads::Replica { hold_timeout } else { CATCH_UP };
        if let Some(until) = self.wait_until(limit, now) {
            return Destination::Wait(Pause::Replica(until));
        }
        if mode == Reads::Replica {
            return Destination::Nowhere;
        }
        self.at_mut(site).seen.waited_in_vain(now);
        Destination::Primary(Some(Fallback::Behind))
    }
}
