//! Traps that a single URL shows: it is very long, or its path repeats itself, as relative links that resolve wrongly
//! make it do.

use std::collections::HashMap;

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

/// Says how the path repeats itself, if it does so `most` times. Takes time in proportion to the URL's length.
pub(super) fn repeated(url: &PageUrl, most: u32) -> Option<String> {
    let most = most as usize;
    let mut segments: Vec<&str> = url.as_url().path_segments()?.collect();
    if segments.last() == Some(&"") {
        segments.pop();
    }
    if segments.len() < most {
        return None;
    }
    if let Some(cycle) = repeated_cycle(&segments, most) {
        return Some(format!(
            "the path has `{}` {most} times in a row, at least (`traps.repeated_segments`)",
            cycle.join("/")
        ));
    }
    let most = most + SCATTERED;
    let segment = frequent_segment(&segments, most)?;
    Some(format!("the path has the segment `{segment}` {most} times, at least"))
}

/// The first sequence of segments that follows itself so often, the shortest before longer ones. Numbers alone do not count:
/// dates and map tiles have the same one twice or three times.
fn repeated_cycle<'a>(segments: &'a [&'a str], most: usize) -> Option<&'a [&'a str]> {
    for length in 1..=LONGEST_CYCLE.min(segments.len()) {
        // How many segments in a row are the same as the one a cycle before.
        let mut same = 0;
        for end in length..=segments.len() {
            let cycle = &segments[end - length..end];
            let is_repeated = same % length == 0 && same / length + 1 >= most;
            if is_repeated && !cycle.iter().all(|segment| is_number(segment)) {
                return Some(cycle);
            }
            let goes_on = segments.get(end) == Some(&segments[end - length]);
            same = if goes_on { same + 1 } else { 0 };
        }
    }
    None
}

/// The first segment that comes so often, whatever is between.
fn frequent_segment<'a>(segments: &[&'a str], most: usize) -> Option<&'a str> {
    let mut times: HashMap<&str, usize> = HashMap::new();
    segments.iter().copied().filter(|segment| !is_number(segment) && segment.len() > 1).find(|segment| {
        let times = times.entry(segment).or_default();
        *times += 1;
        *times >= most
    })
}

fn is_number(segment: &str) -> bool {
    !segment.is_empty() && segment.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

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
    fn paths_made_to_take_long_do_not() {
        let one = url(&"/a".repeat(990));
        // Two letters each, so that none comes back and all of them are counted.
        let letters = || (b'a'..=b'z').map(char::from);
        let pairs = letters().flat_map(|first| letters().map(move |second| format!("/{first}{second}")));
        let many = url(&pairs.take(660).collect::<String>());
        let begun = Instant::now();
        for _ in 0..50_000 {
            assert!(repeated(&one, 3).is_some());
        }
        for _ in 0..2_000 {
            assert_eq!(repeated(&many, 3), None);
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "it took {:?}", begun.elapsed());
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
