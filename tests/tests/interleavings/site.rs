//! A small made-up site: which page links to which. Pages are numbered, and lie on three hosts.

use std::collections::BTreeSet;
use std::fmt;

use proptest::prelude::*;

const HOSTS: usize = 3;

/// Page `n` links to the pages `links[n]`.
#[derive(Clone)]
pub(super) struct Site {
    /// The crawl starts at the pages below this number.
    pub(super) starts: usize,
    pub(super) links: Vec<Vec<usize>>,
}

impl Site {
    /// Sites of 4 to 40 pages. Each page but the first ones has at least one link to it from a page before it, so
    /// that most of the site can be reached; the others lead anywhere, also in circles.
    pub(super) fn any() -> impl Strategy<Value = Self> {
        let pages = (any::<prop::sample::Index>(), prop::collection::vec(any::<prop::sample::Index>(), 0..3));
        (1_usize..4, prop::collection::vec(pages, 4..40)).prop_map(|(starts, pages)| {
            let mut links = vec![Vec::new(); pages.len()];
            for (number, (parent, anywhere)) in pages.iter().enumerate() {
                if number >= starts {
                    links[parent.index(number)].push(number);
                }
                links[number].extend(anywhere.iter().map(|link| link.index(pages.len())));
            }
            Self { starts, links }
        })
    }

    pub(super) fn url(number: usize) -> String {
        format!("http://h{}.test/{number}", number % HOSTS)
    }

    pub(super) fn start_urls(&self) -> Vec<String> {
        (0..self.starts).map(Self::url).collect()
    }

    /// What a page links to.
    pub(super) fn links_of(&self, url: &str) -> Vec<String> {
        self.links[number_of(url)].iter().map(|link| Self::url(*link)).collect()
    }

    /// Every page that a crawl knows which has completed these.
    pub(super) fn known_after<'u>(&self, completed: impl Iterator<Item = &'u str>) -> BTreeSet<String> {
        self.start_urls().into_iter().chain(completed.flat_map(|url| self.links_of(url))).collect()
    }
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pages 0..{} are the start, links {:?}", self.starts, self.links)
    }
}

fn number_of(url: &str) -> usize {
    url.rsplit('/').next().and_then(|number| number.parse().ok()).expect("a page of the site")
}
