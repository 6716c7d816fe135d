//! Pulls pages, executes their nodes in headless Chrome, records what happened.

pub mod chrome;
