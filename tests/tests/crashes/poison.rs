//! A page that takes down whoever executes it.

use std::time::Duration;

use harness::fleet::Fleet;
use harness::wait::wait_for;

const PAGES: u64 = 200;
/// It links to no page that others do not link to.
const POISON: &str = "150";
const WITHIN: Duration = Duration::from_secs(120);

#[tokio::test]
async fn a_page_that_kills_its_worker_each_time_kills_three_and_the_others_are_completed() {
    let fleet = Fleet::create(env!("CARGO_BIN_EXE_bench-fleet"), PAGES).await;
    let coordinator = fleet.start("coordinator", None);
    let mortal = || fleet.start_with("worker", &["--poison", POISON]);
    let mut workers = [mortal(), mortal()];
    let execution = fleet.execute(&[1], None).await;
    let mut deaths = 0;
    wait_for("the execution ended", WITHIN, async || {
        for worker in &mut workers {
            if worker.has_ended() {
                // Whatever runs a fleet starts it again.
                *worker = mortal();
                deaths += 1;
            }
        }
        fleet.store.execution(execution).await.unwrap().unwrap().status.has_ended()
    })
    .await;
    assert_eq!(deaths, 3);
    assert_eq!(fleet.number("SELECT count(*) FROM url_queue WHERE status = 'completed'").await, 199);
    let quarantined = fleet.store.quarantined_pages(execution, 10, 0).await.unwrap();
    assert_eq!(quarantined.len(), 1);
    assert!(quarantined[0].url.ends_with(&format!("/book/{POISON}/")), "{quarantined:?}");
    let faults: Vec<_> = quarantined[0].losses.iter().map(|loss| loss.fault.as_str()).collect();
    assert_eq!(faults, ["worker"; 3], "the evidence");
    let [one, other] = workers;
    fleet.close([one, other, coordinator], execution, None).await;
}
