//! What a page gave, kept so that pages can be compared: value by value, each of which is what an `extract` node gave or a
//! member of that.
//!
//! Values of few words must be equal, as products often differ in nothing but a title and a price. Those of many words need
//! only have most of them in common, by pairs of neighbours (Broder, "On the resemblance and containment of documents",
//! 1997), as a visitor counter or the id of a session make no page new. Dates do not count at all, as every empty day of a
//! calendar shows its own.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::Value;

use super::dates;
use super::distinct::Distinct;

/// Fewer words say nothing, even where they are the same to the letter: "in stock" is what a thousand good pages give. Values
/// with fewer are short.
const LEAST_WORDS: usize = 20;
/// Words beyond this number do not count.
const MOST_WORDS: usize = 20_000;
/// Long values that are compared each by itself; those beyond count as one.
const MOST_LONG: usize = 7;
/// Pairs of words that are kept of a page, which its long values share equally. Together with [`MOST_LONG`] this bounds what
/// a page takes: 4 KiB for the pairs, and three numbers for each long value.
const MOST_PAIRS: usize = 512;

/// What a page gave.
#[derive(Debug)]
pub(super) struct Given {
    /// A hash of all short values and their places.
    short: u64,
    /// In the order of their places.
    long: Vec<Long>,
}

/// A value of many words.
#[derive(Debug)]
struct Long {
    /// A hash of where it is: the node, and the names of the members that lead to it.
    place: u64,
    /// A hash of all its words in their order.
    words: u64,
    pairs: Distinct,
}

impl Given {
    /// Takes the values of a page, each with the position of its node; `None` where they have too few words to compare.
    pub(super) fn of<'v>(values: impl IntoIterator<Item = (u16, &'v Value)>) -> Option<Self> {
        let mut words = Words::default();
        for (position, value) in values {
            words.collect(hash_of(&position), value);
        }
        if words.count < LEAST_WORDS {
            return None;
        }
        let (short, mut long): (Vec<_>, Vec<_>) =
            words.by_place.into_iter().partition(|(_, words)| words.len() < LEAST_WORDS);
        if long.len() > MOST_LONG {
            let (places, rest): (Vec<u64>, Vec<Vec<u64>>) = long.drain(MOST_LONG..).unzip();
            long.push((hash_of(&places), rest.concat()));
        }
        let pairs = MOST_PAIRS / long.len().max(1);
        let long = long.iter().map(|(place, words)| Long::new(*place, words, pairs)).collect();
        Some(Self { short: hash_of(&short), long })
    }

    /// Whether the same places have values in both, the short ones equal, and each long one with at least this share in
    /// common. At 1 long values must be equal too.
    pub(super) fn is_like(&self, other: &Self, similarity: f64) -> bool {
        self.short == other.short
            && self.long.len() == other.long.len()
            && self.long.iter().zip(&other.long).all(|(ours, theirs)| ours.is_like(theirs, similarity))
    }
}

impl Long {
    fn new(place: u64, words: &[u64], most_pairs: usize) -> Self {
        let mut all: Vec<u64> = words.windows(2).map(hash_of).collect();
        all.sort_unstable();
        let mut pairs = Distinct::new(most_pairs);
        for same in all.chunk_by(|one, next| one == next) {
            // A pair that comes again counts again: tables have few words, and differ in how many there are of each.
            same.iter().enumerate().for_each(|numbered| pairs.see(&numbered));
        }
        Self { place, words: hash_of(words), pairs }
    }

    fn is_like(&self, other: &Self, similarity: f64) -> bool {
        let is_near = || similarity < 1.0 && self.pairs.share_in_common(&other.pairs) >= similarity;
        self.place == other.place && (self.words == other.words || is_near())
    }
}

/// The words of a page's values, as hashes.
#[derive(Default)]
struct Words {
    by_place: BTreeMap<u64, Vec<u64>>,
    count: usize,
}

impl Words {
    /// Elements of a list are in one place, one after the other.
    fn collect(&mut self, place: u64, value: &Value) {
        match value {
            Value::Null | Value::Bool(_) => {}
            Value::Number(number) => self.add(place, [hash_of(&number.to_string())]),
            Value::String(text) => {
                let words = dates::words_beside_dates(text, MOST_WORDS.saturating_sub(self.count));
                self.add(place, words.iter().map(hash_of));
            }
            Value::Array(elements) => elements.iter().for_each(|element| self.collect(place, element)),
            Value::Object(members) => {
                members.iter().for_each(|(name, member)| self.collect(hash_of(&(place, name)), member));
            }
        }
    }

    fn add(&mut self, place: u64, words: impl IntoIterator<Item = u64>) {
        let room = MOST_WORDS.saturating_sub(self.count);
        let there = self.by_place.entry(place).or_default();
        let before = there.len();
        there.extend(words.into_iter().take(room));
        self.count += there.len() - before;
    }
}

