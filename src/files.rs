//! Opening files that somebody else made: regular files only, and without waiting. A FIFO, a socket or a device that
//! stands where a file is expected would block the open, or give bytes without an end. Knows nothing of what is in a file.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// Opens a regular file for reading; links are followed. The check is made on the open file, so that nothing can be put
/// in its place in between.
///
/// # Errors
/// Those of the file system, and [`ErrorKind::InvalidInput`] for what is no regular file.
pub fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        // A FIFO without a writer would otherwise keep the call for ever, and a terminal would become ours.
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(|error| match error.raw_os_error() {
            // What Linux says of a socket.
            Some(libc::ENXIO) => irregular("a socket or a device"),
            _ => error,
        })?;
    let kind = file.metadata()?.file_type();
    if kind.is_file() {
        return Ok(file);
    }
    Err(irregular(if kind.is_dir() {
        "a folder"
    } else if kind.is_fifo() {
        "a named pipe (FIFO)"
    } else if kind.is_char_device() || kind.is_block_device() {
        "a device"
    } else {
        "something else"
    }))
}

fn irregular(found: &str) -> io::Error {
    io::Error::new(
        ErrorKind::InvalidInput,
        format!("it is {found}, not a regular file"),
    )
}

/// The bytes of a regular file of at most `limit` bytes.
///
/// # Errors
/// As [`open`]'s, and [`ErrorKind::FileTooLarge`] for a larger file, of which no more than `limit` bytes were read.
pub fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let length = file.metadata()?.len();
    let mut bytes = Vec::with_capacity(length.min(limit) as usize);
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(
            ErrorKind::FileTooLarge,
            format!("it has more than {limit} bytes"),
        ));
    }
    Ok(bytes)
}

/// The text of a regular file of at most `limit` bytes.
///
/// # Errors
/// As [`read`]'s, and [`ErrorKind::InvalidData`] for bytes that are not UTF-8.
pub fn read_text(path: &Path, limit: u64) -> io::Result<String> {
    String::from_utf8(read(path, limit)?).map_err(|error| {
        let place = error.utf8_error().valid_up_to();
        io::Error::new(
            ErrorKind::InvalidData,
            format!("byte {place} is not valid UTF-8"),
        )
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt;

    /// Makes a FIFO that nobody writes to.
    pub(crate) fn make_fifo(path: &Path) {
        let path = CString::new(path.as_os_str().as_bytes()).unwrap();
        // SAFETY: a valid C string that lives over the call.
        assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
    }

    #[test]
    fn only_regular_files_are_opened_and_nothing_waits() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("file"), "text").unwrap();
        std::os::unix::fs::symlink(path("file"), path("link")).unwrap();
        make_fifo(&path("fifo"));
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        for good in ["file", "link"] {
            assert_eq!(read_text(&path(good), 4).unwrap(), "text");
        }
        for (bad, word) in [
            (path("fifo"), "FIFO"),
            (path("socket"), "socket"),
            (folder.path().into(), "folder"),
            ("/dev/zero".into(), "device"),
        ] {
            let error = open(&bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains(word), "{error}");
        }
        assert_eq!(
            open(&path("absent")).unwrap_err().kind(),
            ErrorKind::NotFound
        );
    }

    #[test]
    fn a_file_beyond_the_limit_and_bytes_that_are_no_text_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, b"ab\xff").unwrap();
        assert_eq!(read(&path, 3).unwrap(), b"ab\xff");
        assert_eq!(read(&path, 2).unwrap_err().kind(), ErrorKind::FileTooLarge);
        let error = read_text(&path, 3).unwrap_err();
        assert_eq!(error.to_string(), "byte 2 is not valid UTF-8");
    }
}
