//! Measures whether a worker that goes on living grows: `crawlify up` with a real Chrome crawls the built-in shop in waves,
//! and after each wave it is looked at what it and its browser hold. `make soak` runs it; it prints a table, and fails
//! when something grows from wave to wave, or stays behind at the end.
//!
//! The system under test is a process of its own, with its temporary files in a folder of its own; this one serves the
//! shop, asks for the crawls over REST, and watches. Everything is private and on the loopback address.

mod readings;
mod system;
mod verdict;

use std::io::Write;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Parser;
use crawlify_cli::demo_site::{Content, DemoSite};
use harness::bench::machine::Machine;

use readings::Reading;
use system::SystemUnderTest;
use verdict::Verdict;

/// Crawls in waves, and looks what grows.
#[derive(Debug, Parser)]
#[command(name = "bench-soak")]
struct Args {
    /// How many waves.
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u16).range(4..=1000))]
    waves: u16,
    /// Pages of each wave.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    pages: u64,
    /// The first waves warm up: growth is measured over the others.
    #[arg(long, value_name = "N", default_value_t = 2)]
    warm_up: u16,
    /// The pause after a wave before it is looked, so that what ends with it has ended.
    #[arg(long, value_name = "SECONDS", default_value_t = 15)]
    rest: u64,
    /// Pages executed at once.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    slots: u16,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(args.waves >= args.warm_up + 2, "growth needs at least two waves after those that warm up");
    let site = DemoSite::start(0, Content::Shop).await?;
    let system = SystemUnderTest::start(args.slots).await?;
    let mut readings = vec![Reading::take(system.pid(), system.profiles())];
    for wave in 1..=args.waves {
        let took = system.crawl(&site.url(), args.pages).await?;
        tokio::time::sleep(Duration::from_secs(args.rest)).await;
        let reading = Reading::take(system.pid(), system.profiles());
        writeln!(std::io::stderr(), "wave {wave} of {}: {:.1} s, {reading}", args.waves, took.as_secs_f64())?;
        readings.push(reading);
    }
    let left = system.stop().await?;
    site.stop().await;
    let verdict = Verdict::of(&readings, args.warm_up.into(), left);
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{}\n\n{verdict}", Machine::look())?;
    ensure!(verdict.is_good(), "something grows, or stays behind");
    Ok(())
}
