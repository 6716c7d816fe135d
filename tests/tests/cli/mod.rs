//! The command line as a person meets it when something is wrong: messages, exit codes, and nothing left behind.

mod broken_loops;
mod explain;
mod keys;
mod memory;
mod mistakes;
mod places;
mod stopping;

use std::time::Duration;

use harness::program::{Ended, Program, crawlify};
use harness::scratch::Scratch;

use crate::CRAWLIFY;

/// How long a command may take that starts no server and no browser.
const AT_ONCE: Duration = Duration::from_secs(20);
/// How long one may take that starts both, on a machine that is busy with other things.
const SHORT: Duration = Duration::from_secs(90);

/// Runs a command that ends by itself at once.
async fn ended(scratch: &Scratch, arguments: &[&str]) -> Ended {
    let mut command = crawlify(CRAWLIFY, scratch);
    command.args(arguments);
    Program::start(command).end(AT_ONCE).await
}

/// Writes a file, and answers its path.
fn write(scratch: &Scratch, name: &str, text: &str) -> String {
    let file = scratch.path(name);
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}
