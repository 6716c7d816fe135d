//! Waiting for a condition, the only kind of waiting that tests do.

use std::time::{Duration, Instant};

const BETWEEN_LOOKS: Duration = Duration::from_millis(20);

/// Waits until `condition` holds, and panics with the sentence `what` if it does not within `deadline`.
pub async fn wait_for(what: &str, deadline: Duration, mut condition: impl AsyncFnMut() -> bool) {
    wait_for_value(what, deadline, async || condition().await.then_some(())).await;
}

/// Waits until `look` finds something, and panics with the sentence `what` if it does not within `deadline`.
pub async fn wait_for_value<T>(
    what: &str,
    deadline: Duration,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> T {
    let started = Instant::now();
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    };
    // The look itself may hang, so the deadline is around it.
    match tokio::time::timeout(deadline, looking).await {
        Ok(found) => found,
        Err(_) => panic!("waited {:.1?} in vain for: {what}", started.elapsed()),
    }
}
