//! Claims: several slots' claims share one round trip to the store.

use std::collections::HashSet;
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
    /// The page is ours.
    Ours(Box<ClaimedPage>),
    /// Somebody else has it, or it has ended: the message can be forgotten.
    Nobodys,
    /// Nothing is known, because we stop: the message must go back.
    Unknown,
}

type Job = (ClaimRequest, oneshot::Sender<Option<ClaimedPage>>);

impl Claims {
    /// Makes the way in; whoever owns the tasks runs the future, which ends on `stop`.
    pub(crate) fn new(
        store: HotStore,
        lease: Duration,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send) {
        let (jobs, waiting) = mpsc::channel(MAX_GROUP);
        (Self { jobs }, run(store, lease, waiting, stop))
    }

    /// Claims a message's page; waits while the store is down.
    pub(crate) async fn claim(&self, message: &PageMessage) -> Claim {
        let (answer, answered) = oneshot::channel();
        let request = ClaimRequest { page_id: message.page_id, epoch: message.epoch };
        if self.jobs.send((request, answer)).await.is_err() {
            return Claim::Unknown;
        }
        match answered.await {
            Ok(Some(page)) => Claim::Ours(Box::new(page)),
            Ok(None) => Claim::Nobodys,
            Err(_) => Claim::Unknown,
        }
    }
}

async fn run(store: HotStore, lease: Duration, mut jobs: mpsc::Receiver<Job>, stop: CancellationToken) {
    loop {
        let group = tokio::select! {
            group = next_group(&mut jobs, |group| group.len() >= MAX_GROUP) => group,
            () = stop.cancelled() => None,
        };
        let Some(group) = group else { return };
        let requests: HashSet<ClaimRequest> = group.iter().map(|(request, _)| *request).collect();
        let requests: Vec<_> = requests.into_iter().collect();
        // A statement that failed may have claimed all the same: then those pages are ours already.
        let mut again = false;
        let mut claimed = loop {
            match store.claim(&requests, lease, again).await {
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
            let page = claimed.iter().position(|page| page.page_id == request.page_id);
            // Nobody waits any more for an answer that cannot be sent: the lease then runs out.
            let _ = answer.send(page.map(|page| claimed.swap_remove(page)));
        }
    }
}
