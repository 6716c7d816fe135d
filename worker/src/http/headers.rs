//! Which headers go with a request of the worker's own, by where it goes. Those of a workflow may be secrets: they are sent
//! to the hosts that the workflow itself names, and to no other that a robots file, a sitemap or a redirect leads to.

use crawlify_shared::domain::page_url::PageUrl;
use crawlify_shared::domain::workflow::{Workflow, is_plain_header};
use reqwest::header::{ACCEPT_ENCODING, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use url::Url;

use crate::robots::Agent;

/// What goes with a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sent<'a> {
    /// As whom it asks, and nothing else.
    Agent(&'a Agent),
    /// What the workflow sends with every request, and as whom it asks.
    Workflow(&'a Workflow),
}

impl Sent<'_> {
    /// The headers of a request to this address.
    pub(super) fn headers(self, url: &Url) -> HeaderMap {
        let (mut headers, agent) = match self {
            Self::Agent(agent) => (HeaderMap::new(), agent.header()),
            Self::Workflow(workflow) => (of_workflow(workflow, url), Agent::of(workflow).header()),
        };
        headers.insert(USER_AGENT, agent);
        headers
    }
}

fn of_workflow(workflow: &Workflow, url: &Url) -> HeaderMap {
    let may_be_secret = is_named(workflow, url);
    let mut headers = HeaderMap::new();
    for (name, value) in workflow.headers.iter().filter(|(name, _)| may_be_secret || is_plain_header(name)) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_bytes(value.as_bytes()))
        {
            headers.insert(name, value);
        }
    }
    // How it is sent is our business.
    headers.remove(ACCEPT_ENCODING);
    headers
}

/// Whether an address is of a host that the workflow's start URLs and sitemaps name, at whatever port. One that they name with
/// `https` alone is not told over plain HTTP what others on the way could read.
fn is_named(workflow: &Workflow, url: &Url) -> bool {
    let Some(host) = url.host_str().map(bare) else { return false };
    let may_be_read = |named: &PageUrl| url.scheme() == "https" || named.as_url().scheme() == "http";
    let mut named = workflow.start_urls.iter().chain(&workflow.sitemaps.urls);
    named.any(|named| bare(named.host()) == host && may_be_read(named))
}

/// A site with and without `www.` is one site.
pub(crate) fn bare(host: &str) -> &str {
    host.strip_prefix("www.").unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use crawlify_shared::domain::workflow::parse_config;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_may_be_a_secret_goes_to_the_hosts_that_the_workflow_names() {
        let config = json!({
            "start_urls": ["https://www.shop.test/", "http://plain.test:8080/"],
            "sitemaps": ["https://maps.test/sitemap.xml"],
            "headers": {
                "Authorization": "Bearer s", "Cookie": "a=s", "X-Api-Key": "s",
                "accept-language": "de", "User-Agent": "ShopBot/1.0", "Accept-Encoding": "br",
            },
            "data_extraction": [{"id": "t", "type": "extract", "params": {"selector": "h1"}}],
        });
        let workflow = parse_config(&config).unwrap();
        for (url, expected) in [
            ("https://www.shop.test/sitemap.xml", true),
            ("https://shop.test:8443/sitemap.xml", true),
            ("https://maps.test/other.xml", true),
            ("http://plain.test/sitemap.xml", true),
            ("https://www.plain.test/sitemap.xml", true),
            ("http://shop.test/sitemap.xml", false),
            ("https://cdn.shop.test/sitemap.xml", false),
            ("https://shop.test.elsewhere.test/", false),
            ("https://elsewhere.test/www.shop.test", false),
        ] {
            let headers = Sent::Workflow(&workflow).headers(&url.parse().unwrap());
            for name in ["authorization", "cookie", "x-api-key"] {
                assert_eq!(headers.contains_key(name), expected, "{name} to {url}");
            }
            assert_eq!(headers["accept-language"], "de", "{url}");
            assert_eq!(headers["user-agent"], "ShopBot/1.0", "{url}");
            assert!(!headers.contains_key("accept-encoding"), "{url}");
        }
        let agent = Agent::of(&workflow);
        let headers = Sent::Agent(&agent).headers(&"https://shop.test/robots.txt".parse().unwrap());
        assert_eq!((headers.len(), &headers["user-agent"]), (1, &agent.header()));
    }
}
