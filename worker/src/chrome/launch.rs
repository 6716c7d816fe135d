//! Starts one browser and sees it answer: with Chrome's sandbox where that works, under an unprivileged account where
//! we are root, and with the end of what it printed where it does not start. Never restarts one.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chromiumoxide_cdp::cdp::browser_protocol::browser::GetVersionParams;
use command_fds::{CommandFdExt, FdMapping};
use crawlify_shared::child::{Account, ChildProcess, is_root};
use crawlify_shared::config;
use rustix::process::Signal;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::connection::{CallError, Connection};
use super::flags::{FlagChoices, arguments};
use super::profile::{Profile, ProfileFolders};

/// How long a browser may take from its start to its first answer, on a machine under load.
const LAUNCH_PATIENCE: Duration = Duration::from_secs(20);
/// How long the processes of a killed browser may take to be gone.
const GROUP_PATIENCE: Duration = Duration::from_secs(5);
/// How much of what a browser printed is kept.
const STDERR_BYTES: usize = 8 << 10;
/// Shared memory below this is too small for large pages; containers have 64 MiB where nobody asked for more.
const SMALL_SHARED_MEMORY_BYTES: u64 = 256 << 20;
/// The accounts to run a browser under where we are root, the better ones first.
const ACCOUNTS: [&str; 4] = ["crawlify", "chrome", "chromium", "nobody"];
/// What Chrome sees of our environment; above all not the addresses with passwords in it.
const ENVIRONMENT: [&str; 7] =
    ["PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "FONTCONFIG_FILE", "FONTCONFIG_PATH"];

/// What to launch.
#[derive(Clone, Debug)]
pub(super) struct LaunchOptions {
    /// The browser's program.
    pub(super) program: PathBuf,
    /// Further flags; one that we set too replaces ours.
    pub(super) extra_flags: Vec<String>,
    /// The proxy of whatever belongs to no browser context of ours.
    pub(super) proxy_server: Option<String>,
}

/// How a browser is confined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Confinement {
    /// Whether Chrome's own sandbox is on.
    pub(super) sandbox: bool,
    /// Who it runs as; `None` is ourselves.
    pub(super) account: Option<Account>,
}

/// A browser that answered.
#[derive(Debug)]
pub(super) struct Launched {
    pub(super) connection: Connection,
    /// As Chrome says it: `HeadlessChrome/156.0.8078.79`.
    pub(super) product: String,
    pub(super) confinement: Confinement,
    child: ChildProcess,
    /// Taken by whoever closes the browser.
    profile: Mutex<Option<Profile>>,
    tasks: TaskTracker,
}

/// No browser answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum LaunchFailure {
    /// No folder could be made for its profile: the disk may be full.
    #[error("no folder for its profile: {0}")]
    NoProfile(io::Error),
    /// Its pipes or process could not be made.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It ended before it answered.
    #[error("it ended with {status}; it printed: {printed}")]
    Ended {
        /// How it ended.
        status: ExitStatus,
        /// The end of its standard error.
        printed: String,
    },
    /// It runs, but does not answer.
    #[error("{cause}; it printed: {printed}")]
    NoAnswer {
        /// What came of the first command.
        cause: CallError,
        /// The end of its standard error.
        printed: String,
    },
}

impl Confinement {
    /// The ways to launch, the safest first.
    pub(super) fn choices() -> Vec<Self> {
        if !is_root() {
            return vec![Self { sandbox: true, account: None }, Self { sandbox: false, account: None }];
        }
        // Chrome refuses to run as root with its sandbox.
        let as_root = Self { sandbox: false, account: None };
        match Account::first_of(&ACCOUNTS) {
            Some(account) => vec![
                Self { sandbox: true, account: Some(account.clone()) },
                Self { sandbox: false, account: Some(account) },
                as_root,
            ],
            None => vec![as_root],
        }
    }
}

/// How often each way is tried before one that is less safe is taken: a bad moment is no reason for that.
const TRIES: usize = 3;
/// The pause between two of them.
const PAUSE: Duration = Duration::from_millis(500);

