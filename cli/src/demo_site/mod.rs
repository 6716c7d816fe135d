//! The built-in demo shop and its small web server: something real to crawl on a machine without a network.
//!
//! The shop is made up at start from a fixed seed, so that it is the same on every machine and in every version. The
//! server can serve a folder of files instead. It listens on the loopback address only, and it knows nothing about
//! crawling.

mod catalogue;
mod folder;
mod pages;
mod picture;
mod random;
mod resource;
mod server;
mod shop;
mod words;

pub use catalogue::ExpectedItem;
pub use server::{Content, DemoSite};
pub use shop::Shop;

/// The workflow that crawls the demo shop, as in `examples/demo_shop.json`. Its start URL names
/// [`DEFAULT_PORT`]; a crawl of a site on another port replaces it.
pub const WORKFLOW: &str = include_str!("../../../examples/demo_shop.json");

/// Where the demo shop listens unless it is told otherwise, and what [`WORKFLOW`] expects.
pub const DEFAULT_PORT: u16 = 8090;
