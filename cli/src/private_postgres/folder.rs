//! The folder of a private Postgres: who may use it, what is where, and what is left when a process was killed.
//!
//! ```text
//! crawlify.lock     held (flock) by the process that works here
//! postgres.log      what Postgres writes
//! pg/15/data        the data, in a folder of its major version
//! pg/run            the socket
//! ```
//! As root, only `pg` belongs to the account that Postgres runs under.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};

use crawlify_shared::child::{self, Account};
use crawlify_shared::config;
use rustix::fs::{FlockOperation, OFlags};

use super::error::StartError;

const LOCK: &str = "crawlify.lock";
/// Folders that are removed at the end, or by the next start, have this at the beginning of their names.
const EPHEMERAL_PREFIX: &str = "crawlify-pg-";
/// A socket's path may have 107 bytes on Linux and 103 elsewhere.
const LONGEST_SOCKET_PATH: usize = 100;

/// A folder that nobody else uses as long as this value lives.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    ephemeral: bool,
    /// Open as long as the folder is ours; the kernel releases the lock, even after `kill -9`.
    _lock: File,
}

impl Folder {
    /// Takes a folder that stays, and creates it if need be.
    pub(crate) fn persistent(path: &Path, account: Option<&Account>) -> Result<Self, StartError> {
        let path = std::path::absolute(path).map_err(StartError::io("cannot find the current folder"))?;
        let creating = format!("cannot create {}", path.display());
        let mut builder = fs::DirBuilder::new();
        // The account must be able to pass through; what is private is closed one level below.
        builder.recursive(true).mode(0o711);
        builder.create(&path).map_err(StartError::io(&creating))?;
        let path = path.canonicalize().map_err(StartError::io(&creating))?;
        let lock = lock(&path)?;
        let folder = Self { path, ephemeral: false, _lock: lock };
        folder.prepare(account)?;
        Ok(folder)
    }

    /// Creates a folder that is removed when this value is dropped.
    pub(crate) fn ephemeral(account: Option<&Account>) -> Result<Self, StartError> {
        let parent = temporary_folder(account);
        let creating = format!("cannot create a folder in {}", parent.display());
        let made = tempfile::Builder::new()
            .prefix(EPHEMERAL_PREFIX)
            .permissions(fs::Permissions::from_mode(0o711))
            .tempdir_in(&parent)
            .map_err(StartError::io(creating))?;
        let lock = lock_new(made.path())?;
        let folder = Self { path: made.keep(), ephemeral: true, _lock: lock };
        folder.prepare(account)?;
        Ok(folder)
    }

    fn prepare(&self, account: Option<&Account>) -> Result<(), StartError> {
        let pg = self.path.join("pg");
        create_private(&pg, account)?;
        create_private(&self.socket_folder(), account)?;
        let Some(account) = account else { return Ok(()) };
        match closed_to(&pg, account) {
            None => Ok(()),
            Some(closed) => Err(StartError::Configuration(format!(
                "Postgres refuses to run as root, and the account `{}` that it runs under instead cannot enter {}. \
                 Choose another folder (--data-dir), or open that one: chmod o+x {}",
                account.name,
                closed.display(),
                closed.display()
            ))),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn is_ephemeral(&self) -> bool {
        self.ephemeral
    }

    pub(crate) fn data(&self, major: u32) -> PathBuf {
        self.path.join("pg").join(major.to_string()).join("data")
    }

    pub(crate) fn log_file(&self) -> PathBuf {
        self.path.join("postgres.log")
    }

    pub(crate) fn socket_folder(&self) -> PathBuf {
        self.path.join("pg/run")
    }

    pub(crate) fn socket_path_is_too_long(&self) -> bool {
        self.socket_folder().join(".s.PGSQL.5432").as_os_str().len() >= LONGEST_SOCKET_PATH
    }

    /// Creates the folder that will hold the data of a major version.
    pub(crate) fn make_room(&self, major: u32, account: Option<&Account>) -> Result<(), StartError> {
        create_private(&self.path.join("pg").join(major.to_string()), account)
    }

    /// The data that is there already, the newest first: folder and major version.
    pub(crate) fn clusters(&self) -> Vec<(PathBuf, u32)> {
        let Ok(entries) = fs::read_dir(self.path.join("pg")) else { return Vec::new() };
        let mut clusters: Vec<(PathBuf, u32)> = entries
            .flatten()
            .filter_map(|entry| {
                let data = entry.path().join("data");
                let version = fs::read_to_string(data.join("PG_VERSION")).ok()?;
                Some((data, super::binaries::major_of(&version)?))
            })
            .collect();
        clusters.sort_by_key(|(_, major)| std::cmp::Reverse(*major));
        clusters
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.ephemeral
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            tracing::warn!(folder = %self.path.display(), %error, "a temporary folder stays behind");
        }
    }
}

/// Where data are kept if nobody says otherwise; `None` for somebody without a home.
pub fn default_data_dir() -> Option<PathBuf> {
    if child::is_root() {
        // Not below /root, which the account of Postgres may not enter.
        return Some(PathBuf::from("/var/lib/crawlify"));
    }
    let data = config::variable("XDG_DATA_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || Some(PathBuf::from(config::variable("HOME")?).join(".local/share"));
    Some(data.or_else(home)?.join("crawlify"))
}

/// The temporary folders that killed processes left behind.
pub(crate) fn abandoned(account: Option<&Account>) -> Vec<Folder> {
    let Ok(entries) = fs::read_dir(temporary_folder(account)) else { return Vec::new() };
    let ours = rustix::process::geteuid().as_raw();
    entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(EPHEMERAL_PREFIX))
        .filter(|entry| entry.metadata().is_ok_and(|folder| folder.is_dir() && folder.uid() == ours))
        .filter_map(|entry| {
            // Without a lock file it is being created at this moment.
            let lock = File::open(entry.path().join(LOCK)).ok()?;
            rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).ok()?;
            Some(Folder { path: entry.path(), ephemeral: true, _lock: lock })
        })
        .collect()
}

