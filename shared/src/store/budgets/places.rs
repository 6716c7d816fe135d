//! Which failed pages a retry puts back: those that have their places, or find one that is left, in `max_pages` and below every
//! path that has a budget.
//!
//! Pages that need no place in `max_pages` come first, then the oldest failures. Only where paths have budgets is each page looked
//! at. Nothing is written before [`Plan::take_places`].

use std::collections::BTreeSet;

use futures_util::TryStreamExt;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Budget, count, locked};
use crate::domain::id::ExecutionId;
use crate::domain::page_url::PageUrl;
use crate::store::StoreError;
use crate::store::retry::SpentBudget;

/// What a retry puts back of an execution, whose row and budgets are locked.
#[derive(Default)]
pub(in crate::store) struct Plan {
    /// Pages that have failed.
    pub(in crate::store) failed: i64,
    /// Those of them that go back.
    pub(in crate::store) pages: i64,
    /// Those of these that take a place in `max_pages`.
    pub(in crate::store) places: i64,
    /// Whether time or bytes are used up: whatever goes back would be skipped.
    pub(in crate::store) is_over: bool,
    /// The budgets that keep pages from going back.
    pub(in crate::store) spent: BTreeSet<SpentBudget>,
    /// Places in `max_pages` that are left; `None` is no limit.
    room: Option<i64>,
    /// With what the pages that go back use of them.
    budgets: Vec<Budget>,
    /// Pages that are counted in budgets of paths when they go back, for the first time.
    counted: Vec<Uuid>,
}

impl Plan {
    /// Looks what goes back, where `max_pages` has room for so many that have no place in it.
    pub(in crate::store) async fn make(
        connection: &mut PgConnection,
        execution: ExecutionId,
        room: Option<i64>,
    ) -> Result<Self, StoreError> {
        let budgets = locked(&mut *connection, execution).await?;
        let over = budgets.iter().filter(|budget| budget.kind != "path_prefix" && budget.spent >= budget.max);
        let spent: BTreeSet<_> = over.map(SpentBudget::of).collect();
        let has_paths = budgets.iter().any(|budget| budget.kind == "path_prefix");
        let mut plan = Self { is_over: !spent.is_empty(), spent, room, budgets, ..Self::default() };
        if has_paths {
            plan.look_at_each(connection, execution).await?;
        } else {
            plan.look_at_all(connection, execution).await?;
        }
        Ok(plan)
    }

    /// Where no path has a budget.
    async fn look_at_all(
        &mut self,
        connection: &mut PgConnection,
        execution: ExecutionId,
    ) -> Result<(), StoreError> {
        // Counts by url_queue_failed_idx.
        let found = sqlx::query!(
            r#"SELECT count(*) AS "pages!", count(*) FILTER (WHERE NOT admitted) AS "without_place!"
            FROM url_queue WHERE execution_id = $1 AND status = 'failed'"#,
            execution.0,
        )
        .fetch_one(connection)
        .await?;
        self.failed = found.pages;
        self.places = self.room.map_or(found.without_place, |room| found.without_place.min(room));
        self.pages = found.pages - found.without_place + self.places;
        if self.places < found.without_place {
            self.spent.insert(SpentBudget::Pages);
        }
        Ok(())
    }

    async fn look_at_each(
        &mut self,
        connection: &mut PgConnection,
        execution: ExecutionId,
    ) -> Result<(), StoreError> {
        // Reads url_queue_failed_idx. A page below a path was counted when it was first dispatched, or was tried before anything
        // counted it.
        let mut pages = sqlx::query!(
            r#"SELECT id, admitted, CASE WHEN NOT budgeted AND attempt = 0 THEN url END AS "uncounted_url?"
            FROM url_queue WHERE execution_id = $1 AND status = 'failed'
            ORDER BY admitted DESC, processed_at, id"#,
            execution.0,
        )
        .fetch(connection);
        while let Some(page) = pages.try_next().await? {
            let uncounted = page.uncounted_url.and_then(|url| PageUrl::parse(&url).ok());
            self.look_at(page.id, page.admitted, uncounted.as_ref());
        }
        Ok(())
    }

