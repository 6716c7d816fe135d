//! `make chaos`: the storm (`harness::storm`) from the command line. Prints its seed first and one line of summary last; its
//! exit code is 1 when anything was lost, done twice or not ended, any other invariant is broken, a process ended by itself, the fleet
//! was not soon at work again after its faults, or did less than half of what it does in calm. A sentence says which.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clap::Parser;
use crawlify_cli::demo_site::WORKFLOW;
use harness::bench::machine::Machine;
use harness::storm::{Options, run};

/// How many broken invariants are printed.
const SHOWN: usize = 30;

/// Crawls while processes, browsers and servers are killed, and compares with a calm crawl.
#[derive(Debug, Parser)]
#[command(name = "chaos")]
struct Args {
    /// How long processes are killed.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// How many seconds after one fault the next one comes.
    #[arg(long, default_value_t = 5.0)]
    every: f64,
    /// What the order of the faults is made of; by default, the time.
    #[arg(long)]
    seed: Option<u64>,
    /// A folder to crawl instead of the built-in shop.
    #[arg(long, requires = "workflow")]
    site: Option<PathBuf>,
    /// The workflow for that site.
    #[arg(long, requires = "site")]
    workflow: Option<PathBuf>,
    /// Coordinator processes.
    #[arg(long, default_value_t = 2)]
    coordinators: usize,
    /// Worker processes.
    #[arg(long, default_value_t = 3)]
    workers: usize,
    /// Pages that each of them executes at once.
    #[arg(long, default_value_t = 2)]
    slots: usize,
    /// Executions at the same time.
    #[arg(long, default_value_t = 2)]
    at_once: usize,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let seed = args.seed.unwrap_or_else(now);
    let workflow = match &args.workflow {
        Some(file) => {
            std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?
        }
        None => WORKFLOW.to_owned(),
    };
    // The programs of a package are built side by side.
    let program = std::env::current_exe()?.with_file_name("crawlify-under-test");
    anyhow::ensure!(program.exists(), "{} is not built", program.display());
    let options = Options {
        program,
        storm: Duration::from_secs_f64(args.minutes * 60.0),
        every: Duration::from_secs_f64(args.every),
        seed,
        site: args.site,
        workflow: serde_json::from_str(&workflow)?,
        coordinators: args.coordinators,
        workers: args.workers,
        slots: args.slots,
        at_once: args.at_once,
    };
    let begun = std::time::Instant::now();
    let say = |line: &str| {
        let _ = writeln!(std::io::stderr(), "{:>6.1} s  {line}", begun.elapsed().as_secs_f64());
    };
    say(&format!("seed {seed}; {}", Machine::look()));
    let report = run(&options, &say).await?;
    for line in report.costs() {
        say(&line);
    }
    for violation in report.broken.iter().take(SHOWN) {
        say(&violation.to_string());
    }
    writeln!(std::io::stdout(), "{report}")?;
    let mut failures = report.failures();
    if !report.keeps_its_pace() {
        failures.push("less than half of the calm throughput is left".to_owned());
    }
    for failure in &failures {
        say(&format!("failed: {failure}"));
    }
    Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
