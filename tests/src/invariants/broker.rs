//! I8: when all executions have ended and all consumers have gone, no message is left.

use std::time::{Duration, Instant};

use crawlify_shared::config::SecretUrl;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};

use super::Violation;

/// The queues of pages, and of what could not be read.
const QUEUES: [&str; 2] = ["crawlify.pages", "crawlify.pages.dead"];
/// The broker counts with some delay.
const WITHIN: Duration = Duration::from_secs(10);
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// Whatever is left in the queues of a virtual host. Ask when nobody consumes any more: what was in somebody's hands is
/// back in its queue then.
///
/// # Errors
/// The broker's, among them that a queue is not there.
pub async fn leftovers(url: &SecretUrl) -> lapin::Result<Vec<Violation>> {
    let connection = Connection::connect(url.expose(), ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let mut broken = Vec::new();
    for queue in QUEUES {
        let begun = Instant::now();
        let left = loop {
            let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            let declared = channel.queue_declare(queue.into(), passive, FieldTable::default()).await?;
            if declared.message_count() == 0 || begun.elapsed() > WITHIN {
                break declared.message_count();
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        };
        if left > 0 {
            let row = format!("{left} messages in {queue}");
            broken.push(Violation { id: "I8", sentence: "no message is left in the broker", row });
        }
    }
    connection.close(200, "OK".into()).await?;
    Ok(broken)
}
