//! As whom a crawl asks: the `User-Agent` that it sends, and the product token by which robots files address it.

use crawlify_shared::domain::workflow::Workflow;
use reqwest::header::HeaderValue;

/// What is sent where the workflow says nothing.
const USER_AGENT: &str =
    concat!("Crawlify/", env!("CARGO_PKG_VERSION"), " (+", env!("CARGO_PKG_REPOSITORY"), ")");
/// What robots files address then.
const TOKEN: &str = "crawlify";

/// As whom a crawl asks where no browser does it: for robots files and sitemaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Agent {
    /// The header.
    pub(crate) user_agent: String,
    /// The product token, lower case.
    pub(crate) token: String,
}

impl Agent {
    /// Who a workflow says it is: with `politeness.agent`, which pages are asked for with too, behind the browser's own
    /// `User-Agent`, or with its header `User-Agent`. One that passes for a browser is addressed by the name after
    /// `compatible;`, as crawlers write it, or else as Crawlify.
    pub(crate) fn of(workflow: &Workflow) -> Self {
        if let Some(agent) = &workflow.agent {
            let token = product_token(agent.as_bytes()).unwrap_or_else(|| TOKEN.to_owned());
            return Self { user_agent: agent.clone(), token };
        }
        let header = workflow.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("user-agent"));
        let Some((_, user_agent)) = header.filter(|(_, value)| !value.trim().is_empty()) else {
            return Self { user_agent: USER_AGENT.to_owned(), token: TOKEN.to_owned() };
        };
        let named = match product_token(user_agent.as_bytes()) {
            Some(token) if token == "mozilla" => {
                user_agent.split_once("compatible;").and_then(|(_, name)| product_token(name.as_bytes()))
            }
            token => token,
        };
        Self { user_agent: user_agent.clone(), token: named.unwrap_or_else(|| TOKEN.to_owned()) }
    }

    /// Whether the workflow says who asks.
    pub(super) fn is_named(&self) -> bool {
        self.user_agent != USER_AGENT
    }

    /// The value of the header `User-Agent`. Text beyond ASCII is sent as the browser sends it.
    pub(crate) fn header(&self) -> HeaderValue {
        HeaderValue::from_bytes(self.user_agent.as_bytes())
            .unwrap_or_else(|_| HeaderValue::from_static(USER_AGENT))
    }
}

/// The product token at the beginning of a text, lower case. RFC 9309 knows letters, `_` and `-`; digits are part of
/// many crawlers' names.
pub(super) fn product_token(text: &[u8]) -> Option<String> {
    let text = text.trim_ascii();
    let end = text.iter().position(|byte| !(byte.is_ascii_alphanumeric() || b"_-".contains(byte)));
    let token = &text[..end.unwrap_or(text.len())];
    (!token.is_empty()).then(|| String::from_utf8_lossy(token).to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use crawlify_shared::domain::workflow::parse_config;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_crawl_is_addressed_by_the_name_that_it_gives_itself() {
        for (user_agent, token) in [
            ("ShopBot/2.0 (+https://shop.example/bot)", "shopbot"),
            ("Mozilla/5.0 (compatible; MJ12bot/v1.4.8; http://mj12bot.com/)", "mj12bot"),
            ("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/120 Safari/537.36", "crawlify"),
            ("(odd)", "crawlify"),
            (" ", "crawlify"),
        ] {
            let config = json!({
                "start_urls": ["http://a.test/"], "headers": {"User-Agent": user_agent},
                "data_extraction": [{"id": "t", "type": "extract", "params": {"selector": "h1"}}],
            });
            let agent = Agent::of(&parse_config(&config).unwrap());
            assert_eq!(agent.token, token, "{user_agent}");
            assert_eq!(agent.user_agent == user_agent, user_agent != " ");
        }
    }

    #[test]
    fn a_crawl_that_is_named_beside_the_browser_is_addressed_so() {
        let config = json!({
            "start_urls": ["http://a.test/"], "politeness": {"agent": "ShopBot/2.0 (+https://shop.example/bot)"},
            "data_extraction": [{"id": "t", "type": "extract", "params": {"selector": "h1"}}],
        });
        let agent = Agent::of(&parse_config(&config).unwrap());
        assert_eq!(agent.token, "shopbot");
        assert_eq!(agent.header(), "ShopBot/2.0 (+https://shop.example/bot)");
    }
}
