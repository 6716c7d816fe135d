//! Traps in the query: parameters whose combinations multiply, query strings without end, ids of sessions.
//!
//! That one path has many query strings is nothing bad: forums name every topic so, and shops every page of a list. It
//! is a trap where the same few values come in ever new combinations.

use std::collections::HashMap;
use std::num::NonZeroUsize;

use crawlify_shared::domain::page_url::PageUrl;
use crawlify_shared::domain::workflow::Traps;
use lru::LruCache;

use super::distinct::Distinct;

/// Paths with queries, and session parameters, that are remembered of one execution.
const PATHS: NonZeroUsize = NonZeroUsize::new(256).expect("it is not zero");
/// Parameters of one path that are looked at.
const KEYS: usize = 24;
/// Up to which number query strings and values are counted exactly.
const EXACT_STRINGS: usize = 256;
const EXACT_VALUES: usize = 32;
/// So many parameters must vary, besides the one for the page of a list, before their combinations are suspicious.
const VARYING: usize = 3;
/// There must be so many combinations for each value of a parameter.
const COMBINATIONS_PER_VALUE: u64 = 10;
/// So many letters and digits in a row has a session's id at least.
const SESSION_ID_LENGTH: usize = 16;
/// So often a letter follows a digit among them, or a digit a letter.
const SESSION_ID_TURNS: usize = 4;
const SESSION_NAMES: [&str; 13] = [
    "phpsessid",
    "jsessionid",
    "sessionid",
    "sessid",
    "sid",
    "cfid",
    "cftoken",
    "oscsid",
    "zenid",
    "xtcsid",
    "asp.net_sessionid",
    "session_id",
    "session",
];
/// Those that name something that a site is about as well, such as the sessions of a conference.
const MAY_MEAN_MORE: [&str; 2] = ["session_id", "session"];
/// Of a name that may mean something else, so many URLs must have come that differ in more than the id ...
const SESSION_PLACES: u64 = 20;
/// ... and each of them with so many ids, on average.
const SESSION_IDS_PER_PLACE: u64 = 2;
const PAGING_NAMES: [&str; 7] = ["page", "p", "paged", "start", "offset", "seite", "pg"];

/// What is known of the queries of one execution's links.
#[derive(Debug)]
pub(super) struct Queries {
    paths: LruCache<String, PathQueries>,
    sessions: LruCache<String, Sessions>,
}

/// What is known of one session parameter.
#[derive(Debug)]
struct Sessions {
    ids: Distinct,
    /// URLs without the id, and with it.
    places: Distinct,
    urls: Distinct,
}

#[derive(Debug)]
struct PathQueries {
    strings: Distinct,
    values: HashMap<String, Distinct>,
}

impl Queries {
    pub(super) fn new() -> Self {
        Self { paths: LruCache::new(PATHS), sessions: LruCache::new(PATHS) }
    }

    /// Takes a link in, and says why it leads into a trap, if it does.
    pub(super) fn judge(&mut self, url: &PageUrl, rules: &Traps) -> Option<String> {
        if let Some(most) = rules.session_ids
            && let Some(reason) = self.judge_session(url, most)
        {
            return Some(reason);
        }
        let string = url.as_url().query().filter(|query| !query.is_empty())?;
        if rules.query_variants.is_none() && rules.query_strings.is_none() {
            return None;
        }
        let place = format!("{}{}", url.as_url().authority(), url.as_url().path());
        let queries = self.paths.get_or_insert_mut(place, PathQueries::new);
        queries.see(url, string);
        let count = queries.strings.count();
        let path = url.as_url().path();
        if let Some(most) = rules.query_strings.filter(|most| count > u64::from(*most)) {
            return Some(format!(
                "`{path}` has had about {count} different query strings, more than {most} (`traps.query_strings`)"
            ));
        }
        let most = rules.query_variants.filter(|most| count > u64::from(*most))?;
        let varying = queries.combined()?;
        Some(format!(
            "`{path}` has had about {count} combinations of the parameters {}, more than {most} \
             (`traps.query_variants`)",
            varying.join(", ")
        ))
    }

    fn judge_session(&mut self, url: &PageUrl, most: u32) -> Option<String> {
        let (name, value) = session_of(url)?;
        let place = format!("{} {name}", url.as_url().authority());
        let sessions = self.sessions.get_or_insert_mut(place, Sessions::new);
        sessions.see(url, &value);
        let count = sessions.ids.count();
        let is_meant = !MAY_MEAN_MORE.contains(&name.as_str()) || sessions.are_everywhere();
        (is_meant && count > u64::from(most)).then(|| {
            format!(
                "the parameter `{name}` looks like the id of a session and has had about {count} values, more than \
                 {most} (`traps.session_ids`)"
            )
        })
    }
}

impl Sessions {
    fn new() -> Self {
        let [ids, places, urls] = [(); 3].map(|()| Distinct::new(EXACT_STRINGS));
        Self { ids, places, urls }
    }

