//! Very many pages that wait, written directly: many hosts, many pages each.

use anyhow::Result;
use crawlify_shared::domain::id::ExecutionId;

use crate::fleet::Fleet;

/// Adds so many pending pages over so many hosts to an execution, as their discovery would have left them.
///
/// # Errors
/// The database's.
pub(crate) async fn fill(fleet: &Fleet, execution: ExecutionId, pages: i64, hosts: i64) -> Result<()> {
    let id = execution.0;
    fleet
        .client
        .batch_execute(&format!(
            "SET synchronous_commit = off;
             INSERT INTO hosts (host) SELECT 'h' || n || '.test' FROM generate_series(0, {hosts} - 1) n
             ON CONFLICT DO NOTHING;
             INSERT INTO lanes (execution_id, host) SELECT '{id}', 'h' || n || '.test' FROM generate_series(0, {hosts} - 1) n
             ON CONFLICT DO NOTHING"
        ))
        .await?;
    // In portions, as one transaction's worth of a million rows would be no less, but nobody could see it move.
    let portion = 1_000_000;
    let mut first = 0;
    while first < pages {
        let last = (first + portion).min(pages) - 1;
        fleet
            .client
            .batch_execute(&format!(
                "INSERT INTO url_queue (id, execution_id, url, url_hash, host, depth, priority)
                 SELECT gen_random_uuid(), '{id}', 'http://h' || n % {hosts} || '.test/page/' || n,
                    decode(md5('{id}' || n), 'hex'), 'h' || n % {hosts} || '.test', 3, 70
                 FROM generate_series({first}, {last}) n"
            ))
            .await?;
        first += portion;
    }
    fleet
        .client
        .batch_execute("RESET synchronous_commit; ANALYZE url_queue; ANALYZE lanes; ANALYZE hosts")
        .await?;
    Ok(())
}
