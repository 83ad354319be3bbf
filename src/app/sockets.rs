//! Binds the sockets of a gate, or takes those that the service manager has bound and passes on (systemd's socket
//! activation): connections then wait in a queue that outlives the process, and an upgrade drops none.

use std::net::{SocketAddr, TcpListener};

use listenfd::ListenFd;
use socket2::SockRef;

use super::Error;
use super::open_files::OpenFiles;
use crate::config::Config;
use crate::listener::{self, Backlog};

/// Sockets that were passed on, not yet in use.
#[derive(Debug, Default)]
pub struct Passed(Vec<TcpListener>);

/// The sockets of a gate, bound.
#[derive(Debug)]
pub struct Sockets {
    pub(super) listeners: Vec<(TcpListener, Backlog)>,
    pub(super) admin: TcpListener,
    pub(super) open_files: OpenFiles,
}

impl Passed {
    /// None.
    pub fn none() -> Self {
        Self::default()
    }

    /// Those that the environment names, which is cleared of them: call it first of all, while there is one thread.
    ///
    /// # Errors
    ///
    /// [`Error::NoListener`].
    pub fn take() -> Result<Self, Error> {
        let mut passed = ListenFd::from_env();
        let each = (0..passed.len()).filter_map(|i| match passed.take_tcp_listener(i) {
            Ok(Some(socket)) if SockRef::from(&socket).is_listener().unwrap_or(false) => Some(Ok(socket)),
            Ok(None) => None,
            _ => Some(Err(Error::NoListener { place: i + 1 })),
        });
        each.collect::<Result<_, _>>().map(Self)
    }

    /// The one at this address.
    fn claim(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let place = self.0.iter().position(|socket| socket.local_addr().is_ok_and(|own| own == address))?;
        Some(self.0.swap_remove(place))
    }
}

/// Binds all sockets that were not passed on.
///
/// # Errors
///
/// [`Error::Bind`]; [`Error::Unclaimed`] for a socket that the configuration has no use for.
pub fn bind(config: &Config, mut passed: Passed) -> Result<Sockets, Error> {
    let open_files = OpenFiles::raise();
    let mut open = |address, reuse_port| {
        let socket = match passed.claim(address) {
            Some(socket) => socket.set_nonblocking(true).map(|()| (socket, Backlog::Inherited)),
            None => listener::bind(address, reuse_port).map(|socket| (socket, Backlog::Own)),
        };
        socket.map_err(|source| Error::Bind { address, source })
    };
    let listeners = config.listeners.iter().map(|l| open(l.address, l.reuse_port)).collect::<Result<_, _>>()?;
    // A gate that shares its ports with the one that it takes over from shares this one, too.
    let shares = config.listeners.iter().any(|listener| listener.reuse_port);
    let (admin, _) = open(config.admin.address, shares)?;
    match passed.0.iter().find_map(|socket| socket.local_addr().ok()) {
        Some(address) => Err(Error::Unclaimed { address }),
        None => Ok(Sockets { listeners, admin, open_files }),
    }
}
