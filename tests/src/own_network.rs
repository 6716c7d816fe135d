//! A network of a test's own, which it can take away: nothing but a loopback interface, with addresses that stand for hosts out in
//! the world. To make one takes root, or `sudo` that asks for no password.

use std::io::Write;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use crate::privileged::{pass_within, privileged};

/// Says that a process is within.
const WITHIN: &str = "CRAWLIFY_TEST_OWN_NETWORK";

/// The interface into which packets vanish.
const CABLE: &str = "cable";
/// The one for packets to [`OwnNetwork::FAR`].
const FAR_CABLE: &str = "far";

/// Its place in the kernel's table of interfaces, after the name.
const PACKETS_SENT: usize = 9;

/// The network that this process lives in.
#[derive(Debug)]
pub struct OwnNetwork {
    hosts: Vec<Ipv4Addr>,
}

impl OwnNetwork {
    /// Addresses of nobody's (TEST-NET-3), whose packets are counted by themselves as well.
    pub const FAR: &str = "203.0.113.0/24";

    /// Runs the test of this name, which calls this, once more within a network with these hosts; it gets the network there.
    /// Answers `None` outside, when the test has passed within.
    ///
    /// # Panics
    /// It did not pass, or there can be no such network.
    pub fn enter(test: &str, hosts: &[Ipv4Addr]) -> Option<Self> {
        if std::env::var_os(WITHIN).is_some() {
            let network = Self { hosts: hosts.to_vec() };
            ip(&["link", "set", "lo", "up"]);
            network.give_back();
            return Some(network);
        }
        pass_within(test, &["--net"], &[&format!("{WITHIN}=1")]);
        None
    }

    /// From now on there is no way to its hosts.
    ///
    /// # Panics
    /// It was away already.
    pub fn take_away(&self) {
        self.change("del");
    }

    /// There is one again.
    ///
    /// # Panics
    /// It was not away.
    pub fn give_back(&self) {
        self.change("add");
    }

    /// From now on whatever is sent to its hosts vanishes without a word: nobody answers, and nobody says that there is no way.
    ///
    /// # Panics
    /// It was away already.
    pub fn fall_silent(&self) {
        self.lay_cable(CABLE);
        for host in &self.hosts {
            ip(&["route", "add", &format!("{host}/32"), "dev", CABLE]);
        }
        self.take_away();
    }

    /// From now on whatever is sent to anybody else than its hosts, and to all neighbours at once, leaves by a cable, and comes
    /// nowhere.
    ///
    /// # Panics
    /// It does already.
    pub fn lead_out(&self) {
        self.lay_cable(CABLE);
        ip(&["route", "add", "default", "dev", CABLE]);
        self.lay_cable(FAR_CABLE);
        ip(&["route", "add", Self::FAR, "dev", FAR_CABLE]);
    }

    /// Packets that left so far, of whatever kind.
    ///
    /// # Panics
    /// Nothing leads out.
    pub fn packets_sent(&self) -> u64 {
        packets_sent_by(CABLE) + packets_sent_by(FAR_CABLE)
    }

    /// Those of them that left by the cable for [`OwnNetwork::FAR`].
    ///
    /// # Panics
    /// Nothing leads out.
    pub fn packets_sent_far(&self) -> u64 {
        packets_sent_by(FAR_CABLE)
    }

    /// What goes into it comes out in front of nobody. It asks for no hardware addresses, as that is answered for.
    fn lay_cable(&self, cable: &str) {
        let end = &format!("{cable}-end");
        ip(&["link", "add", cable, "type", "veth", "peer", "name", end]);
        // IPv6 would look for neighbours by itself.
        root(&format!(
            "for end in {cable} {end}; do echo 1 > /proc/sys/net/ipv6/conf/$end/disable_ipv6; done"
        ));
        ip(&["link", "set", cable, "arp", "off", "up"]);
        ip(&["link", "set", end, "up"]);
        ip(&["address", "add", "10.255.255.1/32", "dev", cable]);
    }

    /// Its hosts answer again.
    ///
    /// # Panics
    /// They were not silent.
    pub fn speak_again(&self) {
        self.give_back();
        ip(&["link", "del", CABLE]);
    }

    /// An address comes and goes that nobody uses, and every program here is told.
    ///
    /// # Panics
    /// It is there already.
    pub fn gain_and_lose_an_address(&self) {
        ip(&["address", "add", "10.255.255.2/32", "dev", "lo"]);
        ip(&["address", "del", "10.255.255.2/32", "dev", "lo"]);
    }

    /// From now on programs within can listen at addresses that are nobody's there.
    ///
    /// # Panics
    /// The kernel does not let that be set.
    pub fn let_any_address_be_listened_at(&self) {
        root("echo 1 > /proc/sys/net/ipv4/ip_nonlocal_bind");
    }

    /// As good as at once: whoever looks in between finds one host there and another one gone, and takes that for no outage of
    /// the network.
    fn change(&self, what: &str) {
        let changes: String =
            self.hosts.iter().map(|host| format!("address {what} {host}/32 dev lo\n")).collect();
        let mut ip = privileged("ip")
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("ip is a program");
        let mut input = ip.stdin.take().expect("it is piped");
        input.write_all(changes.as_bytes()).expect("it reads them");
        drop(input);
        let ended = ip.wait_with_output().expect("it ends");
        assert!(ended.status.success(), "{changes}: {}", String::from_utf8_lossy(&ended.stderr));
    }
}

/// As root, a line of a shell.
fn root(line: &str) {
    let ended = privileged("sh").args(["-c", line]).output().expect("sh is a program");
    assert!(ended.status.success(), "{line}: {}", String::from_utf8_lossy(&ended.stderr));
}

fn packets_sent_by(cable: &str) -> u64 {
    let table = std::fs::read_to_string("/proc/self/net/dev").expect("Linux has it");
    let of_cable = table.lines().find_map(|line| line.trim_start().strip_prefix(&format!("{cable}:")));
    let numbers = of_cable.expect("the cable is there");
    numbers
        .split_whitespace()
        .nth(PACKETS_SENT)
        .and_then(|number| number.parse().ok())
        .expect("they are numbers")
}

fn ip(arguments: &[&str]) {
    let mut command: Command = privileged("ip");
    let ended = command.args(arguments).output().expect("ip is a program");
    assert!(ended.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&ended.stderr));
}
