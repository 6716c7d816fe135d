//! `crawlify`: reads the command line, runs the command, says how it ended.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use crawlify_cli::args::Cli;
use crawlify_cli::commands;
use crawlify_cli::exit::{Code, Failure};
use crawlify_shared::process;

fn main() -> ExitCode {
    let ran = process::run(commands::run(Cli::parse()));
    let code = match ran.unwrap_or_else(|error| Err(Failure::of(Code::Configuration, &error))) {
        Ok(code) => code,
        Err(failure) => {
            // Nobody is left to tell when stderr is closed.
            let _ = writeln!(std::io::stderr(), "{failure}");
            failure.code
        }
    };
    ExitCode::from(code)
}
