//! `[admin]`: who may see what the listener shows.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::{Config, document, file};
use crate::admin::access::{SHORTEST, Token};
use crate::admin::status;
use crate::calendar::Date;

/// `[admin]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each key is documented in config/dmarcgate.toml")]
pub struct Admin {
    pub address: SocketAddr,
    pub token_file: Option<PathBuf>,
}

/// Why the token of the admin listener can't be had. The operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file can't be read.
    #[error("{path} can't be read", path = path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What is in it is no token.
    #[error(
        "the first line of {path} is no token: expected {SHORTEST} to 1024 printable ASCII characters without spaces, such as \
         those of `openssl rand -hex 32`",
        path = path.display()
    )]
    Unfit {
        /// Which.
        path: PathBuf,
    },
}

impl Admin {
    /// The token, as a client sends it; none if none is asked for.
    ///
    /// # Errors
    ///
    /// See [`TokenError`].
    pub fn token(&self) -> Result<Option<String>, TokenError> {
        let Some(path) = &self.token_file else { return Ok(None) };
        let text = fs::read_to_string(path);
        let text = text.map_err(|source| TokenError::Unreadable { path: path.clone(), source })?;
        let token = text.lines().next().unwrap_or_default().trim();
        match Token::new(token) {
            Some(_) => Ok(Some(token.to_owned())),
            None => Err(TokenError::Unfit { path: path.clone() }),
        }
    }
}

impl Config {
    /// What the admin listener asks for.
    ///
    /// # Errors
    ///
    /// See [`TokenError`]: no gate starts without the token that it is to ask for.
    pub fn admin_token(&self) -> Result<Option<Token>, TokenError> {
        Ok(self.admin.token()?.and_then(|token| Token::new(&token)))
    }

    /// For the status page.
    pub fn status(&self) -> status::Settings {
        let granted = self.policy.overrides.iter().map(|o| (o.criteria(), o.until.map(Date::to_day)));
        status::Settings {
            hostname: self.hostname.as_str().into(),
            location: self.store.url.clone(),
            granted: granted.collect(),
            trusted: self.bypass.trusted_networks.clone(),
            reports: self.reports.enabled,
            inbound: !self.reports.inbound.addresses.is_empty(),
        }
    }
}

/// `[admin]` of a file that may be wrong otherwise; what holds by default where it does not say.
pub fn admin(path: &Path) -> Admin {
    let text = fs::read_to_string(path).unwrap_or_default();
    file::admin_of(&document::Document::whatever(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_the_first_line_of_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let address = "127.0.0.1:9125".parse().unwrap();
        let admin = |token_file| Admin { address, token_file };
        assert_eq!(admin(None).token().unwrap(), None);
        let token = || admin(Some(path.clone())).token();
        assert!(matches!(token(), Err(TokenError::Unreadable { .. })));
        let cases = [
            ("0123456789abcdef", Some("0123456789abcdef")),
            ("0123456789abcdef\r\nmore\n", Some("0123456789abcdef")),
            ("short\n", None),
            ("\n0123456789abcdef\n", None),
            ("0123456789 abcdef\n", None),
        ];
        for (text, expected) in cases {
            std::fs::write(&path, text).unwrap();
            assert_eq!(token().ok().flatten().as_deref(), expected, "{text:?}");
        }
    }
}
