//! Replaces a shared connection that has reached `max-age`, or that was authenticated with former credentials. respgate opens
//! the new connection first, lets the old one answer every written request, and then goes on with the new one. Clients notice
//! nothing, and replies keep their order. A connection that carries too large replies of one client is replaced at once, and
//! left to that client (see [`crate::upstream::shared::pump::isolate`]).
//!
//! An AUTH on the open connection would need no new one. But Redis 7.4 to 8 drop the reply to a failing AUTH in mid-pipeline
//! (redis/redis#15640), and every later reply would then go to the wrong client. A connection that a session holds cannot be
//! replaced. It gets its AUTH when nothing is under way (see [`crate::upstream::connection::reauth`]).

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use crate::upstream::connection::identity::AgeFate;
use crate::upstream::connection::open::{ConnectError, NeedlessPassword, Purpose};
use crate::upstream::shared::lane::{Lane, Order};
use crate::upstream::shared::lanes::Lanes;
use crate::upstream::shared::next::NextConnection;
use crate::upstream::shared::pump::Pump;
use crate::upstream::shared::pump::isolate::LeftConnection;

/// The time over which the replacements for one reason are spread, each at a random moment.
const SPREAD: Duration = Duration::from_secs(5);

/// The pause before an old connection is looked at again, while the server is asked whether it still accepts the user.
const ASK_PAUSE: Duration = Duration::from_secs(1);

type Opening = Pin<Box<dyn Future<Output = Result<NextConnection, ConnectError>>>>;

/// Opens the next connection.
#[derive(Default)]
pub(in crate::upstream) struct Replacement(Option<Opening>);

impl Replacement {
    /// Opens the next connection for `pump` if its lane has the order to be replaced. Returns the present connection if it is left
    /// to one client.
    #[inline]
    pub(in crate::upstream) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        lane: &Lane,
        lanes: &Rc<Lanes>,
        pump: &mut Pump,
    ) -> Option<Box<LeftConnection>> {
        if self.0.is_some() || lane.ordered().is_some() {
            self.poll_ordered(cx, lane, lanes, pump)
        } else {
            None
        }
    }

    fn poll_ordered(
        &mut self,
        cx: &mut Context<'_>,
        lane: &Lane,
        lanes: &Rc<Lanes>,
        pump: &mut Pump,
    ) -> Option<Box<LeftConnection>> {
        let isolates = lane.ordered() == Some(Order::Isolate);
        if !isolates && lane.ordered() != Some(Order::Replace) || lanes.hold.is_failing_over() {
            self.0 = None;
            return None;
        }
        if isolates && let Some(left) = pump.isolate(lane, lanes) {
            cx.waker().wake_by_ref();
            return Some(left);
        }
        if pump.has_next() {
            return None;
        }
        if self.0.is_none() {
            let primary = lanes.hold.primary().filter(|_| !lanes.hold.is_disconnecting())?;
            let Some(permit) = lanes.room.take() else {
                if isolates {
                    pump.cannot_isolate(lane);
                    cx.waker().wake_by_ref();
                    return None;
                }
                // The old one is closed first: not if the server might not let its user in again.
                let aging = pump.link().retires.map(|due| lane.key().identity.fate_at_max_age(due));
                if matches!(aging, None | Some(AgeFate::Ends)) {
                    pump.set_next(NextConnection { link: None, permit: None });
                    cx.waker().wake_by_ref();
                    return None;
                }
                if aging == Some(AgeFate::AskFirst) {
                    lanes.pool.ask_about(lane.key().clone());
                }
                lane.postpone_replacement(Instant::now() + ASK_PAUSE);
                return None;
            };
            let (dialing, key) = (lanes.dialing.clone(), lane.key().clone());
            self.0 = Some(Box::pin(async move {
                let link = dialing.open(&primary, &key, NeedlessPassword::Accepted, Purpose::Shared).await?;
                Ok(NextConnection { link: Some(link), permit: Some(permit) })
            }));
        }
        let Some(Poll::Ready(opened)) = self.0.as_mut().map(|opening| opening.as_mut().poll(cx)) else {
            return None;
        };
        self.0 = None;
        let mut left = None;
        match opened {
            Ok(next) if pump.is_like(&next) => {
                pump.set_next(next);
                if isolates {
                    left = pump.isolate(lane, lanes);
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
                    upstream = lanes.dialing.config.name,
                    "respgate keeps an old connection: it could not open another in its place"
                );
                lane.postpone_replacement(soon());
            }
        }
        left
    }
}

/// Returns a random moment within [`SPREAD`].
pub(in crate::upstream) fn soon() -> Instant {
    Instant::now() + SPREAD.mul_f64(0.05 + 0.95 * fastrand::f64())
}
