//! The API's keys: how one is made, how it is written down where the coordinator reads it, and how it is recognised.
//! Only hashes are ever kept: who reads the configuration cannot use the API with what is found there.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use crawlify_shared::config::{API_KEY_FILE, API_KEY_HASHES};
use rand::TryRngCore;
use rand::rngs::OsRng;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

/// How a key begins, so that one is seen for what it is wherever it turns up.
pub const PREFIX: &str = "crawlify_";
const HASH_BYTES: usize = 32;

/// What a key is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Scope {
    /// Reading.
    Read,
    /// Everything.
    Admin,
}

impl Scope {
    const ALL: [Self; 2] = [Self::Read, Self::Admin];

    /// The name in configurations.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Admin => "admin",
        }
    }
}

/// A key that was just made. It is shown once, and nothing but its hash stays.
pub struct NewKey {
    /// What its holder sends.
    pub text: String,
    /// What the coordinator is told.
    pub hash: KeyHash,
}

impl NewKey {
    /// Makes a key of 256 random bits.
    ///
    /// # Errors
    /// The operating system has no random numbers.
    pub fn generate(scope: Scope) -> Result<Self, rand::rand_core::OsError> {
        let mut secret = [0; 32];
        OsRng.try_fill_bytes(&mut secret)?;
        let text = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(secret));
        let hash = KeyHash { scope, hash: Sha256::digest(&text).into() };
        Ok(Self { text, hash })
    }
}

/// What is kept of a key: `SCOPE:HASH`, where the hash is the SHA-256 of the whole key, in hexadecimal.
///
/// One round of SHA-256 is enough: nobody can try 2^256 keys, as they can try passwords.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyHash {
    scope: Scope,
    hash: [u8; HASH_BYTES],
}

impl KeyHash {
    /// The first digits of the hash, by which logs name the key.
    pub fn id(&self) -> String {
        hex::encode(&self.hash[..4])
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.scope.as_str(), hex::encode(self.hash))
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}...", self.scope.as_str(), self.id())
    }
}

/// What is no key's hash. It is not repeated: it may be a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyHashError {
    /// A key was given.
    #[error("this is a key; give its hash, which `crawlify keys create` shows beside it")]
    IsKey,
    /// Something else was given.
    #[error(
        "this is no `read:HASH` or `admin:HASH` with the 64 digits of a SHA-256; make one with `crawlify keys create`"
    )]
    Malformed,
}

impl FromStr for KeyHash {
    type Err = KeyHashError;

    fn from_str(text: &str) -> Result<Self, KeyHashError> {
        if text.contains(PREFIX) {
            return Err(KeyHashError::IsKey);
        }
        let (scope, digits) = text.trim().split_once(':').ok_or(KeyHashError::Malformed)?;
        let scope =
            Scope::ALL.into_iter().find(|known| known.as_str() == scope).ok_or(KeyHashError::Malformed)?;
        let mut hash = [0; HASH_BYTES];
        hex::decode_to_slice(digits, &mut hash).map_err(|_| KeyHashError::Malformed)?;
        Ok(Self { scope, hash })
    }
}

/// All keys that are good. Without any, nobody is asked for one.
#[derive(Clone, Debug, Default)]
pub struct ApiKeys(Vec<KeyHash>);

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// What the key is good for.
    pub scope: Scope,
    /// As [`KeyHash::id`].
    pub key_id: String,
}

impl ApiKeys {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Recognises a key. How long that takes tells nothing of the keys that there are.
    pub fn holder(&self, key: &[u8]) -> Option<Holder> {
        let hash: [u8; HASH_BYTES] = Sha256::digest(key).into();
        let (mut found, mut place) = (Choice::from(0), 0_u32);
        for (number, known) in (0..).zip(&self.0) {
            let same = known.hash.ct_eq(&hash);
            place.conditional_assign(&number, same);
            found |= same;
        }
        // From here on the caller knows that the key is good anyway.
        let known = bool::from(found).then(|| self.0.get(usize::try_from(place).ok()?))??;
        Some(Holder { scope: known.scope, key_id: known.id() })
    }
}

impl FromIterator<KeyHash> for ApiKeys {
    fn from_iter<I: IntoIterator<Item = KeyHash>>(keys: I) -> Self {
        Self(keys.into_iter().collect())
    }
}

/// The part of command lines that names the keys.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct KeyArgs {
    /// Who asks the REST API must send a key with this hash, as `crawlify keys create` shows it; separated by commas,
    /// or given several times.
    // Text until it is read: a mistake would be shown with what was given, which may be a key.
    #[arg(
        long = "api-key-hash",
        env = API_KEY_HASHES,
        hide_env_values = true,
        value_name = "SCOPE:HASH",
        value_delimiter = ','
    )]
    pub hashes: Vec<String>,
    /// The same, from a file with one SCOPE:HASH a line; after `#` is a comment.
    #[arg(long = "api-key-file", env = API_KEY_FILE, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// Why the keys of a command line are not known.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// What was given directly is wrong.
    #[error("--api-key-hash, or {API_KEY_HASHES}, is wrong")]
    Given(#[source] KeyHashError),
    /// The file cannot be read.
    #[error("cannot read the file of API keys {}", .0.display())]
    Unreadable(PathBuf, #[source] std::io::Error),
    /// A line of it is wrong.
    #[error("line {line} of the file of API keys {} is wrong", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it.
        source: KeyHashError,
    },
    /// It has none.
    #[error("the file of API keys {} holds no key", .0.display())]
    Empty(PathBuf),
}

