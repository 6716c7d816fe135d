//! A worker says that it is there only where its records will be taken.

use std::error::Error;

use crawlify_shared::domain::id::WorkerId;
use crawlify_shared::store::hot::HotStore;
use harness::crawl::{Crawl, NO_LIMITS};

#[tokio::test]
async fn a_worker_that_is_newer_than_the_database_waits_until_that_is_brought_up_to_date() {
    let crawl = Crawl::start(NO_LIMITS, &["http://shop.test/"]).await;
    let worker = HotStore::connect(&crawl.database.url(), WorkerId::generate()).unwrap();
    let last = "SELECT max(version) FROM _sqlx_migrations";
    let needed = crawl.number(last).await;
    crawl.change("UPDATE _sqlx_migrations SET success = false WHERE version = (SELECT max(version) FROM _sqlx_migrations)").await;
    let there = crawl.number("SELECT max(version) FROM _sqlx_migrations WHERE success").await;
    let error = worker.announce("new", 1).await.unwrap_err();
    let why = error.source().unwrap().to_string();
    assert!(why.contains(&format!("version {there} and this worker needs {needed}")), "{why}");
    assert_eq!(crawl.number("SELECT count(*) FROM workers").await, 0);
    crawl.change("UPDATE _sqlx_migrations SET success = true").await;
    worker.announce("new", 1).await.unwrap();
    assert_eq!(crawl.number("SELECT count(*) FROM workers").await, 1);
    worker.close();
}
