//! The identity of a URL: two URLs that name the same page are one row of the frontier.
//!
//! WHATWG parsing (<https://url.spec.whatwg.org>) lowers the host and drops default ports; on top of that the fragment
//! goes, and only `http` and `https` stay.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use url::Url;

/// The longest URL that is accepted, in bytes.
pub const MAX_URL_BYTES: usize = 4096;

/// A normalised absolute URL with the scheme `http` or `https`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PageUrl(Url);

/// Why a string is no page's URL.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PageUrlError {
    /// It does not parse.
    #[error("not an absolute URL: {0}")]
    Malformed(url::ParseError),
    /// It is not `http` or `https`.
    #[error("the scheme `{0}` is not http or https")]
    Scheme(String),
    /// It has no host.
    #[error("it has no host")]
    NoHost,
    /// It carries a user name or password.
    #[error("it carries a user name or password")]
    Credentials,
    /// It is longer than [`MAX_URL_BYTES`].
    #[error("it is longer than {MAX_URL_BYTES} bytes")]
    TooLong,
}

impl PageUrl {
    /// Parses an absolute URL.
    ///
    /// # Errors
    /// Says why the string is no page's URL.
    pub fn parse(input: &str) -> Result<Self, PageUrlError> {
        Self::normalise(Url::parse(input.trim()).map_err(PageUrlError::Malformed)?)
    }

    /// Resolves a link as found in a document whose base URL is `base`.
    ///
    /// # Errors
    /// Says why the link leads to no page.
    pub fn resolve(base: &Url, link: &str) -> Result<Self, PageUrlError> {
        Self::normalise(base.join(link.trim()).map_err(PageUrlError::Malformed)?)
    }

    fn normalise(mut url: Url) -> Result<Self, PageUrlError> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(PageUrlError::Scheme(url.scheme().to_owned()));
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err(PageUrlError::NoHost);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(PageUrlError::Credentials);
        }
        url.set_fragment(None);
        if url.as_str().len() > MAX_URL_BYTES {
            return Err(PageUrlError::TooLong);
        }
        Ok(Self(url))
    }

    /// The URL as text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The parsed URL.
    pub fn as_url(&self) -> &Url {
        &self.0
    }

    /// The host without the port, lower case: the unit of politeness.
    pub fn host(&self) -> &str {
        self.0.host_str().unwrap_or_default()
    }

    /// The frontier's key: the first 16 bytes of the SHA-256 of the URL.
    pub fn hash(&self) -> [u8; 16] {
        let digest = Sha256::digest(self.as_str().as_bytes());
        let mut hash = [0; 16];
        hash.copy_from_slice(&digest[..16]);
        hash
    }
}

impl fmt::Display for PageUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl TryFrom<String> for PageUrl {
    type Error = PageUrlError;

    fn try_from(value: String) -> Result<Self, Self::Error> {
        Self::parse(&value)
    }
}

impl From<PageUrl> for String {
    fn from(value: PageUrl) -> Self {
        value.0.into()
    }
}
