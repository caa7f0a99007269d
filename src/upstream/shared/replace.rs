//! Replaces a shared connection that has reached `max-age`, or that was authenticated with former credentials. respgate opens
//! the new connection first, lets the old one answer every written request, and then goes on with the new one. Clients notice
//! nothing, and replies keep their order. A connection that carries too large replies of one client is replaced at once, and
//! left to that client (see [`crate::upstream::shared::pump::isolate`]).
//!
//! An AUTH on the open connection would need no new one. But Redis 7.4 to 8 drop the reply to a failing AUTH in mid-pipeline
//! (redis/redis#15640), and every later reply would then go to the wrong client. A connection that a session holds cannot be
//! replaced. It gets its AUTH when nothing is under way (see [`crate::upstream::connection::reauth`]).

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

/// The time over which the replacements for one reason are spread, each at a random moment.
const SPREAD: Duration = Duration::from_secs(5);

/// The pause before an old connection is looked at again, while the server is asked whether it still accepts the user.
const ASK_PAUSE: Duration = Duration::from_secs(1);

type Opening = Pin<Box<dyn Future<Output = Result<NextConnection, ConnectError>>>>;

/// The connection that takes another's place.
pub(in crate::upstream) struct NextConnection {
    /// `None` if the limits allow no second connection: the old one is closed first.
    pub(in crate::upstream) link: Option<Connection>,
    pub(in crate::upstream) permit: Option<SharedPermit>,
}

/// Opens the next connection.
#[derive(Default)]
pub(in crate::upstream) struct Replacement(Option<Opening>);

impl Replacement {
    /// Opens the next connection for `pump` if its lane has the order to be replaced.
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
                    "respgate keeps an old connection: it could not open another in its place"
                );
                lane.postpone_replacement(soon());
            }
        }
    }
}

/// Returns a random moment within [`SPREAD`].
fn soon() -> Instant {
    Instant::now() + SPREAD.mul_f64(0.05 + 0.95 * fastrand::f64())
}

/// Follows respgate's credentials and certificates, and has connections replaced that were opened with former ones, unless
/// `reauth = "keep"`.
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
    /// Has the connections of respgate's own users replaced whose credentials at the server have changed, unless
    /// `reauth = "keep"`.
    pub(in crate::upstream) fn refresh_users(&self) {
        for identity in self.identities.of_users() {
            if identity.has_new_credentials() {
                self.credentials_changed(Some(&identity));
            }
        }
    }

    /// Has the connections of one identity (`None`: of all) replaced, and with `reauth = "refresh"` those authenticated again that
    /// sessions hold. Does nothing with `reauth = "keep"`.
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
