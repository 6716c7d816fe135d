//! `crawlify`: reads the command line, runs the command, says how it ended.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use crawlify_cli::args::Cli;
use crawlify_cli::commands;

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let code = match commands::run(cli).await {
        Ok(code) => code,
        Err(failure) => {
            // Nobody is left to tell when stderr is closed.
            let _ = writeln!(std::io::stderr(), "{failure}");
            failure.code
        }
    };
    ExitCode::from(code)
}
