//! Finds the browser's program on this machine. Never downloads one, and starts it only to ask for its version.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crawlify_shared::config;

/// Where browsers are, the better ones first. Debian's real programs come before the shell scripts that wrap them:
/// a wrapper that stays in between would get the signals meant for the browser, and adds flags of its own.
const CANDIDATES: [&str; 9] = [
    "/usr/lib/chromium/chromium-headless-shell",
    "chromium-headless-shell",
    "chrome-headless-shell",
    "headless-shell",
    "/usr/lib/chromium/chromium",
    "chromium",
    "chromium-browser",
    "google-chrome-stable",
    "google-chrome",
];

/// Where programs are looked for where `PATH` does not say.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin:/opt/google/chrome";

/// A browser's program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundBrowser {
    /// Its absolute path.
    pub path: PathBuf,
}

/// There is no browser to run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FindBrowserError {
    /// None of the known programs is installed.
    #[error(
        "no Chrome or Chromium was found; run `apt-get install chromium-headless-shell`, or set {} to the program",
        config::CHROME
    )]
    NotInstalled,
    /// The program that was asked for does not exist or may not be run.
    #[error(
        "`{}` is not a program that can be run; run `apt-get install chromium-headless-shell` and unset {}",
        .0.display(),
        config::CHROME
    )]
    NotAProgram(PathBuf),
}

/// Finds the browser: the one that `CRAWLIFY_CHROME` names, or the best one that is installed.
///
/// # Errors
/// There is none; the message says how to install one.
pub fn find_browser() -> Result<FoundBrowser, FindBrowserError> {
    find_browser_or(None)
}

/// Finds the browser: `chosen`, or as [`find_browser`] does.
pub(super) fn find_browser_or(chosen: Option<PathBuf>) -> Result<FoundBrowser, FindBrowserError> {
    let named = chosen.or_else(|| config::variable(config::CHROME).map(PathBuf::from));
    find(named.as_deref(), &config::variable("PATH").unwrap_or_else(|| DEFAULT_PATH.to_owned()))
}

/// Finds the browser: `named`, or the best one that is installed under the folders of `search_path`.
fn find(named: Option<&Path>, search_path: &str) -> Result<FoundBrowser, FindBrowserError> {
    if let Some(named) = named {
        return resolve(named, search_path)
            .map(|path| FoundBrowser { path })
            .ok_or_else(|| FindBrowserError::NotAProgram(named.to_owned()));
    }
    CANDIDATES
        .iter()
        .find_map(|candidate| resolve(Path::new(candidate), search_path))
        .map(|path| FoundBrowser { path })
        .ok_or(FindBrowserError::NotInstalled)
}

impl FoundBrowser {
    /// Asks the program for its version, such as `156.0.8078.79`. Blocks until it has answered.
    pub fn version(&self) -> Option<String> {
        let output = Command::new(&self.path).arg("--version").output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit())).map(str::to_owned)
    }
}

fn resolve(program: &Path, search_path: &str) -> Option<PathBuf> {
    if program.components().count() > 1 {
        return std::path::absolute(program).ok().filter(|path| is_program(path));
    }
    std::env::split_paths(search_path)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(program))
        .find(|path| is_program(path))
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_installed_browser_is_found_and_says_its_version() {
        let found = find(None, DEFAULT_PATH).unwrap();
        let version = found.version().unwrap();
        assert!(version.split('.').count() >= 2, "{version}");
    }

    #[test]
    fn a_program_that_is_not_there_is_an_error_with_the_command_to_run() {
        let error = find(Some(Path::new("/no/such/chrome")), DEFAULT_PATH).unwrap_err();
        assert!(error.to_string().contains("apt-get install chromium-headless-shell"), "{error}");
        let error = find(Some(Path::new("no-such-chrome")), "/no/such/folder").unwrap_err();
        assert_eq!(error, FindBrowserError::NotAProgram("no-such-chrome".into()));
    }

    #[test]
    fn a_name_without_a_folder_is_looked_for_in_the_search_path() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("my-chrome");
        std::fs::write(&program, "#!/bin/sh\n").unwrap();
        let search_path = folder.path().to_str().unwrap();
        assert!(find(Some(Path::new("my-chrome")), search_path).is_err(), "it is not executable yet");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find(Some(Path::new("my-chrome")), search_path).unwrap().path, program);
    }
}