    fn see(&mut self, url: &PageUrl, id: &str) {
        self.ids.see(id);
        self.places.see(&url.as_str().replace(id, ""));
        self.urls.see(url.as_str());
    }

    /// Whether many pages come with ever new ids, and not each with its own.
    fn are_everywhere(&self) -> bool {
        let places = self.places.count();
        places >= SESSION_PLACES && self.urls.count() >= places * SESSION_IDS_PER_PLACE
    }
}

impl PathQueries {
    fn new() -> Self {
        Self { strings: Distinct::new(EXACT_STRINGS), values: HashMap::new() }
    }

    fn see(&mut self, url: &PageUrl, string: &str) {
        self.strings.see(string);
        for (key, value) in url.as_url().query_pairs() {
            if self.values.len() < KEYS || self.values.contains_key(key.as_ref()) {
                let values = self.values.entry(key.into_owned());
                values.or_insert_with(|| Distinct::new(EXACT_VALUES)).see(value.as_ref());
            }
        }
    }

    /// The parameters whose combinations the query strings are. `None` where some value names a page of its own.
    fn combined(&self) -> Option<Vec<String>> {
        let values: u64 = self.values.values().map(Distinct::count).sum();
        let mut varying: Vec<String> = self
            .values
            .iter()
            .filter(|(key, values)| {
                values.count() > 1 && !PAGING_NAMES.contains(&key.to_ascii_lowercase().as_str())
            })
            .map(|(key, _)| format!("`{}`", key.chars().take(40).collect::<String>()))
            .collect();
        varying.sort();
        let multiplies = self.strings.count() > values * COMBINATIONS_PER_VALUE;
        (varying.len() >= VARYING && multiplies).then_some(varying)
    }
}

/// The session parameter of a URL and its value, in the query or, as Java servers write it, in the path.
fn session_of(url: &PageUrl) -> Option<(String, String)> {
    let in_path = url.as_url().path().split(';').skip(1).filter_map(|part| {
        let (name, value) = part.split('/').next()?.split_once('=')?;
        Some((name.to_ascii_lowercase(), value.to_owned()))
    });
    let in_query =
        url.as_url().query_pairs().map(|(key, value)| (key.to_ascii_lowercase(), value.into_owned()));
    in_path
        .chain(in_query)
        .find(|(name, value)| SESSION_NAMES.contains(&name.as_str()) && is_session_id(value))
}

