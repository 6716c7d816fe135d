//! `crawlify-coordinator`: the coordinator alone, for images.

use std::process::ExitCode;

use clap::Parser;
use crawlify_coordinator::role::{self, Args};
use crawlify_shared::signals::until_stopped;
use crawlify_shared::telemetry::{LogFormat, init_logging};
use tokio_util::sync::CancellationToken;

#[derive(Debug, Parser)]
#[command(name = "crawlify-coordinator", version)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

#[tokio::main]
async fn main() -> ExitCode {
    init_logging("info,sqlx=warn,lapin=off", LogFormat::Json);
    let stop = CancellationToken::new();
    let hurry = CancellationToken::new();
    match until_stopped(stop.clone(), hurry, role::run(Cli::parse().args, stop)).await {
        Ok(Some(Ok(()))) => ExitCode::SUCCESS,
        Ok(Some(Err(error))) => {
            tracing::error!(error = format!("{error:#}"), "the coordinator ends");
            ExitCode::from(78)
        }
        Ok(None) | Err(_) => ExitCode::from(130),
    }
}
