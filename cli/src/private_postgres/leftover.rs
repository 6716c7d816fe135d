//! Stops a Postgres that still runs on data that are ours now: its owner was killed. Touches no other process.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::error::StartError;

/// How long each signal gets: fast shutdown, immediate shutdown, kill.
const PATIENCE: [(Signal, Duration); 3] = [
    (Signal::INT, Duration::from_secs(10)),
    (Signal::QUIT, Duration::from_secs(10)),
    (Signal::KILL, Duration::from_secs(10)),
];

/// What a process is to a folder of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Process {
    /// The server that works in it.
    ItsServer,
    /// No server of it, or gone.
    Another,
    /// A server, and we may not see of what.
    Unknown,
}

/// Makes sure that no server runs on `data` and that its pid file does not stop the next one.
pub(crate) async fn stop(data: &Path) -> Result<(), StartError> {
    let pid_file = data.join("postmaster.pid");
    let Some(pid) = read_pid(&pid_file) else { return Ok(()) };
    match look_at(pid, data) {
        Process::ItsServer => {}
        // Postgres clears away the file of a dead process by itself, but not when the number is in use again.
        Process::Another => {
            return match fs::remove_file(&pid_file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(StartError::io(format!("cannot remove {}", pid_file.display()))(error))
                }
                _ => Ok(()),
            };
        }
        Process::Unknown => return Err(in_use(data, pid, "may work")),
    }
    tracing::info!(pid = pid.as_raw_nonzero().get(), "stopping a Postgres whose owner was killed");
    for (signal, patience) in PATIENCE {
        let _ = rustix::process::kill_process(pid, signal);
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if look_at(pid, data) == Process::Another {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Err(in_use(data, pid, "does not stop to work"))
}

fn in_use(data: &Path, pid: Pid, what: &str) -> StartError {
    let pid = pid.as_raw_nonzero();
    let what = format!("process {pid}, a Postgres, {what} on {}: stop it (kill -INT {pid})", data.display());
    StartError::Failed { what, log: String::new() }
}

fn read_pid(pid_file: &Path) -> Option<Pid> {
    let text = fs::read_to_string(pid_file).ok()?;
    Pid::from_raw(text.lines().next()?.trim().parse().ok().filter(|pid| *pid > 1)?)
}

fn look_at(pid: Pid, data: &Path) -> Process {
    let process = Path::new("/proc").join(pid.as_raw_nonzero().to_string());
    let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
    let arguments = fs::read(process.join("cmdline")).unwrap_or_default();
    // In a container, not even root may read this of another account's process.
    let folder = fs::read_link(process.join("cwd")).ok();
    judge(name.trim(), &arguments, folder.as_deref(), data)
}

/// Tells by everything but the number, which may be in use again: as likely as not by another Postgres.
fn judge(name: &str, arguments: &[u8], folder: Option<&Path>, data: &Path) -> Process {
    // A zombie has no arguments; a server's own children call themselves "postgres: walwriter".
    if name != "postgres" || arguments.is_empty() || arguments.starts_with(b"postgres: ") {
        return Process::Another;
    }
    if let Some(folder) = folder {
        return if folder == data { Process::ItsServer } else { Process::Another };
    }
    let mut arguments = arguments.split(|byte| *byte == 0).skip_while(|argument| *argument != b"-D").skip(1);
    match arguments.next().map(|folder| Path::new(OsStr::from_bytes(folder))) {
        Some(folder) if folder == data => Process::ItsServer,
        Some(folder) if folder.is_absolute() && folder.canonicalize().is_ok_and(|folder| folder != data) => {
            Process::Another
        }
        _ => Process::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_pid_file_of_another_process_is_removed_and_the_process_spared() {
        let data = tempfile::tempdir().unwrap();
        let pid_file = data.path().join("postmaster.pid");
        fs::write(&pid_file, format!("{}\n{}\n", std::process::id(), data.path().display())).unwrap();
        stop(data.path()).await.unwrap();
        assert!(!pid_file.exists());
    }

    #[test]
    fn a_process_is_taken_for_the_server_only_if_it_is_one_of_these_data() {
        let data = Path::new("/tmp");
        let server = b"/usr/lib/postgresql/15/bin/postgres\0-D\0/tmp\0-k\0/run\0";
        assert_eq!(judge("postgres", server, Some(data), data), Process::ItsServer);
        assert_eq!(judge("postgres", server, None, data), Process::ItsServer);
        assert_eq!(judge("postgres", server, Some(Path::new("/usr")), data), Process::Another);
        assert_eq!(judge("postgres", server, None, Path::new("/usr")), Process::Another);
        assert_eq!(judge("postgres", b"postgres: walwriter \0", Some(data), data), Process::Another);
        assert_eq!(judge("postgres", b"", None, data), Process::Another);
        assert_eq!(judge("", b"", None, data), Process::Another);
        assert_eq!(judge("sleep", b"sleep\x0060\0", Some(data), data), Process::Another);
        assert_eq!(judge("postgres", b"postgres\0-D\0data\0", None, data), Process::Unknown);
        assert_eq!(judge("postgres", b"postgres\0", None, data), Process::Unknown);
    }

    #[test]
    fn a_pid_file_of_nonsense_names_no_process() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("postmaster.pid");
        for content in ["", "-1\n", "0\n", "1\n", "postgres\n"] {
            fs::write(&file, content).unwrap();
            assert_eq!(read_pid(&file), None, "{content:?}");
        }
    }
}
