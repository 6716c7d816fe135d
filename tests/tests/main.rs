//! The one integration test binary.

mod broker;
mod tidy;
