//! What a step of a dispatcher waits for: its connection is looked at as often as the machine allows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, Result};
use crawlify_shared::config::SecretUrl;
use tokio::task::JoinSet;
use tokio_postgres::{NoTls, Statement};

/// What the other connections did, with when that was seen.
#[derive(Debug, Default)]
pub(crate) struct Looks(Vec<(Instant, String)>);

/// Looks until it is told to end.
pub(crate) struct Profile {
    ended: Arc<AtomicBool>,
    looks: JoinSet<Result<Looks>>,
}

impl Profile {
    /// Begins to look at every other connection to this database.
    pub(crate) fn start(database: SecretUrl) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let mut looks = JoinSet::new();
        looks.spawn(look(database, Arc::clone(&ended)));
        Self { ended, looks }
    }

    /// # Errors
    /// The database's.
    pub(crate) async fn end(mut self) -> Result<Looks> {
        self.ended.store(true, Ordering::Relaxed);
        self.looks.join_next().await.context("it looks")??
    }
}

impl Looks {
    /// Milliseconds of each kind of wait, of one of these spans on average: the longest first.
    pub(crate) fn waits(&self, spans: &[(Instant, Instant)]) -> String {
        let mut waits: BTreeMap<&str, f64> = BTreeMap::new();
        for ((at, what), (next, _)) in self.0.iter().zip(self.0.iter().skip(1)) {
            if spans.iter().any(|(begun, ended)| at >= begun && at < ended) {
                *waits.entry(what).or_default() += (*next - *at).as_secs_f64() * 1e3 / spans.len() as f64;
            }
        }
        let mut waits: Vec<_> = waits.into_iter().collect();
        waits.sort_by(|one, other| other.1.total_cmp(&one.1));
        let waits: Vec<_> = waits.into_iter().map(|(what, ms)| format!("{what} {ms:.2} ms")).collect();
        waits.join(", ")
    }
}

async fn look(database: SecretUrl, ended: Arc<AtomicBool>) -> Result<Looks> {
    let (client, connection) = tokio_postgres::connect(database.expose(), NoTls).await?;
    let mut connections = JoinSet::new();
    connections.spawn(connection);
    let what: Statement = client
        .prepare(
            "SELECT COALESCE(wait_event, 'processor') FROM pg_stat_activity
             WHERE backend_type = 'client backend' AND state = 'active' AND pid <> pg_backend_pid() LIMIT 1",
        )
        .await?;
    let mut seen = Looks::default();
    while !ended.load(Ordering::Relaxed) {
        let row = client.query_opt(&what, &[]).await?;
        seen.0.push((Instant::now(), row.map_or_else(|| "between statements".to_owned(), |row| row.get(0))));
    }
    Ok(seen)
}
