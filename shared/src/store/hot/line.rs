//! A connection while something is asked on it. One that falls silent is never asked again: behind a server that was failed over,
//! or a proxy that lost it, it may stay silent for ever, while a new one is answered at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deadpool_postgres::Object;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, Statement, ToStatement};

use crate::store::StoreError;

/// A little longer than the server itself takes for any statement: see `statement_timeout` in the settings.
const ANSWERS_WITHIN: Duration = Duration::from_secs(35);

/// A connection of the pool. Goes back to it, unless something was asked that it has not answered.
#[derive(Debug)]
pub(super) struct Line {
    /// There until it is dropped.
    object: Option<Object>,
    is_asking: AtomicBool,
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
    pub(super) fn new(object: Object) -> Self {
        Self { object: Some(object), is_asking: AtomicBool::new(false) }
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

    /// While the answer is awaited, also by somebody who gives up on it, the connection is not to be trusted.
    async fn ask<T>(
        &self,
        answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Unanswered> {
        self.is_asking.store(true, Ordering::Relaxed);
        let Ok(answer) = tokio::time::timeout(ANSWERS_WITHIN, answer).await else {
            // The others are likely to be as silent. Those that are in use say so themselves.
            if let Some(pool) = Object::pool(self.object()) {
                pool.retain(|_, _| false);
            }
            return Err(Unanswered::Silence);
        };
        self.is_asking.store(false, Ordering::Relaxed);
        answer.map_err(Unanswered::Refused)
    }

    fn object(&self) -> &Object {
        self.object.as_ref().expect("it is taken as it is dropped")
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.is_asking.load(Ordering::Relaxed)
            && let Some(object) = self.object.take()
        {
            drop(Object::take(object));
        }
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
