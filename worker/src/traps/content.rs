//! Pages that give nearly the same: when very many of one shape in a row do, there is no use in more of them.
//!
//! Each is compared with the first of its row, so that pages which differ ever so little from the one before may lead
//! anywhere in the end.

use std::num::NonZeroUsize;

use lru::LruCache;

use super::given::Given;

/// Shapes that are remembered of one execution, with what one page of each gave: some 2 MiB at the most.
const SHAPES: NonZeroUsize = NonZeroUsize::new(512).expect("it is not zero");

/// What is known of the contents of one execution's pages.
#[derive(Debug)]
pub(super) struct Contents {
    shapes: LruCache<String, Streak>,
}

/// Pages of one shape in a row that gave nearly the same.
#[derive(Debug)]
struct Streak {
    first: Given,
    pages: u32,
}

impl Contents {
    pub(super) fn new() -> Self {
        Self { shapes: LruCache::new(SHAPES) }
    }

    /// Takes in what a page gave. One that differs from the first of a streak ends it, also a suspicious one.
    pub(super) fn see(&mut self, shape: &str, given: Option<Given>, similarity: f64) {
        let Some(given) = given else {
            self.shapes.pop(shape);
            return;
        };
        match self.shapes.get_mut(shape) {
            Some(streak) if given.is_like(&streak.first, similarity) => {
                streak.pages = streak.pages.saturating_add(1);
            }
            Some(streak) => *streak = Streak { first: given, pages: 1 },
            None => {
                self.shapes.put(shape.to_owned(), Streak { first: given, pages: 1 });
            }
        }
    }

