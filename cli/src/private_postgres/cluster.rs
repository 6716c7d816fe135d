//! Creates a database cluster and writes its settings. An unfinished one never gets the name of a finished one.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crawlify_shared::child::{Account, ChildProcess};
use rustix::process::Signal;

use super::binaries::Binaries;
use super::error::StartError;
use super::folder::{Folder, open_without_following};

/// The one role of the cluster. It is a superuser: whoever reaches the socket owns the files anyway.
pub(crate) const ROLE: &str = "crawlify";

const INITDB_DEADLINE: Duration = Duration::from_secs(120);
const MIB: u64 = 1024 * 1024;
/// What the environment may say about other servers is not about ours.
const FOREIGN_VARIABLES: [&str; 9] = [
    "PGDATA",
    "PGPORT",
    "PGHOST",
    "PGUSER",
    "PGDATABASE",
    "PGOPTIONS",
    "PGPASSWORD",
    "PGPASSFILE",
    "PGSERVICE",
];

/// Creates the cluster of a folder: the finished data stand at once where they belong, or not at all.
pub(crate) async fn create(
    folder: &Folder,
    binaries: &Binaries,
    account: Option<&Account>,
) -> Result<(), StartError> {
    folder.make_room(binaries.major, account)?;
    let data = folder.data(binaries.major);
    let unfinished = data.with_file_name("data.unfinished");
    let clearing = format!("cannot clear {}", unfinished.display());
    remove_if_there(&unfinished).map_err(StartError::io(clearing))?;

    // Old systems have no C.UTF-8, but C sorts and compares the same way.
    for locale in ["C.UTF-8", "C"] {
        match initdb(folder, binaries, account, &unfinished, locale).await {
            Err(StartError::Failed { log, .. }) if locale != "C" && log.contains("invalid locale name") => {}
            result => {
                result?;
                break;
            }
        }
    }
    write_settings(&unfinished, folder.is_ephemeral())
        .and_then(|()| fs::rename(&unfinished, &data))
        .map_err(StartError::io(format!("cannot finish {}", data.display())))
}

async fn initdb(
    folder: &Folder,
    binaries: &Binaries,
    account: Option<&Account>,
    data: &Path,
    locale: &str,
) -> Result<(), StartError> {
    let mut command = command(&binaries.initdb(), &folder.log_file())?;
    // The socket's folder is closed to everybody else, so no password is needed; there are no network connections.
    command.arg("-D").arg(data).args(["-U", ROLE, "-E", "UTF8", "--no-sync", "--auth-local=trust"]);
    command.args(["--auth-host=reject", &format!("--locale={locale}")]).env("TZ", "UTC");
    let child = ChildProcess::spawn(command, account, Signal::KILL)
        .map_err(StartError::io(format!("cannot start {}", binaries.initdb().display())))?;
    let Ok(status) = tokio::time::timeout(INITDB_DEADLINE, child.exited()).await else {
        return Err(failed(format!("initdb took more than {} s", INITDB_DEADLINE.as_secs()), folder));
    };
    if status.success() {
        return Ok(());
    }
    let error = failed(format!("initdb failed ({status})"), folder);
    match &error {
        StartError::Failed { log, .. } if log.contains("could not look up effective user ID") => {
            Err(StartError::Configuration(format!(
                "Postgres does not start for user id {}, which has no name on this machine. Give it one (a line in \
                 /etc/passwd, or nss_wrapper), or use a database that runs already: --database-url URL",
                rustix::process::geteuid().as_raw()
            )))
        }
        _ => Err(error),
    }
}

/// A command that knows nothing of other servers, writes to the log file, and can run in any account.
pub(crate) fn command(program: &Path, log_file: &Path) -> Result<Command, StartError> {
    let opening = format!("cannot write {}", log_file.display());
    let open = || -> io::Result<(fs::File, fs::File)> {
        let mut options = OpenOptions::new();
        let log = open_without_following(log_file, options.append(true).create(true).mode(0o600))?;
        Ok((log.try_clone()?, log))
    };
    let (out, err) = open().map_err(StartError::io(opening))?;
    let mut command = Command::new(program);
    // Our current folder may be closed to the other account.
    command.current_dir("/").stdin(Stdio::null()).stdout(out).stderr(err);
    for variable in FOREIGN_VARIABLES {
        command.env_remove(variable);
    }
    Ok(command)
}

fn write_settings(data: &Path, ephemeral: bool) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file =
        open_without_following(&data.join("postgresql.auto.conf"), options.write(true).truncate(true))?;
    file.write_all(settings(ephemeral, memory_bytes()).as_bytes())?;
    if ephemeral { Ok(()) } else { file.sync_all() }
}

fn settings(ephemeral: bool, memory_bytes: u64) -> String {
    // Postgres takes memory only as it uses it; the rest of the machine is for Chrome.
    let shared_buffers = (memory_bytes / 16 / MIB).clamp(32, 512);
    // Tests run many at a time against one server.
    let max_connections = if ephemeral { 200 } else { 60 };
    let mut text = format!(
        "# Written once by Crawlify. ALTER SYSTEM changes this file.\n\
         listen_addresses = ''\n\
         unix_socket_permissions = 0700\n\
         max_connections = {max_connections}\n\
         shared_buffers = '{shared_buffers}MB'\n\
         jit = off\n\
         logging_collector = off\n\
         log_destination = 'stderr'\n\
         log_line_prefix = '%m [%p] '\n\
         log_timezone = 'UTC'\n\
         timezone = 'UTC'\n"
    );
    if ephemeral {
        text.push_str("fsync = off\nfull_page_writes = off\n");
    }
    text
}

/// What this machine or container has.
fn memory_bytes() -> u64 {
    let system = rustix::system::sysinfo();
    #[allow(clippy::useless_conversion, reason = "the fields are narrower on 32-bit systems")]
    let machine = u64::from(system.totalram).saturating_mul(u64::from(system.mem_unit));
    let container =
        fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|max| max.trim().parse().ok());
    container.map_or(machine, |container: u64| container.min(machine))
}

/// A failure with the last lines of the log.
pub(crate) fn failed(what: String, folder: &Folder) -> StartError {
    StartError::Failed { what, log: tail(&folder.log_file()).unwrap_or_default() }
}

fn tail(log_file: &Path) -> io::Result<String> {
    const BYTES: u64 = 4096;
    let mut file = fs::File::open(log_file)?;
    let start = file.metadata()?.len().saturating_sub(BYTES);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(15)..].join("\n"))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_ephemeral_cluster_goes_without_fsync() {
        assert!(settings(true, 1024 * MIB).contains("fsync = off"));
        assert!(!settings(false, 1024 * MIB).contains("fsync"));
    }

    #[test]
    fn the_shared_buffers_follow_the_memory_within_limits() {
        assert!(settings(false, 256 * MIB).contains("shared_buffers = '32MB'"));
        assert!(settings(false, 4096 * MIB).contains("shared_buffers = '256MB'"));
        assert!(settings(false, 1024 * 1024 * MIB).contains("shared_buffers = '512MB'"));
    }

    #[test]
    fn the_tail_of_a_log_is_its_last_lines() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("log");
        let lines: Vec<String> = (0..1000).map(|line| format!("line {line}")).collect();
        fs::write(&file, lines.join("\n")).unwrap();
        assert_eq!(tail(&file).unwrap(), lines[985..].join("\n"));
    }
}
