//! What happens to a fleet as a whole, where nothing of it is broken: clocks that are apart, workers that come and go, a
//! database whose standby takes over. Its pages cost nothing (`harness::synthetic`).

mod clocks;
mod failover;
mod scaling;

use std::time::Duration;

use harness::fleet::Fleet;
use harness::wait::wait_for;

const PAGES: u64 = 300;
/// How long anything may take on a busy machine.
const WITHIN: Duration = Duration::from_secs(120);

/// Waits until so many pages of the execution that runs are completed.
async fn completed(fleet: &Fleet, pages: i64) {
    wait_for(&format!("{pages} pages are completed"), WITHIN, async || {
        let of_this_one =
            "SELECT count(*) FROM url_queue q JOIN workflow_executions e ON e.id = q.execution_id
            WHERE q.status = 'completed' AND e.status = 'running'";
        fleet.number(of_this_one).await >= pages
    })
    .await;
}
