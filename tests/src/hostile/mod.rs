//! A hostile site: pages that try every way there is to reach an address that pages are kept from, and a canary that
//! sits there and counts.

mod canary;
mod lured;
mod site;
mod vectors;

pub use canary::Canary;
pub use lured::LuredSite;
pub use site::HostileSite;
pub use vectors::{DEAD_IN_FULL_BROWSER, DEAD_IN_HEADLESS_SHELL, VECTORS, Vector, Way};
