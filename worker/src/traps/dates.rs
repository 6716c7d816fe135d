//! Dates in texts: the names of months and weekdays, and the numbers that make a date with them or with each other. Knows
//! English names alone.

/// Names of months and weekdays, in lower case.
const NAMES: &str = "january february march april may june july august september october november december \
    jan feb mar apr jun jul aug sep sept oct nov dec monday tuesday wednesday thursday friday saturday sunday \
    mon tue tues wed weds thu thur thurs fri sat sun";
/// How long names are, in bytes.
const NAME_LENGTHS: std::ops::RangeInclusive<usize> = 3..=9;
/// So many small numbers in a row are the days of a month, as calendars show them.
const DAYS_IN_A_ROW: usize = 7;
/// Day, month, year, and the time of day.
const MOST_PARTS: usize = 6;
const YEARS: std::ops::Range<u32> = 1900..2200;

/// The words of a text in lower case, so many at the most, without those that are of a date.
pub(super) fn words_beside_dates(text: &str, most: usize) -> Vec<String> {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    let words: Vec<String> = words.take(most).map(str::to_lowercase).collect();
    let mut kept = Vec::with_capacity(words.len());
    let mut stretches =
        words.chunk_by(|one, next| number(one).is_some() == number(next).is_some()).peekable();
    let mut follows_name = false;
    while let Some(stretch) = stretches.next() {
        let numbers: Vec<u32> = stretch.iter().map_while(|word| number(word)).collect();
        if numbers.is_empty() {
            kept.extend(stretch.iter().filter(|word| !is_name(word)).cloned());
        } else {
            let precedes_name =
                stretches.peek().and_then(|next| next.first()).is_some_and(|word| is_name(word));
            if !is_date(&numbers, follows_name || precedes_name) {
                kept.extend(stretch.iter().cloned());
            }
        }
        follows_name = stretch.last().is_some_and(|word| is_name(word));
    }
    kept
}

fn is_name(word: &str) -> bool {
    NAME_LENGTHS.contains(&word.len()) && NAMES.split(' ').any(|name| name == word)
}

/// `17`, `2031`, `17th`, and the `30pm` of `8:30pm`.
fn number(word: &str) -> Option<u32> {
    const ENDINGS: [&str; 6] = ["st", "nd", "rd", "th", "am", "pm"];
    let digits = ENDINGS.iter().find_map(|ending| word.strip_suffix(ending)).unwrap_or(word);
    let is_number = (1..=4).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { digits.parse().ok() } else { None }
}

/// Whether numbers that follow each other are of a date, where they stand beside a name or alone.
fn is_date(numbers: &[u32], is_beside_name: bool) -> bool {
    if numbers.len() >= DAYS_IN_A_ROW && numbers.iter().all(|number| *number <= 31) {
        return true;
    }
    let (years, others): (Vec<u32>, Vec<u32>) = numbers.iter().partition(|number| YEARS.contains(number));
    if numbers.len() > MOST_PARTS || years.len() > 1 || others.iter().any(|number| *number > 59) {
        return false;
    }
    let is_month = |number: &u32| (1..=12).contains(number);
    is_beside_name || years.len() == 1 && others.iter().any(is_month)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> String {
        words_beside_dates(text, 1_000).join(" ")
    }

    #[test]
    fn dates_are_left_out_however_they_are_written() {
        for date in [
            "Tuesday, 17 May 2031",
            "May 17th, 2031",
            "17 May",
            "Tue",
            "2031-05-17",
            "17.05.2031",
            "5/17/2031",
            "2031/05",
            "05.2031",
            "May 2031",
            "2031-05-17 08:30:00",
            "Sat 17 May, 8:30pm",
            "1 2 3 4 5 6 7 8 9 10 11",
        ] {
            assert_eq!(words(&format!("Events on {date}: none")), "events on none", "{date}");
        }
    }

    #[test]
    fn other_numbers_and_words_stay() {
        for text in [
            "screw m8 x 20 packet 17",
            "1999 pieces",
            "price 1 999 50",
            "1999 50 eur",
            "a 36 37 38 39 40 41 42 b",
            "mayor monday2",
            "2030 2031",
            "12 30",
            "room 120 of may",
            "4711 2031 5 17 8",
        ] {
            let expected = text.strip_suffix(" of may").map_or(text.to_owned(), |text| format!("{text} of"));
            assert_eq!(words(text), expected);
        }
        assert_eq!(words_beside_dates("a b c", 2), ["a", "b"]);
    }
}
