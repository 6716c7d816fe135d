//! Keeps one link to the broker alive: session after session, with jittered exponential back-off, and never gives up.

use std::time::{Duration, Instant};

use rand::Rng;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::super::BrokerError;
use super::connection::LinkError;
use crate::loops::Loops;
use crate::telemetry::Reminder;

const FIRST_DELAY: Duration = Duration::from_millis(200);
/// Everybody waits for pages while a broker is away: it should not take long to notice that it is back.
const LAST_DELAY: Duration = Duration::from_secs(5);
/// A connection that held this long was a good one: the next failure is a new story.
const HELD_WELL: Duration = Duration::from_secs(5);

/// How a link is now. Written by its supervisor and its sessions; read by the broker.
#[derive(Debug)]
pub(super) enum LinkState {
    /// Not yet connected, and not yet failed.
    Starting,
    Up,
    Down(BrokerError),
}

impl LinkState {
    pub(super) fn is_up(&self) -> bool {
        matches!(self, Self::Up)
    }
}

/// What a link does, over and over.
pub(super) trait Work: Send {
    /// Opens one connection and works on it until it fails, or until there is nothing more to do. It watches
    /// `link.stop` and ends soon after; it is never dropped half-way.
    fn session(&mut self, link: &Link) -> impl Future<Output = Result<(), LinkError>> + Send;
}

/// What a session and its supervisor need of each other.
#[derive(Debug)]
pub(super) struct Link {
    /// Names the link in logs and in the broker's list of connections.
    pub(super) name: String,
    pub(super) state: watch::Sender<LinkState>,
    /// Ends the link.
    pub(super) stop: CancellationToken,
}

impl Link {
    pub(super) fn set_up(&self) {
        info!(link = %self.name, "broker connected");
        self.state.send_replace(LinkState::Up);
    }

    /// Waits for `work`, but not beyond the stop.
    pub(super) async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.stop.run_until_cancelled(work).await
    }

    /// Keeps the link until it is stopped, as one of the loops that the process lives by. However it ends, also by a
    /// panic, it is down then, and whoever looks why finds it among the loops.
    pub(super) async fn keep_watched(self, name: &'static str, loops: Loops, mut work: impl Work) {
        loops.watch(name, self.stop.clone(), self.keep(&mut work)).await;
        self.state.send_replace(LinkState::Down(BrokerError::Disconnected));
    }

    /// Runs sessions until one ends by itself or the link is stopped.
    async fn keep(&self, work: &mut impl Work) {
        let (mut backoff, mut reminder) = (Backoff::default(), Reminder::default());
        while !self.stop.is_cancelled() {
            let started = Instant::now();
            let Err(error) = work.session(self).await else { break };
            let was_up = self.state.borrow().is_up();
            if was_up && started.elapsed() > HELD_WELL {
                backoff = Backoff::default();
            }
            if was_up {
                reminder.forget();
            }
            self.state.send_replace(LinkState::Down(error.to_broker_error()));
            let delay = backoff.next_delay();
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            if reminder.is_due() {
                warn!(link = %self.name, %error, cause, delay_ms = delay.as_millis(), "no connection to the broker, will retry");
            } else {
                debug!(link = %self.name, %error, cause, delay_ms = delay.as_millis(), "still no connection to the broker");
            }
            tokio::select! {
                () = self.stop.cancelled() => break,
                () = tokio::time::sleep(delay) => {}
            }
        }
    }
}

/// Doubles from 0.2 s to 5 s; each delay is a random one between half and all of it, so that a fleet does not come
/// back in step.
#[derive(Debug)]
struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: FIRST_DELAY }
    }
}

impl Backoff {
    fn next_delay(&mut self) -> Duration {
        let most = self.next;
        self.next = (most * 2).min(LAST_DELAY);
        rand::rng().random_range(most / 2..=most).max(FIRST_DELAY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_five_seconds_and_never_end() {
        let mut backoff = Backoff::default();
        let delays: Vec<_> = (0..1_000).map(|_| backoff.next_delay()).collect();
        assert_eq!(delays[0], FIRST_DELAY);
        assert!(delays[3] >= Duration::from_millis(800) && delays[3] <= Duration::from_millis(1_600));
        assert!(delays.iter().all(|&delay| delay >= FIRST_DELAY && delay <= LAST_DELAY));
        assert!(delays[900..].iter().all(|&delay| delay >= LAST_DELAY / 2));
    }

    struct FailingTwice {
        sessions: u32,
    }

    impl Work for FailingTwice {
        async fn session(&mut self, link: &Link) -> Result<(), LinkError> {
            self.sessions += 1;
            link.set_up();
            if self.sessions == 3 {
                link.stop.cancel();
            }
            Err(LinkError::Ended)
        }
    }

    fn link() -> Link {
        Link {
            name: "test".to_owned(),
            state: watch::Sender::new(LinkState::Starting),
            stop: CancellationToken::new(),
        }
    }

    #[tokio::test]
    async fn sessions_are_tried_again_until_the_link_is_stopped() {
        let (link, mut work) = (link(), FailingTwice { sessions: 0 });
        tokio::time::timeout(Duration::from_secs(5), link.keep(&mut work)).await.unwrap();
        assert_eq!(work.sessions, 3);
        assert!(!link.state.borrow().is_up());
    }

    struct Ending {
        panics: bool,
    }

    impl Work for Ending {
        async fn session(&mut self, link: &Link) -> Result<(), LinkError> {
            link.set_up();
            assert!(!self.panics, "the test's link panics");
            link.stop.cancelled().await;
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_link_that_panics_or_ends_is_down_and_only_the_one_that_was_stopped_is_well() {
        for (panics, name) in [(true, Some("link")), (false, None)] {
            let (link, loops) = (link(), Loops::new(Vec::new()));
            let (state, stop) = (link.state.subscribe(), link.stop.clone());
            let kept = link.keep_watched("link", loops.clone(), Ending { panics });
            let stopped = async {
                if !panics {
                    stop.cancel();
                }
            };
            tokio::time::timeout(Duration::from_secs(5), async { tokio::join!(kept, stopped) })
                .await
                .unwrap();
            assert!(!state.borrow().is_up(), "panics: {panics}");
            assert_eq!(loops.check().err().map(|broken| broken.name), name);
        }
    }
}
