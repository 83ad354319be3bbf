//! The lines that a mail server needs to stand behind the gate: where it listens, how it learns the client, what it
//! must not check again, and how to see that it does not relay for everyone. Pure.

use super::Mta;
use super::found::{Found, Hint};

/// What to write where, for the mail server that was found or named.
pub fn lines(found: &Found) -> String {
    let upstream = found.upstream();
    let port = upstream.port();
    let body = match (found.mta, found.inside.map(|inside| inside.identity)) {
        (mta, Some(_)) if mta != Mta::Exchange => format!(
            "{} takes mail behind the gate at {upstream} already.\n\nIn front of it port 25 must be free for the gate.\n",
            super::configuration::name(mta)
        ),
        (Mta::Postfix, Some(Hint::Proxy | Hint::Xclient) | None) => postfix(&upstream.to_string()),
        (Mta::Exim, _) => exim(port),
        (Mta::OpenSmtpd, _) => opensmtpd(port),
        (Mta::Exchange, _) => EXCHANGE.to_owned(),
        (Mta::Other, _) => other(&upstream.to_string()),
    };
    body + &bounces(found) + &start(found)
}

/// Where the mail server has to take bounces of reports that it makes itself, once reports are on. Commented, since
/// they are off at first.
fn bounces(found: &Found) -> String {
    let domain = format!("bounces.{}", found.domain());
    let lines = match found.mta {
        Mta::Postfix => format!(
            "# /etc/postfix/transport, then `postmap /etc/postfix/transport`; main.cf: transport_maps = hash:/etc/postfix/transport\n\
             # {domain} smtp:[127.0.0.1]:2526\n\
             # and beside the other listeners of the gate, since Postfix takes port 25 of its own addresses for a loop:\n\
             # [[listener]]\n\
             # address = \"127.0.0.1:2526\"\n"
        ),
        Mta::Exim => format!(
            "# Exim, the first of its routers:\n\
             # dmarcgate_bounces:\n\
             #   driver = manualroute\n\
             #   domains = {domain}\n\
             #   transport = remote_smtp\n\
             #   route_list = * 127.0.0.1\n\
             #   self = send\n"
        ),
        Mta::OpenSmtpd => format!(
            "# /etc/smtpd.conf, the match before all others:\n\
             # action \"dmarcgate_bounces\" relay host smtp://127.0.0.1:25\n\
             # match for domain \"{domain}\" action \"dmarcgate_bounces\"\n"
        ),
        Mta::Exchange => format!(
            "# Exchange, in its management shell; GATE stands for the address of the gate's machine:\n\
             # New-SendConnector -Name \"dmarcgate bounces\" -AddressSpaces \"{domain}\" -SmartHosts \"[GATE]\" `\n\
             #     -DNSRoutingEnabled $false\n"
        ),
        Mta::Other => format!("# Mail for {domain} goes to 127.0.0.1 port 25, whatever DNS says.\n"),
    };
    format!(
        "\nLater, with reports.enabled and reports.bounce_domain = \"{domain}\" (docs/reports.md): others find the\n\
         gate by the MX of that domain; bounces that this server makes itself come to it by\n\n\
         {lines}"
    )
}

fn postfix(address: &str) -> String {
    format!(
        "Postfix, /etc/postfix/master.cf: in place of the line `smtp inet n - y - - smtpd` (or of the postscreen line and\n\
         the `smtpd pass` line below it):\n\
         \n\
         {address} inet n - y - - smtpd\n    \
             -o smtpd_authorized_xclient_hosts=127.0.0.1\n    \
             -o smtpd_tls_security_level=none\n    \
             -o smtpd_milters=\n\
         \n\
         - The gate hands the client over by XCLIENT: restrictions, block lists and logs see who it really is, and\n  \
           mynetworks is held against the client, so nobody becomes a relay by it.\n\
         - `smtpd_milters=` leaves out milters that check SPF, DKIM and DMARC again; list those that you keep, such as a\n  \
           virus scanner. Take check_policy_service lines of SPF daemons out of smtpd_*_restrictions.\n\
         - Submission (ports 465 and 587) stays as it is. TLS on port 25 is the gate's from now on.\n\
         \n\
         Then: postfix reload\n"
    )
}

