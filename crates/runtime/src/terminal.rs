//! Terminals of containers.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

/// Sets the size of a terminal, in columns and rows (`TIOCSWINSZ`, ioctl_tty(2)).
///
/// # Errors
/// When `terminal` is no terminal.
#[allow(unsafe_code)]
pub fn set_terminal_size(terminal: &OwnedFd, width: u16, height: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the descriptor is open and `size` lives through the call.
    let result = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &size) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
