//! What a robots file says (RFC 9309, section 2): groups of rules for crawlers, the pace that it asks of them, and
//! sitemaps. Reading never fails: a line that is none is passed over.

use std::cmp::Reverse;
use std::time::Duration;

use url::Url;

use super::agent::product_token;
use super::pattern::{Pattern, comparable_path};

/// As much of a file is read, in bytes: what the RFC asks for at least (section 2.5).
pub(super) const MAX_BYTES: usize = 500 << 10;
/// The longest pace that is kept. A file that asks for more means to be left alone, which `Disallow` is for.
const MAX_CRAWL_DELAY: Duration = Duration::from_secs(600);
/// Sitemaps of one file beyond this number are not taken.
const MAX_SITEMAPS: usize = 1000;

/// A robots file. The one without groups allows everything.
#[derive(Debug, Default)]
pub(crate) struct RobotsFile {
    groups: Vec<Group>,
    sitemaps: Vec<String>,
}

#[derive(Debug, Default)]
struct Group {
    agents: Vec<Addressed>,
    /// The most specific first, and of two that are as specific the one that allows.
    rules: Vec<Rule>,
}

/// Whom a group addresses.
#[derive(Debug)]
struct Addressed {
    /// A product token, lower case; `*` is every crawler.
    name: String,
    crawl_delay: Option<Duration>,
}

#[derive(Debug)]
struct Rule {
    pattern: Pattern,
    allows: bool,
}

impl Rule {
    fn rank(&self) -> (usize, bool) {
        (self.pattern.octets(), self.allows)
    }
}

impl RobotsFile {
    /// Reads a file.
    ///
    /// Only rules end the names of a group (RFC 9309, section 2.2.1): whatever else stands between two `User-agent` lines, the
    /// rules below are for both (section 2.2.4), as Google's parser reads it too. `Crawl-delay`, of which the RFC says
    /// nothing, is for the names right above it: `User-agent: a`, `Crawl-delay: 5`, `User-agent: b`, `Disallow: /` asks
    /// for a pace of `a` alone, as whoever wrote it will have meant, and disallows all to both.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let bytes = within_bounds(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes));
        let mut file = Self::default();
        // Further `User-agent` lines belong to the same group until there is a rule.
        let mut names_agents = false;
        // From which of the group's names on the next pace counts, and whether there was one since the last name.
        let (mut unpaced, mut is_paced) = (0, false);
        for line in bytes.split(|byte| matches!(byte, b'\n' | b'\r')) {
            let Some((name, value)) = statement(line) else { continue };
            match (name.to_ascii_lowercase().as_slice(), file.groups.last_mut()) {
                (b"user-agent", group) => {
                    let agent =
                        if value.starts_with(b"*") { Some("*".to_owned()) } else { product_token(value) };
                    let agent = agent.map(|name| Addressed { name, crawl_delay: None });
                    match group {
                        Some(group) if names_agents => {
                            if is_paced {
                                unpaced = group.agents.len();
                            }
                            group.agents.extend(agent);
                        }
                        _ => {
                            unpaced = 0;
                            file.groups
                                .push(Group { agents: agent.into_iter().collect(), ..Group::default() });
                        }
                    }
                    (names_agents, is_paced) = (true, false);
                }
                (name @ (b"allow" | b"disallow"), Some(group)) => {
                    names_agents = false;
                    let allows = name == b"allow";
                    group.rules.extend(Pattern::parse(value).map(|pattern| Rule { pattern, allows }));
                }
                (b"crawl-delay", Some(group)) => {
                    is_paced = true;
                    for agent in group.agents.iter_mut().skip(unpaced) {
                        agent.crawl_delay = crawl_delay(value).or(agent.crawl_delay);
                    }
                }
                (b"sitemap", _) if file.sitemaps.len() < MAX_SITEMAPS => {
                    file.sitemaps
                        .extend(String::from_utf8(value.to_vec()).ok().filter(|url| !url.is_empty()));
                }
                _ => {}
            }
        }
        for group in &mut file.groups {
            group.rules.sort_by_key(|rule| Reverse(rule.rank()));
        }
        file
    }

    /// Whether the crawler with this product token may load a page.
    ///
    /// # Errors
    /// The pattern that disallows it.
    pub(crate) fn check(&self, token: &str, url: &Url) -> Result<(), String> {
        let path = comparable_path(url);
        if path == "/robots.txt" {
            return Ok(());
        }
        // Groups that address the same crawler are one: the most specific of their rules counts.
        let rules = self
            .groups_of(token)
            .filter_map(|group| group.rules.iter().find(|rule| rule.pattern.matches(&path)));
        match rules.max_by_key(|rule| rule.rank()) {
            Some(rule) if !rule.allows => Err(rule.pattern.to_string()),
            _ => Ok(()),
        }
    }

    /// How long the crawler with this product token shall wait between two pages; zero is no wish.
    pub(crate) fn crawl_delay(&self, token: &str) -> Duration {
        let name = self.addressed_as(token);
        let agents = self.groups.iter().flat_map(|group| &group.agents).filter(|agent| agent.name == name);
        agents.filter_map(|agent| agent.crawl_delay).max().unwrap_or_default()
    }

    /// The sitemaps that it names, as it writes them.
    pub(crate) fn sitemaps(&self) -> &[String] {
        &self.sitemaps
    }

    /// The groups that address a crawler.
    fn groups_of(&self, token: &str) -> impl Iterator<Item = &Group> {
        let name = self.addressed_as(token);
        self.groups.iter().filter(move |group| group.addresses(name))
    }

    /// By which name a crawler is addressed: its own, or where no group has that, the one of all.
    fn addressed_as<'t>(&self, token: &'t str) -> &'t str {
        if self.groups.iter().any(|group| group.addresses(token)) { token } else { "*" }
    }
}

