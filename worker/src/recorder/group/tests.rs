//! What becomes of groups, and what is told of their pages.

use crawlify_shared::domain::outcome::{DiscoveredUrl, PageEnd};
use crawlify_shared::domain::page_url::PageUrl;
use serde_json::{Value, json};

use super::*;
use crate::page::sample::claimed_page;

const NOBODY: Taken = Taken([0; 1 << PARTS]);

fn completed(item: Option<Value>) -> FinishedPage {
    FinishedPage {
        page: claimed_page("http://shop.test/1"),
        table: Arc::new(NodeTable { nodes: Vec::new() }),
        outcome: PageOutcome { item, ..PageOutcome::nothing(PageEnd::Completed) },
        next: NextStatus::Completed,
    }
}

fn with_item() -> FinishedPage {
    completed(Some(json!({"title": "one"})))
}

/// A group, and what is told of its pages.
fn group(pages: Vec<FinishedPage>) -> (Group, Vec<oneshot::Receiver<Recorded>>) {
    let job = |page| {
        let (answer, answered) = oneshot::channel();
        (Job { page, answer }, answered)
    };
    let (jobs, answers) = pages.into_iter().map(job).unzip();
    (Group::new(jobs), answers)
}

fn by_a_trigger() -> StoreError {
    StoreError::Raised("raised by a trigger (P0001)".into())
}

/// The connection ended before there was an answer.
fn cut() -> StoreError {
    StoreError::Unavailable("connection closed".into())
}

fn told(answers: &mut [oneshot::Receiver<Recorded>]) -> Vec<Option<Recorded>> {
    answers.iter_mut().map(|answer| answer.try_recv().ok()).collect()
}

fn count(taken: &mut Taken, page: &FinishedPage) {
    taken.count(std::slice::from_ref(page), &[page.page.page_id]);
}

#[test]
fn a_page_alone_is_refused_once_others_were_taken_three_times_between_its_failures() {
    let (mut alone, _answers) = group(vec![with_item()]);
    let mut taken = NOBODY;
    count(&mut taken, &with_item());
    // What was taken before its first failure says nothing, nor does that nobody else is there.
    for _ in 0..100 {
        assert!(!alone.is_refused(&by_a_trigger(), taken));
    }
    for time in 1..=OTHERS_TAKEN {
        for _ in 0..2 {
            count(&mut taken, &with_item());
        }
        assert_eq!(alone.is_refused(&by_a_trigger(), taken), time == OTHERS_TAKEN);
    }
}

#[test]
fn a_page_with_an_item_is_compared_with_items_and_none_with_pages_that_failed() {
    let (mut item, _answers) = group(vec![with_item()]);
    let (mut list, _answers) = group(vec![completed(None)]);
    let failed = refused(with_item(), &by_a_trigger());
    let mut taken = NOBODY;
    let both = |taken: Taken, item: &mut Group, list: &mut Group| {
        [item, list].map(|group| group.is_refused(&by_a_trigger(), taken))
    };
    for _ in 0..=OTHERS_TAKEN {
        assert_eq!(both(taken, &mut item, &mut list), [false, false]);
        count(&mut taken, &failed);
    }
    for time in 1..=OTHERS_TAKEN {
        count(&mut taken, &completed(None));
        assert_eq!(both(taken, &mut item, &mut list), [false, time == OTHERS_TAKEN]);
    }
    // One whose lease was lost was not taken.
    taken.count(&[with_item()], &[]);
    assert_eq!((taken.like(&with_item()), taken.like(&completed(None))), (0, u64::from(OTHERS_TAKEN)));
}

#[test]
fn a_page_with_links_is_not_compared_with_pages_that_have_none() {
    let url = PageUrl::parse("http://shop.test/2").unwrap();
    let link = DiscoveredUrl { url, discovered_by: "links".to_owned(), skipped: None, is_sitemap: false };
    let mut list = completed(None);
    list.outcome.discovered.push(link);
    let mut taken = NOBODY;
    count(&mut taken, &with_item());
    assert_eq!((taken.like(&list), taken.like(&with_item())), (0, 1));
    list.outcome.item = Some(json!({}));
    count(&mut taken, &list);
    assert_eq!((taken.like(&list), taken.like(&with_item())), (1, 2), "which has an item, too");
}

#[test]
fn want_of_room_and_of_rights_is_waited_for_whatever_becomes_of_others() {
    let no_room = StoreError::Unavailable("No space left on device (53100)".into());
    let no_rights = StoreError::Unusable("permission denied for table node_records (42501)".into());
    let (mut alone, _answers) = group(vec![with_item()]);
    let mut taken = NOBODY;
    for _ in 0..10 * OTHERS_TAKEN {
        assert!(!alone.is_refused(&no_room, taken) && !alone.is_refused(&no_rights, taken));
        count(&mut taken, &with_item());
    }
}

