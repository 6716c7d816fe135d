//! The command line of Crawlify.

pub mod demo_site;
pub mod private_postgres;
