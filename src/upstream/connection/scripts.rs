//! Remembers the scripts that clients have sent, and loads them on a new primary before a client runs one there. A failover loses
//! the scripts that EVAL and SCRIPT LOAD left on the old primary: servers replicate functions, not scripts.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::net::stream::Stream;
use crate::resp::Resp;
use crate::resp::control::{Control, ControlError};
use crate::resp::server_error::ServerError;
use crate::resp::value::Value;
use crate::topology::Generation;
use crate::upstream::connection::identity::Identity;

/// The size of the scripts that are remembered for one upstream, in bytes. The oldest are forgotten first.
const MAX_BYTES: usize = 4 * 1024 * 1024;
/// The number of primaries of which is remembered that they have the scripts. A cluster has at most a thousand nodes.
const MAX_PRIMARIES: usize = 1024;
/// The number of scripts that are remembered for one upstream.
const MAX_SCRIPTS: usize = 1024;

/// The scripts of one upstream, shared by the workers. Only script commands and new leased connections use them.
#[derive(Clone, Default)]
pub struct Scripts(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    bodies: HashSet<Arc<[u8]>>,
    /// The same bodies, the oldest first.
    order: VecDeque<Arc<[u8]>>,
    /// The size of all bodies, in bytes.
    bytes: usize,
    /// The generations of the primaries on which all of them are loaded: one, or one for each shard of a cluster.
    loaded: BTreeSet<Generation>,
}

impl Scripts {
    /// Remembers the body of an EVAL or SCRIPT LOAD.
    pub fn remember(&self, body: &[u8]) {
        let mut known = self.lock();
        if body.len() > MAX_BYTES / 4 || known.bodies.contains(body) {
            return;
        }
        let body: Arc<[u8]> = body.into();
        known.bytes += body.len();
        known.bodies.insert(body.clone());
        known.order.push_back(body);
        while known.bytes > MAX_BYTES || known.order.len() > MAX_SCRIPTS {
            let Some(oldest) = known.order.pop_front() else { break };
            known.bytes -= oldest.len();
            known.bodies.remove(&oldest);
        }
    }

    /// Forgets all scripts after a SCRIPT FLUSH.
    pub fn forget(&self) {
        let mut known = self.lock();
        *known = Known { loaded: std::mem::take(&mut known.loaded), ..Known::default() };
    }

    /// Returns the scripts that the primary of `generation` lacks; `None` if it lacks none.
    fn missing_on(&self, generation: Generation) -> Option<Vec<Arc<[u8]>>> {
        let known = self.lock();
        (!known.loaded.contains(&generation) && !known.order.is_empty())
            .then(|| known.order.iter().cloned().collect())
    }

    /// Takes note that a connection was lost: the server may have restarted, and then knows no script any more.
    pub(in crate::upstream) fn mark_unsure(&self) {
        self.lock().loaded.clear();
    }

    fn mark_loaded(&self, generation: Generation) {
        let loaded = &mut self.lock().loaded;
        loaded.insert(generation);
        if loaded.len() > MAX_PRIMARIES {
            loaded.pop_first();
        }
    }

    /// Loads the scripts on a new primary, by a connection of `identity`. One worker does so, once. If the user may not load
    /// scripts, clients get NOSCRIPT, as they would without respgate; for one of respgate's own users, another user's connection
    /// loads them.
    pub(in crate::upstream) async fn load(
        &self,
        stream: &mut Stream,
        (generation, resp): (Generation, Resp),
        identity: &Identity,
        timeout: Duration,
    ) -> Result<(), String> {
        if identity.may_not_load(generation) {
            return Ok(());
        }
        let Some(bodies) = self.missing_on(generation) else { return Ok(()) };
        let deadline = Instant::now() + timeout;
        let mut control = Control::new(stream);
        control.set_resp(resp);
        for body in &bodies {
            control.send(&[b"SCRIPT", b"LOAD", body]);
        }
        let loaded = async {
            control.flush(deadline).await?;
            let mut permitted = true;
            for _ in &bodies {
                let reply = control.reply(deadline).await?;
                permitted &= !matches!(reply, Value::Error(line) if ServerError::of(&line) == ServerError::NoPermission);
            }
            Ok::<_, ControlError>(permitted)
        };
        let loaded = loaded.await;
        if matches!(loaded, Ok(false)) && identity.is_of_a_user() {
            identity.note_may_not_load(generation);
            return Ok(());
        }
        // One attempt only, also if it failed: each further one would delay every new connection.
        self.mark_loaded(generation);
        loaded.map(drop).map_err(|error| format!("scripts could not be loaded: {error}"))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_scripts_are_kept_within_bounds() {
        let scripts = Scripts::default();
        for number in 0..=MAX_SCRIPTS {
            scripts.remember(format!("return {number}").as_bytes());
            scripts.remember(format!("return {number}").as_bytes());
        }
        let missing = scripts.missing_on(Generation(1)).unwrap();
        assert_eq!(missing.len(), MAX_SCRIPTS);
        assert_eq!(&*missing[0], b"return 1");
        scripts.remember(&vec![b'x'; MAX_BYTES]);
        assert_eq!(scripts.lock().order.len(), MAX_SCRIPTS);
    }

    #[test]
    fn each_primary_gets_them_once() {
        let scripts = Scripts::default();
        assert!(scripts.missing_on(Generation(1)).is_none());
        scripts.remember(b"return 1");
        assert!(scripts.missing_on(Generation(1)).is_some());
        scripts.mark_loaded(Generation(1));
        assert!(scripts.missing_on(Generation(1)).is_none());
        assert!(scripts.missing_on(Generation(2)).is_some());
        scripts.forget();
        assert!(scripts.missing_on(Generation(2)).is_none());
    }
}
