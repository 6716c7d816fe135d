//! A program's runtime, and its end: nobody waits for what cannot be stopped.

use std::time::Duration;

use tokio::runtime::Runtime;

/// How long what a program has left behind may go on after its end. Most of it takes no time. But a look-up of a name whose
/// servers are away cannot be stopped, and may take a minute.
pub const ENDS_WITHIN: Duration = Duration::from_secs(2);

/// Runs a program, and answers what it answered.
///
/// # Errors
/// There is no runtime to be had.
pub fn run<T>(program: impl Future<Output = T>) -> std::io::Result<T> {
    let runtime = Runtime::new()?;
    let answer = runtime.block_on(program);
    runtime.shutdown_timeout(ENDS_WITHIN);
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_program_ends_although_something_of_it_cannot_be_stopped() {
        let begun = Instant::now();
        let (_ends, never) = mpsc::channel::<()>();
        let answer = run(async {
            tokio::task::spawn_blocking(move || never.recv());
            7
        });
        assert_eq!(answer.unwrap(), 7);
        assert!(begun.elapsed() < 5 * ENDS_WITHIN);
    }
}
