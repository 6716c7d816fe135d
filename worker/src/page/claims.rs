//! Claims: several slots' claims share one round trip to the store. A page in hand is not claimed once more, however often
//! its message comes: after a failure the store could not tell it from one that was claimed unseen.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crawlify_shared::broker::PageMessage;
use crawlify_shared::domain::page::ClaimedPage;
use crawlify_shared::store::hot::{ClaimRequest, HotStore};
use crawlify_shared::telemetry::chain;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::group_commit::next_group;

/// Pages of one statement at the most.
const MAX_GROUP: usize = 256;
/// The pause after a failure.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Where pages ask to be claimed.
#[derive(Clone, Debug)]
pub(crate) struct Claims {
    jobs: mpsc::Sender<Job>,
}

/// The answer to a claim.
#[derive(Debug)]
pub(crate) enum Claim {
    /// The page is ours, and in hand until the second part is dropped.
    Ours(Box<ClaimedPage>, Held),
    /// Somebody else has it, or it has ended, or we have it in hand: the message can be forgotten.
    Nobodys,
    /// Nothing is known, because we stop: the message must go back.
    Unknown,
}

type Job = (ClaimRequest, oneshot::Sender<Option<(ClaimedPage, Held)>>);

/// What this worker has in hand, or is about to. Written by [`run`] and by whoever lets go of a page, read by [`run`] and where a
/// server has taken over; locked for moments only.
#[derive(Clone, Debug, Default)]
pub(crate) struct InHand(Arc<Mutex<HashSet<ClaimRequest>>>);

/// That a page is in hand. To be kept until the page is recorded.
#[derive(Debug)]
pub(crate) struct Held {
    what: ClaimRequest,
    among: InHand,
}

impl InHand {
    /// All of it, in no particular order.
    pub(crate) fn pages(&self) -> Vec<ClaimRequest> {
        self.lock().iter().copied().collect()
    }

    fn hold(&self, what: ClaimRequest) -> Held {
        self.lock().insert(what);
        Held { what, among: self.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<ClaimRequest>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.among.lock().remove(&self.what);
    }
}

impl Claims {
    /// Makes the way in; whoever owns the tasks runs the future, which ends on `stop`.
    pub(crate) fn new(
        store: HotStore,
        lease: Duration,
        in_hand: InHand,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (jobs, waiting) = mpsc::channel(MAX_GROUP);
        (Self { jobs }, run(store, lease, in_hand, waiting, stop))
    }

    /// Claims a message's page; waits while the store is down.
    pub(crate) async fn claim(&self, message: &PageMessage) -> Claim {
        let (answer, answered) = oneshot::channel();
        let request = ClaimRequest { page_id: message.page_id, epoch: message.epoch };
        if self.jobs.send((request, answer)).await.is_err() {
            return Claim::Unknown;
        }
        match answered.await {
            Ok(Some((page, held))) => Claim::Ours(Box::new(page), held),
            Ok(None) => Claim::Nobodys,
            Err(_) => Claim::Unknown,
        }
    }
}

async fn run(
    store: HotStore,
    lease: Duration,
    in_hand: InHand,
    mut jobs: mpsc::Receiver<Job>,
    stop: CancellationToken,
) {
    loop {
        let group = tokio::select! {
            group = next_group(&mut jobs, |group| group.len() >= MAX_GROUP) => group,
            () = stop.cancelled() => None,
        };
        let Some(group) = group else { return };
        let requests: HashSet<ClaimRequest> = group.iter().map(|(request, _)| *request).collect();
        let requests: Vec<_> = requests.difference(&in_hand.lock()).copied().collect();
        // From before the statement is sent: no row says before we do that a page is ours.
        let mut held: HashMap<ClaimRequest, Held> =
            requests.iter().map(|request| (*request, in_hand.hold(*request))).collect();
        // A statement that failed may have claimed all the same: then those pages are ours already.
        let mut again = false;
        let mut claimed = loop {
            if requests.is_empty() {
                break Vec::new();
            }
            let claimed = tokio::select! {
                claimed = store.claim(&requests, lease, again) => claimed,
                () = stop.cancelled() => return,
            };
            match claimed {
                Ok(claimed) => break claimed,
                Err(error) => {
                    tracing::warn!(
                        error = %chain(&error),
                        pages = requests.len(),
                        "cannot claim, will go on"
                    );
                    again = true;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY_PAUSE) => {}
                () = stop.cancelled() => return,
            }
        };
        for (request, answer) in group {
            let place = claimed
                .iter()
                .position(|page| page.page_id == request.page_id && page.epoch == request.epoch);
            let page = place.map(|place| claimed.swap_remove(place)).zip(held.remove(&request));
            // Nobody waits any more for an answer that cannot be sent: the lease then runs out.
            let _ = answer.send(page);
        }
    }
}
