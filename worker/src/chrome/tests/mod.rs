//! The real browser against a site that misbehaves on purpose. A missing browser fails them, with the package's name.

mod acts;
mod bench;
mod faults;
mod isolation;
mod launching;
mod loading;
mod loads;
mod memory;
mod neighbours;
mod refused;
mod slow_statics;
mod socket_site;
mod statics;
mod steps;
mod tls_site;