fn exim(port: u16) -> String {
    format!(
        "Exim with PROXY support (`exim -bV | grep PROXY`; Debian: exim4-daemon-heavy), main section of its configuration\n\
         (Debian: split, a file in /etc/exim4/conf.d/main/, else atop exim4.conf.template; and in update-exim4.conf.conf\n\
         dc_local_interfaces='', as Exim refuses to be told twice):\n\
         \n\
         local_interfaces = <; [127.0.0.1]:{port} ; [0.0.0.0]:465 ; [0.0.0.0]:587 ; [::0]:465 ; [::0]:587\n\
         tls_on_connect_ports = 465\n\
         hosts_proxy = ${{if eq{{$received_port}}{{{port}}}{{127.0.0.1}}{{}}}}\n\
         chunking_advertise_hosts = *\n\
         dsn_advertise_hosts = *\n\
         \n\
         - The gate hands the client over by the PROXY protocol: relay_from_hosts, block lists and logs see who it really is.\n\
         - Ports 465 and 587 are for mail programs: leave out those that Exim does not serve now, and what stands elsewhere.\n\
         - Take `spf` conditions and `verify = ...` for DKIM and DMARC out of the ACLs for this port: the gate has checked.\n\
         \n\
         Then: systemctl restart exim4\n"
    )
}

fn opensmtpd(port: u16) -> String {
    format!(
        "OpenSMTPD, /etc/smtpd.conf: in place of the `listen on` line for port 25:\n\
         \n\
         listen on 127.0.0.1 port {port} proxy-v2\n\
         \n\
         - The gate hands the client over by the PROXY protocol: what comes through it is `from any` in match lines, never\n  \
           `from local`, so nobody becomes a relay by it.\n\
         - Take filters that check SPF, DKIM or DMARC off this line.\n\
         \n\
         Then: systemctl restart opensmtpd\n"
    )
}

const EXCHANGE: &str = "\
Exchange, in its management shell; GATE stands for the address of the gate's machine:

New-ReceiveConnector -Name \"dmarcgate\" -TransportRole FrontendTransport -Usage Custom `
    -Bindings 0.0.0.0:25 -RemoteIPRanges GATE -PermissionGroups AnonymousUsers
Set-TransportConfig -InternalSMTPServers @{Add=\"GATE\"}
Set-SenderIdConfig -Enabled $false

- Exchange knows neither XCLIENT nor the PROXY protocol: it sees the gate in place of every client. So the connector must
  not let anonymous users relay (no ms-Exch-SMTP-Accept-Any-Recipient for ANONYMOUS LOGON), the gate refuses what is not for
  smtp.recipient_domains, and limits by address must except GATE.
- InternalSMTPServers has its filters take the client from the Received field that the gate writes.
- Take GATE out of the default connector's range, and let the firewall keep everybody else off its port 25.
";

fn other(address: &str) -> String {
    format!(
        "Your mail server:\n\
         \n\
         - Let it take mail at {address}, for the gate alone, and leave port 25 to the gate.\n\
         - Let it learn the real client: by XCLIENT (found by itself), or by the PROXY protocol (upstream.identity =\n  \
           \"proxy-v2\" or \"proxy-v1\"). If it knows neither, set upstream.identity = \"received\".\n\
         - Switch off its own checks of SPF, DKIM and DMARC for what comes from the gate; and if it can't see the client,\n  \
           block lists, greylisting and limits by address as well.\n\
         - It must not relay for whoever comes through the gate: the gate's address may not be among the networks that it\n  \
           trusts unless it sees the client.\n"
    )
}

fn start(found: &Found) -> String {
    format!(
        "\nSee that it is right:\n\n\
         dmarcgate check-upstream              # whether the client is handed over, and that nobody can relay\n\
         systemctl enable --now dmarcgate\n\
         curl http://{}/readyz     # \"ready\", or what is missing\n",
        found.admin()
    )
}
