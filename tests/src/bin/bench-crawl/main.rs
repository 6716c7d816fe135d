//! Measures a whole crawl: pages a second, what a page's time and processors go to, memory; and the same pages only
//! navigated to, for the ratio. `make bench` runs it; it prints a table, and can put it into a document.
//!
//! Each run is a process of its own (`crawl`, `bare`), and so is the site (`site`), so that the processors' time of
//! each can be told apart; this one only watches. Everything is private and on the loopback address.

mod bare;
mod crawl;
mod document;
mod job;
mod parts;
mod report;
mod site;
mod watch;

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Result, anyhow, ensure};
use clap::{Parser, ValueEnum};
use crawlify_shared::domain::workflow::{Definition, parse_document, parse_text};
use harness::bench::machine::Machine;
use harness::bench::shop_crawl::demo_workflow;
use serde_json::{Value, json};
use url::Url;

use job::{BareJob, CrawlJob, Job};
use report::{Report, Series};
use watch::{Site, run};

/// Measures whole crawls on this machine.
#[derive(Debug, Parser)]
#[command(name = "bench-crawl")]
struct Args {
    /// Crawl this folder instead of the demo shop.
    #[arg(long, value_name = "DIR", requires = "workflow")]
    site: Option<PathBuf>,
    /// The workflow to crawl with; its start URLs are looked for on the site. By default the demo shop's.
    #[arg(long, value_name = "FILE")]
    workflow: Option<PathBuf>,
    /// Pages executed at once, and tabs of the bare browser.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    slots: u16,
    /// How pages are loaded; each mode is a series of its own.
    #[arg(long, value_delimiter = ',', default_value = "full")]
    render: Vec<RenderMode>,
    /// What the crawls do not load (`image,stylesheet,font,media`, or patterns); the bare browser loads everything.
    #[arg(long, value_delimiter = ',', value_name = "KIND")]
    block: Vec<String>,
    /// At most this many pages.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pages: Option<u64>,
    /// Also only navigate to the same pages, with the same browser and as many tabs: no nodes, no Postgres.
    #[arg(long)]
    bare: bool,
    /// How often everything is measured; the order turns around from round to round.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// Print every figure of every round as JSON instead of the table.
    #[arg(long)]
    json: bool,
    /// Put the report between the marks `bench:begin` and `bench:end` of this document.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Criterion's folder: its newest figures go into the report.
    #[arg(long, value_name = "DIR")]
    parts: Option<PathBuf>,
    /// Do what standard input says.
    #[arg(long, hide = true)]
    child: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum RenderMode {
    Full,
    Static,
    Auto,
}

impl RenderMode {
    fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Static => "static",
            Self::Auto => "auto",
        }
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    if args.child {
        return job::work().await;
    }
    let report = measure(&args).await?;
    let mut stdout = std::io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut stdout, &report.for_machines())?;
        writeln!(stdout)?;
    } else {
        writeln!(stdout, "{}", report.for_people())?;
    }
    if let Some(file) = &args.write {
        document::put(file, &report.for_people())?;
        writeln!(std::io::stderr(), "written to {}", file.display())?;
    }
    Ok(())
}

async fn measure(args: &Args) -> Result<Report> {
    let definition = definition(args)?;
    let site = Site::start(args.site.clone()).await?;
    let mut report = Report::new(Machine::look(), settings(args, &definition));
    if let Some(folder) = &args.parts {
        report.parts = parts::read(folder)?;
    }
    let mut order: Vec<Series> = args.render.iter().map(|mode| Series::Crawl(mode.as_str())).collect();
    order.dedup();
    if args.bare {
        order.push(Series::Bare);
    }
    let first = Series::Crawl(args.render[0].as_str());
    // What the bare browser loads: the pages of the latest crawl of the first series.
    let mut urls = Vec::new();
    for round in 1..=args.rounds {
        for series in &order {
            let job = match series {
                Series::Crawl(mode) => Job::Crawl(crawl_job(args, &definition, site.url(), mode)?),
                Series::Bare => Job::Bare(bare_job(args, &definition, &urls)),
            };
            let measured = run(job, &site).await?;
            if *series == first {
                urls.clone_from(&measured.outcome.urls);
            }
            let rate = measured.outcome.pages_a_second();
            writeln!(
                std::io::stderr(),
                "round {round} of {}: {series}: {} pages, {rate:.1} pages/s",
                args.rounds,
                measured.outcome.pages
            )?;
            report.add(round, *series, measured);
        }
        // What warms up or wears out must not always come to the same series.
        order.reverse();
    }
    site.stop().await?;
    Ok(report)
}

fn definition(args: &Args) -> Result<Definition> {
    let Some(file) = &args.workflow else { return demo_workflow() };
    let text = std::fs::read_to_string(file).map_err(|error| anyhow!("{}: {error}", file.display()))?;
    parse_text(&text).map_err(|problems| problems_of(&problems))
}

/// The workflow as the command line wants it: its start URLs on the site, its pages loaded in this way.
fn crawl_job(args: &Args, definition: &Definition, site: &Url, render: &str) -> Result<CrawlJob> {
    let mut config = definition.config.clone();
    let start_urls = definition.workflow.start_urls.iter().map(|url| {
        let mut url = url.as_url().clone();
        let moved = url.set_scheme(site.scheme()).and_then(|()| url.set_port(site.port()));
        ensure!(moved.is_ok(), "{url} cannot be looked for on {site}");
        url.set_host(site.host_str())?;
        Ok(url.to_string())
    });
    config["start_urls"] = start_urls.collect::<Result<Vec<_>>>()?.into();
    config["render"] = render.into();
    if !args.block.is_empty() {
        config["block"] = args.block.clone().into();
    }
    if let Some(pages) = args.pages {
        config["max_pages"] = pages.into();
    }
    let document = json!({"name": definition.name, "description": definition.description, "config": config});
    parse_document(&document).map_err(|problems| problems_of(&problems))?;
    Ok(CrawlJob { document, slots: args.slots, render: render.to_owned() })
}

fn bare_job(args: &Args, definition: &Definition, urls: &[String]) -> BareJob {
    let workflow = &definition.workflow;
    BareJob {
        urls: urls.to_vec(),
        tabs: args.slots.into(),
        headers: workflow.headers.to_vec(),
        wait_until: workflow.wait_until.into(),
    }
}

/// The settings, for the report.
fn settings(args: &Args, definition: &Definition) -> Value {
    let site = match &args.site {
        Some(folder) => folder.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        None => "the demo shop".to_owned(),
    };
    let nodes: usize = definition.workflow.phases.iter().map(|phase| phase.nodes.len()).sum();
    json!({
        "site": site, "workflow": definition.name, "nodes": nodes, "slots": args.slots, "block": args.block,
        "rounds": args.rounds,
    })
}

fn problems_of(problems: &[crawlify_shared::domain::workflow::Problem]) -> anyhow::Error {
    let problems: Vec<_> =
        problems.iter().map(|problem| format!("{}: {}", problem.pointer, problem.message)).collect();
    anyhow!("the workflow cannot be crawled: {}", problems.join("; "))
}
