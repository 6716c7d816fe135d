//! What happens to a fleet as a whole, where nothing of it is broken: clocks that are apart, workers that come and go, a
//! database whose standby takes over, servers that come late, a network that is away. Most pages cost nothing (`harness::synthetic`).

mod clocks;
mod disks;
mod failover;
mod late_servers;
mod network;
mod scaling;
mod told_to_stop;

use std::time::Duration;

const PAGES: u64 = 300;
/// How long anything may take on a busy machine.
const WITHIN: Duration = Duration::from_secs(120);
