//! What a workflow may spend, for its author.

use crawlify_shared::domain::workflow::Budgets;
use serde::Serialize;

/// What a crawl may spend; `null` is no limit.
#[derive(Clone, Debug, Serialize)]
pub struct ExplainedBudgets {
    /// From its start, in seconds.
    pub time_seconds: Option<u64>,
    /// Received by its pages.
    pub bytes: Option<u64>,
    /// Pages below some paths.
    pub path_prefixes: Vec<ExplainedPathBudget>,
}

/// How many pages below a path a crawl may visit.
#[derive(Clone, Debug, Serialize)]
pub struct ExplainedPathBudget {
    /// How their paths begin.
    pub prefix: String,
    /// At most so many.
    pub max_pages: u64,
}

impl ExplainedBudgets {
    pub(super) fn of(budgets: &Budgets) -> Self {
        let prefixes = budgets.path_prefixes.iter();
        Self {
            time_seconds: budgets.time.map(|time| time.as_secs()),
            bytes: budgets.bytes,
            path_prefixes: prefixes
                .map(|budget| ExplainedPathBudget {
                    prefix: budget.prefix.clone(),
                    max_pages: budget.max_pages,
                })
                .collect(),
        }
    }
}
