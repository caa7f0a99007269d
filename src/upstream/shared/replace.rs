//! Replacing a shared connection that is too old, or that was authenticated with credentials of the past. The new one is
//! opened first; then the old one answers what it has been sent, and the new one carries on. Clients notice nothing, and
//! replies keep their order. A connection that one client's replies have outgrown is replaced at once, and left to that
//! client (see [`crate::upstream::shared::pump::isolate`]).
//!
//! A new AUTH on the connection itself would do without the new one, but for Redis 7.4 to 8, which drop the reply to a
//! failing AUTH in mid-pipeline (redis/redis#15640): all later replies would then go to the wrong clients. Connections
//! that cannot be replaced, because a session holds them, wait for a moment without a pipeline (see [`crate::upstream::connection::reauth`]).

use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::net::tls::client::ClientSet;
use crate::rotation::login::Newest;
use crate::upstream::config::Reauth;
use crate::upstream::connection::identity::{AgeFate, Identity};
use crate::upstream::connection::open::{ConnectError, Connection, NeedlessPassword, Purpose, open};
use crate::upstream::shared::lane::{Lane, Order};
use crate::upstream::shared::pump::Pump;
use crate::upstream::{SharedPermit, Upstream};

/// Connections that are to be replaced for one reason are so within this time, each at a random moment.
const SPREAD: Duration = Duration::from_secs(5);

/// How long the server may take to say whether it lets a user in, before an old connection is looked at again.
const ASK_PAUSE: Duration = Duration::from_secs(1);

type Opening = Pin<Box<dyn Future<Output = Result<NextConnection, ConnectError>>>>;

/// What takes a connection's place.
pub(in crate::upstream) struct NextConnection {
    /// None: there is no room for two at a time, so the old one is closed first.
    pub(in crate::upstream) link: Option<Connection>,
    pub(in crate::upstream) permit: Option<SharedPermit>,
}

/// The making of a successor.
#[derive(Default)]
pub(in crate::upstream) struct Replacement(Option<Opening>);

impl Replacement {
    /// Gets `pump` a successor if its lane is told to have one.
    #[inline]
    pub(in crate::upstream) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        lane: &Lane,
        upstream: &Rc<Upstream>,
        pump: &mut Pump,
    ) {
        if self.0.is_some() || lane.ordered().is_some() {
            self.poll_ordered(cx, lane, upstream, pump);
        }
    }

    fn poll_ordered(&mut self, cx: &mut Context<'_>, lane: &Lane, upstream: &Rc<Upstream>, pump: &mut Pump) {
        let isolates = lane.ordered() == Some(Order::Isolate);
        if !isolates && lane.ordered() != Some(Order::Replace) || upstream.holding() {
            self.0 = None;
            return;
        }
        if isolates && pump.isolate_by_successor(lane, upstream) {
            return cx.waker().wake_by_ref();
        }
        if pump.has_next() {
            return;
        }
        if self.0.is_none() {
            let Some(primary) = upstream.primary() else { return };
            let Some(permit) = upstream.shared_permit() else {
                if isolates {
                    pump.cannot_isolate(lane);
                    return cx.waker().wake_by_ref();
                }
                // The old one is closed first: not if the server might not let its user in again.
                let aging = pump.link().retires.map(|due| lane.key().identity.fate_at_max_age(due));
                if matches!(aging, None | Some(AgeFate::Ends)) {
                    pump.set_next(NextConnection { link: None, permit: None });
                    return cx.waker().wake_by_ref();
                }
                if aging == Some(AgeFate::AskFirst) {
                    upstream.ask_about(lane.key().clone());
                }
                return lane.postpone_replacement(Instant::now() + ASK_PAUSE);
            };
            let (upstream, key) = (upstream.clone(), lane.key().clone());
            self.0 = Some(Box::pin(async move {
                let link =
                    open(&upstream, &primary, &key, NeedlessPassword::Accepted, Purpose::Shared).await?;
                Ok(NextConnection { link: Some(link), permit: Some(permit) })
            }));
        }
        let Some(Poll::Ready(opened)) = self.0.as_mut().map(|opening| opening.as_mut().poll(cx)) else {
            return;
        };
        self.0 = None;
        match opened {
            Ok(successor) if pump.is_like(&successor) => {
                pump.set_next(successor);
                if isolates {
                    pump.isolate_by_successor(lane, upstream);
                }
                cx.waker().wake_by_ref();
            }
            _ if isolates => {
                pump.cannot_isolate(lane);
                cx.waker().wake_by_ref();
            }
            // Discovery has moved on: so will this lane.
            Ok(_) => lane.postpone_replacement(soon()),
            Err(_) => {
                tracing::debug!(
                    upstream = upstream.config.name,
                    "an old connection stays: none could be made in its place"
                );
                lane.postpone_replacement(soon());
            }
        }
    }
}

/// A random moment within [`SPREAD`].
fn soon() -> Instant {
    Instant::now() + SPREAD.mul_f64(0.05 + 0.95 * fastrand::f64())
}

/// Has connections replaced that were made with credentials or certificates of the past, if that is asked for.
pub(in crate::upstream) async fn follow(
    upstream: Weak<Upstream>,
    mut logins: watch::Receiver<Newest>,
    mut certificates: Option<watch::Receiver<ClientSet>>,
) {
    loop {
        let certified = async {
            match &mut certificates {
                Some(changes) => changes.changed().await,
                None => std::future::pending().await,
            }
        };
        // Credentials are respgate's own; certificates are everybody's.
        let (changed, everybody) = tokio::select! {
            changed = logins.changed() => (changed, false),
            changed = certified => (changed, true),
        };
        let Some(upstream) = upstream.upgrade().filter(|_| changed.is_ok()) else { return };
        upstream.credentials_changed((!everybody).then(|| upstream.identities.own()));
    }
}

impl Upstream {
    /// Has the connections replaced whose credentials respgate keeps for users of its own and that have changed, if
    /// that is asked for.
    pub(in crate::upstream) fn refresh_users(&self) {
        for identity in self.identities.of_users() {
            if identity.has_new_credentials() {
                self.credentials_changed(Some(&identity));
            }
        }
    }

    /// Has the connections of this identity, or of all, replaced, if that is asked for.
    fn credentials_changed(&self, identity: Option<&Rc<Identity>>) {
        if self.config.reauth == Reauth::Keep {
            return;
        }
        self.leases.outdate(identity.map(Rc::as_ref));
        if let Some(identity) = identity
            && self.refreshes()
        {
            self.leases.refresh(identity);
            if let Some(fan) = self.fans.borrow().get(&identity.id()) {
                fan.refresh();
            }
        }
        let concerned =
            |lane: &&Rc<Lane>| identity.is_none_or(|identity| lane.key().identity.id() == identity.id());
        self.lanes.borrow().values().filter(concerned).for_each(|lane| lane.retire_by(soon()));
    }
}
