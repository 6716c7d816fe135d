//! Traps that a single URL shows: it is very long, or its path repeats itself, as relative links that resolve wrongly
//! make it do.

use crawlify_shared::domain::page_url::PageUrl;

/// The longest sequence of segments that is looked at for repetitions.
const LONGEST_CYCLE: usize = 6;
/// A segment that comes back with others between may do so this much oftener than one that follows itself.
const SCATTERED: usize = 2;

/// Says why a URL is too long, if it is.
pub(super) fn overlong(url: &PageUrl, most: u32) -> Option<String> {
    let length = url.as_str().len();
    (length > most as usize)
        .then(|| format!("the URL has {length} bytes, more than {most} (`traps.max_url_length`)"))
}

/// Says how the path repeats itself, if it does so `most` times.
pub(super) fn repeated(url: &PageUrl, most: u32) -> Option<String> {
    let most = most as usize;
    let mut segments: Vec<&str> = url.as_url().path_segments()?.collect();
    if segments.last() == Some(&"") {
        segments.pop();
    }
    if segments.len() < most {
        return None;
    }
    let (cycle, times) = longest_repetition(&segments);
    if times >= most {
        return Some(format!(
            "the path has `{}` {times} times in a row (`traps.repeated_segments` is {most})",
            cycle.join("/")
        ));
    }
    let most = most + SCATTERED;
    let (segment, times) = most_frequent(&segments)?;
    (times >= most).then(|| format!("the path has the segment `{segment}` {times} times, at least {most}"))
}

/// The sequence of segments that follows itself most often. Numbers alone do not count: dates and map tiles have the
/// same one twice or three times.
fn longest_repetition<'a>(segments: &'a [&'a str]) -> (&'a [&'a str], usize) {
    let mut found: (&[&str], usize) = (&[], 0);
    for length in 1..=LONGEST_CYCLE.min(segments.len()) {
        for start in 0..=segments.len() - length {
            let cycle = &segments[start..start + length];
            if cycle.iter().all(|segment| is_number(segment)) {
                continue;
            }
            let times = segments[start..].chunks_exact(length).take_while(|chunk| *chunk == cycle).count();
            if times > found.1 {
                found = (cycle, times);
            }
        }
    }
    found
}

fn most_frequent<'a>(segments: &[&'a str]) -> Option<(&'a str, usize)> {
    let counted = segments.iter().filter(|segment| !is_number(segment) && segment.len() > 1);
    let times = |segment: &str| segments.iter().filter(|other| **other == segment).count();
    counted.map(|segment| (*segment, times(segment))).max_by_key(|(_, times)| *times)
}

fn is_number(segment: &str) -> bool {
    !segment.is_empty() && segment.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(path: &str) -> PageUrl {
        PageUrl::parse(&format!("https://site.test{path}")).unwrap()
    }

    #[test]
    fn paths_that_repeat_themselves_are_told_with_what_repeats_and_how_often() {
        for (path, said) in [
            ("/en/news/news/news/", "`news` 3 times in a row"),
            ("/about/contact/about/contact/about/contact", "`about/contact` 3 times in a row"),
            ("/x/a/b/c/a/b/c/a/b/c/d", "`a/b/c` 3 times in a row"),
            ("/a////b", "`` 3 times in a row"),
            ("/shop/red/shop/big/shop/old/shop/new/shop/x", "the segment `shop` 5 times"),
        ] {
            let reason = repeated(&url(path), 3).unwrap_or_else(|| panic!("{path} is no trap"));
            assert!(reason.contains(said), "{path}: {reason}");
        }
    }

    #[test]
    fn ordinary_paths_are_no_traps() {
        for path in [
            "/",
            "/2011/11/11/eleven/",
            "/tiles/0/0/0.png",
            "/0/0/0/0",
            "/wiki/New_York/New_York",
            "/catalogue/category/books/travel_2/index.html",
            "/group/project/-/tree/main/src/main/java/com/main",
            "/web/2020/https://other.test/a/b",
            "/blog/blog/a-post",
        ] {
            assert_eq!(repeated(&url(path), 3), None, "{path}");
        }
    }

    #[test]
    fn only_a_url_beyond_the_limit_is_too_long() {
        let long = url(&format!("/{}", "x".repeat(1_982)));
        assert_eq!(long.as_str().len(), 2_000);
        assert_eq!(overlong(&long, 2_000), None);
        let reason = overlong(&long, 1_999).unwrap();
        assert!(reason.contains("2000 bytes, more than 1999"), "{reason}");
    }
}
