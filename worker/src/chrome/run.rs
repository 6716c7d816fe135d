//! Translates steps into the program of `runner.js`, and what it answers into results. Sends nothing by itself.

use chrono::{DateTime, Utc};
use crawlify_shared::domain::outcome::{ErrorClass, Failure};
use crawlify_shared::domain::workflow::{Read, ScrollTo, Selector, Target, WaitFor};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::driver::{DomOp, DomProgram, StepResult};

/// The function that runs a program in the page.
pub(super) const RUNNER: &str = include_str!("runner.js");
/// How much text one step may bring back, in UTF-16 units; the rest is cut off.
pub const STEP_OUTPUT_LIMIT: usize = 1 << 20;
/// The same of a step that reads links: what is over would not be crawled.
const LINKS_OUTPUT_LIMIT: usize = 8 << 20;
/// How much all steps of a run may bring back together.
const RUN_OUTPUT_LIMIT: usize = 16 << 20;

#[derive(Serialize)]
struct Program<'a> {
    steps: Vec<Step<'a>>,
    step_limit: usize,
    links_limit: usize,
    total_limit: usize,
}

#[derive(Serialize)]
struct Step<'a> {
    #[serde(flatten)]
    op: Op<'a>,
    group: usize,
    ends_group: bool,
    max_retries: u16,
    retry_delay_ms: u64,
}

#[derive(Serialize)]
#[serde(tag = "op", rename_all = "snake_case")]
enum Op<'a> {
    WaitFor {
        wait_for: &'a WaitFor,
    },
    Links {
        selector: &'a Selector,
    },
    Read {
        selector: &'a Selector,
        read: &'a Read,
        multiple: bool,
        required: bool,
        fields: Vec<FieldToRead<'a>>,
    },
    Locate {
        #[serde(flatten)]
        target: &'a Target,
        focus: bool,
    },
    Scroll {
        to: ScrollTo,
    },
}

#[derive(Serialize)]
struct FieldToRead<'a> {
    name: &'a str,
    selector: Option<&'a Selector>,
    read: &'a Read,
}

/// What a run answers. Times are milliseconds since 1970, by the page's clock.
#[derive(Deserialize)]
struct Answers {
    begun: f64,
    ended: f64,
    results: Vec<Option<Answer>>,
}

#[derive(Deserialize)]
struct Answer {
    started: f64,
    completed: f64,
    retries: u16,
    #[serde(default)]
    output: Value,
    cut_from: Option<u64>,
    error: Option<AnswerError>,
}

#[derive(Deserialize)]
struct AnswerError {
    class: String,
    message: String,
}

/// The program as `runner.js` reads it.
pub(super) fn program(program: &DomProgram) -> serde_json::Result<&str> {
    if let Some(encoded) = program.encoded.get() {
        return Ok(encoded);
    }
    let encoded = encode(program)?;
    Ok(program.encoded.get_or_init(|| encoded))
}

fn encode(program: &DomProgram) -> serde_json::Result<String> {
    let steps = program.steps.iter().map(|step| Step {
        op: match &step.op {
            DomOp::WaitFor(wait_for) => Op::WaitFor { wait_for },
            DomOp::Links(selector) => Op::Links { selector },
            DomOp::Read { selector, read, multiple, required, fields } => Op::Read {
                selector,
                read,
                multiple: *multiple,
                required: *required,
                fields: fields
                    .iter()
                    .map(|field| FieldToRead {
                        name: &field.name,
                        selector: field.selector.as_ref(),
                        read: &field.read,
                    })
                    .collect(),
            },
            DomOp::Locate { target, focus } => Op::Locate { target, focus: *focus },
            DomOp::Scroll(to) => Op::Scroll { to: *to },
        },
        group: step.group,
        ends_group: step.ends_group,
        max_retries: step.max_retries,
        retry_delay_ms: u64::try_from(step.retry_delay.as_millis()).unwrap_or(u64::MAX),
    });
    serde_json::to_string(&Program {
        steps: steps.collect(),
        step_limit: STEP_OUTPUT_LIMIT,
        links_limit: LINKS_OUTPUT_LIMIT,
        total_limit: RUN_OUTPUT_LIMIT,
    })
}

