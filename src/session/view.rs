//! Keeps what CLIENT LIST shows of a session, so that others can read it while the session works. The session stores
//! each value when it changes: nothing here allocates, locks or reads a clock for a command.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

use tokio::time::Instant;

use super::activity::{Activity, Tick};
use super::client::Client;
use crate::clients::directory::Scope;
use crate::clients::row::ClientRow;
use crate::command::{Spec, TABLE};
use crate::net::budget::{Account, Counted};
use crate::resp::Resp;
use crate::tenant::WorkerTenant;
use crate::upstream::ShardChannelCounter;
use crate::upstream::connection::identity::Identity;
use crate::upstream::fanin::subscription::SubscriptionCounter;

/// The row that stands for no command.
const NO_COMMAND: u16 = u16::MAX;

/// Shows one session.
pub(super) struct ClientView {
    /// The client's id.
    pub(super) id: u64,
    /// The number of the client's upstream.
    pub(super) upstream: usize,
    /// The index of the client's listener.
    pub(super) listener: usize,
    /// Wakes and disconnects the session.
    pub(super) activity: Rc<Activity>,
    addr: Box<str>,
    laddr: Box<str>,
    since: Instant,
    /// `None` while all are empty, so that a view of an idle client stays small.
    texts: RefCell<Option<Box<Texts>>>,
    database: Cell<u32>,
    resp: Cell<Resp>,
    tenant: RefCell<Option<Rc<WorkerTenant>>>,
    /// The row of the last command in the table.
    command: Cell<u16>,
    qbuf: Cell<usize>,
    lease: Cell<LeaseView>,
    /// The identity of the lease, if there is one.
    leased_as: RefCell<Option<Rc<Identity>>>,
    fan_in: RefCell<Option<SubscriptionCounter>>,
    shard_channels: RefCell<Option<ShardChannelCounter>>,
    /// Number of requests under way that unblock the client's lease on the server.
    unblocking: Cell<u32>,
}

/// The user of a client that has not authenticated as another.
const DEFAULT_USER: &str = "default";

/// The texts that a client can change.
struct Texts {
    name: Counted,
    lib_name: Counted,
    lib_ver: Counted,
    /// Empty for [`DEFAULT_USER`].
    user: Counted,
    /// The last command, if the table lacks it.
    unlisted: Counted,
}

impl Texts {
    fn new(account: &Rc<Account>) -> Box<Self> {
        let empty = || Counted::new(account);
        Box::new(Self {
            name: empty(),
            lib_name: empty(),
            lib_ver: empty(),
            user: empty(),
            unlisted: empty(),
        })
    }
}

/// Shows a session's lease. The default shows none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LeaseView {
    /// The server's id of the connection.
    pub(super) server_id: Option<u64>,
    /// Number of channels, patterns and shard channels.
    pub(super) subscriptions: [usize; 3],
    /// Number of queued commands, in a transaction.
    pub(super) multi: Option<usize>,
    /// Number of watched keys.
    pub(super) watch: usize,
    /// True while the client's command may wait for other clients.
    pub(super) blocked: bool,
    /// True if watched keys may have changed while their connection was lost.
    pub(super) watch_broken: bool,
    /// True after MONITOR.
    pub(super) monitoring: bool,
    /// True after CLIENT TRACKING ON.
    pub(super) tracking: bool,
    /// True after CLIENT NO-TOUCH ON.
    pub(super) no_touch: bool,
    /// True after CLIENT IMPORT-SOURCE ON.
    pub(super) import_source: bool,
}

impl ClientView {
    /// Creates the view of a client that has just connected.
    pub(super) fn new(
        client: &Client,
        (upstream, listener): (usize, usize),
        activity: &Rc<Activity>,
    ) -> Rc<Self> {
        Rc::new(Self {
            id: client.id,
            upstream,
            listener,
            activity: activity.clone(),
            addr: client.peer.as_str().into(),
            laddr: client.local.as_str().into(),
            since: client.since,
            texts: RefCell::default(),
            database: Cell::new(client.database),
            resp: Cell::new(client.resp),
            tenant: RefCell::default(),
            command: Cell::new(NO_COMMAND),
            qbuf: Cell::default(),
            lease: Cell::default(),
            leased_as: RefCell::default(),
            fan_in: RefCell::default(),
            shard_channels: RefCell::default(),
            unblocking: Cell::default(),
        })
    }

