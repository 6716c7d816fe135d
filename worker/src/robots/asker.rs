//! As whom and which way a crawl asks for robots files. What is answered may depend on both, be it by a proxy in the place of the
//! site: so crawls share a file only where they ask alike.

use crawlify_shared::domain::page_url::PageUrl;
use crawlify_shared::domain::workflow::{Proxy, Workflow};
use sha2::{Digest, Sha256};

use super::agent::Agent;

/// As whom and which way a crawl asks.
#[derive(Clone, Debug)]
pub(super) struct Asker {
    pub(super) agent: Agent,
    /// Stands in the keys of its files.
    mark: String,
}

impl Asker {
    /// How the pages of a workflow ask.
    pub(super) fn of(workflow: &Workflow) -> Self {
        let agent = Agent::of(workflow);
        let mark = mark(&agent, workflow.proxy.as_ref());
        Self { agent, mark }
    }

    /// Names the robots file of a page's origin, as those know it who ask alike: by the origin, which is scheme, host and port, and
    /// the mark.
    pub(super) fn key(&self, url: &PageUrl) -> String {
        let origin = url.as_url().origin().ascii_serialization();
        format!("{origin} {}", self.mark)
    }
}

/// Of a proxy it is the server and the user name that count, since many let that choose where they ask from. A password says no more,
/// and must not be found out by what is stored.
fn mark(agent: &Agent, proxy: Option<&Proxy>) -> String {
    /// Straight, and in Crawlify's own name. Earlier versions had no mark, whoever asked.
    const PLAIN: &str = "plain";
    if proxy.is_none() && !agent.is_named() {
        return PLAIN.to_owned();
    }
    let mut hash = Sha256::new();
    hash.update(&agent.user_agent);
    if let Some(Proxy { kind, host, port, credentials }) = proxy {
        let username = credentials.as_ref().map_or("", |credentials| credentials.username.as_str());
        // None of them has a line break.
        hash.update(format!("\n{kind:?}\n{host}\n{port}\n{username}"));
    }
    let mut mark = [0; 16];
    mark.copy_from_slice(&hash.finalize()[..16]);
    format!("{:032x}", u128::from_be_bytes(mark))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use crawlify_shared::domain::workflow::parse_config;
    use serde_json::{Value, json};

    use super::*;

    /// The key of `http://a.test` for a workflow with these settings.
    fn key(settings: Value) -> String {
        let mut config = json!({
            "start_urls": ["http://a.test/"],
            "data_extraction": [{"id": "t", "type": "extract", "params": {"selector": "h1"}}],
        });
        for (name, value) in settings.as_object().unwrap() {
            config[name.as_str()] = value.clone();
        }
        Asker::of(&parse_config(&config).unwrap()).key(&PageUrl::parse("http://a.test/page").unwrap())
    }

    #[test]
    fn an_origin_has_a_port_only_where_it_is_not_the_schemes_own() {
        let agent = Agent { user_agent: String::new(), token: String::new() };
        let straight = Asker { agent, mark: "plain".to_owned() };
        for (url, expected) in [
            ("https://Shop.example:443/a", "https://shop.example plain"),
            ("http://shop.example:8080/a?b", "http://shop.example:8080 plain"),
            ("http://[::1]/", "http://[::1] plain"),
        ] {
            assert_eq!(straight.key(&PageUrl::parse(url).unwrap()), expected);
        }
    }

    #[test]
    fn only_crawls_that_ask_alike_share_a_file() {
        let proxy = |server: &str, username: &str, password: &str| {
            let proxy = json!({"server": server, "username": username, "password": password});
            key(json!({"proxy_config": proxy}))
        };
        assert_eq!(key(json!({})), "http://a.test plain", "straight, in Crawlify's own name");
        let different = [
            key(json!({})),
            key(json!({"headers": {"User-Agent": "ShopBot/1.0"}})),
            key(json!({"headers": {"User-Agent": "ShopBot/2.0"}})),
            proxy("http://p.test:1", "", ""),
            proxy("socks5://p.test:1", "", ""),
            proxy("http://p.test:2", "", ""),
            proxy("http://q.test:1", "", ""),
            proxy("http://p.test:1", "country-de", "s1"),
            proxy("http://p.test:1", "country-us", "s1"),
        ];
        let distinct: HashSet<_> = different.iter().collect();
        assert_eq!(distinct.len(), different.len(), "{different:?}");
        assert_eq!(different[7], proxy("http://p.test:1", "country-de", "s2"), "a password is in no key");
        let other_secret = json!({"headers": {"Authorization": "Bearer s", "User-Agent": "ShopBot/1.0"}});
        assert_eq!(different[1], key(other_secret));
    }
}
