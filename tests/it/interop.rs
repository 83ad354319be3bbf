//! The gate between real servers and clients: `tests/interop`, which needs root, Postfix, swaks and Python packages.
//! `.ci/run` installs these and always runs it; here it is left out, and says so.

use std::process::Command;

/// `cargo test -- --ignored`, with the packages of `tests/interop/requirements.txt` in the Python that
/// `DMARCGATE_PYTHON` names.
#[test]
#[ignore = "needs root, Postfix and swaks: .ci/run installs them and runs it"]
fn real_servers_and_clients() {
    let python = std::env::var("DMARCGATE_PYTHON").unwrap_or_else(|_| "python3".into());
    let status = Command::new(python)
        .args(["-m", "pytest", "-p", "no:cacheprovider", "--strict-markers", "--tb=short", "tests/interop"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("DMARCGATE_BINARY", env!("CARGO_BIN_EXE_dmarcgate"))
        .status()
        .expect("Python runs");
    assert!(status.success(), "{status}");
}
