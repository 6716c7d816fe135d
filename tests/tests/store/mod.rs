//! The worker's side of the store against a real Postgres: who may claim, who may record, and what a record writes.

mod announce;
mod claim;
mod contention;
mod decisions;
mod dropped;
mod hostile;
mod record;
mod robots;
mod skips;
