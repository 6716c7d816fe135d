//! The command line of Crawlify.
