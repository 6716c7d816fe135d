//! Group commit: whatever arrives while one statement runs goes into the next one together.

use tokio::sync::mpsc;

/// Waits for a job, and takes what else is there until `full` says that the group is complete. `None`: no job will
/// ever come.
pub(crate) async fn next_group<J>(
    jobs: &mut mpsc::Receiver<J>,
    full: impl Fn(&[J]) -> bool,
) -> Option<Vec<J>> {
    let mut group = vec![jobs.recv().await?];
    while !full(&group) {
        match jobs.try_recv() {
            Ok(job) => group.push(job),
            Err(_) => break,
        }
    }
    Some(group)
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
}