#[tokio::test(start_paused = true)]
async fn what_may_pass_is_waited_for_longer() {
    let timeout = StoreError::TimedOut("canceling statement due to statement timeout (57014)".into());
    let (mut alone, _answers) = group(vec![with_item()]);
    let mut taken = NOBODY;
    for _ in 0..10 * OTHERS_TAKEN {
        assert!(!alone.is_refused(&timeout, taken));
        count(&mut taken, &with_item());
    }
    tokio::time::advance(MAY_PASS_FOR).await;
    assert!(alone.is_refused(&timeout, taken));
}

#[test]
fn a_group_that_fails_is_halved_until_each_page_is_alone_and_each_keeps_its_answer() {
    let pages: Vec<_> = (0..3).map(|_| with_item()).collect();
    let ids: Vec<_> = pages.iter().map(|page| page.page.page_id).collect();
    let (mut first, mut answers) = group(pages);
    assert!(!first.is_refused(&by_a_trigger(), NOBODY));
    assert!(first.note_failure(&cut()).is_none() && first.note_failure(&cut()).is_none());
    let mut rest = first.note_failure(&cut()).expect("it is halved");
    assert_eq!((first.pages().len(), first.failures(), rest.pages().len()), (1, 0, 2));
    assert!(rest.is_ambiguous(), "it may have been written");
    let last = rest.halve().expect("it is halved");
    for _ in 0..=HALVE_AFTER {
        assert!(first.note_failure(&cut()).is_none(), "a page is not halved");
    }
    assert_eq!([&first, &rest, &last].map(|group| group.pages()[0].page.page_id), ids[..]);
    rest.settle(&ids[1..2]);
    assert_eq!(told(&mut answers), [None, Some(Recorded::Written), None]);
}

#[test]
fn a_page_counts_as_written_where_its_record_was_and_as_not_written_where_none_can_have_been() {
    let (one, other) = (with_item(), with_item());
    let written = [one.page.page_id];
    let (both, mut answers) = group(vec![one, other]);
    both.settle(&written);
    assert_eq!(told(&mut answers), [Some(Recorded::Written), Some(Recorded::NotWritten)]);

    let (one, other) = (with_item(), with_item());
    let written = [one.page.page_id];
    let (mut both, mut answers) = group(vec![one, other]);
    assert!(both.note_failure(&by_a_trigger()).is_none());
    assert!(!both.is_ambiguous(), "what the server refuses is undone");
    assert!(both.note_failure(&cut()).is_none());
    both.settle(&written);
    assert_eq!(told(&mut answers), [Some(Recorded::Written), Some(Recorded::Settled)], "it may have been");
}

#[test]
fn of_a_page_that_was_executed_twice_the_attempt_that_the_store_takes_is_written() {
    let first = with_item();
    let (mut last, mut released) = (first.clone(), first.clone());
    last.page.epoch = 1;
    released.page.attempt = 0;
    let written = [first.page.page_id];
    let (attempts, mut answers) = group(vec![first, last.clone(), released, last]);
    attempts.settle(&written);
    let not_written = Some(Recorded::NotWritten);
    assert_eq!(told(&mut answers), [not_written, Some(Recorded::Written), not_written, not_written]);
}

#[test]
fn a_page_that_is_refused_fails_with_what_the_database_said_and_is_given_up_the_second_time() {
    let mut page = with_item();
    (page.outcome.bytes, page.outcome.received) = (300, Some(70_000));
    let (mut alone, mut answers) = group(vec![page]);
    assert!(alone.is_refused(&StoreError::BadData("too long (22001)".into()), NOBODY));
    let mut stripped = alone.strip(&by_a_trigger()).expect("it is tried without its data");
    let page = &stripped.pages()[0];
    let NextStatus::Failed(failure) = &page.next else { panic!("{:?}", page.next) };
    assert_eq!(failure.message, "the page's data could not be stored: raised by a trigger (P0001)");
    assert_eq!(page.outcome.item, None);
    assert_eq!((page.outcome.bytes, page.outcome.received), (300, Some(70_000)), "that was loaded");
    assert!(!stripped.is_refused(&by_a_trigger(), NOBODY), "it is compared with others anew");
    assert!(answers[0].try_recv().is_err());
    assert!(stripped.strip(&by_a_trigger()).is_none());
    assert_eq!(told(&mut answers), [Some(Recorded::NotWritten)]);
}

#[test]
fn a_page_that_is_written_without_its_data_does_not_count_as_written() {
    let page = with_item();
    let id = page.page.page_id;
    let (alone, mut answers) = group(vec![page]);
    alone.strip(&by_a_trigger()).expect("it is tried without its data").settle(&[id]);
    assert_eq!(told(&mut answers), [Some(Recorded::Settled)]);
}
