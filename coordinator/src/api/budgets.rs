//! What an execution may spend, as requests and answers show it: the form of a workflow's `budgets`.

use crawlify_shared::store::budgets::change::{StandingBudgets, StandingPathBudget};
use serde::Serialize;
use utoipa::ToSchema;

/// What an execution may spend; null is no limit. In a change, what is absent stays.
#[derive(Serialize, ToSchema)]
pub(super) struct BudgetsBody {
    /// Seconds from the start of the execution, pauses included, to a year. No page is dispatched after them.
    time: Option<i64>,
    /// What its pages receive in all, from 1 on. No page is dispatched after so many bytes.
    bytes: Option<i64>,
    /// How many pages below some paths are dispatched. A change replaces all of them; a prefix that was there before keeps
    /// what was used of it, and another one counts the pages that are dispatched for the first time from then on.
    /// Answers have a list in any case.
    path_prefixes: Option<Vec<PathBudgetBody>>,
}

/// How many pages below a path are dispatched.
#[derive(Serialize, ToSchema)]
pub(super) struct PathBudgetBody {
    /// How the paths of their URLs begin, on any host: with `/`, and without `?` and `#`.
    prefix: String,
    /// At most so many, from 1 on. Less than were used already: no more are.
    max_pages: i64,
    /// Pages that were counted so far, each once.
    #[schema(read_only)]
    used: i64,
}

impl From<StandingBudgets> for BudgetsBody {
    fn from(budgets: StandingBudgets) -> Self {
        let path_prefixes = budgets.path_prefixes.into_iter().map(PathBudgetBody::from).collect();
        Self { time: budgets.time_seconds, bytes: budgets.bytes, path_prefixes: Some(path_prefixes) }
    }
}

impl From<StandingPathBudget> for PathBudgetBody {
    fn from(budget: StandingPathBudget) -> Self {
        Self { prefix: budget.prefix, max_pages: budget.max_pages, used: budget.used }
    }
}
