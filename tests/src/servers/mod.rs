//! The servers that the tests of one run share.
//!
//! cargo-nextest gives each test a process of its own, and starting RabbitMQ takes ten seconds. So the first test that
//! needs a server starts the *keeper* (`keeper`, run by the program `harness-servers`), which owns the servers of this
//! test run and is reached by a socket in the temporary folder. It starts each server when it is first asked for it,
//! and ends, with everything that it started, when the test run's process (nextest or cargo) is gone or when no test
//! has used it for a while.

pub mod keeper;
mod run;

use std::future::Future;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use crawlify_shared::config::SecretUrl;
use rustix::fs::FlockOperation;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::OnceCell;

use self::run::TestRun;
use crate::rabbitmq::Access;

const KEEPER: &str = "harness-servers";
/// Postgres starts in seconds and RabbitMQ in ten, but the machine may be busy with the tests themselves.
const SERVER_WITHIN: Duration = Duration::from_secs(180);

/// The shared Postgres.
pub(crate) async fn postgres() -> SecretUrl {
    static POSTGRES: OnceCell<SecretUrl> = OnceCell::const_new();
    let url = async || ask(keeper::POSTGRES).await.map(SecretUrl::new);
    POSTGRES
        .get_or_init(async || url().await.unwrap_or_else(|error| panic!("no Postgres: {error:#}")))
        .await
        .clone()
}

/// The shared RabbitMQ.
pub(crate) async fn rabbitmq() -> Access {
    static RABBITMQ: OnceCell<Access> = OnceCell::const_new();
    let access = async || Ok::<Access, anyhow::Error>(serde_json::from_str(&ask(keeper::RABBITMQ).await?)?);
    *RABBITMQ
        .get_or_init(async || access().await.unwrap_or_else(|error| panic!("no RabbitMQ: {error:#}")))
        .await
}

/// Runs a test's last wishes to their end, from a `drop`.
pub(crate) fn clean_up(wishes: impl Future<Output = ()> + Send + 'static) {
    // `drop` may be in a runtime, which cannot be entered twice by one thread.
    let thread = std::thread::spawn(|| {
        if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() {
            let _ = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(10), wishes).await });
        }
    });
    let _ = thread.join();
}

/// Asks the keeper for a server's address, and starts the keeper if need be.
async fn ask(server: &str) -> Result<String> {
    let question = async {
        let mut stream = connect_to_keeper().await?;
        stream.write_all(format!("{server}\n").as_bytes()).await?;
        let mut answer = String::new();
        BufReader::new(&mut stream).read_line(&mut answer).await?;
        // The connection tells the keeper that we still need it; it ends with this process.
        std::mem::forget(stream.into_std()?);
        match answer.trim_end().split_once(' ') {
            Some(("ok", address)) => Ok(address.to_owned()),
            Some(("error", reason)) => Err(anyhow!(reason.to_owned())),
            _ => bail!("the keeper of the test servers went away; see its log in the temporary folder"),
        }
    };
    tokio::time::timeout(SERVER_WITHIN, question).await.context("the server did not start in time")?
}

async fn connect_to_keeper() -> Result<UnixStream> {
    let run = TestRun::ours()?;
    let folder = run.create_folder()?;
    let socket = folder.join(keeper::SOCKET);
    if let Ok(stream) = UnixStream::connect(&socket).await {
        return Ok(stream);
    }
    // Only one of the tests that start together starts the keeper.
    let lock = std::fs::File::create(folder.join("start.lock"))?;
    let lock = tokio::task::spawn_blocking(move || {
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).map(|()| lock)
    })
    .await??;
    let started = std::time::Instant::now();
    let mut tried = false;
    let stream = loop {
        match UnixStream::connect(&socket).await {
            Ok(stream) => break stream,
            Err(_) if !tried => {
                start_keeper(&run, &folder)?;
                tried = true;
            }
            Err(_) if started.elapsed() < Duration::from_secs(20) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => return Err(error).context("the keeper of the test servers did not start"),
        }
    };
    drop(lock);
    Ok(stream)
}

fn start_keeper(run: &TestRun, folder: &Path) -> Result<()> {
    let program = keeper_program()?;
    let log = std::fs::File::create(folder.join("keeper.log"))?;
    let mut command = Command::new(&program);
    command.arg(run.to_argument()).current_dir(folder);
    // Nothing of a test's must stay open in it, and it must not end with the test's process group.
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
    command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
    Ok(())
}

/// The keeper's program lies beside the folder of the test binaries, where cargo put both.
fn keeper_program() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let folders = test.ancestors().skip(1).take(3);
    folders.map(|folder| folder.join(KEEPER)).find(|program| program.is_file()).with_context(|| {
        format!("no `{KEEPER}` beside {}: build it (cargo build -p crawlify-tests --bins)", test.display())
    })
}
