//! When a workflow is to be executed, again and again: a cron expression in the time of some place.
//!
//! A time of the day that the clocks skip is run right after the gap, and one that they show twice is run once, also where an
//! expression lists several. What is due every so often goes on by the clocks, in the hour that they show twice as well: so does what lists every hour, or more than 48 times of a day.

use chrono::{DateTime, Duration, FixedOffset, Offset, TimeZone, Utc};
use chrono_tz::{TZ_VARIANTS, Tz};
use croner::parser::{CronParser, Seconds, Year};
use croner::{Cron, JobType};

use super::workflow::Problem;
use super::workflow::suggest::did_you_mean;

/// The longest expression that is read, in bytes.
const MAX_CRON_BYTES: usize = 256;
/// An expression that lists more times of the day goes by the clocks, and so does one that lists every hour.
const MOST_TIMES: usize = 48;

/// Times at which something is due.
#[derive(Clone, Debug)]
pub struct Schedule {
    cron: Cron,
    /// One for each time of the day that it lists; none where it is due every so often.
    times: Vec<Cron>,
    time_zone: Tz,
}

/// What happens when a run is due and an earlier one of the same schedule has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverlapPolicy {
    /// The run is left out.
    Skip,
    /// It starts when the earlier one has ended; several that fell due meanwhile are one.
    Queue,
    /// The earlier one is cancelled, and its pages in hand may end.
    CancelPrevious,
    /// Both run.
    Allow,
}

impl OverlapPolicy {
    /// Every policy.
    pub const ALL: [Self; 4] = [Self::Skip, Self::Queue, Self::CancelPrevious, Self::Allow];

    /// The name in rows and documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Queue => "queue",
            Self::CancelPrevious => "cancel_previous",
            Self::Allow => "allow",
        }
    }

    /// Reads a name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.as_str() == name)
    }
}

impl Schedule {
    /// Reads an expression of five fields, or six with seconds first, or a nickname such as `@daily`; and the name of
    /// a time zone in the IANA database.
    ///
    /// # Errors
    /// Everything that is wrong with them, at `/cron` and `/time_zone`.
    pub fn parse(cron: &str, time_zone: &str) -> Result<Self, Vec<Problem>> {
        match (read_cron(cron), read_time_zone(time_zone)) {
            (Ok(read), Ok(time_zone)) => {
                let schedule = Self { times: times_of_the_day(cron, &read), cron: read, time_zone };
                match schedule.next_after(Utc::now()) {
                    Some(_) => Ok(schedule),
                    None => Err(vec![problem("/cron", "never_due", "this time never comes".to_owned())]),
                }
            }
            (read, time_zone) => Err([read.err(), time_zone.err()].into_iter().flatten().collect()),
        }
    }

    /// The first time after this one at which something is due.
    pub fn next_after(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        // Whole seconds: the library keeps what is beyond them.
        let after = DateTime::from_timestamp(after.timestamp(), 0)?;
        if self.times.is_empty() {
            return self.next_by_the_clocks(after);
        }
        self.times.iter().filter_map(|time| self.next_of_the_day(time, after)).min()
    }

    /// Of an expression that names one time of the day. The library knows gaps and hours shown twice; but within the
    /// second showing it answers with the first, which is over.
    fn next_of_the_day(&self, time: &Cron, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let search = |from: DateTime<Utc>| {
            let found = time.find_next_occurrence(&from.with_timezone(&self.time_zone), false).ok()?;
            Some(found.with_timezone(&Utc))
        };
        search(after)
            .filter(|next| *next > after)
            .or_else(|| search(after + Duration::hours(3)).filter(|next| *next > after))
    }

    /// Of any other expression: the clocks are followed from one change to the next, each stretch by its own offset,
    /// as the library leaves out the second showing of an hour.
    fn next_by_the_clocks(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let mut from = after;
        // Clocks change a few times a year, and an expression that is never due gives up by itself.
        for _ in 0..1000 {
            let offset = self.offset(from);
            let local = from.with_timezone(&offset);
            let next = self.cron.find_next_occurrence(&local, false).ok()?.with_timezone(&Utc);
            match self.change_of_clocks(from, next) {
                None => return Some(next),
                // The moment of the change may be due itself, by the new offset.
                Some(change) => {
                    let new = change.with_timezone(&self.offset(change));
                    if self.cron.is_time_matching(&new).ok()? {
                        return Some(change);
                    }
                    from = change;
                }
            }
        }
        None
    }

