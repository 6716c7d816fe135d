//! The shape of a URL: what pages that a site makes from one template have in common in their addresses.

use super::page_url::PageUrl;

/// Segments of a path beyond this number do not count.
const MAX_SEGMENTS: usize = 12;
/// A longer segment is a name, not part of the site's structure.
const MAX_WORD: usize = 24;

/// The URL with what differs from page to page replaced: numbers by `#`, names by `*`; of the query only the keys stay.
///
/// `/catalogue/a-light-in-the-attic_1000/index.html?ref=7` is `/catalogue/*/index.html?ref`, and `page-2.html` is
/// `page-#.html`.
pub fn shape(url: &PageUrl) -> String {
    let url = url.as_url();
    let mut shape = url.host_str().unwrap_or_default().to_owned();
    for segment in url.path_segments().into_iter().flatten().take(MAX_SEGMENTS) {
        shape.push('/');
        shape.push_str(&segment_shape(segment));
    }
    let mut keys: Vec<String> =
        url.query_pairs().map(|(key, _)| key.chars().take(MAX_WORD).collect()).collect();
    keys.sort_unstable();
    keys.dedup();
    keys.truncate(MAX_SEGMENTS);
    if !keys.is_empty() {
        shape.push('?');
        shape.push_str(&keys.join("&"));
    }
    shape
}

fn segment_shape(segment: &str) -> String {
    let (stem, extension) = match segment.rsplit_once('.') {
        Some((stem, extension)) if !stem.is_empty() && extension.len() <= 5 => (stem, Some(extension)),
        _ => (segment, None),
    };
    let words = stem.split(['-', '_']).filter(|word| !word.is_empty()).count();
    let letters = stem.chars().filter(char::is_ascii_alphabetic).count();
    let has_digits = stem.contains(|c: char| c.is_ascii_digit());
    let mut shape = if stem.contains('%') || stem.len() > MAX_WORD || words > 2 {
        "*".to_owned()
    } else if !has_digits {
        stem.to_owned()
    } else if letters == 0
        || words == 2 && stem.chars().next_back().is_some_and(|c| c.is_ascii_digit()) && is_numbered(stem)
    {
        without_numbers(stem)
    } else {
        "*".to_owned()
    };
    if let Some(extension) = extension {
        shape.push('.');
        shape.push_str(extension);
    }
    shape
}

/// A word that a site numbers things by: `page-2`, `p_17`.
fn is_numbered(stem: &str) -> bool {
    const WORDS: [&str; 6] = ["page", "p", "seite", "part", "offset", "start"];
    stem.split(['-', '_']).next().is_some_and(|word| WORDS.contains(&word.to_ascii_lowercase().as_str()))
}

fn without_numbers(stem: &str) -> String {
    let mut shape = String::new();
    for c in stem.chars() {
        if !c.is_ascii_digit() {
            shape.push(c);
        } else if !shape.ends_with('#') {
            shape.push('#');
        }
    }
    shape
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_one_template_have_one_shape() {
        for (path, expected) in [
            ("/", "shop.test/"),
            ("/catalogue/a-light-in-the-attic_1000/index.html", "shop.test/catalogue/*/index.html"),
            ("/catalogue/sapiens_1/index.html", "shop.test/catalogue/*/index.html"),
            (
                "/catalogue/category/books/travel_2/page-12.html",
                "shop.test/catalogue/category/books/*/page-#.html",
            ),
            ("/catalogue/page-2.html", "shop.test/catalogue/page-#.html"),
            ("/item/12345", "shop.test/item/#"),
            ("/2024/05/17/hello", "shop.test/#/#/#/hello"),
            ("/search?q=red&page=2&q=blue", "shop.test/search?page&q"),
            ("/u/%C3%A9t%C3%A9", "shop.test/u/*"),
        ] {
            let url = PageUrl::parse(&format!("https://shop.test{path}")).unwrap();
            assert_eq!(shape(&url), expected, "{path}");
        }
    }
}
