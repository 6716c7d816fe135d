//! The command line of Crawlify.

pub mod private_postgres;
