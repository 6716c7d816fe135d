//! Calendars: dates in URLs that lie far from today. A site has only so many days that anything happens on, but a
//! calendar links to the next month for ever.
//!
//! Numbers that merely look like a year and a month, such as topic 2041, page 12, are dates only where all others at
//! the same place are dates as well. Old dates are suspicious only where there are also coming ones: the archives of
//! newspapers go back for centuries.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;

use chrono::{Datelike, Days, NaiveDate};
use crawlify_shared::domain::page_url::PageUrl;
use crawlify_shared::domain::workflow::Traps;
use lru::LruCache;

/// Places that are remembered of one execution.
const PLACES: NonZeroUsize = NonZeroUsize::new(512).expect("it is not zero");
/// So many months must have been seen at a place before its numbers count as dates,
const MONTHS: usize = 12;
/// and so many where they cannot well be anything else: one far date may be an article's number, or an end that is open.
const MONTHS_OF_CERTAIN: usize = 3;
/// Years that sites name.
const YEARS: RangeInclusive<i32> = 1000..=2199;
/// What is written for a time without end.
const NEVER: [&str; 2] = ["2099-12-31", "2100-01-01"];
/// A date that lies further ahead is one of a calendar.
const COMING: Days = Days::new(31);
const WORDS: [&str; 10] = [
    "calendar",
    "kalender",
    "calendario",
    "calendrier",
    "events",
    "event",
    "agenda",
    "termine",
    "month",
    "day",
];

/// What is known of the dates in one execution's links.
#[derive(Debug)]
pub(super) struct Calendars {
    places: LruCache<String, Place>,
}

/// Where in URLs dates, or what looks like them, were seen.
#[derive(Debug, Default)]
struct Place {
    months: BTreeSet<i32>,
    /// Something else was seen there, so that it is no place for dates.
    others: bool,
    /// A coming date was seen there.
    coming: bool,
}

/// What was found in a URL.
#[derive(Debug, PartialEq)]
struct Found {
    /// The host and what comes before it.
    place: String,
    /// `None`: numbers that are no date.
    date: Option<NaiveDate>,
    /// It cannot well be anything but a date.
    certain: bool,
}

impl Calendars {
    pub(super) fn new() -> Self {
        Self { places: LruCache::new(PLACES) }
    }

    /// Takes a link in, and says why it leads too far, if it does.
    pub(super) fn judge(&mut self, url: &PageUrl, rules: &Traps, today: NaiveDate) -> Option<String> {
        let found = in_query(url).or_else(|| in_path(url))?;
        let place = self.places.get_or_insert_mut(found.place, Place::default);
        let Some(date) = found.date else {
            place.others = true;
            return None;
        };
        if place.months.len() < MONTHS {
            place.months.insert(date.year() * 12 + i32::try_from(date.month0()).unwrap_or(0));
        }
        place.coming |= today.checked_add_days(COMING).is_some_and(|coming| date > coming);
        let needed = if found.certain { MONTHS_OF_CERTAIN } else { MONTHS };
        if place.months.len() < needed || (!found.certain && place.others) {
            return None;
        }
        let days = (date - today).num_days();
        if let Some(most) = rules.days_ahead.filter(|most| days > i64::from(*most)) {
            return Some(format!(
                "the date {date} lies {days} days ahead, more than {most} (`traps.days_ahead`)"
            ));
        }
        let most = rules.days_back.filter(|most| place.coming && -days > i64::from(*most))?;
        Some(format!(
            "the calendar's date {date} lies {} days back, more than {most} (`traps.days_back`)",
            -days
        ))
    }
}

/// `?date=2031-05-17`, `?month=2031-05`, `?year=2031&month=5`.
fn in_query(url: &PageUrl) -> Option<Found> {
    let pairs: Vec<(String, String)> = url
        .as_url()
        .query_pairs()
        .map(|(key, value)| (key.to_ascii_lowercase(), value.into_owned()))
        .collect();
    let place = |key: &str| format!("{}{}?{key}", url.as_url().authority(), url.as_url().path());
    let value = |names: &[&str]| {
        pairs.iter().find(|(key, _)| names.contains(&key.as_str())).map(|(_, value)| value.as_str())
    };
    let dated = pairs.iter().find_map(|(key, value)| Some((key, value, dashed(value)?)));
    if let Some((key, value, date)) = dated {
        return Some(Found { place: place(key), date: Some(date), certain: value.len() == 10 });
    }
    let (year, month) = (value(&["year", "jahr", "yr"])?, value(&["month", "monat", "mon"])?);
    let date = date_of(year, month, value(&["day", "tag"]))?;
    Some(Found { place: place("year"), date: Some(date), certain: true })
}

/// `/2031-05-17/`, `/calendar/2031/5/`, and, with less certainty, `/2031/05/` and `/2031-05/`.
fn in_path(url: &PageUrl) -> Option<Found> {
    let segments: Vec<&str> = url.as_url().path_segments()?.collect();
    let place = |before: usize| format!("{}/{}", url.as_url().authority(), segments[..before].join("/"));
    for (at, segment) in segments.iter().enumerate() {
        if let Some(date) = dashed(segment) {
            return Some(Found { place: place(at), date: Some(date), certain: segment.len() == 10 });
        }
        let Some(next) = segments.get(at + 1) else { break };
        if !is_number(segment) || !is_number(next) {
            continue;
        }
        let certain = segments[..at].iter().any(|word| WORDS.contains(&word.to_ascii_lowercase().as_str()));
        let day = segments.get(at + 2).copied().filter(|day| is_number(day));
        let date = date_of(segment, next, day).filter(|_| certain || next.len() == 2);
        return Some(Found { place: place(at), date, certain });
    }
    None
}

