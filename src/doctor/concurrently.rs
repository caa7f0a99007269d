//! Runs checks at the same time.

/// Runs all futures at the same time and returns their results in the given order.
pub(super) async fn concurrently<F>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    let tasks: Vec<_> = futures.into_iter().map(tokio::spawn).collect();
    let mut results = Vec::with_capacity(tasks.len());
    for task in tasks {
        // A task ends early only by a panic; its result is then missing.
        results.extend(task.await);
    }
    results
}
