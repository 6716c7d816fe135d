//! `crawlify up`: the whole system in one process until Ctrl-C, or until it cannot go on. What was running goes on
//! at the next start.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;

use crawlify_coordinator::Listen;
use crawlify_coordinator::keys::ApiKeys;
use crawlify_shared::signals::{HURRIED, StopSignals};

use crate::args::UpArgs;
use crate::crawl::describe;
use crate::egress::open_egress;
use crate::exit::{Code, Failure};
use crate::stopping::DRAIN_DEADLINE;
use crate::system::{Foundation, System, default_data_dir};

/// How many ports after a taken one are tried.
const PORTS_TRIED: u16 = 20;

/// Runs the command.
pub(crate) async fn run(args: &UpArgs) -> Result<Code, Failure> {
    let cannot = |error: std::io::Error| Failure::new(Code::Configuration, error.to_string());
    let mut signals = StopSignals::listen().map_err(cannot)?;
    let data_dir = match (&args.data_dir, args.ephemeral || args.servers.database_url.is_some()) {
        (Some(folder), _) => Some(folder.clone()),
        (None, true) => None,
        (None, false) => Some(default_data_dir()?),
    };
    let keys = args.keys.read().map_err(|error| Failure::of(Code::Configuration, &error))?;
    let egress = open_egress(&args.egress, Vec::new())?;
    let foundation = tokio::select! {
        laid = Foundation::lay(&args.servers, data_dir, args.slots, egress) => laid?,
        () = signals.next() => return Ok(Code::Interrupted),
    };
    let system = start(foundation, args.port, &keys).await?;
    let mut stderr = std::io::stderr();
    announce(&system, args.port, &keys, &mut stderr).map_err(cannot)?;
    tokio::select! {
        () = signals.next() => {
            let patience = DRAIN_DEADLINE.as_secs();
            let _ = writeln!(
                stderr,
                "stopping: pages in hand may end, at most {patience} s; Ctrl-C again stops at once"
            );
        }
        // What is wrong is said at the end.
        _ = system.broken() => {}
    }
    let hurry = system.hurry.clone();
    let mut stopped = pin!(system.stop());
    tokio::select! {
        stopped = &mut stopped => return stopped.map(|()| Code::Ok),
        () = signals.next() => hurry.cancel(),
    }
    // What has not ended by then dies with its owner.
    let _ = tokio::time::timeout(HURRIED, stopped).await;
    Ok(Code::Interrupted)
}

/// Starts on the wanted port, or on the next free one.
async fn start(mut foundation: Foundation, port: u16, keys: &ApiKeys) -> Result<System, Failure> {
    let tries = if port == 0 { 0 } else { PORTS_TRIED };
    let mut failure = None;
    for port in port..=port.saturating_add(tries) {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        match foundation.run(Some(Listen { address, keys: keys.clone() }), None).await {
            Ok(system) => return Ok(system),
            Err((unharmed, next)) => {
                foundation = unharmed;
                failure.get_or_insert(next);
            }
        }
    }
    foundation.clear().await;
    Err(failure.unwrap_or_else(|| Failure::new(Code::Configuration, "no port is free")))
}

fn announce(system: &System, wanted_port: u16, keys: &ApiKeys, to: &mut impl Write) -> std::io::Result<()> {
    writeln!(to, "Crawlify {}", env!("CARGO_PKG_VERSION"))?;
    for part in describe(&system.foundation) {
        writeln!(to, "{part}")?;
    }
    if let Some(address) = system.coordinator.address {
        if wanted_port != 0 && address.port() != wanted_port {
            writeln!(to, "port {wanted_port} is taken; using {}", address.port())?;
        }
        let asked = if keys.is_empty() { "" } else { " · asks for a key" };
        writeln!(to, "REST API  http://{address}/api/v1{asked}")?;
        writeln!(to, "API docs  http://{address}/api/v1/openapi.json · metrics http://{address}/metrics")?;
    }
    if let Some(postgres) = &system.foundation.postgres {
        writeln!(to, "database  psql \"{}\"", postgres.url())?;
    }
    writeln!(to, "pages are kept from private addresses; --egress-allow HOST:PORT makes an exception")?;
    writeln!(to, "Try: crawlify demo · Ctrl-C to stop")
}
