//! Orderly end: one switch that everybody who accepts work watches.

use tokio::sync::watch;

/// Throws the switch.
pub struct Switch(watch::Sender<bool>);

/// Watches it.
#[derive(Clone)]
pub struct Draining(watch::Receiver<bool>);

/// A switch that is not thrown yet.
pub fn switch() -> (Switch, Draining) {
    let (sender, receiver) = watch::channel(false);
    (Switch(sender), Draining(receiver))
}

impl Switch {
    /// No new work from now on.
    pub fn begin(&self) {
        self.0.send_replace(true);
    }
}

impl Draining {
    /// Whether the drain has begun.
    pub fn begun(&self) -> bool {
        *self.0.borrow()
    }

    /// Ends when the drain begins, or nobody can begin it any more.
    pub async fn wait(&mut self) {
        let _ = self.0.wait_for(|begun| *begun).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everybody_learns_of_the_drain() {
        let (switch, mut draining) = switch();
        assert!(!draining.begun());
        let mut other = draining.clone();
        switch.begin();
        draining.wait().await;
        other.wait().await;
        assert!(other.begun());
    }
}