/// Launches with the first of `choices` that works, and leaves only that one: what worked once is never given up for
/// something less safe because of a bad moment.
pub(super) async fn launch(
    options: &LaunchOptions,
    profiles: &ProfileFolders,
    choices: &mut Vec<Confinement>,
) -> Result<Launched, LaunchFailure> {
    let mut first_failure = None;
    for (place, confinement) in choices.iter().enumerate() {
        let tries = if place + 1 < choices.len() { TRIES } else { 1 };
        for attempt in 1..=tries {
            match launch_confined(options, profiles, confinement).await {
                Ok(launched) => {
                    *choices = vec![confinement.clone()];
                    return Ok(launched);
                }
                // A slow machine and a full disk are no reasons to do without the sandbox: where that does not work,
                // Chrome ends at once.
                Err(error @ (LaunchFailure::NoAnswer { .. } | LaunchFailure::NoProfile(_))) => {
                    return Err(error);
                }
                // The first failure tells most: the later ones come from what was tried instead.
                Err(error) => {
                    tracing::debug!(%error, ?confinement, "browser did not start");
                    first_failure.get_or_insert(error);
                }
            }
            if attempt < tries {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    Err(first_failure.unwrap_or_else(|| io::Error::other("there is no way to launch it").into()))
}

async fn launch_confined(
    options: &LaunchOptions,
    profiles: &ProfileFolders,
    confinement: &Confinement,
) -> Result<Launched, LaunchFailure> {
    let profile = profiles.profile().map_err(LaunchFailure::NoProfile)?;
    if let Some(account) = &confinement.account {
        profile.give_to(account)?;
    }
    let (commands_out, commands_in) = pipe_pair()?;
    let (answers_out, answers_in) = pipe_pair()?;
    let (stderr_out, stderr_in) = pipe_pair()?;

    let mut command = Command::new(&options.program);
    command.args(arguments(&FlagChoices {
        profile: profile.path(),
        sandbox: confinement.sandbox,
        small_shared_memory: shared_memory_bytes() < SMALL_SHARED_MEMORY_BYTES,
        proxy_server: options.proxy_server.as_deref(),
        extra: &options.extra_flags,
    }));
    command.env_clear();
    for name in ENVIRONMENT {
        if let Some(value) = config::variable(name) {
            command.env(name, value);
        }
    }
    // Everything that Chrome leaves behind is in the profile, and goes with it.
    command.env("HOME", profile.path()).env("TMPDIR", profile.path()).current_dir(profile.path());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::from(stderr_in));
    let pipes = vec![
        FdMapping { parent_fd: commands_out, child_fd: 3 },
        FdMapping { parent_fd: answers_in, child_fd: 4 },
    ];
    command.fd_mappings(pipes).map_err(io::Error::other)?;
    let account =
        confinement.account.clone().map(|account| Account { home: profile.path().to_owned(), ..account });
    let child = ChildProcess::spawn(command, account.as_ref(), Signal::KILL)?;

    let tasks = TaskTracker::new();
    let printed = StderrTail::default();
    tasks.spawn(printed.clone().drain(pipe::Receiver::from_owned_fd(stderr_out)?));
    let connection = Connection::start(
        pipe::Receiver::from_owned_fd(answers_out)?,
        pipe::Sender::from_owned_fd(commands_in)?,
        &tasks,
    );
    tasks.close();
    let mut launched = Launched {
        connection,
        product: String::new(),
        confinement: confinement.clone(),
        child,
        profile: Mutex::new(Some(profile)),
        tasks,
    };
    let version = GetVersionParams {};
    let answer = tokio::select! {
        answer = launched.connection.call(None, &version, Instant::now() + LAUNCH_PATIENCE) => answer,
        _ = launched.child.exited() => Err(CallError::Lost),
    };
    match answer {
        Ok(version) => {
            launched.product = version.product;
            Ok(launched)
        }
        Err(cause) => {
            // The end of its pipe comes a moment before its exit status.
            let ended = tokio::time::timeout(Duration::from_secs(1), launched.child.exited()).await;
            launched.close().await;
            let printed = printed.text();
            Err(match ended {
                Ok(status) => LaunchFailure::Ended { status, printed },
                Err(_) => LaunchFailure::NoAnswer { cause, printed },
            })
        }
    }
}

impl Launched {
    /// Waits until the process has exited.
    pub(super) async fn exited(&self) {
        self.child.exited().await;
    }

    /// The process id of the browser, or of the wrapper that started it.
    pub(super) fn id(&self) -> i32 {
        self.child.id()
    }

    /// Kills all processes of the browser without waiting.
    pub(super) fn kill(&self) {
        self.connection.close();
        self.child.kill();
    }

    /// Kills all processes of the browser, and waits until they and the profile are gone.
    ///
    /// It is never asked to end by itself: all that it could write is in a folder that is thrown away.
    pub(super) async fn close(&self) {
        self.kill();
        self.child.exited().await;
        self.tasks.wait().await;
        let deadline = Instant::now() + GROUP_PATIENCE;
        while group_exists(self.child.id()) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let profile = self.profile.lock().unwrap_or_else(PoisonError::into_inner).take();
        let _ = tokio::task::spawn_blocking(move || drop(profile)).await;
    }
}

/// The end of what a browser printed, for the message where it does not start.
#[derive(Clone, Debug, Default)]
struct StderrTail(Arc<Mutex<VecDeque<u8>>>);

impl StderrTail {
    async fn drain(self, mut stderr: pipe::Receiver) {
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = stderr.read(&mut buffer).await {
            let mut tail = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            tail.extend(&buffer[..read]);
            let excess = tail.len().saturating_sub(STDERR_BYTES);
            tail.drain(..excess);
        }
    }

    fn text(&self) -> String {
        let tail = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&tail.iter().copied().collect::<Vec<_>>()).trim().to_owned();
        if text.is_empty() { "nothing".to_owned() } else { text }
    }
}

fn pipe_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    Ok((reader.into(), writer.into()))
}

