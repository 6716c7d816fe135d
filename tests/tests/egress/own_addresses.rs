//! Which public addresses are the worker's own machine's, where the kernel lets one listen at any.

use std::net::{Ipv4Addr, UdpSocket};

use crawlify_worker::egress::{Destination, pinned};
use harness::own_network::OwnNetwork;

const OURS: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 99);
const OF_THE_INTERNET: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 34);

/// What is not public must be pinned to be reached.
fn is_public(address: Ipv4Addr) -> bool {
    let destination = Destination::of(&format!("http://{address}/").parse().unwrap()).unwrap();
    pinned(destination, vec![address.into()]).is_none()
}

#[test]
fn where_one_can_listen_at_any_address_only_the_machines_own_are_its_own() {
    let name = "egress::own_addresses::where_one_can_listen_at_any_address_only_the_machines_own_are_its_own";
    let Some(network) = OwnNetwork::enter(name, &[OURS]) else { return };
    assert!(is_public(OF_THE_INTERNET) && !is_public(OURS));
    network.let_any_address_be_listened_at();
    UdpSocket::bind((OF_THE_INTERNET, 0)).expect("one can listen there now");
    assert!(is_public(OF_THE_INTERNET) && !is_public(OURS));
}
