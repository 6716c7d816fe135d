//! How a private Postgres ends: it is asked to write everything and to go, then to go at once, and is killed in the end, with all
//! that it has started. What was committed is in its log each time, and is there after the next start.

use std::fs;
use std::time::Duration;

use crawlify_shared::child::ChildProcess;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, timeout_at};

/// How long a server has at least to go at once, before it is killed.
const AT_ONCE: Duration = Duration::from_secs(1);
/// How long one that is killed may take to be gone.
const KILLED: Duration = Duration::from_millis(500);

/// Ends a server by the deadline, which is some time away. One whose data are not kept writes nothing any more.
pub(super) async fn by(deadline: Instant, server: &ChildProcess, kept: bool) {
    let kill_at = deadline - KILLED;
    if kept {
        // Fast: clients are disconnected, everything is written.
        server.signal(Signal::INT);
        if timeout_at(kill_at - AT_ONCE, server.exited()).await.is_ok() {
            return;
        }
        tracing::warn!("Postgres does not stop in time: it will recover from its log at the next start");
    }
    server.signal(Signal::QUIT);
    if timeout_at(kill_at, server.exited()).await.is_err() {
        kill(server);
        let _ = timeout_at(deadline, server.exited()).await;
    }
}

/// Kills a server that has not ended, and what it has started. Its children have sessions of their own, which a kill of its group
/// does not reach; they go by themselves when it has gone, but for those that are stopped or hang.
pub(super) fn kill(server: &ChildProcess) {
    if server.exit_status().is_some() {
        return;
    }
    // Stopped, it starts no more of them, and no number of one that has ended is given to another process.
    server.signal(Signal::STOP);
    for child in children(server.id()) {
        let _ = kill_process(child, Signal::KILL);
    }
    server.kill();
}

/// The children of a process, as proc(5) tells in `stat`.
pub(super) fn children(parent: i32) -> Vec<Pid> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let child = |entry: fs::DirEntry| {
        let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        // Behind the name, which may hold anything: the state, and the parent.
        let (_, fields) = stat.rsplit_once(')')?;
        let its_parent: i32 = fields.split_whitespace().nth(1)?.parse().ok()?;
        (its_parent == parent).then_some(pid)
    };
    processes.filter_map(child).collect()
}