fn hash_of<T: Hash + ?Sized>(thing: &T) -> u64 {
    let mut hasher = DefaultHasher::new();
    thing.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde_json::json;

    use super::*;
    use crate::traps::sample::words;

    fn given(value: &Value) -> Given {
        Given::of([(0, value)]).expect("there are enough words")
    }

    fn are_alike(one: &Value, other: &Value, similarity: f64) -> bool {
        given(one).is_like(&given(other), similarity)
    }

    fn text(count: usize) -> String {
        words(1, count, 5_000).join(" ")
    }

    #[test]
    fn few_words_are_not_compared() {
        assert!(Given::of([(0, &json!("In stock")), (1, &json!(51.77)), (2, &Value::Null)]).is_none());
        assert!(Given::of([(0, &json!(text(19)))]).is_none());
        assert!(Given::of([(0, &json!(text(10))), (1, &json!(text(10)))]).is_some(), "twenty in all");
    }

    #[test]
    fn case_and_punctuation_do_not_count_and_order_does() {
        let (plain, shouted) = (json!({"text": text(40)}), json!({"text": text(40).to_uppercase() + "!"}));
        assert!(are_alike(&plain, &shouted, 1.0));
        let mut turned = words(1, 40, 5_000);
        turned.reverse();
        assert!(!are_alike(&plain, &json!({"text": turned.join(" ")}), 0.5));
    }

    #[test]
    fn a_short_value_must_be_equal_however_long_the_rest_is() {
        let page = |title: &str| json!({"title": title, "text": text(1_000)});
        assert!(are_alike(&page("An anvil"), &page("An anvil"), 0.5));
        assert!(!are_alike(&page("An anvil"), &page("A bellows"), 0.5));
        assert!(!are_alike(&page("An anvil"), &page(&text(40)), 0.5), "it is long on the other page");
    }

    #[test]
    fn a_long_value_is_compared_by_itself_however_long_the_rest_is() {
        let page = |seed| json!({"text": text(5_000), "review": words(seed, 30, 5_000).join(" ")});
        assert!(are_alike(&page(2), &page(2), 0.5));
        assert!(!are_alike(&page(2), &page(3), 0.5));
    }

    #[test]
    fn a_value_that_is_on_one_page_alone_makes_a_difference() {
        let bare = json!({"text": text(100)});
        for more in [json!("new"), json!(7), json!(text(50)), json!([text(50)])] {
            let page = json!({"text": text(100), "more": more});
            assert!(!are_alike(&bare, &page, 0.5) && !are_alike(&page, &bare, 0.5), "{more}");
        }
        assert!(!are_alike(&json!({"a": text(100)}), &json!({"b": text(100)}), 0.5), "it has another name");
        let (one, other) = (json!(text(100)), json!(text(100)));
        let nodes =
            [Given::of([(1, &one)]), Given::of([(2, &other)])].map(|given| given.expect("it is long"));
        assert!(!nodes[0].is_like(&nodes[1], 0.5), "it is another node's");
    }

    #[test]
    fn elements_of_lists_are_compared_as_one_text() {
        let rows = |names: &[String]| {
            json!(names.iter().map(|name| json!({"name": name, "stock": "yes"})).collect::<Vec<_>>())
        };
        let names = words(1, 200, 5_000);
        let mut other = names.clone();
        other[100] = "another".to_owned();
        assert!(are_alike(&rows(&names), &rows(&other), 0.98));
        assert!(!are_alike(&rows(&names), &rows(&other), 1.0));
        assert!(!are_alike(&rows(&names), &rows(&names[..150]), 0.98));
    }

    #[test]
    fn texts_of_the_same_few_words_differ_by_how_often_they_come() {
        assert!(!are_alike(&json!("yes no ".repeat(100)), &json!("yes no ".repeat(150)), 0.9));
        let grid = |seed| json!(words(seed, 81, 10).join(" "));
        assert!(!are_alike(&grid(1), &grid(2), 0.9));
    }

    #[test]
    fn at_a_similarity_of_one_a_single_word_makes_a_difference_in_the_longest_text() {
        for place in [0, 9_000, 18_999] {
            let mut other = words(1, 19_000, 5_000);
            other[place] = "another".to_owned();
            assert!(!are_alike(&json!(text(19_000)), &json!(other.join(" ")), 1.0));
            assert!(are_alike(&json!(text(19_000)), &json!(other.join(" ")), 0.98));
        }
    }

    #[test]
    fn the_estimated_similarity_is_close_to_the_real_one() {
        let counted = |words: &[String]| {
            let mut pairs = HashMap::<_, usize>::new();
            words.windows(2).for_each(|pair| *pairs.entry(pair.to_vec()).or_default() += 1);
            pairs
        };
        for seed in 0..60_u64 {
            let count = [100, 500, 1_500, 4_000][seed as usize % 4];
            let ours = words(seed, count, 200);
            let mut theirs = ours.clone();
            // Up to a tenth of the words, wherever they are.
            for (turn, place) in
                words(seed + 1_000, count * (seed as usize % 5) / 40, 1_000_000).iter().enumerate()
            {
                let place: usize = place[1..].parse().unwrap();
                theirs[place % count] = format!("x{turn}");
            }
            let (real, others) = (counted(&ours), counted(&theirs));
            let common: usize =
                real.iter().map(|(pair, times)| others.get(pair).map_or(0, |more| *times.min(more))).sum();
            let real = common as f64 / (count - 1) as f64;
            let [one, other] = [ours, theirs].map(|words| given(&json!(words.join(" "))));
            let estimated = one.long[0].pairs.share_in_common(&other.long[0].pairs);
            let error = if count <= MOST_PAIRS { 1e-9 } else { 0.05 };
            assert!((estimated - real).abs() <= error, "{estimated} for {real}, {count} words, seed {seed}");
        }
    }

    #[test]
    fn of_very_many_long_values_the_rest_counts_as_one() {
        let page = |name: &str| {
            let mut page: serde_json::Map<String, Value> = (0..100)
                .map(|number| (format!("n{number}"), json!(words(number, 30, 5_000).join(" "))))
                .collect();
            page.insert(name.to_owned(), json!(text(30)));
            Value::Object(page)
        };
        assert_eq!(given(&page("more")).long.len(), MOST_LONG + 1);
        assert!(are_alike(&page("more"), &page("more"), 1.0));
        assert!(!are_alike(&page("more"), &page("other"), 0.5), "it has another name");
    }
}
