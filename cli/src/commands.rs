//! From a parsed command line to the command.

use std::io::Write;
use std::path::Path;

use crawlify_shared::broker::BrokerError;
use crawlify_shared::domain::workflow::parse_text;
use crawlify_shared::loops::BrokenLoop;
use crawlify_shared::signals::until_stopped;
use crawlify_shared::store::StoreError;
use crawlify_shared::telemetry::{LogFormat, init_logging};
use tokio_util::sync::CancellationToken;

use crate::args::{Cli, Command, DoctorArgs, KeysCommand, MigrateArgs, ValidateArgs};
use crate::exit::{Code, Failure, chain};
use crate::run::read;
use crate::system::open_store;
use crate::validate::report;
use crate::{demo, doctor, explain, keys, run, site, up};

/// With `-vvv`: everything, of our own crates.
const TRACE: &str =
    ",crawlify_cli=trace,crawlify_coordinator=trace,crawlify_shared=trace,crawlify_worker=trace";

/// Runs the command. Data go to stdout, everything else to stderr.
///
/// # Errors
/// Whatever kept the command from ending well, with its exit code.
pub async fn run(cli: Cli) -> Result<Code, Failure> {
    let quiet = match &cli.command {
        Command::Coordinator(_) | Command::Worker(_) => "info",
        Command::Up(_) => "warn",
        // A log line would tear the progress display; what matters is in the summary.
        _ => "error",
    };
    let level = match cli.verbose {
        0 => quiet,
        1 => "info",
        _ => "debug",
    };
    let format = if cli.log_json { LogFormat::Json } else { LogFormat::Text };
    // What libraries trace are bytes on the wire, passwords included.
    let ours = if cli.verbose < 3 { "" } else { TRACE };
    init_logging(&format!("{level},sqlx=warn,lapin=off,tokio_postgres=warn{ours}"), format);
    match cli.command {
        Command::Run(args) => show(run::run(&args).await?),
        Command::Demo(args) => show(demo::run(&args).await?),
        Command::DemoSite(args) => site::run(&args).await,
        Command::Up(args) => up::run(&args).await,
        Command::Coordinator(args) => role(|stop, _| crawlify_coordinator::role::run(args, stop)).await,
        Command::Worker(args) => role(|stop, hurry| crawlify_worker::role::run(args, stop, hurry)).await,
        Command::Migrate(args) => migrate(&args).await,
        Command::Validate(args) => validate(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Doctor(args) => examine(args).await,
        Command::Keys(KeysCommand::Create { scope }) => keys::create(scope),
    }
}

fn show((code, summary): (Code, String)) -> Result<Code, Failure> {
    let _ = writeln!(std::io::stderr(), "\n{summary}");
    Ok(code)
}

/// Runs a role until a signal; a second signal has it end at once.
async fn role<R: Future<Output = anyhow::Result<()>>>(
    role: impl FnOnce(CancellationToken, CancellationToken) -> R,
) -> Result<Code, Failure> {
    let (stop, hurry) = (CancellationToken::new(), CancellationToken::new());
    match until_stopped(stop.clone(), hurry.clone(), role(stop, hurry)).await {
        Ok(Some(Ok(()))) => Ok(Code::Ok),
        Ok(Some(Err(error))) => Err(Failure::new(role_code(&error), chain(error.as_ref()))),
        Ok(None) => Ok(Code::Interrupted),
        Err(error) => Err(Failure::of(Code::Configuration, &error)),
    }
}

/// Whether a server could not be reached, or we, or something here, are wrong.
fn role_code(error: &anyhow::Error) -> Code {
    if error.is::<BrokenLoop>() {
        return Code::Fault;
    }
    let unreachable = error.chain().any(|cause| {
        cause.downcast_ref().is_some_and(StoreError::is_transient)
            || matches!(cause.downcast_ref(), Some(BrokerError::Disconnected | BrokerError::Timeout(_)))
    });
    if unreachable { Code::Unreachable } else { Code::Configuration }
}

async fn migrate(args: &MigrateArgs) -> Result<Code, Failure> {
    let url = &args.database_url;
    open_store(url, 1).await?.close().await;
    let _ = writeln!(std::io::stderr(), "the schema at {url} is up to date");
    Ok(Code::Ok)
}

fn validate(args: &ValidateArgs) -> Result<Code, Failure> {
    let mut code = Code::Ok;
    for file in &args.files {
        let (text, problems) = check(file)?;
        if problems {
            code = Code::Usage;
        }
        let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
    }
    Ok(code)
}

/// What there is to say about a file, and whether it has problems.
fn check(file: &Path) -> Result<(String, bool), Failure> {
    let text = read(file)?;
    let name = file.display().to_string();
    Ok(match parse_text(&text) {
        Ok(definition) => (report(&name, &text, &[], &definition.workflow.warnings), false),
        Err(problems) => (report(&name, &text, &problems, &[]), true),
    })
}

async fn examine(args: DoctorArgs) -> Result<Code, Failure> {
    let options = doctor::Options {
        database_url: args.servers.database_url,
        amqp_url: args.servers.amqp_url,
        data_dir: None,
        postgres: crate::private_postgres::Options::default(),
        port: 8080,
    };
    let report = doctor::run(&options).await;
    let _ = report.print(&mut std::io::stdout());
    Ok(if report.passed() { Code::Ok } else { Code::Configuration })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_that_cannot_go_on_ends_as_a_fault_of_ours_and_not_of_its_settings() {
        let broken = BrokenLoop { name: "record", how: "panicked (no luck)".to_owned() };
        assert_eq!(role_code(&anyhow::Error::new(broken)), Code::Fault);
        assert_eq!(role_code(&anyhow::anyhow!("the port is taken")), Code::Configuration);
    }
}
