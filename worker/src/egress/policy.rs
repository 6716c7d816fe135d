//! What may be reached: the public internet, and what the process was started to allow. Nothing that a workflow or a page
//! says adds to it. Resolves nothing and asks nobody.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use ipnet::IpNet;
use url::Host;

use super::ports::may_be_a_sites;
use super::special::{block, is_global};
use super::this_machine::is_this_machine;

/// A host and a port, as a request names them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Destination {
    /// Its name or address, as browsers understand it: lower case, odd forms of addresses undone.
    pub host: Host<String>,
    /// Its port.
    pub port: u16,
}

/// One thing that may be reached although it is not the public internet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// This name at this port, whatever address it has.
    Named(Destination),
    /// This name at this port, so long as it has only these addresses.
    Pinned(Destination, Vec<IpAddr>),
    /// These addresses, at one port or at all, under any name.
    Block(IpNet, Option<u16>),
}

/// Text that allows nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither HOST:PORT nor a block of addresses such as 10.0.0.0/8 or 10.0.0.0/8:443")]
pub struct NotAllowed(String);

/// What may be reached.
#[derive(Clone, Debug, Default)]
pub(super) struct Policy {
    allowed: Vec<Allowed>,
}

impl Destination {
    /// Reads `HOST:PORT`; without a port it is `default_port`. Understands every form of an address that browsers do.
    pub(super) fn parse(authority: &str, default_port: Option<u16>) -> Option<Self> {
        let (host, port) = match authority.rsplit_once(':') {
            // A colon within brackets is none before a port.
            Some((host, port)) if !port.ends_with(']') => (host, Some(port.parse().ok()?)),
            _ => (authority, None),
        };
        let host = Host::parse(host).ok()?;
        Some(Self { host, port: port.or(default_port)? })
    }

    /// Where a URL with a host leads.
    pub fn of(url: &url::Url) -> Option<Self> {
        Some(Self { host: url.host()?.to_owned(), port: url.port_or_known_default()? })
    }

    /// Its name, or its address.
    pub(super) fn host(&self) -> String {
        self.host.to_string()
    }

    /// Its address, where it is one and no name.
    pub fn address(&self) -> Option<IpAddr> {
        match self.host {
            Host::Ipv4(address) => Some(address.into()),
            Host::Ipv6(address) => Some(address.into()),
            Host::Domain(_) => None,
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl FromStr for Allowed {
    type Err = NotAllowed;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let refused = || NotAllowed(text.to_owned());
        if let Some((network, rest)) = text.split_once('/') {
            let (bits, port) = match rest.split_once(':') {
                Some((bits, port)) => (bits, Some(port.parse().map_err(|_| refused())?)),
                None => (rest, None),
            };
            let network = network.trim_start_matches('[').trim_end_matches(']');
            return Ok(Self::Block(block(&format!("{network}/{bits}")).ok_or_else(refused)?, port));
        }
        if let Some(block) = block(text) {
            return Ok(Self::Block(block, None));
        }
        let destination = Destination::parse(text, None).ok_or_else(refused)?;
        Ok(match destination.address() {
            Some(address) => Self::Block(address.into(), Some(destination.port)),
            None => Self::Named(destination),
        })
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(destination) | Self::Pinned(destination, _) => destination.fmt(f),
            Self::Block(block, None) => block.fmt(f),
            Self::Block(block, Some(port)) => write!(f, "{block}:{port}"),
        }
    }
}

impl Policy {
    pub(super) fn new(allowed: Vec<Allowed>) -> Self {
        Self { allowed }
    }

    /// Reads like a policy that lets everything through.
    pub(super) fn everything() -> Self {
        Self::new(["0.0.0.0/0", "::/0"].iter().filter_map(|all| all.parse().ok()).collect())
    }

    /// Judges all the addresses that a destination has; one that may not be reached forbids them all, because which one
    /// is taken is up to whoever owns the name. A public address is no part of the internet where it is this machine's own,
    /// which `is_ours` knows: what listens there may trust who comes from inside. Nor is a port where no site is.
    ///
    /// # Errors
    /// Those of `is_ours`: nothing is judged.
    pub(super) fn admits(
        &self,
        destination: &Destination,
        addresses: &[IpAddr],
        is_ours: impl Fn(IpAddr) -> io::Result<bool>,
    ) -> io::Result<bool> {
        let is_web = may_be_a_sites(destination.port);
        for &address in addresses {
            if self.is_allowed(destination, address) {
                continue;
            }
            if !is_web || !is_public(address, &is_ours)? {
                return Ok(false);
            }
        }
        Ok(!addresses.is_empty())
    }

