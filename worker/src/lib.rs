//! The worker: pulls pages, executes their nodes in headless Chrome, records what happened. Stateless: everything
//! that it knows about a crawl is a row or a message.
//!
//! To read it in order: `worker` (how it starts and drains), `consumer`, `page` (the spine), `claims`, `execute` and
//! `program` (what runs), `chrome` (how), `gather`, `recorder`.

mod admin;
pub mod chrome;
mod claims;
mod consumer;
mod execute;
mod gather;
mod group_commit;
mod leases;
mod metrics;
mod page;
mod program;
mod programs;
mod recorder;
pub mod role;
mod worker;

pub use worker::{Config, StartError, Worker, start};
