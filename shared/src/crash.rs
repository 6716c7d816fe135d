//! Crash points: places between two durable effects, and in loops that a process lives by, where a test can have this
//! process die, or freeze, or its code panic.
//!
//! `CRAWLIFY_CRASH_POINT=after_commit_before_ack:kill@3` kills the process when it comes there for the third time. Only a
//! debug build looks at the variable: of a release build the points are no part, so that nothing can set them off.

/// A place where a test can have that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashPoint {
    /// Dispatcher: pages are `queued`, and not published.
    AfterReserveBeforePublish,
    /// Publisher: a message is sent, and not confirmed.
    AfterPublishBeforeConfirm,
    /// Dispatcher: messages are confirmed, and those that are not have not been made `pending` again.
    AfterConfirmBeforeReturn,
    /// Dispatcher: the broker took nothing, and the pages have not been made `pending` again.
    AfterRefusalBeforeReturn,
    /// Finisher: pages were put back, and left-over ones not swept.
    AfterPutBackBeforeSweep,
    /// Finisher: pages were swept, and no execution ended.
    AfterSweepBeforeFinish,
    /// Rescuer: workers were given up, and their pages not returned.
    AfterLossBeforeReturn,
    /// Rescuer: pages of lost workers were returned, and those of lost messages not.
    AfterReturnBeforeRequeue,
    /// Consumer: a message has come, and nobody has it in hand.
    AfterReceiptBeforeDelivery,
    /// Worker: a message is in hand, and its page not claimed.
    AfterDeliveryBeforeClaim,
    /// Worker: a page is claimed, and nothing done with it.
    AfterClaimBeforeNavigate,
    /// Worker: the site was asked for the page, and nothing read from it.
    AfterNavigateBeforeNodes,
    /// Worker: the page was executed, and not handed to the recorder.
    AfterNodesBeforeRecord,
    /// Recorder: what records of nodes have in common is written, and no record.
    AfterDefinitionsBeforeRecord,
    /// Worker: the page is recorded, and its message not acknowledged.
    AfterCommitBeforeAck,
    /// Worker: it was told to stop, and its pages have no deadline yet.
    AfterStopBeforeDrain,
    /// Worker: everything has ended, and the lease was not given back.
    AfterDrainBeforeRetire,
    /// Egress guard: a connection was accepted, and nothing read from it.
    AfterAcceptBeforeServe,
    /// Browser's supervisor: a browser was lost, and no other one is launched.
    AfterBrowserLossBeforeLaunch,
}

impl CrashPoint {
    /// Every place.
    pub const ALL: [Self; 19] = [
        Self::AfterReserveBeforePublish,
        Self::AfterPublishBeforeConfirm,
        Self::AfterConfirmBeforeReturn,
        Self::AfterRefusalBeforeReturn,
        Self::AfterPutBackBeforeSweep,
        Self::AfterSweepBeforeFinish,
        Self::AfterLossBeforeReturn,
        Self::AfterReturnBeforeRequeue,
        Self::AfterReceiptBeforeDelivery,
        Self::AfterDeliveryBeforeClaim,
        Self::AfterClaimBeforeNavigate,
        Self::AfterNavigateBeforeNodes,
        Self::AfterNodesBeforeRecord,
        Self::AfterDefinitionsBeforeRecord,
        Self::AfterCommitBeforeAck,
        Self::AfterStopBeforeDrain,
        Self::AfterDrainBeforeRetire,
        Self::AfterAcceptBeforeServe,
        Self::AfterBrowserLossBeforeLaunch,
    ];

    /// The name in the variable.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AfterReserveBeforePublish => "after_reserve_before_publish",
            Self::AfterPublishBeforeConfirm => "after_publish_before_confirm",
            Self::AfterConfirmBeforeReturn => "after_confirm_before_return",
            Self::AfterRefusalBeforeReturn => "after_refusal_before_return",
            Self::AfterPutBackBeforeSweep => "after_put_back_before_sweep",
            Self::AfterSweepBeforeFinish => "after_sweep_before_finish",
            Self::AfterLossBeforeReturn => "after_loss_before_return",
            Self::AfterReturnBeforeRequeue => "after_return_before_requeue",
            Self::AfterReceiptBeforeDelivery => "after_receipt_before_delivery",
            Self::AfterDeliveryBeforeClaim => "after_delivery_before_claim",
            Self::AfterClaimBeforeNavigate => "after_claim_before_navigate",
            Self::AfterNavigateBeforeNodes => "after_navigate_before_nodes",
            Self::AfterNodesBeforeRecord => "after_nodes_before_record",
            Self::AfterDefinitionsBeforeRecord => "after_definitions_before_record",
            Self::AfterCommitBeforeAck => "after_commit_before_ack",
            Self::AfterStopBeforeDrain => "after_stop_before_drain",
            Self::AfterDrainBeforeRetire => "after_drain_before_retire",
            Self::AfterAcceptBeforeServe => "after_accept_before_serve",
            Self::AfterBrowserLossBeforeLaunch => "after_browser_loss_before_launch",
        }
    }
}

