//! A folder of files as a site. It never gives out a file that does not lie in the folder, by whatever path or link it
//! is asked for.

use std::borrow::Cow;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use chrono::{DateTime, Utc};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use super::resource::{Lookup, Resource};

/// Files are answered from memory; greater ones count as missing.
const LARGEST_FILE_BYTES: u64 = 256 << 20;
const INDEX: &str = "index.html";
/// What a path segment in a `Location` must not hold as it is.
const SEGMENT: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'%').add(b'<').add(b'>').add(b'?').add(b'`').add(b'\\');

/// A folder that is served.
pub(super) struct Folder {
    /// Absolute, with every symbolic link resolved.
    root: PathBuf,
}

impl Folder {
    /// Opens a folder.
    ///
    /// # Errors
    /// It does not exist, is no folder, or may not be read.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let explain = |error: io::Error| {
            io::Error::new(error.kind(), format!("cannot serve the folder {}: {error}", path.display()))
        };
        let root = path.canonicalize().map_err(explain)?;
        fs::read_dir(&root).map_err(explain)?;
        Ok(Self { root })
    }

    /// Looks a request's path up; `path` is percent-encoded. Blocks on the file system.
    pub(super) fn look_up(&self, path: &str) -> Lookup {
        let Some(decoded) = decode(path) else { return Lookup::Missing };
        self.find(&decoded).unwrap_or(Lookup::Missing)
    }

    fn find(&self, path: &str) -> Option<Lookup> {
        let relative = Path::new(path.trim_start_matches('/'));
        if !relative.components().all(|component| matches!(component, Component::Normal(_))) {
            return None;
        }
        let inside = self.resolve(relative)?;
        if !inside.is_dir() {
            // `/file/` is not `/file`.
            return if path.ends_with('/') { None } else { read(&inside).map(Lookup::Found) };
        }
        let index = self.resolve(&relative.join(INDEX)).filter(|index| index.is_file())?;
        if path.ends_with('/') {
            read(&index).map(Lookup::Found)
        } else {
            // Relative links in the index need the slash.
            Some(Lookup::Moved(encode(&format!("/{}/", path.trim_start_matches('/')))))
        }
    }

    /// Where a path really leads, unless that is outside.
    fn resolve(&self, relative: &Path) -> Option<PathBuf> {
        self.root.join(relative).canonicalize().ok().filter(|real| real.starts_with(&self.root))
    }
}

fn decode(path: &str) -> Option<Cow<'_, str>> {
    percent_decode_str(path).decode_utf8().ok().filter(|path| !path.contains(['\0', '\\']))
}

fn encode(path: &str) -> String {
    path.split('/')
        .map(|segment| utf8_percent_encode(segment, SEGMENT).to_string())
        .collect::<Vec<_>>()
        .join("/")
}

fn read(path: &Path) -> Option<Resource> {
    let metadata = fs::metadata(path).ok()?;
    if !metadata.is_file() || metadata.len() > LARGEST_FILE_BYTES {
        return None;
    }
    let body = fs::read(path).ok()?;
    let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    let age = modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Some(Resource {
        content_type: content_type(path),
        etag: format!("\"{:x}-{:x}\"", age.as_millis(), body.len()),
        last_modified: Some(DateTime::<Utc>::from(modified).format("%a, %d %b %Y %H:%M:%S GMT").to_string()),
        body: body.into(),
        cacheable: false,
    })
}

/// The type by the file's name. No charset: what the file itself declares shall count.
fn content_type(path: &Path) -> Cow<'static, str> {
    // The name of a mirrored file may end with its query: `styles.css?v=3`.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.split('?').next().unwrap_or_default();
    match mime_guess::from_path(name).first_raw() {
        Some(guess) => guess.into(),
        None => "application/octet-stream".into(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn site() -> (tempfile::TempDir, Folder) {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("site");
        fs::create_dir_all(root.join("sub folder")).unwrap();
        fs::create_dir(root.join("empty")).unwrap();
        fs::write(home.path().join("secret.txt"), "secret").unwrap();
        fs::write(root.join("index.html"), "home").unwrap();
        fs::write(root.join("sub folder/index.html"), "sub").unwrap();
        fs::write(root.join("styles.css?v=3"), "css").unwrap();
        symlink("../secret.txt", root.join("escape.txt")).unwrap();
        symlink("..", root.join("up")).unwrap();
        symlink("index.html", root.join("alias.html")).unwrap();
        let folder = Folder::open(&root).unwrap();
        (home, folder)
    }

    fn body(lookup: Lookup) -> Option<String> {
        match lookup {
            Lookup::Found(resource) => Some(String::from_utf8(resource.body.to_vec()).unwrap()),
            _ => None,
        }
    }

    #[test]
    fn files_and_indexes_are_found() {
        let (_home, folder) = site();
        assert_eq!(body(folder.look_up("/")).as_deref(), Some("home"));
        assert_eq!(body(folder.look_up("/index.html")).as_deref(), Some("home"));
        assert_eq!(body(folder.look_up("/sub%20folder/")).as_deref(), Some("sub"));
        assert_eq!(body(folder.look_up("/alias.html")).as_deref(), Some("home"));
        assert_eq!(folder.look_up("/sub%20folder"), Lookup::Moved("/sub%20folder/".to_owned()));
        assert_eq!(folder.look_up("/empty/"), Lookup::Missing);
        assert_eq!(folder.look_up("/index.html/"), Lookup::Missing);
    }

    #[test]
    fn nothing_outside_the_folder_is_given_out() {
        let (_home, folder) = site();
        for path in [
            "/../secret.txt",
            "/%2e%2e/secret.txt",
            "/..%2fsecret.txt",
            "/sub%20folder/../../secret.txt",
            "/..\\secret.txt",
            "//etc/passwd",
            "/%2fetc/passwd",
            "/escape.txt",
            "/up/secret.txt",
            "/up/",
            "/secret.txt%00.html",
            "/%ff",
        ] {
            assert_eq!(folder.look_up(path), Lookup::Missing, "{path}");
        }
    }

    #[test]
    fn the_type_follows_the_name() {
        let (_home, folder) = site();
        let Lookup::Found(resource) = folder.look_up("/styles.css%3Fv=3") else { panic!("missing") };
        assert_eq!(resource.content_type, "text/css");
        assert!(resource.last_modified.unwrap().ends_with(" GMT"));
        assert_eq!(content_type(Path::new("a.jpg")), "image/jpeg");
        assert_eq!(content_type(Path::new("a")), "application/octet-stream");
    }

    #[test]
    fn a_folder_that_does_not_exist_is_named() {
        let error = Folder::open(Path::new("/no/such/folder")).err().unwrap();
        assert!(error.to_string().contains("/no/such/folder"), "{error}");
    }
}
