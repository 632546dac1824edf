//! Opens files that other programs may have created: only regular files, and without blocking. Opening a FIFO, socket
//! or device in place of a file could block, or give bytes without end.

use std::fs::{File, FileType, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// Opens a regular file for reading; symbolic links are followed. The check is made on the open file, so that it cannot
/// be replaced in between.
///
/// # Errors
/// Returns an error if the file cannot be opened; [`ErrorKind::InvalidInput`] if it is not a regular file.
pub fn open(path: &Path) -> io::Result<File> {
    open_with(OpenOptions::new().read(true), path)
}

/// [`open`] with other options, for example to write a file or to create it.
///
/// # Errors
/// Returns the errors of [`open`].
pub fn open_with(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let file = options
        // Without these flags, a FIFO without a writer would block, and a terminal would become the controlling
        // terminal.
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(|error| match error.raw_os_error() {
            // Linux's error for a socket, and for a FIFO without a reader.
            Some(libc::ENXIO) => {
                irregular(std::fs::metadata(path).map_or(ANY, |found| kind(found.file_type())))
            }
            _ => error,
        })?;
    let found = file.metadata()?.file_type();
    match found.is_file() {
        true => Ok(file),
        false => Err(irregular(kind(found))),
    }
}

/// A file that is not a regular file.
const ANY: &str = "a socket, a device or a named pipe (FIFO)";

fn kind(found: FileType) -> &'static str {
    if found.is_dir() {
        "a folder"
    } else if found.is_fifo() {
        "a named pipe (FIFO)"
    } else if found.is_socket() {
        "a socket"
    } else if found.is_char_device() || found.is_block_device() {
        "a device"
    } else {
        ANY
    }
}

fn irregular(found: &str) -> io::Error {
    io::Error::new(
        ErrorKind::InvalidInput,
        format!("it is {found}, not a regular file"),
    )
}

/// Writes `bytes` as the whole content of a regular file. Creates the file if necessary; truncates it only after it is
/// known to be a regular file.
///
/// # Errors
/// Returns the errors of [`open`]; the file may then hold a part of `bytes`.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    create(path)?.write_all(bytes)
}

/// Opens an empty regular file for writing: a new one, or an existing one that is truncated.
///
/// # Errors
/// Returns the errors of [`open`].
pub fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file = open_with(options.write(true).create(true).truncate(false), path)?;
    file.set_len(0)?;
    Ok(file)
}

/// The bytes of a regular file of at most `limit` bytes.
///
/// # Errors
/// Returns the errors of [`open`], and [`ErrorKind::FileTooLarge`] for a larger file, of which no more than `limit`
/// bytes were read.
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
/// Returns the errors of [`read`], and [`ErrorKind::InvalidData`] for bytes that are not UTF-8.
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

    /// Creates a FIFO without a writer.
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
            if word != "folder" {
                assert_eq!(
                    write(&bad, b"x").unwrap_err().to_string(),
                    error.to_string()
                );
            }
        }
        // Also with a reader at the other end of the FIFO, which receives nothing.
        let mut reader = OpenOptions::new();
        let reader = reader.read(true).custom_flags(libc::O_NONBLOCK);
        let mut reader = reader.open(path("fifo")).unwrap();
        assert!(write(&path("fifo"), b"x").is_err());
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
        assert_eq!(
            open(&path("absent")).unwrap_err().kind(),
            ErrorKind::NotFound
        );
    }

    #[test]
    fn a_file_is_written_whole_over_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for text in ["long", "ab", ""] {
            write(&path, text.as_bytes()).unwrap();
            assert_eq!(read_text(&path, 4).unwrap(), text);
        }
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
