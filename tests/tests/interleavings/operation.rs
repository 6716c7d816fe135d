//! What can happen to a crawl, in any order: the acts of dispatchers, brokers, workers, rescuers, finishers and people.
//!
//! Numbers say which worker, message or page is meant, counted around: there always is one.

use std::fmt;

use proptest::prelude::*;

/// What happens, in order; shown with a line for each step.
#[derive(Clone)]
pub(super) struct Steps(pub(super) Vec<Step>);

/// One thing, or two at the same moment.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    One(Operation),
    Both(Operation, Operation),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Operation {
    /// A dispatcher reserves pages, and publishes them.
    Dispatch {
        pages: u8,
        publish: Publish,
    },
    /// A worker claims the pages of some messages.
    Claim {
        worker: u8,
        messages: u8,
        answer: Answer,
    },
    /// The broker delivers a message once more, however old it is.
    Duplicate {
        message: u8,
    },
    Lose {
        message: u8,
    },
    /// A worker records some of the pages that it has in hand, whosoever they are by now.
    Record {
        worker: u8,
        first: u8,
        pages: u8,
        end: End,
    },
    /// A worker sends an earlier record once more, because it had no answer.
    Repeat {
        record: u8,
    },
    Heartbeat {
        worker: u8,
    },
    /// A worker is unheard of from now on.
    Silence {
        worker: u8,
    },
    /// The lease of a page in hand runs out.
    Overdue {
        page: u8,
    },
    /// A worker says goodbye.
    Retire {
        worker: u8,
    },
    Rescue {
        messages_are_lost: bool,
    },
    /// The finisher puts back, sweeps and finishes.
    Finish,
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

/// How the publishing of reserved pages goes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Publish {
    Confirmed,
    /// The broker has the messages, but the dispatcher does not hear of it.
    ConfirmLost,
    Refused,
    /// The dispatcher dies with the rows reserved.
    Never,
}

/// What a worker hears of its claim.
#[derive(Clone, Copy, Debug)]
pub(super) enum Answer {
    Comes,
    /// It asks again.
    Lost,
    /// It dies before that, and leaves its pages to nobody.
    Never,
}

/// How a page ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    Completed,
    Static,
    /// Completed, with a node that failed and one that did not run.
    NodesFailed,
    /// In a way that may pass, and is the page's own fault.
    Transient,
    /// With the browser that had it.
    BrowserLost,
    ForGood,
    Released,
}

/// Up to 400 steps; in one of four crawls somebody may cancel it.
pub(super) fn steps() -> impl Strategy<Value = Steps> {
    let steps = prop_oneof![
        3 => prop::collection::vec(step(operation().boxed()), 0..400),
        1 => prop::collection::vec(step(operation_or_cancel().boxed()), 0..400),
    ];
    steps.prop_map(Steps)
}

impl fmt::Debug for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|step| match step {
            Step::One(operation) => write!(f, "\n  {operation:?}"),
            Step::Both(one, other) => write!(f, "\n  {one:?} and {other:?}"),
        })
    }
}

fn step(operation: BoxedStrategy<Operation>) -> impl Strategy<Value = Step> {
    prop_oneof![
        7 => operation.clone().prop_map(Step::One),
        1 => (operation.clone(), operation).prop_map(|(one, other)| Step::Both(one, other)),
    ]
}

fn operation_or_cancel() -> impl Strategy<Value = Operation> {
    prop_oneof![150 => operation(), 1 => any::<bool>().prop_map(|now| Operation::Cancel { now })]
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    let worker = || 0..3_u8;
    prop_oneof![
        12 => (1..9_u8, publish()).prop_map(|(pages, publish)| Dispatch { pages, publish }),
        16 => (worker(), 1..5_u8, answer())
            .prop_map(|(worker, messages, answer)| Claim { worker, messages, answer }),
        4 => any::<u8>().prop_map(|message| Duplicate { message }),
        2 => any::<u8>().prop_map(|message| Lose { message }),
        16 => (worker(), any::<u8>(), 1..5_u8, end())
            .prop_map(|(worker, first, pages, end)| Record { worker, first, pages, end }),
        4 => any::<u8>().prop_map(|record| Repeat { record }),
        3 => worker().prop_map(|worker| Heartbeat { worker }),
        2 => worker().prop_map(|worker| Silence { worker }),
        2 => any::<u8>().prop_map(|page| Overdue { page }),
        1 => worker().prop_map(|worker| Retire { worker }),
        4 => any::<bool>().prop_map(|messages_are_lost| Rescue { messages_are_lost }),
        5 => Just(Finish),
        1 => Just(Pause),
        2 => Just(Resume),
        1 => prop::option::of(0..30_u8).prop_map(|max_pages| Limit { max_pages }),
        2 => Just(Retry),
    ]
}

fn publish() -> impl Strategy<Value = Publish> {
    prop_oneof![
        8 => Just(Publish::Confirmed),
        1 => Just(Publish::ConfirmLost),
        1 => Just(Publish::Refused),
        1 => Just(Publish::Never),
    ]
}

fn answer() -> impl Strategy<Value = Answer> {
    prop_oneof![8 => Just(Answer::Comes), 1 => Just(Answer::Lost), 1 => Just(Answer::Never)]
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![
        6 => Just(End::Completed),
        1 => Just(End::Static),
        1 => Just(End::NodesFailed),
        2 => Just(End::Transient),
        1 => Just(End::BrowserLost),
        2 => Just(End::ForGood),
        2 => Just(End::Released),
    ]
}
