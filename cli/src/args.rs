//! The command line's grammar.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use crawlify_coordinator::keys::{KeyArgs, Scope};
use crawlify_shared::config::{AMQP_URL, DATABASE_URL, SecretUrl};
use crawlify_shared::domain::page_url::may_hold_credentials;
use crawlify_shared::domain::workflow::Render;
use crawlify_worker::egress::EgressArgs;
use crawlify_worker::machine::Slots;
use url::Url;

/// Crawls described as JSON workflows, executed node by node in headless Chrome.
#[derive(Debug, Parser)]
#[command(name = "crawlify", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Say more: -v logs what happens, -vv every step, -vvv whatever there is to tell.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Log one JSON object a line.
    #[arg(long, global = true)]
    pub log_json: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run one workflow file to its end, with everything it needs in this one process.
    Run(RunArgs),
    /// Crawl the built-in shop with the built-in workflow; works offline.
    Demo(DemoArgs),
    /// Serve the built-in shop, or a folder of files, on 127.0.0.1.
    DemoSite(DemoSiteArgs),
    /// Run the whole system in this one process until Ctrl-C.
    Up(UpArgs),
    /// Run a coordinator: REST API, dispatcher, finisher, rescuer.
    Coordinator(crawlify_coordinator::role::Args),
    /// Run a worker: pulls pages and executes them in Chrome.
    Worker(crawlify_worker::role::Args),
    /// Bring the database's schema up to date.
    Migrate(MigrateArgs),
    /// Check workflow files: all problems of each, with their places.
    Validate(ValidateArgs),
    /// Show how a workflow file will be executed: its limits, nodes, and calls into each page.
    Explain(ExplainArgs),
    /// Check what this machine has and lacks.
    Doctor(DoctorArgs),
    /// Make keys for the REST API.
    #[command(subcommand)]
    Keys(KeysCommand),
}

/// What is done about keys. They are listed and revoked where the coordinator reads them.
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Make a key: it goes to stdout and is kept nowhere; what the coordinator needs of it goes to stderr.
    Create {
        /// What the key is good for: `read` for dashboards and scrapers, `admin` for everything.
        #[arg(long)]
        scope: Scope,
    },
}

/// Where the database and the broker are. Without them the process brings its own.
#[derive(Clone, Debug, Default, Args)]
pub struct Servers {
    /// Use this Postgres instead of a private one.
    #[arg(long, env = DATABASE_URL, hide_env_values = true, value_name = "URL")]
    pub database_url: Option<SecretUrl>,
    /// Use this RabbitMQ instead of the broker inside the process.
    #[arg(long, env = AMQP_URL, hide_env_values = true, value_name = "URL")]
    pub amqp_url: Option<SecretUrl>,
}

/// The arguments of `run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// The workflow: JSON or YAML.
    pub file: PathBuf,
    /// Start here instead of at the file's start URLs; may be given several times.
    #[arg(long = "start-url", value_name = "URL", value_parser = start_url)]
    pub start_urls: Vec<String>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "the flattened arguments have their own")]
    pub crawl: CrawlArgs,
}

/// What `run` and `demo` have in common.
#[derive(Clone, Debug, Args)]
pub struct CrawlArgs {
    /// Write the items here, one JSON object a line.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Crawl at most this many pages.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub max_pages: Option<u64>,
    /// Follow links at most this deep.
    #[arg(long, value_name = "N")]
    pub max_depth: Option<u32>,
    /// Least time between two pages of one host, in milliseconds.
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32).range(..=3_600_000))]
    pub rate_limit_delay: Option<u32>,
    /// How pages are loaded, whatever the file says for its phases.
    #[arg(long, value_name = "MODE", value_parser = Render::ALL.map(Render::as_str))]
    pub render: Option<String>,
    /// Load none of this with pages, instead of what the file blocks: image, stylesheet, font, media, script, or a
    /// pattern of URLs such as *.example.com/*; separated by commas, or given several times.
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    pub block: Vec<String>,
    /// Pages executed at once; `auto` is as many as there are cores, or as there is memory for.
    #[arg(long, value_name = "N", default_value_t)]
    pub slots: Slots,
    #[command(flatten)]
    #[allow(missing_docs, reason = "the flattened arguments have their own")]
    pub servers: Servers,
    #[command(flatten)]
    #[allow(missing_docs, reason = "the flattened arguments have their own")]
    pub egress: EgressArgs,
    /// Keep the private database, and say how to look into it.
    #[arg(long)]
    pub keep: bool,
    /// Keep it here instead of in the user's data folder.
    #[arg(long, value_name = "DIR", requires = "keep")]
    pub data_dir: Option<PathBuf>,
}

/// The arguments of `demo`.
#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "the flattened arguments have their own")]
    pub crawl: CrawlArgs,
}

/// The arguments of `demo-site`.
#[derive(Clone, Debug, Args)]
pub struct DemoSiteArgs {
    /// The port on 127.0.0.1; 0 takes any free one.
    #[arg(long, default_value_t = 8090)]
    pub port: u16,
    /// Serve this folder instead of the built-in shop.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// The arguments of `up`.
#[derive(Clone, Debug, Args)]
pub struct UpArgs {
    /// The port of the REST API on 127.0.0.1; a taken one is replaced by the next free one. 0 takes any free one.
    #[arg(long, default_value_t = 8080)]
    pub port: u16,
    /// Keep the private database here; by default in the user's data folder.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Keep nothing: the private database is removed at the end.
    #[arg(long, conflicts_with = "data_dir")]
    pub ephemeral: bool,
    /// Pages executed at once; `auto` is as many as there are cores, or as there is memory for.
    #[arg(long, value_name = "N", default_value_t)]
    pub slots: Slots,
    #[command(flatten)]
    #[allow(missing_docs, reason = "the flattened arguments have their own")]
    pub servers: Servers,
    #[command(flatten)]
    #[allow(missing_docs, reason = "the flattened arguments have their own")]
    pub egress: EgressArgs,
    #[command(flatten)]
    #[allow(missing_docs, reason = "the flattened arguments have their own")]
    pub keys: KeyArgs,
}

/// The arguments of `migrate`.
#[derive(Clone, Debug, Args)]
pub struct MigrateArgs {
    /// The Postgres to migrate.
    #[arg(long, env = DATABASE_URL, hide_env_values = true, value_name = "URL")]
    pub database_url: SecretUrl,
}

/// The arguments of `validate`.
#[derive(Clone, Debug, Args)]
pub struct ValidateArgs {
    /// Workflow files: JSON or YAML.
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
}

/// The arguments of `explain`.
#[derive(Clone, Debug, Args)]
pub struct ExplainArgs {
    /// The workflow: JSON or YAML.
    pub file: PathBuf,
    /// Print the plan as JSON.
    #[arg(long)]
    pub json: bool,
}

/// The arguments of `doctor`.
#[derive(Clone, Debug, Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    #[allow(missing_docs, reason = "the flattened arguments have their own")]
    pub servers: Servers,
}

/// Reads `--start-url`. A URL that may carry a password is left to the reader of workflows: clap repeats what it refuses.
fn start_url(text: &str) -> Result<String, url::ParseError> {
    if may_hold_credentials(text) { Ok(text.to_owned()) } else { Url::parse(text).map(String::from) }
}
