//! Which discovered links go on into the frontier.

use regex::RegexSet;

/// The parameters of `filter_urls`.
#[derive(Clone, Debug)]
pub struct UrlFilter {
    /// Only links to the host of the page that holds them.
    pub same_domain: bool,
    /// Where not empty, a link must match one of these.
    pub include: RegexSet,
    /// A link that matches one of these is dropped.
    pub exclude: RegexSet,
}
