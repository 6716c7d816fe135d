//! How an execution begins: its row, its budgets, its first pages and their lanes.
//!
//! Decides nothing: whether an execution may start is looked up by whoever starts it, in the same transaction.

use sqlx::PgConnection;
use uuid::Uuid;

use super::StoreError;
use super::budgets::BudgetRows;
use crate::domain::id::{ExecutionId, PageId, ScheduleId, WorkflowId};
use crate::domain::page_url::{HostUnit, PageUrl};
use crate::domain::workflow::{Budgets, Limits, Robots, Share, Workflow};

/// What an execution begins with.
#[derive(Clone, Copy, Debug)]
pub struct Beginning<'a> {
    /// The version of its workflow.
    pub version: i32,
    /// How far and how fast it may go.
    pub limits: Limits,
    /// What it may spend.
    pub budgets: &'a Budgets,
    /// How much of the fleet it gets.
    pub share: Share,
    /// Whether it obeys robots files.
    pub robots: Robots,
    /// Its first pages.
    pub start_urls: &'a [PageUrl],
    /// Sitemaps, which are pages too.
    pub sitemaps: &'a [PageUrl],
    /// What the client calls this start, so that the same one is not made twice.
    pub key: Option<&'a str>,
}

impl<'a> Beginning<'a> {
    /// What a version of a workflow says.
    pub fn of(version: i32, workflow: &'a Workflow) -> Self {
        Self {
            version,
            limits: workflow.limits,
            budgets: &workflow.budgets,
            share: workflow.share,
            robots: workflow.robots,
            start_urls: &workflow.start_urls,
            sitemaps: &workflow.sitemaps.urls,
            key: None,
        }
    }

    /// Writes an execution that runs: its row, its budgets, its start pages and its sitemaps, each URL once, and their lanes.
    /// Answers whether it did: where the workflow has an execution with this key, it writes nothing.
    pub(super) async fn write(
        &self,
        connection: &mut PgConnection,
        execution: ExecutionId,
        workflow: WorkflowId,
        schedule: Option<ScheduleId>,
    ) -> Result<bool, StoreError> {
        let Limits { max_pages, rate_limit_delay, host_concurrency, adaptive_delay, host_unit, .. } =
            self.limits;
        let all = || self.start_urls.iter().chain(self.sitemaps);
        let pages: Vec<Uuid> = all().map(|_| PageId::generate().0).collect();
        let urls: Vec<String> = all().map(|url| url.as_str().to_owned()).collect();
        let hashes: Vec<Vec<u8>> = all().map(|url| url.hash().to_vec()).collect();
        let hosts: Vec<String> = all().map(|url| url.unit_of_politeness(host_unit).to_owned()).collect();
        let are_sitemaps: Vec<bool> = (0..pages.len()).map(|place| place >= self.start_urls.len()).collect();
        let budgets = BudgetRows::of(self.budgets);
        // Depth 0 and priority 100 are what users of the old system know.
        let written = sqlx::query_scalar!(
            r#"WITH execution AS (
                INSERT INTO workflow_executions (id, workflow_id, version, status, schedule_id, max_pages,
                    host_delay_ms, host_concurrency, adaptive_delay, per_domain, obeys_robots, start_key, weight, priority)
                VALUES ($1, $2, $3, 'running', $4, $5, $6, $7, $8, $9, $10, $19, $20, $21)
                ON CONFLICT (workflow_id, start_key) WHERE start_key IS NOT NULL DO NOTHING
                RETURNING id
            ), pages AS (
                INSERT INTO url_queue (id, execution_id, url, url_hash, host, depth, priority, is_sitemap)
                SELECT page.id, execution.id, page.url, page.url_hash, page.host, 0, 100, page.is_sitemap
                FROM execution, UNNEST($11::uuid[], $12::text[], $13::bytea[], $14::text[], $15::bool[])
                    AS page (id, url, url_hash, host, is_sitemap)
                ON CONFLICT ON CONSTRAINT url_queue_url_key DO NOTHING
            ), another_chance AS (
                -- One that is given up begins anew. Another one is tried at once, and what it has missed still counts: schedules start
                -- more often than a host is given up.
                UPDATE hosts SET
                    unreachable = CASE WHEN unreachable >= 10 THEN 0 ELSE unreachable END,
                    unreachable_until = CASE WHEN unreachable >= 10 THEN '-infinity' ELSE least(unreachable_until, now()) END,
                    unreachable_origins = CASE WHEN unreachable >= 10 THEN '{}' ELSE unreachable_origins END,
                    refused = CASE WHEN refused >= 12 THEN 0 ELSE refused END
                WHERE host IN (
                    SELECT host FROM hosts
                    WHERE (unreachable > 0 OR refused > 0) AND host = ANY ($14) AND EXISTS (SELECT FROM execution)
                    ORDER BY host FOR NO KEY UPDATE)
            ), budgets AS (
                INSERT INTO execution_budgets (execution_id, kind, prefix, max)
                SELECT execution.id, budget.kind, budget.prefix, budget.max
                FROM execution, UNNEST($16::text[], $17::text[], $18::int8[]) AS budget (kind, prefix, max)
            ), new_lanes AS (
                -- And with them their hosts, by a trigger.
                INSERT INTO lanes (execution_id, host)
                SELECT DISTINCT execution.id, host FROM execution, UNNEST($14::text[]) AS host
            )
            SELECT EXISTS (SELECT FROM execution) AS "written!""#,
            execution.0,
            workflow.0,
            self.version,
            schedule.map(|schedule| schedule.0),
            max_pages.map(|pages| i64::try_from(pages).unwrap_or(i64::MAX)),
            i32::try_from(rate_limit_delay.as_millis()).unwrap_or(i32::MAX),
            host_concurrency.map(|pages| i32::try_from(pages).unwrap_or(i32::MAX)),
            adaptive_delay,
            host_unit == HostUnit::Domain,
            self.robots == Robots::Obey,
            &pages,
            &urls,
            &hashes,
            &hosts,
            &are_sitemaps,
            &budgets.kinds,
            &budgets.prefixes,
            &budgets.most,
            self.key,
            self.share.weight,
            self.share.priority,
        )
        .fetch_one(connection)
        .await?;
        Ok(written)
    }
}
