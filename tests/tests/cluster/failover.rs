//! A database that dies, and whose standby takes over without what was written last.

use chrono::Utc;
use crawlify_cli::private_postgres::{Options, PrivatePostgres};
use crawlify_shared::store::Store;
use harness::fault_proxy::FaultProxy;
use harness::fleet::Fleet;
use harness::postgres::TestDatabase;
use harness::standby::Standby;
use harness::wait::wait_for;

use super::{PAGES, WITHIN};

#[tokio::test]
async fn a_standby_that_missed_the_whole_crawl_so_far_takes_over_and_the_crawl_ends_all_the_same() {
    let primary = PrivatePostgres::start(&Options::default()).await.unwrap();
    let (proxy, server) = FaultProxy::before_postgres(&primary.url()).await;
    let database = TestDatabase::on(&server).await;
    let fleet = Fleet::on(database, env!("CARGO_BIN_EXE_bench-fleet"), PAGES).await;
    let calm = fleet.calm_crawl().await;
    let standby = Standby::of(&primary).await.unwrap();
    let coordinator = fleet.start("coordinator", None);
    let execution = fleet.execute(&[1], None).await;
    // It knows the execution, and nothing later.
    standby.catch_up(&primary).await.unwrap();
    standby.cut_off().await.unwrap();
    let of_the_standby = Store::connect(&standby.url(), 1).unwrap();
    let error = of_the_standby.ping().await.expect_err("who would keep to it could do nothing");
    assert!(error.is_transient(), "{error:?}");
    // These announce themselves, and write definitions and links, of which the next database knows nothing.
    let workers = [(); 2].map(|()| fleet.start_with("worker", &["--takes", "100"]));
    fleet.completed(100).await;

    let died_at = Utc::now();
    drop(primary);
    standby.take_over().await.unwrap();
    of_the_standby.ping().await.unwrap();
    of_the_standby.close().await;
    proxy.lead_to_postgres(&standby.url());
    wait_for("the standby answers", WITHIN, async || fleet.store.execution(execution).await.is_ok()).await;
    fleet.ended(execution).await;
    let all = fleet.number("SELECT count(*) FROM url_queue WHERE status = 'completed'").await;
    assert_eq!(all, 2 * PAGES as i64, "those of the calm crawl and these");
    let before: i64 =
        sqlx::query_scalar("SELECT count(*) FROM url_queue WHERE execution_id = $1 AND processed_at < $2")
            .bind(execution.0)
            .bind(died_at)
            .fetch_one(&fleet.pool)
            .await
            .unwrap();
    assert_eq!(before, 0, "what was completed before is not known any more, and was executed again");
    let [one, other] = workers;
    fleet.close([one, other, coordinator], execution, Some(calm)).await;
}
