//! The name servers of the system: reads `/etc/resolv.conf` as far as they go.
//!
//! All else that stands there is passed over, right or wrong: the gate has no use for a search list, and an oddity in a
//! file that others write must not keep it from taking mail.

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use crate::dns::NameServer;

/// The servers that the file names, in its order; may be none.
///
/// # Errors
///
/// It can't be read.
pub(super) fn read(path: &Path) -> io::Result<Vec<NameServer>> {
    let mut text = Vec::new();
    File::open(path)?.take(MAX_FILE).read_to_end(&mut text)?;
    Ok(servers(&String::from_utf8_lossy(&text)))
}

/// The servers of the file or, where it names none, the one that the C library asks then; and what is odd about it, in
/// words for the operator.
pub(super) fn read_or_local(path: &Path) -> (Vec<NameServer>, Option<String>) {
    let oddity = match read(path) {
        Ok(servers) if !servers.is_empty() => return (servers, None),
        Ok(_) => "names no name server that can be asked".to_owned(),
        Err(error) => format!("can't be read ({error})"),
    };
    let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let oddity = format!("{} {oddity}: {local} is asked; set dns.servers, or mend the file", path.display());
    (vec![SocketAddr::new(local, DNS_PORT).into()], Some(oddity))
}

/// `nameserver ADDRESS` at the beginning of a line. A zone behind the address is left away, and a link-local server
/// left out: without its zone nobody reaches it.
fn servers(text: &str) -> Vec<NameServer> {
    let addresses = text.lines().filter_map(|line| {
        let rest = line.trim_start().strip_prefix("nameserver")?;
        let word = rest.strip_prefix([' ', '\t'])?.split([' ', '\t', '\r', '#', ';']).find(|word| !word.is_empty())?;
        let ip: IpAddr = word.split_once('%').map_or(word, |(address, _)| address).parse().ok()?;
        let is_link_local = matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local());
        (!is_link_local).then(|| SocketAddr::new(ip, DNS_PORT).into())
    });
    addresses.collect()
}

/// RFC 1035 §4.2.
const DNS_PORT: u16 = 53;
/// Octets of the file that are looked at.
const MAX_FILE: u64 = 1 << 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_are_read_and_whatever_else_stands_there_is_passed_over() {
        let cases = [
            ("nameserver 192.0.2.53\nnameserver 2001:db8::53\n", "192.0.2.53:53 [2001:db8::53]:53"),
            ("search foo..bar\nnameserver 192.0.2.53", "192.0.2.53:53"),
            ("search .example.com -x.example (none)\noptions edns0 trust-ad\nnameserver 192.0.2.53", "192.0.2.53:53"),
            ("domain \u{fffd}\0\nsortlist 1/2\nnameserver\t 192.0.2.53 \t# ours\r\n", "192.0.2.53:53"),
            ("  nameserver 192.0.2.53;ours", "192.0.2.53:53"),
            ("nameserver 2001:db8::53%eth0\nnameserver fe80::1%eth0", "[2001:db8::53]:53"),
            ("nameserver ns.example.net\nnameserver\nnameservers 192.0.2.1\nnameserver 192.0.2.53", "192.0.2.53:53"),
            ("# nameserver 192.0.2.1\n; nameserver 192.0.2.2\n", ""),
            ("", ""),
        ];
        for (text, expected) in cases {
            let found = servers(text).iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn without_a_server_in_the_file_the_host_itself_is_asked_and_that_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        let local = [NameServer::from("127.0.0.1:53".parse::<SocketAddr>().unwrap())];
        let (servers, oddity) = read_or_local(&path);
        assert_eq!(servers, local);
        assert!(
            oddity.unwrap().contains("resolv.conf can't be read (No such file or directory (os error 2)): 127.0.0.1")
        );
        std::fs::write(&path, "search example.net\n").unwrap();
        let (servers, oddity) = read_or_local(&path);
        assert_eq!(servers, local);
        assert!(oddity.unwrap().contains("resolv.conf names no name server that can be asked: 127.0.0.1 is asked"));
        std::fs::write(&path, "nameserver 192.0.2.53\n").unwrap();
        assert_eq!(read_or_local(&path).1, None);
    }
}
