//! A connection while something is asked on it. One that falls silent is not asked for ever: behind a server that was failed over,
//! or a proxy that lost it, it may stay silent, while a new one is answered at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use deadpool_postgres::Object;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, Statement, ToStatement};

use crate::store::StoreError;

/// A little longer than the server itself takes for any statement: see `statement_timeout` in the settings.
const ANSWERS_WITHIN: Duration = Duration::from_secs(35);
/// A connection that has not answered for so long, when somebody gives up on his answer, is given up with it. One that is merely
/// slow is kept: a new one would take longer.
const SILENT_AFTER: Duration = Duration::from_secs(4);

/// Since when the connections of a pool owe an answer, whoever asked, and gave up meanwhile. A connection is known by when it was
/// made.
#[derive(Clone, Debug, Default)]
pub(super) struct Silences(Arc<Mutex<HashMap<Instant, Instant>>>);

/// A connection of the pool, to which it goes back.
#[derive(Debug)]
pub(super) struct Line {
    /// There until it is dropped.
    object: Option<Object>,
    silences: Silences,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Unanswered {
    /// Nothing came.
    Silence,
    /// The server says so, or the connection is gone.
    Refused(tokio_postgres::Error),
}

type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];

impl Line {
    pub(super) fn new(object: Object, silences: Silences) -> Self {
        Self { object: Some(object), silences }
    }

    pub(super) async fn prepare_cached(&self, query: &str) -> Result<Statement, Unanswered> {
        self.ask(self.object().prepare_cached(query)).await
    }

    pub(super) async fn query<S>(
        &self,
        statement: &S,
        parameters: Parameters<'_>,
    ) -> Result<Vec<Row>, Unanswered>
    where
        S: ?Sized + ToStatement + Sync + Send,
    {
        self.ask(self.object().query(statement, parameters)).await
    }

    pub(super) async fn query_one<S>(
        &self,
        statement: &S,
        parameters: Parameters<'_>,
    ) -> Result<Row, Unanswered>
    where
        S: ?Sized + ToStatement + Sync + Send,
    {
        self.ask(self.object().query_one(statement, parameters)).await
    }

    pub(super) async fn query_opt<S>(
        &self,
        statement: &S,
        parameters: Parameters<'_>,
    ) -> Result<Option<Row>, Unanswered>
    where
        S: ?Sized + ToStatement + Sync + Send,
    {
        self.ask(self.object().query_opt(statement, parameters)).await
    }

    pub(super) async fn execute<S>(
        &self,
        statement: &S,
        parameters: Parameters<'_>,
    ) -> Result<u64, Unanswered>
    where
        S: ?Sized + ToStatement + Sync + Send,
    {
        self.ask(self.object().execute(statement, parameters)).await
    }

    async fn ask<T>(
        &self,
        answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Unanswered> {
        let made = Object::metrics(self.object()).created;
        self.silences.note(made);
        let Ok(answer) = tokio::time::timeout(ANSWERS_WITHIN, answer).await else {
            // The others are likely to be as silent. Those that are in use say so themselves.
            if let Some(pool) = Object::pool(self.object()) {
                pool.retain(|_, _| false);
            }
            return Err(Unanswered::Silence);
        };
        self.silences.lock().remove(&made);
        answer.map_err(Unanswered::Refused)
    }

    fn object(&self) -> &Object {
        self.object.as_ref().expect("it is taken as it is dropped")
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let Some(object) = self.object.take() else { return };
        let made = Object::metrics(&object).created;
        let mut silences = self.silences.lock();
        if silences.get(&made).is_some_and(|since| since.elapsed() >= SILENT_AFTER) {
            silences.remove(&made);
            drop(Object::take(object));
        }
    }
}

impl Silences {
    /// Something is asked on a connection. Of those that ended otherwise than by being given up nothing is kept for long.
    fn note(&self, made: Instant) {
        let mut silences = self.lock();
        silences.retain(|_, since| since.elapsed() < 2 * ANSWERS_WITHIN);
        silences.entry(made).or_insert_with(Instant::now);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Instant, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<Unanswered> for StoreError {
    fn from(unanswered: Unanswered) -> Self {
        match unanswered {
            Unanswered::Silence => Self::Silent(
                format!("nothing came for {} s: the connection is given up", ANSWERS_WITHIN.as_secs()).into(),
            ),
            Unanswered::Refused(error) => error.into(),
        }
    }
}
