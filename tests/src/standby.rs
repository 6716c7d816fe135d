//! A second Postgres that follows a first one, as where a database is kept available: it can be cut off, so that it misses
//! what is written from then on, and it can take over.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crawlify_cli::private_postgres::{Options, PrivatePostgres};
use crawlify_shared::child::{Account, ChildProcess, is_root};
use crawlify_shared::config::SecretUrl;
use rustix::process::Signal;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection};
use tempfile::TempDir;

use crate::wait::wait_for;

const WITHIN: Duration = Duration::from_secs(60);

/// A standby server of a private Postgres.
#[derive(Debug)]
pub struct Standby {
    server: PrivatePostgres,
    /// Removed after the server has gone.
    _folder: TempDir,
}

impl Standby {
    /// Copies a server while it works, and has the copy follow it.
    ///
    /// # Errors
    /// It cannot be copied, or the copy does not start.
    pub async fn of(primary: &PrivatePostgres) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("crawlify-standby-").tempdir_in("/tmp")?;
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711))?;
        // As a private Postgres has it: `pg/VERSION/data`.
        let cluster = folder.path().join("pg/copy");
        std::fs::create_dir_all(&cluster)?;
        let account = is_root().then(|| Account::first_of(&["postgres", "nobody"])).flatten();
        if let Some(account) = &account {
            for folder in [folder.path().join("pg"), cluster.clone()] {
                chown(folder, Some(account.uid), Some(account.gid))?;
            }
        }
        copy(primary, &cluster.join("data"), account.as_ref()).await?;
        let options = Options { data_dir: Some(folder.path().to_owned()), ..Options::default() };
        let server = PrivatePostgres::start(&options).await.context("the standby does not start")?;
        Ok(Self { server, _folder: folder })
    }

    /// Its address.
    pub fn url(&self) -> SecretUrl {
        self.server.url()
    }

    /// Waits until it has all that the primary has committed by now.
    ///
    /// # Errors
    /// One of them does not answer.
    pub async fn catch_up(&self, primary: &PrivatePostgres) -> Result<()> {
        let committed = "SELECT pg_current_wal_flush_lsn()::text";
        let committed: String = sqlx::query_scalar(committed).fetch_one(&mut connect(primary).await?).await?;
        let mut connection = connect(&self.server).await?;
        let has_it = "SELECT pg_last_wal_replay_lsn() >= $1::pg_lsn";
        wait_for("the standby has what was committed", WITHIN, async || {
            sqlx::query_scalar::<_, bool>(has_it)
                .bind(&committed)
                .fetch_one(&mut connection)
                .await
                .is_ok_and(|has| has)
        })
        .await;
        Ok(())
    }

    /// Has it follow no longer.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn cut_off(&self) -> Result<()> {
        let mut connection = connect(&self.server).await?;
        sqlx::query("ALTER SYSTEM SET primary_conninfo = ''").execute(&mut connection).await?;
        sqlx::query("SELECT pg_reload_conf()").execute(&mut connection).await?;
        let receives = "SELECT count(*) FROM pg_stat_wal_receiver";
        wait_for("the standby is cut off", WITHIN, async || {
            sqlx::query_scalar::<_, i64>(receives)
                .fetch_one(&mut connection)
                .await
                .is_ok_and(|count| count == 0)
        })
        .await;
        Ok(())
    }

    /// Has it take over: it takes writes from now on.
    ///
    /// # Errors
    /// It does not.
    pub async fn take_over(&self) -> Result<()> {
        let promoted: bool =
            sqlx::query_scalar("SELECT pg_promote()").fetch_one(&mut connect(&self.server).await?).await?;
        ensure!(promoted, "the standby did not take over");
        Ok(())
    }
}

async fn connect(server: &PrivatePostgres) -> Result<PgConnection> {
    Ok(PgConnectOptions::from_str(server.url().expose())?.connect().await?)
}

async fn copy(primary: &PrivatePostgres, data: &Path, account: Option<&Account>) -> Result<()> {
    let url = primary.url();
    let options = PgConnectOptions::from_str(url.expose())?;
    let socket = options.get_socket().context("a private Postgres is reached by a socket")?;
    let mut command = Command::new(primary.programs().join("pg_basebackup"));
    command.arg("--host").arg(socket).args(["--port", "5432", "--username", options.get_username()]);
    command.arg("--pgdata").arg(data).args(["--write-recovery-conf", "--checkpoint", "fast", "--no-sync"]);
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null());
    let copying =
        ChildProcess::spawn(command, account, Signal::KILL).context("cannot start pg_basebackup")?;
    let status = tokio::time::timeout(WITHIN, copying.exited()).await.context("pg_basebackup hangs")?;
    ensure!(status.success(), "pg_basebackup failed: {status}");
    Ok(())
}
