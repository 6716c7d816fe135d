//! The harness of the integration tests: private servers, one database and one virtual host for each test, and waiting
//! for conditions. Nothing of it runs in production, and nothing touches a server that it did not start.

pub mod answering_site;
pub mod bench;
pub mod chain_site;
pub mod crawl;
pub mod doubling;
pub mod fault_proxy;
pub mod fleet;
pub mod held_port;
pub mod hostile;
pub mod invariants;
pub mod own_network;
pub mod paced_site;
pub mod postgres;
mod privileged;
pub mod processes;
pub mod program;
pub mod rabbitmq;
pub mod role;
pub mod scratch;
pub mod servers;
pub mod small_disk;
pub mod standby;
pub mod storm;
pub mod synthetic;
pub mod trap_site;
pub mod wait;
