//! Places below paths that came free, as pages that had them were not loaded: as many pages are put back that had found none, and some.
//!
//! Whoever frees a place says in the budget's row how many pages are to come back (`to_fill`), and has the look begin anew
//! (`budget_places_after`). A budget with room below which nothing is to be filled keeps no look going. Pages that were put back may
//! end without a place, as their hosts are gone: so when an execution has no open page left, and places were not taken, there is
//! another look, for very many pages at once. It does not end before there was one for nothing. Locks: as for a change.

use sqlx::Connection;
use uuid::Uuid;

use super::change::{FIRST_PAGE, PORTIONS, skipped_by_paths};
use super::{Budget, locked};
use crate::domain::id::ExecutionId;
use crate::domain::page_url::PageUrl;
use crate::store::sweep::{SWEPT_AT_ONCE, open_lanes};
use crate::store::{Store, StoreError};

/// So many pages more come back than places came free: some may belong to hosts that are gone. Those that find none are skipped once
/// more.
pub(in crate::store) const SPARE: i64 = 16;
/// Behind all pages: enough were put back, and what becomes of them is waited for.
const PAGES_ARE_BACK: Uuid = Uuid::from_u128(u128::MAX);

impl Store {
    /// Puts pages back for places that came free below the paths that they are of; about [`SWEPT_AT_ONCE`] of them, of all executions
    /// or `only` one. Answers how many.
    pub(in crate::store) async fn put_into_free_places(
        &self,
        only: Option<ExecutionId>,
    ) -> Result<u64, StoreError> {
        let mut put_back = 0;
        for _ in 0..PORTIONS {
            let Some(execution) = self.with_free_places(only).await? else { break };
            put_back += self.fill_places(execution).await?;
            if put_back >= SWEPT_AT_ONCE.unsigned_abs() {
                break;
            }
        }
        Ok(put_back)
    }

    /// An execution whose skipped pages are to be looked at.
    async fn with_free_places(&self, only: Option<ExecutionId>) -> Result<Option<ExecutionId>, StoreError> {
        // Reads workflow_executions_places_idx, which is empty most of the time, and of those that wait url_queue_pending_idx and
        // url_queue_open_idx. Any of them, so that one that is looked at from the beginning again and again keeps no other waiting.
        let found = sqlx::query_scalar!(
            "SELECT id FROM workflow_executions AS execution
             WHERE budget_places_after IS NOT NULL AND status IN ('running', 'paused') AND ($1::uuid IS NULL OR id = $1)
               AND (budget_places_after <> $2
                   OR NOT EXISTS (SELECT FROM url_queue WHERE execution_id = execution.id AND status = 'pending')
                       AND NOT EXISTS (
                           SELECT FROM url_queue
                           WHERE execution_id = execution.id AND status IN ('queued', 'processing')))
             ORDER BY random() LIMIT 1",
            only.map(|id| id.0),
            PAGES_ARE_BACK,
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(found.map(ExecutionId))
    }

    /// Looks at one portion of the pages of an execution that paths have skipped, and puts those back for which places came free.
    /// Answers how many.
    async fn fill_places(&self, execution: ExecutionId) -> Result<u64, StoreError> {
        let mut connection = self.connection_for_a_transaction().await?;
        let mut transaction = connection.begin().await?;
        let mut budgets = locked(&mut transaction, execution).await?;
        // By primary key.
        let after = sqlx::query_scalar!(
            "SELECT budget_places_after FROM workflow_executions WHERE id = $1 AND status IN ('running', 'paused')",
            execution.0,
        )
        .fetch_optional(&mut *transaction)
        .await?
        .flatten();
        let Some(mut after) = after else { return Ok(0) };
        if after == PAGES_ARE_BACK {
            look_again(&mut budgets);
            after = FIRST_PAGE;
        }
        // Whatever came back would be skipped for that. A change of it looks at all pages.
        if budgets.iter().any(|budget| budget.kind != "path_prefix" && budget.spent >= budget.max) {
            budgets.iter_mut().for_each(|budget| budget.to_fill = None);
        }
        let skipped = if budgets.iter().any(is_to_be_filled) {
            skipped_by_paths(&mut transaction, execution, after).await?
        } else {
            Vec::new()
        };
        let back: Vec<Uuid> = skipped
            .iter()
            .filter(|page| fills_a_place(&mut budgets, &page.url))
            .map(|page| page.id)
            .collect();
        let last = skipped.last().map_or(after, |page| page.id);
        let are_more = skipped.len() as u64 == SWEPT_AT_ONCE.unsigned_abs();
        let after = end_portion(&mut budgets, last, are_more);
        let to_fill = budgets.into_iter().filter_map(|budget| Some((budget.prefix, budget.to_fill?)));
        let (prefixes, to_fill): (Vec<String>, Vec<i64>) = to_fill.unzip();
        // By primary keys. Nobody else locks pages that a path has skipped, so that none is waited for. One that is below a path that
        // fills up meanwhile, or finds no place in `max_pages`, is skipped once more for that.
        let put_back = sqlx::query!(
            r#"WITH put_back AS (
                UPDATE url_queue
                SET status = 'pending', error = NULL, error_class = NULL, processed_at = NULL
                WHERE status IS NOT DISTINCT FROM 'skipped' AND id = ANY ($2::uuid[])
                RETURNING host
            ), filled AS (
                UPDATE execution_budgets AS budget
                SET to_fill = (
                    SELECT pages FROM unnest($3::text[], $4::int8[]) AS left_over (prefix, pages)
                    WHERE left_over.prefix = budget.prefix)
                WHERE execution_id = $1 AND kind = 'path_prefix' AND to_fill IS NOT NULL
            ), looked_at AS (
                UPDATE workflow_executions SET budget_places_after = $5::uuid WHERE id = $1
            )
            SELECT host AS "host!", count(*) AS "pages!" FROM put_back GROUP BY host"#,
            execution.0,
            &back,
            &prefixes,
            &to_fill,
            after,
        )
        .fetch_all(&mut *transaction)
        .await?;
        let pages: i64 = put_back.iter().map(|lane| lane.pages).sum();
        let hosts: Vec<String> = put_back.into_iter().map(|lane| lane.host).collect();
        open_lanes(&mut transaction, &vec![execution.0; hosts.len()], &hosts).await?;
        transaction.commit().await?;
        Ok(u64::try_from(pages).unwrap_or(0))
    }
}