/// Where folders for a while are created: the usual place, unless the account cannot get there.
pub(crate) fn temporary_folder(account: Option<&Account>) -> PathBuf {
    let usual = std::env::temp_dir();
    let usual = usual.canonicalize().unwrap_or(usual);
    match account {
        Some(account) if closed_to(&usual, account).is_some() => PathBuf::from("/tmp"),
        _ => usual,
    }
}

/// The first folder on the way to `path`, itself included, that an account may not enter.
pub(crate) fn closed_to(path: &Path, account: &Account) -> Option<PathBuf> {
    let mut way: Vec<&Path> = path.ancestors().collect();
    way.reverse();
    way.into_iter().find(|folder| !may_enter(folder, account)).map(Path::to_owned)
}

fn may_enter(folder: &Path, account: &Account) -> bool {
    let Ok(metadata) = fs::metadata(folder) else { return false };
    let bit = if metadata.uid() == account.uid {
        0o100
    } else if metadata.gid() == account.gid {
        0o010
    } else {
        0o001
    };
    metadata.mode() & bit != 0
}

/// Hands a folder over, with all that is in it, unless it is the account's already. Follows no links.
fn give(path: &Path, account: &Account) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    if metadata.uid() == account.uid {
        return Ok(());
    }
    // The folder comes after its content, so that one that is the account's holds nothing that is not.
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            give(&entry?.path(), account)?;
        }
    }
    lchown(path, Some(account.uid), Some(account.gid))
}

/// Creates a folder that only Postgres may enter, unless it is there.
fn create_private(path: &Path, account: Option<&Account>) -> Result<(), StartError> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(StartError::io(format!("cannot create {}", path.display()))(error));
        }
        _ => {}
    }
    let Some(account) = account else { return Ok(()) };
    give(path, account).map_err(StartError::io(format!("cannot give {} to {}", path.display(), account.name)))
}

/// Takes the lock of a folder that others may want too.
fn lock(folder: &Path) -> Result<File, StartError> {
    let path = folder.join(LOCK);
    let failed = format!("cannot lock {}", path.display());
    let mut file = open_without_following(&path, OpenOptions::new().read(true).write(true).create(true))
        .map_err(StartError::io(&failed))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {
            file.set_len(0).and_then(|()| sign(&mut file)).map_err(StartError::io(&failed))?;
            Ok(file)
        }
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            Err(StartError::AlreadyRunning { folder: folder.to_owned(), pid: pid.trim().parse().ok() })
        }
        Err(error) => Err(StartError::io(failed)(error.into())),
    }
}

/// Takes the lock of a folder that we just created. The file gets its name when it is locked, so that nobody takes
/// a folder in creation for an abandoned one.
fn lock_new(folder: &Path) -> Result<File, StartError> {
    let unnamed = folder.join("crawlify.lock.new");
    let take = || {
        let mut file = File::create_new(&unnamed)?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        sign(&mut file)?;
        fs::rename(&unnamed, folder.join(LOCK))?;
        Ok(file)
    };
    take().map_err(StartError::io(format!("cannot lock {}", folder.display())))
}

/// Writes our process id for those who find the lock taken.
fn sign(file: &mut File) -> io::Result<()> {
    writeln!(file, "{}", std::process::id())
}

/// Opens a file for writing that may stand in a folder of another account: a link is not followed.
pub(crate) fn open_without_following(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed()).open(path)
}
