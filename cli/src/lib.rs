//! The command line of Crawlify.

pub mod demo_site;
