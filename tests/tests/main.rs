//! The one integration test binary.

#[cfg(test)]
mod api;
mod broker;
mod tidy;
