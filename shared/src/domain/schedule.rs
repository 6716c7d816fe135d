//! When a workflow is to be executed, again and again: a cron expression in the time of some place.
//!
//! Daylight saving is croner's business: a time that the clocks skip is run right after the gap, and one that they
//! show twice is run once, unless the expression means every hour or minute.

use chrono::{DateTime, Utc};
use chrono_tz::{TZ_VARIANTS, Tz};
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

use super::workflow::Problem;
use super::workflow::suggest::did_you_mean;

/// The longest expression that is read, in bytes.
const MAX_CRON_BYTES: usize = 256;

/// Times at which something is due.
#[derive(Clone, Debug)]
pub struct Schedule {
    cron: Cron,
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
            (Ok(cron), Ok(time_zone)) => {
                let schedule = Self { cron, time_zone };
                match schedule.next_after(Utc::now()) {
                    Some(_) => Ok(schedule),
                    None => Err(vec![problem("/cron", "never_due", "this time never comes".to_owned())]),
                }
            }
            (cron, time_zone) => Err([cron.err(), time_zone.err()].into_iter().flatten().collect()),
        }
    }

    /// The first time after this one at which something is due.
    pub fn next_after(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let next = self.cron.find_next_occurrence(&after.with_timezone(&self.time_zone), false).ok()?;
        Some(next.with_timezone(&Utc)).filter(|next| *next > after)
    }
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
