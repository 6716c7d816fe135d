//! The program: what its user names may be reached, and nothing that pages name.

use std::time::Duration;

use crawlify_cli::demo_site::{Content, DemoSite};
use harness::hostile::Canary;
use harness::program::{Program, crawlify};
use harness::scratch::Scratch;
use serde_json::json;

use crate::CRAWLIFY;

const LONG: Duration = Duration::from_secs(120);

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
    let run = |more: &[&str]| {
        let mut command = crawlify(CRAWLIFY, &scratch);
        command.env_remove("CRAWLIFY_EGRESS_ALLOW").arg("run").arg(&file).args(["--slots", "1"]).args(more);
        Program::start(command)
    };
    let ended = run(&[]).end(LONG).await;
    assert!(
        ended.stderr.contains("is private, and allowed because the crawl begins there"),
        "{}",
        ended.stderr
    );
    assert!(ended.stderr.contains("the address is not allowed"), "{}", ended.stderr);
    assert_eq!((canary.hits(), ended.code), (0, 3), "{}", ended.stderr);
    let allowed = canary.address.to_string();
    let ended = run(&["--egress-allow", &allowed]).end(LONG).await;
    assert!(canary.hits() > 0 && ended.code == 0, "{}", ended.stderr);
}
