//! Whether a refusal is about the mailbox that a report is for, so that others would hear the same. Pure.
//!
//! Servers refuse at the same place for other reasons: they don't take mail from the gate (`550 5.7.54 Unable to relay`,
//! a list of bad networks) or from its sender (`550 5.1.8`), for which no recipient is to suffer.

/// Whether a permanent refusal says so, in reply to RCPT or in a notification: its code, and its text, which may begin
/// with an enhanced code (RFC 2034 §4).
pub fn is_about_mailbox(code: u16, text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    match enhanced(&text) {
        _ if code / 100 != 5 => false,
        // RFC 3463 §3.2 and §3.3: X.1.7 and X.1.8 are about the sender's address, X.1.0 may be.
        // Exchange Online says 5.4.1 of a mailbox that is not there, Postfix 5.1.0 of a null MX.
        Some((5, 1, 0) | (5, 4, 1)) => has(&["recipient", "nullmx"]) && !has(OF_OTHERS),
        Some((5, 1, detail)) => ![7, 8].contains(&detail),
        // RFC 3463 §3.5: 5.4.4, as there is no such host.
        Some((5, 2, _) | (5, 4, 4)) => true,
        // RFC 3463 §3.1: no more than that it failed.
        Some((5, 0, 0)) | None => matches!(code, 550 | 551 | 553) && has(OF_MAILBOX) && !has(OF_OTHERS),
        Some(_) => false,
    }
}

/// The enhanced code with which a text begins.
fn enhanced(text: &str) -> Option<(u16, u16, u16)> {
    let mut numbers = text.split(' ').next()?.split('.').map(|number| number.parse().ok());
    let code = (numbers.next()??, numbers.next()??, numbers.next()??);
    numbers.next().is_none().then_some(code)
}

/// Words of a refusal that is about a mailbox, where no code says so.
const OF_MAILBOX: &[&str] = &["user", "mailbox", "recipient", "account"];
/// Words of one that is about who sends, or how.
const OF_OTHERS: &[&str] = &["relay", "sender", "block", "list", "spam", "reputation", "policy"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_said_of_the_mailbox_is_the_recipients() {
        let cases = [
            (550, "5.1.1 no such user", true),
            (550, "5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup", true),
            (550, "5.1.1 <d@example.org>: Recipient address rejected: User unknown in relay recipient table", true),
            (550, "5.2.1 mailbox disabled", true),
            (552, "5.2.2 over quota", true),
            (550, "No such user here", true),
            (551, "User not local; please try <e@example.org>", true),
            (553, "mailbox name not allowed", true),
            (550, "1.2.3.4.5 is no code of this user", true),
            (550, "5.4.1 Recipient address rejected: Access denied.", true),
            (550, "5.4.1 no answer from host", false),
            (550, "5.4.4 Host or domain name not found", true),
            (556, "5.1.0 Recipient's domain has a nullMX record", true),
            (550, "5.0.0 User unknown", true),
            (550, "5.0.0", false),
            (550, "Administrative prohibition", false),
            (550, "Recipient refused: your network is on a blocklist", false),
            (550, "5.7.54 SMTP; Unable to relay recipient in non-accepted domain", false),
            (554, "5.7.1 <d@example.org>: Relay access denied", false),
            (550, "5.7.1 Relaying denied", false),
            (550, "5.7.26 unauthenticated mail is not accepted for this user", false),
            (550, "relay not permitted", false),
            (550, "Relaying Denied", false),
            (550, "5.1.8 <r@gate.example>: Sender address rejected: Domain not found", false),
            (550, "5.1.7 <r@gate.example>: Sender address rejected", false),
            (550, "5.1.0 <r@gate.example>: Sender address rejected: User unknown in local recipient table", false),
            (550, "Sender verify failed", false),
            (530, "5.7.0 Must issue a STARTTLS command first", false),
            (530, "Authentication required", false),
            (554, "no valid recipients", false),
            (503, "5.5.1 sender not yet given", false),
            (552, "too many recipients", false),
            (450, "4.2.0 greylisted", false),
            (450, "5.1.1 of two minds", false),
        ];
        for (code, text, expected) in cases {
            assert_eq!(is_about_mailbox(code, text), expected, "{code} {text}");
        }
        assert!(!is_about_mailbox(550, "User verification failed we do not relay for you"), "whatever the line");
    }
}
