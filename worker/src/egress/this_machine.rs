//! What this machine has: addresses of its own; and descriptors, ports and memory, or none of them left. Asks the kernel, and
//! nobody else.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv6Addr, UdpSocket};

use rustix::io::Errno;
use rustix::net::sockopt::set_ip_multicast_if;

/// The IPv6 addresses of this machine, each at the beginning of a line, in 32 hexadecimal digits.
const IPV6_ADDRESSES: &str = "/proc/net/if_inet6";
/// Whether one can listen at addresses of others: `1`, or nothing of the kind.
const IPV6_NONLOCAL_BIND: &str = "/proc/sys/net/ipv6/ip_nonlocal_bind";

/// Whether an address is this machine's own: one can listen there. Sends nothing. One of a kind that this machine does not
/// have is nobody's here.
///
/// # Errors
/// It cannot be told, most likely for want of descriptors.
pub(super) fn is_this_machine(address: IpAddr) -> io::Result<bool> {
    let address = address.to_canonical();
    let socket = match UdpSocket::bind((address, 0)) {
        Err(error) if is_of_nobody_here(&error) => return Ok(false),
        bound => bound?,
    };
    // Where `ip_nonlocal_bind` is set, one can listen at every address, so that this alone says nothing.
    match address {
        // Nor is multicast sent from an address that is not the machine's own, whatever is set.
        IpAddr::V4(address) => match set_ip_multicast_if(&socket, &address) {
            Ok(()) => Ok(true),
            Err(Errno::ADDRNOTAVAIL) => Ok(false),
            Err(errno) => Err(errno.into()),
        },
        IpAddr::V6(address) if address.is_unspecified() => Ok(true),
        // Whole networks may be its own by a route, which are in no list. So the list is asked only where it must be.
        IpAddr::V6(address) => match fs::read_to_string(IPV6_NONLOCAL_BIND) {
            Ok(setting) if setting.starts_with('1') => {
                Ok(lists(&fs::read_to_string(IPV6_ADDRESSES)?, address))
            }
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(true),
        },
    }
}

fn is_of_nobody_here(error: &io::Error) -> bool {
    error.kind() == ErrorKind::AddrNotAvailable || Errno::from_io_error(error) == Some(Errno::AFNOSUPPORT)
}

fn lists(addresses: &str, wanted: Ipv6Addr) -> bool {
    let wanted = format!("{:032x} ", wanted.to_bits());
    addresses.lines().any(|line| line.starts_with(&wanted))
}

/// Whether something failed because this process or machine has no descriptor, no port or no memory left for it.
pub(super) fn has_none_left(error: &io::Error) -> bool {
    let wants = [Errno::MFILE, Errno::NFILE, Errno::ADDRNOTAVAIL, Errno::NOBUFS, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|errno| wants.contains(&errno))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::Ipv4Addr;
    use std::process::Command;

    use crawlify_shared::domain::workflow::{Proxy, ProxyKind};
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    use crate::egress::tests::gate;
    use crate::egress::{Destination, Egress, EgressOptions, Reason};

    use super::*;

    /// Says that a process has its descriptors to itself.
    const WITHIN: &str = "CRAWLIFY_TEST_OWN_DESCRIPTORS";
    /// What such a process makes do with.
    const DESCRIPTORS: u64 = 64;

    #[test]
    fn the_machines_own_addresses_are_told_from_others() {
        for (address, expected) in [
            ("127.0.0.1", true),
            ("127.0.0.2", true),
            ("::ffff:127.0.0.1", true),
            ("0.0.0.0", true),
            ("93.184.216.34", false),
            ("::ffff:93.184.216.34", false),
            ("2606:2800:220:1::1", false),
        ] {
            assert_eq!(is_this_machine(address.parse().unwrap()).unwrap(), expected, "{address}");
        }
    }

    #[test]
    fn the_kernels_list_of_addresses_is_read_as_it_is_written() {
        let listed = "26062800022000010000000000000001 02 40 00 80     eth0\n\
                      00000000000000000000000000000001 01 80 10 80       lo\n";
        for (address, expected) in
            [("2606:2800:220:1::1", true), ("::1", true), ("2606:2800:220:1::2", false), ("::", false)]
        {
            assert_eq!(lists(listed, address.parse().unwrap()), expected, "{address}");
        }
        assert!(!lists("", "::1".parse().unwrap()));
    }

    #[tokio::test]
    async fn without_a_descriptor_no_site_and_no_proxy_is_at_fault() {
        let name = "egress::this_machine::tests::without_a_descriptor_no_site_and_no_proxy_is_at_fault";
        if std::env::var_os(WITHIN).is_none() {
            let mut again = Command::new(std::env::current_exe().unwrap());
            let ended = again.args([name, "--exact", "--nocapture"]).env(WITHIN, "1").output().unwrap();
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let (stdout, stderr) = (text(&ended.stdout), text(&ended.stderr));
            assert!(ended.status.success() && stdout.contains("1 passed"), "{stdout}\n{stderr}");
            return;
        }
        let egress = Egress::start(EgressOptions::allowing(&["10.0.0.0/8"]).unwrap()).unwrap();
        let (_, gate) = gate(&egress, None);
        let said_of = async |authority: &str, proxy: Option<&Proxy>| {
            let destination = Destination::parse(authority, None).unwrap();
            gate.core().dialler().connect(&destination, proxy, false).await.map(|_| ())
        };
        let host = url::Host::Ipv4(Ipv4Addr::new(10, 0, 0, 2));
        let proxy = Proxy { kind: ProxyKind::Http, host, port: 80, credentials: None };
        let limits = Rlimit { current: Some(DESCRIPTORS), ..getrlimit(Resource::Nofile) };
        setrlimit(Resource::Nofile, limits).unwrap();
        let held: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
        let said = [
            said_of("93.184.216.34:80", None).await,
            said_of("localhost:80", None).await,
            said_of("10.0.0.1:80", Some(&proxy)).await,
        ];
        drop(held);
        assert_eq!(said, [Err::<(), _>(Reason::NoSocket); 3]);
        assert_eq!(said_of("localhost:80", None).await, Err(Reason::NotAllowed), "it is looked up anew");
    }
}
