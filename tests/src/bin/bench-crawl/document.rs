//! Puts a report into a document, between two marks, and leaves the rest of the document as it is.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result, bail};

const BEGIN: &str = "<!-- bench:begin -->";
const END: &str = "<!-- bench:end -->";

/// Replaces what is between the marks. A document that is not there is begun.
///
/// # Errors
/// It cannot be read or written, or it has no marks.
pub(crate) fn put(file: &Path, report: &str) -> Result<()> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            format!("# Benchmarks\n\nWritten by `make bench WRITE={}`.\n\n{BEGIN}\n{END}\n", file.display())
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
    };
    let Some((before, rest)) = text.split_once(BEGIN) else { bail!("{} has no `{BEGIN}`", file.display()) };
    let Some((_, after)) = rest.split_once(END) else { bail!("{} has no `{END}`", file.display()) };
    let text = format!("{before}{BEGIN}\n{}\n{END}{after}", report.trim_end());
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}
