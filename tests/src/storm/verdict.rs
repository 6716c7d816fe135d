//! What is held against what after the storm.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use crawlify_shared::domain::id::ExecutionId;

use super::Options;
use super::crawls::Crawls;
use super::report::Fault;
use crate::invariants::around::requests;
use crate::invariants::{Violation, verify};

/// Pages that a worker has claimed for each of its slots, at the most: those in tabs, and those that wait for one.
const IN_HAND_PER_SLOT: usize = 3;

/// Holds the calm crawls to being that: every page completed at its first attempt and asked for once, and all alike.
pub(super) async fn ensure_calm(crawls: &Crawls, asked: &BTreeMap<String, u64>) -> Result<()> {
    let disturbed = "SELECT count(*) FROM url_queue WHERE status <> 'completed' OR attempt <> 1";
    let disturbed: i64 = sqlx::query_scalar(disturbed).fetch_one(&crawls.pool).await?;
    ensure!(disturbed == 0, "{disturbed} pages of the calm crawls failed or were tried again");
    let executions = crawls.executions().await?;
    let mut broken = of_rows(crawls, executions[0], &executions).await?;
    broken.extend(requests(asked, &crawls.attempts_by_path().await?, 0));
    ensure!(broken.is_empty(), "the calm crawls are not sound: {broken:#?}");
    Ok(())
}

/// Everything that the executions' rows tell, each beside the calm one's.
pub(super) async fn of_rows(
    crawls: &Crawls,
    calm: ExecutionId,
    executions: &[ExecutionId],
) -> Result<Vec<Violation>> {
    let mut broken = Vec::new();
    for execution in executions {
        broken.extend(verify(&mut *crawls.pool.acquire().await?, *execution, Some(calm)).await?);
    }
    Ok(broken)
}

/// What the site's log tells. An attempt that a worker gave back is not charged, although the site was asked: as many pages
/// as the fleet had in hand, for each fault.
pub(super) async fn of_requests(
    crawls: &Crawls,
    options: &Options,
    faults: &[Fault],
    asked: &BTreeMap<String, u64>,
) -> Result<Vec<Violation>> {
    let in_hand = options.workers * options.slots * IN_HAND_PER_SLOT;
    Ok(requests(asked, &crawls.attempts_by_path().await?, (faults.len() * in_hand) as u64))
}