impl KeyArgs {
    /// Collects the keys.
    ///
    /// # Errors
    /// A hash is none, or the file cannot be read or holds none.
    pub fn read(&self) -> Result<ApiKeys, KeysError> {
        let given: Result<Vec<KeyHash>, _> = self.hashes.iter().map(|hash| hash.parse()).collect();
        let mut keys = given.map_err(KeysError::Given)?;
        if let Some(path) = &self.file {
            let text =
                std::fs::read_to_string(path).map_err(|error| KeysError::Unreadable(path.clone(), error))?;
            let before = keys.len();
            for (line, text) in (1..).zip(text.lines()) {
                let hash = text.split('#').next().unwrap_or_default().trim();
                if !hash.is_empty() {
                    let wrong = |source| KeysError::Malformed { path: path.clone(), line, source };
                    keys.push(hash.parse().map_err(wrong)?);
                }
            }
            if keys.len() == before {
                return Err(KeysError::Empty(path.clone()));
            }
        }
        Ok(keys.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_recognised_by_its_hash_alone() {
        let (reader, admin) =
            (NewKey::generate(Scope::Read).unwrap(), NewKey::generate(Scope::Admin).unwrap());
        // As it goes through the configuration.
        let keys: ApiKeys =
            [&reader, &admin].map(|key| key.hash.to_string().parse().unwrap()).into_iter().collect();
        for (key, scope) in [(&reader, Scope::Read), (&admin, Scope::Admin)] {
            let holder = keys.holder(key.text.as_bytes()).unwrap();
            assert_eq!((holder.scope, holder.key_id), (scope, key.hash.id()));
        }
        let mut almost = admin.text.clone().into_bytes();
        *almost.last_mut().unwrap() ^= 1;
        for wrong in [&almost[..], b"", admin.hash.to_string().as_bytes(), b"crawlify_"] {
            assert_eq!(keys.holder(wrong), None);
        }
        assert_eq!(ApiKeys::default().holder(b""), None);
    }

    #[test]
    fn keys_are_long_and_never_the_same() {
        let (first, second) =
            (NewKey::generate(Scope::Read).unwrap(), NewKey::generate(Scope::Read).unwrap());
        assert_ne!(first.text, second.text);
        assert_eq!(first.text.len(), PREFIX.len() + 43, "256 bits in base64");
        assert!(!first.hash.to_string().contains(&first.text[PREFIX.len()..]));
    }

    #[test]
    fn a_hash_is_that_which_every_tool_computes() {
        let known: KeyHash =
            "read:2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b".parse().unwrap();
        let keys: ApiKeys = [known].into_iter().collect();
        assert!(keys.holder(b"secret").is_some(), "printf %s secret | sha256sum");
    }

    #[test]
    fn what_is_no_hash_is_refused_and_not_repeated() {
        let key = NewKey::generate(Scope::Read).unwrap();
        let hash = key.hash.to_string();
        for (text, error) in [
            (key.text.as_str(), KeyHashError::IsKey),
            (&format!("read:{}", key.text), KeyHashError::IsKey),
            ("", KeyHashError::Malformed),
            ("read", KeyHashError::Malformed),
            (&hash[5..], KeyHashError::Malformed),
            (&hash[..hash.len() - 1], KeyHashError::Malformed),
            (&format!("{hash}0"), KeyHashError::Malformed),
            (&hash.replace("read", "write"), KeyHashError::Malformed),
        ] {
            assert_eq!(text.parse::<KeyHash>(), Err(error), "{text}");
            assert!(!error.to_string().contains(&key.text));
        }
    }

    #[test]
    fn a_file_has_one_hash_a_line_and_comments_and_must_not_be_empty() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            KeyArgs { hashes: Vec::new(), file: Some(path.clone()) }.read()
        };
        let (first, second) =
            (NewKey::generate(Scope::Read).unwrap(), NewKey::generate(Scope::Admin).unwrap());
        let text = format!("# Ours.\n\n  {} # grafana\n{}\n", first.hash, second.hash);
        let keys = read(&text).unwrap();
        assert!(
            keys.holder(first.text.as_bytes()).is_some() && keys.holder(second.text.as_bytes()).is_some()
        );
        assert!(matches!(read("# nobody\n\n"), Err(KeysError::Empty(_))));
        assert!(matches!(
            read(&format!("{}\nread\n", first.hash)),
            Err(KeysError::Malformed { line: 2, .. })
        ));
        std::fs::remove_file(&path).unwrap();
        let gone = KeyArgs { hashes: Vec::new(), file: Some(path.clone()) };
        assert!(matches!(gone.read(), Err(KeysError::Unreadable(..))));
        // An empty variable is no wish to leave the API open.
        for given in [String::new(), first.text] {
            assert!(matches!(KeyArgs { hashes: vec![given], file: None }.read(), Err(KeysError::Given(_))));
        }
    }
}
