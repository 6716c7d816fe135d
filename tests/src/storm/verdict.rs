//! What is held against what after the storm.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use crawlify_shared::domain::id::ExecutionId;

use super::Options;
use super::crawls::Crawls;
use super::deck::Victim;
use super::report::Fault;
use crate::invariants::around::{requests, requests_of_each, surplus};
use crate::invariants::{Violation, verify};

/// Pages that may be asked for once more, within the same attempt, for each death of a server: a page that goes back uncharged
/// because the database was away for longer than a lease, or was taken for one that its worker did not know to be claimed.
/// It should be none, and hardly ever is one.
const REPEATS_FOR_A_SERVER: usize = 1;
/// How often a claim may ask for its page: a tab navigates to it once. It does so again only where the page that it
/// had before navigates by itself, and such pages would ask for too much in calm already. Chrome sends a request
/// once more whose connection is reset, but the guard resets none whose document a navigation waits for, and the
/// site none at all. A host is asked again that answers 429 or 503, which these sites do not.
const LOADS_IN_A_TAB: u64 = 1;
/// Where a page may be read as it came, it is loaded in a tab as well if the reading cannot tell, or is lost.
const LOADS_BOTH_WAYS: u64 = 2;

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

/// What the site's log tells: a page is asked for once an attempt. What is repeated without being charged is known,
/// and little; and no single page is asked for more often than it was claimed, be it that all others were asked for
/// as they should.
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
    let mut broken = requests(asked, &attempts, repeats);
    let claims = crawls.claims_by_path().await?;
    broken.extend(requests_of_each(asked, &claims, loads_of_a_claim(crawls.goes_static)));
    Ok(broken)
}

/// Nobody executes a claim twice: a page that was claimed is asked for by that worker alone, which keeps it in hand
/// until it is recorded, and claims no page that it has in hand, however often the message comes. A worker that
/// dies, or loses its lease, leaves the page to the rescuer, which raises its epoch, and so does whoever gives it
/// back.
fn loads_of_a_claim(goes_static: bool) -> u64 {
    if goes_static { LOADS_BOTH_WAYS } else { LOADS_IN_A_TAB }
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

    #[test]
    fn only_where_pages_are_read_as_they_come_may_a_claim_ask_twice() {
        assert_eq!([false, true].map(loads_of_a_claim), [1, 2]);
    }
}
