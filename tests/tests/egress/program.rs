//! The program: what its user names may be reached, and nothing that pages name.

use std::path::Path;
use std::time::Duration;

use crawlify_cli::demo_site::{Content, DemoSite};
use harness::hostile::Canary;
use harness::postgres::TestDatabase;
use harness::program::{Ended, Program, crawlify};
use harness::scratch::Scratch;
use serde_json::json;

use crate::CRAWLIFY;
use crate::recorded::Recorded;

const LONG: Duration = Duration::from_secs(120);

/// Crawls to the end with these options besides; every invariant holds then.
async fn crawl(scratch: &Scratch, workflow: &Path, more: &[&str]) -> Ended {
    let database = TestDatabase::create().await;
    let mut command = crawlify(CRAWLIFY, scratch);
    command.env_remove("CRAWLIFY_EGRESS_ALLOW").arg("run").arg(workflow).args(["--slots", "1"]).args(more);
    command.arg("--database-url").arg(database.url().expose());
    let ended = Program::start(command).end(LONG).await;
    Recorded::open(database.url()).await.assert_is_sound().await;
    ended
}

#[tokio::test]
async fn a_crawl_reaches_where_its_user_sent_it_and_no_other_port() {
    let (scratch, canary) = (Scratch::create(), Canary::start().await);
    let folder = scratch.path("site");
    std::fs::create_dir(&folder).unwrap();
    let link = format!("<h1>start</h1><a href='http://{}/secret'>inside</a>", canary.address);
    std::fs::write(folder.join("index.html"), link).unwrap();
    let site = DemoSite::start(0, Content::Folder(folder)).await.unwrap();
    let workflow = json!({
        "name": "inside", "start_urls": [site.url()], "max_depth": 2,
        "url_discovery": [{"id": "links", "type": "extract_links", "params": {"selector": "a"}}],
        "data_extraction": [{"id": "title", "type": "extract", "params": {"selector": "h1"}, "output_key": "title"}],
    });
    let file = scratch.path("workflow.json");
    std::fs::write(&file, workflow.to_string()).unwrap();
    let ended = crawl(&scratch, &file, &[]).await;
    assert!(
        ended.stderr.contains("is private, and allowed because the crawl begins there"),
        "{}",
        ended.stderr
    );
    assert!(ended.stderr.contains("the address is not allowed"), "{}", ended.stderr);
    assert_eq!((canary.hits(), ended.code), (0, 3), "{}", ended.stderr);
    let allowed = canary.address.to_string();
    let ended = crawl(&scratch, &file, &["--egress-allow", &allowed]).await;
    assert!(canary.hits() > 0 && ended.code == 0, "{}", ended.stderr);
}
