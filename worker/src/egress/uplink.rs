//! Whether the network is there at all. A host that gives no sign of life may be gone, or this worker's own network may: the
//! hosts that answered lately are asked. Where they are silent too, nothing is said of any host.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Mutex as StdMutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::resolve::Names;

/// Hosts that are remembered; the one that answered longest ago is forgotten first.
const REMEMBERED: usize = 8;
/// A host that did not answer for so long says nothing of the network by not answering now.
const HEARD_LATELY: Duration = Duration::from_secs(30 * 60);
/// How long a host that is asked may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long an answer is believed: many pages wait for it.
const BELIEVED: Duration = Duration::from_secs(5);

/// What was heard of the network lately.
#[derive(Debug, Default)]
pub(super) struct Uplink {
    /// The last one at the end.
    heard: StdMutex<VecDeque<Heard>>,
    connects: Mutex<Option<Verdict>>,
    resolves: Mutex<Option<Verdict>>,
}

/// A host that answered.
#[derive(Clone, Debug)]
struct Heard {
    host: String,
    address: SocketAddr,
    at: Instant,
}

/// What came of asking.
#[derive(Clone, Copy, Debug)]
struct Verdict {
    is_there: bool,
    at: Instant,
}

impl Heard {
    /// Whether it has a name, which somebody must answer for.
    fn is_named(&self) -> bool {
        matches!(url::Host::parse(&self.host), Ok(url::Host::Domain(_)))
    }
}

impl Uplink {
    /// A host answered, if only that nobody listens there.
    pub(super) fn heard(&self, host: &str, address: SocketAddr) {
        let mut heard = self.lock();
        heard.retain(|other| other.host != host);
        if heard.len() >= REMEMBERED {
            heard.pop_front();
        }
        heard.push_back(Heard { host: host.to_owned(), address, at: Instant::now() });
    }

    /// Whether connections to other hosts come about, where one to this host does not; `None` where no other is known.
    pub(super) async fn connects(&self, but: &str) -> Option<bool> {
        let others = self.others(but)?;
        let asked = others.into_iter().map(|other| async move {
            let connected = tokio::time::timeout(PATIENCE, TcpStream::connect(other.address)).await;
            connected.is_ok_and(|made| {
                made.is_ok() || made.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
            })
        });
        Some(verdict(&self.connects, any(asked)).await)
    }

    /// Whether anybody answers questions for the names of other hosts; `None` where no other is known.
    pub(super) async fn resolves(&self, names: &Names, but: &str) -> Option<bool> {
        let others: Vec<_> = self.others(but)?.into_iter().filter(Heard::is_named).collect();
        if others.is_empty() {
            return None;
        }
        let asked = others.into_iter().map(|other| async move {
            tokio::time::timeout(PATIENCE, names.is_answered(&other.host)).await.unwrap_or(false)
        });
        Some(verdict(&self.resolves, any(asked)).await)
    }

