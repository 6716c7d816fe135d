//! Which addresses are the public internet: every other is one that pages are kept from.
//!
//! The blocks are those of the IANA registries of special-purpose addresses
//! (<https://www.iana.org/assignments/iana-ipv4-special-registry>,
//! <https://www.iana.org/assignments/iana-ipv6-special-registry>) that are not globally reachable, and what else no site
//! is at. Addresses that carry an IPv4 address in them are refused whatever it is.

use std::net::IpAddr;
use std::sync::LazyLock;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// IPv4 blocks that are not the public internet.
const SPECIAL_V4: &[&str] = &[
    // This network; the private ones; those of carriers.
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    // Link-local, where clouds have their metadata.
    "169.254.0.0/16",
    "172.16.0.0/12",
    // Protocol assignments.
    "192.0.0.0/24",
    // Documentation.
    "192.0.2.0/24",
    "198.51.100.0/24",
    "203.0.113.0/24",
    // The relays of 6to4, which is over.
    "192.88.99.0/24",
    "192.168.0.0/16",
    // Benchmarks.
    "198.18.0.0/15",
    // Multicast; reserved, the broadcast address included.
    "224.0.0.0/4",
    "240.0.0.0/4",
    // A public address that is Azure's host, with the machine's own metadata.
    "168.63.129.16/32",
];

/// The only IPv6 block that is handed out to sites. Outside it are loopback, link-local, unique local, multicast, mapped
/// and compatible IPv4, NAT64, discard-only and all that is reserved.
const GLOBAL_V6: &str = "2000::/3";

/// Blocks within it that are not the public internet.
const SPECIAL_V6: &[&str] = &[
    // Protocol assignments: Teredo, benchmarks, ORCHID.
    "2001::/23",
    "2001:db8::/32",
    // 6to4.
    "2002::/16",
    // Documentation.
    "3fff::/20",
];

static V4: LazyLock<Vec<Ipv4Net>> = LazyLock::new(|| SPECIAL_V4.iter().map(|block| parsed(block)).collect());
static V6: LazyLock<Vec<Ipv6Net>> = LazyLock::new(|| SPECIAL_V6.iter().map(|block| parsed(block)).collect());
static V6_GLOBAL: LazyLock<Ipv6Net> = LazyLock::new(|| parsed(GLOBAL_V6));

/// Whether an address is one of the public internet.
pub(super) fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !V4.iter().any(|block| block.contains(&address)),
        IpAddr::V6(address) => {
            V6_GLOBAL.contains(&address) && !V6.iter().any(|block| block.contains(&address))
        }
    }
}

/// A block as it is written, or one address.
pub(super) fn block(text: &str) -> Option<IpNet> {
    match text.parse::<IpNet>() {
        Ok(block) => Some(block.trunc()),
        Err(_) => text.parse::<IpAddr>().ok().map(IpNet::from),
    }
}

fn parsed<N: std::str::FromStr>(block: &str) -> N {
    block.parse().unwrap_or_else(|_| unreachable!("`{block}` is a block"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The registries, one block a line: whether it is globally reachable, the block, its name.
    const REGISTRY: &str = include_str!("special_registry.txt");

    fn edges(net: IpNet) -> [IpAddr; 2] {
        let last = match net {
            IpNet::V4(net) => IpAddr::V4(net.broadcast()),
            IpNet::V6(net) => IpAddr::V6(net.broadcast()),
        };
        [net.network(), last]
    }

    #[test]
    fn no_block_of_the_registries_that_is_not_reachable_counts_as_the_internet() {
        let mut blocks = 0;
        for line in REGISTRY.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let (reachable, rest) = line.split_once(' ').unwrap();
            let (network, _) = rest.split_once(' ').unwrap();
            let net = block(network).unwrap();
            if reachable == "no" {
                for address in edges(net) {
                    assert!(!is_global(address), "{address} of {line}");
                }
            }
            blocks += 1;
        }
        assert!(blocks > 50, "{blocks}");
    }

    #[test]
    fn what_is_near_a_special_block_and_not_in_it_is_the_internet() {
        for address in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "93.184.216.34",
            "2001:200::1",
            "2606:2800:220:1::1",
            "2a00:1450::1",
            "2001:4860:4860::8888",
        ] {
            assert!(is_global(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn every_form_that_carries_an_ipv4_address_is_refused() {
        for address in [
            "::ffff:127.0.0.1",
            "::ffff:93.184.216.34",
            "::127.0.0.1",
            "::",
            "::1",
            "64:ff9b::7f00:1",
            "64:ff9b::5db8:d822",
            "64:ff9b:1::7f00:1",
            "2002:7f00:1::",
            "2001:0:1::7f00:1",
            "fec0::1",
            "fe80::1",
            "fd00:ec2::254",
            "ff02::1",
            "100::1",
            "100:0:0:1::1",
            "5f00::1",
            "4000::1",
            "168.63.129.16",
            "169.254.169.254",
            "100.100.100.200",
            "192.0.0.192",
            "255.255.255.255",
        ] {
            assert!(!is_global(address.parse().unwrap()), "{address}");
        }
    }
}
