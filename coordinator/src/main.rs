//! `crawlify-coordinator`: the coordinator alone, for images.

use std::process::ExitCode;

use clap::Parser;
use crawlify_coordinator::role::{self, Args};
use crawlify_shared::process;
use crawlify_shared::signals::until_stopped;
use crawlify_shared::telemetry::{LogFormat, init_logging};
use tokio_util::sync::CancellationToken;

#[derive(Debug, Parser)]
#[command(name = "crawlify-coordinator", version)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

fn main() -> ExitCode {
    init_logging("info,sqlx=warn,lapin=off", LogFormat::Json);
    let stop = CancellationToken::new();
    let hurry = CancellationToken::new();
    let run = role::run(Cli::parse().args, stop.clone());
    match process::run(until_stopped(stop, hurry, run)).flatten() {
        Ok(Some(Ok(()))) => ExitCode::SUCCESS,
        Ok(Some(Err(error))) => {
            tracing::error!(error = format!("{error:#}"), "the coordinator ends");
            process::exit_code(error.as_ref()).into()
        }
        Ok(None) | Err(_) => ExitCode::from(130),
    }
}