    fn others(&self, but: &str) -> Option<Vec<Heard>> {
        let heard = self.lock();
        let others: Vec<_> = heard
            .iter()
            .filter(|heard| heard.host != but && heard.at.elapsed() < HEARD_LATELY)
            .cloned()
            .collect();
        (!others.is_empty()).then_some(others)
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Heard>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was found out a moment ago, or is now.
async fn verdict(last: &Mutex<Option<Verdict>>, ask: impl Future<Output = bool>) -> bool {
    let mut last = last.lock().await;
    match *last {
        Some(Verdict { is_there, at }) if at.elapsed() < BELIEVED => is_there,
        _ => {
            let is_there = ask.await;
            *last = Some(Verdict { is_there, at: Instant::now() });
            is_there
        }
    }
}

/// Whether any of them is true; the first one that is ends it.
async fn any(asked: impl Iterator<Item = impl Future<Output = bool>>) -> bool {
    let mut asked: FuturesUnordered<_> = asked.collect();
    while let Some(answered) = asked.next().await {
        if answered {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpSocket};

    use crate::egress::tests::{Server, ask, client, gate, get, guard, hello};
    use crate::egress::{Gate, Reason};

    use super::*;

    /// What the guard says of a URL; `None` where its server has answered.
    async fn said_of(gate: &Gate, url: &str) -> Option<String> {
        let answer = ask(&mut client(&gate.proxy_url()).await, &get(url)).await;
        answer.lines().find_map(|line| line.strip_prefix("x-crawlify-egress: ")).map(str::to_owned)
    }

    #[tokio::test]
    async fn that_nobody_answers_for_names_is_said_of_the_network_only_where_no_name_is_answered() {
        let server = Server::start(hello).await;
        let answer: &[&[&str]] = &[&["127.0.0.1"]];
        let first_an_answer: &[&[&str]] = &[&["127.0.0.1"], &["silence"]];
        let silence: &[&[&str]] = &[&["silence"]];
        for (other, expected) in [(answer, "not_resolved"), (first_an_answer, "no_network")] {
            let names = [("known.test", first_an_answer), ("other.test", other), ("gone.test", silence)];
            let egress = guard(&["127.0.0.1"], &names);
            let (_, gate) = gate(&egress, None);
            let url = |host: &str| format!("http://{host}:{}/", server.address.port());
            assert_eq!(said_of(&gate, &url("gone.test")).await.as_deref(), Some("not_resolved"), "who knows");
            assert_eq!(said_of(&gate, &url("127.0.0.1")).await, None, "which nobody has to answer for");
            assert_eq!(said_of(&gate, &url("known.test")).await, None);
            // It had an address, and nobody else can be asked.
            assert_eq!(said_of(&gate, &url("known.test")).await.as_deref(), Some("no_network"));
            assert_eq!(said_of(&gate, &url("other.test")).await, None);
            assert_eq!(said_of(&gate, &url("gone.test")).await.as_deref(), Some(expected));
            assert_eq!(said_of(&gate, &url("known.test")).await.as_deref(), Some(expected));
            assert_eq!(
                said_of(&gate, &url("unknown.test")).await.as_deref(),
                Some("not_resolved"),
                "an answer"
            );
        }
    }

    /// A port where nobody answers: no connection is accepted there, and no more of them fit into its queue.
    async fn silent_port(address: &str) -> (TcpListener, Vec<TcpStream>, SocketAddr) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(address.parse().unwrap()).unwrap();
        let listener = socket.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queued = Vec::new();
        while let Ok(Ok(stream)) =
            tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await
        {
            queued.push(stream);
        }
        (listener, queued, address)
    }

    #[tokio::test]
    async fn hosts_that_are_silent_are_gone_unless_all_are() {
        let server = Server::at("127.0.0.2:0", hello).await;
        let (_listener, _queued, silent) = silent_port("127.0.0.3:0").await;
        let egress = guard(&["127.0.0.0/8"], &[]);
        let (_, gate) = gate(&egress, None);
        let to_silent = format!("http://{silent}/");
        assert_eq!(said_of(&gate, &to_silent).await.as_deref(), Some("timed_out"), "nobody else is known");
        assert_eq!(said_of(&gate, &format!("http://{}/", server.address)).await, None);
        assert_eq!(said_of(&gate, &to_silent).await.as_deref(), Some("timed_out"), "the other one answers");
        // Now one that answered is silent too, and the only one that is known.
        let (_second, _queued, also_silent) = silent_port("127.0.0.5:0").await;
        let other = guard(&["127.0.0.0/8"], &[]);
        let (_, gate) = super::super::tests::gate(&other, None);
        gate.core().dialler().uplink.heard("127.0.0.5", also_silent);
        assert_eq!(said_of(&gate, &to_silent).await.as_deref(), Some("no_network"));
    }

    #[tokio::test]
    async fn a_host_that_was_silent_while_the_network_was_away_is_asked_once_more_when_it_is_back() {
        let server = Server::at("127.0.0.2:0", hello).await;
        let (listener, queued, silent) = silent_port("127.0.0.6:0").await;
        let egress = guard(&["127.0.0.0/8"], &[]);
        let (_, gate) = gate(&egress, None);
        assert_eq!(said_of(&gate, &format!("http://{}/", server.address)).await, None);
        let comes_back = async {
            // After the last packet of the first try, and before that is given up.
            tokio::time::sleep(Duration::from_millis(8_500)).await;
            drop(queued);
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = [0; 1 << 10];
                if stream.read(&mut head).await.is_ok_and(|read| read > 0) {
                    stream.write_all(&hello("")).await.unwrap();
                }
            }
        };
        let url = format!("http://{silent}/");
        let said = tokio::select! {
            said = said_of(&gate, &url) => said,
            () = comes_back => panic!("the listener ended"),
        };
        assert_eq!(said, None, "it has answered");
    }

    #[tokio::test]
    async fn one_that_answered_before_and_is_silent_now_makes_the_network_doubtful() {
        let (_listener, _queued, silent) = silent_port("127.0.0.4:0").await;
        let uplink = Uplink::default();
        assert_eq!(uplink.connects("gone").await, None);
        uplink.heard("known", silent);
        assert_eq!(uplink.connects("known").await, None, "it is the one that is silent");
        assert_eq!(uplink.connects("gone").await, Some(false));
        uplink.heard("well", "127.0.0.1:9".parse().unwrap());
        assert_eq!(uplink.connects("gone").await, Some(false), "which is believed for a while");
        tokio::time::sleep(BELIEVED).await;
        assert_eq!(uplink.connects("gone").await, Some(true), "nobody listens there, and that is an answer");
    }

    #[test]
    fn what_is_said_of_the_network_is_no_fault_of_a_host() {
        let failure = Reason::NoNetwork.failure();
        assert_eq!(failure.class.found_the_host(), None);
        assert!(failure.class.is_transient());
    }
}
