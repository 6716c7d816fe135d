//! A name server of a test's own: whoever resolves names there asks it and nobody else, over UDP, and it notes each
//! question. It knows no name but aliases. To put it there takes root, or `sudo` that asks for no password; nothing
//! outside of the test sees it.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex, PoisonError};

use crawlify_shared::child::is_root;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

use crate::own_network::OwnNetwork;
use crate::privileged::{pass_within, privileged};

/// Where it is: outside of loopback, as programs leave out kinds of addresses of which they see none but loopback's.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 53);
const PORT: u16 = 53;
const RESOLV_CONF: &str = "nameserver 192.0.2.53\noptions timeout:1 attempts:1\n# A test's own.\n";
/// Nothing but files and name servers is asked.
const NSSWITCH_CONF: &str = "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n";
/// Runs a program that sees the two files of a folder in the place of the machine's.
const WITH_OWN_FILES: &str = r#"mount --bind "$1/resolv.conf" /etc/resolv.conf || exit
if [ -e /etc/nsswitch.conf ]; then mount --bind "$1/nsswitch.conf" /etc/nsswitch.conf || exit; fi
shift
exec "$@""#;
/// Lets others than root listen there, in this network alone.
const OPEN_PORT: &str = "echo 53 > /proc/sys/net/ipv4/ip_unprivileged_port_start";

/// RFC 1035, sections 3.2.2, 3.2.4, 4.1.1 and 4.1.4.
const HEAD_BYTES: usize = 12;
const A: u16 = 1;
const CNAME: u16 = 5;
const INTERNET: u16 = 1;
const RESPONSE: u8 = 0x81;
const RECURSES: u8 = 0x80;
const NO_SUCH_NAME: u8 = 3;
const NAME_OF_THE_QUESTION: [u8; 2] = [0xc0, 0x0c];

/// A name that stands for another one.
#[derive(Clone, Copy, Debug)]
pub struct Alias {
    /// The name, in lower case.
    pub name: &'static str,
    /// The name that it stands for.
    pub target: &'static str,
    /// Where that one is.
    pub address: Ipv4Addr,
}

/// The running server. Dropping it ends it.
#[derive(Debug)]
pub struct NameServer {
    /// Written by each question, read by tests.
    asked: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl NameServer {
    /// Runs the test of this name, which calls this, once more where all names are asked for at our address; it gets
    /// the network there. Answers `None` outside, when the test has passed within.
    ///
    /// # Panics
    /// It did not pass, or there can be no such place.
    pub fn enter(test: &str) -> Option<OwnNetwork> {
        if fs::read_to_string("/etc/resolv.conf").is_ok_and(|text| text == RESOLV_CONF) {
            return OwnNetwork::enter(test, &[ADDRESS]);
        }
        let folder = tempfile::tempdir().expect("there is room for two small files");
        for (name, text) in [("resolv.conf", RESOLV_CONF), ("nsswitch.conf", NSSWITCH_CONF)] {
            let file = folder.path().join(name);
            fs::write(&file, text).expect("the folder is ours");
            // The browser may be another account's.
            fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("the file is ours");
        }
        let folder = folder.path().to_str().expect("names of temporary folders are UTF-8");
        pass_within(test, &["--mount", "sh", "-c", WITH_OWN_FILES, "sh", folder], &[]);
        None
    }

    /// Begins to answer, in the network that [`NameServer::enter`] gave.
    ///
    /// # Panics
    /// It cannot listen.
    pub async fn start(aliases: &'static [Alias]) -> Self {
        if !is_root() {
            let ended = privileged("sh").args(["-c", OPEN_PORT]).output().expect("sh is a program");
            assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        }
        let socket = UdpSocket::bind((ADDRESS, PORT)).await.expect("nobody else is in this network");
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let of_server = Arc::clone(&asked);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut packet = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut packet).await {
                let Some(question) = Question::read(&packet[..length]) else { continue };
                let answer = question.answer(aliases);
                of_server.lock().unwrap_or_else(PoisonError::into_inner).push(question.name);
                let _ = socket.send_to(&answer, from).await;
            }
        });
        Self { asked, _tasks: tasks }
    }

    /// Every name that it was asked for so far, in lower case, as often as it was.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The one question of a packet.
