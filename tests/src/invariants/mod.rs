//! The invariants: what must hold of every execution that has ended, whatever died on the way. Only looks.
//!
//! Their ids are kept everywhere, in `verify.sql`, in messages and in `docs/FAULTS.md`: I1 to I7 and I9 to I11 are questions
//! to the database (`verify.sql`), I8 to the broker (`broker`), I12 to the machine and I13 to the site's log (`around`). I14,
//! the time that a recovery takes, is measured by the storm, and I15 is held by the tests of the egress guard.

pub mod around;
pub mod broker;

use std::fmt;

use crawlify_shared::domain::id::ExecutionId;
use sqlx::{AssertSqlSafe, PgConnection, PgPool};
use uuid::Uuid;

const VERIFY: &str = include_str!("verify.sql");

/// One thing that breaks an invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The invariant's id, such as `I4`.
    pub id: &'static str,
    /// What should hold.
    pub sentence: &'static str,
    /// What breaks it.
    pub row: String,
}

/// One question to the database.
struct Invariant {
    id: &'static str,
    sentence: &'static str,
    query: &'static str,
}

impl Violation {
    /// Whether something is missing that a calm crawl has.
    pub fn is_loss(&self) -> bool {
        self.row.starts_with("lost: ")
    }

    /// Whether something is there that a calm crawl has not, or has once.
    pub fn is_surplus(&self) -> bool {
        self.row.starts_with("twice: ")
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.id, self.sentence, self.row)
    }
}

/// Everything that breaks an invariant of an execution, as far as its rows tell; `calm` is one to compare with.
///
/// # Errors
/// The database's.
pub async fn verify(
    connection: &mut PgConnection,
    execution: ExecutionId,
    calm: Option<ExecutionId>,
) -> sqlx::Result<Vec<Violation>> {
    ask(connection, execution, calm, |_| true).await
}

/// Holds an execution that has ended to every invariant.
///
/// # Panics
/// One is broken; the message says which, and by what.
pub async fn assert_sound(pool: &PgPool, execution: ExecutionId, calm: Option<ExecutionId>) {
    let mut connection = pool.acquire().await.expect("the database is there");
    let broken = verify(&mut connection, execution, calm).await.expect("the queries are right");
    assert_none(&broken);
}

/// Holds every execution of a database that has ended by itself to every invariant.
///
/// # Panics
/// One is broken; the message says which, and by what.
pub async fn assert_ended_are_sound(pool: &PgPool) {
    let ended = "SELECT id FROM workflow_executions WHERE status IN ('completed', 'failed')";
    for execution in executions(pool, ended).await {
        assert_sound(pool, execution, None).await;
    }
}

/// Holds every execution of a database, ended or not, to what holds at any time: that nothing was recorded twice, and that
/// counters are what a recount gives.
///
/// # Panics
/// They are not; the message says which.
pub async fn assert_counters_are_a_recount(pool: &PgPool) {
    for execution in executions(pool, "SELECT id FROM workflow_executions").await {
        let mut connection = pool.acquire().await.expect("the database is there");
        let broken = ask(&mut connection, execution, None, |id| ["I2", "I4"].contains(&id)).await;
        assert_none(&broken.expect("the queries are right"));
    }
}

/// # Panics
/// There is one.
pub fn assert_none(broken: &[Violation]) {
    let lines: Vec<_> = broken.iter().take(20).map(ToString::to_string).collect();
    assert!(broken.is_empty(), "{} violations:\n{}", broken.len(), lines.join("\n"));
}

async fn executions(pool: &PgPool, query: &'static str) -> Vec<ExecutionId> {
    let ids: Vec<Uuid> = sqlx::query_scalar(query).fetch_all(pool).await.expect("the query is right");
    ids.into_iter().map(ExecutionId).collect()
}

async fn ask(
    connection: &mut PgConnection,
    execution: ExecutionId,
    calm: Option<ExecutionId>,
    wanted: impl Fn(&str) -> bool,
) -> sqlx::Result<Vec<Violation>> {
    let mut broken = Vec::new();
    for Invariant { id, sentence, query } in invariants().filter(|invariant| wanted(invariant.id)) {
        let mut question = sqlx::query_scalar(AssertSqlSafe(query)).bind(execution.0);
        if query.contains("$2") {
            question = question.bind(calm.map(|calm| calm.0));
        }
        let rows: Vec<String> = question.fetch_all(&mut *connection).await?;
        broken.extend(rows.into_iter().map(|row| Violation { id, sentence, row }));
    }
    Ok(broken)
}

/// The statements of `verify.sql`, each under a line `-- ID: SENTENCE`.
fn invariants() -> impl Iterator<Item = Invariant> {
    VERIFY.split("\n-- I").skip(1).map(|part| {
        let (title, query) = part.split_once('\n').expect("a statement follows its title");
        let (number, sentence) = title.split_once(": ").expect("a title is an id and a sentence");
        let id = IDS.iter().find(|id| id[1..] == *number).expect("the id is known");
        Invariant { id, sentence, query }
    })
}

/// The invariants that rows tell.
const IDS: [&str; 10] = ["I1", "I2", "I3", "I4", "I5", "I6", "I7", "I9", "I10", "I11"];

#[cfg(test)]
mod tests {
    use crawlify_shared::domain::fault::{
        LOSSES_TAKEN_BACK, MAX_ATTEMPTS, POISON_AFTER, PROXY_TRIES, RATE_LIMIT_TRIES, SITE_TRIES,
        UNAVAILABLE_TRIES,
    };

    use super::*;

    #[test]
    fn every_invariant_that_rows_tell_has_a_statement() {
        let all: Vec<_> = invariants().collect();
        assert!(IDS.iter().all(|id| all.iter().any(|invariant| invariant.id == *id)));
        assert!(all.iter().all(|invariant| invariant.query.contains("$1")));
    }

    #[test]
    fn the_bound_of_attempts_is_the_workers() {
        let bound = invariants().find(|invariant| invariant.id == "I10").unwrap();
        let bounds = format!(
            "charged > {MAX_ATTEMPTS} OR site_faults > {SITE_TRIES} OR rate_limit_faults > {RATE_LIMIT_TRIES} OR unavailable_faults > {UNAVAILABLE_TRIES} OR proxy_faults > {PROXY_TRIES} OR \
             browser_faults > {POISON_AFTER} OR worker_faults > {POISON_AFTER} OR taken_back > {LOSSES_TAKEN_BACK}"
        );
        assert!(bound.query.contains(&bounds), "{}", bound.query);
        let poison = invariants().find(|invariant| invariant.query.contains("'poison'")).unwrap();
        let losses = format!("greatest(browser_faults, worker_faults + taken_back) < {POISON_AFTER}");
        assert!(poison.query.contains(&losses), "{}", poison.query);
    }
}
