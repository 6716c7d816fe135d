//! The worker's lease on all of its pages: a heartbeat row that it renews, and the knowledge whether it did.
//!
//! A worker that cannot renew fences itself: it stops its pages before others take them over.

use std::error::Error;
use std::time::Duration;

use crawlify_shared::config::LeaseTimes;
use crawlify_shared::store::hot::{HotStore, Standing};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Whether the lease holds. The heartbeat's task writes it, pages and consumer read it.
#[derive(Clone, Debug)]
pub(crate) struct Leases {
    held: watch::Receiver<bool>,
}

impl Leases {
    /// Makes the lease, not held yet; whoever owns the tasks runs the future, which ends on `stop`.
    pub(crate) fn new(
        store: HotStore,
        times: LeaseTimes,
        name: String,
        slots: usize,
        draining: CancellationToken,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (set_held, held) = watch::channel(false);
        let beat = async move {
            let mut last_success = None;
            loop {
                let beaten =
                    beat(&store, &name, slots, draining.is_cancelled(), last_success.is_some(), times).await;
                match beaten {
                    Ok(standing) => {
                        last_success = Some(Instant::now());
                        if standing == Standing::WasLost {
                            tracing::warn!(
                                "this worker was given up by the fleet; its pages are others' now"
                            );
                            set_held.send_replace(false);
                        }
                        set_held.send_replace(true);
                    }
                    Err(error) => {
                        tracing::warn!(error, "the heartbeat failed");
                        let fenced = last_success.is_none_or(|last| last.elapsed() >= times.fence_after);
                        if fenced && set_held.send_replace(false) {
                            tracing::error!("no heartbeat for too long: the pages in hand are given up");
                        }
                    }
                }
                // After a failure it tries more often, so that one lost packet does not end a lease.
                let healthy = last_success.is_some_and(|last| last.elapsed() < times.heartbeat_every);
                let pause = if healthy { times.heartbeat_every } else { Duration::from_secs(1) };
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = stop.cancelled() => break,
                }
            }
            let retired = tokio::time::timeout(Duration::from_secs(2), store.retire()).await;
            if !matches!(retired, Ok(Ok(()))) {
                tracing::info!("could not say goodbye; the lease will run out");
            }
        };
        (Self { held }, beat)
    }

    /// Waits until the lease is held.
    pub(crate) async fn held(&self) {
        let mut held = self.held.clone();
        if held.wait_for(|held| *held).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until the lease, now held, is lost.
    pub(crate) async fn lost(&self) {
        let mut held = self.held.clone();
        // A loss that lasted a moment counts too, so the change is waited for, not the value.
        held.mark_unchanged();
        while *held.borrow_and_update() {
            if held.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Whether the lease is held now.
    pub(crate) fn is_held(&self) -> bool {
        *self.held.borrow()
    }
}

/// One heartbeat, within the time that leaves room for another before the lease is gone.
async fn beat(
    store: &HotStore,
    name: &str,
    slots: usize,
    draining: bool,
    announced: bool,
    times: LeaseTimes,
) -> Result<Standing, String> {
    let beat = async {
        if announced {
            store.heartbeat(draining).await
        } else {
            store.announce(name, slots).await.map(|()| Standing::Alive)
        }
    };
    match tokio::time::timeout(times.heartbeat_every, beat).await {
        Ok(Ok(standing)) => Ok(standing),
        Ok(Err(error)) => Err(match error.source() {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        }),
        Err(_) => Err("the database did not answer".to_owned()),
    }
}
