//! The one integration test binary.
#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

mod api;
mod broker;
#[cfg(test)]
mod cli;
#[cfg(test)]
mod crawl;
#[cfg(test)]
mod fleet;
#[cfg(test)]
mod recorded;
mod tidy;

/// The program `crawlify`, as this build has it.
const CRAWLIFY: &str = env!("CARGO_BIN_EXE_crawlify-under-test");
