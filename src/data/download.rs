//! Downloads the published archive into the data folder. Received bytes are stored in `NAME.part`. An interrupted
//! transfer continues where it ended if the server still has the same file. The file is renamed to `NAME` only if its
//! sha256 is right. This module knows HTTP and files, but not their contents.

use super::verify::digest;
use crate::files;
use sha2::Sha256;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};
use thiserror::Error;

/// The address at which CIFAR-10's authors publish the archive.
pub const URL: &str = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz";
/// The file name of the downloaded archive, and its published sha256.
pub const NAME: &str = "cifar-10-python.tar.gz";
pub const SHA256: &str = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce";
/// The sha256 of `cifar-10-binary.tar.gz` as published.
pub const BINARY_SHA256: &str = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd";
/// Environment variables that set another address, and the sha256 of the file there.
pub const URL_ENV: &str = "CIFAR_TUI_DOWNLOAD_URL";
pub const SHA256_ENV: &str = "CIFAR_TUI_DOWNLOAD_SHA256";

/// Maximum size of the archive in bytes; CIFAR-10's has 170 million.
const MAX_BYTES: u64 = 1 << 30;
/// Maximum length in bytes of the name of a version (an ETag).
const MAX_TAG: u64 = 4096;
const CHUNK: usize = 1 << 16;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Maximum time without any bytes before the transfer fails.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Interval at which the cancel flag is checked while no data arrives.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The archive to download.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DownloadSource {
    pub url: String,
    /// In hexadecimal, of the whole file.
    pub sha256: String,
}

impl DownloadSource {
    /// The published archive, at `url`, otherwise at `CIFAR_TUI_DOWNLOAD_URL`, otherwise at [`URL`].
    pub fn new(url: Option<&str>) -> Self {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let url = url.map(String::from).or_else(|| variable(URL_ENV));
        DownloadSource {
            url: url.unwrap_or_else(|| URL.into()),
            sha256: variable(SHA256_ENV).unwrap_or_else(|| SHA256.into()),
        }
    }
}

/// Why the download failed.
#[derive(Debug, Error)]
pub enum DownloadError {
    #[error(
        "there is no home folder to keep the data in: set XDG_DATA_HOME, or fetch {URL} yourself and name it with --data"
    )]
    NoFolder,
    #[error("{} cannot be written: {source}. Check the folder's permissions and the space left, then try again.", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("another process is fetching into {} already: wait for it, or stop it.", path.display())]
    Busy { path: PathBuf },
    #[error(
        "{url} cannot be fetched: {why}. What has arrived ({done} bytes) is kept: try again to go on from there, or name another source with {URL_ENV}."
    )]
    Broken { url: String, why: String, done: u64 },
    #[error(
        "{url} answers with status {status}: name another source with {URL_ENV}, or fetch {URL} yourself and name it with --data."
    )]
    Status { url: String, status: u16 },
    #[error(
        "{url} holds another file than the published one (sha256 {found}, expected {expected}). It was thrown away: try again, or name another source with {URL_ENV}."
    )]
    Wrong {
        url: String,
        found: String,
        expected: String,
    },
    #[error(
        "cancelled after {done} bytes, which are kept; the next download continues from there."
    )]
    Cancelled { done: u64 },
}

