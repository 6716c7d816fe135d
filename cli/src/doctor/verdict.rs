//! What each finding means, and how to repair it. Looks at nothing itself.

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crawlify_shared::config::SecretUrl;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// As it should be.
    Ok,
    /// Crawlify works, but worse than it could.
    Warn,
    /// Crawlify does not work.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// How bad it is.
    pub level: Level,
    /// What was looked at.
    pub what: String,
    /// What was found.
    pub finding: String,
    /// The command or setting that repairs it.
    pub fix: Option<String>,
}

const MIB: u64 = 1024 * 1024;
/// 2026-01-01: this program did not exist before.
const BEGINNING: Duration = Duration::from_secs(1_767_225_600);

impl Level {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }
}

impl Check {
    pub(super) fn ok(what: &str, finding: impl Into<String>) -> Self {
        Self { level: Level::Ok, what: what.to_owned(), finding: finding.into(), fix: None }
    }

    pub(super) fn warn(what: &str, finding: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { level: Level::Warn, fix: Some(fix.into()), ..Self::ok(what, finding) }
    }

    pub(super) fn fail(what: &str, finding: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { level: Level::Fail, fix: Some(fix.into()), ..Self::ok(what, finding) }
    }
}

/// What the kernel says about namespaces of users without privileges, which Chrome's sandbox is made of.
#[derive(Clone, Debug, Default)]
pub(super) struct Namespaces {
    /// Whether making one succeeded; `None` if it could not be tried.
    pub(super) worked: Option<bool>,
    /// Debian's `kernel.unprivileged_userns_clone`.
    pub(super) debian_switch: Option<u32>,
    /// Ubuntu's `kernel.apparmor_restrict_unprivileged_userns`.
    pub(super) apparmor_switch: Option<u32>,
    /// `user.max_user_namespaces`.
    pub(super) most: Option<u32>,
}

/// `account` is whom Chrome would run as: `None` if we are root and there is nobody else.
pub(super) fn sandbox(account: Option<&str>, namespaces: &Namespaces) -> Check {
    let Some(account) = account else {
        return Check::warn(
            "sandbox",
            "Chrome would run as root and without its sandbox: there is no account without privileges",
            "useradd --system crawlify",
        );
    };
    let refused = format!("Chrome would run without its sandbox: {account} may not make user namespaces");
    let fix = if namespaces.debian_switch == Some(0) {
        "sysctl -w kernel.unprivileged_userns_clone=1"
    } else if namespaces.most == Some(0) {
        "sysctl -w user.max_user_namespaces=10000"
    } else if namespaces.apparmor_switch == Some(1) {
        "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile for Chrome's program"
    } else {
        "in a container: a seccomp profile that allows clone and unshare for user namespaces"
    };
    match namespaces.worked {
        Some(true) => Check::ok("sandbox", format!("on, as {account}")),
        Some(false) => Check::warn("sandbox", refused, fix),
        None if namespaces.debian_switch == Some(0) || namespaces.most == Some(0) => {
            Check::warn("sandbox", refused, fix)
        }
        None => Check::ok("sandbox", format!("nothing speaks against it, as {account}")),
    }
}

pub(super) fn shared_memory(bytes: Option<u64>) -> Check {
    const WANTED_MIB: u64 = 256;
    let fix = "docker run --shm-size=1g, or in Kubernetes an emptyDir with medium: Memory at /dev/shm";
    match bytes.map(|bytes| bytes / MIB) {
        Some(mib) if mib >= WANTED_MIB => Check::ok("/dev/shm", format!("{mib} MiB")),
        Some(mib) => Check::warn("/dev/shm", format!("{mib} MiB: Chrome will use slower files instead"), fix),
        None => Check::warn("/dev/shm", "not there: Chrome will use slower files instead", fix),
    }
}

pub(super) fn database(url: &SecretUrl, answer: Result<String, String>) -> Check {
    match answer {
        Ok(version) => Check::ok("database", format!("Postgres {version} at {url}")),
        Err(why) => Check::fail(
            "database",
            format!("{url}: {why}"),
            "start it, or correct --database-url (CRAWLIFY_DATABASE_URL); without one, a private Postgres is started",
        ),
    }
}

pub(super) fn rabbitmq(url: &SecretUrl, answer: Result<(), String>) -> Check {
    match answer {
        Ok(()) => Check::ok("RabbitMQ", format!("accepts connections at {url}")),
        Err(why) => Check::fail(
            "RabbitMQ",
            format!("{url}: {why}"),
            "start it, or correct --amqp-url (CRAWLIFY_AMQP_URL); without one, a broker in the process is used",
        ),
    }
}

