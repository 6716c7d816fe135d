//! `crawlify-worker`: the worker alone, for images.

use std::process::ExitCode;

use clap::Parser;
use crawlify_shared::process;
use crawlify_shared::signals::until_stopped;
use crawlify_shared::telemetry::{LogFormat, init_logging};
use crawlify_worker::role::{self, Args};
use tokio_util::sync::CancellationToken;

#[derive(Debug, Parser)]
#[command(name = "crawlify-worker", version)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

fn main() -> ExitCode {
    init_logging("info,sqlx=warn,lapin=off", LogFormat::Json);
    let (stop, hurry) = (CancellationToken::new(), CancellationToken::new());
    let run = role::run(Cli::parse().args, stop.clone(), hurry.clone());
    match process::run(until_stopped(stop, hurry, run)).flatten() {
        Ok(Some(Ok(()))) => ExitCode::SUCCESS,
        Ok(Some(Err(error))) => {
            tracing::error!(error = format!("{error:#}"), "the worker ends");
            process::exit_code(error.as_ref()).into()
        }
        Ok(None) | Err(_) => ExitCode::from(130),
    }
}