    fn offset(&self, at: DateTime<Utc>) -> FixedOffset {
        self.time_zone.offset_from_utc_datetime(&at.naive_utc()).fix()
    }

    /// The first moment after `from`, up to `to`, at which the clocks are changed.
    fn change_of_clocks(&self, from: DateTime<Utc>, to: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let before = self.offset(from);
        let mut low = from;
        let mut high = loop {
            let day_later = (low + Duration::days(1)).min(to);
            if self.offset(day_later) != before {
                break day_later;
            }
            if day_later >= to {
                return None;
            }
            low = day_later;
        };
        while high - low > Duration::seconds(1) {
            let middle = low + (high - low) / 2;
            if self.offset(middle) == before { low = middle } else { high = middle }
        }
        // Clocks are changed at whole seconds.
        DateTime::from_timestamp(high.timestamp(), 0)
    }
}

/// The times of the day that an expression lists, each as an expression of its own: the library takes what lists several for
/// something that is due every so often.
fn times_of_the_day(text: &str, cron: &Cron) -> Vec<Cron> {
    /// The library's mark of a value that is set as such.
    const SET: u8 = 1;
    if cron.determine_job_type() == JobType::FixedTime {
        return vec![cron.clone()];
    }
    let clock = [&cron.pattern.hours, &cron.pattern.minutes, &cron.pattern.seconds];
    if clock.iter().any(|field| field.from_wildcard || field.step != 1) {
        return Vec::new();
    }
    let [hours, minutes, seconds] = clock.map(|field| field.get_set_values(SET));
    if hours.len() == 24 || hours.len() * minutes.len() * seconds.len() > MOST_TIMES {
        return Vec::new();
    }
    // Day of the month, month, day of the week.
    let fields: Vec<_> = text.split_whitespace().collect();
    let days = fields[fields.len().saturating_sub(3)..].join(" ");
    let mut times = Vec::new();
    for hour in &hours {
        for minute in &minutes {
            times.extend(
                seconds
                    .iter()
                    .filter_map(|second| read_cron(&format!("{second} {minute} {hour} {days}")).ok()),
            );
        }
    }
    times
}

fn read_cron(text: &str) -> Result<Cron, Problem> {
    if text.len() > MAX_CRON_BYTES {
        let message = format!("the cron expression is longer than {MAX_CRON_BYTES} bytes");
        return Err(problem("/cron", "invalid_cron", message));
    }
    let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
    parser.parse(text).map_err(|error| {
        let message = format!(
            "this is no cron expression (minute, hour, day of month, month, day of week, such as `30 4 * * MON-FRI`): \
             {error}"
        );
        problem("/cron", "invalid_cron", message)
    })
}

fn read_time_zone(name: &str) -> Result<Tz, Problem> {
    name.parse().map_err(|_| {
        let short: String = name.chars().take(64).collect();
        let near = did_you_mean(name, TZ_VARIANTS.iter().map(|zone| zone.name()));
        let message = format!("there is no time zone `{short}`; it is a name such as `Europe/Berlin`{near}");
        problem("/time_zone", "unknown_time_zone", message)
    })
}

