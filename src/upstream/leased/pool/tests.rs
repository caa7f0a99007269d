use super::*;
use crate::net::buffers::Buffers;
use crate::upstream::tests::parts;

#[tokio::test]
async fn sessions_that_left_the_queue_do_not_pile_up() {
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let (parts, _topology) = parts(Rc::new(Buffers::alone(1024)));
            let pool = &parts.pool;
            for _ in 0..10_000 {
                let waiting = pool.enqueue(oneshot::channel().0, Share::default());
                drop(waiting);
            }
            assert!(pool.waiting.borrow().is_empty() && pool.queue.borrow().is_empty());
        })
        .await;
}
