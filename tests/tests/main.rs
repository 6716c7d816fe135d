//! The one integration test binary.
#![allow(clippy::unwrap_used, reason = "an unwrap that fails is a test that fails")]

mod broker;