struct Question {
    name: String,
    kind: u16,
    /// The packet as far as its end.
    packet: Vec<u8>,
}

impl Question {
    fn read(packet: &[u8]) -> Option<Self> {
        let mut labels: Vec<String> = Vec::new();
        let mut at = HEAD_BYTES;
        loop {
            let length = usize::from(*packet.get(at)?);
            at += 1;
            if length == 0 {
                break;
            }
            let label = packet.get(at..at + length)?;
            labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
            at += length;
        }
        let kind = u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]);
        // Its class comes last.
        let packet = packet.get(..at + 4)?.to_vec();
        Some(Self { name: labels.join("."), kind, packet })
    }

    fn answer(&self, aliases: &[Alias]) -> Vec<u8> {
        let alias = aliases.iter().find(|alias| alias.name == self.name);
        let mut records: Vec<u8> = Vec::new();
        let mut count: u8 = 0;
        if let Some(alias) = alias {
            let target = encoded(alias.target);
            records.extend(record(&NAME_OF_THE_QUESTION, CNAME, &target));
            count += 1;
            if self.kind == A {
                records.extend(record(&target, A, &alias.address.octets()));
                count += 1;
            }
        }
        let code = if alias.is_some() { 0 } else { NO_SUCH_NAME };
        let mut answer = self.packet.clone();
        // What identifies the question stays. It is one; then come the records, and nothing else.
        answer[2..HEAD_BYTES].copy_from_slice(&[RESPONSE, RECURSES | code, 0, 1, 0, count, 0, 0, 0, 0]);
        answer.extend(records);
        answer
    }
}

fn encoded(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).expect("labels are short"));
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

/// A record that is valid for no time at all.
fn record(name: &[u8], kind: u16, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).expect("names and addresses are short");
    let mut bytes = name.to_vec();
    bytes.extend(kind.to_be_bytes());
    bytes.extend(INTERNET.to_be_bytes());
    bytes.extend(0_u32.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes.extend(data);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALIAS: Alias = Alias { name: "a.test", target: "b.test", address: Ipv4Addr::new(127, 0, 0, 2) };

    /// With something after the question, as resolvers send it.
    fn asked_for(name: &str, kind: u16) -> Vec<u8> {
        let mut packet = vec![7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
        packet.extend(encoded(name));
        packet.extend(kind.to_be_bytes());
        packet.extend(INTERNET.to_be_bytes());
        packet.extend([0, 0, 41, 2, 0, 0, 0, 0, 0, 0, 0]);
        packet
    }

    #[test]
    fn a_question_is_read_and_answered_as_rfc_1035_has_it() {
        let question = Question::read(&asked_for("A.test", A)).unwrap();
        assert_eq!((question.name.as_str(), question.kind), ("a.test", A));
        let none = question.answer(&[]);
        assert_eq!(none[..HEAD_BYTES], [7, 9, 0x81, 0x83, 0, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(none.len(), HEAD_BYTES + encoded("a.test").len() + 4);
        let both = question.answer(&[ALIAS]);
        assert_eq!(both[..HEAD_BYTES], [7, 9, 0x81, 0x80, 0, 1, 0, 2, 0, 0, 0, 0]);
        assert!(both.ends_with(&[0, 0, 0, 0, 0, 4, 127, 0, 0, 2]), "{both:?}");
        let alone = Question::read(&asked_for("a.test", 28)).unwrap().answer(&[ALIAS]);
        assert_eq!(alone[..HEAD_BYTES], [7, 9, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        assert!(alone.ends_with(&encoded("b.test")), "{alone:?}");
        assert!(Question::read(&asked_for("a.test", A)[..15]).is_none());
    }
}
