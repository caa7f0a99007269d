//! Charges one client to its tenant's limits, and holds the client's parts of the tenant's counts.

use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use super::config::OverLimit;
use super::count::{Count, CountedPlace, Part, Taken};
use super::rate::{Meter, Own, Rate};
use super::refusal::{self, Limit};
use crate::resp::error_line::ErrorLine;
use crate::tenant::WorkerTenant;

/// Interval after which a command that waits for the in-flight limit looks again, in nanoseconds. It is also
/// woken when there is room, but the client that was woken before it may have left without using the room.
const IN_FLIGHT_CHECK: u64 = 50_000_000;
/// Waiting bytes of one client that never count against it, even if its tenant is over `max-buffered`.
const BUFFER_SHARE: usize = 64 * 1024;

/// Says what to do with a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LimitDecision {
    /// The command may pass, and is charged.
    Pass,
    /// The command may pass at this time, and is charged.
    PassAt(u64),
    /// Ask again when a reply has come, when there is [room](Member::room), or at this time.
    Again(u64),
    /// The command is answered with this error line.
    Refuse(ErrorLine),
}

/// Holds a client's parts of the counts of leases.
#[derive(Debug, Default)]
struct LeasePlaces {
    leased: Option<Taken>,
    blocked: Option<Taken>,
    subscribed: Option<Taken>,
    transaction: Option<Taken>,
}

/// Tracks one client's membership of a tenant.
#[derive(Debug)]
pub struct Member {
    worker_tenant: Rc<WorkerTenant>,
    commands: Option<Own>,
    bytes_in: Option<Own>,
    bytes_out: Option<Own>,
    in_flight: Option<Part>,
    buffered: Option<Part>,
    /// The bytes written to the client that have been charged.
    written: u64,
    /// The client's place in the line for the in-flight limit, while its command waits.
    waiting: Option<CountedPlace>,
    places: LeasePlaces,
    _place: Taken,
}

impl Member {
    /// Joins a tenant, perhaps from another one. `written` is the number of bytes written to the client so far.
    ///
    /// # Errors
    /// Returns an error line if the tenant has reached its limit of clients or of a kind of lease
    /// that the client has.
    pub fn join(
        worker_tenant: &Rc<WorkerTenant>,
        from: Option<&Self>,
        written: u64,
    ) -> Result<Self, ErrorLine> {
        let tenant = &worker_tenant.tenant;
        let limits = &tenant.config.limits;
        let Some(place) = tenant.connections.take() else {
            worker_tenant.figures.note(Limit::Connections, false);
            return Err(refusal::full(&tenant.config.name, limits.connections.unwrap_or_default()));
        };
        let mut member = Self::at(worker_tenant, place, written);
        for limit in [Limit::Leased, Limit::Blocked, Limit::Subscribed, Limit::Transactions] {
            if from.is_some_and(|from| from.has_place(limit)) {
                member.take_place(limit)?;
            }
        }
        Ok(member)
    }

    /// As [`Self::join`], for a client that is already connected: it takes its leases along, even beyond the
    /// limits.
    pub fn join_unchecked(worker_tenant: &Rc<WorkerTenant>, from: Option<&Self>, written: u64) -> Self {
        let tenant = &worker_tenant.tenant;
        let mut member = Self::at(worker_tenant, tenant.connections.take_over(), written);
        let taken_over =
            |limit, count: &Arc<Count>| from.filter(|from| from.has_place(limit)).map(|_| count.take_over());
        member.places = LeasePlaces {
            leased: taken_over(Limit::Leased, &tenant.leased),
            blocked: taken_over(Limit::Blocked, &tenant.blocked),
            subscribed: taken_over(Limit::Subscribed, &tenant.subscribed),
            transaction: taken_over(Limit::Transactions, &tenant.transactions),
        };
        member
    }

    fn at(worker_tenant: &Rc<WorkerTenant>, place: Taken, written: u64) -> Self {
        let (tenant, limits) = (&worker_tenant.tenant, &worker_tenant.tenant.config.limits);
        let own = |rate: Option<Rate>| rate.map(Own::new);
        Self {
            commands: own(limits.client_rates.commands),
            bytes_in: own(limits.client_rates.bytes_in),
            bytes_out: own(limits.client_rates.bytes_out),
            in_flight: limits.in_flight.map(|_| Part::new(&tenant.in_flight)),
            buffered: limits.buffered.map(|_| Part::new(&tenant.buffered)),
            worker_tenant: worker_tenant.clone(),
            written,
            waiting: None,
            places: LeasePlaces::default(),
            _place: place,
        }
    }