fn is_to_be_filled(budget: &Budget) -> bool {
    budget.to_fill.is_some_and(|pages| pages > 0)
}

/// Whether a page comes back: something is to be filled below a path that it is of, and there is room below each of these. If so, it
/// counts.
fn fills_a_place(budgets: &mut [Budget], url: &str) -> bool {
    // One that this version cannot read is below no path for it.
    let Ok(url) = PageUrl::parse(url) else { return false };
    let its: Vec<&mut Budget> = budgets.iter_mut().filter(|budget| budget.is_of(&url)).collect();
    let comes_back =
        its.iter().any(|budget| is_to_be_filled(budget)) && its.iter().all(|budget| budget.used < budget.max);
    if comes_back {
        for budget in its {
            budget.to_fill = budget.to_fill.map(|pages| (pages - 1).max(0));
        }
    }
    comes_back
}

/// Says what is left to be filled after a portion, and where the next one begins: `None` where there is nothing to look for.
fn end_portion(budgets: &mut [Budget], last: Uuid, are_more: bool) -> Option<Uuid> {
    if !are_more {
        // All that could come back is there.
        for budget in budgets.iter_mut().filter(|budget| is_to_be_filled(budget)) {
            budget.to_fill = None;
        }
    }
    if budgets.iter().any(is_to_be_filled) {
        return Some(last);
    }
    budgets.iter().any(|budget| budget.to_fill.is_some()).then_some(PAGES_ARE_BACK)
}

/// Has the places filled that pages which were put back did not take. Very many of these may belong to hosts that are gone, and
/// nothing else is left to do.
fn look_again(budgets: &mut [Budget]) {
    for budget in budgets.iter_mut().filter(|budget| budget.to_fill.is_some()) {
        let room = budget.max.saturating_sub(budget.used);
        budget.to_fill = (room > 0).then(|| room.saturating_add(SWEPT_AT_ONCE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(prefix: &str, used: i64, max: i64, to_fill: Option<i64>) -> Budget {
        Budget { kind: "path_prefix".to_owned(), prefix: prefix.to_owned(), max, used, spent: used, to_fill }
    }

    fn left_over(budgets: &[Budget]) -> Vec<Option<i64>> {
        budgets.iter().map(|budget| budget.to_fill).collect()
    }

    #[test]
    fn a_page_comes_back_where_something_is_to_be_filled_and_no_path_that_it_is_of_is_full() {
        let mut budgets =
            [path("/", 7, 1_000, None), path("/a/", 1, 2, Some(1)), path("/a/full/", 2, 2, None)];
        let pages = ["/b/0", "/a/full/0", "/a/0", "/a/1"];
        let back = pages.map(|page| fills_a_place(&mut budgets, &format!("http://shop.test{page}")));
        assert_eq!(back, [false, false, true, false]);
        assert_eq!(left_over(&budgets), [None, Some(0), None]);
    }

    #[test]
    fn a_look_goes_on_while_anything_is_to_be_filled_and_waits_for_pages_where_enough_are_back() {
        let last = Uuid::from_u128(7);
        let mut budgets = [path("/a/", 1, 2, Some(0)), path("/b/", 1, 2, Some(3)), path("/", 1, 9, None)];
        assert_eq!(end_portion(&mut budgets, last, true), Some(last));
        assert_eq!(left_over(&budgets), [Some(0), Some(3), None]);
        assert_eq!(end_portion(&mut budgets, last, false), Some(PAGES_ARE_BACK));
        assert_eq!(left_over(&budgets), [Some(0), None, None]);
        assert_eq!(end_portion(&mut budgets[1..], last, true), None);
    }

    #[test]
    fn places_that_were_not_taken_are_looked_after_once_more() {
        let mut budgets = [path("/a/", 1, 3, Some(0)), path("/b/", 3, 3, Some(0)), path("/", 1, 9, None)];
        look_again(&mut budgets);
        assert_eq!(left_over(&budgets), [Some(SWEPT_AT_ONCE + 2), None, None]);
    }
}
