//! What is held against what after the storm.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use crawlify_shared::domain::id::ExecutionId;

use super::Options;
use super::crawls::Crawls;
use super::deck::Victim;
use super::report::Fault;
use crate::invariants::around::{requests, surplus};
use crate::invariants::{Violation, verify};

/// Pages that may be asked for once more, within the same attempt, for each death of a server: a page that goes back uncharged
/// because the database was away for longer than a lease, or was taken for one that its worker did not know to be claimed.
/// It should be none, and hardly ever is one.
const REPEATS_FOR_A_SERVER: usize = 1;

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

/// What the site's log tells: a page is asked for once an attempt. What is repeated without being charged is known, and little.
pub(super) async fn of_requests(
    crawls: &Crawls,
    options: &Options,
    faults: &[Fault],
    asked: &BTreeMap<String, u64>,
    say: &(dyn Fn(&str) + Sync),
) -> Result<Vec<Violation>> {
    let attempts = crawls.attempts_by_path().await?;
    let repeats = faults.iter().map(|fault| repeats(fault.victim(), options.slots)).sum::<usize>() as u64;
    let surplus = surplus(asked, &attempts).map(|(_, surplus)| surplus).sum::<u64>();
    say(&format!("{surplus} requests more than attempts, of {repeats} that the faults explain"));
    Ok(requests(asked, &attempts, repeats))
}

/// How many pages may be asked for once more, within the same attempt, because of a death: those that were in the tabs of the
/// worker, or of the worker whose browser it was. A worker has one for each slot; what it has claimed beside those has not
/// been asked for. A coordinator asks for nothing.
fn repeats(victim: Victim, slots: usize) -> usize {
    match victim {
        Victim::Worker(_) | Victim::Browser(_) => slots,
        Victim::Broker | Victim::Database => REPEATS_FOR_A_SERVER,
        Victim::Coordinator(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_deaths_with_pages_in_hand_explain_requests_that_no_attempt_does() {
        let storm =
            [Victim::Worker(1), Victim::Browser(3), Victim::Coordinator(2), Victim::Broker, Victim::Database];
        assert_eq!(storm.map(|victim| repeats(victim, 2)), [2, 2, 0, 1, 1]);
    }
}
