//! The command line of Crawlify.

pub mod demo_site;
pub mod printable;
pub mod progress;
pub mod summary;
pub mod validate;
