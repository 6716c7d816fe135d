//! A program under test: a process of its own with its output collected, killed when the test is over.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::processes::{self, Process};
use crate::scratch::Scratch;
use crate::wait::{wait_for, wait_for_value};

/// How often a program that is to end is asked for its children.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long they may outlive it, on a busy machine: they see that it has gone.
const GONE_WITHIN: Duration = Duration::from_secs(20);

/// A running program. Dropping it kills it; its children die with it, as they must.
#[derive(Debug)]
pub struct Program {
    child: Child,
    started: Instant,
    stdout: Output,
    stderr: Output,
}

/// A program that has ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; a signal counts as 128 and its number, as shells have it.
    pub code: i32,
    /// All of its standard output.
    pub stdout: String,
    /// All of its standard error.
    pub stderr: String,
    /// From its start to its end.
    pub took: Duration,
}

/// What a program has printed so far. Written by a thread that reads until the end.
#[derive(Debug)]
struct Output {
    text: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

/// `crawlify` with its temporary files in `scratch`, and nothing from the environment that would change it.
pub fn crawlify(program: &str, scratch: &Scratch) -> Command {
    let mut command = Command::new(program);
    for name in
        ["CRAWLIFY_DATABASE_URL", "CRAWLIFY_AMQP_URL", "CRAWLIFY_CHROME", "CRAWLIFY_PG_BIN", "RUST_LOG"]
    {
        command.env_remove(name);
    }
    // The sites of the tests are on this machine.
    command.env("CRAWLIFY_EGRESS_ALLOW", "127.0.0.1");
    command.env("TMPDIR", scratch.temporary()).current_dir(Path::new("/"));
    command
}

impl Program {
    /// Starts it.
    ///
    /// # Panics
    /// There is no such program.
    pub fn start(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program under test starts");
        let stdout = Output::collect(child.stdout.take().expect("piped"));
        let stderr = Output::collect(child.stderr.take().expect("piped"));
        Self { child, started: Instant::now(), stdout, stderr }
    }

    /// Its process number.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("process numbers are small")
    }

    /// What it has printed to its standard output so far.
    pub fn stdout(&self) -> String {
        self.stdout.so_far()
    }

    /// What it has printed to its standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.so_far()
    }

    /// Waits until its standard error has a line that contains `text`, and returns that line.
    ///
    /// # Panics
    /// It does not print one in time, or has ended.
    pub async fn says(&mut self, text: &str, within: Duration) -> String {
        let what = format!("the program prints `{text}`");
        wait_for_value(&what, within, async || {
            let ended = self.child.try_wait().expect("it is our child");
            let printed = self.stderr();
            let line = printed.lines().find(|line| line.contains(text)).map(str::to_owned);
            assert!(line.is_some() || ended.is_none(), "it ended ({ended:?}) without `{text}`:\n{printed}");
            line
        })
        .await
    }

    /// Its children, their children, and so on.
    pub fn children(&self) -> Vec<Process> {
        processes::below(self.pid())
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// It has ended.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid()).expect("a process has a number");
        rustix::process::kill_process(pid, signal).expect("it runs");
    }

    /// Whether it has ended by now.
    pub fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// Waits for its end, however it ends, and holds it to leaving no process behind (I12).
    ///
    /// # Panics
    /// It has not ended in time, or one of its children goes on.
    pub async fn end(self, within: Duration) -> Ended {
        let (ended, family) = self.end_with_family(within).await;
        processes::wait_until_gone(&family, GONE_WITHIN).await;
        ended
    }

    /// Waits for its end, and gives the children that it was seen with: for those who look themselves what is left of them.
    ///
    /// # Panics
    /// It has not ended in time.
    pub async fn end_with_family(mut self, within: Duration) -> (Ended, Vec<Process>) {
        let mut status = None;
        let (mut family, mut looked): (Vec<Process>, Option<Instant>) = (Vec::new(), None);
        let what = format!("the program ends; it printed:\n{}", self.stderr());
        wait_for(&what, within, async || {
            status = self.child.try_wait().expect("it is our child");
            if status.is_none() && looked.is_none_or(|looked| looked.elapsed() > LOOK_EVERY) {
                family.extend(self.children());
                looked = Some(Instant::now());
            }
            status.is_some()
        })
        .await;
        // Most were seen each time.
        family.sort_unstable_by_key(|process| process.pid);
        family.dedup();
        let took = self.started.elapsed();
        let code = code(status.expect("waited for"));
        (Ended { code, stdout: self.stdout.all(), stderr: self.stderr.all(), took }, family)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// Holds it to an exit code, and gives it back.
    ///
    /// # Panics
    /// It ended with another one; the message holds what it printed.
    #[track_caller]
    #[must_use]
    pub fn with_code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stderr:\n{}\nstdout:\n{}", self.stderr, self.stdout);
        self
    }

    /// Holds its standard error to containing every one of `texts`.
    ///
    /// # Panics
    /// One is missing.
    #[track_caller]
    #[must_use]
    pub fn saying(self, texts: &[&str]) -> Self {
        for text in texts {
            assert!(self.stderr.contains(text), "`{text}` is not in:\n{}", self.stderr);
        }
        self
    }
}

impl Output {
    fn collect(mut from: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&text);
        let reader = std::thread::spawn(move || {
            let mut chunk = [0; 8192];
            while let Ok(read @ 1..) = from.read(&mut chunk) {
                into.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&chunk[..read]);
            }
        });
        Self { text, reader: Some(reader) }
    }

    fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// Everything: the reader ends when the last process that holds the pipe does.
    fn all(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        self.so_far()
    }
}

fn code(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
}
