//! Loads the data set and handles commands in the meantime.

use super::{Inbox, Result, SessionError};
use crate::data::{DataError, Dataset};
use crate::domain::report::State;
use crate::session::client::EventSender;
use crate::session::protocol::Event;
use std::path::Path;
use std::time::{Duration, Instant};

/// A function that loads the data set. Its arguments are the path at which a resumed run found it, and a callback for
/// the progress (done, total).
pub(crate) trait Load:
    FnOnce(Option<&Path>, &mut dyn FnMut(u64, u64)) -> std::result::Result<Dataset, DataError>
    + Send
    + 'static
{
}

impl<T> Load for T where
    T: FnOnce(Option<&Path>, &mut dyn FnMut(u64, u64)) -> std::result::Result<Dataset, DataError>
        + Send
        + 'static
{
}

/// Loads the data on a separate thread, so that a command to quit takes effect at once even if a read blocks (a network
/// drive). Returns None if the session is to end; the thread then keeps running. Other commands are queued in `inbox`.
///
/// # Errors
/// Returns an error if the data cannot be loaded or the thread cannot be started.
pub(super) fn load_data(
    sender: &EventSender,
    load: impl FnOnce(&mut dyn FnMut(u64, u64)) -> std::result::Result<Dataset, DataError>
    + Send
    + 'static,
    interval: Duration,
    inbox: &mut Inbox,
) -> Result<Option<Dataset>> {
    let (report, reports) = crossbeam_channel::unbounded();
    let (done, loaded) = crossbeam_channel::bounded(1);
    let thread = std::thread::Builder::new()
        .name("load".into())
        .spawn(move || {
            let mut reported_at = Instant::now();
            let data = load(&mut |done, total| {
                if reported_at.elapsed() >= interval {
                    reported_at = Instant::now();
                    // This fails once the session is to end.
                    let _ = report.send((done, total));
                }
            });
            let _ = done.send(data);
        })
        .map_err(SessionError::Thread)?;
    let mut reports = Some(reports);
    let silent = crossbeam_channel::never();
    loop {
        crossbeam_channel::select! {
            recv(reports.as_ref().unwrap_or(&silent)) -> report => match report {
                Ok((done, total)) => sender.event(Event::State(loading("images", done, total))),
                Err(_) => reports = None,
            },
            recv(loaded) -> data => match data {
                Ok(data) => return Ok(Some(data?)),
                // The thread panicked: panic with its message.
                Err(_) => match thread.join() {
                    Err(panic) => std::panic::resume_unwind(panic),
                    Ok(()) => return Ok(None),
                },
            },
            recv(sender.requests) -> request => {
                if request.map_or(true, |request| inbox.queue_unless_quit(request, sender)) {
                    return Ok(None);
                }
            }
        }
    }
}

pub(super) fn loading(what: &str, done: u64, total: u64) -> State {
    State::Loading {
        what: what.into(),
        done,
        total,
    }
}
