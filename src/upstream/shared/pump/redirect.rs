//! Takes commands off a connection that its node, one of a cluster, has not run.

use super::Pump;
use crate::cluster::redirect::Redirect;
use crate::upstream::redirects::RedirectingNode;
use crate::upstream::replies::ClientState;
use crate::upstream::shared::lane::Lane;
use crate::upstream::shared::lanes::Lanes;
use crate::upstream::shared::queue::Queue;
use crate::upstream::shared::queue::redirected::RedirectedRequest;

/// A command that a node has not run, what the node says, and its error line.
pub(super) type Refused = (RedirectedRequest, Redirect, Box<[u8]>);

impl Pump {
    /// Has other nodes run the commands that this one has not run.
    #[cold]
    pub(super) fn redirect(&self, lane: &Lane, lanes: &Lanes, refused: Vec<Refused>) {
        let Some(redirects) = lanes.redirects() else { return };
        if lanes.is_of_replica() {
            redirects.send_to_primaries(lane.key(), self.link.generation, refused);
        } else {
            let primary = lanes.hold.primary();
            let address = primary.as_ref().map(|primary| &primary.address);
            let node = RedirectingNode { key: lane.key(), generation: self.link.generation, address };
            redirects.follow(&node, refused);
        }
    }
}

/// Takes the front request out, which the node has not run. Drops it if its client has left.
#[cold]
pub(super) fn take_refused(queue: &mut Queue, redirect: Redirect, line: &[u8], refused: &mut Vec<Refused>) {
    let is_wanted = queue.front().is_some_and(|slot| slot.replies.client_state() == ClientState::Open);
    if is_wanted {
        refused.extend(queue.take_redirected().map(|request| (request, redirect, line.into())));
    } else if let Some(slot) = queue.pop() {
        slot.replies.swallow();
    }
}
