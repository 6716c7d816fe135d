//! The demo shop as a set of paths: pages are made once at start, pictures when they are asked for. It refers to no
//! resource outside of itself.

use std::collections::HashMap;

use super::catalogue::{Catalogue, ExpectedItem, PRODUCTS};
use super::pages::{List, PRICE_LIST_PATH, missing_html, product_html};
use super::picture::cover;
use super::resource::{Lookup, Resource};

const HTML: &str = "text/html; charset=utf-8";

/// The demo shop.
pub struct Shop {
    catalogue: Catalogue,
    by_path: HashMap<String, Resource>,
}

impl Shop {
    /// Makes the shop; every call makes the same one.
    #[allow(clippy::new_without_default, reason = "making a shop is work, which Default would hide")]
    pub fn new() -> Self {
        let catalogue = Catalogue::make();
        let mut by_path = HashMap::new();
        for list in List::all(&catalogue) {
            for page in 1..=list.pages() {
                by_path.insert(list.path(page), Resource::new(HTML, list.html(page)));
            }
        }
        for (index, product) in catalogue.products.iter().enumerate() {
            by_path.insert(product.path(), Resource::new(HTML, product_html(&catalogue, index)));
        }
        let style = Resource::new("text/css; charset=utf-8", include_str!("assets/style.css"));
        by_path.insert("/static/style.css".to_owned(), style.cacheable());
        let script = Resource::new("text/javascript; charset=utf-8", include_str!("assets/shop.js"));
        by_path.insert("/static/shop.js".to_owned(), script.cacheable());
        let robots = Resource::new("text/plain; charset=utf-8", "User-agent: *\nDisallow:\n");
        by_path.insert("/robots.txt".to_owned(), robots);
        let mut shop = Self { catalogue, by_path };
        let truth = Resource::new("application/jsonl; charset=utf-8", shop.expected_jsonl());
        shop.by_path.insert("/expected.jsonl".to_owned(), truth);
        shop
    }

    /// What a crawl of all product pages must find.
    pub fn expected(&self) -> Vec<ExpectedItem> {
        self.catalogue.expected()
    }

    /// The same as JSON, one product a line; the server gives it at `/expected.jsonl`, to which no page links.
    pub fn expected_jsonl(&self) -> String {
        let lines = self.expected().into_iter().map(|item| {
            let line = serde_json::to_string(&item).expect("strings and numbers are always JSON");
            line + "\n"
        });
        lines.collect()
    }

    /// How many pages a complete crawl visits: every list page and every product.
    pub fn pages(&self) -> usize {
        self.by_path.values().filter(|resource| resource.content_type == HTML).count()
    }

    pub(super) fn look_up(&self, path: &str) -> Lookup {
        if let Some(resource) = self.by_path.get(path) {
            return Lookup::Found(resource.clone());
        }
        if let Some(picture) = picture(path) {
            return Lookup::Found(Resource::new("image/png", picture).cacheable());
        }
        match path.strip_suffix("index.html") {
            Some(folder) if self.by_path.contains_key(folder) => Lookup::Moved(folder.to_owned()),
            _ if self.by_path.contains_key(&format!("{path}/")) => Lookup::Moved(format!("{path}/")),
            _ => Lookup::Missing,
        }
    }

    pub(super) fn missing(&self) -> Resource {
        Resource::new(HTML, missing_html())
    }
}

/// The picture at a path such as `/media/12.png` or `/media/12-small.png`.
fn picture(path: &str) -> Option<Vec<u8>> {
    if path == PRICE_LIST_PATH {
        return Some(cover(0, 150, 210));
    }
    let name = path.strip_prefix("/media/")?.strip_suffix(".png")?;
    let (number, small) = match name.strip_suffix("-small") {
        Some(number) => (number, true),
        None => (name, false),
    };
    let id: u32 = number.parse().ok().filter(|id| (1..=PRODUCTS).contains(id))?;
    // One picture has one path: not `+1.png`, not `01.png`.
    (id.to_string() == number).then(|| if small { cover(id, 72, 100) } else { cover(id, 150, 210) })
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, VecDeque};

    use url::Url;

    use super::*;

    /// Every `href` and `src` of a page, resolved.
    fn references(page: &Url, html: &str) -> Vec<Url> {
        let mut found = Vec::new();
        for attribute in [" href=\"", " src=\""] {
            for rest in html.split(attribute).skip(1) {
                let value = rest.split('"').next().unwrap().replace("&amp;", "&");
                found.push(page.join(&value).unwrap());
            }
        }
        found
    }

    #[test]
    fn following_every_link_from_home_reaches_every_page_and_nothing_is_missing() {
        let shop = Shop::new();
        let home = Url::parse("http://shop.test/").unwrap();
        let mut seen = BTreeSet::from([home.clone()]);
        let mut queue = VecDeque::from([home]);
        let mut pages = BTreeSet::new();
        let mut outside = BTreeSet::new();
        while let Some(url) = queue.pop_front() {
            let resource = match shop.look_up(url.path()) {
                Lookup::Found(resource) => resource,
                other => panic!("{url}: {other:?}"),
            };
            if resource.content_type != HTML {
                continue;
            }
            pages.insert(url.path().to_owned());
            for reference in references(&url, std::str::from_utf8(&resource.body).unwrap()) {
                if reference.host_str() != Some("shop.test") {
                    outside.insert(reference);
                } else if seen.insert(reference.clone()) {
                    queue.push_back(reference);
                }
            }
        }
        assert_eq!(pages.len(), shop.pages());
        assert!(shop.expected().iter().all(|item| pages.contains(&item.path)));
        let outside: Vec<String> = outside.iter().map(Url::to_string).collect();
        assert_eq!(outside, ["data:,", "https://gift-cards.invalid/"], "only a link, never a resource");
    }

    #[test]
    fn product_pages_show_what_the_truth_says() {
        let shop = Shop::new();
        for item in shop.expected() {
            let Lookup::Found(page) = shop.look_up(&item.path) else { panic!("{} is missing", item.path) };
            let html = std::str::from_utf8(&page.body).unwrap();
            let title = super::super::pages::escape(&item.title);
            assert!(html.contains(&format!("<h1>{title}</h1>")), "{}", item.path);
            for cell in [&item.upc, &item.price_excl_tax, &item.tax, &item.availability, &item.num_reviews] {
                assert!(html.contains(&format!("<td>{cell}</td>")), "{}: {cell}", item.path);
            }
            assert_eq!(html.contains("product_description"), item.description.is_some());
        }
    }

    #[test]
    fn a_page_has_one_address() {
        let shop = Shop::new();
        assert_eq!(shop.look_up("/index.html"), Lookup::Moved("/".to_owned()));
        assert_eq!(shop.look_up("/category/crime"), Lookup::Moved("/category/crime/".to_owned()));
        assert_eq!(shop.look_up("/category/crime/page-99.html"), Lookup::Missing);
    }

    #[test]
    fn pictures_exist_for_products_only() {
        assert!(picture("/media/1.png").is_some());
        assert!(picture("/media/640-small.png").is_some());
        for path in ["/media/0.png", "/media/641.png", "/media/+1.png", "/media/01.png", "/media/x.png"] {
            assert!(picture(path).is_none(), "{path}");
        }
    }
}
