//! The one integration test binary.

mod api;
mod broker;
mod tidy;
