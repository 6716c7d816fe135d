//! Very many pages that wait, written directly: many hosts, many pages each.

use anyhow::Result;
use crawlify_shared::domain::id::ExecutionId;

use crate::fleet::Fleet;

/// Links that one page names, all of one host: their rows were written together, and their ids follow each other.
const OF_ONE_PAGE: i64 = 10;

/// SQL of an id as pages have it, from milliseconds `ms` and 32 hexadecimal digits `random`.
pub(crate) const TIME_ORDERED_ID: &str =
    "(lpad(to_hex(ms), 12, '0') || '7' || left(random, 3) || '8' || right(random, 15))::uuid";

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
                "INSERT INTO url_queue (id, execution_id, url, url_hash, host, depth, priority, created_at, not_before)
                 SELECT {TIME_ORDERED_ID}, '{id}',
                    'http://' || host || '/page/' || n, decode(random, 'hex'), host, 3, 70, found_at, found_at
                 FROM generate_series({first}, {last}) n
                    CROSS JOIN LATERAL (SELECT md5('{id}' || n) AS random, 'h' || n / {OF_ONE_PAGE} % {hosts} || '.test' AS host,
                        floor(extract(epoch FROM now()) * 1000)::int8 - ({pages} - n) / {OF_ONE_PAGE} AS ms) found
                    CROSS JOIN LATERAL (SELECT to_timestamp(ms / 1000.0) AS found_at) at"
            ))
            .await?;
        first += portion;
    }
    fleet.client.batch_execute("RESET synchronous_commit; ANALYZE lanes; ANALYZE hosts").await?;
    // Not what was written is measured, but what comes then.
    fleet.client.batch_execute("VACUUM ANALYZE url_queue").await?;
    Ok(())
}