    /// Stores the last command.
    #[inline]
    pub(super) fn set_command(&self, spec: &Spec) {
        self.command.set(spec.row);
    }

    /// Stores the last command, which the table lacks.
    #[cold]
    pub(super) fn set_unlisted_command(&self, name: &str) {
        self.command.set(NO_COMMAND);
        let mut texts = self.texts.borrow_mut();
        let unlisted = &mut texts.get_or_insert_with(|| Texts::new(&self.activity.account())).unlisted;
        if !unlisted.eq_ignore_ascii_case(name.as_bytes()) {
            unlisted.set(name.to_ascii_lowercase().as_bytes());
        }
    }

    /// Stores what the client can change about itself.
    pub(super) fn update(&self, client: &Client, tenant: Option<&Rc<WorkerTenant>>) {
        self.database.set(client.database);
        self.resp.set(client.resp);
        *self.tenant.borrow_mut() = tenant.cloned();
        let user = client.user();
        let user = if user == DEFAULT_USER { "" } else { user.as_str() };
        let now = [&*client.name, &*client.lib_name, &*client.lib_ver, user.as_bytes()];
        let mut texts = self.texts.borrow_mut();
        if texts.is_none() && now.iter().all(|text| text.is_empty()) {
            return;
        }
        let texts = texts.get_or_insert_with(|| Texts::new(&self.activity.account()));
        let shown = [&mut texts.name, &mut texts.lib_name, &mut texts.lib_ver, &mut texts.user];
        for (shown, now) in shown.into_iter().zip(now) {
            if **shown != *now {
                shown.set(now);
            }
        }
    }

    /// Stores the number of bytes of requests that wait.
    #[inline]
    pub(super) fn set_waiting_input(&self, bytes: usize) {
        self.qbuf.set(bytes);
    }

    /// Stores the state of the lease.
    pub(super) fn set_lease(&self, lease: LeaseView) {
        self.lease.set(lease);
    }

    /// Returns true while the client has a lease.
    pub(super) fn has_lease(&self) -> bool {
        self.leased_as.borrow().is_some()
    }

    /// Stores the identity of the lease; `None` when the lease ends.
    pub(super) fn set_leased_as(&self, identity: Option<Rc<Identity>>) {
        if identity.is_none() {
            self.lease.take();
        }
        *self.leased_as.borrow_mut() = identity;
    }

    /// Stores what counts the subscriptions by fan-in; `None` when the last has ended.
    pub(super) fn set_fan_in(&self, counter: Option<SubscriptionCounter>) {
        *self.fan_in.borrow_mut() = counter;
    }

    /// Sets what counts the client's shard channels in front of a cluster.
    pub(super) fn set_shard_channels(&self, counter: Option<ShardChannelCounter>) {
        *self.shard_channels.borrow_mut() = counter;
    }

    /// Returns the server's id of the connection on which the client is blocked, and that connection's identity.
    pub(super) fn blocked_on(&self) -> Option<(u64, Rc<Identity>)> {
        let lease = self.lease.get();
        let id = lease.server_id.filter(|_| lease.blocked)?;
        Some((id, self.leased_as.borrow().clone()?))
    }

    /// Notes that a request to unblock the client's lease begins or ends. While one is under way, the connection must
    /// not serve another client, which the request would unblock.
    pub(super) fn note_unblocking(&self, begins: bool) {
        let before = self.unblocking.get();
        self.unblocking.set(if begins { before + 1 } else { before.saturating_sub(1) });
    }

    /// Returns true while a request to unblock the client's lease is under way.
    pub(super) fn is_unblocking(&self) -> bool {
        self.unblocking.get() > 0
    }

