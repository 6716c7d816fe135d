//! Writes an execution's items into a file, one JSON object a line.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::store::Store;
use crawlify_shared::store::items::ItemRow;
use serde_json::json;

use crate::exit::{Code, Failure};
use crate::summary::OutputFile;

/// Items read from the database at once.
const PAGE: i64 = 500;

/// Where the items go. A regular file takes its name only when it is complete: a crawl that fails leaves an older file
/// as it was.
#[derive(Debug)]
pub(crate) enum Export {
    /// `-`.
    Stdout,
    /// A device, a pipe: what is there stays there, and is written to.
    Into(PathBuf, File),
    /// A regular file, symbolic links followed.
    Replace(PathBuf),
}

impl Export {
    /// Looks at the path, so that one that cannot be written to is found before the crawl. Makes nothing yet.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        if path == Path::new("-") {
            return Ok(Self::Stdout);
        }
        let cannot = |error: io::Error| {
            Failure::new(
                Code::Usage,
                format!("cannot write {}: {error}; give another file with -o", path.display()),
            )
        };
        match path.metadata() {
            Ok(there) if there.is_dir() => return Err(cannot(io::Error::other("it is a folder"))),
            Ok(there) if !there.is_file() => {
                let file = File::options().write(true).open(path).map_err(cannot)?;
                return Ok(Self::Into(path.to_owned(), file));
            }
            _ => {}
        }
        let path = &path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let folder = folder_of(path);
        if !folder.is_dir() {
            return Err(cannot(io::Error::other(format!("there is no folder {}", folder.display()))));
        }
        rustix::fs::access(folder, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)
            .map_err(|error| cannot(error.into()))?;
        Ok(Self::Replace(path.clone()))
    }

    /// Writes every item, in the order of extraction. Answers the file, or `None` for stdout.
    pub(crate) async fn write(
        self,
        store: &Store,
        execution: ExecutionId,
    ) -> Result<Option<OutputFile>, Failure> {
        match self {
            Self::Stdout => {
                write_items(store, execution, &mut io::stdout(), Path::new("stdout")).await?;
                Ok(None)
            }
            Self::Into(path, mut file) => {
                let bytes = write_items(store, execution, &mut file, &path).await?;
                Ok(Some(OutputFile { path, bytes }))
            }
            Self::Replace(path) => {
                let cannot = |error| cannot_write(&path, error);
                let mut partial = tempfile::Builder::new()
                    .prefix(".crawlify-")
                    .suffix(".partial")
                    .tempfile_in(folder_of(&path))
                    .map_err(cannot)?;
                let bytes = write_items(store, execution, partial.as_file_mut(), &path).await?;
                let file = partial.persist(&path).map_err(|error| cannot(error.error))?;
                readable_by_others(&file);
                Ok(Some(OutputFile { path, bytes }))
            }
        }
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn cannot_write(path: &Path, error: io::Error) -> Failure {
    Failure::new(Code::Configuration, format!("cannot write {}: {error}", path.display()))
}

/// Writes every item into `to`, and answers how many bytes they are.
async fn write_items(
    store: &Store,
    execution: ExecutionId,
    to: &mut (impl Write + Send),
    path: &Path,
) -> Result<u64, Failure> {
    let cannot = |error| cannot_write(path, error);
    let mut writer = BufWriter::new(to);
    let (mut bytes, mut after) = (0, None);
    loop {
        let items = store
            .items_after(execution, after, PAGE)
            .await
            .map_err(|error| Failure::of(Code::Unreachable, &error))?;
        let Some(last) = items.last() else { break };
        after = Some(last.cursor());
        for item in &items {
            let line = format!("{}\n", line(item));
            bytes += line.len() as u64;
            writer.write_all(line.as_bytes()).map_err(cannot)?;
        }
    }
    writer.flush().map_err(cannot)?;
    Ok(bytes)
}

fn line(item: &ItemRow) -> serde_json::Value {
    json!({
        "url": item.url,
        "data": item.data,
        "extracted_at": item.extracted_at,
        "item_id": item.id,
        "page_id": item.page_id,
    })
}

/// A temporary file is its owner's alone; an output file is like any other that the user makes.
fn readable_by_others(file: &File) {
    use std::os::unix::fs::PermissionsExt;
    let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    rustix::process::umask(mask);
    let mode = 0o666 & !mask.bits();
    if let Err(error) = file.set_permissions(std::fs::Permissions::from_mode(mode)) {
        tracing::warn!(%error, "the output file stays readable by its owner alone");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_regular_file_is_written_into_and_a_link_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(Export::open(Path::new("/dev/null")), Ok(Export::Into(..))));
        let (target, link) = (folder.path().join("target"), folder.path().join("link"));
        std::fs::write(&target, "old").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let Ok(Export::Replace(path)) = Export::open(&link) else { panic!("a link to a file is a file") };
        assert_eq!(path, target.canonicalize().unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is made before the end");
        assert!(Export::open(folder.path()).is_err());
        assert!(Export::open(&folder.path().join("no/file")).is_err());
    }
}
