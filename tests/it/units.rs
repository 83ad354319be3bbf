//! The units for systemd in `contrib/systemd`: they fit the gate, and leave it nothing that it does not need.

use std::io::Write as _;
use std::process::Command;

use dmarcgate::config::Config;

use crate::source;

const SERVICE: &str = "contrib/systemd/dmarcgate.service";
const SOCKET: &str = "contrib/systemd/dmarcgate.socket";

/// All values of a setting, in their order.
fn values(unit: &str, setting: &str) -> Vec<String> {
    let text = source::read(unit);
    let found = text.lines().filter_map(|line| line.strip_prefix(setting)?.strip_prefix('='));
    found.map(str::to_owned).collect()
}

#[test]
fn the_service_has_every_wall_that_it_can_live_behind() {
    let walls = [
        ("AmbientCapabilities", "CAP_NET_BIND_SERVICE"),
        ("CapabilityBoundingSet", "CAP_NET_BIND_SERVICE"),
        ("LimitCORE", "0"),
        ("LockPersonality", "yes"),
        ("MemoryDenyWriteExecute", "yes"),
        ("NoNewPrivileges", "yes"),
        ("PrivateDevices", "yes"),
        ("PrivateMounts", "yes"),
        ("PrivateTmp", "yes"),
        ("ProtectClock", "yes"),
        ("ProtectControlGroups", "yes"),
        ("ProtectHome", "yes"),
        ("ProtectHostname", "yes"),
        ("ProtectKernelLogs", "yes"),
        ("ProtectKernelModules", "yes"),
        ("ProtectKernelTunables", "yes"),
        ("ProtectProc", "invisible"),
        ("ProtectSystem", "strict"),
        ("RemoveIPC", "yes"),
        ("Restart", "on-failure"),
        ("RestrictAddressFamilies", "AF_INET AF_INET6 AF_UNIX"),
        ("RestrictNamespaces", "yes"),
        ("RestrictRealtime", "yes"),
        ("RestrictSUIDSGID", "yes"),
        ("StartLimitIntervalSec", "0"),
        ("StateDirectory", "dmarcgate"),
        ("SystemCallArchitectures", "native"),
        ("UMask", "0077"),
        ("User", "dmarcgate"),
    ];
    for (setting, value) in walls {
        assert_eq!(values(SERVICE, setting), [value], "{setting}");
    }
    // Whatever keeps it from starting, a start stays due: else the socket would ask for one with each client that waits,
    // and be shut for that.
    assert!(values(SERVICE, "RestartPreventExitStatus").is_empty());
    // Its state directory is the one place that it writes to.
    assert!(values(SERVICE, "ReadWritePaths").is_empty());
    // What it uses of the calls that the groups leave out.
    let filter = values(SERVICE, "SystemCallFilter").join(" ");
    for call in ["landlock_restrict_self", "landlock_add_rule", "landlock_create_ruleset", "capset", "prlimit64"] {
        assert!(filter.contains(call), "{call}: {filter}");
    }
}

#[test]
fn the_units_and_the_defaults_of_the_configuration_name_the_same() {
    let config = Config::built_in();
    let addresses: Vec<_> = config.listeners.iter().map(|listener| listener.address.to_string()).collect();
    assert_eq!(values(SOCKET, "ListenStream"), addresses);
    let state = values(SERVICE, "StateDirectory").join("");
    assert!(config.spool.directory.starts_with(format!("/var/lib/{state}")));
    let start = values(SERVICE, "ExecStart").join("");
    assert_eq!(start, "/usr/bin/dmarcgate serve --config /etc/dmarcgate/dmarcgate.toml");
    assert!(config.timeouts.shutdown.as_secs() < values(SERVICE, "TimeoutStopSec")[0].parse().unwrap());
}

#[test]
fn systemd_itself_finds_little_to_say_against_the_service() {
    let skipped = |why: &str| {
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        _ = writeln!(std::io::stderr(), "SKIPPED {name}: {why}");
    };
    let file = format!("{}/{SERVICE}", env!("CARGO_MANIFEST_DIR"));
    let arguments = ["security", "--offline=true", "--threshold=16", "--no-pager", &file];
    let Ok(output) = Command::new("systemd-analyze").args(arguments).output() else {
        return skipped("no systemd-analyze");
    };
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    if !said.contains("exposure level") {
        return skipped(&format!("systemd-analyze can't say: {errors}"));
    }
    assert!(output.status.success(), "it is more exposed than it was: {said}{errors}");
}
