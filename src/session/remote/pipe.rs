//! The far end of a viewer on another computer: passes the protocol's lines between a session's socket and this
//! process's standard input and output, as `cifar-tui attach --pipe` does.

use crate::session::attach::{self, AttachError, RunningSession};
use crate::session::protocol::PIPE_HEARTBEAT;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// A connection to a session whose first line has arrived.
pub struct Pipe {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
    first: Vec<u8>,
    /// Interval of the empty lines while the session sends nothing.
    heartbeat: Duration,
}

impl Pipe {
    /// Connects to a session.
    ///
    /// # Errors
    /// Returns an error if the session cannot be reached or does not answer in time.
    pub fn open(session: &RunningSession) -> Result<Self, AttachError> {
        let (stream, lines, first) = attach::open(session, attach::FIRST_MESSAGE_TIMEOUT)?;
        Ok(Pipe {
            stream,
            lines,
            first,
            heartbeat: PIPE_HEARTBEAT,
        })
    }

    /// Passes lines on in both directions until the session or `input` ends.
    ///
    /// # Errors
    /// Returns an error if `output` cannot be written, or the connection to the session fails.
    pub fn relay(
        self,
        mut input: impl Read + Send + 'static,
        output: &mut impl Write,
    ) -> io::Result<()> {
        let mut commands = self.stream.try_clone()?;
        std::thread::Builder::new()
            .name("commands".into())
            .spawn(move || {
                // An error of either side ends the viewer, like the end of the input.
                let _ = io::copy(&mut input, &mut commands);
                let _ = commands.shutdown(Shutdown::Write);
            })?;
        self.stream.set_read_timeout(Some(self.heartbeat))?;
        let mut lines = self.lines;
        let mut is_between_lines = self.first.ends_with(b"\n");
        output.write_all(&self.first)?;
        output.flush()?;
        loop {
            match lines.fill_buf() {
                Ok([]) => return Ok(()),
                Ok(bytes) => {
                    output.write_all(bytes)?;
                    is_between_lines = bytes.ends_with(b"\n");
                    let count = bytes.len();
                    lines.consume(count);
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock if is_between_lines => output.write_all(b"\n")?,
                    ErrorKind::WouldBlock | ErrorKind::Interrupted => {}
                    // The session has closed its end before it read everything.
                    ErrorKind::ConnectionReset => return Ok(()),
                    _ => return Err(error),
                },
            }
            output.flush()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::{Sender, unbounded};
    use std::os::unix::net::UnixListener;
    use std::path::Path;
    use std::thread::JoinHandle;

    const SNAPSHOT: &str = "{\"v\":1,\"event\":\"snapshot\",\"events\":[]}\n";

    /// A session that sends a snapshot and then does `then` with its end of the connection.
    fn session(
        folder: &Path,
        then: impl FnOnce(UnixStream) + Send + 'static,
    ) -> (RunningSession, JoinHandle<()>) {
        let socket = folder.join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(SNAPSHOT.as_bytes()).unwrap();
            then(stream);
        });
        let session = RunningSession::of_test("one", folder, &socket, 1);
        (session, thread)
    }

    #[test]
    fn lines_pass_unchanged_until_either_side_ends() {
        let folder = tempfile::tempdir().unwrap();
        let (found, thread) = session(folder.path(), |mut stream| {
            let mut commands = String::new();
            stream.read_to_string(&mut commands).unwrap();
            write!(stream, "got {}: {commands}", commands.len()).unwrap();
        });
        let mut out = Vec::new();
        let pipe = Pipe::open(&found).unwrap();
        pipe.relay(&b"a command\nand half a"[..], &mut out).unwrap();
        thread.join().unwrap();
        let wanted = format!("{SNAPSHOT}got 20: a command\nand half a");
        assert_eq!(String::from_utf8(out).unwrap(), wanted);

        let folder = tempfile::tempdir().unwrap();
        let (found, thread) = session(folder.path(), drop);
        let (_never_written, input) = UnixStream::pair().unwrap();
        let mut out = Vec::new();
        Pipe::open(&found).unwrap().relay(input, &mut out).unwrap();
        thread.join().unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), SNAPSHOT);
    }

    /// Notifies of each piece that is written.
    struct Pieces(Sender<Vec<u8>>);

    impl Write for Pieces {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_empty_line_shows_that_the_connection_holds_but_none_cuts_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let (sender, pieces) = unbounded();
        let (found, thread) = session(folder.path(), move |mut stream| {
            assert_eq!(pieces.recv().unwrap(), SNAPSHOT.as_bytes());
            for _ in 0..3 {
                assert_eq!(pieces.recv().unwrap(), b"\n");
            }
            stream.write_all(b"half ").unwrap();
            let half = |piece: &Vec<u8>| piece == b"half ";
            pieces.iter().find(half).unwrap();
            // Several heartbeats fit into this time.
            let soon = Duration::from_millis(50);
            assert!(pieces.recv_timeout(soon).is_err());
            stream.write_all(b"a line\n").unwrap();
            assert_eq!(pieces.recv().unwrap(), b"a line\n");
            assert_eq!(pieces.recv().unwrap(), b"\n");
            drop(stream);
            pieces.iter().for_each(drop);
        });
        let mut pipe = Pipe::open(&found).unwrap();
        pipe.heartbeat = Duration::from_millis(2);
        let (_never_written, input) = UnixStream::pair().unwrap();
        pipe.relay(input, &mut Pieces(sender)).unwrap();
        thread.join().unwrap();
    }
}
