//! The coordinator's side of the store against a real Postgres: what is dispatched, when an execution has ended, what is
//! rescued, what people change on the way, what schedules start, and what is remembered of hosts.

mod budgets;
mod charges;
mod control;
mod counts;
mod deletion;
mod dispatch;
mod finish;
mod hosts;
mod intervals;
mod lanes;
mod limiters;
mod many_workers;
mod on_the_way;
mod paces;
mod places;
mod politeness;
mod proxied;
mod publishing;
mod refusals;
mod rescue;
mod retries_that_do_not_come;
mod retry;
mod retry_budgets;
mod schedules;
mod takeover;
mod unreachable;

use std::time::Duration;

use futures_util::future::join;
use harness::crawl::Crawl;
use harness::wait::wait_for;

/// Who waits for a lock.
const WAITING: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'";

/// An act upon the crawl's execution that waits for a dispatcher, which holds the execution's row while it takes a step of its own. As a
/// dispatcher does both in one statement, none of it is seen before its end.
async fn behind_a_dispatcher<T>(crawl: &Crawl, step: &'static str, act: impl Future<Output = T>) -> T {
    let mut dispatcher = crawl.pool.begin().await.unwrap();
    for step in ["SELECT FROM workflow_executions WHERE id = $1 FOR NO KEY UPDATE", step] {
        sqlx::query(step).bind(crawl.execution.0).execute(&mut *dispatcher).await.unwrap();
    }
    let dispatching = async {
        let is_waited_for = async || crawl.number(WAITING).await == 1;
        wait_for("the act waits for the dispatcher", Duration::from_secs(10), is_waited_for).await;
        dispatcher.commit().await.unwrap();
    };
    join(act, dispatching).await.0
}
