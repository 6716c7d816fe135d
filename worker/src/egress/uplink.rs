//! Whether the network is there at all. A host that gives no sign of life may be gone, or this worker's own network may: the
//! hosts that answered lately are asked, of sites those in the internet. Where they are silent too, nothing is said of any host.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex as StdMutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::resolve::Names;
use super::special::is_global;

/// Hosts of one scope that are remembered; the one that answered longest ago is forgotten first.
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
    connects: Verdicts,
    resolves: Verdicts,
}

/// The last ones, by the scope of the hosts that were asked.
type Verdicts = [Mutex<Option<Verdict>>; 3];

/// How far away an address is. A host that answers says nothing of the network beyond it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    /// On this machine: that takes no network.
    Loopback,
    /// Nearby, or wherever else is not the internet.
    Private,
    /// In the internet.
    Global,
}

/// A host that answered.
#[derive(Clone, Debug)]
struct Heard {
    host: String,
    address: SocketAddr,
    scope: Scope,
    at: Instant,
}

/// What came of asking.
#[derive(Clone, Copy, Debug)]
struct Verdict {
    is_there: bool,
    at: Instant,
}

impl Scope {
    fn of(address: IpAddr) -> Self {
        let address = address.to_canonical();
        // Whoever connects to the unspecified address comes to this machine.
        if address.is_loopback() || address.is_unspecified() {
            Self::Loopback
        } else if is_global(address) {
            Self::Global
        } else {
            Self::Private
        }
    }
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
        let scope = Scope::of(address.ip());
        let mut heard = self.lock();
        heard.retain(|other| other.host != host);
        if heard.iter().filter(|other| other.scope == scope).count() >= REMEMBERED
            && let Some(oldest) = heard.iter().position(|other| other.scope == scope)
        {
            heard.remove(oldest);
        }
        heard.push_back(Heard { host: host.to_owned(), address, scope, at: Instant::now() });
    }

    /// Whether connections to other hosts come about, where one to this host at this address does not; `None` where no other
    /// is known.
    pub(super) async fn connects(&self, but: &str, address: IpAddr) -> Option<bool> {
        let (scope, others) = self.others(but, Scope::of(address), |_| true)?;
        let asked = others.into_iter().map(|other| async move {
            let connected = tokio::time::timeout(PATIENCE, TcpStream::connect(other.address)).await;
            connected.is_ok_and(|made| {
                made.is_ok() || made.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
            })
        });
        Some(verdict(&self.connects[scope as usize], any(asked)).await)
    }

    /// Whether anybody answers questions for the names of other hosts; `None` where no other is known.
    pub(super) async fn resolves(&self, names: &Names, but: &str) -> Option<bool> {
        // Names of private hosts may be answered for nearby. A host that was never reached is taken for one in the internet.
        let scope = self.lock().iter().find(|heard| heard.host == but).map(|heard| heard.scope);
        let (scope, others) = self.others(but, scope.unwrap_or(Scope::Global), Heard::is_named)?;
        let asked = others.into_iter().map(|other| async move {
            tokio::time::timeout(PATIENCE, names.is_answered(&other.host)).await.unwrap_or(false)
        });
        Some(verdict(&self.resolves[scope as usize], any(asked)).await)
    }

    /// Whom to ask where a host of this scope is silent, and their scope: the same. Where no such host is known it is the
    /// farthest that is, as silence there says something still.
    fn others(&self, but: &str, scope: Scope, may_tell: fn(&Heard) -> bool) -> Option<(Scope, Vec<Heard>)> {
        let mut others: Vec<_> = self
            .lock()
            .iter()
            .filter(|heard| heard.host != but && heard.at.elapsed() < HEARD_LATELY && may_tell(heard))
            .cloned()
            .collect();
        let choices = [scope, Scope::Global, Scope::Private, Scope::Loopback];
        let scope = choices.into_iter().find(|scope| others.iter().any(|other| other.scope == *scope))?;
        others.retain(|other| other.scope == scope);
        Some((scope, others))
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

    /// Out in the internet; no test connects to it.
    const SITE: &str = "93.184.216.34:80";
    /// Nobody listens there, so that connections are refused.
    const NEARBY: &str = "127.0.0.1:9";

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
        let (uplink, at) = (Uplink::default(), silent.ip());
        assert_eq!(uplink.connects("gone", at).await, None);
        uplink.heard("known", silent);
        assert_eq!(uplink.connects("known", at).await, None, "it is the one that is silent");
        assert_eq!(uplink.connects("gone", at).await, Some(false));
        uplink.heard("well", NEARBY.parse().unwrap());
        assert_eq!(uplink.connects("gone", at).await, Some(false), "which is believed for a while");
        tokio::time::sleep(BELIEVED).await;
        assert_eq!(
            uplink.connects("gone", at).await,
            Some(true),
            "nobody listens there, and that is an answer"
        );
    }

    #[tokio::test]
    async fn a_host_that_answers_nearby_says_nothing_of_the_internet() {
        let uplink = Uplink::default();
        let [site, nearby]: [SocketAddr; 2] = [SITE, NEARBY].map(|address| address.parse().unwrap());
        uplink.heard("nearby", nearby);
        assert_eq!(uplink.connects("gone", site.ip()).await, Some(true), "there is nobody else to ask");
        uplink.heard("site", site);
        // It was silent a moment ago: nothing is sent to the internet here.
        let silent = Verdict { is_there: false, at: Instant::now() + HEARD_LATELY };
        *uplink.connects[Scope::Global as usize].lock().await = Some(silent);
        assert_eq!(uplink.connects("gone", site.ip()).await, Some(false));
        assert_eq!(uplink.connects("gone", nearby.ip()).await, Some(true), "that was said of the internet");
    }

    #[tokio::test]
    async fn a_name_that_is_answered_nearby_says_nothing_of_those_in_the_internet() {
        let egress = guard(&[], &[("nearby.test", &[&["10.0.0.5"]]), ("site.test", &[&["silence"]])]);
        let (_, gate) = gate(&egress, None);
        let (uplink, names) = (&gate.core().dialler().uplink, &gate.core().dialler().names);
        uplink.heard("nearby.test", "10.0.0.5:80".parse().unwrap());
        assert_eq!(uplink.resolves(names, "gone.test").await, Some(true), "there is nobody else to ask");
        uplink.heard("site.test", SITE.parse().unwrap());
        assert_eq!(uplink.resolves(names, "gone.test").await, Some(false));
        uplink.heard("also-nearby.test", "10.0.0.6:80".parse().unwrap());
        assert_eq!(uplink.resolves(names, "also-nearby.test").await, Some(true), "it is none of those");
    }

    /// The hosts that are asked where one at this address is silent, of those that were heard.
    fn asked(uplink: &Uplink, address: &str) -> Vec<String> {
        let others = uplink.others("gone", Scope::of(address.parse().unwrap()), |_| true);
        others.map(|(_, others)| others.into_iter().map(|other| other.host).collect()).unwrap_or_default()
    }

    #[test]
    fn hosts_as_far_away_are_asked_or_else_the_farthest() {
        let (loopback, private, global) = ("127.0.0.1", "10.0.0.5", "93.184.216.34");
        let all: &[&str] = &[global, private, loopback];
        let others: [(&[&str], &str, &str); 8] = [
            (all, "93.184.216.35", global),
            (all, "10.0.0.6", private),
            (all, "::ffff:10.0.0.6", private),
            (all, "fd00::6", private),
            (all, "127.0.0.2", loopback),
            (&[private, loopback], "93.184.216.35", private),
            (&[global, loopback], "10.0.0.6", global),
            (&[loopback], "93.184.216.35", loopback),
        ];
        for (known, silent, expected) in others {
            let uplink = Uplink::default();
            for address in known {
                uplink.heard(address, SocketAddr::new(address.parse().unwrap(), 80));
            }
            assert_eq!(asked(&uplink, silent), [expected], "{silent}, where {known:?} are known");
        }
    }

    #[test]
    fn however_many_hosts_nearby_answer_those_in_the_internet_are_remembered() {
        let uplink = Uplink::default();
        uplink.heard("site", SITE.parse().unwrap());
        for number in 0..=REMEMBERED {
            uplink.heard(&number.to_string(), "10.0.0.5:80".parse().unwrap());
        }
        assert_eq!(asked(&uplink, "93.184.216.35"), ["site"]);
        let nearby = asked(&uplink, "10.0.0.6");
        assert_eq!((nearby.len(), nearby[0].as_str()), (REMEMBERED, "1"), "the first is forgotten");
    }

    #[test]
    fn what_is_said_of_the_network_is_no_fault_of_a_host() {
        let failure = Reason::NoNetwork.failure();
        assert_eq!(failure.class.found_the_host(), None);
        assert!(failure.class.is_transient());
    }
}
