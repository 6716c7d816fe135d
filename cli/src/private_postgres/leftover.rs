//! Stops a Postgres that still runs on data that are ours now: its owner was killed. Touches no other process.

use std::fs;
use std::io;
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

/// Makes sure that no server runs on `data` and that its pid file does not stop the next one.
pub(crate) async fn stop(data: &Path) -> Result<(), StartError> {
    let pid_file = data.join("postmaster.pid");
    let Some(pid) = read_pid(&pid_file) else { return Ok(()) };
    if !is_server_of(pid, data) {
        // Postgres clears away the file of a dead process by itself, but not when the number is in use again.
        return match fs::remove_file(&pid_file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StartError::io(format!("cannot remove {}", pid_file.display()))(error))
            }
            _ => Ok(()),
        };
    }
    tracing::info!(pid = pid.as_raw_nonzero().get(), "stopping a Postgres whose owner was killed");
    for (signal, patience) in PATIENCE {
        let _ = rustix::process::kill_process(pid, signal);
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if !is_server_of(pid, data) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Err(StartError::Failed {
        what: format!("a Postgres runs on {} and does not stop (process {pid:?})", data.display()),
        log: String::new(),
    })
}

fn read_pid(pid_file: &Path) -> Option<Pid> {
    let text = fs::read_to_string(pid_file).ok()?;
    Pid::from_raw(text.lines().next()?.trim().parse().ok().filter(|pid| *pid > 1)?)
}

/// Whether a process is a Postgres that works in `data`; the number alone says nothing, it may be in use again.
fn is_server_of(pid: Pid, data: &Path) -> bool {
    let process = Path::new("/proc").join(pid.as_raw_nonzero().to_string());
    let folder = fs::read_link(process.join("cwd"));
    let name = fs::read_to_string(process.join("comm"));
    matches!((folder, name), (Ok(folder), Ok(name)) if folder == data && name.trim() == "postgres")
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
    fn a_pid_file_of_nonsense_names_no_process() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("postmaster.pid");
        for content in ["", "-1\n", "0\n", "1\n", "postgres\n"] {
            fs::write(&file, content).unwrap();
            assert_eq!(read_pid(&file), None, "{content:?}");
        }
    }
}
