//! The Unix socket in the store's directory, through which commands reach the process that holds
//! the store.
//!
//! Whoever may open it owns the store's files and could change them directly, so no password is
//! asked for. The socket is reached through its open directory, `/proc/self/fd/N`: an address holds
//! 107 bytes, and paths are longer.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use super::{Layout, StorageError};

/// A bound socket. Its file goes when this is dropped.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ControlSocket {
    /// Binds the socket of a store whose lock the caller holds; one that a crash left is replaced.
    /// The socket is made in a directory that only its owner may enter and moved into place: at no
    /// moment can anybody else connect.
    pub(super) fn bind(layout: &Layout) -> Result<Self, StorageError> {
        let (path, nursery) = (layout.control_socket(), layout.control_nursery());
        let wrap = |error| StorageError::file("listen at", &path, error);
        match fs::remove_dir_all(&nursery) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(wrap(error)),
            Ok(()) | Err(_) => {}
        }
        fs::DirBuilder::new().mode(0o700).create(&nursery).map_err(wrap)?;
        let listener = bind_below(&nursery, &path).map_err(wrap);
        // Empty by now, or of no use.
        let _ = fs::remove_dir_all(&nursery);
        Ok(Self { listener: listener?, path })
    }

    /// The listening socket, for the runtime that accepts on it.
    ///
    /// # Errors
    /// Of the system.
    pub fn listener(&self) -> io::Result<UnixListener> {
        let listener = self.listener.try_clone()?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // A file that stays is replaced by the next holder of the store.
        let _ = fs::remove_file(&self.path);
    }
}

fn bind_below(nursery: &Path, path: &Path) -> io::Result<UnixListener> {
    let (directory, name) = (File::open(nursery)?, "socket");
    let listener = UnixListener::bind(short(&directory, Path::new(name)))?;
    let bound = nursery.join(name);
    fs::set_permissions(&bound, Permissions::from_mode(0o600))?;
    fs::rename(&bound, path)?;
    Ok(listener)
}

/// Connects to the process that holds the store at `path`.
///
/// # Errors
/// `NotFound` and `ConnectionRefused` when there is none; `PermissionDenied` when it is somebody else's.
pub fn connect_control(path: &Path) -> io::Result<UnixStream> {
    let socket = Layout::new(path).control_socket();
    let (Some(directory), Some(name)) = (socket.parent(), socket.file_name()) else { return Err(io::ErrorKind::NotFound.into()) };
    let directory = File::open(directory)?;
    let stream = UnixStream::connect(short(&directory, Path::new(name)))?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// A path below an open directory that fits into an address.
#[cfg(target_os = "linux")]
fn short(directory: &File, name: &Path) -> PathBuf {
    Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name)
}

/// Elsewhere there is `/dev/fd`, where directories can be gone through.
#[cfg(not(target_os = "linux"))]
fn short(directory: &File, name: &Path) -> PathBuf {
    Path::new("/dev/fd").join(directory.as_raw_fd().to_string()).join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_at_a_path_longer_than_an_address_is_the_owners_alone() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("d".repeat(120));
        fs::create_dir(&root).unwrap();
        let layout = Layout::new(&root);
        fs::write(layout.control_socket(), "left by a crash").unwrap();
        fs::create_dir(layout.control_nursery()).unwrap();
        let socket = ControlSocket::bind(&layout).unwrap();
        assert_eq!(fs::metadata(layout.control_socket()).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!layout.control_nursery().exists());
        connect_control(&root).unwrap();
        socket.listener().unwrap().accept().unwrap();
        drop(socket);
        assert_eq!(connect_control(&root).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
