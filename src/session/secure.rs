//! STARTTLS (RFC 3207): what came before it is thrown away, and the session begins anew.

use std::sync::Arc;

use tracing::debug;

use super::metrics::Ended;
use super::state::Security;
use super::{End, Session};
use crate::smtp::reply::Reply;

impl Session {
    /// What there is of TLS now.
    pub(super) fn security(&self) -> Security {
        if self.stream.is_secured() { Security::Active } else { self.security }
    }

    /// Says 220 and shakes hands. A client that fails is left: nobody knows what it has heard.
    pub(super) async fn secure(&mut self) -> Result<(), End> {
        let Some(tls) = self.gate.tls.clone() else { return Err(self.broken("STARTTLS without a certificate")) };
        self.say(&Reply::new(220, "2.0.0", "Ready to start TLS"));
        self.flush(self.settings().timeouts.command).await?;
        self.link.quit().await;
        self.forget_transaction();
        // RFC 3207 §4.2: whatever the client has said of itself is forgotten, and what it was offered.
        (self.offer, self.client.login) = (None, None);
        let unread = self.stream.buffered().len();
        if unread > 0 {
            debug!(session = &*self.id, client_ip = %self.client.ip(), octets = unread, "thrown away before TLS");
        }
        let plain = self.stream.take();
        let named = Arc::clone(&self.settings().bypass.client_certificates);
        // Boxed, so that sessions at rest have no room for it.
        let (stream, protection) =
            Box::pin(tls.accept(plain, &named)).await.map_err(|_| End::silently(Ended::Handshake))?;
        self.stream = stream;
        self.client.tls = Some(protection);
        Ok(())
    }
}
