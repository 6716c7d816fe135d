//! That the driver does what a test tells it.

use std::time::Duration;

use crawlify_shared::domain::id::ExecutionId;
use crawlify_shared::domain::workflow::{Block, Headers, Isolation, Selector};

use super::*;
use crate::chrome::driver::DomOp;

fn session() -> Session {
    Session {
        execution_id: ExecutionId::generate(),
        headers: Headers::default(),
        agent: None,
        block: Block::default(),
        isolation: Isolation::Execution,
        proxy: None,
    }
}

fn step(query: &str, group: usize) -> DomStep {
    DomStep {
        op: DomOp::Links(Selector::Css(query.to_owned())),
        group,
        ends_group: true,
        max_retries: 0,
        retry_delay: Duration::ZERO,
    }
}

#[tokio::test]
async fn a_page_does_what_the_test_says_attempt_after_attempt() {
    let url = PageUrl::parse("http://shop.test/a").unwrap();
    let answer = |step: &DomStep| match &step.op {
        DomOp::Links(Selector::Css(query)) if query == "bad" => Err(Failure::new(ErrorClass::Script, "bad")),
        _ => Ok(Value::from("good")),
    };
    let loads = [FakePage::fails(ErrorClass::Connect, "down"), FakePage::loads(answer)];
    let driver = FakeDriver::new().with_page(url.as_str(), loads);
    let soon = Instant::now() + Duration::from_secs(5);
    let mut tab = driver.open(&session(), soon).await.unwrap();
    let error = tab.navigate(&url, WaitUntil::Load, None, soon).await.unwrap_err();
    assert_eq!(error.failure.class, ErrorClass::Connect);
    assert_eq!(tab.navigate(&url, WaitUntil::Load, None, soon).await.unwrap().status, Some(200));
    let program = DomProgram::new(vec![step("good", 0), step("bad", 0), step("good", 0), step("good", 1)]);
    let results = tab.run(&program, &[], soon).await.unwrap();
    assert!(results[2].is_none() && results[3].is_some(), "the failed step ended its group alone");
    assert_eq!(results[0].as_ref().unwrap().output, Ok(Value::from("good")));
    let results = tab.run(&program, &[0], soon).await.unwrap();
    assert!(results[..3].iter().all(Option::is_none) && results[3].is_some());
    assert_eq!(driver.open_tabs(), 1);
    tab.release().await;
    assert_eq!((driver.open_tabs(), driver.released_tabs(), driver.loads().len()), (0, 1, 2));
}

#[tokio::test]
async fn a_lost_browser_is_not_ready_until_it_is_made_so() {
    let url = PageUrl::parse("http://shop.test/").unwrap();
    let driver = FakeDriver::new().with_page(url.as_str(), [FakePage::LosesBrowser]);
    let soon = Instant::now() + Duration::from_secs(5);
    let mut tab = driver.open(&session(), soon).await.unwrap();
    let error = tab.navigate(&url, WaitUntil::Load, None, soon).await.unwrap_err();
    assert_eq!(error.failure.class, ErrorClass::BrowserLost);
    assert!(!driver.is_ready() && driver.open(&session(), soon).await.is_err());
    let ((), ()) = tokio::join!(driver.ready(), async { driver.set_ready(true) });
    assert!(driver.open(&session(), soon).await.is_ok());
}
