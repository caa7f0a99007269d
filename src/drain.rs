//! The orderly shutdown: one switch that every part that accepts work watches.

use tokio::sync::watch;

/// Begins the drain. Clones are the same switch.
#[derive(Clone, Debug)]
pub struct Switch(watch::Sender<bool>);

/// Watches whether the drain has begun.
#[derive(Clone)]
pub struct Draining(watch::Receiver<bool>);

/// Creates a switch whose drain has not begun, and a watcher of it.
pub fn switch() -> (Switch, Draining) {
    let (sender, receiver) = watch::channel(false);
    (Switch(sender), Draining(receiver))
}

impl Switch {
    /// Begins the drain: nothing accepts new work from now on.
    pub fn begin(&self) {
        self.0.send_replace(true);
    }
}

impl Draining {
    /// Returns true if the drain has begun.
    pub fn begun(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until the drain begins, or until every [`Switch`] is dropped.
    pub async fn wait(&mut self) {
        let _ = self.0.wait_for(|begun| *begun).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_watcher_learns_of_the_drain() {
        let (switch, mut draining) = switch();
        assert!(!draining.begun());
        let mut other = draining.clone();
        switch.begin();
        draining.wait().await;
        other.wait().await;
        assert!(other.begun());
    }
}
