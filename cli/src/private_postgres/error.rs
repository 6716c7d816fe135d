//! Why a private Postgres did not start, by what the user can do about it.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

/// A private Postgres that did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There are no Postgres programs that we could use: install them, or use another database.
    #[error("{0}")]
    NoBinaries(String),

    /// Postgres cannot run under this account or in this folder: change the one or the other.
    #[error("{0}")]
    Configuration(String),

    /// Another process works in the same folder: use that one, or another folder.
    #[error(
        "already running: {} is in use by {}",
        .folder.display(),
        .pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
    )]
    AlreadyRunning {
        /// The folder in use.
        folder: PathBuf,
        /// The process that uses it, as far as it could write that down.
        pid: Option<u32>,
    },

    /// The folder's data was written by another major version of Postgres than the installed ones.
    #[error(
        "the data in {} was written by Postgres {found}, but {}.\n\
         The data was not touched. Either\n  \
         install the programs of Postgres {found}: apt-get install postgresql-{found}\n  \
         or upgrade the data with pg_upgrade or a dump, to {}\n  \
         or start afresh with another folder: --data-dir DIR",
        .data.display(),
        installed(.available),
        newer(.data).display()
    )]
    VersionMismatch {
        /// The folder of the data.
        data: PathBuf,
        /// The major version that wrote it.
        found: u32,
        /// The major versions that are installed.
        available: Vec<u32>,
    },

    /// Postgres was started, or should have been, and something failed.
    #[error("{what}{}", last_words(.log))]
    Failed {
        /// What failed.
        what: String,
        /// The last lines that Postgres wrote.
        log: String,
    },

    /// A file or folder could not be used.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

impl StartError {
    /// The exit status of a command that fails with this.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NoBinaries(_) | Self::Configuration(_) | Self::VersionMismatch { .. } => 78,
            Self::AlreadyRunning { .. } => 69,
            Self::Failed { .. } | Self::Io { .. } => 1,
        }
    }

    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// `pg/15/data` -> `pg/NEW_MAJOR/data`
fn newer(data: &Path) -> PathBuf {
    data.ancestors().nth(2).unwrap_or(data).join("NEW_MAJOR/data")
}

fn installed(majors: &[u32]) -> String {
    if majors.is_empty() {
        return "no Postgres programs are installed".to_owned();
    }
    let majors: Vec<String> = majors.iter().map(u32::to_string).collect();
    format!("only Postgres {} is installed", majors.join(", "))
}

fn last_words(tail: &str) -> String {
    let mut text = String::new();
    for (index, line) in tail.lines().enumerate() {
        let _ = write!(text, "{}  {line}", if index == 0 { "; its last words:\n" } else { "\n" });
    }
    text
}
