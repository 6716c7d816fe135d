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

/// For what limits of politeness hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum HostUnit {
    /// Each host by itself.
    #[default]
    Host,
    /// All hosts of a registrable domain together.
    Domain,
}

impl HostUnit {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Host, Self::Domain];

    /// The name in workflow files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Domain => "domain",
        }
    }
}

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

/// Whether text that was meant as a URL may hold a user name or a password, whether or not a parser finds them.
pub fn may_hold_credentials(text: &str) -> bool {
    text.contains('@') || text.contains("%40")
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

    /// Of a link that is too long to lead to a page: the beginning of its URL, by which it can be named, and how many bytes the
    /// whole has. `None` for any other link.
    pub fn beginning_of(base: &Url, link: &str) -> Option<(Self, usize)> {
        let mut url = base.join(link.trim()).ok()?;
        url.set_fragment(None);
        let length = url.as_str().len();
        // A URL has nothing but ASCII.
        let beginning = url.as_str().get(..MAX_URL_BYTES).filter(|_| length > MAX_URL_BYTES)?;
        Some((Self::parse(beginning).ok()?, length))
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

    /// The host without the port, lower case.
    pub fn host(&self) -> &str {
        self.0.host_str().unwrap_or_default()
    }

    /// What limits of politeness hold for: the host, or its registrable domain after the public suffix list
    /// (<https://publicsuffix.org>). A host without one, such as an IP address, is its own.
    pub fn unit_of_politeness(&self, unit: HostUnit) -> &str {
        match (unit, self.0.host()) {
            (HostUnit::Domain, Some(url::Host::Domain(host))) => psl::domain_str(host).unwrap_or(host),
            _ => self.host(),
        }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(input: &str) -> String {
        PageUrl::parse(input).unwrap_or_else(|error| panic!("{input}: {error}")).into()
    }

    fn resolved(base: &str, link: &str) -> Result<String, PageUrlError> {
        PageUrl::resolve(&Url::parse(base).unwrap(), link).map(String::from)
    }

    #[test]
    fn two_ways_to_write_one_page_are_one_url() {
        for (input, expected) in [
            ("http://example.com", "http://example.com/"),
            ("  HTTP://EXAMPLE.com:80/a/../b#part ", "http://example.com/b"),
            ("https://example.com:443/?q=1#", "https://example.com/?q=1"),
            ("https://example.com:8443/", "https://example.com:8443/"),
            ("http://bücher.example/ä", "http://xn--bcher-kva.example/%C3%A4"),
            ("http://XN--BCHER-KVA.example/", "http://xn--bcher-kva.example/"),
            ("http://0x7f.1/", "http://127.0.0.1/"),
            ("http://[0:0::1]/", "http://[::1]/"),
            ("http:\\\\example.com\\a", "http://example.com/a"),
        ] {
            assert_eq!(parsed(input), expected);
            assert_eq!(PageUrl::parse(input).unwrap().hash(), PageUrl::parse(expected).unwrap().hash());
        }
    }

    #[test]
    fn a_link_that_is_too_long_has_a_beginning_that_is_a_url() {
        let base = Url::parse("https://example.com/a/").unwrap();
        let beginning =
            |link: &str| PageUrl::beginning_of(&base, link).map(|(url, length)| (url.to_string(), length));
        let long = format!("{}#part", "ä".repeat(2_000));
        let whole = format!("https://example.com/a/{}", "%C3%A4".repeat(2_000));
        assert_eq!(beginning(&long), Some((whole[..MAX_URL_BYTES].to_owned(), whole.len())));
        assert_eq!(beginning(&format!("mailto:{}", "x".repeat(5_000))), None);
        assert_eq!(beginning(&format!("b#{}", "x".repeat(5_000))), None, "what is too long is not the URL");
    }

    #[test]
    fn no_other_scheme_is_a_page() {
        for other in [
            "file:///etc/hostname",
            "ftp://example.com/",
            "data:text/html,x",
            "chrome://version/",
            "view-source:file:///etc/hostname",
            "view-source:http://example.com/",
            "blob:http://example.com/x",
            "javascript:1",
            "about:blank",
            "filesystem:http://example.com/x",
            "ws://example.com/",
        ] {
            assert!(matches!(PageUrl::parse(other), Err(PageUrlError::Scheme(_))), "{other}");
        }
    }

    #[test]
    fn what_names_another_page_stays_apart() {
        let hash = |input: &str| PageUrl::parse(input).unwrap().hash();
        assert_ne!(hash("http://example.com/a"), hash("http://example.com/a/"));
        assert_ne!(hash("http://example.com/a"), hash("http://example.com/A"));
        assert_ne!(hash("http://example.com/?a"), hash("http://example.com/"));
        assert_ne!(hash("http://example.com/"), hash("https://example.com/"));
    }

    #[test]
    fn links_resolve_against_the_base_of_their_document() {
        let base = "http://example.com/shop/list/page-2.html?x=1#top";
        for (link, expected) in [
            ("page-3.html", "http://example.com/shop/list/page-3.html"),
            ("../a/", "http://example.com/shop/a/"),
            ("/root", "http://example.com/root"),
            ("?y=2", "http://example.com/shop/list/page-2.html?y=2"),
            ("#here", "http://example.com/shop/list/page-2.html?x=1"),
            ("", "http://example.com/shop/list/page-2.html?x=1"),
            ("//cdn.example.com/x", "http://cdn.example.com/x"),
            (" https://other.example/ \n", "https://other.example/"),
            ("a\nb", "http://example.com/shop/list/ab"),
        ] {
            assert_eq!(resolved(base, link).as_deref(), Ok(expected), "{link:?}");
        }
        // As a document at any address would with `<base href="https://base.example/dir/">`.
        assert_eq!(resolved("https://base.example/dir/", "x").as_deref(), Ok("https://base.example/dir/x"));
    }

    #[test]
    fn links_that_lead_to_no_page_say_why() {
        let base = "http://example.com/";
        for (link, scheme) in [
            ("mailto:a@example.com", "mailto"),
            ("JavaScript:void(0)", "javascript"),
            ("data:text/html,x", "data"),
            ("tel:1", "tel"),
            ("ftp://example.com/", "ftp"),
            ("about:blank", "about"),
            ("file:///etc/passwd", "file"),
            ("blob:http://example.com/1", "blob"),
        ] {
            assert_eq!(resolved(base, link), Err(PageUrlError::Scheme(scheme.into())), "{link}");
        }
        assert_eq!(resolved(base, "http://user:secret@example.com/"), Err(PageUrlError::Credentials));
        assert_eq!(resolved(base, "//:secret@example.com/"), Err(PageUrlError::Credentials));
        assert!(matches!(resolved(base, "http://"), Err(PageUrlError::Malformed(_))));
        assert!(matches!(resolved(base, "http://a b/"), Err(PageUrlError::Malformed(_))));
        assert!(matches!(resolved("about:blank", "x"), Err(PageUrlError::Malformed(_))));
        assert!(matches!(PageUrl::parse("www.example.com"), Err(PageUrlError::Malformed(_))));
    }

    #[test]
    fn the_length_counts_after_normalising() {
        let base = "http://example.com/";
        let path = "a".repeat(MAX_URL_BYTES - base.len());
        assert!(resolved(base, &path).is_ok());
        assert!(resolved(base, &format!("{path}#{path}")).is_ok(), "the fragment does not count");
        assert_eq!(resolved(base, &format!("{path}a")), Err(PageUrlError::TooLong));
        assert_eq!(resolved(base, &"é".repeat(MAX_URL_BYTES / 4)), Err(PageUrlError::TooLong));
    }

    #[test]
    fn the_host_is_lower_case_and_without_port() {
        assert_eq!(PageUrl::parse("http://Shop.Example.com:8080/").unwrap().host(), "shop.example.com");
    }

    #[test]
    fn deserialising_checks_as_parsing_does() {
        assert!(
            serde_json::from_str::<PageUrl>(r#""HTTP://a.example#x""#)
                .is_ok_and(|url| url.as_str() == "http://a.example/")
        );
        assert!(serde_json::from_str::<PageUrl>(r#""mailto:a@b.example""#).is_err());
    }

    proptest! {
        #[test]
        fn parsing_again_changes_nothing(
            scheme in "(?i:https?)", host in "[a-zA-Zäß0-9.-]{1,20}", port in "(:[0-9]{1,5})?",
            rest in "([/?#.%\\\\ a-zé😀=&;@:\\[\\]\"'<>|{}^`]|%[0-9A-F]{2}){0,30}",
        ) {
            if let Ok(url) = PageUrl::parse(&format!("{scheme}://{host}{port}{rest}")) {
                prop_assert_eq!(PageUrl::parse(url.as_str()).unwrap(), url);
            }
        }

        #[test]
        fn any_link_is_answered(link in "\\PC{0,60}") {
            if let Ok(url) = resolved("http://example.com/dir/page?q", &link) {
                prop_assert!(url.starts_with("http") && !url.contains('#') && url.len() <= MAX_URL_BYTES);
            }
        }
    }
}
