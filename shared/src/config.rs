//! The settings that processes read. The only place that looks at the environment.

use std::fmt;
use std::time::Duration;

/// The environment variable of the database's address.
pub const DATABASE_URL: &str = "CRAWLIFY_DATABASE_URL";
/// The environment variable of the broker's address.
pub const AMQP_URL: &str = "CRAWLIFY_AMQP_URL";
/// The environment variable that names the Chrome program.
pub const CHROME: &str = "CRAWLIFY_CHROME";
/// The environment variable that names the folder of Postgres' programs.
pub const PG_BIN: &str = "CRAWLIFY_PG_BIN";
/// The environment variable with further command-line flags for Chrome, each beginning with two dashes.
pub const CHROME_FLAGS: &str = "CRAWLIFY_CHROME_FLAGS";
/// The environment variable of addresses that pages may reach although they are private.
pub const EGRESS_ALLOW: &str = "CRAWLIFY_EGRESS_ALLOW";
/// The environment variable that turns the egress guard on or off.
pub const EGRESS_GUARD: &str = "CRAWLIFY_EGRESS_GUARD";

/// The environment variable with the crash point that a test sets; see `crash`.
pub const CRASH_POINT: &str = "CRAWLIFY_CRASH_POINT";
/// The environment variable of the hashes of the API's keys.
pub const API_KEY_HASHES: &str = "CRAWLIFY_API_KEY_HASHES";
/// The environment variable that names a file of hashes of the API's keys.
pub const API_KEY_FILE: &str = "CRAWLIFY_API_KEY_FILE";

/// Reads a variable; an empty one counts as not set.
pub fn variable(name: &str) -> Option<String> {
    #[allow(clippy::disallowed_methods, reason = "this is the config module")]
    std::env::var(name).ok().filter(|value| !value.trim().is_empty())
}

/// The flags for Chrome that the environment adds.
pub fn chrome_flags() -> Vec<String> {
    split_flags(&variable(CHROME_FLAGS).unwrap_or_default())
}

/// Splits text into flags: each begins with two dashes and goes on to the next, so that a value may hold spaces.
fn split_flags(text: &str) -> Vec<String> {
    let mut flags: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match flags.last_mut() {
            Some(flag) if !word.starts_with("--") => {
                flag.push(' ');
                flag.push_str(word);
            }
            _ => flags.push(word.to_owned()),
        }
    }
    flags
}

/// A flag's name and value, however many dashes it begins with, none included. Without a `=` the value is empty.
pub fn flag_name_and_value(flag: &str) -> (&str, &str) {
    let flag = flag.trim_start_matches('-');
    flag.split_once('=').unwrap_or((flag, ""))
}

/// What is shown of a URL whose password cannot be told from the rest.
const NOT_SHOWN: &str =
    "<a URL that is not shown: `/`, `?`, `#` and `@` in its password must be percent-encoded>";

/// A URL that may hold a password: it is shown without one.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretUrl(String);

impl SecretUrl {
    /// Wraps a URL.
    pub fn new(url: impl Into<String>) -> Self {
        Self(url.into())
    }

    /// The URL with its password, for the library that connects.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for SecretUrl {
    type Err = std::convert::Infallible;

    fn from_str(url: &str) -> Result<Self, Self::Err> {
        Ok(Self::new(url))
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match url::Url::parse(&self.0) {
            // A `/`, `?` or `#` in a password ends the host, and the rest of the password is taken for what follows.
            Ok(url) if url[url::Position::BeforePath..].contains('@') => f.write_str(NOT_SHOWN),
            Ok(mut url) => {
                if url.password().is_some() {
                    let _ = url.set_password(Some("***"));
                }
                // libpq and AMQP URLs can carry a password as a parameter too.
                if url.query().is_some_and(|query| query.contains("password")) {
                    url.set_query(Some("***"));
                }
                f.write_str(url.as_str())
            }
            Err(_) => f.write_str("<not a URL>"),
        }
    }
}

/// The times that the lease of a page is made of; coordinator and worker must agree on them.
#[derive(Clone, Copy, Debug)]
pub struct LeaseTimes {
    /// How often a worker says that it is alive.
    pub heartbeat_every: Duration,
    /// A worker unheard of for this long has lost its pages.
    pub worker_lost_after: Duration,
    /// How long one attempt of a page may take in all.
    pub page_deadline: Duration,
    /// How much longer than its deadline a page may be held, for the recording.
    pub deadline_slack: Duration,
    /// A worker that could not say so for this long stops its pages by itself.
    pub fence_after: Duration,
}

impl Default for LeaseTimes {
    fn default() -> Self {
        Self {
            heartbeat_every: Duration::from_secs(5),
            worker_lost_after: Duration::from_secs(15),
            page_deadline: Duration::from_secs(120),
            deadline_slack: Duration::from_secs(180),
            fence_after: Duration::from_secs(10),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_url_is_shown_without_its_password() {
        let url = SecretUrl::new("postgres://crawl:hunter2@db.internal:5432/crawlify");
        assert_eq!(url.to_string(), "postgres://crawl:***@db.internal:5432/crawlify");
        assert!(!format!("{url:?}").contains("hunter2"));
        let url = SecretUrl::new("postgres:///crawlify?host=/tmp&password=hunter2");
        assert!(!url.to_string().contains("hunter2"));
    }

    #[test]
    fn a_secret_url_whose_password_is_not_encoded_is_not_shown_at_all() {
        for url in [
            "postgres://crawl:p@ss/w0rd@db/crawlify",
            "postgres://crawl:p@ss?w0rd@db/crawlify",
            "postgres://crawl:p@ss#w0rd@db/crawlify",
            "postgres://crawl:12/w0rd@db/crawlify",
            "crawl:w0rd@db/crawlify",
        ] {
            let shown = SecretUrl::new(url).to_string();
            assert!(!shown.contains("w0rd") && !shown.contains("crawl"), "{shown}");
            assert!(shown.contains("percent-encoded"), "{shown}");
        }
        let url = SecretUrl::new("postgres://crawl:p%40ss%2Fw0rd@db/crawlify");
        assert_eq!(url.to_string(), "postgres://crawl:***@db/crawlify");
        let url = SecretUrl::new("postgres://crawl:p@ss@db/crawlify");
        assert_eq!(url.to_string(), "postgres://crawl:***@db/crawlify");
    }

    #[test]
    fn a_flag_is_the_same_with_any_number_of_dashes() {
        for flag in ["lang=de", "-lang=de", "--lang=de", "----lang=de"] {
            assert_eq!(flag_name_and_value(flag), ("lang", "de"));
        }
        assert_eq!(flag_name_and_value("--mute-audio"), ("mute-audio", ""));
        assert_eq!(flag_name_and_value("--a=b=c"), ("a", "b=c"));
    }

    #[test]
    fn a_flag_from_the_environment_may_hold_spaces() {
        let flags = split_flags(" --host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1  --lang=de ");
        assert_eq!(flags, ["--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1", "--lang=de"]);
        assert!(split_flags("  ").is_empty());
    }
}
