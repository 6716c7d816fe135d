//! The loops that a process lives by. One that ends or panics before it may would leave a process that looks well and
//! does not do its work; so it is said, and the process is told to end as if it had crashed: whoever runs it starts it
//! again. Knows nothing of what the loops do, and ends no process by itself.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The loops of a part of a process, and whether one of them has broken.
#[derive(Clone, Debug)]
pub struct Loops {
    /// The first that has. Written where a loop is watched, read by whoever owns the process.
    broken: Arc<watch::Sender<Option<BrokenLoop>>>,
    /// What ends with any of them.
    ends: Vec<CancellationToken>,
}

/// Why a process cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a fault in Crawlify: the loop `{name}` {how}, and without it nothing goes on as it should")]
pub struct BrokenLoop {
    /// Which.
    pub name: &'static str,
    /// That it ended, or with what it panicked.
    pub how: String,
}

impl BrokenLoop {
    /// The exit code of a process that ends for that: "internal software error" in `sysexits.h`.
    pub const EXIT_CODE: u8 = 70;
}

impl Loops {
    /// None yet; the tokens are cancelled when one of them breaks.
    pub fn new(ends: Vec<CancellationToken>) -> Self {
        Self { broken: Arc::new(watch::Sender::new(None)), ends }
    }

    /// Runs a loop, which may end once `may_end` is cancelled. For a task of its own, of which nobody looks at the end.
    pub async fn watch<W: Future>(self, name: &'static str, may_end: CancellationToken, work: W) {
        let how = match AssertUnwindSafe(work).catch_unwind().await {
            Ok(_) if may_end.is_cancelled() => return,
            Ok(_) => "ended by itself".to_owned(),
            Err(panic) => format!("panicked ({})", text(panic.as_ref())),
        };
        let broken = BrokenLoop { name, how };
        tracing::error!(
            name,
            how = broken.how,
            "a loop that this process lives by is broken: the process ends"
        );
        self.note(broken);
    }

    /// Waits for a loop that breaks elsewhere, in what these stand on, and takes it for one of these; until `may_end`.
    /// For a task of its own, as [`Loops::watch`].
    pub async fn pass_on(
        self,
        may_end: CancellationToken,
        broken_elsewhere: impl Future<Output = BrokenLoop>,
    ) {
        // Who watches it has said so.
        if let Some(broken) = may_end.run_until_cancelled(broken_elsewhere).await {
            self.note(broken);
        }
    }

    fn note(&self, broken: BrokenLoop) {
        self.broken.send_if_modified(|first| {
            let is_first = first.is_none();
            if is_first {
                *first = Some(broken);
            }
            is_first
        });
        self.ends.iter().for_each(CancellationToken::cancel);
    }

    /// Looks whether all loops that have ended might.
    ///
    /// # Errors
    /// The first that might not.
    pub fn check(&self) -> Result<(), BrokenLoop> {
        self.broken.borrow().clone().map_or(Ok(()), Err)
    }

    /// Waits until one breaks.
    pub async fn broken(&self) -> BrokenLoop {
        let mut told = self.broken.subscribe();
        let broken = told.wait_for(Option::is_some).await.ok().and_then(|broken| broken.clone());
        match broken {
            Some(broken) => broken,
            None => std::future::pending().await,
        }
    }
}

/// What a panic says.
fn text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a text")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio_util::task::TaskTracker;

    use super::*;

    /// What became of two loops, of which one does this, and the other goes on until it is told to stop.
    async fn ends_of(
        work: impl Future<Output = ()> + Send + 'static,
        is_told: bool,
    ) -> Result<(), BrokenLoop> {
        let (stop, end, tasks) = (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());
        let loops = Loops::new(vec![stop.clone()]);
        tasks.spawn(loops.clone().watch("other", end.clone(), stop.clone().cancelled_owned()));
        tasks.spawn(loops.clone().watch("one", end.clone(), work));
        tasks.close();
        // Whoever owns them ends in its own order: first it is told, then its loops may end.
        let told = async {
            if is_told {
                end.cancel();
                stop.cancel();
            }
            stop.cancelled().await;
            end.cancel();
        };
        let ended = async { tokio::join!(told, tasks.wait()) };
        tokio::time::timeout(Duration::from_secs(20), ended).await.expect("a broken loop ends the others");
        loops.check()
    }

    #[tokio::test]
    async fn a_loop_that_panics_or_ends_too_soon_ends_all_and_says_so() {
        let broken = ends_of(async { panic!("no {}", 7) }, false).await.unwrap_err();
        assert_eq!((broken.name, broken.how.as_str()), ("one", "panicked (no 7)"));
        let broken = ends_of(async { panic!("plain") }, false).await.unwrap_err();
        assert_eq!(broken.how, "panicked (plain)");
        let broken = ends_of(async {}, false).await.unwrap_err();
        assert_eq!((broken.name, broken.how.as_str()), ("one", "ended by itself"));
    }

    #[tokio::test]
    async fn loops_that_end_when_they_may_are_well_and_one_that_panics_then_is_not() {
        assert_eq!(ends_of(tokio::task::yield_now(), true).await, Ok(()));
        let late = ends_of(async { panic!("late") }, true).await;
        assert_eq!(late.unwrap_err().how, "panicked (late)");
    }

    #[tokio::test]
    async fn whoever_waits_for_it_hears_of_the_first_that_broke() {
        let loops = Loops::new(Vec::new());
        for name in ["first", "second"] {
            loops.clone().watch(name, CancellationToken::new(), async {}).await;
        }
        assert_eq!(loops.broken().await.name, "first");
        assert_eq!(loops.check().unwrap_err().name, "first");
    }

    #[tokio::test]
    async fn what_breaks_in_something_that_others_stand_on_breaks_them_until_they_may_end() {
        let (stop, may_end) = (CancellationToken::new(), CancellationToken::new());
        let (below, above) = (Loops::new(Vec::new()), Loops::new(vec![stop.clone()]));
        let breaks = below.clone().watch("below", CancellationToken::new(), async {});
        let passes_on = above.clone().pass_on(may_end.clone(), below.broken());
        tokio::time::timeout(Duration::from_secs(20), async { tokio::join!(passes_on, breaks) })
            .await
            .expect("it is passed on");
        assert_eq!(above.check(), below.check());
        assert!(stop.is_cancelled() && above.check().is_err());

        let (unbroken, above) = (Loops::new(Vec::new()), Loops::new(Vec::new()));
        may_end.cancel();
        above.clone().pass_on(may_end, unbroken.broken()).await;
        assert_eq!(above.check(), Ok(()));
    }
}