impl Group {
    fn addresses(&self, name: &str) -> bool {
        self.agents.iter().any(|agent| agent.name == name)
    }
}

/// What is read of a file. A line that was cut is not: half a pattern is another pattern.
fn within_bounds(bytes: &[u8]) -> &[u8] {
    if bytes.len() <= MAX_BYTES {
        return bytes;
    }
    let start = &bytes[..MAX_BYTES];
    let end = start.iter().rposition(|byte| matches!(byte, b'\n' | b'\r')).unwrap_or(0);
    &start[..end]
}

/// The name and the value of a line; `None` where it has none.
fn statement(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let line = line.split(|byte| *byte == b'#').next()?;
    let colon = line.iter().position(|byte| *byte == b':')?;
    Some((line[..colon].trim_ascii(), line[colon + 1..].trim_ascii()))
}

fn crawl_delay(value: &[u8]) -> Option<Duration> {
    let seconds: f64 =
        std::str::from_utf8(value).ok()?.parse().ok().filter(|seconds: &f64| seconds.is_finite())?;
    let delay = Duration::try_from_secs_f64(seconds.min(MAX_CRAWL_DELAY.as_secs_f64())).ok()?;
    // Up to a whole millisecond: it is stored and compared in these.
    Some(Duration::from_millis(u64::try_from(delay.as_nanos().div_ceil(1_000_000)).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(file: &str, token: &str, path: &str) -> bool {
        let url = Url::parse("http://a.test").unwrap().join(path).unwrap();
        RobotsFile::parse(file.as_bytes()).check(token, &url).is_ok()
    }

    #[test]
    fn the_examples_of_the_rfc_are_read_as_it_says() {
        // Section 5.1.
        let simple = "User-Agent: *\nDisallow: *.gif$\nDisallow: /example/\nAllow: /publications/\n\n\
             User-Agent: foobot\nDisallow:/\nAllow:/example/page.html\nAllow:/example/allowed.gif\n\n\
             User-Agent: barbot\nUser-Agent: bazbot\nDisallow: /example/page.html\n\n\
             User-Agent: quxbot\n\nEOF";
        for (token, path, expected) in [
            ("otherbot", "/example/page.html", false),
            ("otherbot", "/a.gif", false),
            ("otherbot", "/a.gif?x", true),
            ("otherbot", "/publications/", true),
            ("foobot", "/", false),
            ("foobot", "/example/page.html", true),
            ("foobot", "/example/allowed.gif", true),
            ("barbot", "/example/page.html", false),
            ("bazbot", "/example/page.html", false),
            ("bazbot", "/example/a.gif", true),
            ("quxbot", "/example/page.html", true),
        ] {
            assert_eq!(allowed(simple, token, path), expected, "{token} {path}");
        }
        // Section 5.2: the longest match.
        let longest = "User-Agent: foobot\nAllow: /example/page/\nDisallow: /example/page/disallowed.gif\n";
        assert!(allowed(longest, "foobot", "/example/page/allowed.gif"));
        assert!(!allowed(longest, "foobot", "/example/page/disallowed.gif"));
    }

    #[test]
    fn groups_that_name_the_same_crawler_are_one_and_the_star_is_for_the_others() {
        let file = "User-agent: ShopBot/2.1\nDisallow: /a\n\nUser-agent: *\nDisallow: /\n\n\
             USER-AGENT : shopbot # once more\nDisallow: /b\nAllow: /b/c\n";
        assert!(!allowed(file, "shopbot", "/a") && !allowed(file, "shopbot", "/b"));
        assert!(allowed(file, "shopbot", "/b/c") && allowed(file, "shopbot", "/d"));
        assert!(!allowed(file, "otherbot", "/d"));
        assert!(!allowed("User-agent: *\nDisallow: /\nUser-agent: shopbo\nAllow: /", "shopbot", "/"));
    }

    #[test]
    fn where_two_rules_are_as_long_the_one_that_allows_counts() {
        for file in ["User-agent: *\nDisallow: /p\nAllow: /p", "User-agent: *\nAllow: /p\nDisallow: /p"] {
            assert!(allowed(file, "bot", "/page"));
        }
        assert!(allowed("User-agent: *\nDisallow:", "bot", "/"), "an empty pattern is none");
        assert!(allowed("User-agent: *\nDisallow: /", "bot", "/robots.txt"));
        assert!(allowed("Disallow: /", "bot", "/"), "a rule before every group belongs to none");
    }

    #[test]
    fn however_lines_end_and_whatever_lies_between_them() {
        for end in ["\n", "\r", "\r\n", "\n\n\n"] {
            let lines = [
                "\u{feff}User-agent: a",
                "Sitemap: http://a.test/s.xml",
                "user-agent:b",
                "No such: thing",
                "<p>",
                "disallow : /x # why",
            ];
            let file = lines.join(end);
            assert!(!allowed(&file, "a", "/x") && !allowed(&file, "b", "/x") && allowed(&file, "c", "/x"));
            assert_eq!(RobotsFile::parse(file.as_bytes()).sitemaps(), ["http://a.test/s.xml"]);
        }
    }

    #[test]
    fn the_pace_is_that_of_the_own_group_in_milliseconds_and_bounded() {
        let file = "User-agent: a\nCrawl-delay: 2.4991\nDisallow: /a\nUser-agent: *\nCrawl-Delay: 1e9\nDisallow: /x\n\
             User-agent: c\nCrawl-delay: -1\nCrawl-delay: NaN\nDisallow: /";
        let file = RobotsFile::parse(file.as_bytes());
        assert_eq!(file.crawl_delay("a"), Duration::from_millis(2500));
        assert_eq!(file.crawl_delay("b"), MAX_CRAWL_DELAY);
        assert_eq!(file.crawl_delay("c"), Duration::ZERO);
    }

    #[test]
    fn a_pace_between_names_is_for_those_above_it_and_the_rules_below_are_for_all() {
        let text = "User-agent: a\nUser-agent: b\nCrawl-delay: 5\n\nUser-agent: c\nHost: a.test\nUser-agent: d\n\
             Crawl-delay: 3\nCrawl-delay: 4\nUser-agent: e\nDisallow: /x\nUser-agent: f\nDisallow: /y\nCrawl-delay: 7";
        let file = RobotsFile::parse(text.as_bytes());
        for (token, seconds) in [("a", 5), ("b", 5), ("c", 4), ("d", 4), ("e", 0), ("f", 7), ("g", 0)] {
            assert_eq!(file.crawl_delay(token), Duration::from_secs(seconds), "{token}");
            assert_eq!(allowed(text, token, "/x"), matches!(token, "f" | "g"), "{token}");
            assert_eq!(allowed(text, token, "/y"), token != "f", "{token}");
        }
    }

    #[test]
    fn what_is_no_robots_file_forbids_nothing() {
        let html = "<!doctype html><title>404</title><p style=\"color: red\">Disallow: /</p>";
        assert!(allowed(html, "bot", "/"));
        let url = Url::parse("http://a.test/x").unwrap();
        for bytes in [&b"\xff\xfe\x00:\x00"[..], b"", b":", b"user-agent:*\ndisallow:/\xff"] {
            assert!(RobotsFile::parse(bytes).check("bot", &url).is_ok());
        }
    }

    #[test]
    fn a_file_is_read_up_to_its_bound_without_the_line_that_is_cut() {
        let head = "User-agent: *\nDisallow: /head\n";
        let long = format!("{head}Disallow: /{}", "x".repeat(1 << 20));
        assert!(!allowed(&long, "bot", "/head") && allowed(&long, "bot", "/xx"));
        let filler = format!("# {}\n", "x".repeat(MAX_BYTES - head.len() - 3 - 12));
        let cut = format!("{head}{filler}Disallow: /private/");
        assert!(cut.len() > MAX_BYTES);
        assert!(allowed(&cut, "bot", "/p"), "the cut line is not `Disallow: /`");
    }
}
