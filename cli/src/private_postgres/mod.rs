//! A Postgres of our own: found on the machine, started as our child, reached by a socket, stopped with us.
//!
//! It never touches another server, never listens on the network, never removes data that it was told to keep, and
//! never outlives this process. `start` is the whole story; the files beside this one are its steps.

mod binaries;
mod cluster;
mod end;
mod error;
mod folder;
mod leftover;
mod ready;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crawlify_shared::child::{self, Account, ChildProcess};
use crawlify_shared::config::SecretUrl;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustix::process::Signal;

use binaries::{Binaries, Found};
pub use error::StartError;
use folder::Folder;
pub use folder::default_data_dir;

/// How a private Postgres is to be started.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The folder of `initdb` and `postgres`; without it, the usual places are searched.
    pub bin: Option<PathBuf>,
    /// The folder that keeps the data; without it, they live in a temporary one, which is removed at the end.
    pub data_dir: Option<PathBuf>,
    /// The account to run under when we are root, whom Postgres refuses; without it, `postgres` or `nobody`.
    pub account: Option<String>,
}

/// How long a server may take to end where nobody says otherwise.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running private Postgres. Stop it with [`PrivatePostgres::stop`]; dropping it stops it at once.
#[derive(Debug)]
pub struct PrivatePostgres {
    binaries: Binaries,
    socket: PathBuf,
    /// `None` only after [`PrivatePostgres::stop`].
    server: Option<ChildProcess>,
    folder: Folder,
    /// Where the socket is when the path into `folder` would be too long for one.
    #[allow(dead_code, reason = "it is kept to be removed when this is dropped")]
    short_folder: Option<Folder>,
}

/// Looks whether a server could be started, and says which; starts nothing.
///
/// # Errors
/// There are no programs, or there is no account to run them.
pub async fn look(options: &Options) -> Result<String, StartError> {
    let account = choose_account(options.account.as_deref())?;
    let found = binaries::find(options.bin.as_deref(), account.as_ref()).await;
    let Some(newest) = found.usable.first() else { return Err(found.none()) };
    let whom = account.map(|account| format!(", as {}", account.name)).unwrap_or_default();
    Ok(format!("{} ({}){whom}", newest.version, newest.folder.display()))
}

impl PrivatePostgres {
    /// Starts a server with an empty or kept database `crawlify`, and returns when it accepts connections.
    ///
    /// # Errors
    /// See [`StartError`], which is ordered by what the user can do about it.
    pub async fn start(options: &Options) -> Result<Self, StartError> {
        let account = choose_account(options.account.as_deref())?;
        let account = account.as_ref();
        let found = binaries::find(options.bin.as_deref(), account).await;
        if found.usable.is_empty() {
            return Err(found.none());
        }
        sweep(account).await;
        let folder = match &options.data_dir {
            Some(path) => Folder::persistent(path, account)?,
            None => Folder::ephemeral(account)?,
        };
        let (data, binaries) = match folder.clusters().into_iter().next() {
            Some((data, major)) => (data.clone(), matching(found, major, data)?),
            None => {
                let newest = found.usable.into_iter().next().expect("checked above");
                cluster::create(&folder, &newest, account).await?;
                (folder.data(newest.major), newest)
            }
        };
        leftover::stop(&data).await?;
        let short_folder =
            folder.socket_path_is_too_long().then(|| Folder::ephemeral(account)).transpose()?;
        let socket = short_folder.as_ref().unwrap_or(&folder).socket_folder();
        let server = spawn(&binaries, &data, &socket, &folder, account)?;
        let postgres = Self { binaries, socket, server: Some(server), folder, short_folder };
        // From here on, an error drops `postgres`, which stops the server.
        let server = postgres.server.as_ref().expect("just started");
        ready::wait(server, &postgres.socket, &postgres.folder).await?;
        Ok(postgres)
    }