/// Says that this process has come to a point: it may be its last.
#[inline]
pub fn reach(point: CrashPoint) {
    #[cfg(debug_assertions)]
    armed::reach(point);
    #[cfg(not(debug_assertions))]
    let _ = point;
}

#[cfg(debug_assertions)]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use rustix::process::{Signal, getpid, kill_process};

    use super::CrashPoint;
    use crate::config::{CRASH_POINT, variable};

    const TAKES_EFFECT_WITHIN: Duration = Duration::from_millis(300);

    /// What happens.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Action {
        /// To the process.
        Signal(Signal),
        /// A fault of ours, in whatever has come there.
        Panic,
    }

    /// What a test wants to happen.
    #[derive(Debug, PartialEq, Eq)]
    pub(super) struct Plan {
        pub(super) point: CrashPoint,
        pub(super) action: Action,
        /// The which time it happens, from 1.
        pub(super) time: u32,
    }

    pub(super) fn reach(point: CrashPoint) {
        static PLAN: OnceLock<Option<Plan>> = OnceLock::new();
        /// How often the planned point was reached.
        static REACHED: AtomicU32 = AtomicU32::new(0);
        let plan = PLAN.get_or_init(|| {
            let text = variable(CRASH_POINT)?;
            Some(parse(&text).expect("the crash point is of the form `after_commit_before_ack:kill@3`"))
        });
        let Some(plan) = plan.as_ref().filter(|plan| plan.point == point) else { return };
        if REACHED.fetch_add(1, Ordering::SeqCst) + 1 == plan.time {
            tracing::warn!(point = point.as_str(), "the crash point is reached");
            let signal = match plan.action {
                Action::Signal(signal) => signal,
                Action::Panic => panic!("a test wants a panic here"),
            };
            let _ = kill_process(getpid(), signal);
            // Another thread may be the one that takes the signal: this one must not go on meanwhile.
            std::thread::sleep(TAKES_EFFECT_WITHIN);
        }
    }

    pub(super) fn parse(text: &str) -> Option<Plan> {
        let (point, action) = text.split_once(':')?;
        let point = CrashPoint::ALL.into_iter().find(|known| known.as_str() == point)?;
        let (action, time) = action.split_once('@').unwrap_or((action, "1"));
        let action = match action {
            "kill" => Action::Signal(Signal::KILL),
            "freeze" => Action::Signal(Signal::STOP),
            "panic" => Action::Panic,
            _ => return None,
        };
        Some(Plan { point, action, time: time.parse().ok()? })
    }
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use rustix::process::Signal;

    use super::CrashPoint;
    use super::armed::{Action, Plan, parse};

    #[test]
    fn a_plan_says_where_what_and_the_which_time() {
        let plan = |point, action, time| Some(Plan { point, action, time });
        assert_eq!(
            parse("after_commit_before_ack:kill@3"),
            plan(CrashPoint::AfterCommitBeforeAck, Action::Signal(Signal::KILL), 3)
        );
        let freeze = "after_reserve_before_publish:freeze";
        let stop = Action::Signal(Signal::STOP);
        assert_eq!(parse(freeze), plan(CrashPoint::AfterReserveBeforePublish, stop, 1));
        let panic = "after_definitions_before_record:panic@2";
        assert_eq!(parse(panic), plan(CrashPoint::AfterDefinitionsBeforeRecord, Action::Panic, 2));
        for nonsense in ["", "after_commit_before_ack", "nowhere:kill", "after_commit_before_ack:sleep@1"] {
            assert_eq!(parse(nonsense), None, "{nonsense}");
        }
    }

    #[test]
    fn every_point_has_a_name_of_its_own() {
        for (place, point) in CrashPoint::ALL.into_iter().enumerate() {
            assert_eq!(
                CrashPoint::ALL.iter().position(|other| other.as_str() == point.as_str()),
                Some(place)
            );
        }
    }
}
