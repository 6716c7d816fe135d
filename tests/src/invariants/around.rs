//! I12: a fleet leaves nothing on the machine. I13: a page is asked for no more often than attempts and faults explain. I15: no
//! forbidden address is reached.

use std::collections::BTreeMap;

use super::Violation;
use crate::hostile::Canary;
use crate::processes::Process;
use crate::scratch::Scratch;

/// What is left of processes that should have ended, and in their folder for temporary files.
pub fn machine(processes: &[Process], scratch: &Scratch) -> Vec<Violation> {
    let sentence = "no process and no temporary folder is left on the machine";
    let alive = processes.iter().filter(|process| process.is_alive());
    let alive = alive.map(|process| format!("process {} ({})", process.pid, process.name));
    let folders = scratch.leftovers().into_iter().map(|name| format!("temporary file {name}"));
    alive.chain(folders).map(|row| Violation { id: "I12", sentence, row }).collect()
}

/// Pages that the site was asked for too often, or not at all. `attempts` says of each page's path how often it was claimed;
/// `repeats` is how many requests more there may be in all, for attempts that were not charged.
pub fn requests(
    asked: &BTreeMap<String, u64>,
    attempts: &BTreeMap<String, u64>,
    repeats: u64,
) -> Vec<Violation> {
    let sentence = "a page is asked for once an attempt";
    let count = |path: &String| asked.get(path).copied().unwrap_or(0);
    let never = attempts.keys().filter(|path| count(path) == 0);
    let mut rows: Vec<_> = never.map(|path| format!("{path} was never asked for")).collect();
    let surplus: Vec<_> = surplus(asked, attempts).collect();
    if surplus.iter().map(|(_, surplus)| surplus).sum::<u64>() > repeats {
        rows.extend(
            surplus.iter().map(|(path, surplus)| format!("{path} was asked for {surplus} times more")),
        );
    }
    rows.into_iter().map(|row| Violation { id: "I13", sentence, row }).collect()
}

/// Pages that the site was asked for too often, each by itself, whatever it was asked for in all. `claims` says of
/// each page's path how often it can have been claimed at the most, whether it was charged for that or not; `loads`
/// is how often a claim may ask for its page.
pub fn requests_of_each(
    asked: &BTreeMap<String, u64>,
    claims: &BTreeMap<String, u64>,
    loads: u64,
) -> Vec<Violation> {
    let sentence = "no page is asked for more often than its claims explain";
    let most: BTreeMap<String, u64> =
        claims.iter().map(|(path, claims)| (path.clone(), loads * claims)).collect();
    let row = |(path, surplus): (&String, u64)| {
        format!("{path} was asked for {surplus} times more than its claims explain")
    };
    let rows: Vec<_> = surplus(asked, &most).map(row).collect();
    rows.into_iter().map(|row| Violation { id: "I13", sentence, row }).collect()
}

/// The pages that the site was asked for more often than this says of each, and how much more often.
pub(crate) fn surplus<'p>(
    asked: &BTreeMap<String, u64>,
    attempts: &'p BTreeMap<String, u64>,
) -> impl Iterator<Item = (&'p String, u64)> {
    let more = |(path, attempts): (&'p String, &u64)| {
        (path, asked.get(path).copied().unwrap_or(0).saturating_sub(*attempts))
    };
    attempts.iter().map(more).filter(|(_, surplus)| *surplus > 0)
}

/// Whoever came to a forbidden address.
pub fn egress(canary: &Canary) -> Vec<Violation> {
    let sentence = "no forbidden address is reached";
    let (hits, address) = (canary.hits(), canary.address);
    let row = (hits > 0).then(|| format!("{address} was reached {hits} times"));
    row.into_iter().map(|row| Violation { id: "I15", sentence, row }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_forbidden_address_that_was_reached_is_named() {
        let canary = Canary::start().await;
        assert_eq!(egress(&canary), []);
        let _connection = tokio::net::TcpStream::connect(canary.address).await.unwrap();
        crate::wait::wait_for("it was counted", std::time::Duration::from_secs(10), async || {
            !egress(&canary).is_empty()
        })
        .await;
        assert_eq!(egress(&canary)[0].row, format!("{} was reached 1 times", canary.address));
    }

    fn counts(counts: &[(&str, u64)]) -> BTreeMap<String, u64> {
        counts.iter().map(|(path, count)| ((*path).to_owned(), *count)).collect()
    }

    #[test]
    fn a_page_that_was_asked_for_too_often_or_never_is_named() {
        let attempts = counts(&[("/", 1), ("/1", 2)]);
        assert_eq!(requests(&counts(&[("/", 1), ("/1", 1), ("/style.css", 9)]), &attempts, 0), []);
        let often = requests(&counts(&[("/", 3), ("/1", 2)]), &attempts, 1);
        assert_eq!(often.len(), 1);
        assert_eq!((often[0].id, often[0].row.as_str()), ("I13", "/ was asked for 2 times more"));
        assert_eq!(requests(&counts(&[("/", 3), ("/1", 2)]), &attempts, 2), []);
        let never = requests(&counts(&[("/1", 2)]), &attempts, 9);
        assert_eq!((never.len(), never[0].row.as_str()), (1, "/ was never asked for"));
    }

    #[test]
    fn a_page_that_was_asked_for_too_often_is_named_though_the_sum_is_explained() {
        let claims = counts(&[("/", 1), ("/1", 2)]);
        let asked = counts(&[("/", 3), ("/1", 2), ("/style.css", 9)]);
        assert_eq!(requests(&asked, &claims, 2), []);
        let often = requests_of_each(&asked, &claims, 1);
        assert_eq!(often.len(), 1);
        assert_eq!(
            (often[0].id, often[0].row.as_str()),
            ("I13", "/ was asked for 2 times more than its claims explain")
        );
        assert_eq!(requests_of_each(&counts(&[("/", 2), ("/1", 4)]), &claims, 2), []);
        assert_eq!(requests_of_each(&counts(&[("/", 1)]), &claims, 1), []);
    }

    #[test]
    fn a_process_and_a_folder_that_stay_behind_are_named() {
        let scratch = Scratch::create();
        assert_eq!(machine(&[], &scratch), []);
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let parent = i32::try_from(std::process::id()).unwrap();
        let mut children = crate::processes::below(parent);
        children.retain(|process| process.pid.unsigned_abs() == child.id());
        std::fs::create_dir(scratch.temporary().join("crawlify-chrome-1")).unwrap();
        let left = machine(&children, &scratch);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!((children.len(), left.len()), (1, 2), "{left:?}");
        assert!(left.iter().all(|violation| violation.id == "I12"));
        assert!(left.iter().any(|violation| violation.row == "temporary file crawlify-chrome-1"));
    }
}
