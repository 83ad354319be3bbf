//! Source addresses, and what is done with those that mean nothing outside the site.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::label_enum;

label_enum! {
    /// What is done with messages from private and reserved addresses: a report that names them reveals how the site is
    /// built, and its reader can do nothing with them.
    pub enum PrivateAddresses {
        /// They are in no report, and counted.
        Omit = "omit",
        /// `X.X.X.X` stands in place of the address, which is not what the schema calls one (RFC 9990 §3.1.1.8).
        Mask = "mask",
        /// They are reported like others.
        Keep = "keep",
    }
}

/// Where messages came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// An address.
    Address(IpAddr),
    /// A private one that is not disclosed.
    Masked,
}

impl Source {
    /// The source to report; none if the messages are left out.
    pub fn new(ip: IpAddr, private: PrivateAddresses) -> Option<Self> {
        let ip = ip.to_canonical();
        match private {
            PrivateAddresses::Omit if is_private(ip) => None,
            PrivateAddresses::Mask if is_private(ip) => Some(Self::Masked),
            _ => Some(Self::Address(ip)),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(ip) => write!(f, "{ip}"),
            Self::Masked => f.write_str(MASK),
        }
    }
}

/// What replaces an address that is not disclosed.
pub(super) const MASK: &str = "X.X.X.X";

/// Whether an address has no meaning outside the site or is none that mail can come from (RFC 6890 and its registries).
/// Addresses for documentation are not among them: they reveal nothing about any site, and tests use them.
fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_private_v4(ip),
        IpAddr::V6(ip) => is_private_v6(ip),
    }
}

fn is_private_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || matches!((a, b, c), (0, ..) | (100, 64..=127, _) | (192, 0, 0) | (198, 18..=19, _) | (224.., ..))
}

fn is_private_v6(ip: Ipv6Addr) -> bool {
    let [first, second, third, fourth, ..] = ip.segments();
    let translated = (first, second, third) == (0x64, 0xff9b, 1);
    let discarded = (first, second, third, fourth) == (0x100, 0, 0, 0);
    // fec0::/10 was private once, and is still in use by some.
    ip.is_loopback()
        || ip.is_unspecified()
        || ip.is_unique_local()
        || ip.is_unicast_link_local()
        || ip.is_multicast()
        || first & 0xffc0 == 0xfec0
        || translated
        || discarded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_addresses_mean_nothing_to_others() {
        let private = [
            "0.0.0.1",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "169.254.1.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.168.0.1",
            "198.18.0.1",
            "198.19.255.255",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:10.0.0.1",
            "64:ff9b:1::1",
            "100::1",
            "fc00::1",
            "fdff::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ];
        let public = [
            "1.1.1.1",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "192.0.2.1",
            "192.88.99.1",
            "198.17.0.1",
            "198.20.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "223.255.255.255",
            "::ffff:192.0.2.1",
            "64:ff9b::1",
            "100:0:0:1::1",
            "2001:db8::1",
            "2a00::1",
        ];
        for (addresses, is_private) in [(&private[..], true), (&public[..], false)] {
            for address in addresses {
                let ip: IpAddr = address.parse().unwrap();
                assert_eq!(Source::new(ip, PrivateAddresses::Omit).is_none(), is_private, "{address}");
                let masked = Source::new(ip, PrivateAddresses::Mask).unwrap().to_string();
                assert_eq!(masked == "X.X.X.X", is_private, "{address}");
                let kept = Source::new(ip, PrivateAddresses::Keep).unwrap();
                assert_eq!(kept, Source::Address(ip.to_canonical()), "{address}");
            }
        }
    }
}
