//! `crawlify doctor`: looks at everything that Crawlify needs, all at once, and says how to repair what is amiss.
//!
//! It changes nothing, and starts nothing but programs that print their version. Below are the checks in the order
//! of their lines; what a finding means is decided in `verdict`.

mod browser;
mod verdict;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crawlify_shared::config::SecretUrl;
use tokio::net::{TcpListener, TcpStream};

use crate::private_postgres;
pub use verdict::{Check, Level};

/// What to look at besides the machine.
#[derive(Clone, Debug)]
pub struct Options {
    /// The database to be used instead of a private one.
    pub database_url: Option<SecretUrl>,
    /// The RabbitMQ to be used instead of the broker in the process.
    pub amqp_url: Option<SecretUrl>,
    /// Where `crawlify up` keeps its data; without it, the usual place.
    pub data_dir: Option<PathBuf>,
    /// How the private Postgres would be started.
    pub postgres: private_postgres::Options,
    /// The port of the coordinator.
    pub port: u16,
}

/// What the doctor found.
#[derive(Clone, Debug)]
pub struct Report {
    /// One for each line.
    pub checks: Vec<Check>,
}

const PATIENCE: Duration = Duration::from_secs(5);

/// Makes every check.
pub async fn run(options: &Options) -> Report {
    let data_dir = options.data_dir.clone().or_else(private_postgres::default_data_dir);
    let mut checks = vec![browser::chrome().await, browser::sandbox().await, shared_memory()];
    match &options.database_url {
        Some(url) => checks.push(database(url).await),
        None => checks.push(postgres_programs(&options.postgres).await),
    }
    if let Some(url) = &options.amqp_url {
        checks.push(rabbitmq(url).await);
    }
    checks.push(port(options.port).await);
    checks.push(verdict::open_files(rustix::process::getrlimit(rustix::process::Resource::Nofile).current));
    checks.push(disk("temporary files", &std::env::temp_dir()));
    if let Some(data_dir) = data_dir.filter(|_| options.database_url.is_none()) {
        checks.push(disk("data", &data_dir));
    }
    checks.push(verdict::clock(SystemTime::now()));
    Report { checks }
}

impl Report {
    /// Whether nothing failed; warnings are no failures.
    pub fn passed(&self) -> bool {
        self.checks.iter().all(|check| check.level != Level::Fail)
    }

    /// Writes a line for each check, and below it how to repair what is amiss.
    ///
    /// # Errors
    /// `out` cannot be written.
    pub fn print(&self, out: &mut impl Write) -> io::Result<()> {
        for check in &self.checks {
            writeln!(out, "{:<5} {:<16} {}", check.level.word(), check.what, check.finding)?;
            if let Some(fix) = &check.fix {
                for line in fix.lines() {
                    writeln!(out, "      {:<16} {line}", "")?;
                }
            }
        }
        Ok(())
    }
}

fn shared_memory() -> Check {
    let size = rustix::fs::statvfs("/dev/shm").ok().map(|stat| stat.f_blocks.saturating_mul(stat.f_frsize));
    verdict::shared_memory(size)
}

async fn postgres_programs(options: &private_postgres::Options) -> Check {
    match private_postgres::look(options).await {
        Ok(found) => Check::ok("Postgres", found),
        Err(error) => {
            let text = error.to_string();
            let (finding, fix) = text.split_once('\n').unwrap_or((&text, ""));
            Check::fail("Postgres", finding, fix)
        }
    }
}

/// Connects and leaves; whether the schema is right is what `crawlify migrate` is for.
async fn database(url: &SecretUrl) -> Check {
    verdict::database(url, knock(url).await)
}

/// Connects to a database and leaves. Answers its version, or why it cannot be reached.
pub(crate) async fn knock(url: &SecretUrl) -> Result<String, String> {
    let connect = async {
        let (_client, connection) =
            tokio_postgres::connect(url.expose(), tokio_postgres::NoTls).await.map_err(reason)?;
        Ok(connection.parameter("server_version").unwrap_or("of an unknown version").to_owned())
    };
    tokio::time::timeout(PATIENCE, connect).await.unwrap_or_else(|_| Err(no_answer()))
}

