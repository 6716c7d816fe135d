//! Which discovered links go on into the frontier. Knows nothing of pages: the caller says which hosts are the page's.

use regex::Regex;

use super::page_url::PageUrl;
use super::regex_dialect::{DialectError, compile};

/// The parameters of `filter_urls`. The default keeps every link.
#[derive(Clone, Debug, Default)]
pub struct UrlFilter {
    /// Only links to a host of the page that holds them.
    pub same_domain: bool,
    /// Where not empty, a link must match one of these.
    pub include: Vec<Regex>,
    /// A link that matches one of these is dropped, whatever `include` says.
    pub exclude: Vec<Regex>,
}

impl UrlFilter {
    /// Makes a filter from patterns in Go's syntax.
    ///
    /// # Errors
    /// The first pattern that does not compile.
    pub fn new(same_domain: bool, include: &[&str], exclude: &[&str]) -> Result<Self, DialectError> {
        let include = include.iter().map(|pattern| compile(pattern)).collect::<Result<_, _>>()?;
        let exclude = exclude.iter().map(|pattern| compile(pattern)).collect::<Result<_, _>>()?;
        Ok(Self { same_domain, include, exclude })
    }

    /// Whether the link stays.
    ///
    /// `page_hosts` are the hosts that count as the page's own, without ports: the one that was asked for and, after
    /// a redirect, the one that answered. Patterns are searched for in the whole normalised URL and are not anchored.
    pub fn keeps(&self, link: &PageUrl, page_hosts: &[&str]) -> bool {
        let matches = |patterns: &[Regex]| patterns.iter().any(|pattern| pattern.is_match(link.as_str()));
        (!self.same_domain || page_hosts.iter().any(|host| host.eq_ignore_ascii_case(link.host())))
            && (self.include.is_empty() || matches(&self.include))
            && !matches(&self.exclude)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keeps(filter: &UrlFilter, link: &str) -> bool {
        filter.keeps(&PageUrl::parse(link).unwrap(), &["books.toscrape.com", "www.toscrape.com"])
    }

    #[test]
    fn the_default_keeps_everything() {
        assert!(keeps(&UrlFilter::default(), "https://elsewhere.example/a.jpg"));
    }

    #[test]
    fn the_same_domain_is_the_same_host_as_one_of_the_page() {
        let filter = UrlFilter::new(true, &[], &[]).unwrap();
        assert!(keeps(&filter, "http://books.toscrape.com/x"));
        assert!(keeps(&filter, "https://WWW.toscrape.com:8443/x"));
        assert!(!keeps(&filter, "http://toscrape.com/x"));
        assert!(!keeps(&filter, "http://books.toscrape.com.evil.example/x"));
        assert!(!keeps(&filter, "http://evil.example/books.toscrape.com"));
    }

    #[test]
    fn a_link_needs_one_include_and_no_exclude() {
        let filter = UrlFilter::new(false, &["/catalogue/", r"page-\d+"], &[r".*\.jpg$", r"\?"]).unwrap();
        assert!(keeps(&filter, "http://a.example/catalogue/x"));
        assert!(keeps(&filter, "http://a.example/page-7.html"));
        assert!(!keeps(&filter, "http://a.example/about"));
        assert!(!keeps(&filter, "http://a.example/catalogue/x.jpg"));
        assert!(!keeps(&filter, "http://a.example/catalogue/?q=1"));
    }
}