/// Downloads `source` to `folder/NAME` and returns that path. `progress(done, total)` counts bytes; total is 0 while
/// unknown. To stop, set `cancel` from another thread; the bytes received so far are kept. If the file exists already
/// with the right sha256, nothing is downloaded.
///
/// # Errors
/// Returns a [`DownloadError`]. Only verified bytes are ever stored under `NAME`.
pub fn fetch(
    source: &DownloadSource,
    folder: &Path,
    progress: &mut dyn FnMut(u64, u64),
    cancel: &AtomicBool,
) -> Result<PathBuf, DownloadError> {
    let path = folder.join(NAME);
    let (part, tag) = (
        folder.join(format!("{NAME}.part")),
        folder.join(format!("{NAME}.part.tag")),
    );
    if digest::<Sha256>(&path).is_ok_and(|sum| sum == source.sha256) {
        return Ok(path);
    }
    fs::create_dir_all(folder).map_err(at(folder))?;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let mut file = files::open_with(&mut options, &part).map_err(at(&part))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => return Err(DownloadError::Busy { path: part }),
        Err(fs::TryLockError::Error(error)) => return Err(at(&part)(error)),
    }
    transfer(source, &mut file, &part, &tag, progress, cancel)?;
    file.sync_all().map_err(at(&part))?;
    let found = digest::<Sha256>(&part).map_err(at(&part))?;
    discard(&tag)?;
    if found != source.sha256 {
        discard(&part)?;
        return Err(DownloadError::Wrong {
            url: source.url.clone(),
            found,
            expected: source.sha256.clone(),
        });
    }
    fs::rename(&part, &path).map_err(at(&path))?;
    // Sync the folder too, so that the new name survives a crash.
    #[cfg(unix)]
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(at(folder))?;
    Ok(path)
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> DownloadError + '_ {
    move |source| DownloadError::Io {
        path: path.into(),
        source,
    }
}

fn discard(path: &Path) -> Result<(), DownloadError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(path)(error)),
        _ => Ok(()),
    }
}

/// Messages of the downloading thread.
enum Message {
    /// The head of the response: its status, the length of its body (0 if unknown), the offset of its first byte in the
    /// file, and the validator (ETag or date) of the file's version.
    Head {
        status: u16,
        length: u64,
        start: u64,
        tag: Option<String>,
    },
    Bytes(Vec<u8>),
    End,
    Broken(String),
}

/// Downloads into `file`. Continues at its end if the server still has the same version, otherwise starts anew.
fn transfer(
    source: &DownloadSource,
    file: &mut File,
    part: &Path,
    tag: &Path,
    progress: &mut dyn FnMut(u64, u64),
    cancel: &AtomicBool,
) -> Result<(), DownloadError> {
    let have = file.seek(SeekFrom::End(0)).map_err(at(part))?;
    // Without the validator, the rest of the file could be of another version than the beginning.
    let version = files::read_text(tag, MAX_TAG)
        .ok()
        .filter(|tag| have > 0 && !tag.is_empty());
    let resume = version.map(|version| (have, version));
    match exchange(source, file, part, tag, resume.clone(), progress, cancel) {
        // The server does not have this range: the partial file belongs to another version of the archive.
        Err(DownloadError::Status { status: 416, .. }) if resume.is_some() => {
            exchange(source, file, part, tag, None, progress, cancel)
        }
        other => other,
    }
}

fn exchange(
    source: &DownloadSource,
    file: &mut File,
    part: &Path,
    tag: &Path,
    resume: Option<(u64, String)>,
    progress: &mut dyn FnMut(u64, u64),
    cancel: &AtomicBool,
) -> Result<(), DownloadError> {
    let wanted = resume.as_ref().map_or(0, |(have, _)| *have);
    let message = connect(source.url.clone(), resume);
    let (mut done, mut total) = (wanted, 0);
    let broken = |why: &str, done| DownloadError::Broken {
        url: source.url.clone(),
        why: why.into(),
        done,
    };
    loop {
        match next(&message, cancel, done, &broken)? {
            Message::Head {
                status,
                length,
                start,
                tag: version,
            } => {
                if !(status == 200 || status == 206 && start == wanted) {
                    return Err(DownloadError::Status {
                        url: source.url.clone(),
                        status,
                    });
                }
                if start + length > MAX_BYTES {
                    return Err(broken(
                        &format!("the file has {length} bytes, more than CIFAR-10 has"),
                        done,
                    ));
                }
                done = start;
                total = if length > 0 { start + length } else { 0 };
                // Remove the old validator before the file changes, so that after a crash it never describes the wrong
                // bytes.
                discard(tag)?;
                file.set_len(start)
                    .and_then(|()| file.seek(SeekFrom::Start(start)))
                    .map_err(at(part))?;
                if let Some(version) = version {
                    files::write(tag, version.as_bytes()).map_err(at(tag))?;
                }
                progress(done, total);
            }
            Message::Bytes(bytes) => {
                done += bytes.len() as u64;
                if done > MAX_BYTES {
                    return Err(broken("the file has more bytes than CIFAR-10 has", done));
                }
                file.write_all(&bytes).map_err(at(part))?;
                progress(done, total);
            }
            Message::End if total > 0 && done < total => {
                return Err(broken("the connection ended early", done));
            }
            Message::End => return Ok(()),
            Message::Broken(why) => return Err(broken(&why, done)),
        }
    }
}

