//! Finds the programs of Postgres that are on the machine. Downloads nothing.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use crawlify_shared::child::Account;
use crawlify_shared::config;

use super::error::StartError;
use super::folder;

/// The oldest major version that works.
pub(crate) const OLDEST_MAJOR: u32 = 14;

/// A folder with `initdb` and `postgres` of one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Binaries {
    pub(crate) folder: PathBuf,
    /// As Postgres says it: "15.20", "17beta1".
    pub(crate) version: String,
    pub(crate) major: u32,
}

impl Binaries {
    pub(crate) fn initdb(&self) -> PathBuf {
        self.folder.join("initdb")
    }

    pub(crate) fn postgres(&self) -> PathBuf {
        self.folder.join("postgres")
    }
}

/// What was looked at, in order of preference: usable folders, and why the others are not.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) usable: Vec<Binaries>,
    pub(crate) rejected: Vec<String>,
}

/// Looks at every place where the programs can be; a folder that the user named is the only place.
pub(crate) async fn find(named: Option<&Path>, account: Option<&Account>) -> Found {
    let named = named.map(Path::to_owned).or_else(|| config::variable(config::PG_BIN).map(PathBuf::from));
    let places = match named {
        Some(folder) => vec![folder],
        None => usual_places().await,
    };
    let mut found = Found::default();
    let mut seen = Vec::new();
    for place in places {
        let place = place.canonicalize().unwrap_or(place);
        if seen.contains(&place) {
            continue;
        }
        match examine(&place, account).await {
            Ok(binaries) => found.usable.push(binaries),
            Err(why) => found.rejected.push(format!("{}: {why}", place.display())),
        }
        seen.push(place);
    }
    found
}

impl Found {
    /// The error to show when nothing is usable.
    pub(crate) fn none(&self) -> StartError {
        let mut text =
            String::from("found no Postgres programs (initdb and postgres of version 14 or later)");
        for why in &self.rejected {
            text.push_str("\n  ");
            text.push_str(why);
        }
        text.push_str("\nEither install them: ");
        text.push_str(install_command());
        text.push_str("\n  or say where they are: CRAWLIFY_PG_BIN=DIR");
        text.push_str("\n  or use a database that runs already: --database-url URL (CRAWLIFY_DATABASE_URL)");
        StartError::NoBinaries(text)
    }
}

/// The command that installs Postgres on this kind of machine.
pub(crate) fn install_command() -> &'static str {
    let has = |program: &str| on_path(program).is_some();
    if has("apt-get") {
        "apt-get install postgresql"
    } else if has("dnf") {
        "dnf install postgresql-server"
    } else if has("apk") {
        "apk add postgresql"
    } else if has("pacman") {
        "pacman -S postgresql"
    } else if has("zypper") {
        "zypper install postgresql-server"
    } else if has("brew") {
        "brew install postgresql"
    } else {
        "the package is usually called postgresql or postgresql-server"
    }
}

async fn usual_places() -> Vec<PathBuf> {
    let mut places = Vec::new();
    if let Ok(folder) = output("pg_config".as_ref(), "--bindir").await {
        places.push(PathBuf::from(folder));
    }
    // What is on the path may be a link to the real program, and initdb stands beside the real one.
    if let Some(program) = on_path("postgres").and_then(|program| program.canonicalize().ok()) {
        places.extend(program.parent().map(Path::to_owned));
    }
    places.extend(newest_first("/usr/lib/postgresql", "", "bin"));
    places.extend(newest_first("/usr", "pgsql-", "bin"));
    for homebrew in ["/opt/homebrew/opt", "/usr/local/opt", "/home/linuxbrew/.linuxbrew/opt"] {
        places.extend(newest_first(homebrew, "postgresql@", "bin"));
    }
    places.extend(newest_first("/Applications/Postgres.app/Contents/Versions", "", "bin"));
    places
}

/// `parent/prefix*/inside`, the greatest number first; names without a number do not count.
fn newest_first(parent: &str, prefix: &str, inside: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(parent) else { return Vec::new() };
    let mut versions: Vec<(u32, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok()?;
            Some((number, entry.path().join(inside)))
        })
        .collect();
    versions.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
    versions.into_iter().map(|(_, path)| path).collect()
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = config::variable("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

async fn examine(folder: &Path, account: Option<&Account>) -> Result<Binaries, String> {
    let (postgres, initdb) = (folder.join("postgres"), folder.join("initdb"));
    if let Some(missing) = [&postgres, &initdb].into_iter().find(|file| !file.is_file()) {
        let name = missing.file_name().unwrap_or_default().to_string_lossy();
        return Err(format!("there is no `{name}`"));
    }
    if let Some(account) = account
        && let Some(closed) = folder::closed_to(folder, account)
    {
        return Err(format!("account {} cannot enter {}", account.name, closed.display()));
    }
    let version = version_of(&postgres).await?;
    let of_initdb = version_of(&initdb).await?;
    let major = major_of(&version).ok_or_else(|| format!("cannot read the version `{version}`"))?;
    if major_of(&of_initdb) != Some(major) {
        return Err(format!("postgres is version {version}, but initdb {of_initdb}"));
    }
    if major < OLDEST_MAJOR {
        return Err(format!("version {version} is too old"));
    }
    Ok(Binaries { folder: folder.to_owned(), version, major })
}

/// "postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)" -> "15.20"
async fn version_of(program: &Path) -> Result<String, String> {
    let line = output(program, "--version").await?;
    let version = line.split_once("(PostgreSQL)").and_then(|(_, rest)| rest.split_whitespace().next());
    version.map(str::to_owned).ok_or_else(|| format!("`{} --version` says `{line}`", program.display()))
}

pub(crate) fn major_of(version: &str) -> Option<u32> {
    let digits: String = version.trim().chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

async fn output(program: &Path, argument: &str) -> Result<String, String> {
    let mut command = tokio::process::Command::new(program);
    command.arg(argument).stdin(Stdio::null()).kill_on_drop(true);
    match tokio::time::timeout(Duration::from_secs(10), command.output()).await {
        Ok(Ok(output)) if output.status.success() => {
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        }
        Ok(Ok(output)) => Err(format!("`{} {argument}` fails: {}", program.display(), output.status)),
        Ok(Err(error)) => Err(format!("`{}` does not start: {error}", program.display())),
        Err(_) => Err(format!("`{} {argument}` hangs", program.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_the_first_number() {
        assert_eq!(major_of("15.20"), Some(15));
        assert_eq!(major_of("17beta1"), Some(17));
        assert_eq!(major_of("16\n"), Some(16));
        assert_eq!(major_of("devel"), None);
    }

    #[test]
    fn the_greatest_version_comes_first_by_number_and_not_by_letter() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["9", "14", "101", "wal"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let found = newest_first(folder.path().to_str().unwrap(), "", "bin");
        let expected: Vec<_> = ["101", "14", "9"].map(|name| folder.path().join(name).join("bin")).into();
        assert_eq!(found, expected);
    }

    #[tokio::test]
    async fn a_folder_without_the_programs_is_rejected_with_the_ways_out() {
        let folder = tempfile::tempdir().unwrap();
        let found = find(Some(folder.path()), None).await;
        assert_eq!(found.usable, []);
        let error = found.none();
        assert_eq!(error.exit_code(), 78);
        let text = error.to_string();
        for expected in ["there is no `postgres`", install_command(), "CRAWLIFY_PG_BIN=", "--database-url"] {
            assert!(text.contains(expected), "{text}");
        }
    }
}
