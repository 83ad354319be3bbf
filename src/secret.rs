//! Keeps what must not be told: passwords, private keys, what clients say to log in.
//!
//! A leaf. A [`Secret`] is shown by no log, trace or error, and its memory is wiped when it goes. Copies that libraries
//! make of it (TLS, the database's driver, socket buffers) are theirs; core dumps are off besides (`process`).

use std::fmt;

use zeroize::{Zeroize, Zeroizing};

/// A value that `Debug` does not show and that leaves nothing in memory. It has no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret<T: Zeroize>(Zeroizing<T>);

impl<T: Zeroize> Secret<T> {
    /// Takes it over. What the value had to be copied for before is not wiped: give a buffer that did not grow.
    pub fn new(value: T) -> Self {
        Self(Zeroizing::new(value))
    }

    /// The value: for the one who needs it, and never for a log.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T: Zeroize> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    /// Tells when it is wiped.
    struct Witness(Rc<Cell<u32>>);

    impl Zeroize for Witness {
        fn zeroize(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }

    #[test]
    fn it_is_shown_nowhere_and_wiped_once_when_it_goes() {
        let secret = Secret::new("hunter2".to_owned());
        assert_eq!(secret.expose(), "hunter2");
        assert_eq!(format!("{secret:?} {:#?}", Some(&secret)), "Secret(..) Some(\n    Secret(..),\n)");
        let wiped = Rc::new(Cell::new(0));
        let secret = Secret::new(Witness(Rc::clone(&wiped)));
        assert_eq!(wiped.get(), 0);
        drop(secret);
        assert_eq!(wiped.get(), 1);
    }
}
