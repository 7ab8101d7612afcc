//! From where a membership or an API key may be used (spec 3.7): ranges of addresses, and where the client is.
//!
//! The address is the connection's, or the one that a trusted application names for its user. An application's own
//! address says nothing about its users, so for the access of one that it leaves without address there is none.

use super::entitle::honoured;
use super::principal::Principal;
use super::settings::Setting;
use crate::pg::identity;
use ipnet::{IpNet, Ipv4Net};
use std::cell::OnceCell;
use std::net::IpAddr;

/// Where the client is, and who says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A trusted application; None where what it said is no address.
    Named(Option<IpAddr>),
    /// None on a unix socket, and in processes that have no client.
    Connection(Option<IpAddr>),
}

impl Origin {
    pub fn address(self) -> Option<IpAddr> {
        match self {
            Origin::Named(address) | Origin::Connection(address) => address,
        }
    }
}

pub fn origin(principal: &Principal) -> Origin {
    if matches!(principal, Principal::Application { .. } | Principal::Dba)
        && let Some(named) = honoured(principal, Setting::ClientAddr)
    {
        return Origin::Named(named.parse().ok());
    }
    thread_local! {
        // A connection does not move.
        static ADDRESS: OnceCell<Option<IpAddr>> = const { OnceCell::new() };
    }
    let read = || identity::client_address().and_then(|text| text.parse().ok());
    Origin::Connection(ADDRESS.with(|address| *address.get_or_init(read)))
}

/// The address that decides whether somebody may act from there.
pub fn address_of_user(principal: &Principal) -> Option<IpAddr> {
    match (principal, origin(principal)) {
        (Principal::Application { .. }, Origin::Connection(_)) => None,
        (_, origin) => origin.address(),
    }
}

/// IPv4 written as IPv6 is IPv4 (`::ffff:10.0.0.1`), in ranges as in addresses: the kernel decides which of the two a
/// server sees of one and the same client.
fn canonical(range: IpNet) -> IpNet {
    const MAPPED: u8 = 96;
    match range {
        IpNet::V6(v6) if v6.prefix_len() >= MAPPED => v6
            .addr()
            .to_ipv4_mapped()
            .and_then(|v4| Ipv4Net::new(v4, v6.prefix_len() - MAPPED).ok())
            .map_or(range, IpNet::V4),
        _ => range,
    }
}

/// Whether an address lies in one of the ranges. One that is unknown lies in none, not in 0.0.0.0/0 either.
pub fn admits(ranges: &[IpNet], address: Option<IpAddr>) -> bool {
    address.is_some_and(|address| {
        let address = address.to_canonical();
        ranges.iter().any(|range| range.contains(&address))
    })
}

/// Whether every address of `ranges` lies in one range of `wider`.
pub fn is_within(ranges: &[IpNet], wider: &[IpNet]) -> bool {
    ranges
        .iter()
        .all(|range| wider.iter().any(|w| w.contains(range)))
}

/// The ranges of a cidr[] in PostgreSQL's own text form, `{10.0.0.0/8,::1/128}`; None where one element is none.
pub fn parse(array: &str) -> Option<Vec<IpNet>> {
    // Dimensions that do not begin at 1 stand before the elements.
    let elements = array.rsplit('=').next().unwrap_or_default();
    let elements = elements.trim_matches(['{', '}']);
    if elements.is_empty() {
        return Some(vec![]);
    }
    elements
        .split(',')
        .map(|text| {
            let text = text.trim_matches(['{', '}', '"']);
            let range = text
                .parse::<IpNet>()
                .or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
            range.ok().map(canonical)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(ranges: &str, address: &str) -> bool {
        admits(&parse(ranges).unwrap(), address.parse().ok())
    }

    #[test]
    fn ranges_hold_what_lies_in_them() {
        for (ranges, address, expected) in [
            ("{10.0.0.0/8}", "10.255.255.255", true),
            ("{10.0.0.0/8}", "11.0.0.0", false),
            ("{203.0.113.7/32}", "203.0.113.7", true),
            ("{203.0.113.7/32}", "203.0.113.8", false),
            ("{203.0.113.7}", "203.0.113.7", true),
            ("{10.0.0.0/8,192.168.0.0/16}", "192.168.3.4", true),
            ("{2001:db8::/32}", "2001:db8:1::1", true),
            ("{2001:db8::/32}", "2001:db9::1", false),
            ("{0.0.0.0/0}", "8.8.8.8", true),
            ("{0.0.0.0/0}", "::1", false),
            ("{::/0}", "::1", true),
        ] {
            assert_eq!(admitted(ranges, address), expected, "{ranges} {address}");
        }
    }

    #[test]
    fn ipv4_in_ipv6_is_ipv4() {
        assert!(admitted("{10.0.0.0/8}", "::ffff:10.1.2.3"));
        assert!(!admitted("{10.0.0.0/8}", "::ffff:11.1.2.3"));
        assert!(admitted("{::ffff:10.0.0.0/104}", "10.1.2.3"));
        assert!(admitted("{::ffff:10.0.0.0/104}", "::ffff:10.1.2.3"));
        assert!(!admitted("{::ffff:10.0.0.0/104}", "11.1.2.3"));
        // Every IPv6 address, and so no IPv4 one however it is written.
        assert!(!admitted("{::/0}", "::ffff:10.1.2.3"));
        assert!(!admitted("{10.0.0.0/8}", "::10.1.2.3"));
    }

    #[test]
    fn what_is_no_address_is_nowhere() {
        for address in [
            "",
            "x",
            "10.0.0.1/32",
            "010.0.0.1",
            "10.0.0",
            "10.0.0.1 ",
            "fe80::1%eth0",
        ] {
            assert!(!admitted("{0.0.0.0/0,::/0}", address), "{address:?}");
        }
        assert!(!admits(&[], "10.0.0.1".parse().ok()));
    }

    #[test]
    fn arrays_as_postgresql_writes_them() {
        let count = |text| parse(text).map(|all: Vec<IpNet>| all.len());
        assert_eq!(count("{}"), Some(0));
        assert_eq!(count("[0:1]={10.0.0.0/8,::1/128}"), Some(2));
        assert_eq!(count("{{10.0.0.0/8},{::1/128}}"), Some(2));
        assert_eq!(count("{10.0.0.0/8,NULL}"), None);
    }

    #[test]
    fn a_range_within_another() {
        let within = |a, b| is_within(&parse(a).unwrap(), &parse(b).unwrap());
        assert!(within("{10.1.0.0/16}", "{10.0.0.0/8}"));
        assert!(within("{10.0.0.0/8}", "{::ffff:10.0.0.0/104}"));
        assert!(!within("{10.0.0.0/8}", "{10.1.0.0/16}"));
        assert!(!within("{10.0.0.0/8,11.0.0.0/8}", "{10.0.0.0/8}"));
        assert!(!within("{::/0}", "{0.0.0.0/0}"));
    }
}
