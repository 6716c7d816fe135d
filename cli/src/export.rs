//! Writes an execution's items into a file, one JSON object a line.

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

/// An output file that takes its name only when it is complete: a crawl that fails leaves an older file as it was.
#[derive(Debug)]
pub(crate) struct Export {
    path: PathBuf,
    /// In the same folder; removed when it is dropped before the end. `None` writes to stdout.
    partial: Option<tempfile::NamedTempFile>,
}

impl Export {
    /// Opens the file, so that a path that cannot be written to is found before the crawl. `-` is stdout.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        if path == Path::new("-") {
            return Ok(Self { path: path.to_owned(), partial: None });
        }
        let cannot = |error: io::Error| {
            Failure::new(
                Code::Usage,
                format!("cannot write {}: {error}; give another file with -o", path.display()),
            )
        };
        if path.is_dir() {
            return Err(cannot(io::Error::other("it is a folder")));
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let partial = tempfile::Builder::new()
            .prefix(".crawlify-")
            .suffix(".partial")
            .tempfile_in(folder)
            .map_err(cannot)?;
        Ok(Self { path: path.to_owned(), partial: Some(partial) })
    }

    /// Writes every item, in the order of extraction. Answers the file, or `None` for stdout.
    pub(crate) async fn write(
        self,
        store: &Store,
        execution: ExecutionId,
    ) -> Result<Option<OutputFile>, Failure> {
        let cannot = |error: io::Error| {
            Failure::new(Code::Configuration, format!("cannot write {}: {error}", self.path.display()))
        };
        let mut writer: Box<dyn Write + Send> = match &self.partial {
            Some(file) => Box::new(BufWriter::new(file.reopen().map_err(cannot)?)),
            None => Box::new(io::stdout()),
        };
        let mut after = None;
        loop {
            let items = store
                .items_after(execution, after, PAGE)
                .await
                .map_err(|error| Failure::of(Code::Unreachable, &error))?;
            let Some(last) = items.last() else { break };
            after = Some(last.cursor());
            for item in &items {
                writeln!(writer, "{}", line(item)).map_err(cannot)?;
            }
        }
        writer.flush().map_err(cannot)?;
        drop(writer);
        let Some(partial) = self.partial else { return Ok(None) };
        let bytes = partial.as_file().metadata().map_err(cannot)?.len();
        let path = self.path;
        let persisted = partial.persist(&path).map_err(|error| {
            Failure::new(Code::Configuration, format!("cannot write {}: {}", path.display(), error.error))
        })?;
        readable_by_others(&persisted);
        Ok(Some(OutputFile { path, bytes }))
    }
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
fn readable_by_others(file: &std::fs::File) {
    use std::os::unix::fs::PermissionsExt;
    let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    rustix::process::umask(mask);
    let mode = 0o666 & !mask.bits();
    if let Err(error) = file.set_permissions(std::fs::Permissions::from_mode(mode)) {
        tracing::warn!(%error, "the output file stays readable by its owner alone");
    }
}
