//! What the demo shop sells: categories and products made from a fixed seed, and the truth that a crawl of it must
//! find. Knows nothing of HTML.

use std::collections::HashSet;

use serde::Serialize;

use super::random::Sequence;
use super::words::{ADJECTIVES, CATEGORIES, NAMES, NOUNS, PLACES, SENTENCES, SUBTITLES};

/// How many products there are.
pub(super) const PRODUCTS: u32 = 640;

const SEED: u64 = 0x0C2A_171F_2025;
const RATINGS: [&str; 5] = ["One", "Two", "Three", "Four", "Five"];

/// A category and the products in it.
pub(super) struct Category {
    pub(super) name: &'static str,
    pub(super) slug: String,
    /// Indexes into the catalogue's products.
    pub(super) members: Vec<usize>,
}

/// One product.
pub(super) struct Product {
    /// From 1; newer ones have greater ids.
    pub(super) id: u32,
    pub(super) title: String,
    pub(super) slug: String,
    /// Index into the catalogue's categories.
    pub(super) category: usize,
    pub(super) kind: &'static str,
    pub(super) price_pence: u32,
    /// Contained in the price.
    pub(super) tax_pence: u32,
    pub(super) rating: &'static str,
    pub(super) stock: u32,
    pub(super) upc: String,
    pub(super) reviews: u32,
    /// A few products have none.
    pub(super) description: Option<String>,
}

impl Product {
    /// The path of its page.
    pub(super) fn path(&self) -> String {
        format!("/product/{}_{}.html", self.slug, self.id)
    }

    /// The path of its large picture.
    pub(super) fn image_path(&self) -> String {
        format!("/media/{}.png", self.id)
    }

    /// The path of its small picture.
    pub(super) fn thumb_path(&self) -> String {
        format!("/media/{}-small.png", self.id)
    }

    /// Its availability in words.
    pub(super) fn availability(&self) -> String {
        match self.stock {
            0 => "Out of stock".to_owned(),
            stock => format!("In stock ({stock} available)"),
        }
    }
}

/// All that the shop sells. Products come newest first.
pub(super) struct Catalogue {
    pub(super) categories: Vec<Category>,
    pub(super) products: Vec<Product>,
}

/// What a crawl of one product page must find: the text that a reader sees. Field names are those of the books
/// site's `expected.jsonl`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExpectedItem {
    /// The page's path, starting with a slash.
    pub path: String,
    /// The full title.
    pub title: String,
    /// The category's name.
    pub category: String,
    /// With its currency sign.
    pub price: String,
    /// With its currency sign.
    pub price_excl_tax: String,
    /// With its currency sign.
    pub price_incl_tax: String,
    /// With its currency sign.
    pub tax: String,
    /// `One` to `Five`.
    pub rating: String,
    /// In words, with the stock where there is any.
    pub availability: String,
    /// How many there are.
    pub stock: u32,
    /// Sixteen hexadecimal digits.
    pub upc: String,
    /// What kind of thing it is.
    pub product_type: String,
    /// A number, as text.
    pub num_reviews: String,
    /// `None` where the page has no description.
    pub description: Option<String>,
    /// The path of the large picture.
    pub image: String,
}

impl Catalogue {
    /// Makes the catalogue; every call makes the same one.
    pub(super) fn make() -> Self {
        let mut sequence = Sequence::new(SEED);
        let mut categories: Vec<Category> = CATEGORIES
            .iter()
            .map(|(name, _)| Category { name, slug: slug(name), members: Vec::new() })
            .collect();
        let mut titles = HashSet::new();
        let mut products = Vec::new();
        for id in (1..=PRODUCTS).rev() {
            let category = weighted_category(&mut sequence);
            categories[category].members.push(products.len());
            products.push(make_product(id, category, &mut sequence, &mut titles));
        }
        Self { categories, products }
    }

    /// What a crawl of the shop must find, in the order of its lists.
    pub(super) fn expected(&self) -> Vec<ExpectedItem> {
        self.products
            .iter()
            .map(|product| ExpectedItem {
                path: product.path(),
                title: product.title.clone(),
                category: self.categories[product.category].name.to_owned(),
                price: pounds(product.price_pence),
                price_excl_tax: pounds(product.price_pence - product.tax_pence),
                price_incl_tax: pounds(product.price_pence),
                tax: pounds(product.tax_pence),
                rating: product.rating.to_owned(),
                availability: product.availability(),
                stock: product.stock,
                upc: product.upc.clone(),
                product_type: product.kind.to_owned(),
                num_reviews: product.reviews.to_string(),
                description: product.description.clone(),
                image: product.image_path(),
            })
            .collect()
    }
}

/// An amount as the shop writes it.
pub(super) fn pounds(pence: u32) -> String {
    format!("£{}.{:02}", pence / 100, pence % 100)
}

fn weighted_category(sequence: &mut Sequence) -> usize {
    let total = CATEGORIES.iter().map(|(_, weight)| weight).sum();
    let mut drawn = sequence.below(total);
    for (index, (_, weight)) in CATEGORIES.iter().enumerate() {
        if drawn < *weight {
            return index;
        }
        drawn -= weight;
    }
    0
}

