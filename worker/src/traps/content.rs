//! Pages that give the same: when very many of one shape in a row do, there is no use in more of them.
//!
//! What pages give is compared by fingerprints that differ in few bits where texts differ in few words (Charikar,
//! "Similarity estimation techniques from rounding algorithms", 2002). Dates do not count, as every empty day of a calendar
//! shows its own; other numbers do, as many products differ in nothing else.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroUsize;

use lru::LruCache;
use serde_json::Value;

use super::dates;

/// Shapes that are remembered of one execution.
const SHAPES: NonZeroUsize = NonZeroUsize::new(512).expect("it is not zero");
/// Fewer words say nothing, even where they are the same to the letter: "in stock" is what a thousand good pages give.
const LEAST_WORDS: usize = 20;
/// Words beyond this number do not count.
const MOST_WORDS: usize = 20_000;
/// Fingerprints that differ in more bits are different. Two of a thousand screws, whose descriptions differ in one word
/// of hundred, differ in more.
const SAME_BITS: u32 = 1;

/// What is known of the contents of one execution's pages.
#[derive(Debug)]
pub(super) struct Contents {
    shapes: LruCache<String, Streak>,
}

/// Pages of one shape in a row that gave the same.
#[derive(Debug)]
struct Streak {
    fingerprint: u64,
    pages: u32,
}

impl Contents {
    pub(super) fn new() -> Self {
        Self { shapes: LruCache::new(SHAPES) }
    }

    /// Takes in what a page gave. One that differs from those before it ends their streak, also a suspicious one.
    pub(super) fn see(&mut self, shape: &str, fingerprint: Option<u64>) {
        let Some(fingerprint) = fingerprint else {
            self.shapes.pop(shape);
            return;
        };
        match self.shapes.get_mut(shape) {
            Some(streak) if (streak.fingerprint ^ fingerprint).count_ones() <= SAME_BITS => {
                streak.pages = streak.pages.saturating_add(1);
            }
            Some(streak) => *streak = Streak { fingerprint, pages: 1 },
            None => {
                self.shapes.put(shape.to_owned(), Streak { fingerprint, pages: 1 });
            }
        }
    }

    /// Says why no more pages of a shape are wanted, if none are.
    pub(super) fn judge(&mut self, shape: &str, most: u32) -> Option<String> {
        let pages = self.shapes.get(shape)?.pages;
        (pages >= most).then(|| {
            format!(
                "the last {pages} pages of the shape `{shape}` gave the same text, at least {most} \
                 (`traps.identical_pages`)"
            )
        })
    }
}

/// The fingerprint of the texts in some values; `None` where there are too few words to compare.
pub(super) fn fingerprint<'v>(values: impl IntoIterator<Item = &'v Value>) -> Option<u64> {
    let mut words = Vec::new();
    for value in values {
        collect_words(value, &mut words);
    }
    if words.len() < LEAST_WORDS {
        return None;
    }
    let mut balance = [0_i64; 64];
    for pair in words.windows(2) {
        let mut hasher = DefaultHasher::new();
        pair.hash(&mut hasher);
        let hash = hasher.finish();
        for (bit, balance) in balance.iter_mut().enumerate() {
            *balance += if hash >> bit & 1 == 1 { 1 } else { -1 };
        }
    }
    let ones = balance.iter().enumerate().filter(|(_, balance)| **balance > 0);
    Some(ones.fold(0, |fingerprint, (bit, _)| fingerprint | 1 << bit))
}

fn collect_words(value: &Value, words: &mut Vec<u64>) {
    match value {
        Value::Null | Value::Bool(_) => {}
        Value::Number(number) => words.push(hash_of(&number.to_string())),
        Value::String(text) => {
            let room = MOST_WORDS.saturating_sub(words.len());
            words.extend(dates::words_beside_dates(text, room).iter().map(|word| hash_of(word)));
        }
        Value::Array(elements) => elements.iter().for_each(|element| collect_words(element, words)),
        Value::Object(members) => members.values().for_each(|member| collect_words(member, words)),
    }
}

