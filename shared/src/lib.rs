//! The ground that coordinator and worker share, and their only common one: the domain (no IO), the store (the
//! only SQL), the broker (the only AMQP), configuration, telemetry, crash points, and the care of
//! loops and processes, our own and our children.

pub mod broker;
pub mod child;
pub mod config;
pub mod crash;
pub mod domain;
pub mod loops;
pub mod process;
pub mod signals;
pub mod store;
pub mod telemetry;
