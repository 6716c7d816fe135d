//! Ids as distinct types. All are time-ordered UUIDs (version 7, RFC 9562), so that rows written together lie
//! together in an index.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// Makes a fresh id from the clock and random bits.
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// Names a workflow.
    WorkflowId
}
id! {
    /// Names one execution of a workflow version.
    ExecutionId
}
id! {
    /// Names a schedule, which starts executions of a workflow.
    ScheduleId
}
id! {
    /// Names a page: one URL in one execution, a row of `url_queue`.
    PageId
}
id! {
    /// Names one life of a worker process; a restarted worker is another one.
    WorkerId
}
id! {
    /// Names one extracted item.
    ItemId
}

impl ItemId {
    /// Derives the id from page and position alone: a later attempt of the page makes the same item.
    ///
    /// `created_at_ms` is the page's creation time in Unix milliseconds, which no attempt changes.
    pub fn derive(page: PageId, position: u16, created_at_ms: i64) -> Self {
        Self(derive(b"item", page, position, created_at_ms))
    }
}

/// Lays out a UUIDv7: 48 bits of time, 12 bits of position, 62 bits of a hash of everything named.
fn derive(kind: &[u8], page: PageId, position: u16, at_ms: i64) -> Uuid {
    let mut hash = Sha256::new();
    hash.update(kind);
    hash.update(page.0.as_bytes());
    hash.update(0_i32.to_be_bytes());
    hash.update(position.to_be_bytes());
    let digest = hash.finalize();
    let mut bytes = [0_u8; 16];
    bytes[..6].copy_from_slice(&at_ms.to_be_bytes()[2..]);
    bytes[6..8].copy_from_slice(&(position & 0x0fff).to_be_bytes());
    bytes[8..].copy_from_slice(&digest[..8]);
    bytes[6] = (bytes[6] & 0x0f) | 0x70;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    Uuid::from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_ids_repeat_for_the_same_record_and_differ_for_another() {
        let page = PageId::generate();
        let id = ItemId::derive(page, 3, 1_700_000_000_000);
        assert_eq!(id, ItemId::derive(page, 3, 1_700_000_000_000));
        assert_ne!(id, ItemId::derive(PageId::generate(), 3, 1_700_000_000_000));
        assert_ne!(id, ItemId::derive(page, 4, 1_700_000_000_000));
        assert_eq!(id.0.get_version_num(), 7);
    }

    #[test]
    fn derived_ids_sort_by_time_then_position() {
        let page = PageId::generate();
        let at = |position, ms| ItemId::derive(page, position, ms);
        assert!(at(9, 1_000) < at(1, 1_001));
        assert!(at(1, 1_000) < at(2, 1_000));
    }
}
