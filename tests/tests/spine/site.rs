//! A small made-up site: which page links to which, and what comes of each when it is visited. Pages are numbered, and lie on
//! three hosts.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use crawlify_shared::domain::outcome::ErrorClass;
use proptest::prelude::*;
use serde_json::{Value, json};

const HOSTS: usize = 3;

#[derive(Clone)]
pub(super) struct Site {
    /// The crawl starts at the pages below this number.
    starts: usize,
    pub(super) pages: Vec<Page>,
}

#[derive(Clone)]
pub(super) struct Page {
    pub(super) fate: Fate,
    pub(super) takes: Duration,
    links: Vec<usize>,
}

/// What comes of a page, visit after visit.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fate {
    Loads,
    /// At its first visits, fewer than would end it; then it loads.
    FailsFirst(Fault, u64),
    Fails(Fault),
}

/// How a visit fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    NotThere,
    ServerError,
    ConnectionLost,
    ProxyDead,
    TabCrashes,
    Panics,
    /// Until its deadline.
    Hangs,
    /// Together with every page that is in the same browser.
    LosesBrowser,
}

/// So that the next visit may go well.
const PASSING: [Fault; 7] = [
    Fault::ServerError,
    Fault::ConnectionLost,
    Fault::ProxyDead,
    Fault::TabCrashes,
    Fault::Panics,
    Fault::Hangs,
    Fault::LosesBrowser,
];
/// Where a page is given up after a few visits; without its proxy it would be tried 15 times.
const LASTING: [Fault; 7] = [
    Fault::NotThere,
    Fault::ServerError,
    Fault::ConnectionLost,
    Fault::TabCrashes,
    Fault::Panics,
    Fault::Hangs,
    Fault::LosesBrowser,
];

impl Fault {
    /// What is recorded of a page that fails so for good.
    pub(super) fn ends_as(self) -> ErrorClass {
        match self {
            Self::NotThere => ErrorClass::Http4xx,
            Self::ServerError => ErrorClass::Http5xx,
            Self::ConnectionLost => ErrorClass::ConnectionLost,
            Self::ProxyDead => ErrorClass::Proxy,
            Self::TabCrashes => ErrorClass::TabCrash,
            Self::Panics => ErrorClass::Internal,
            Self::Hangs => ErrorClass::NavTimeout,
            Self::LosesBrowser => ErrorClass::Poison,
        }
    }
}

impl Fate {
    fn any() -> impl Strategy<Value = Self> {
        let passing = (prop::sample::select(PASSING.to_vec()), 1..3_u64);
        prop_oneof![
            6 => Just(Self::Loads),
            5 => passing.prop_map(|(fault, visits)| Self::FailsFirst(fault, visits)),
            2 => prop::sample::select(LASTING.to_vec()).prop_map(Self::Fails),
        ]
    }

    /// How this visit fails, if it does; the first one has number 1.
    pub(super) fn at(self, visit: u64) -> Option<Fault> {
        match self {
            Self::Loads => None,
            Self::FailsFirst(fault, visits) => (visit <= visits).then_some(fault),
            Self::Fails(fault) => Some(fault),
        }
    }

    /// How it fails in the end; `None` where it loads.
    pub(super) fn end(self) -> Option<ErrorClass> {
        match self {
            Self::Loads | Self::FailsFirst(..) => None,
            Self::Fails(fault) => Some(fault.ends_as()),
        }
    }
}

impl Site {
    /// Sites of 4 to 15 pages. Each page but the first ones has at least one link to it from a page before it; the others
    /// lead anywhere, also in circles.
    pub(super) fn any() -> impl Strategy<Value = Self> {
        let link = any::<prop::sample::Index>;
        let page = (link(), prop::collection::vec(link(), 0..3), Fate::any(), 0..40_u64);
        (1_usize..4, prop::collection::vec(page, 4..16)).prop_map(|(starts, drawn)| {
            let count = drawn.len();
            let mut pages: Vec<Page> = Vec::new();
            for (number, (parent, anywhere, fate, takes_ms)) in drawn.into_iter().enumerate() {
                if number >= starts {
                    pages[parent.index(number)].links.push(number);
                }
                let links = anywhere.iter().map(|link| link.index(count)).collect();
                pages.push(Page { fate, takes: Duration::from_millis(takes_ms), links });
            }
            Self { starts, pages }
        })
    }

    pub(super) fn url(number: usize) -> String {
        format!("http://h{}.test/{number}", number % HOSTS)
    }

    /// What a page says.
    pub(super) fn title(number: usize) -> String {
        format!("page {number}")
    }

    pub(super) fn start_urls(&self) -> Vec<String> {
        (0..self.starts).map(Self::url).collect()
    }

    /// What a page links to.
    pub(super) fn links_of(&self, number: usize) -> Vec<String> {
        self.pages[number].links.iter().map(|link| Self::url(*link)).collect()
    }

    /// Every page that a crawl knows which has completed these.
    pub(super) fn known_after(&self, completed: impl Iterator<Item = usize>) -> BTreeSet<String> {
        self.start_urls().into_iter().chain(completed.flat_map(|number| self.links_of(number))).collect()
    }

    /// A workflow that follows every link and takes the title. There is no site that could be asked for its robots file.
    pub(super) fn workflow(&self) -> Value {
        json!({
            "start_urls": self.start_urls(), "max_depth": 100, "render": "full", "politeness": {"robots": "ignore"},
            "url_discovery": [
                {"id": "links", "type": "extract_links", "params": {"selector": "a"}}
            ],
            "data_extraction": [
                {"id": "title", "type": "extract", "params": {"selector": "h1", "type": "text"}, "output_key": "title"}
            ]
        })
    }
}

/// The number of a page of the site.
pub(super) fn number_of(url: &str) -> usize {
    url.rsplit('/').next().and_then(|number| number.parse().ok()).expect("a page of the site")
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pages 0..{} are the start", self.starts)?;
        self.pages.iter().enumerate().try_for_each(|(number, Page { fate, takes, links })| {
            write!(f, "\n  page {number}: {fate:?} in {takes:?}, links {links:?}")
        })
    }
}
