//! A hostile site: pages that try every way there is to reach an address that pages are kept from, and a canary that
//! sits there and counts; and a name server that counts who lets it know a name.

mod canary;
mod lured;
mod name_server;
mod site;
mod vectors;

pub use canary::Canary;
pub use lured::LuredSite;
pub use name_server::{Alias, NameServer};
pub use site::HostileSite;
pub use vectors::{DEAD_IN_FULL_BROWSER, DEAD_IN_HEADLESS_SHELL, VECTORS, Vector, Way};
