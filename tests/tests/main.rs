//! The one integration test binary.
#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

mod acts;
mod answers;
mod api;
mod broker;
mod cli;
mod cluster;
mod crashes;
mod crawl;
mod egress;
mod fleet;
mod frontier;
mod hostile_pages;
mod interleavings;
mod invariants;
mod recorded;
mod render;
mod secrets;
mod seed;
mod spine;
mod store;
mod storm;
mod tidy;
mod traps;
mod worker;

/// The program `crawlify`, as this build has it.
const CRAWLIFY: &str = env!("CARGO_BIN_EXE_crawlify-under-test");