/// Waits for the next message.
fn next(
    message: &Receiver<Message>,
    cancel: &AtomicBool,
    done: u64,
    broken: &dyn Fn(&str, u64) -> DownloadError,
) -> Result<Message, DownloadError> {
    let since = Instant::now();
    loop {
        if cancel.load(Ordering::Relaxed) {
            return Err(DownloadError::Cancelled { done });
        }
        match message.recv_timeout(POLL_INTERVAL) {
            Ok(message) => return Ok(message),
            Err(RecvTimeoutError::Timeout) if since.elapsed() < IDLE_TIMEOUT => {}
            Err(RecvTimeoutError::Timeout) => {
                return Err(broken(
                    &format!("the server sent nothing for {} s", IDLE_TIMEOUT.as_secs()),
                    done,
                ));
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(broken("the connection ended early", done));
            }
        }
    }
}

/// Starts a thread that downloads, since a blocked read cannot be cancelled. After the receiver is dropped, the thread
/// ends when the next bytes arrive.
fn connect(url: String, resume: Option<(u64, String)>) -> Receiver<Message> {
    let (send, receive) = sync_channel(8);
    std::thread::spawn(move || {
        let last = match talk(&url, resume, &mut |message| send.send(message).is_ok()) {
            Ok(()) => Message::End,
            Err(why) => Message::Broken(why),
        };
        // Sending fails if the transfer was cancelled.
        _ = send.send(last);
    });
    receive
}