/// Whether a value looks as if it were drawn by lot: it is a UUID, or at least [`SESSION_ID_LENGTH`] letters and digits in a
/// row in it take turns at least [`SESSION_ID_TURNS`] times, as they do in hex, base 36 and base 64.
///
/// Words, numbers and dates that are joined by `-` or `_` are none, however long they are, as each of them is short, and
/// neither are long words or long numbers. What is missed costs little: a lot that happens to look otherwise is one value
/// less of the many that a trap has.
fn is_session_id(value: &str) -> bool {
    if uuid::Uuid::try_parse(value).is_ok() {
        return true;
    }
    let is_plain = value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.,!".contains(&byte));
    is_plain
        && value.split(|letter: char| !letter.is_ascii_alphanumeric()).any(|run| {
            let turns =
                run.as_bytes().windows(2).filter(|two| two[0].is_ascii_digit() != two[1].is_ascii_digit());
            run.len() >= SESSION_ID_LENGTH && turns.count() >= SESSION_ID_TURNS
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of the first URL that is a trap, and why.
    fn first_trap(urls: impl IntoIterator<Item = String>) -> Option<(usize, String)> {
        let mut queries = Queries::new();
        let rules = Traps::default();
        urls.into_iter()
            .enumerate()
            .find_map(|(number, url)| Some((number, queries.judge(&PageUrl::parse(&url).unwrap(), &rules)?)))
    }

    #[test]
    fn combinations_of_few_values_are_a_trap_when_there_are_thousands() {
        let urls = (0..20_000).map(|n| {
            let (colour, size, brand, sort) = (n % 12, n / 12 % 10, n / 120 % 20, n / 2_400 % 9);
            format!("https://shop.test/search?colour={colour}&size={size}&brand={brand}&sort={sort}")
        });
        let (number, reason) = first_trap(urls).expect("it is a trap");
        assert!((4_500..6_500).contains(&number), "at {number}");
        assert!(
            reason.contains("`/search` has had about") && reason.contains("`brand`, `colour`, `size`"),
            "{reason}"
        );
    }

    #[test]
    fn lists_topics_and_articles_are_no_traps_however_many_there_are() {
        let list = (0..20_000).map(|n| format!("https://shop.test/list?page={n}"));
        assert_eq!(first_trap(list), None);
        let sorted = (0..20_000)
            .map(|n| format!("https://shop.test/list?cat={}&page={}&sort={}", n % 50, n / 150, n / 50 % 3));
        assert_eq!(first_trap(sorted), None);
        let forum = (0..40_000).map(|n| {
            let (topic, post) = (n / 2, n % 2 * 25);
            format!("https://forum.test/viewtopic.php?f={}&t={topic}&start={post}&view=print", topic % 30)
        });
        assert_eq!(first_trap(forum), None);
        let news =
            (0..20_000).map(|n| format!("https://news.test/a.php?id={n}&section={}&lang={}", n % 9, n % 4));
        assert_eq!(first_trap(news), None);
        let variants = (0..20_000).map(|n| {
            format!("https://shop.test/p/{}?colour={}&size={}&fit={}", n / 300, n % 10, n / 10 % 10, n % 3)
        });
        assert_eq!(first_trap(variants), None);
    }

    #[test]
    fn a_session_parameter_with_ever_new_values_is_a_trap() {
        let urls =
            (0..100).map(|n| format!("https://shop.test/item/{}?PHPSESSID=9f8e7d6c5b4a39{n:018x}", n % 7));
        let (number, reason) = first_trap(urls).expect("it is a trap");
        assert_eq!(number, 50);
        assert!(
            reason.contains("`phpsessid`") && reason.contains("about 51 values, more than 50"),
            "{reason}"
        );
        let path = (0..100).map(|n| format!("https://shop.test/a;jsessionid=0A1B2C3D4E5F{n:020}?x=1"));
        assert_eq!(first_trap(path).map(|(number, _)| number), Some(50));
    }

    #[test]
    fn a_parameter_that_may_mean_something_else_is_one_where_many_pages_come_with_ever_new_ids() {
        let id = |n: usize| uuid::Uuid::from_u128(0x550e_8400_e29b_41d4_a716_4466_5544_0000 + n as u128);
        let everywhere =
            (0..3_000).map(|n| format!("https://shop.test/item/{}?session={}", n % 30, id(n / 30)));
        let (number, reason) = first_trap(everywhere).expect("it is a trap");
        assert_eq!(number, 1_500, "the first with the 51st id: {reason}");
        let talks = (0..1_000).map(|n| format!("https://conference.test/talk?session={}", id(n)));
        assert_eq!(first_trap(talks), None);
        let parts = (0..3_000).map(|n| {
            let part = ["", "/slides", "/video"][n % 3];
            format!("https://conference.test/talk{part}?session_id={}", id(n / 3))
        });
        assert_eq!(first_trap(parts), None);
        let named = (0..1_000).map(|n| format!("https://conference.test/talk/a-title-{n}?session={}", id(n)));
        assert_eq!(first_trap(named), None);
    }

    #[test]
    fn one_session_for_the_whole_site_and_short_ids_are_no_traps() {
        let one =
            (0..1_000).map(|n| format!("https://shop.test/item/{n}?sid=9f8e7d6c5b4a39281706f5e4d3c2b1a0"));
        assert_eq!(first_trap(one), None);
        let short = (0..1_000).map(|n| format!("https://shop.test/station?sid={n}"));
        assert_eq!(first_trap(short), None);
    }

    #[test]
    fn what_looks_drawn_by_lot_is_the_id_of_a_session_and_words_and_numbers_are_none() {
        for id in [
            "9f8e7d6c5b4a39281706f5e4d3c2b1a0",
            "550e8400-e29b-41d4-a716-446655440000",
            "lit3py55t21z5v55vlm25s55",
            "0A1B2C3D4E5F60718293A4B5C6D7E8F9.node1",
            "k7tq3m0c2v5h8r1b6n4d9s0f2g",
            "dQw4w9WgXcQ3fT7p-aB1kLm9_Zx2",
        ] {
            assert!(is_session_id(id), "{id}");
        }
        for other in [
            "building-a-crawler-in-rust-2026",
            "keynote_2026_opening_of_day_1",
            "rust2026-day1-talk3-room4-part2-v2",
            "2026-11-27-morning-at-10h30-in-hall-3b",
            "20261127T103000Z",
            "1234567890123456789",
            "thequickbrownfoxjumpsover2026",
            "9f8e7d6c5b4a392",
            "9f8e7d6c5b4a3928 1706f5e4d3c2b1a0",
        ] {
            assert!(!is_session_id(other), "{other}");
        }
        let talks = (0..1_000).map(|n| {
            format!("https://conference.test/talk?session=building-a-crawler-in-rust-{n}-for-the-year-2026")
        });
        assert_eq!(first_trap(talks), None);
    }

    #[test]
    fn query_strings_as_such_are_limited_only_on_request() {
        let mut queries = Queries::new();
        let rules = Traps { query_strings: Some(100), ..Traps::OFF };
        let mut judge =
            |n: u32| queries.judge(&PageUrl::parse(&format!("https://a.test/x?r={n}")).unwrap(), &rules);
        assert!((0..100).all(|n| judge(n).is_none()));
        let reason = judge(100).expect("there are more than 100");
        assert!(reason.contains("`/x` has had about 101 different query strings, more than 100"), "{reason}");
    }
}
