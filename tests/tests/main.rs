//! The one integration test binary.
#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

mod api;
mod broker;
mod tidy;