async fn rabbitmq(url: &SecretUrl) -> Check {
    let address = url::Url::parse(url.expose()).ok().and_then(|url| {
        let usual = if url.scheme() == "amqps" { 5671 } else { 5672 };
        Some((url.host_str()?.to_owned(), url.port().unwrap_or(usual)))
    });
    let connect = async {
        let (host, port) = address.ok_or_else(|| "this is not an amqp:// URL".to_owned())?;
        TcpStream::connect((host.trim_matches(['[', ']']), port)).await.map(drop).map_err(reason)
    };
    let answer = tokio::time::timeout(PATIENCE, connect).await;
    verdict::rabbitmq(url, answer.unwrap_or_else(|_| Err(no_answer())))
}

async fn port(port: u16) -> Check {
    verdict::port(port, TcpListener::bind(("127.0.0.1", port)).await.map(drop))
}

fn disk(what: &str, folder: &Path) -> Check {
    // The folder may not have been created yet.
    let stat = folder.ancestors().find_map(|folder| rustix::fs::statvfs(folder).ok());
    verdict::disk(what, folder, stat.map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize)))
}

fn no_answer() -> String {
    format!("no answer within {} s", PATIENCE.as_secs())
}

/// An error with what it was caused by.
fn reason(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options {
            database_url: None,
            amqp_url: None,
            data_dir: Some(std::env::temp_dir()),
            postgres: private_postgres::Options::default(),
            port: 0,
        }
    }

    #[tokio::test]
    async fn every_need_has_a_line() {
        let report = run(&options()).await;
        let whats: Vec<&str> = report.checks.iter().map(|check| check.what.as_str()).collect();
        let expected = [
            "Chrome",
            "sandbox",
            "/dev/shm",
            "Postgres",
            "port",
            "open files",
            "temporary files",
            "data",
            "clock",
        ];
        assert_eq!(whats, expected);
        let mut text = Vec::new();
        report.print(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.lines().count() >= expected.len(), "{text}");
        let postgres = report.checks.iter().find(|check| check.what == "Postgres").unwrap();
        assert_eq!(postgres.level, Level::Ok, "{text}");
    }

    #[tokio::test]
    async fn servers_that_are_named_are_tried() {
        // Nobody listens there, and nobody can: the port is ours.
        let held = tokio::net::TcpSocket::new_v4().unwrap();
        held.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let closed = held.local_addr().unwrap().port();
        let options = Options {
            database_url: Some(SecretUrl::new(format!("postgres://me:secret@127.0.0.1:{closed}/crawlify"))),
            amqp_url: Some(SecretUrl::new(format!("amqp://me:secret@127.0.0.1:{closed}/%2f"))),
            ..options()
        };
        let report = run(&options).await;
        assert!(!report.passed());
        for what in ["database", "RabbitMQ"] {
            let check = report.checks.iter().find(|check| check.what == what).unwrap();
            assert_eq!(check.level, Level::Fail);
            assert!(check.finding.contains("refused"), "{}", check.finding);
            assert!(!check.finding.contains("secret"), "{}", check.finding);
        }
    }

    #[tokio::test]
    async fn a_running_database_is_found_to_run() {
        let postgres =
            private_postgres::PrivatePostgres::start(&private_postgres::Options::default()).await.unwrap();
        let check = database(&postgres.url()).await;
        assert_eq!(check.level, Level::Ok, "{}", check.finding);
        assert!(check.finding.contains("Postgres 1"), "{}", check.finding);
        postgres.stop().await;
    }

    #[tokio::test]
    async fn a_port_in_use_is_a_warning() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let check = port(taken.local_addr().unwrap().port()).await;
        assert_eq!(check.level, Level::Warn);
    }
}
