//! The tasks that run for as long as one worker's side of an upstream exists.

use std::cell::RefCell;
use std::rc::Rc;

use tokio::task::AbortHandle;

use crate::poll_meter::PollMeter;

/// The number of handles from which those of finished tasks are looked for.
const FEW: usize = 16;

/// The tasks of one worker's side of an upstream.
pub struct Tasks {
    meter: Rc<PollMeter>,
    handles: RefCell<Vec<AbortHandle>>,
}

impl Tasks {
    /// Creates a set without tasks. `meter` measures every poll of its tasks.
    pub fn new(meter: Rc<PollMeter>) -> Self {
        Self { meter, handles: RefCell::default() }
    }

    /// Starts a task.
    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        let mut handles = self.handles.borrow_mut();
        // The vector is full before it grows: at most half of the handles are kept for nothing.
        if handles.len() >= FEW && handles.len() == handles.capacity() {
            handles.retain(|task| !task.is_finished());
        }
        handles.push(self.meter.spawn_local(future));
    }

    /// Ends every task, and with them their connections.
    pub fn end(&self) {
        self.handles.borrow_mut().drain(..).for_each(|task| task.abort());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn finished_tasks_are_forgotten_and_the_others_end() {
        tokio::task::LocalSet::new()
            .run_until(async {
                let tasks = Tasks::new(PollMeter::new());
                let alive = Rc::new(());
                let held = alive.clone();
                tasks.spawn(async move {
                    std::future::pending::<()>().await;
                    drop(held);
                });
                for _ in 0..1000 {
                    tasks.spawn(async {});
                    tokio::task::yield_now().await;
                }
                assert!(tasks.handles.borrow().len() <= 2 * FEW, "{}", tasks.handles.borrow().len());
                tasks.end();
                while Rc::strong_count(&alive) > 1 {
                    tokio::task::yield_now().await;
                }
            })
            .await;
    }
}