pub(super) fn port(port: u16, bound: io::Result<()>) -> Check {
    match bound {
        Ok(()) => Check::ok("port", format!("{port} is free")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            Check::warn("port", format!("{port} is taken"), "choose another with --port")
        }
        Err(error) => {
            Check::warn("port", format!("{port} cannot be used: {error}"), "choose another with --port")
        }
    }
}

/// `limit` is the soft limit: `None` is none.
pub(super) fn open_files(limit: Option<u64>) -> Check {
    const WANTED: u64 = 1024;
    match limit {
        Some(limit) if limit < WANTED => Check::warn(
            "open files",
            format!("a process may open {limit}: too few for many connections"),
            "ulimit -n 65536 (systemd: LimitNOFILE=65536)",
        ),
        Some(limit) => Check::ok("open files", format!("a process may open {limit}")),
        None => Check::ok("open files", "no limit"),
    }
}

pub(super) fn disk(what: &str, folder: &Path, free_bytes: Option<u64>) -> Check {
    let place = folder.display();
    let Some(mib) = free_bytes.map(|bytes| bytes / MIB) else {
        return Check::warn(what, format!("cannot tell the free space of {place}"), format!("df {place}"));
    };
    let fix = if what == "data" {
        "free some space, or choose another place with --data-dir"
    } else {
        "free some space, or choose another place with TMPDIR"
    };
    let finding = format!("{:.1} GiB free in {place}", mib as f64 / 1024.0);
    match mib {
        0..512 => Check::fail(what, finding, fix),
        512..4096 => Check::warn(what, finding, fix),
        _ => Check::ok(what, finding),
    }
}

pub(super) fn clock(now: SystemTime) -> Check {
    let shown = chrono::DateTime::<chrono::Utc>::from(now).format("%Y-%m-%d %H:%M:%S UTC").to_string();
    match now.duration_since(UNIX_EPOCH) {
        Ok(since) if since > BEGINNING => Check::ok("clock", shown),
        _ => Check::fail(
            "clock",
            format!("{shown} cannot be now: leases and certificates would be wrong"),
            "timedatectl set-ntp true",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_that_was_tried_is_believed_and_the_switch_that_forbids_it_is_named() {
        let tried = |worked| Namespaces { worked: Some(worked), ..Namespaces::default() };
        assert_eq!(sandbox(Some("nobody"), &tried(true)).level, Level::Ok);
        assert_eq!(sandbox(Some("nobody"), &tried(false)).level, Level::Warn);
        assert_eq!(sandbox(None, &tried(true)).fix.unwrap(), "useradd --system crawlify");
        let ubuntu = Namespaces { apparmor_switch: Some(1), ..tried(false) };
        assert!(sandbox(Some("nobody"), &ubuntu).fix.unwrap().contains("apparmor"));
        let debian = Namespaces { debian_switch: Some(0), ..tried(false) };
        assert!(sandbox(Some("nobody"), &debian).fix.unwrap().contains("unprivileged_userns_clone"));
        let untried = Namespaces { most: Some(0), ..Namespaces::default() };
        assert_eq!(sandbox(Some("nobody"), &untried).level, Level::Warn);
    }

    #[test]
    fn little_shared_memory_is_a_warning() {
        assert_eq!(shared_memory(Some(64 * MIB)).level, Level::Warn);
        assert_eq!(shared_memory(Some(256 * MIB)).level, Level::Ok);
        assert_eq!(shared_memory(None).level, Level::Warn);
    }

    #[test]
    fn a_full_disk_is_a_failure() {
        let folder = Path::new("/data");
        assert_eq!(disk("data", folder, Some(100 * MIB)).level, Level::Fail);
        assert_eq!(disk("data", folder, Some(2048 * MIB)).level, Level::Warn);
        let plenty = disk("data", folder, Some(5120 * MIB));
        assert_eq!((plenty.level, plenty.finding.as_str()), (Level::Ok, "5.0 GiB free in /data"));
        assert_eq!(disk("data", folder, None).level, Level::Warn);
    }

    #[test]
    fn few_open_files_are_a_warning() {
        assert_eq!(open_files(Some(256)).level, Level::Warn);
        assert_eq!(open_files(Some(1024)).level, Level::Ok);
        assert_eq!(open_files(None).level, Level::Ok);
    }

    #[test]
    fn a_clock_in_the_past_is_a_failure() {
        assert_eq!(clock(UNIX_EPOCH + Duration::from_secs(1_000_000_000)).level, Level::Fail);
        assert_eq!(clock(UNIX_EPOCH + BEGINNING + Duration::from_secs(1)).level, Level::Ok);
    }
}
