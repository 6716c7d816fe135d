//! Whether there is a Chrome, and whether it can have its sandbox. Opens no page.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use crawlify_shared::child::{self, Account};
use crawlify_shared::config;
use tokio::process::Command;

use super::verdict::{self, Check, Namespaces};

const NAMES: [&str; 6] = [
    "chromium-headless-shell",
    "chrome-headless-shell",
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
];

pub(super) async fn chrome() -> Check {
    let fix =
        "apt-get install chromium-headless-shell (where there is none: chromium), or set CRAWLIFY_CHROME";
    let Some(program) = find() else {
        return Check::fail("Chrome", format!("none of these is on the path: {}", NAMES.join(", ")), fix);
    };
    let mut command = Command::new(&program);
    command.arg("--version");
    match output(command).await {
        Ok(version) => Check::ok("Chrome", format!("{version} ({})", program.display())),
        Err(why) => Check::fail("Chrome", format!("{}: {why}", program.display()), fix),
    }
}

pub(super) async fn sandbox() -> Check {
    let account = child::is_root().then(|| Account::first_of(&["crawlify", "postgres", "nobody"]));
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "true"]).current_dir("/");
    let name = match &account {
        None => Some("this account"),
        Some(None) => None,
        Some(Some(account)) => {
            command.uid(account.uid).gid(account.gid);
            Some(account.name.as_str())
        }
    };
    let worked = match output(command).await {
        Ok(_) => Some(true),
        Err(why) if why.starts_with("does not start") => None,
        Err(_) => Some(false),
    };
    let namespaces = Namespaces {
        worked,
        debian_switch: kernel_setting("kernel/unprivileged_userns_clone"),
        apparmor_switch: kernel_setting("kernel/apparmor_restrict_unprivileged_userns"),
        most: kernel_setting("user/max_user_namespaces"),
    };
    verdict::sandbox(name, &namespaces)
}

fn find() -> Option<PathBuf> {
    if let Some(named) = config::variable(config::CHROME) {
        return Some(PathBuf::from(named));
    }
    let path = config::variable("PATH")?;
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    NAMES
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)))
        .find(|file| file.is_file())
}

fn kernel_setting(name: &str) -> Option<u32> {
    std::fs::read_to_string(format!("/proc/sys/{name}")).ok()?.trim().parse().ok()
}

async fn output(mut command: Command) -> Result<String, String> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    match tokio::time::timeout(Duration::from_secs(10), command.output()).await {
        Ok(Ok(output)) if output.status.success() => {
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        }
        Ok(Ok(output)) => {
            let words = String::from_utf8_lossy(&output.stderr);
            Err(format!("fails ({}) {}", output.status, words.lines().last().unwrap_or_default()))
        }
        Ok(Err(error)) => Err(format!("does not start: {error}")),
        Err(_) => Err("does not answer".to_owned()),
    }
}
