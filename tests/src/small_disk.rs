//! A small disk of a test's own, which it can fill: a file system in memory, mounted while this lives. To mount one takes
//! root, or `sudo` that asks for no password.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::privileged::privileged;

/// How many files and folders it can hold.
const NAMES: u32 = 8192;
/// What ballast lies in.
const BALLAST: &str = "ballast";
/// The one file of it that has bytes.
const BYTES: &str = "bytes";
const PIECE: [u8; 4096] = [0; 4096];

/// A mounted disk. Dropping it unmounts it, whoever still uses it.
#[derive(Debug)]
pub struct SmallDisk {
    at: PathBuf,
    /// Of the files that were made to use them up.
    names: AtomicU32,
}

impl SmallDisk {
    /// Mounts an empty disk over a folder. Everybody may write to it.
    ///
    /// # Panics
    /// It cannot be mounted.
    pub fn mount(at: &Path, mib: u32) -> Self {
        let options = format!("size={mib}m,nr_inodes={NAMES},mode=0777");
        let mounted = privileged("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at).status();
        assert!(
            mounted.is_ok_and(|status| status.success()),
            "no small disk could be mounted at {}: that takes root, or `sudo -v` beforehand",
            at.display()
        );
        let disk = Self { at: at.to_owned(), names: AtomicU32::new(0) };
        fs::create_dir(disk.ballast()).expect("it is empty");
        disk.make_room();
        fs::set_permissions(disk.ballast(), fs::Permissions::from_mode(0o755)).expect("it is ours");
        disk
    }

    /// A new folder on it, which belongs to this user.
    ///
    /// # Panics
    /// It cannot be made.
    pub fn folder(&self, name: &str, owner: Option<(u32, u32)>) -> PathBuf {
        let folder = self.at.join(name);
        fs::create_dir(&folder).expect("there is room");
        if let Some((user, group)) = owner {
            std::os::unix::fs::chown(&folder, Some(user), Some(group)).expect("we may give it away");
        }
        folder
    }

    /// Fills it: not one byte more finds room, whoever freed some since the last time.
    ///
    /// # Panics
    /// It fails otherwise than for want of room.
    pub fn fill(&self) {
        let bytes = File::options().append(true).open(self.ballast().join(BYTES));
        let mut bytes = bytes.expect("it was made when there was room");
        let error = loop {
            if let Err(error) = bytes.write_all(&PIECE) {
                break error;
            }
        };
        assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
    }

    /// Uses up its names: no file and no folder more can be made, whoever removed some since the last time. On most disks that
    /// comes with the last byte; on this one it does not.
    ///
    /// # Panics
    /// It fails otherwise than for want of room.
    pub fn fill_names(&self) {
        let create = || {
            let name = self.names.fetch_add(1, Ordering::Relaxed).to_string();
            File::create_new(self.ballast().join(name))
        };
        let error = (0..=NAMES).find_map(|_| create().err()).expect("it holds no more than it has names");
        assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
    }

    /// Keeps it full, whoever makes room meanwhile; never ends.
    pub async fn stay_full(&self) {
        loop {
            self.fill_names();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Throws the ballast away.
    ///
    /// # Panics
    /// It cannot.
    pub fn make_room(&self) {
        for entry in fs::read_dir(self.ballast()).expect("it is there").flatten() {
            fs::remove_file(entry.path()).expect("it is ours");
        }
        File::create(self.ballast().join(BYTES)).expect("there is room");
    }

    fn ballast(&self) -> PathBuf {
        self.at.join(BALLAST)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = privileged("umount").arg("--lazy").arg(&self.at).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} is still mounted", self.at.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_takes_nothing_until_there_is_room() {
        let folder = tempfile::tempdir().unwrap();
        let disk = SmallDisk::mount(folder.path(), 1);
        let mine = disk.folder("mine", None);
        let file = mine.join("file");
        fs::write(&file, "fits").unwrap();
        disk.fill();
        assert_eq!(fs::write(mine.join("other"), "x").unwrap_err().kind(), ErrorKind::StorageFull);
        fs::remove_file(&file).unwrap();
        disk.fill_names();
        assert_eq!(fs::create_dir(mine.join("folder")).unwrap_err().kind(), ErrorKind::StorageFull);
        disk.make_room();
        fs::create_dir(mine.join("folder")).unwrap();
        fs::write(&file, "fits").unwrap();
        drop(disk);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "it is unmounted");
    }
}
