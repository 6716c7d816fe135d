//! What a worker says of itself on its admin port while it lacks a server, or its browser.

use std::sync::Arc;
use std::time::Duration;

use crawlify_shared::broker::{AmqpBroker, AmqpOptions, Broker};
use crawlify_shared::config::LeaseTimes;
use crawlify_shared::telemetry;
use crawlify_worker::chrome::fake::FakeDriver;
use crawlify_worker::egress::{Egress, EgressOptions};
use harness::fault_proxy::{FaultProxy, Mode};
use harness::postgres::TestDatabase;
use harness::rabbitmq::TestVhost;
use harness::wait::wait_for;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::{TIMES, WITHIN};

/// Fenced within a second.
const FENCED_SOON: LeaseTimes =
    LeaseTimes { heartbeat_every: Duration::from_millis(200), fence_after: Duration::from_secs(1), ..TIMES };

#[tokio::test]
async fn a_worker_says_what_it_lacks_lives_on_and_is_ready_again_when_it_is_back() {
    let (database, vhost) = (TestDatabase::create().await, TestVhost::create().await);
    let (postgres, database_url) = FaultProxy::before_postgres(&database.url()).await;
    let (rabbit, broker_url) = FaultProxy::before_rabbitmq(&vhost.url()).await;
    let broker = Arc::new(AmqpBroker::connect(&broker_url, AmqpOptions::default()).await.unwrap());
    let (driver, stop) = (Arc::new(FakeDriver::new()), CancellationToken::new());
    let config = crawlify_worker::Config {
        name: "test".to_owned(),
        slots: 1,
        database_url,
        admin: Some("127.0.0.1:0".parse().unwrap()),
        lease: FENCED_SOON,
        newer_within: crawlify_worker::NEWER_WITHIN,
        drain_deadline: Duration::from_secs(2),
        egress: Egress::start(EgressOptions::off()).unwrap(),
        recorded: Arc::default(),
    };
    let worker =
        crawlify_worker::start(config, broker.clone(), driver.clone(), telemetry::registry(), stop.clone())
            .await
            .unwrap();
    let admin = worker.admin.unwrap();
    let says = async |path: &str, expected: &'static str| {
        wait_for(&format!("{path} says {expected:?}"), WITHIN, async || {
            let answer = reqwest::get(format!("http://{admin}{path}")).await.unwrap();
            let is_well = answer.status().is_success();
            let said = answer.text().await.unwrap();
            assert_eq!(is_well, said == "ready\n" || said == "alive\n", "{said}");
            said == expected
        })
        .await;
    };
    let lose = |proxy: &FaultProxy| {
        proxy.set(Mode::Refuse);
        proxy.cut();
    };
    says("/readyz", "ready\n").await;
    lose(&postgres);
    says("/readyz", "not ready: no database\n").await;
    lose(&rabbit);
    says("/readyz", "not ready: no database, no broker\n").await;
    says("/livez", "alive\n").await;
    postgres.set(Mode::Pass);
    says("/readyz", "not ready: no broker\n").await;
    rabbit.set(Mode::Pass);
    says("/readyz", "ready\n").await;
    driver.set_ready(false);
    says("/readyz", "not ready: no browser\n").await;
    driver.set_ready(true);
    says("/readyz", "ready\n").await;
    // Somebody holds a connection, with a request that has no end.
    let mut held = TcpStream::connect(admin).await.unwrap();
    held.write_all(b"GET /livez HTTP/1.1\r\n").await.unwrap();
    stop.cancel();
    tokio::time::timeout(WITHIN, worker.stopped()).await.expect("nobody keeps it from ending");
    drop(held);
    broker.close().await;
}