fn make_product(id: u32, category: usize, sequence: &mut Sequence, titles: &mut HashSet<String>) -> Product {
    let title = loop {
        let title = make_title(sequence);
        if titles.insert(title.clone()) {
            break title;
        }
    };
    let kind = match sequence.below(20) {
        0..16 => "Books",
        16..19 => "Audiobooks",
        _ => "Maps",
    };
    let price_pence = sequence.between(499, 5999);
    // As in Britain: printed books bear no tax, everything else a fifth on top.
    let tax_pence = if kind == "Books" { 0 } else { price_pence / 6 };
    let stock = if sequence.below(16) == 0 { 0 } else { sequence.between(1, 30) };
    Product {
        id,
        slug: slug(&title),
        title,
        category,
        kind,
        price_pence,
        tax_pence,
        rating: sequence.pick(&RATINGS),
        stock,
        upc: format!("{:016x}", sequence.bits()),
        reviews: if sequence.below(3) == 0 { 0 } else { sequence.between(1, 48) },
        description: (sequence.below(80) != 0).then(|| make_description(sequence)),
    }
}

fn make_title(sequence: &mut Sequence) -> String {
    let adjective = sequence.pick(&ADJECTIVES);
    let noun = sequence.pick(&NOUNS);
    let other = sequence.pick(&NOUNS);
    let place = sequence.pick(&PLACES);
    let name = sequence.pick(&NAMES);
    let title = match sequence.below(8) {
        0 | 1 => format!("The {adjective} {noun}"),
        2 => format!("The {noun} of {place}"),
        3 => format!("{name} and the {adjective} {noun}"),
        4 => format!("A {noun} for {name}"),
        5 => format!("The {noun}'s {other}"),
        6 => format!("{adjective} {noun}, {adjective} {other}"),
        _ => format!("Return to {place}"),
    };
    match sequence.below(6) {
        0 | 1 => format!("{title}: {}", sequence.pick(&SUBTITLES)),
        2 => format!("{title} (The {place} Chronicles #{})", sequence.between(1, 9)),
        _ => title,
    }
}

fn make_description(sequence: &mut Sequence) -> String {
    let count = sequence.between(4, 16);
    let sentences: Vec<String> = (0..count)
        .map(|_| {
            SENTENCES[sequence.below(SENTENCES.len() as u32) as usize]
                .replace("{name2}", sequence.pick(&NAMES))
                .replace("{name}", sequence.pick(&NAMES))
                .replace("{place}", sequence.pick(&PLACES))
                .replace("{adjective}", &sequence.pick(&ADJECTIVES).to_lowercase())
                .replace("{noun}", &sequence.pick(&NOUNS).to_lowercase())
        })
        .collect();
    sentences.join(" ")
}

/// A name as a part of a path: lower-case letters, digits and single hyphens.
fn slug(name: &str) -> String {
    let mut slug = String::new();
    for letter in name.chars() {
        if letter.is_ascii_alphanumeric() {
            slug.push(letter.to_ascii_lowercase());
        } else if letter != '\'' && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    slug.trim_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_category_has_products_and_every_product_is_in_one() {
        let catalogue = Catalogue::make();
        assert_eq!(catalogue.products.len(), 640);
        assert!(catalogue.categories.iter().all(|category| !category.members.is_empty()));
        assert_eq!(catalogue.categories.iter().map(|category| category.members.len()).sum::<usize>(), 640);
        assert!(catalogue.categories.iter().any(|category| category.members.len() > 40), "no pagination");
    }

    #[test]
    fn titles_upcs_and_paths_are_unique() {
        let expected = Catalogue::make().expected();
        let keys: [fn(&ExpectedItem) -> &str; 3] = [|item| &item.title, |item| &item.upc, |item| &item.path];
        for key in keys {
            assert_eq!(expected.iter().map(key).collect::<HashSet<_>>().len(), expected.len());
        }
    }

    #[test]
    fn the_catalogue_holds_the_odd_cases_that_a_crawl_should_meet() {
        let expected = Catalogue::make().expected();
        assert!(expected.iter().any(|item| item.availability == "Out of stock"));
        assert!(expected.iter().any(|item| item.description.is_none()));
        assert!(expected.iter().any(|item| item.tax != "£0.00"));
        assert!(expected.iter().any(|item| item.num_reviews == "0"));
        assert!(expected.iter().any(|item| item.title.contains('&') && !item.title.is_ascii()));
        assert!(expected.iter().any(|item| item.title.contains('"')));
    }

    #[test]
    fn the_catalogue_is_the_same_in_every_version() {
        let expected = serde_json::to_vec(&Catalogue::make().expected()).unwrap();
        assert_eq!(super::super::resource::fingerprint(&expected), 12_368_469_615_940_076_103);
    }

    #[test]
    fn tax_is_a_part_of_the_price() {
        assert!(
            Catalogue::make().products.iter().all(|product| product.tax_pence * 6 <= product.price_pence)
        );
        assert_eq!(pounds(1205), "£12.05");
    }
}
