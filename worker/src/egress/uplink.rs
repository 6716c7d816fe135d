//! Whether the network is there at all. Where several hosts in a row give no sign of life, or no resolver answers that did
//! before, it is this worker's own network that is away, and nothing is said of any host.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::reason::Reason;

/// So many hosts in a row that give no sign make the network doubtful.
const SILENT_HOSTS: usize = 3;

/// What was heard of the network lately.
#[derive(Debug, Default)]
pub(super) struct Uplink {
    /// The hosts that gave no sign since something was heard last.
    silent: Mutex<HashSet<String>>,
    /// Whether there are any; a look at it costs nothing.
    is_doubted: AtomicBool,
}

impl Uplink {
    /// Something came from the network, if only that nobody listens there.
    pub(super) fn heard(&self) {
        if self.is_doubted.load(Ordering::Relaxed) {
            self.is_doubted.store(false, Ordering::Relaxed);
            self.silent().clear();
        }
    }

    /// A host gave no sign: what is to be said, where `reason` is what it looks like by itself.
    pub(super) fn no_sign(&self, host: String, reason: Reason) -> Reason {
        let mut silent = self.silent();
        self.is_doubted.store(true, Ordering::Relaxed);
        if silent.len() < SILENT_HOSTS {
            silent.insert(host);
        }
        if silent.len() < SILENT_HOSTS { reason } else { Reason::NoNetwork }
    }

    fn silent(&self) -> MutexGuard<'_, HashSet<String>> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use crate::egress::tests::{Server, ask, client, gate, get, guard, hello};

    use super::*;

    #[test]
    fn several_hosts_in_a_row_without_a_sign_are_no_news_of_any_of_them() {
        let uplink = Uplink::default();
        let no_sign = |host: &str| uplink.no_sign(host.to_owned(), Reason::TimedOut);
        for host in ["a", "b", "a", "b"] {
            assert_eq!(no_sign(host), Reason::TimedOut, "two hosts may both be gone");
        }
        assert_eq!(no_sign("c"), Reason::NoNetwork);
        assert_eq!(no_sign("a"), Reason::NoNetwork);
        uplink.heard();
        assert_eq!(no_sign("a"), Reason::TimedOut);
    }

    #[tokio::test]
    async fn that_nobody_resolves_names_any_more_is_said_of_the_network_and_not_of_hosts() {
        let server = Server::start(hello).await;
        let silence: &[&[&str]] = &[&["silence"]];
        let egress = guard(
            &["127.0.0.1"],
            &[
                ("shop.test", &[&["127.0.0.1"], &["silence"]]),
                ("one.test", silence),
                ("two.test", silence),
                ("three.test", silence),
            ],
        );
        let (_, gate) = gate(&egress, None);
        let answer = async |host: &str| {
            let url = format!("http://{host}:{}/", server.address.port());
            let answer = ask(&mut client(&gate.proxy_url()).await, &get(&url)).await;
            let reason = answer.lines().find_map(|line| line.strip_prefix("x-crawlify-egress: "));
            reason.unwrap_or("none").to_owned()
        };
        assert_eq!(answer("shop.test").await, "none");
        assert_eq!(answer("shop.test").await, "no_network", "it has been resolved before");
        assert_eq!(answer("one.test").await, "not_resolved");
        assert_eq!(answer("two.test").await, "not_resolved");
        assert_eq!(answer("three.test").await, "no_network");
        assert_eq!(answer("unknown.test").await, "not_resolved", "which is an answer");
        assert_eq!(answer("127.0.0.1").await, "none");
        assert_eq!(answer("one.test").await, "not_resolved");
    }
}
