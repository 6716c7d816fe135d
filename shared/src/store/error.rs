//! What can go wrong with the database, by what the caller does next.

/// The database failed us.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No connection, a shutdown, a deadlock, a want of room: try the same again later.
    #[error("the database is not available")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It says nothing, for longer than any statement may take: try the same again, on another connection.
    #[error("the database does not answer")]
    Silent(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A statement, or its wait for a lock, took too long: try the same again later.
    #[error("the database takes too long")]
    TimedOut(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A trigger or function of the user's own refuses it, for now.
    #[error("the database cannot be used")]
    Raised(#[source] Box<dyn std::error::Error + Send + Sync>),
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
            // The statement's time, and that of its wait for a lock.
            Some("57014" | "55P03") => Self::TimedOut(source.into()),
            Some("25006") => Self::Unavailable(source.into()),
            Some(code) => match &code[..2.min(code.len())] {
                // Connection; rollback (deadlock, serialisation); resources; operator; system.
                "08" | "40" | "53" | "57" | "58" => Self::Unavailable(source.into()),
                "P0" => Self::Raised(source.into()),
                "22" | "23" | "54" => Self::BadData(source.into()),
                _ => Self::Unusable(source.into()),
            },
        }
    }

    /// Whether the same may work later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Silent(_) | Self::TimedOut(_))
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
            None if is_of_settings(&error) => Self::Unusable(error.into()),
            None => Self::from_sqlstate(None, error),
        }
    }
}

/// Whether a connection was not even tried, or given up, because of how it is to be made: a password is wanted and there is
/// none, or encryption that one of both does not know. The library tells its kinds of errors by their text alone.
fn is_of_settings(error: &tokio_postgres::Error) -> bool {
    let text = error.to_string();
    ["invalid configuration", "authentication error", "error performing TLS handshake"]
        .iter()
        .any(|kind| text.starts_with(kind))
}

impl From<deadpool_postgres::PoolError> for StoreError {
    fn from(error: deadpool_postgres::PoolError) -> Self {
        match error {
            deadpool_postgres::PoolError::Backend(error) => error.into(),
            other => Self::Unavailable(other.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_refuses_us_is_told_from_one_that_is_not_there_yet() {
        let is_waited_for = |code| StoreError::from_sqlstate(code, "told by the server").is_transient();
        // No connection; starting up or shutting down; too many connections; a time-out; read-only for a moment.
        for code in [None, Some("57P03"), Some("57P01"), Some("53300"), Some("57014"), Some("25006")] {
            assert!(is_waited_for(code), "{code:?}");
        }
        // A wrong password or user; no such database; no right to connect; no such table.
        for code in ["28P01", "28000", "3D000", "42501", "42P01"] {
            assert!(!is_waited_for(Some(code)), "{code}");
        }
    }

    #[tokio::test]
    async fn a_setting_that_is_missing_is_not_waited_for() {
        let connecting = tokio_postgres::connect("user=crawlify", tokio_postgres::NoTls);
        let Err(no_host) = connecting.await else { panic!("there is no host to connect to") };
        assert!(!StoreError::from(no_host).is_transient());
        let connecting = tokio_postgres::connect("postgres://crawlify@127.0.0.1:9/", tokio_postgres::NoTls);
        let Err(refused) = connecting.await else { panic!("nobody listens at the discard port") };
        assert!(StoreError::from(refused).is_transient());
    }
}
