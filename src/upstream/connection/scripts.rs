//! Scripts that clients have sent, so that a new primary knows them before it is asked to run one: a failover loses
//! what EVAL and SCRIPT LOAD left on the old one (functions are replicated, scripts are not).

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use crate::resp::control::Control;
use crate::resp::value::Value;
use crate::topology::Generation;
use crate::upstream::Upstream;
use crate::upstream::connection::open::{Connection, ConnectionKey};

/// Scripts remembered for one upstream, in bytes; the oldest are forgotten first.
const MAX_BYTES: usize = 4 * 1024 * 1024;
/// Scripts remembered for one upstream.
const MAX_SCRIPTS: usize = 1024;

/// The scripts of one upstream, shared by the workers. It is touched by script commands only.
#[derive(Clone, Default)]
pub struct Scripts(Arc<Mutex<Known>>);

#[derive(Default)]
struct Known {
    bodies: HashSet<Arc<[u8]>>,
    order: VecDeque<Arc<[u8]>>,
    bytes: usize,
    loaded: Option<Generation>,
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

    /// SCRIPT FLUSH.
    pub fn forget(&self) {
        let mut known = self.lock();
        *known = Known { loaded: known.loaded, ..Known::default() };
    }

    /// What `generation`'s primary has to be told, if it has not been told yet.
    fn untold(&self, generation: Generation) -> Option<Vec<Arc<[u8]>>> {
        let known = self.lock();
        (known.loaded != Some(generation) && !known.order.is_empty())
            .then(|| known.order.iter().cloned().collect())
    }

    /// A connection was lost: the server may have been restarted, and know nothing any more.
    pub(in crate::upstream) fn mark_unsure(&self) {
        self.lock().loaded = None;
    }

    fn told(&self, generation: Generation) {
        self.lock().loaded = Some(generation);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Upstream {
    /// Tells a new primary the scripts that clients have used so far, once. Where the user may not load scripts,
    /// clients get NOSCRIPT, as they would without respgate; one of respgate's own users leaves it to the others.
    pub(in crate::upstream) async fn tell_scripts(
        &self,
        link: &mut Connection,
        key: &ConnectionKey,
    ) -> Result<(), String> {
        let (generation, resp, identity) = (link.generation, key.resp, &key.identity);
        if identity.may_not_load(generation) {
            return Ok(());
        }
        let Some(bodies) = self.scripts.untold(generation) else { return Ok(()) };
        let deadline = Instant::now() + self.config.connect_timeout;
        let mut control = Control::new(&mut link.stream);
        control.set_resp(resp);
        for body in &bodies {
            control.send(&[b"SCRIPT", b"LOAD", body]);
        }
        let told = async {
            control.flush(deadline).await?;
            let mut permitted = true;
            for _ in &bodies {
                let reply = control.reply(deadline).await?;
                permitted &= !matches!(reply, Value::Error(line) if line.starts_with(b"NOPERM"));
            }
            Ok::<_, crate::resp::control::ControlError>(permitted)
        };
        let told = told.await;
        if matches!(told, Ok(false)) && identity.is_of_a_user() {
            identity.note_may_not_load(generation);
            return Ok(());
        }
        // Tried once: a server that cannot be told must not be asked again and again.
        self.scripts.told(generation);
        told.map(drop).map_err(|error| format!("scripts could not be loaded: {error}"))
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
        let untold = scripts.untold(Generation(1)).unwrap();
        assert_eq!(untold.len(), MAX_SCRIPTS);
        assert_eq!(&*untold[0], b"return 1");
        scripts.remember(&vec![b'x'; MAX_BYTES]);
        assert_eq!(scripts.lock().order.len(), MAX_SCRIPTS);
    }

    #[test]
    fn each_primary_is_told_once() {
        let scripts = Scripts::default();
        assert!(scripts.untold(Generation(1)).is_none());
        scripts.remember(b"return 1");
        assert!(scripts.untold(Generation(1)).is_some());
        scripts.told(Generation(1));
        assert!(scripts.untold(Generation(1)).is_none());
        assert!(scripts.untold(Generation(2)).is_some());
        scripts.forget();
        assert!(scripts.untold(Generation(2)).is_none());
    }
}
