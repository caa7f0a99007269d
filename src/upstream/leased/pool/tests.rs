use super::*;
use crate::upstream::config::UpstreamConfig;
use crate::upstream::tests::upstream;

#[tokio::test]
async fn sessions_that_left_the_queue_do_not_pile_up() {
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let (upstream, _topology) = upstream(UpstreamConfig::new("main"));
            let pool = &upstream.parts.pool;
            for _ in 0..10_000 {
                let waiting = pool.enqueue(oneshot::channel().0, Share::default());
                drop(waiting);
            }
            assert!(pool.waiting.borrow().is_empty() && pool.queue.borrow().is_empty());
        })
        .await;
}
