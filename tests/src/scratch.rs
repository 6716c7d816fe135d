//! A folder for everything that a program under test and its children write, and the sight of what stayed behind.
//!
//! A program finds it as its folder for temporary files, so that tests which run at the same time never sweep, or
//! look at, what belongs to another.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// An empty folder that is removed in the end.
#[derive(Debug)]
pub struct Scratch {
    folder: TempDir,
    temporary: PathBuf,
}

impl Scratch {
    /// Makes one. Other accounts may pass through: Chrome and Postgres run under them where the tests run as root.
    ///
    /// # Panics
    /// It cannot be made.
    pub fn create() -> Self {
        // A short name in a short place: the path of Postgres' socket must not get too long.
        let folder =
            tempfile::Builder::new().prefix("crawlify-e2e-").tempdir_in("/tmp").expect("a folder in /tmp");
        let temporary = folder.path().join("tmp");
        std::fs::create_dir(&temporary).expect("a folder within");
        for open in [folder.path(), &temporary] {
            std::fs::set_permissions(open, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
        }
        Self { folder, temporary }
    }

    /// A path in it that no program looks at by itself.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where programs put their temporary files.
    pub fn temporary(&self) -> &Path {
        &self.temporary
    }

    /// What lies among the temporary files.
    ///
    /// # Panics
    /// The folder is gone.
    pub fn leftovers(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.temporary).expect("the folder is there");
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }
}
