//! The command line of Crawlify: the commands, and the whole system composed in one process.

pub mod args;
pub mod commands;
mod crawl;
mod demo;
pub mod demo_site;
pub mod doctor;
mod egress;
pub mod exit;
mod explain;
mod export;
mod finish;
mod keys;
pub mod printable;
pub mod private_postgres;
pub mod progress;
mod run;
mod site;
pub mod stopping;
pub mod summary;
pub mod system;
mod up;
pub mod validate;
