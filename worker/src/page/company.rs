//! Whether pages may be executed beside others. One that may have taken down its browser or its worker runs alone: if it
//! does so again, it harms nobody else, and there is no doubt which page it was. A worker has one such page at the most: a
//! second one that waited would be taken down with it. The store is told when it begins, as it is charged for the loss of its
//! worker only from then on. What would have to wait for it for long is left to other workers.

use std::sync::Arc;
use std::time::Duration;

use crawlify_shared::domain::page::ClaimedPage;
use crawlify_shared::store::hot::HotStore;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock, watch};
use tokio::time::Instant;

use super::overdue::GRACE;

/// The others that are here go elsewhere when a suspect has had this part of a page's time, which is 5 s: one that is innocent may
/// well end sooner, and they had better wait for that.
const OTHERS_WAIT: u32 = 24;

/// What the pages of one worker share. The lock is fair: while a suspect waits, no further page comes in.
#[derive(Debug)]
pub(crate) struct Company {
    lock: Arc<RwLock<()>>,
    /// Since when a suspect is here. Written when it comes and by [`Suspect`], read by those that wait for its end.
    suspect: Arc<watch::Sender<Option<Instant>>>,
    /// How long a suspect waits for the others to end. None are claimed meanwhile, so that it is as long as the slowest page
    /// takes: one that went back sooner would never be alone where there are always slow ones.
    patience: Duration,
    /// How long others wait for a suspect.
    others_wait: Duration,
    store: HotStore,
}

/// That a suspect is here, until this is dropped.
#[derive(Debug)]
pub(crate) struct Suspect(Arc<watch::Sender<Option<Instant>>>);

impl Drop for Suspect {
    fn drop(&mut self) {
        self.0.send_replace(None);
    }
}

/// A page's leave to be executed, until it is dropped.
#[derive(Debug)]
pub(crate) enum Leave {
    /// Beside others.
    Beside { _guard: OwnedRwLockReadGuard<()> },
    /// Alone.
    Alone { _guard: OwnedRwLockWriteGuard<()>, _suspect: Suspect },
    /// Not at all: the page goes back, and no other suspect comes in until it has.
    Back { _suspect: Suspect },
}

impl Company {
    /// Of a worker whose pages have so long each.
    pub(crate) fn new(store: HotStore, page_deadline: Duration) -> Self {
        let (patience, others_wait) = (page_deadline + GRACE, page_deadline / OTHERS_WAIT);
        Self { lock: Arc::default(), suspect: Arc::default(), patience, others_wait, store }
    }

    /// Waits until no suspect runs. To be had before the page is claimed: who waits must hold no lease.
    pub(crate) async fn join(&self) -> Leave {
        Leave::Beside { _guard: Arc::clone(&self.lock).read_owned().await }
    }

    /// Waits until a suspect has been here for long, running or waiting to be alone.
    pub(crate) async fn taken(&self) {
        let mut suspect = self.suspect.subscribe();
        loop {
            let since = *suspect.borrow_and_update();
            let long = async {
                match since {
                    Some(since) => tokio::time::sleep_until(since + self.others_wait).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = long => return,
                // Its sender is ours: this is another suspect, or none.
                _ = suspect.changed() => {}
            }
        }
    }

    /// Whether a suspect has been here for long.
    pub(crate) fn is_taken(&self) -> bool {
        self.suspect.borrow().is_some_and(|since| since.elapsed() >= self.others_wait)
    }

    /// Waits until no suspect is here.
    pub(crate) async fn free(&self) {
        // Its sender is ours, so that this ends only then.
        let _ = self.suspect.subscribe().wait_for(Option::is_none).await;
    }

    /// Exchanges the leave of a suspect for one without company; others keep theirs.
    ///
    /// # Errors
    /// Another suspect is here, the others did not end in time, or the store could not be told: the page must go back. Until
    /// that is recorded it keeps what it is given, so that nobody who may take down the worker runs while the page is still
    /// in its hands.
    pub(crate) async fn fit(&self, page: &ClaimedPage, leave: Leave) -> Result<Leave, Leave> {
        if !page.faults.is_suspect() {
            return Ok(leave);
        }
        let alone = self.leave_to_one(leave).await?;
        if let Err(error) = self.store.begin_alone(page).await {
            tracing::debug!(page.id = %page.page_id, %error, "the page goes back, as it would not be known that it was alone");
            return Err(alone);
        }
        Ok(alone)
    }

    async fn leave_to_one(&self, leave: Leave) -> Result<Leave, Leave> {
        let Some(suspect) = self.enter() else { return Err(leave) };
        drop(leave);
        tracing::debug!("a page that may have taken down what executed it waits to be alone");
        let alone = tokio::time::timeout(self.patience, Arc::clone(&self.lock).write_owned()).await;
        match alone {
            Ok(guard) => Ok(Leave::Alone { _guard: guard, _suspect: suspect }),
            Err(_elapsed) => Err(Leave::Back { _suspect: suspect }),
        }
    }

    /// Lets a suspect in, unless one is here.
    fn enter(&self) -> Option<Suspect> {
        let is_first = self.suspect.send_if_modified(|since| {
            let is_first = since.is_none();
            since.get_or_insert_with(Instant::now);
            is_first
        });
        is_first.then(|| Suspect(Arc::clone(&self.suspect)))
    }
}

#[cfg(test)]
mod tests {
    use crawlify_shared::config::{LeaseTimes, SecretUrl};
    use crawlify_shared::domain::id::WorkerId;
    use futures_util::FutureExt;

