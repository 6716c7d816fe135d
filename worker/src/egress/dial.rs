//! Connects to where a request leads: resolves once, judges every address, dials exactly what was judged; straight, or
//! through an execution's own proxy, whose address is judged too.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crawlify_shared::domain::workflow::{Proxy, ProxyKind};
use tokio::net::TcpStream;

use super::chain;
use super::policy::{Destination, Policy, at_port, is_public};
use super::reason::Reason;
use super::resolve::{Names, Unresolved};
use super::this_machine::{has_none_left, is_this_machine};
use super::uplink::Uplink;

/// How long one address may take to answer.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// How long a host may take to answer that is asked once more.
const ONCE_MORE_PATIENCE: Duration = Duration::from_secs(3);
/// So many addresses of one name are tried.
const ADDRESSES_TRIED: usize = 6;

/// Makes connections, as far as the policy goes.
#[derive(Debug)]
pub(super) struct Dialler {
    pub(super) policy: Policy,
    pub(super) names: Names,
    pub(super) uplink: Uplink,
}

/// A connection, and who is at its other end.
#[derive(Debug)]
pub(super) struct Dialled {
    pub(super) stream: TcpStream,
    /// `None`: the server. Otherwise a proxy that is to hand the request on, and what it is told to know us by.
    pub(super) proxy: Option<Option<String>>,
}

impl Dialler {
    /// Connects to a destination. `tunnel`: bytes will go both ways, whatever they are.
    pub(super) async fn connect(
        &self,
        destination: &Destination,
        proxy: Option<&Proxy>,
        tunnel: bool,
    ) -> Result<Dialled, Reason> {
        let addresses = self.judged(destination).await?;
        let Some(proxy) = proxy else {
            let dialled = self.dial(destination, &at_port(&addresses, destination.port)).await;
            return Ok(Dialled { stream: dialled?, proxy: None });
        };
        let before = Destination { host: proxy.host.clone(), port: proxy.port };
        let proxy_addresses = match self.judged(&before).await {
            Err(Reason::NotResolved | Reason::NoNetwork) => return Err(Reason::Proxy),
            judged => judged?,
        };
        // A proxy out in the internet resolves the name for itself, and reaches nothing of ours by that. One that
        // stands among private addresses, or on this machine, could be led to others there by a name that changes: it
        // gets the address that was judged.
        let is_inside = is_inside(&proxy_addresses).map_err(|error| cannot_tell(&error))?;
        let dialled = self.dial(&before, &at_port(&proxy_addresses, before.port)).await;
        let mut stream = match dialled {
            // That is no fault of the proxy's.
            Err(Reason::NoSocket) => return Err(Reason::NoSocket),
            dialled => dialled.map_err(|_| Reason::Proxy)?,
        };
        let target = match addresses.first() {
            Some(address) if is_inside => Destination { host: host(*address), port: destination.port },
            _ => destination.clone(),
        };
        let credentials = proxy.credentials.as_ref();
        match proxy.kind {
            ProxyKind::Http if !tunnel && !is_inside => {
                let authorization = credentials.map(chain::basic);
                return Ok(Dialled { stream, proxy: Some(authorization) });
            }
            ProxyKind::Http => {
                let asked = chain::connect(&mut stream, &target, credentials);
                tokio::time::timeout(CONNECT_PATIENCE, asked).await.ok().flatten().ok_or(Reason::Proxy)?;
            }
            ProxyKind::Socks5 => {
                let asked = chain::socks5(stream, &target, credentials);
                stream = tokio::time::timeout(CONNECT_PATIENCE, asked)
                    .await
                    .ok()
                    .flatten()
                    .ok_or(Reason::Proxy)?;
            }
        }
        Ok(Dialled { stream, proxy: None })
    }

    async fn judged(&self, destination: &Destination) -> Result<Arc<[IpAddr]>, Reason> {
        let addresses = match self.names.addresses(destination).await {
            Ok(addresses) => addresses,
            Err(Unresolved::NoSuchName) => return Err(Reason::NotResolved),
            Err(Unresolved::NotAsked) => return Err(Reason::NoSocket),
            Err(Unresolved::NoAnswer { was_known }) => {
                let others = self.uplink.resolves(&self.names, &destination.host.to_string()).await;
                // It is not its own servers that are wrong, most likely.
                let is_alone = others.is_none() && was_known;
                let away = others == Some(false) || is_alone;
                return Err(if away { Reason::NoNetwork } else { Reason::NotResolved });
            }
        };
        match self.policy.admits(destination, &addresses, is_this_machine) {
            Ok(true) => Ok(addresses),
            Ok(false) => Err(Reason::NotAllowed),
            Err(error) => Err(cannot_tell(&error)),
        }
    }

    /// The first of the addresses that answers, or what came of the last one. A host that is silent while others answer is
    /// asked once more.
    async fn dial(&self, destination: &Destination, addresses: &[SocketAddr]) -> Result<TcpStream, Reason> {
        let host = destination.host.to_string();
        let mut reason = Reason::Unreachable;
        for address in addresses.iter().take(ADDRESSES_TRIED) {
            reason = match tokio::time::timeout(CONNECT_PATIENCE, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    // What a browser writes is whole messages; waiting for more only makes them late.
                    let _ = stream.set_nodelay(true);
                    self.uplink.heard(&host, *address);
                    return Ok(stream);
                }
                Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => {
                    self.uplink.heard(&host, *address);
                    Reason::Refused
                }
                Ok(Err(error)) if has_none_left(&error) => return Err(Reason::NoSocket),
                Ok(Err(error)) if error.kind() != ErrorKind::TimedOut => Reason::Unreachable,
                Ok(Err(_)) | Err(_) => Reason::TimedOut,
            };
        }
        let is_silent = matches!(reason, Reason::TimedOut | Reason::Unreachable);
        let Some(first) = addresses.first().filter(|_| is_silent) else { return Err(reason) };
        match self.uplink.connects(&host, first.ip()).await {
            Some(false) => Err(Reason::NoNetwork),
            // It may be there since a moment ago, and have been away while this host was asked.
            Some(true) => self.dial_once_more(&host, *first).await.ok_or(reason),
            None => Err(reason),
        }
    }

    async fn dial_once_more(&self, host: &str, address: SocketAddr) -> Option<TcpStream> {
        let asked = tokio::time::timeout(ONCE_MORE_PATIENCE, TcpStream::connect(address)).await;
        let stream = asked.ok()?.ok()?;
        let _ = stream.set_nodelay(true);
        self.uplink.heard(host, address);
        Some(stream)
    }
}

/// Whether one of these addresses is not in the internet, or this machine's own: from there more can be reached than from outside.
fn is_inside(addresses: &[IpAddr]) -> io::Result<bool> {
    for &address in addresses {
        if !is_public(address, is_this_machine)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// No site and no proxy is at fault where that is so.
fn cannot_tell(error: &io::Error) -> Reason {
    tracing::debug!(%error, "it cannot be told whether an address is this machine's own");
    Reason::NoSocket
}

fn host(address: IpAddr) -> url::Host<String> {
    match address {
        IpAddr::V4(address) => url::Host::Ipv4(address),
        IpAddr::V6(address) => url::Host::Ipv6(address),
    }
}
