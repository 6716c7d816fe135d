//! Programs that only root may run, for tests that change the machine.

use std::process::Command;

use crawlify_shared::child::is_root;

/// A program as root: by `sudo`, which must not ask for a password, where we are not.
pub(crate) fn privileged(program: &str) -> Command {
    if is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.args(["--non-interactive", program]);
    command
}
