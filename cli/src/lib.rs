//! The command line of Crawlify.

pub mod doctor;
pub mod private_postgres;
