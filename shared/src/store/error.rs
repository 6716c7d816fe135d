//! What can go wrong with the database, by what the caller does next.

/// The database failed us.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No connection, a shutdown, a time-out, a deadlock: try the same again later.
    #[error("the database is not available")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The database refuses this datum, today and tomorrow.
    #[error("the database refuses the data")]
    BadData(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The settings, the schema or our own statement is wrong: a person must act.
    #[error("the database cannot be used")]
    Unusable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl StoreError {
    /// Sorts by SQLSTATE (PostgreSQL documentation, appendix A); `None` is a failure without one: the connection's.
    fn from_sqlstate(
        code: Option<&str>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        match code {
            None => Self::Unavailable(source.into()),
            Some(code) => match &code[..2.min(code.len())] {
                // Connection; rollback (deadlock, serialisation); resources; operator; system; lock not available.
                "08" | "40" | "53" | "57" | "58" => Self::Unavailable(source.into()),
                _ if code == "55P03" || code == "25006" => Self::Unavailable(source.into()),
                "22" | "23" | "54" => Self::BadData(source.into()),
                _ => Self::Unusable(source.into()),
            },
        }
    }

    /// Whether the same may work later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(database) => {
                let code = database.code().map(|code| code.into_owned());
                Self::from_sqlstate(code.as_deref(), error)
            }
            sqlx::Error::Io(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => Self::Unavailable(error.into()),
            _ => Self::Unusable(error.into()),
        }
    }
}

impl From<sqlx::migrate::MigrateError> for StoreError {
    fn from(error: sqlx::migrate::MigrateError) -> Self {
        match error {
            sqlx::migrate::MigrateError::Execute(error) => error.into(),
            other => Self::Unusable(other.into()),
        }
    }
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            // Its details show the row, which is the page's text: that is in no log.
            Some(told) => {
                let code = told.code().code();
                Self::from_sqlstate(Some(code), format!("{} ({code})", told.message()))
            }
            None => Self::from_sqlstate(None, error),
        }
    }
}

impl From<deadpool_postgres::PoolError> for StoreError {
    fn from(error: deadpool_postgres::PoolError) -> Self {
        match error {
            deadpool_postgres::PoolError::Backend(error) => error.into(),
            other => Self::Unavailable(other.into()),
        }
    }
}
