//! The ids under which sessions and messages are found in log, reply and evidence.

use rand::Rng;

/// An id of 13 characters that no one can guess and everyone can read out (Crockford's base 32 of 64 random bits).
#[expect(clippy::indexing_slicing, reason = "a number modulo 32 is an index into 32 digits")]
pub fn new_id() -> Box<str> {
    const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let mut random = rand::rng().random::<u64>();
    let digit = |_| {
        let digit = char::from(DIGITS[(random % 32) as usize]);
        random /= 32;
        digit
    };
    (0..13).map(digit).collect::<String>().into()
}