    /// Applies another configuration of the tenant from `now` on. The client keeps its places, and what it has
    /// used still counts.
    pub fn change_tenant_config(&mut self, worker_tenant: &Rc<WorkerTenant>, now: u64) {
        let (tenant, limits) = (&worker_tenant.tenant, &worker_tenant.tenant.config.limits);
        let own = |known: &Option<Own>, rate: Option<Rate>| {
            rate.map(|rate| known.as_ref().map_or_else(|| Own::new(rate), |known| known.with_rate(rate, now)))
        };
        self.commands = own(&self.commands, limits.client_rates.commands);
        self.bytes_in = own(&self.bytes_in, limits.client_rates.bytes_in);
        self.bytes_out = own(&self.bytes_out, limits.client_rates.bytes_out);
        let part = |known: Option<Part>, limit: Option<usize>, count: &Arc<Count>| {
            limit.map(|_| known.unwrap_or_else(|| Part::new(count)))
        };
        self.in_flight = part(self.in_flight.take(), limits.in_flight, &tenant.in_flight);
        self.buffered = part(self.buffered.take(), limits.buffered, &tenant.buffered);
        self.worker_tenant = worker_tenant.clone();
    }

    /// Returns the client's tenant.
    pub fn worker_tenant(&self) -> &Rc<WorkerTenant> {
        &self.worker_tenant
    }

    /// Decides whether a request of `bytes` bytes may pass at `now`. Call it once for each request, and again
    /// after `Again`. `free` is true for a request that ends something or concerns the connection: it is charged
    /// but neither delayed nor refused.
    pub fn admit(&mut self, now: u64, bytes: usize, free: bool) -> LimitDecision {
        let worker_tenant = self.worker_tenant.clone();
        let tenant = &worker_tenant.tenant;
        worker_tenant.figures.commands.inc();
        if tenant.unlimited {
            return LimitDecision::Pass;
        }
        let limits = &tenant.config.limits;
        if let Some(most) = limits.request.filter(|most| bytes > *most) {
            worker_tenant.figures.note(Limit::Request, false);
            return LimitDecision::Refuse(refusal::too_large(&tenant.config.name, bytes, most));
        }
        let max_wait = match limits.over_limit {
            _ if free => u64::MAX,
            OverLimit::Delay => u64::try_from(limits.max_delay.as_nanos()).unwrap_or(u64::MAX),
            OverLimit::Reject => 0,
        };
        if !free && let Some(decision) = self.await_others(now, max_wait) {
            // The caller asks again, and the command is counted then.
            return decision;
        }
        let mut wait = match self.owed(now, max_wait) {
            Ok(wait) => wait,
            Err((limit, rate, wait)) => return self.over(limit, rate, wait),
        };
        let bytes = bytes as u64;
        let charges = [
            (Limit::ClientCommands, meter(&self.commands), 1),
            (Limit::ClientBytesIn, meter(&self.bytes_in), bytes),
            (Limit::Commands, meter(&worker_tenant.commands), 1),
            (Limit::BytesIn, meter(&worker_tenant.bytes_in), bytes),
        ];
        for (at, (limit, meter, units)) in charges.iter().enumerate() {
            let Some(meter) = meter else { continue };
            match meter.charge(now, *units, max_wait) {
                Ok(needed) => {
                    if needed > 0 && !free {
                        worker_tenant.figures.note(*limit, true);
                    }
                    wait = wait.max(needed);
                }
                Err(needed) => {
                    // All or nothing: a refused command must not use up the rates that it passed.
                    for (_, earlier, units) in charges.iter().take(at) {
                        if let Some(earlier) = earlier {
                            earlier.refund(*units);
                        }
                    }
                    return self.over(*limit, meter.rate(), needed);
                }
            }
        }
        if wait == 0 || free { LimitDecision::Pass } else { LimitDecision::PassAt(now.saturating_add(wait)) }
    }

    fn over(&self, limit: Limit, rate: Rate, wait: u64) -> LimitDecision {
        self.worker_tenant.figures.note(limit, false);
        LimitDecision::Refuse(refusal::over_rate(
            &self.worker_tenant.tenant.config.name,
            limit,
            rate.per_second,
            wait,
        ))
    }

    /// Returns what to do if the tenant has reached its in-flight limit, or `None` if it has not.
    fn await_others(&mut self, now: u64, max_wait: u64) -> Option<LimitDecision> {
        let waited = self.waiting.take();
        let part = self.in_flight.as_ref().filter(|part| part.count().full())?;
        let figures = &self.worker_tenant.figures;
        if max_wait > 0 {
            if waited.is_none() {
                figures.note(Limit::InFlight, true);
            }
            figures.commands.dec();
            self.waiting = waited.or_else(|| Some(part.line_up()));
            return Some(LimitDecision::Again(now + IN_FLIGHT_CHECK));
        }
        figures.note(Limit::InFlight, false);
        let most = part.count().limit().unwrap_or_default();
        Some(LimitDecision::Refuse(refusal::at_count(
            &self.worker_tenant.tenant.config.name,
            Limit::InFlight,
            most,
        )))
    }

    /// Returns true if a command that waits for the in-flight limit may ask again now. Otherwise `waker` is
    /// called once, when it may.
    pub fn room(&self, waker: &Waker) -> bool {
        self.waiting.as_ref().is_none_or(|place| place.room(waker))
    }

    /// Returns how long it takes until all charges are paid back, in nanoseconds.
    pub fn debt(&self, now: u64) -> u64 {
        let own = [&self.commands, &self.bytes_in, &self.bytes_out].map(meter);
        let all = [&self.worker_tenant.commands, &self.worker_tenant.bytes_in, &self.worker_tenant.bytes_out]
            .map(meter);
        own.into_iter().chain(all).flatten().map(|meter| meter.wait(now)).max().unwrap_or(0)
    }

