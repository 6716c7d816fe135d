//! The keeper's own side: it starts servers on demand, and ends with its test run.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use crawlify_cli::private_postgres::PrivatePostgres;
use rustix::fs::FlockOperation;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::run::TestRun;
use crate::postgres;
use crate::rabbitmq::PrivateRabbitMq;

pub(super) const SOCKET: &str = "keeper.sock";
pub(super) const POSTGRES: &str = "postgres";
pub(super) const RABBITMQ: &str = "rabbitmq";
const LOCK: &str = "keeper.lock";
/// Where the parent is a shell, the run has no end of its own.
const IDLE_AFTER: Duration = Duration::from_secs(60);

/// The servers of a run. Each is started by the first test that asks, while the others wait for the lock.
#[derive(Debug, Default)]
struct Servers {
    postgres: Mutex<Option<PrivatePostgres>>,
    rabbitmq: Mutex<Option<PrivateRabbitMq>>,
    /// Tests that are connected.
    users: AtomicUsize,
}

/// Serves the test run that is named by the program's argument, until its end.
///
/// # Errors
/// The argument is no test run, or the socket cannot be had.
pub async fn serve(argument: &str) -> Result<()> {
    let run = TestRun::parse(argument).context("the argument is `PID-START` of a test run")?;
    let folder = run.create_folder()?;
    let lock = File::create(folder.join(LOCK))?;
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
        .context("there is a keeper already")?;
    TestRun::sweep();
    let socket = folder.join(SOCKET);
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket)?;
    let servers = Arc::new(Servers::default());
    let mut tests = JoinSet::new();
    let accept = async {
        loop {
            if let Ok((stream, _)) = listener.accept().await {
                let servers = Arc::clone(&servers);
                tests.spawn(async move {
                    servers.users.fetch_add(1, Ordering::Relaxed);
                    let _ = servers.attend(stream).await;
                    servers.users.fetch_sub(1, Ordering::Relaxed);
                });
                while tests.try_join_next().is_some() {}
            }
        }
    };
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        () = accept => {}
        () = end_of(run, &servers) => {}
        _ = terminate.recv() => {}
    }
    // A test that comes now starts another keeper.
    let _ = std::fs::remove_file(&socket);
    tests.shutdown().await;
    if let Some(rabbitmq) = servers.rabbitmq.lock().await.as_mut() {
        // Nothing of it is to be kept.
        rabbitmq.kill().await;
    }
    servers.rabbitmq.lock().await.take();
    if let Some(postgres) = servers.postgres.lock().await.take() {
        postgres.stop().await;
    }
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

/// Whether a keeper works in that folder.
pub(super) fn is_alive(folder: &Path) -> bool {
    File::open(folder.join(LOCK))
        .is_ok_and(|lock| rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err())
}

/// Waits until nobody needs the servers any more.
async fn end_of(run: TestRun, servers: &Servers) {
    let mut used = Instant::now();
    while run.is_alive() && used.elapsed() < IDLE_AFTER {
        if servers.users.load(Ordering::Relaxed) > 0 {
            used = Instant::now();
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

impl Servers {
    /// Answers one test's question, and stays until the test ends.
    async fn attend(&self, mut stream: UnixStream) -> Result<()> {
        let mut question = String::new();
        BufReader::new(&mut stream).read_line(&mut question).await?;
        let answer = match question.trim_end() {
            POSTGRES => self.postgres().await,
            RABBITMQ => self.rabbitmq().await,
            other => Err(anyhow::anyhow!("there is no server `{other}`")),
        };
        let answer = match answer {
            Ok(address) => format!("ok {address}\n"),
            Err(error) => format!("error {}\n", format!("{error:#}").replace('\n', " | ")),
        };
        stream.write_all(answer.as_bytes()).await?;
        // It sends nothing more: this ends when its process does.
        stream.read_u8().await?;
        Ok(())
    }

    async fn postgres(&self) -> Result<String> {
        let mut postgres = self.postgres.lock().await;
        if postgres.is_none() {
            *postgres = Some(postgres::start_with_template().await?);
        }
        Ok(postgres.as_ref().expect("just started").url().expose().to_owned())
    }

    async fn rabbitmq(&self) -> Result<String> {
        let mut rabbitmq = self.rabbitmq.lock().await;
        if rabbitmq.is_none() {
            *rabbitmq = Some(PrivateRabbitMq::start().await?);
        }
        Ok(serde_json::to_string(&rabbitmq.as_ref().expect("just started").access())?)
    }
}