/// Reads what the page answered to a call that began and ended at these times. The page's clock may be another one than ours,
/// as it is read once for many pages: where the run does not lie within the call, it is moved there. No step exceeds the call.
pub(super) fn results(
    answer: &str,
    began: DateTime<Utc>,
    ended: DateTime<Utc>,
) -> serde_json::Result<Vec<Option<StepResult>>> {
    let Answers { begun: page_began, ended: page_ended, results: answers } = serde_json::from_str(answer)?;
    let ended = ended.max(began);
    let milliseconds = |time: DateTime<Utc>| time.timestamp_micros() as f64 / 1000.0;
    let behind = (milliseconds(began) - page_began).max(0.0) - (page_ended - milliseconds(ended)).max(0.0);
    let within = |ms: f64, earliest: DateTime<Utc>| {
        let ms = ms + behind;
        #[allow(
            clippy::cast_possible_truncation,
            reason = "a float that is too large becomes the largest integer"
        )]
        let micros = ((ms * 1000.0) as i64).clamp(earliest.timestamp_micros(), ended.timestamp_micros());
        DateTime::from_timestamp_micros(micros).unwrap_or(earliest).clamp(earliest, ended)
    };
    Ok(answers
        .into_iter()
        .map(|answer| {
            let answer = answer?;
            let started_at = within(answer.started, began);
            Some(StepResult {
                started_at,
                completed_at: within(answer.completed, started_at),
                output: match answer.error {
                    None => Ok(answer.output),
                    Some(error) => Err(Failure::new(class(&error.class), error.message)),
                },
                cut_from: answer.cut_from,
                retries: answer.retries,
            })
        })
        .collect())
}

fn class(name: &str) -> ErrorClass {
    let known = [ErrorClass::SelectorMissing, ErrorClass::NavTimeout];
    known.into_iter().find(|class| class.as_str() == name).unwrap_or(ErrorClass::Script)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_the_page_stay_within_the_call() {
        let began = DateTime::from_timestamp_millis(10_000).unwrap();
        let ended = DateTime::from_timestamp_millis(20_000).unwrap();
        let answer = r#"{"begun":10000,"ended":20000,"results":[
            {"started":1.0,"completed":1e300,"retries":0,"output":null},
            {"started":15000.5,"completed":12000,"retries":2,"error":{"class":"selector_missing","message":"m"}},
            null]}"#;
        let mut results = results(answer, began, ended).unwrap();
        assert!(results.pop().unwrap().is_none());
        let results: Vec<_> = results.into_iter().map(Option::unwrap).collect();
        assert_eq!((results[0].started_at, results[0].completed_at), (began, ended));
        assert_eq!(results[0].output, Ok(Value::Null));
        assert_eq!(results[1].started_at, DateTime::from_timestamp_micros(15_000_500).unwrap());
        assert_eq!(results[1].completed_at, results[1].started_at);
        assert_eq!(results[1].retries, 2);
        assert_eq!(results[1].output, Err(Failure::new(ErrorClass::SelectorMissing, "m")));
    }

    #[test]
    fn a_page_whose_clock_is_another_one_keeps_the_distances_of_its_steps() {
        let began = DateTime::from_timestamp_millis(10_000).unwrap();
        let ended = DateTime::from_timestamp_millis(20_000).unwrap();
        for (off, shown) in [(-3_600_000, 10_000), (3_600_000, 16_000)] {
            let at = |ms: i64| 10_000 + off + ms;
            let answer = format!(
                r#"{{"begun":{},"ended":{},"results":[{{"started":{},"completed":{},"retries":0}}]}}"#,
                at(0),
                at(4_000),
                at(1_000),
                at(1_500)
            );
            let result = results(&answer, began, ended).unwrap().remove(0).unwrap();
            assert_eq!(result.started_at.timestamp_millis(), shown + 1_000);
            assert_eq!((result.completed_at - result.started_at).num_milliseconds(), 500);
        }
    }
}
