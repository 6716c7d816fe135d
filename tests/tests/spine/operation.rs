//! What can happen to a fleet and its crawl, in any order. Numbers say which worker or message is meant.

use std::fmt;

use proptest::prelude::*;

use super::fleet::WORKERS;

/// What happens, in order; shown with a line for each step.
#[derive(Clone)]
pub(super) struct Steps(pub(super) Vec<Step>);

#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    /// The fleet has visited so many pages more before, if it does so soon.
    pub(super) after: u64,
    pub(super) operation: Operation,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Operation {
    /// A worker is killed, and another one started.
    KillWorker {
        worker: usize,
    },
    /// A worker is told to stop, and another one started.
    StopWorker {
        worker: usize,
    },
    /// A worker that lives is held for lost, and its pages are given to others.
    GiveUpWorker {
        worker: usize,
    },
    /// The leases of the pages in a worker's hands run out.
    Overdue {
        worker: usize,
    },
    /// The coordinator is killed, and another one started.
    KillCoordinator,
    /// Whoever was killed is unheard of for long enough, and so are messages.
    Rescue {
        messages_are_lost: bool,
    },
    /// The pauses before further attempts are over.
    PausesEnd,
    /// Every connection of the fleet to Postgres is cut.
    CutConnections,
    /// The broker delivers a message once more, however old it is.
    Repeat {
        message: usize,
    },
    /// The broker loses the next messages.
    Lose {
        messages: usize,
    },
    /// The broker has the next messages, and the coordinator does not hear of it.
    LoseConfirms {
        messages: usize,
    },
    Pause,
    Resume,
    Cancel {
        now: bool,
    },
    /// With a weight: the page limit alone would be changed of an execution that has ended too, and mean nothing there.
    Limit {
        max_pages: Option<u8>,
    },
    Retry,
}

/// Up to 11 steps; in one of four crawls somebody may cancel it.
pub(super) fn steps() -> impl Strategy<Value = Steps> {
    let steps = prop_oneof![
        3 => prop::collection::vec(step(operation().boxed()), 0..12),
        1 => prop::collection::vec(step(operation_or_cancel().boxed()), 0..12),
    ];
    steps.prop_map(Steps)
}

impl fmt::Debug for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|Step { after, operation }| write!(f, "\n  after {after} pages: {operation:?}"))
    }
}

fn step(operation: BoxedStrategy<Operation>) -> impl Strategy<Value = Step> {
    (0..6_u64, operation).prop_map(|(after, operation)| Step { after, operation })
}

fn operation_or_cancel() -> impl Strategy<Value = Operation> {
    prop_oneof![12 => operation(), 1 => any::<bool>().prop_map(|now| Operation::Cancel { now })]
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    let worker = || 0..WORKERS;
    prop_oneof![
        4 => worker().prop_map(|worker| KillWorker { worker }),
        2 => worker().prop_map(|worker| StopWorker { worker }),
        2 => worker().prop_map(|worker| GiveUpWorker { worker }),
        1 => worker().prop_map(|worker| Overdue { worker }),
        2 => Just(KillCoordinator),
        3 => any::<bool>().prop_map(|messages_are_lost| Rescue { messages_are_lost }),
        4 => Just(PausesEnd),
        3 => Just(CutConnections),
        3 => (0..100_usize).prop_map(|message| Repeat { message }),
        2 => (1..4_usize).prop_map(|messages| Lose { messages }),
        2 => (1..4_usize).prop_map(|messages| LoseConfirms { messages }),
        1 => Just(Pause),
        2 => Just(Resume),
        1 => prop::option::of(0..16_u8).prop_map(|max_pages| Limit { max_pages }),
        2 => Just(Retry),
    ]
}
