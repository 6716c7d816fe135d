//! The folders that browsers keep their files in: each launch has a fresh one, and none outlives its worker for long.
//!
//! A worker's folder is locked while the worker lives. Folders without a living owner, left behind by workers that
//! were killed, are swept when the next worker starts; the lock also tells across containers that share `/tmp`, where
//! process ids would not.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crawlify_shared::child::Account;

const PREFIX: &str = "crawlify-chrome-";
const LOCK: &str = "lock";
/// How often the removal of a profile is tried, and the pause after each try.
const REMOVALS: u32 = 20;
const REMOVAL_PAUSE: Duration = Duration::from_millis(25);
/// A folder without a lock is swept when it is older than this.
const UNLOCKED_AGE: Duration = Duration::from_secs(60);

/// The folder of this worker's profiles. Removed when dropped.
#[derive(Debug)]
pub(super) struct ProfileFolders {
    folder: tempfile::TempDir,
    /// Held for its lock, which ends with the process at the latest.
    _lock: File,
    launches: AtomicU32,
}

/// The profile of one launch. Removed when dropped.
#[derive(Debug)]
pub(super) struct Profile {
    path: PathBuf,
}

impl ProfileFolders {
    /// Sweeps what dead workers left under `parent`, and makes a folder for this one.
    pub(super) fn create(parent: &Path) -> io::Result<Self> {
        sweep(parent);
        loop {
            let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent)?;
            // Others may pass through, to reach the one profile that is theirs, but see nothing else.
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711))?;
            let path = folder.path().join(LOCK);
            // A sweeper may have come between the folder and its lock; then this is done again.
            let Ok(lock) = File::create(&path) else { continue };
            if lock.try_lock().is_err() || !is_same_file(&lock, &path) {
                continue;
            }
            return Ok(Self { folder, _lock: lock, launches: AtomicU32::new(0) });
        }
    }

    /// Makes an empty profile that belongs to us.
    pub(super) fn profile(&self) -> io::Result<Profile> {
        let launch = self.launches.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.path().join(format!("launch-{launch}"));
        fs::create_dir(&path)?;
        let profile = Profile { path };
        fs::set_permissions(&profile.path, fs::Permissions::from_mode(0o700))?;
        Ok(profile)
    }

    /// How many profiles were asked for.
    #[cfg(test)]
    pub(super) fn launches(&self) -> u32 {
        self.launches.load(Ordering::Relaxed)
    }
}

impl Profile {
    /// Gives it to an account.
    pub(super) fn give_to(&self, account: &Account) -> io::Result<()> {
        chown(&self.path, Some(account.uid), Some(account.gid))
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        // A crash handler outside the browser's group may write a moment longer than the browser lives.
        for _ in 0..REMOVALS {
            match fs::remove_dir_all(&self.path) {
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                    std::thread::sleep(REMOVAL_PAUSE);
                }
                Err(error) => {
                    tracing::warn!(%error, path = %self.path.display(), "a browser profile was not removed");
                    return;
                }
                Ok(()) => return,
            }
        }
        tracing::warn!(path = %self.path.display(), "a browser profile was not removed: it is still written to");
    }
}

fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    let ours = rustix::process::geteuid().as_raw();
    for entry in entries.flatten() {
        let is_candidate = entry.file_name().to_string_lossy().starts_with(PREFIX)
            && entry.metadata().is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == ours);
        if !is_candidate {
            continue;
        }
        match File::open(entry.path().join(LOCK)) {
            // Where it can be locked, nobody alive holds it. The lock is kept until the folder is gone.
            Ok(lock) => {
                if lock.try_lock().is_ok() {
                    let _ = fs::remove_dir_all(entry.path());
                }
            }
            // It is being made, or its removal was not completed.
            Err(_) => {
                if entry.metadata().is_ok_and(|metadata| is_old(&metadata)) {
                    let _ = fs::remove_dir_all(entry.path());
                }
            }
        }
    }
}

fn is_old(metadata: &fs::Metadata) -> bool {
    metadata
        .modified()
        .ok()
        .and_then(|modified| modified.elapsed().ok())
        .is_some_and(|age| age > UNLOCKED_AGE)
}

fn is_same_file(file: &File, path: &Path) -> bool {
    match (file.metadata(), path.metadata()) {
        (Ok(file), Ok(path)) => file.ino() == path.ino() && file.dev() == path.dev(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_the_living_stay_and_those_of_the_dead_are_swept() {
        let parent = tempfile::tempdir().unwrap();
        let dead = parent.path().join(format!("{PREFIX}dead"));
        fs::create_dir_all(dead.join("launch-0/Default")).unwrap();
        fs::write(dead.join(LOCK), "").unwrap();
        let unlocked = parent.path().join(format!("{PREFIX}unlocked"));
        fs::create_dir(&unlocked).unwrap();
        File::open(&unlocked).unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        let being_made = parent.path().join(format!("{PREFIX}new"));
        fs::create_dir(&being_made).unwrap();
        let stranger = parent.path().join("something-else");
        fs::create_dir(&stranger).unwrap();
        let first = ProfileFolders::create(parent.path()).unwrap();
        let profile = first.profile().unwrap();
        let second = ProfileFolders::create(parent.path()).unwrap();
        assert!(!dead.exists() && !unlocked.exists());
        assert!(being_made.exists() && stranger.exists() && profile.path().exists());
        assert_ne!(profile.path(), second.profile().unwrap().path());
        let path = profile.path().to_owned();
        drop(profile);
        assert!(!path.exists());
        drop((first, second));
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 2, "only those that are not ours are left");
    }
}