    use super::*;

    /// Of a worker whose store nobody asks.
    fn company() -> Company {
        let nowhere = SecretUrl::new("postgres://127.0.0.1:1/none");
        let store = HotStore::connect(&nowhere, WorkerId::generate()).unwrap();
        Company::new(store, LeaseTimes::default().page_deadline)
    }

    #[tokio::test]
    async fn a_suspect_runs_alone_and_nobody_comes_in_meanwhile() {
        let company = company();
        let (suspect, second, other) = (company.join().await, company.join().await, company.join().await);
        let mut alone = Box::pin(company.leave_to_one(suspect));
        assert!(alone.as_mut().now_or_never().is_none(), "the other still runs");
        let mut late = Box::pin(company.join());
        assert!(late.as_mut().now_or_never().is_none(), "who comes now waits for the suspect");
        let goes_back = company.leave_to_one(second).await.expect_err("one suspect at a time");
        drop(other);
        assert!(alone.as_mut().now_or_never().is_none(), "the second one is not recorded yet");
        drop(goes_back);
        let alone = alone.await.unwrap();
        assert!(late.as_mut().now_or_never().is_none());
        drop(alone);
        assert!(matches!(late.await, Leave::Beside { .. }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_suspect_waits_for_pages_that_take_their_whole_time_and_no_further_one_comes_before_it() {
        let company = company();
        let others = [company.join().await, company.join().await];
        let suspect = company.join().await;
        let slow = async {
            let [first, second] = others;
            tokio::time::sleep(Duration::from_secs(45)).await;
            drop(first);
            let whole = LeaseTimes::default().page_deadline - Duration::from_secs(45);
            tokio::time::sleep(whole).await;
            drop(second);
        };
        let late = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            company.join().await;
            Instant::now()
        };
        let alone = async {
            let alone = company.leave_to_one(suspect).await.expect("it has its turn");
            assert!(matches!(alone, Leave::Alone { .. }));
            tokio::time::sleep(Duration::from_secs(20)).await;
            Instant::now()
        };
        let begun = Instant::now();
        let ((), late, ended) = tokio::join!(slow, late, alone);
        let expected = LeaseTimes::default().page_deadline + Duration::from_secs(20);
        assert!((expected..expected + Duration::from_secs(1)).contains(&(ended - begun)));
        assert!(late >= ended);
    }

    #[tokio::test(start_paused = true)]
    async fn others_wait_for_a_suspect_for_a_moment_and_it_counts_from_its_coming() {
        let company = company();
        let others_wait = LeaseTimes::default().page_deadline / OTHERS_WAIT;
        assert!(company.taken().now_or_never().is_none() && !company.is_taken(), "nobody is here");
        let slow = company.join().await;
        let suspect = company.join().await;
        let begun = Instant::now();
        let ends_soon = async {
            let alone = company.leave_to_one(suspect).await.unwrap();
            assert!(company.free().now_or_never().is_none());
            drop(alone);
        };
        let lets_it_in = async {
            tokio::time::sleep(others_wait / 2).await;
            drop(slow);
        };
        tokio::join!(ends_soon, lets_it_in);
        company.free().await;
        assert!(begun.elapsed() < others_wait && !company.is_taken());
        // The next one comes, and stays.
        let suspect = company.join().await;
        let alone = company.leave_to_one(suspect).await.unwrap();
        let begun = Instant::now();
        company.taken().await;
        assert!((others_wait..others_wait + Duration::from_millis(10)).contains(&begun.elapsed()));
        assert!(company.is_taken());
        drop(alone);
        assert!(!company.is_taken());
        company.free().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_suspect_does_not_wait_for_ever() {
        let company = company();
        let _other = company.join().await;
        let suspect = company.join().await;
        let goes_back = company.leave_to_one(suspect).await.unwrap_err();
        assert!(company.join().now_or_never().is_some(), "the others go on");
        let another = company.join().await;
        let refused = company.leave_to_one(another).await.expect_err("the first one is not recorded yet");
        drop((goes_back, refused));
    }
}
