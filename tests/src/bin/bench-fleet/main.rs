//! Measures the control plane: dispatcher, RabbitMQ, worker spine, recorder and Postgres, with pages that no browser
//! executes. `make bench-fleet` runs every part; each prints its figures beside its target, and the program fails when
//! one is missed.
//!
//! Every process of the fleet is a process of its own, and so are its private Postgres, which keeps what it confirms,
//! and its RabbitMQ. All of it is on loopback addresses and ends with this program.

mod age;
mod cancel;
mod dispatch;
mod fairness;
mod fleet;
mod frontier;
mod politeness;
mod profile;
mod redelivery;
mod throughput;
mod verdict;

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};
use harness::role;

use verdict::Verdicts;

/// Measures the control plane on this machine.
#[derive(Debug, Parser)]
#[command(name = "bench-fleet")]
struct Args {
    #[command(subcommand)]
    part: Part,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Pages and node rows a second, of a fleet that does nothing but crawl.
    Throughput(throughput::Options),
    /// A dispatcher's step with few and with very many pages waiting.
    Dispatch(dispatch::Options),
    /// What the first and what the last pages of a very long execution cost.
    Age(age::Options),
    /// Ten workers, three executions and twenty hosts with one pace.
    Politeness(politeness::Options),
    /// A small execution beside a large one.
    Fairness(fairness::Options),
    /// Cancelling an execution with very many pages waiting.
    Cancel(cancel::Options),
    /// Every message delivered twice.
    Redelivery(redelivery::Options),
    /// A process of the fleet.
    #[command(hide = true)]
    Role(role::Options),
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let mut verdicts = Verdicts::default();
    match Args::parse().part {
        Part::Throughput(options) => throughput::measure(&options, &mut verdicts).await?,
        Part::Dispatch(options) => dispatch::measure(&options, &mut verdicts).await?,
        Part::Age(options) => age::measure(&options, &mut verdicts).await?,
        Part::Politeness(options) => politeness::measure(&options, &mut verdicts).await?,
        Part::Fairness(options) => fairness::measure(&options, &mut verdicts).await?,
        Part::Cancel(options) => cancel::measure(&options, &mut verdicts).await?,
        Part::Redelivery(options) => redelivery::measure(&options, &mut verdicts).await?,
        Part::Role(options) => return role::run(options).await,
    }
    write!(std::io::stdout(), "{verdicts}")?;
    ensure!(verdicts.all_met(), "a target was missed");
    Ok(ExitCode::SUCCESS)
}