    /// Returns true if the client may be seen within `scope`.
    pub(super) fn is_within(&self, scope: Scope) -> bool {
        let tenant = || self.tenant.borrow().as_ref().map(|tenant| tenant.tenant.number);
        scope.upstream.is_none_or(|upstream| upstream == self.upstream)
            && scope.tenant.is_none_or(|number| tenant() == Some(number))
    }

    /// Returns the database in which the client is.
    pub(super) fn database(&self) -> u32 {
        self.database.get()
    }

    /// Calls `show` with the name of the client's tenant; empty without one.
    pub(super) fn with_tenant_name<T>(&self, show: impl FnOnce(&str) -> T) -> T {
        show(self.tenant.borrow().as_ref().map_or("", |tenant| &tenant.tenant.config.name))
    }

    /// Calls `show` with the client's row.
    pub(super) fn with_row<T>(&self, now: Tick, show: impl FnOnce(&ClientRow<'_>) -> T) -> T {
        let texts = self.texts.borrow();
        let texts = texts.as_deref();
        let text = |of: fn(&Texts) -> &Counted| texts.map_or(&[][..], |texts| &**of(texts));
        let (unlisted, user) = (text(|texts| &texts.unlisted), text(|texts| &texts.user));
        let lease = self.lease.get();
        let mut subscriptions = lease.subscriptions;
        if let Some(fan_in) = &*self.fan_in.borrow() {
            subscriptions.iter_mut().zip(fan_in.counts()).for_each(|(sum, more)| *sum += more);
        }
        if let (Some(channels), [_, _, sum]) = (&*self.shard_channels.borrow(), &mut subscriptions) {
            *sum += channels.count();
        }
        let traffic = self.activity.traffic();
        let age = self.since.elapsed().as_secs();
        let row = ClientRow {
            id: self.id,
            addr: &self.addr,
            laddr: &self.laddr,
            name: text(|texts| &texts.name),
            age,
            // The worker's clock is coarse.
            idle: self.activity.idle_for(now).min(age),
            flags: Cow::Owned(flags(&lease, subscriptions, &self.addr)),
            db: self.database.get(),
            subscriptions,
            multi: lease.multi,
            watch: lease.watch,
            qbuf: self.qbuf.get(),
            omem: traffic.waiting,
            tot_mem: self.activity.kept_bytes(),
            cmd: match TABLE.get(usize::from(self.command.get())) {
                Some(spec) => Cow::Owned(spec.name.to_ascii_lowercase()),
                None if unlisted.is_empty() => Cow::Borrowed("NULL"),
                None => String::from_utf8_lossy(unlisted),
            },
            user: if user.is_empty() { DEFAULT_USER } else { std::str::from_utf8(user).unwrap_or_default() },
            tracking: lease.tracking,
            resp: self.resp.get(),
            lib_name: text(|texts| &texts.lib_name),
            lib_ver: text(|texts| &texts.lib_ver),
            net: [traffic.read, traffic.written],
        };
        show(&row)
    }
}

/// Returns the letters of a client's flags, in the server's order.
fn flags(lease: &LeaseView, subscriptions: [usize; 3], addr: &str) -> String {
    let flags: String = [
        ('O', lease.monitoring),
        ('P', subscriptions.iter().any(|count| *count > 0)),
        ('x', lease.multi.is_some()),
        ('b', lease.blocked),
        ('t', lease.tracking),
        ('d', lease.watch_broken),
        ('U', addr.starts_with('/')),
        ('T', lease.no_touch),
        ('I', lease.import_source),
    ]
    .into_iter()
    .filter_map(|(letter, set)| set.then_some(letter))
    .collect();
    if flags.is_empty() { "N".into() } else { flags }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_the_servers_letters() {
        let none = LeaseView::default();
        assert_eq!(flags(&none, [0; 3], "127.0.0.1:5"), "N");
        assert_eq!(flags(&none, [0, 0, 1], "127.0.0.1:5"), "P");
        let busy = LeaseView { multi: Some(0), blocked: true, tracking: true, no_touch: true, ..none };
        assert_eq!(flags(&busy, [0; 3], "/run/x.sock:0"), "xbtUT");
    }
}
