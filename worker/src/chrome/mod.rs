//! The browser, behind a small trait. The only CDP: no protocol type leaves this module.
//!
//! Knows nothing about stores, brokers or workflows: it opens tabs, loads pages and runs [`DomStep`]s.

pub mod driver;
