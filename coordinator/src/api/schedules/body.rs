//! What requests and answers about schedules look like.

use chrono::{DateTime, Utc};
use crawlify_shared::domain::id::WorkflowId;
use crawlify_shared::domain::schedule::{OverlapPolicy, Schedule};
use crawlify_shared::store::schedules::ScheduleRow;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::api::fields::Fields;
use crate::api::problem::ApiError;

const POLICIES: &str = "`skip`, `queue`, `cancel_previous` or `allow`";

/// What a schedule is made from.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read by hand, for better messages")]
pub(in crate::api) struct ScheduleDocument {
    /// What it starts. Cannot be changed.
    workflow_id: Uuid,
    /// Minute, hour, day of month, month, day of week, or seconds before them; or `@daily` and the like.
    cron: String,
    /// In whose time: a name of the IANA database. `UTC` unless given.
    time_zone: Option<String>,
    /// `true` unless given.
    enabled: Option<bool>,
    /// When a run is due and an earlier one has not ended: `skip` leaves it out (unless given), `queue` starts it
    /// afterwards, `cancel_previous` cancels the earlier one, `allow` runs both.
    overlap: Option<String>,
}

/// What is to be different from now on; what is absent stays.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes what is read by hand, for better messages")]
pub(in crate::api) struct ScheduleChanges {
    cron: Option<String>,
    time_zone: Option<String>,
    enabled: Option<bool>,
    overlap: Option<String>,
}

/// A schedule as it was asked for, checked.
pub(super) struct Wanted {
    pub(super) cron: String,
    pub(super) time_zone: String,
    pub(super) schedule: Schedule,
    pub(super) enabled: bool,
    pub(super) overlap: OverlapPolicy,
}

impl Wanted {
    /// Reads a new schedule.
    pub(super) fn new(document: Value) -> Result<(WorkflowId, Self), ApiError> {
        let mut fields = Fields::of(document);
        let workflow = fields.id("workflow_id");
        fields.require("workflow_id");
        fields.require("cron");
        let wanted = Self::read(fields, None)?;
        // The fields tell that it is missing or wrong.
        let workflow = workflow.ok_or_else(ApiError::internal)?;
        Ok((WorkflowId(workflow), wanted))
    }

    /// Reads what is to be changed of a schedule.
    pub(super) fn changed(row: &ScheduleRow, document: Value) -> Result<Self, ApiError> {
        let mut fields = Fields::of(document);
        if fields.is_empty() {
            let message = "there is nothing to change; give `cron`, `time_zone`, `enabled` or `overlap`";
            fields.mistake("", "nothing_to_change", message.to_owned());
        }
        Self::read(fields, Some(row))
    }

    fn read(mut fields: Fields, before: Option<&ScheduleRow>) -> Result<Self, ApiError> {
        let cron = fields.text("cron").or_else(|| before.map(|row| row.cron.clone()));
        let time_zone = fields
            .text("time_zone")
            .unwrap_or_else(|| before.map_or_else(|| "UTC".to_owned(), |row| row.time_zone.clone()));
        let enabled = fields.boolean("enabled").unwrap_or_else(|| before.is_none_or(|row| row.enabled));
        let overlap = fields
            .read("overlap", POLICIES, |value| value.as_str().and_then(OverlapPolicy::parse))
            .or_else(|| before.and_then(|row| OverlapPolicy::parse(&row.overlap)))
            .unwrap_or(OverlapPolicy::Skip);
        // Where the expression is missing or no string, that has been told; the time zone is checked all the same.
        let parsed = Schedule::parse(cron.as_deref().unwrap_or("@daily"), &time_zone);
        let schedule = match parsed {
            Ok(schedule) => Some(schedule),
            Err(problems) => {
                fields.problems(problems);
                None
            }
        };
        fields.finish("invalid_schedule", "the schedule")?;
        match (cron, schedule) {
            (Some(cron), Some(schedule)) => Ok(Self { cron, time_zone, schedule, enabled, overlap }),
            // Both were told above.
            _ => Err(ApiError::internal()),
        }
    }
}

/// A schedule.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct ScheduleBody {
    id: Uuid,
    workflow_id: Uuid,
    cron: String,
    time_zone: String,
    enabled: bool,
    overlap: String,
    /// When it starts something next; null while it is disabled.
    next_run_at: Option<DateTime<Utc>>,
    /// Since when a run waits for the end of an earlier one.
    waiting_since: Option<DateTime<Utc>>,
    /// When it last started something.
    last_run_at: Option<DateTime<Utc>>,
    /// What it last started.
    last_execution_id: Option<Uuid>,
    /// What became of the run that was last due: `started`, `skipped`, `queued`, `replaced`, `workflow_not_active`,
    /// `workflow_invalid` or `schedule_invalid`.
    last_outcome: Option<String>,
    /// Raised by every change and every run; also the `ETag`.
    version: i32,
    created_at: DateTime<Utc>,
    /// When somebody last changed it.
    updated_at: DateTime<Utc>,
}

impl From<ScheduleRow> for ScheduleBody {
    fn from(row: ScheduleRow) -> Self {
        Self {
            id: row.id,
            workflow_id: row.workflow_id,
            cron: row.cron,
            time_zone: row.time_zone,
            enabled: row.enabled,
            overlap: row.overlap,
            next_run_at: row.next_run_at,
            waiting_since: row.waiting_since,
            last_run_at: row.last_run_at,
            last_execution_id: row.last_execution_id,
            last_outcome: row.last_outcome,
            version: row.version,
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}

/// Some schedules.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct ScheduleList {
    pub(super) schedules: Vec<ScheduleBody>,
    /// How many there are.
    pub(super) total: i64,
    pub(super) limit: i64,
    pub(super) offset: i64,
}

/// A run that somebody asked for.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct RunBody {
    pub(super) message: &'static str,
    pub(super) schedule_id: Uuid,
    /// `started`, `replaced` or `queued`.
    pub(super) outcome: &'static str,
    /// What was started; null where it waits.
    pub(super) execution_id: Option<Uuid>,
}