    /// The address of the database, for sqlx, tokio-postgres and psql alike.
    pub fn url(&self) -> SecretUrl {
        // The port is part of the socket's name, and must not come from the environment.
        let host = utf8_percent_encode(&self.socket.to_string_lossy(), HOST).to_string();
        SecretUrl::new(format!("postgres://{}@{host}:5432/{}", cluster::ROLE, ready::DATABASE))
    }

    /// One line for people: which Postgres this is, and where its data are.
    pub fn description(&self) -> String {
        format!("Postgres {} private ({})", self.binaries.version, self.folder.path().display())
    }

    /// The folder of its programs.
    pub fn programs(&self) -> &Path {
        &self.binaries.folder
    }

    /// The folder of everything that this server writes.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Stops the server and waits until it is gone; an ephemeral one leaves nothing.
    pub async fn stop(self) {
        self.stop_by(tokio::time::Instant::now() + PATIENCE).await;
    }

    /// The same, by a moment that is two seconds away at least, whatever the server does.
    pub async fn stop_by(mut self, deadline: tokio::time::Instant) {
        if let Some(server) = &self.server {
            end::by(deadline, server, !self.folder.is_ephemeral()).await;
        }
        // What even a kill did not end is not waited for once more.
        self.server = None;
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        // Immediate shutdown stops the server's own children too, which a kill would leave to notice by themselves.
        let Some(server) = self.server.take() else { return };
        server.signal(Signal::QUIT);
        let deadline = Instant::now() + Duration::from_secs(3);
        while server.exit_status().is_none() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        end::kill(&server);
    }
}

/// Everything but what may stand in a host name as it is.
const HOST: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');

/// Whom Postgres runs as: us, or somebody else if we are root.
fn choose_account(wanted: Option<&str>) -> Result<Option<Account>, StartError> {
    if !child::is_root() {
        return Ok(None);
    }
    let account = match wanted {
        Some(name) => Account::find(name).filter(|account| account.uid != 0),
        None => Account::first_of(&["postgres", "nobody"]),
    };
    let Some(account) = account else {
        let missing = wanted.map_or_else(
            || "there is neither `postgres` nor `nobody` here".to_owned(),
            |name| format!("`{name}` is none"),
        );
        return Err(StartError::Configuration(format!(
            "Postgres refuses to run as root, and needs an account without privileges: {missing}. \
             Create one (useradd --system postgres), or use a database that runs already: \
             --database-url URL"
        )));
    };
    if account.name == "nobody" && wanted.is_none() {
        tracing::info!("postgres runs as `nobody`, for want of an account `postgres`");
    }
    Ok(Some(account))
}

/// Removes what killed processes left in the folder for temporary files.
async fn sweep(account: Option<&Account>) {
    for folder in folder::abandoned(account) {
        for (data, _) in folder.clusters() {
            if let Err(error) = leftover::stop(&data).await {
                tracing::warn!(%error, "a server of a killed process stays behind");
            }
        }
    }
}

fn matching(found: Found, major: u32, data: PathBuf) -> Result<Binaries, StartError> {
    let mut available: Vec<u32> = found.usable.iter().map(|binaries| binaries.major).collect();
    available.sort_unstable();
    available.dedup();
    let matching = found.usable.into_iter().find(|binaries| binaries.major == major);
    matching.ok_or(StartError::VersionMismatch { data, found: major, available })
}

fn spawn(
    binaries: &Binaries,
    data: &Path,
    socket: &Path,
    folder: &Folder,
    account: Option<&Account>,
) -> Result<ChildProcess, StartError> {
    let mut command = cluster::command(&binaries.postgres(), &folder.log_file())?;
    command.arg("-D").arg(data).arg("-k").arg(socket).args(["-p", "5432"]);
    ChildProcess::spawn(command, account, Signal::INT)
        .map_err(StartError::io(format!("cannot start {}", binaries.postgres().display())))
}