    /// Returns how long a request must wait because of the bytes already written, in nanoseconds.
    ///
    /// # Errors
    /// Returns the limit and the wait, if the wait is longer than `max_wait`.
    fn owed(&self, now: u64, max_wait: u64) -> Result<u64, (Limit, Rate, u64)> {
        let mut longest = 0;
        for (limit, meter) in [
            (Limit::ClientBytesOut, meter(&self.bytes_out)),
            (Limit::BytesOut, meter(&self.worker_tenant.bytes_out)),
        ] {
            let Some(meter) = meter else { continue };
            let wait = meter.wait(now);
            if wait > max_wait {
                return Err((limit, meter.rate(), wait));
            }
            if wait > 0 && max_wait < u64::MAX {
                self.worker_tenant.figures.note(limit, true);
            }
            longest = longest.max(wait);
        }
        Ok(longest)
    }

    /// Returns true if bytes written to the client are charged.
    pub fn meters_output(&self) -> bool {
        self.bytes_out.is_some() || self.worker_tenant.bytes_out.is_some()
    }

    /// Charges the bytes written since the last call; `total` counts all bytes written so far. Returns for how
    /// many nanoseconds nothing more may be taken for the client.
    pub fn wrote(&mut self, now: u64, total: u64) -> u64 {
        let bytes = total.saturating_sub(self.written);
        self.written = total;
        let meters = [meter(&self.bytes_out), meter(&self.worker_tenant.bytes_out)];
        let mut longest = 0;
        for meter in meters.into_iter().flatten() {
            if bytes > 0 {
                let _ = meter.charge(now, bytes, u64::MAX);
            }
            longest = longest.max(meter.wait(now));
        }
        longest
    }

    /// Sets the number of the client's commands in flight.
    pub fn in_flight(&mut self, now: usize) {
        if let Some(part) = &mut self.in_flight {
            part.set(now);
        }
    }

    /// Sets the number of bytes that wait for the client. Returns an error line if the tenant is
    /// over its limit and this client holds more than 64 KiB.
    pub fn buffers(&mut self, now: usize) -> Option<ErrorLine> {
        let part = self.buffered.as_mut()?;
        part.set(now);
        let most = part.count().limit().filter(|most| part.count().taken() > *most)?;
        (now > BUFFER_SHARE).then(|| {
            self.worker_tenant.figures.note(Limit::Buffered, false);
            refusal::over_buffer_share(&self.worker_tenant.tenant.config.name, most)
        })
    }

    /// Counts the client against the limit of one kind of lease, unless it is counted already.
    ///
    /// # Errors
    /// Returns an error line if the tenant has reached that limit.
    pub fn take_place(&mut self, limit: Limit) -> Result<(), ErrorLine> {
        let Some((place, count)) = self.place(limit) else { return Ok(()) };
        if place.is_none() {
            *place = count.take();
        }
        if place.is_some() {
            return Ok(());
        }
        let most = count.limit().unwrap_or_default();
        self.worker_tenant.figures.note(limit, false);
        Err(refusal::at_count(&self.worker_tenant.tenant.config.name, limit, most))
    }

    /// Counts a lease that the client already has, even beyond the limit.
    pub fn keep(&mut self, limit: Limit) {
        if let Some((place, count)) = self.place(limit) {
            place.get_or_insert_with(|| count.take_over());
        }
    }

    fn place(&mut self, limit: Limit) -> Option<(&mut Option<Taken>, &Arc<Count>)> {
        let tenant = &self.worker_tenant.tenant;
        Some(match limit {
            Limit::Leased => (&mut self.places.leased, &tenant.leased),
            Limit::Blocked => (&mut self.places.blocked, &tenant.blocked),
            Limit::Subscribed => (&mut self.places.subscribed, &tenant.subscribed),
            Limit::Transactions => (&mut self.places.transaction, &tenant.transactions),
            _ => return None,
        })
    }

    /// Returns true if the client is counted against the limit of one kind of lease.
    pub fn has_place(&self, limit: Limit) -> bool {
        match limit {
            Limit::Leased => self.places.leased.is_some(),
            Limit::Blocked => self.places.blocked.is_some(),
            Limit::Subscribed => self.places.subscribed.is_some(),
            Limit::Transactions => self.places.transaction.is_some(),
            _ => false,
        }
    }

    /// Ends the client's count against the limit of one kind of lease. [`Limit::Leased`] ends all of them.
    pub fn release_place(&mut self, limit: Limit) {
        match limit {
            Limit::Leased => self.places = LeasePlaces::default(),
            Limit::Blocked => self.places.blocked = None,
            Limit::Subscribed => self.places.subscribed = None,
            Limit::Transactions => self.places.transaction = None,
            _ => {}
        }
    }
}

fn meter<M: Meter>(meter: &Option<M>) -> Option<&dyn Meter> {
    meter.as_ref().map(|meter| meter as &dyn Meter)
}

#[cfg(test)]
mod tests;
