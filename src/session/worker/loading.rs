//! Loading the data set while commands are taken up.

use super::{Inbox, Result, SessionError};
use crate::data::{DataError, Dataset};
use crate::domain::report::State;
use crate::session::client::EventSender;
use crate::session::protocol::Event;
use std::path::Path;
use std::time::{Duration, Instant};

/// Loads the data set. Takes the path at which a resumed run had it, and a callback for progress as (done, total).
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

/// Loads the data on its own thread, so that a command to quit ends the wait at once even if a read blocks (a network
/// drive). Returns None if the session is to end; the thread is then left running. Other commands are kept in `inbox`.
///
/// # Errors
/// Returns an error if the data cannot be loaded or the system gives no thread.
pub(super) fn load_data(
    tell: &EventSender,
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
                    // Nobody listens once the session is to end.
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
                Ok((done, total)) => tell.event(Event::State(loading("images", done, total))),
                Err(_) => reports = None,
            },
            recv(loaded) -> data => match data {
                Ok(data) => return Ok(Some(data?)),
                // The thread panicked: panic here with its message.
                Err(_) => match thread.join() {
                    Err(panic) => std::panic::resume_unwind(panic),
                    Ok(()) => return Ok(None),
                },
            },
            recv(tell.requests) -> request => {
                if request.map_or(true, |request| inbox.ends_early(request, tell)) {
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