    fn is_allowed(&self, destination: &Destination, address: IpAddr) -> bool {
        self.allowed.iter().any(|allowed| match allowed {
            Allowed::Named(named) => named == destination,
            Allowed::Pinned(pinned, addresses) => pinned == destination && addresses.contains(&address),
            Allowed::Block(block, port) => {
                port.is_none_or(|port| port == destination.port) && block.contains(&address)
            }
        })
    }
}

/// What of a start URL must be allowed by name, its addresses being these: nothing, where it is the public internet. Where
/// that cannot be told, it is allowed.
pub fn pinned(destination: Destination, addresses: Vec<IpAddr>) -> Option<Allowed> {
    let are_public = addresses.iter().all(|address| is_public(*address, is_this_machine).unwrap_or(false));
    (!are_public).then_some(Allowed::Pinned(destination, addresses))
}

/// Whether an address is one of the internet, and none of this machine's own, which `is_ours` knows.
///
/// # Errors
/// Those of `is_ours`.
pub(super) fn is_public(address: IpAddr, is_ours: impl Fn(IpAddr) -> io::Result<bool>) -> io::Result<bool> {
    Ok(is_global(address) && !is_ours(address)?)
}

/// Puts a port to each address.
pub(super) fn at_port(addresses: &[IpAddr], port: u16) -> Vec<SocketAddr> {
    addresses.iter().map(|address| SocketAddr::new(*address, port)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn destination(text: &str) -> Destination {
        Destination::parse(text, Some(80)).unwrap_or_else(|| panic!("{text}"))
    }

    fn admits(allowed: &[&str], to: &str, addresses: &[&str]) -> bool {
        let policy = Policy::new(allowed.iter().map(|text| text.parse().unwrap()).collect());
        let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        policy.admits(&destination(to), &addresses, |address| Ok(address == OURS)).unwrap()
    }

    /// A public address of this machine.
    const OURS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(93, 184, 216, 99));

    #[test]
    fn the_machines_own_public_addresses_are_not_the_internet() {
        assert!(!admits(&[], "shop.test", &["93.184.216.99"]));
        assert!(!admits(&[], "shop.test", &["93.184.216.34", "93.184.216.99"]));
        assert!(admits(&["93.184.216.99:80"], "93.184.216.99", &["93.184.216.99"]));
    }

    #[test]
    fn where_it_cannot_be_told_whose_an_address_is_only_what_needs_no_telling_is_judged() {
        let policy = Policy::new(vec!["93.184.216.34:443".parse().unwrap()]);
        let judged = |to: &str, address: &str| {
            let addresses = [address.parse().unwrap()];
            policy.admits(&destination(to), &addresses, |_| Err(io::ErrorKind::Other.into())).ok()
        };
        assert_eq!(judged("shop.test:80", "93.184.216.34"), None);
        assert_eq!(judged("shop.test:443", "93.184.216.34"), Some(true));
        assert_eq!(judged("shop.test:25", "93.184.216.34"), Some(false));
        assert_eq!(judged("shop.test:80", "10.0.0.1"), Some(false));
    }

    #[test]
    fn ports_of_other_services_must_be_allowed() {
        const HOST: &str = "93.184.216.34";
        let all: Vec<u16> =
            (0..=u16::MAX).filter(|port| !admits(&[], &format!("{HOST}:{port}"), &[HOST])).collect();
        assert_eq!(all.len(), 83, "82 of the standard, and 0: {all:?}");
        for port in [80, 443, 3000, 8000, 8080, 8443] {
            assert!(!all.contains(&port), "{port}");
        }
        assert!(all.contains(&25) && all.contains(&6000));
        assert!(admits(&["93.184.216.34:25"], "93.184.216.34:25", &[HOST]));
    }

    #[test]
    fn odd_forms_of_an_address_are_that_address() {
        for form in ["0x7f.1", "2130706433", "0177.0.0.1", "127.1", "127.0.0.1", "①②⑦.0.0.1", "0x7F000001"]
        {
            assert_eq!(destination(form).address(), Some(IpAddr::from([127, 0, 0, 1])), "{form}");
        }
        assert_eq!(destination("[::ffff:127.0.0.1]:8080").to_string(), "[::ffff:7f00:1]:8080");
        assert_eq!(destination("LocalHost:9").to_string(), "localhost:9");
        for nonsense in ["", ":80", "a b", "host:99999", "host:", "user@host", "[::1", "1.2.3.256"] {
            assert_eq!(Destination::parse(nonsense, Some(80)), None, "{nonsense}");
        }
    }

    #[test]
    fn one_address_that_may_not_be_reached_forbids_all() {
        assert!(admits(&[], "shop.test", &["93.184.216.34", "2606:2800:220:1::1"]));
        assert!(!admits(&[], "shop.test", &["93.184.216.34", "10.0.0.1"]));
        assert!(!admits(&[], "shop.test", &[]));
        assert!(!admits(&[], "localhost.", &["127.0.0.1"]));
    }

    #[test]
    fn what_is_allowed_is_allowed_exactly() {
        assert!(admits(&["127.0.0.1:8090"], "127.0.0.1:8090", &["127.0.0.1"]));
        assert!(!admits(&["127.0.0.1:8090"], "127.0.0.1:8091", &["127.0.0.1"]));
        assert!(!admits(&["127.0.0.1:8090"], "127.0.0.2:8090", &["127.0.0.2"]));
        assert!(admits(&["10.0.0.0/8"], "shop.test:1234", &["10.2.3.4"]));
        assert!(!admits(&["10.0.0.0/8:443"], "shop.test:1234", &["10.2.3.4"]));
        assert!(admits(&["[fd00::]/8:443"], "shop.test:443", &["fd00::1"]));
        assert!(admits(&["fd00::1"], "shop.test:443", &["fd00::1"]));
        assert!(admits(&["intranet:80"], "intranet", &["192.168.0.1"]));
        assert!(!admits(&["intranet:80"], "other", &["192.168.0.1"]));
        for nonsense in ["intranet", "10.0.0.0/33", "10.0.0.0/8:x", "http://intranet/", ""] {
            assert!(nonsense.parse::<Allowed>().is_err(), "{nonsense}");
        }
    }

    #[test]
    fn a_pinned_name_that_moves_to_another_address_is_refused() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let intranet = destination("intranet");
        let policy = Policy::new(pinned(intranet.clone(), vec![address("10.0.0.5")]).into_iter().collect());
        let admits = |to: &str| policy.admits(&intranet, &[address(to)], |_| Ok(false)).unwrap();
        assert!(admits("10.0.0.5"));
        assert!(!admits("169.254.169.254"));
        assert_eq!(pinned(intranet, vec![address("93.184.216.34")]), None);
    }
}
