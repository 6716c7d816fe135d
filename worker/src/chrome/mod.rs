//! The browser, behind a small trait. The only CDP: no protocol type leaves this module.
//!
//! Knows nothing about stores, brokers or workflows: it opens tabs, loads pages and runs
//! [`DomProgram`](driver::DomProgram)s. From the outside in: `chrome_driver` starts everything, `supervisor` keeps one
//! `browser` alive (`find`, `launch`, `flags`, `profile`), `tabs` hands out its tabs (`attach` opens them, `block` keeps
//! from them what is not to be loaded, `viewport` has little of them painted), `tab` works with one of them
//! (`page_state`, `page_load`, `call`, `describe`, `guarded`, `run`, `failure`), `static_lane` reads pages that need no tab of their own, and all of it talks over
//! `connection` (`pending`, `skipped`).

mod act;
mod attach;
mod attached;
mod block;
mod browser;
mod call;
mod chrome_driver;
mod connection;
mod cookies;
mod describe;
pub mod driver;
mod failure;
pub mod fake;
mod find;
mod flags;
mod guarded;
mod input;
mod launch;
mod look;
mod memory;
mod page_load;
mod page_state;
mod pending;
mod profile;
mod run;
mod sent_headers;
mod shared_workers;
mod skipped;
mod static_lane;
mod supervisor;
mod tab;
mod tabs;
#[cfg(test)]
mod tests;
mod unfinished;
mod viewport;

pub use chrome_driver::{ChromeDriver, ChromeOptions, LaunchError};
pub use find::{FindBrowserError, FoundBrowser, find_browser};
pub use run::STEP_OUTPUT_LIMIT;