fn hash_of(word: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    word.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use chrono::NaiveDate;
    use serde_json::json;

    use super::*;

    const EMPTY_DAY: &str = "There are no events on this day. Choose another day in the calendar on the left, or \
        subscribe to the newsletter of the town to be told of new events as soon as they are announced here.";

    fn screw(number: usize) -> Value {
        let (length, material) = (number % 40 + 5, ["steel", "brass", "zinc", "nylon"][number % 4]);
        json!({
            "title": format!("Screw M8 x {length} {material}, packet {number}"), "price": number as f64 / 7.0,
            "description": "A screw for every purpose in house and garden. Delivered within three days, returned \
                within thirty. Questions are answered by our friends in the shop, from eight to eighteen hours.",
        })
    }

    #[test]
    fn pages_without_end_that_give_the_same_are_a_trap_after_a_hundred() {
        let mut contents = Contents::new();
        for page in 1..=100 {
            assert_eq!(contents.judge("site.test/day/#", 100), None, "before page {page}");
            contents.see("site.test/day/#", fingerprint([&json!(EMPTY_DAY)]));
        }
        let reason = contents.judge("site.test/day/#", 100).expect("a hundred were the same");
        assert!(reason.contains("last 100 pages of the shape `site.test/day/#`"), "{reason}");
        assert_eq!(contents.judge("site.test/shop/*", 100), None, "another shape");
        contents.see("site.test/day/#", fingerprint([&screw(1)]));
        assert_eq!(contents.judge("site.test/day/#", 100), None, "there was something new after all");
    }

    #[test]
    fn empty_days_that_show_their_own_date_are_a_trap() {
        let first = NaiveDate::from_ymd_opt(2026, 11, 26).unwrap();
        for format in [
            "%A, %-d %B %Y",
            "%b %d, %Y",
            "%Y-%m-%d",
            "%d.%m.%Y",
            "%-m/%-d/%Y",
            "%B %Y",
            "%m/%Y",
            "%a %d %b",
            "%A, %B %-dth, %Y",
            "%Y-%m-%d 00:00",
            "week of %d.%m.%Y, %H:%M:%S",
        ] {
            let mut contents = Contents::new();
            for day in first.iter_days().take(100) {
                let date = day.and_hms_opt(8, 30, 0).unwrap().format(format);
                let page = json!({"title": date.to_string(), "text": format!("{date}: {EMPTY_DAY} Back to {date}.")});
                contents.see("site.test/day/#", fingerprint([&page]));
            }
            assert!(contents.judge("site.test/day/#", 100).is_some(), "{format}");
        }
    }

    #[test]
    fn empty_months_with_the_numbers_of_their_days_are_a_trap() {
        let mut contents = Contents::new();
        for month in 0..100 {
            let days = (1..=28 + month % 4).map(|day| format!("<{day}> ")).collect::<String>();
            let name = ["January", "May", "August"][month % 3];
            let page = format!("{name} {}\nMo Tu We Th Fr Sa Su {days} {EMPTY_DAY}", 2026 + month / 12);
            contents.see("site.test/month/*", fingerprint([&json!(page)]));
        }
        assert!(contents.judge("site.test/month/*", 100).is_some());
    }

    #[test]
    fn pages_that_differ_in_numbers_alone_are_different() {
        let sizes = |number: usize| {
            format!(
                "Screw M8 x {}, {} pieces. Delivered within three days, returned within thirty. Questions are \
                answered by our friends in the shop, who know all there is to know of screws.",
                number % 97,
                number
            )
        };
        let weather = |day: usize| {
            let date = NaiveDate::from_num_days_from_ce_opt(730_000 + day as i32).unwrap();
            format!(
                "Weather on {}: at night {} degrees, at noon {}, rain {} mm, wind {} km/h from the west. The figures \
                are those of the station at the airport, and nobody answers for them.",
                date.format("%-d %B %Y"),
                day % 11,
                12 + day % 13,
                day * 7 % 31,
                day % 17
            )
        };
        let list = |page: usize| {
            let names = ["anvil", "bellows", "chisel", "drill", "edger", "file", "gouge", "hammer", "iron"];
            let lines =
                (0..20).map(|line| format!("{} {} EUR, ", names[(page * 20 + line * page) % 9], line));
            lines.collect::<String>()
        };
        let mut contents = Contents::new();
        for number in 0..300 {
            for (shape, text) in
                [("screws", sizes(number)), ("weather", weather(number)), ("list", list(number))]
            {
                contents.see(shape, fingerprint([&json!(text)]));
                assert_eq!(contents.judge(shape, 10), None, "{text}");
            }
        }
    }

    #[test]
    fn a_thousand_products_that_are_much_alike_are_no_trap() {
        let mut contents = Contents::new();
        for number in 0..1_000 {
            contents.see("shop.test/p/*", fingerprint([&screw(number)]));
            assert_eq!(contents.judge("shop.test/p/*", 100), None, "after screw {number}");
        }
    }

    #[test]
    fn pages_that_give_few_words_are_not_compared() {
        assert_eq!(fingerprint([&json!("In stock"), &json!(51.77), &Value::Null]), None);
        let mut contents = Contents::new();
        for _ in 0..1_000 {
            contents.see("shop.test/p/*", fingerprint([&json!("In stock")]));
        }
        assert_eq!(contents.judge("shop.test/p/*", 100), None);
    }

    #[test]
    fn the_same_words_have_the_same_fingerprint_wherever_they_are_kept() {
        let first = fingerprint([&json!({"text": EMPTY_DAY.to_uppercase()})]);
        assert_eq!(first, fingerprint([&json!([EMPTY_DAY])]));
        assert_ne!(first, fingerprint([&screw(1)]));
    }
}
