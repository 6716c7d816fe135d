//! The one integration test binary.

#[cfg(test)]
mod api;
mod broker;
mod frontier;
mod store;
mod tidy;
mod worker;