    /// Gives a page its places, if there are all that it needs. `uncounted` is its URL, if no budget has counted it yet.
    fn look_at(&mut self, page: Uuid, has_place: bool, uncounted: Option<&PageUrl>) {
        self.failed += 1;
        let its = self.budgets.iter_mut().filter(|budget| uncounted.is_some_and(|url| budget.is_of(url)));
        let mut its: Vec<&mut Budget> = its.collect();
        let full = its.iter().filter(|budget| budget.used >= budget.max);
        let mut missing: Vec<SpentBudget> = full.map(|budget| SpentBudget::of(budget)).collect();
        if !has_place && self.room == Some(0) {
            missing.push(SpentBudget::Pages);
        }
        if !missing.is_empty() {
            self.spent.extend(missing);
            return;
        }
        if !has_place {
            self.places += 1;
            self.room = self.room.map(|room| room - 1);
        }
        if !its.is_empty() {
            its.iter_mut().for_each(|budget| budget.used += 1);
            self.counted.push(page);
        }
        self.pages += 1;
    }

    /// Counts the pages that go back below the paths that have budgets. Their places in `max_pages` are the caller's to count, who
    /// writes the execution's row.
    pub(in crate::store) async fn take_places(
        &self,
        connection: &mut PgConnection,
        execution: ExecutionId,
    ) -> Result<(), StoreError> {
        if self.counted.is_empty() {
            return Ok(());
        }
        // Lock: the pages, in the order in which workers lock those that late messages speak of.
        sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM (
                SELECT id FROM url_queue WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE) AS page"#,
            &self.counted,
        )
        .fetch_one(&mut *connection)
        .await?;
        count(connection, execution, &self.budgets, &self.counted).await
    }
}

impl SpentBudget {
    fn of(budget: &Budget) -> Self {
        match budget.kind.as_str() {
            "time" => Self::Time,
            "bytes" => Self::Bytes,
            _ => Self::Path(budget.prefix.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(prefix: &str, used: i64, max: i64) -> Budget {
        let kind = "path_prefix".to_owned();
        Budget { kind, prefix: prefix.to_owned(), max, used, spent: used, to_fill: None }
    }

    /// Failed pages, in order: whether each has its place in `max_pages`, and its path if nothing has counted it.
    fn plan(room: Option<i64>, budgets: Vec<Budget>, pages: &[(bool, Option<&str>)]) -> Plan {
        let mut plan = Plan { room, budgets, ..Plan::default() };
        for (number, (has_place, uncounted)) in (0_u128..).zip(pages) {
            let url = uncounted.map(|path| PageUrl::parse(&format!("http://shop.test{path}")).unwrap());
            plan.look_at(Uuid::from_u128(number), *has_place, url.as_ref());
        }
        assert_eq!(plan.failed, pages.len() as i64);
        plan
    }

    fn counted(plan: &Plan) -> Vec<u128> {
        plan.counted.iter().map(Uuid::as_u128).collect()
    }

    #[test]
    fn a_page_needs_a_place_below_each_path_that_it_is_of() {
        let budgets = vec![path("/", 0, 2), path("/a/", 0, 1)];
        let pages =
            [(false, Some("/a/0")), (false, Some("/a/1")), (false, Some("/b/0")), (false, Some("/b/1"))];
        let plan = plan(None, budgets, &pages);
        assert_eq!((plan.pages, plan.places, counted(&plan)), (2, 2, vec![0, 2]));
        let used: Vec<_> = plan.budgets.iter().map(|budget| budget.used).collect();
        assert_eq!(used, [2, 1]);
        let spent = [SpentBudget::Path("/".to_owned()), SpentBudget::Path("/a/".to_owned())];
        assert_eq!(plan.spent, BTreeSet::from(spent));
    }

    #[test]
    fn a_page_that_finds_no_place_in_the_limit_takes_none_below_a_path() {
        let pages = [(true, None), (false, Some("/b/0")), (false, Some("/a/0")), (false, None)];
        let plan = plan(Some(1), vec![path("/a/", 0, 1)], &pages);
        assert_eq!((plan.pages, plan.places, counted(&plan)), (2, 1, vec![]));
        assert_eq!(plan.budgets[0].used, 0);
        assert_eq!(plan.spent, BTreeSet::from([SpentBudget::Pages]));
    }

    #[test]
    fn a_page_that_finds_no_place_below_a_path_takes_none_in_the_limit() {
        let pages = [(false, Some("/a/0")), (false, Some("/b/0")), (true, Some("/a/1"))];
        let plan = plan(Some(1), vec![path("/a/", 3, 2)], &pages);
        assert_eq!((plan.pages, plan.places), (1, 1));
        assert_eq!(plan.spent, BTreeSet::from([SpentBudget::Path("/a/".to_owned())]));
    }

    #[test]
    fn pages_that_were_counted_go_back_however_much_is_used() {
        let plan = plan(Some(0), vec![path("/", 1, 1)], &[(true, None), (true, None)]);
        assert_eq!((plan.pages, plan.places, plan.spent.len()), (2, 0, 0));
    }
}