fn shared_memory_bytes() -> u64 {
    rustix::fs::statvfs("/dev/shm").map_or(0, |memory| memory.f_blocks.saturating_mul(memory.f_frsize))
}

fn group_exists(id: i32) -> bool {
    rustix::process::Pid::from_raw(id)
        .is_some_and(|group| rustix::process::test_kill_process_group(group).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chrome::find::find_browser;

    fn profile_path(launched: &Launched) -> PathBuf {
        launched.profile.lock().unwrap().as_ref().unwrap().path().to_owned()
    }

    async fn launch_here(program: PathBuf) -> (ProfileFolders, Result<Launched, LaunchFailure>) {
        let profiles = ProfileFolders::create(&std::env::temp_dir()).unwrap();
        let proxy_server = Some("http://127.0.0.1:9".to_owned());
        let options = LaunchOptions { program, extra_flags: Vec::new(), proxy_server };
        let launched = launch(&options, &profiles, &mut Confinement::choices()).await;
        (profiles, launched)
    }

    #[tokio::test]
    async fn the_flags_that_chrome_got_are_each_there_once_with_two_dashes() {
        let (_profiles, launched) = launch_here(find_browser().unwrap().path).await;
        let launched = launched.unwrap();
        let command_line = std::fs::read_to_string(format!("/proc/{}/cmdline", launched.id())).unwrap();
        let arguments: Vec<&str> = command_line.split('\0').skip(1).filter(|flag| !flag.is_empty()).collect();
        for flag in [
            "--remote-debugging-pipe",
            "--disable-background-networking",
            "--disable-quic",
            "--block-new-web-contents",
            "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
            "--webrtc-ip-handling-policy=disable_non_proxied_udp",
            "--proxy-server=http://127.0.0.1:9",
            "--proxy-bypass-list=<-loopback>",
            "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
        ] {
            assert_eq!(arguments.iter().filter(|argument| **argument == flag).count(), 1, "{flag}");
            let name = flag.split('=').next().unwrap();
            let named = arguments.iter().filter(|argument| argument.split('=').next() == Some(name));
            assert_eq!(named.count(), 1, "{name}");
        }
        let profile = format!("--user-data-dir={}", profile_path(&launched).display());
        assert!(arguments.contains(&profile.as_str()));
        assert_eq!(arguments.contains(&"--no-sandbox"), !launched.confinement.sandbox);
        launched.close().await;
    }

    #[tokio::test]
    async fn closing_leaves_no_process_and_no_profile() {
        let (_profiles, launched) = launch_here(find_browser().unwrap().path).await;
        let launched = launched.unwrap();
        let (id, profile) = (launched.id(), profile_path(&launched));
        assert!(profile.exists() && group_exists(id));
        launched.close().await;
        assert!(!profile.exists() && !group_exists(id));
    }

    #[tokio::test]
    async fn want_of_a_folder_is_no_reason_to_launch_less_safely() {
        let parent = tempfile::tempdir().unwrap();
        let profiles = ProfileFolders::create(parent.path()).unwrap();
        for folder in std::fs::read_dir(parent.path()).unwrap().flatten() {
            std::fs::remove_dir_all(folder.path()).unwrap();
        }
        let options = LaunchOptions {
            program: find_browser().unwrap().path,
            extra_flags: Vec::new(),
            proxy_server: None,
        };
        let mut choices = Confinement::choices();
        let failure = launch(&options, &profiles, &mut choices).await.unwrap_err();
        assert!(matches!(failure, LaunchFailure::NoProfile(_)), "{failure}");
        assert_eq!((profiles.launches(), choices), (1, Confinement::choices()), "nothing else was tried");
    }

    #[tokio::test]
    async fn a_program_that_is_no_browser_is_an_error_with_what_it_printed() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let program = folder.path().join("chrome");
        std::fs::write(&program, "#!/bin/sh\necho cannot open display >&2\nexit 3\n").unwrap();
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let (_profiles, launched) = launch_here(program).await;
        let message = launched.unwrap_err().to_string();
        assert!(message.contains("exit status: 3") && message.contains("cannot open display"), "{message}");
    }
}
