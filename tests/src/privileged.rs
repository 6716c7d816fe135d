//! What only root may do, for tests that change the machine, or are where it looks different.

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

/// Runs the test of this name once more, as ourselves, in namespaces of its own: those of these arguments of `unshare`,
/// of which the last ones may be a program that runs the rest, with `variables` set.
///
/// # Panics
/// It did not pass, or there can be no such place.
pub(crate) fn pass_within(test: &str, unshare: &[&str], variables: &[&str]) {
    let mut command = privileged("unshare");
    command.args(unshare);
    if !is_root() {
        let user = format!("#{}", rustix::process::getuid().as_raw());
        command.args(["sudo", "--preserve-env", "--user", &user]);
    }
    // By `env`, as `sudo` passes on what it likes.
    command.arg("env").args(variables).arg(std::env::current_exe().expect("it is running"));
    let ended = command.args([test, "--exact", "--nocapture"]).output().expect("unshare is a program");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&ended.stdout), text(&ended.stderr));
    assert!(
        ended.status.success() && stdout.contains("1 passed"),
        "within `unshare {}` (which takes root, or `sudo -v` beforehand):\n{stdout}\n{stderr}",
        unshare.join(" ")
    );
}
