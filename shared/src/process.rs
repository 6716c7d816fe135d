//! A program's runtime, and its end: nobody waits for what cannot be stopped, and its exit code says what is wrong.

use std::error::Error;
use std::time::Duration;

use tokio::runtime::Runtime;

use crate::loops::BrokenLoop;

/// How long what a program has left behind may go on after its end. Most of it takes no time. But a look-up of a name whose
/// servers are away cannot be stopped, and may take a minute.
pub const ENDS_WITHIN: Duration = Duration::from_secs(2);

/// The exit code where something is missing, taken or set wrongly: "configuration error" in `sysexits.h`.
const CONFIGURATION: u8 = 78;

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

/// The exit code of a role that ended with this error: a fault of ours, after which it may be started again, or one
/// that has to be mended first.
pub fn exit_code(error: &(dyn Error + 'static)) -> u8 {
    let mut causes = std::iter::successors(Some(error), |cause: &&(dyn Error + 'static)| (*cause).source());
    if causes.any(|cause| cause.is::<BrokenLoop>()) { BrokenLoop::EXIT_CODE } else { CONFIGURATION }
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

    #[test]
    fn a_role_of_which_a_loop_broke_ends_with_another_code_than_one_that_is_set_wrongly() {
        let broken = || BrokenLoop { name: "record", how: "panicked (no luck)".to_owned() };
        assert_eq!(exit_code(&broken()), 70);
        assert_eq!(exit_code(&Around(broken())), 70, "whatever is said around it");
        assert_eq!(exit_code(&std::io::Error::other("the port is taken")), 78);
    }

    #[derive(Debug, thiserror::Error)]
    #[error("the worker ended")]
    struct Around(#[source] BrokenLoop);
}