fn is_number(text: &str) -> bool {
    (1..=9).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// `2031-05-17` or `2031-05`, and nothing around it.
fn dashed(text: &str) -> Option<NaiveDate> {
    if NEVER.contains(&text) {
        return None;
    }
    let parts: Vec<&str> = text.split('-').collect();
    match parts[..] {
        [year, month] if text.len() == 7 => date_of(year, month, None),
        [year, month, day] if text.len() == 10 => date_of(year, month, Some(day)),
        _ => None,
    }
}

fn date_of(year: &str, month: &str, day: Option<&str>) -> Option<NaiveDate> {
    let is_year = year.len() == 4 && is_number(year) && !year.starts_with('0');
    if !is_year || !is_number(month) || month.len() > 2 {
        return None;
    }
    let day = day.and_then(|day| day.parse().ok()).filter(|day| (1..=31).contains(day)).unwrap_or(1);
    let (year, month) = (year.parse().ok().filter(|year| YEARS.contains(year))?, month.parse().ok()?);
    NaiveDate::from_ymd_opt(year, month, day).or_else(|| NaiveDate::from_ymd_opt(year, month, 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn today() -> NaiveDate {
        NaiveDate::from_ymd_opt(2026, 6, 15).unwrap()
    }

    fn first_trap(paths: impl IntoIterator<Item = String>) -> Option<(String, String)> {
        let mut calendars = Calendars::new();
        paths.into_iter().find_map(|path| {
            let url = PageUrl::parse(&format!("https://site.test{path}")).unwrap();
            Some((path, calendars.judge(&url, &Traps::default(), today())?))
        })
    }

    fn months(first_year: i32) -> impl Iterator<Item = (i32, i32)> {
        (0..1_200).map(move |month| (first_year + month / 12, month % 12 + 1))
    }

    #[test]
    fn a_calendar_is_followed_two_years_ahead() {
        for (path, reason) in [
            first_trap(months(2026).map(|(year, month)| format!("/calendar?year={year}&month={month}"))),
            first_trap(months(2026).map(|(year, month)| format!("/events/{year}/{month}/"))),
            first_trap(months(2026).map(|(year, month)| format!("/{year}/{month:02}/"))),
            first_trap(
                months(2026).map(|(year, month)| format!("/list?view=grid&from={year}-{month:02}-01")),
            ),
            first_trap(months(2026).map(|(year, month)| format!("/week/{year}-{month:02}-01/all"))),
        ]
        .map(|found| found.expect("it is a trap"))
        {
            assert!(path.contains("2028"), "{path}");
            assert_eq!(
                reason, "the date 2028-07-01 lies 747 days ahead, more than 730 (`traps.days_ahead`)",
                "{path}"
            );
        }
    }

    #[test]
    fn a_calendar_with_coming_dates_is_followed_twenty_years_back() {
        let ahead = ["/calendar/2026/09".to_owned()];
        let back = (0..600).map(|month| format!("/calendar/{}/{}", 2026 - month / 12, 12 - month % 12));
        let (path, reason) = first_trap(ahead.into_iter().chain(back)).expect("it is a trap");
        assert_eq!(path, "/calendar/2006/6");
        assert!(reason.contains("2006-06-01 lies 7319 days back, more than 7300"), "{reason}");
    }

    #[test]
    fn numbers_of_articles_and_ends_that_are_open_are_no_calendars() {
        let articles = (1..100).map(|number| format!("/shop?sku={}-08", 4_700 + number));
        assert_eq!(first_trap(articles), None);
        let parts = (1..100).map(|number| format!("/part?sku=2041-{:02}", number % 2 + 5));
        assert_eq!(first_trap(parts), None);
        let events = (1..100).map(|number| format!("/events/{}/{}", 3_450 + number, number % 3 + 1));
        assert_eq!(first_trap(events), None);
        for never in ["9999-12-31", "2099-12-31"] {
            let lists = (1..100).map(|page| format!("/list?to={never}&from=2020-01-01&page={page}"));
            assert_eq!(first_trap(lists), None);
        }
        assert_eq!(first_trap(["/events/2041/2".to_owned(), "/events/2041/3".to_owned()]), None);
    }

    #[test]
    fn archives_and_blogs_are_no_calendars() {
        let archive = months(1851).map(|(year, month)| format!("/{year}/{month:02}/17/archives/story.html"));
        assert_eq!(first_trap(archive), None);
        let dated = months(1920).map(|(year, month)| format!("/archive.php?date={year}-{month:02}-01"));
        assert_eq!(first_trap(dated), None);
    }

    #[test]
    fn numbers_that_look_like_years_and_months_are_no_dates_among_others() {
        let topics = (1..6_000).map(|topic| format!("/topic/{topic}/{}", topic % 14 + 1));
        assert_eq!(first_trap(topics), None);
        let few = (0..11).map(|number| format!("/item/2900/{:02}", number + 1));
        assert_eq!(first_trap(few), None);
        for path in
            ["/p/9999-12", "/sku/4711-0815", "/catalogue/page-2.html", "/a/1/2/3", "/x?year=all&month=5"]
        {
            assert_eq!(first_trap([path.to_owned()]), None, "{path}");
        }
    }
}