    /// Says why no more pages of a shape are wanted, if none are.
    pub(super) fn judge(&mut self, shape: &str, most: u32, similarity: f64) -> Option<String> {
        let pages = self.shapes.get(shape)?.pages;
        (pages >= most).then(|| {
            format!(
                "the last {pages} pages of the shape `{shape}` gave nearly the same text: at least {most} \
                 (`traps.identical_pages`) with a similarity of at least {similarity} (`traps.similarity`)"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use chrono::NaiveDate;
    use serde_json::{Value, json};

    use super::*;
    use crate::traps::sample::words;

    const USUAL: f64 = 0.98;
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

    fn given(value: &Value) -> Option<Given> {
        Given::of([(0, value)])
    }

    /// Takes in pages of one shape until they are a trap: at which page, and why.
    fn trap(pages: impl IntoIterator<Item = Value>, most: u32, similarity: f64) -> Option<(usize, String)> {
        let mut contents = Contents::new();
        pages.into_iter().zip(1..).find_map(|(page, number)| {
            contents.see("site.test/*", given(&page), similarity);
            Some((number, contents.judge("site.test/*", most, similarity)?))
        })
    }

    #[test]
    fn pages_without_end_that_give_the_same_are_a_trap_after_a_hundred() {
        let mut contents = Contents::new();
        for page in 1..=100 {
            assert_eq!(contents.judge("site.test/day/#", 100, USUAL), None, "before page {page}");
            contents.see("site.test/day/#", given(&json!(EMPTY_DAY)), USUAL);
        }
        let reason = contents.judge("site.test/day/#", 100, USUAL).expect("a hundred were the same");
        assert_eq!(
            reason,
            "the last 100 pages of the shape `site.test/day/#` gave nearly the same text: at least 100 \
             (`traps.identical_pages`) with a similarity of at least 0.98 (`traps.similarity`)"
        );
        assert_eq!(contents.judge("site.test/shop/*", 100, USUAL), None, "another shape");
        contents.see("site.test/day/#", given(&screw(1)), USUAL);
        assert_eq!(contents.judge("site.test/day/#", 100, USUAL), None, "there was something new after all");
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
            let days = first.iter_days().take(100).map(|day| {
                let date = day.and_hms_opt(8, 30, 0).unwrap().format(format);
                json!({"title": date.to_string(), "text": format!("{date}: {EMPTY_DAY} Back to {date}.")})
            });
            assert!(trap(days, 100, 1.0).is_some(), "{format}");
        }
    }

    #[test]
    fn empty_months_with_the_numbers_of_their_days_are_a_trap() {
        let months = (0..100).map(|month| {
            let days = (1..=28 + month % 4).map(|day| format!("<{day}> ")).collect::<String>();
            let name = ["January", "May", "August"][month % 3];
            json!(format!("{name} {}\nMo Tu We Th Fr Sa Su {days} {EMPTY_DAY}", 2026 + month / 12))
        });
        assert!(trap(months, 100, 1.0).is_some());
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
        assert_eq!(trap((0..300).map(|number| json!(sizes(number))), 10, USUAL), None);
        assert_eq!(trap((0..300).map(|day| json!(weather(day))), 10, USUAL), None);
        assert_eq!(trap((0..300).map(|page| json!(list(page))), 10, USUAL), None);
    }

    #[test]
    fn a_thousand_products_that_are_much_alike_are_no_trap() {
        assert_eq!(trap((0..1_000).map(screw), 100, USUAL), None);
        let boilerplate = words(1, 300, 5_000);
        let product = |number: usize| {
            let title = format!("Packet {number} of screws");
            let (before, after) = (boilerplate[..150].join(" "), boilerplate[150..].join(" "));
            json!({
                "title": title, "price": number as f64 / 7.0,
                "description": format!("{before} {title} {after}"),
            })
        };
        assert_eq!(trap((0..1_000).map(product), 100, USUAL), None);
        let untitled = (0..1_000).map(|number| json!({"description": product(number)["description"]}));
        assert_eq!(
            trap(untitled, 100, USUAL).map(|(page, _)| page),
            Some(100),
            "their titles tell them apart"
        );
    }

    #[test]
    fn a_visitor_counter_and_the_time_of_rendering_do_not_make_a_page_new() {
        let text = words(1, 300, 5_000).join(" ");
        let page = |number: usize| {
            let (visitor, time) = (1_000_000 + number * 17, number * 7_919 % 1_000);
            json!({"text": format!("{text} You are visitor {visitor}. This page was made in 0.{time:03} s.")})
        };
        assert_eq!(trap((0..200).map(page), 100, USUAL).map(|(page, _)| page), Some(100));
    }

    #[test]
    fn the_id_of_a_session_in_a_long_text_does_not_make_a_page_new() {
        let text = words(1, 300, 5_000);
        let page = |number: u64| {
            let id = u128::from(number + 1) * 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef;
            let (begin, middle, end) =
                (text[..100].join(" "), text[100..200].join(" "), text[200..].join(" "));
            json!(format!("{begin} {id:032x} {middle} {id:032x} {end}"))
        };
        assert_eq!(trap((0..200).map(page), 100, USUAL).map(|(page, _)| page), Some(100));
    }

    #[test]
    fn pages_that_differ_in_ten_words_of_three_hundred_are_a_trap_on_request_alone() {
        let page = |number: usize| {
            let mut text = words(1, 300, 5_000);
            text.iter_mut().skip(15).step_by(30).for_each(|word| word.push_str(&format!("x{number}")));
            json!(text.join(" "))
        };
        assert_eq!(trap((0..200).map(page), 100, USUAL), None);
        let (number, reason) = trap((0..200).map(page), 100, 0.9).expect("it is a trap");
        assert_eq!(number, 100);
        assert!(reason.contains("a similarity of at least 0.9 ("), "{reason}");
    }

    #[test]
    fn at_a_similarity_of_one_a_counter_makes_a_page_new() {
        let text = words(1, 300, 5_000).join(" ");
        let page = |number: usize| json!(format!("{text} visitor {}", 1_000_000 + number));
        assert_eq!(trap((0..200).map(page), 100, 1.0), None);
        assert!(trap((0..200).map(|_| page(1)), 100, 1.0).is_some());
    }

    #[test]
    fn pages_that_change_a_word_at_a_time_are_no_trap() {
        let page = |number: usize| {
            let mut text = words(1, 300, 5_000);
            text.iter_mut().step_by(2).take(number).for_each(|word| word.push('x'));
            json!(text.join(" "))
        };
        let [one, next] = [50, 51].map(|number| given(&page(number)).unwrap());
        assert!(next.is_like(&one, USUAL), "neighbours are alike");
        assert_eq!(trap((0..150).map(page), 100, USUAL), None);
    }

    #[test]
    fn many_short_values_are_compared_to_the_letter() {
        let page = |stock: usize| {
            let names: Vec<String> = (0..10).map(|name| format!("name{name}")).collect();
            json!({"a": names, "b": names, "stock": stock})
        };
        assert_eq!(trap((0..200).map(|_| page(1)), 100, USUAL).map(|(page, _)| page), Some(100));
        assert_eq!(trap((0..200).map(page), 100, USUAL), None);
    }

    #[test]
    fn pages_that_give_few_words_are_no_trap() {
        assert_eq!(trap((0..1_000).map(|_| json!("In stock")), 100, USUAL), None);
    }
}