fn talk(
    url: &str,
    resume: Option<(u64, String)>,
    tell: &mut dyn FnMut(Message) -> bool,
) -> Result<(), String> {
    let config = ureq::Agent::config_builder()
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .http_status_as_error(false);
    let agent: ureq::Agent = config.build().into();
    let mut request = agent.get(url);
    if let Some((have, version)) = &resume {
        request = request
            .header("Range", format!("bytes={have}-"))
            .header("If-Range", version);
    }
    let response = request.call().map_err(|error| error.to_string())?;
    let header = |name| {
        response
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
    };
    // A weak ETag does not guarantee identical bytes.
    let tag = header("etag")
        .filter(|tag| !tag.starts_with("W/"))
        .or_else(|| header("last-modified"));
    let range = header("content-range").and_then(|range| {
        range
            .strip_prefix("bytes ")?
            .split_once('-')?
            .0
            .parse()
            .ok()
    });
    let status = response.status().as_u16();
    let head = Message::Head {
        status,
        length: header("content-length")
            .and_then(|length| length.parse().ok())
            .unwrap_or(0),
        start: if status == 206 {
            range.unwrap_or(u64::MAX / 2)
        } else {
            0
        },
        tag: tag.map(String::from),
    };
    if !tell(head) {
        return Ok(());
    }
    let mut body = response.into_body().into_reader();
    loop {
        let mut bytes = vec![0; CHUNK];
        let n = body.read(&mut bytes).map_err(|error| error.to_string())?;
        bytes.truncate(n);
        if n == 0 || !tell(Message::Bytes(bytes)) {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::Digest;
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;

    /// Starts a server on the loopback device that answers each connection with the next of `answers`. The thread
    /// returns the requests.
    fn serve(answers: Vec<Vec<u8>>) -> (String, std::thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/file", listener.local_addr().unwrap());
        let thread = std::thread::spawn(move || {
            let answer = |answer: Vec<u8>| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = String::new();
                let mut lines = BufReader::new(stream.try_clone().unwrap());
                while !request.ends_with("\r\n\r\n") {
                    assert!(
                        lines.read_line(&mut request).unwrap() > 0,
                        "a whole request"
                    );
                }
                stream.write_all(&answer).unwrap();
                request
            };
            answers.into_iter().map(answer).collect()
        });
        (url, thread)
    }

    fn body() -> Vec<u8> {
        (0..300_000u32).map(|i| (i * 7 + i / 256) as u8).collect()
    }

    fn sum(bytes: &[u8]) -> String {
        Sha256::digest(bytes)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// A response whose head announces `length` bytes.
    fn answer(status: &str, length: usize, more: &str, body: &[u8]) -> Vec<u8> {
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{more}Connection: close\r\n\r\n"
        );
        [head.as_bytes(), body].concat()
    }

    fn get(url: &str, sha256: &str, folder: &Path) -> Result<PathBuf, DownloadError> {
        let source = DownloadSource {
            url: url.into(),
            sha256: sha256.into(),
        };
        fetch(&source, folder, &mut |_, _| {}, &AtomicBool::new(false))
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = folder
            .read_dir()
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    const TAG: &str = "ETag: \"one\"\r\n";

    #[test]
    fn a_whole_transfer_is_verified_and_named() {
        let (folder, body) = (tempfile::tempdir().unwrap(), body());
        let (url, server) = serve(vec![answer("200 OK", body.len(), TAG, &body)]);
        let source = DownloadSource {
            url,
            sha256: sum(&body),
        };
        let mut last = (0, 0);
        let folder = folder.path().join("deep/down");
        let path = fetch(
            &source,
            &folder,
            &mut |done, total| last = (done, total),
            &AtomicBool::new(false),
        )
        .unwrap();
        assert_eq!(fs::read(&path).unwrap(), body);
        assert_eq!(last, (300_000, 300_000));
        assert_eq!(names(&folder), [NAME]);
        server.join().unwrap();
        // The file exists, so the server, which has ended, is not asked again.
        assert_eq!(
            fetch(&source, &folder, &mut |_, _| {}, &AtomicBool::new(false)).unwrap(),
            path
        );
    }

    #[test]
    fn an_interrupted_transfer_continues_where_it_ended() {
        let (folder, body) = (tempfile::tempdir().unwrap(), body());
        let range = format!("Content-Range: bytes 100000-299999/300000\r\n{TAG}");
        let (url, server) = serve(vec![
            answer("200 OK", body.len(), TAG, &body[..100_000]),
            answer("206 Partial Content", 200_000, &range, &body[100_000..]),
        ]);
        let error = get(&url, &sum(&body), folder.path()).unwrap_err();
        assert!(
            matches!(error, DownloadError::Broken { done: 100_000, .. }),
            "{error}"
        );
        assert!(!folder.path().join(NAME).exists());
        let path = get(&url, &sum(&body), folder.path()).unwrap();
        assert_eq!(fs::read(path).unwrap(), body);
        assert_eq!(names(folder.path()), [NAME]);
        let asked = server.join().unwrap();
        assert!(!asked[0].to_lowercase().contains("range"));
        let second = asked[1].to_lowercase();
        assert!(
            second.contains("range: bytes=100000-\r\n") && second.contains("if-range: \"one\"\r\n"),
            "{second}"
        );
    }

    #[test]
    fn a_server_that_ignores_ranges_or_has_a_new_version_starts_anew() {
        let (folder, body) = (tempfile::tempdir().unwrap(), body());
        let (url, server) = serve(vec![
            answer("200 OK", body.len(), TAG, &[9; 1_000]),
            answer("200 OK", body.len(), "ETag: \"two\"\r\n", &body),
        ]);
        assert!(get(&url, &sum(&body), folder.path()).is_err());
        let path = get(&url, &sum(&body), folder.path()).unwrap();
        assert_eq!(fs::read(path).unwrap(), body);
        assert!(server.join().unwrap()[1].contains("1000-"));
    }

    #[test]
    fn a_range_that_cannot_be_had_starts_anew() {
        let (folder, body) = (tempfile::tempdir().unwrap(), body());
        let (url, server) = serve(vec![
            answer("200 OK", body.len(), TAG, &[9; 1_000]),
            answer("416 Range Not Satisfiable", 0, "", &[]),
            answer("200 OK", body.len(), TAG, &body),
        ]);
        assert!(get(&url, &sum(&body), folder.path()).is_err());
        assert_eq!(
            fs::read(get(&url, &sum(&body), folder.path()).unwrap()).unwrap(),
            body
        );
        assert!(!server.join().unwrap()[2].to_lowercase().contains("range"));
    }

    #[test]
    fn without_an_etag_a_transfer_starts_anew() {
        let (folder, body) = (tempfile::tempdir().unwrap(), body());
        let (url, server) = serve(vec![
            answer("200 OK", body.len(), "", &[9; 1_000]),
            answer("200 OK", body.len(), "", &body),
        ]);
        assert!(get(&url, &sum(&body), folder.path()).is_err());
        assert!(get(&url, &sum(&body), folder.path()).is_ok());
        assert!(!server.join().unwrap()[1].to_lowercase().contains("range"));
    }

    #[test]
    fn wrong_bytes_are_never_stored_under_the_published_name() {
        let (folder, body) = (tempfile::tempdir().unwrap(), body());
        fs::write(folder.path().join(NAME), "an older file").unwrap();
        let (url, server) = serve(vec![answer("200 OK", body.len(), TAG, &body)]);
        let error = get(&url, SHA256, folder.path()).unwrap_err();
        assert!(
            matches!(&error, DownloadError::Wrong { found, .. } if *found == sum(&body)),
            "{error}"
        );
        assert_eq!(
            fs::read(folder.path().join(NAME)).unwrap(),
            b"an older file"
        );
        assert_eq!(names(folder.path()), [NAME]);
        server.join().unwrap();
    }

    #[test]
    fn refusals_name_the_status_and_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let (url, server) = serve(vec![answer("404 Not Found", 0, "", &[])]);
        let error = get(&url, SHA256, folder.path()).unwrap_err().to_string();
        assert!(error.contains("404") && error.contains(URL_ENV), "{error}");
        server.join().unwrap();
        // The server has ended, so the connection is refused.
        let error = get(&url, SHA256, folder.path()).unwrap_err().to_string();
        assert!(error.contains("cannot be fetched"), "{error}");
    }

    #[test]
    fn a_cancelled_transfer_keeps_the_received_bytes() {
        let (folder, body) = (tempfile::tempdir().unwrap(), body());
        let (url, server) = serve(vec![answer("200 OK", body.len(), TAG, &body)]);
        let (source, cancel) = (
            DownloadSource {
                url,
                sha256: sum(&body),
            },
            AtomicBool::new(false),
        );
        let stop = &mut |done, _| cancel.store(done > 0, Ordering::Relaxed);
        let error = fetch(&source, folder.path(), stop, &cancel).unwrap_err();
        let DownloadError::Cancelled { done } = error else {
            panic!("{error}")
        };
        let kept = fs::read(folder.path().join(format!("{NAME}.part"))).unwrap();
        assert_eq!(kept, body[..done as usize]);
        server.join().unwrap();
    }

    #[test]
    fn two_at_once_do_not_mix() {
        let folder = tempfile::tempdir().unwrap();
        let part = File::create(folder.path().join(format!("{NAME}.part"))).unwrap();
        part.lock().unwrap();
        let error = get("http://127.0.0.1:9/", SHA256, folder.path()).unwrap_err();
        assert!(matches!(error, DownloadError::Busy { .. }), "{error}");
    }
}