fn problem(pointer: &str, code: &str, message: String) -> Problem {
    Problem { pointer: pointer.to_owned(), code: code.to_owned(), message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn runs(cron: &str, time_zone: &str, after: &str, count: usize) -> Vec<DateTime<Utc>> {
        let schedule = Schedule::parse(cron, time_zone).unwrap();
        let mut last = at(after);
        (0..count)
            .map(|_| {
                last = schedule.next_after(last).unwrap();
                last
            })
            .collect()
    }

    #[test]
    fn a_time_is_that_of_its_place() {
        let expected = [at("2026-01-15T03:30:00Z"), at("2026-01-16T03:30:00Z")];
        assert_eq!(runs("30 4 * * *", "Europe/Berlin", "2026-01-15T00:00:00Z", 2), expected);
        assert_eq!(runs("@daily", "UTC", "2026-01-15T00:00:00Z", 1), [at("2026-01-16T00:00:00Z")]);
        assert_eq!(runs("*/10 * * * * *", "UTC", "2026-01-15T00:00:01Z", 1), [at("2026-01-15T00:00:10Z")]);
    }

    #[test]
    fn a_time_that_the_clocks_skip_is_run_after_the_gap() {
        // On 29 March 2026 they go from 2:00 to 3:00, which is 1:00 UTC.
        let expected = [at("2026-03-28T01:30:00Z"), at("2026-03-29T01:00:00Z"), at("2026-03-30T00:30:00Z")];
        assert_eq!(runs("30 2 * * *", "Europe/Berlin", "2026-03-28T00:00:00Z", 3), expected);
    }

    #[test]
    fn a_time_that_the_clocks_show_twice_is_run_once_and_every_hour_is_every_hour() {
        // On 25 October 2026 they go from 3:00 back to 2:00, which is 1:00 UTC.
        let expected = [at("2026-10-24T00:30:00Z"), at("2026-10-25T00:30:00Z"), at("2026-10-26T01:30:00Z")];
        assert_eq!(runs("30 2 * * *", "Europe/Berlin", "2026-10-24T00:00:00Z", 3), expected);
        let hourly = ["2026-10-24T23:30:00Z", "2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"].map(at);
        assert_eq!(runs("30 * * * *", "Europe/Berlin", "2026-10-24T23:00:00Z", 3), hourly);
    }

    #[test]
    fn several_times_of_the_day_are_each_run_once_through_both_changes_of_the_clocks() {
        for cron in ["30 2,14 * * *", "0 30 2,14 * * *"] {
            let spring = ["2026-03-28T13:30:00Z", "2026-03-29T01:00:00Z", "2026-03-29T12:30:00Z"].map(at);
            assert_eq!(runs(cron, "Europe/Berlin", "2026-03-28T12:00:00Z", 3), spring, "{cron}");
            let autumn = ["2026-10-25T00:30:00Z", "2026-10-25T13:30:00Z", "2026-10-26T01:30:00Z"].map(at);
            assert_eq!(runs(cron, "Europe/Berlin", "2026-10-24T22:00:00Z", 3), autumn, "{cron}");
        }
        let hourly = ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:30:00Z"].map(at);
        assert_eq!(
            runs("30 0-23 * * *", "Europe/Berlin", "2026-10-25T00:00:00Z", 3),
            hourly,
            "as `30 * * * *`"
        );
        let twice_an_hour = ["2026-01-15T01:00:00Z", "2026-01-15T01:30:00Z", "2026-01-15T02:00:00Z"].map(at);
        assert_eq!(runs("0,30 1-2 * * *", "UTC", "2026-01-15T00:00:00Z", 3), twice_an_hour);
    }

    #[test]
    fn what_is_due_every_so_often_goes_on_through_both_changes_of_the_clocks() {
        for (cron, minutes) in [("*/20 * * * *", 20), ("* * * * *", 1), ("0 * * * *", 60)] {
            for day in ["2026-03-28T22:00:00.5Z", "2026-10-24T22:00:00.5Z"] {
                let after = at(day);
                let runs = runs(cron, "Europe/Berlin", day, 6 * 60 / minutes);
                let first = DateTime::from_timestamp(after.timestamp(), 0).unwrap();
                for (number, run) in (1..).zip(&runs) {
                    assert_eq!(
                        *run,
                        first + Duration::minutes(number * minutes as i64),
                        "{cron} after {day}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_time_of_the_day_that_is_over_is_not_run_again_within_the_hour_shown_twice() {
        // 2:10 for the second time.
        let expected = [at("2026-10-26T01:30:00Z")];
        assert_eq!(runs("30 2 * * *", "Europe/Berlin", "2026-10-25T01:10:00Z", 1), expected);
    }

    #[test]
    fn everything_that_is_wrong_is_told_with_its_place() {
        let problems = Schedule::parse("61 4 * * *", "Europe/Berln").unwrap_err();
        let told: Vec<_> =
            problems.iter().map(|problem| (problem.pointer.as_str(), problem.code.as_str())).collect();
        assert_eq!(told, [("/cron", "invalid_cron"), ("/time_zone", "unknown_time_zone")]);
        assert!(problems[1].message.contains("did you mean `Europe/Berlin`?"), "{}", problems[1].message);
        for cron in ["", "* * *", "a b c d e", "0 0 1 1 * 2030 x", &"*,".repeat(200)] {
            assert!(Schedule::parse(cron, "UTC").is_err(), "{cron}");
        }
    }

    #[test]
    fn a_time_that_never_comes_is_refused() {
        assert_eq!(Schedule::parse("0 0 30 2 *", "UTC").unwrap_err()[0].pointer, "/cron");
    }

    #[test]
    fn policies_are_read_as_they_are_written() {
        for policy in OverlapPolicy::ALL {
            assert_eq!(OverlapPolicy::parse(policy.as_str()), Some(policy));
        }
        assert_eq!(OverlapPolicy::parse("Skip"), None);
    }
}
