//! Group commit: whatever arrives while one statement runs goes into the next one together.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

/// How often it is looked whether there are enough jobs.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Waits for a job, and takes what else is there until `full` says that the group is complete. `None`: no job will
/// ever come.
pub(crate) async fn next_group<J>(
    jobs: &mut mpsc::Receiver<J>,
    full: impl Fn(&[J]) -> bool,
) -> Option<Vec<J>> {
    let first = jobs.recv().await?;
    Some(take_waiting(first, jobs, full))
}

fn take_waiting<J>(first: J, jobs: &mut mpsc::Receiver<J>, full: impl Fn(&[J]) -> bool) -> Vec<J> {
    let mut group = vec![first];
    while !full(&group) {
        match jobs.try_recv() {
            Ok(job) => group.push(job),
            Err(_) => break,
        }
    }
    group
}

/// Takes what else is there beside the first job, and waits up to `linger` for more as long as there are not `enough`.
pub(crate) async fn gather_group<J>(
    first: J,
    jobs: &mut mpsc::Receiver<J>,
    full: impl Fn(&[J]) -> bool,
    enough: impl Fn(&[J]) -> bool,
    linger: Duration,
) -> Vec<J> {
    let mut group = take_waiting(first, jobs, &full);
    let until = Instant::now() + linger;
    while !full(&group) && !enough(&group) {
        // What is enough may change while nothing comes.
        let look_at = until.min(Instant::now() + LOOK_EVERY);
        match tokio::time::timeout_at(look_at, jobs.recv()).await {
            Ok(Some(job)) => group.push(job),
            Ok(None) => break,
            Err(_) if look_at == until => break,
            Err(_) => {}
        }
    }
    group
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_waits_goes_together_up_to_the_limit() {
        let (sender, mut jobs) = mpsc::channel(10);
        for job in 0..5 {
            sender.send(job).await.unwrap();
        }
        assert_eq!(next_group(&mut jobs, |group| group.len() >= 3).await, Some(vec![0, 1, 2]));
        assert_eq!(next_group(&mut jobs, |group| group.len() >= 3).await, Some(vec![3, 4]));
        drop(sender);
        assert_eq!(next_group(&mut jobs, |group| group.len() >= 3).await, None);
    }

    #[tokio::test]
    async fn others_are_waited_for_until_there_are_enough_or_the_time_is_over() {
        let (sender, mut jobs) = mpsc::channel(10);
        let late = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            sender.send(2).await.unwrap();
        };
        let hour = Duration::from_secs(3600);
        let gather = gather_group(1, &mut jobs, |_| false, |group| group.len() >= 2, hour);
        assert_eq!(tokio::join!(gather, late).0, [1, 2]);
        let briefly = Duration::from_millis(10);
        assert_eq!(gather_group(3, &mut jobs, |_| false, |_| false, briefly).await, [3]);
        drop(sender);
        assert_eq!(gather_group(4, &mut jobs, |_| false, |_| false, hour).await, [4]);
    }
}
