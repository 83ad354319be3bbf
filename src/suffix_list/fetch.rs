//! Fetches the list over HTTPS, within bounds of time and size.

use std::sync::Arc;
use std::time::Duration;

use ureq::Agent;
use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};

use crate::tls;

/// What stands at `url`: blocks, at most for [`TIMEOUT`], and takes at most [`MAX_SIZE`] octets.
///
/// An `https:` address never leads to another scheme, and an `http:` one (on loopback, see `config`) nowhere else.
/// There is no conditional request: some 300 KiB in two weeks are not worth the state.
pub(super) fn fetch(url: &str) -> Result<Vec<u8>, ureq::Error> {
    let is_secure = url.starts_with("https:");
    let agent: Agent = Agent::config_builder()
        .https_only(is_secure)
        .max_redirects(if is_secure { REDIRECTS } else { 0 })
        .max_redirects_will_error(true)
        .timeout_global(Some(TIMEOUT))
        .user_agent(concat!("dmarcgate/", env!("CARGO_PKG_VERSION")))
        .tls_config(security())
        .build()
        .into();
    let mut response = agent.get(url).call()?;
    response.body_mut().with_config().limit(MAX_SIZE).read_to_vec()
}

/// The system's authorities and the one cryptographic library.
fn security() -> TlsConfig {
    let found = rustls_native_certs::load_native_certs().certs;
    let roots: Vec<_> = found.iter().map(|root| Certificate::from_der(root).to_owned()).collect();
    TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .unversioned_rustls_crypto_provider(tls::provider())
        .root_certs(RootCerts::Specific(Arc::new(roots)))
        .build()
}

/// For the whole of it, redirections included.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Redirections that are followed.
const REDIRECTS: u32 = 3;
/// Octets of a list: thirteen times that of 2026.
pub(super) const MAX_SIZE: u64 = 4 * 1024 * 1024;
