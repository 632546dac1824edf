//! Downloads CIFAR-10 while the session runs.

use super::client::EventSender;
use super::protocol::Event;
use crate::data::download::{DownloadError, DownloadSource, fetch};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Minimum time between two reports.
const REPORT_INTERVAL: Duration = Duration::from_millis(100);

/// A running or finished download. Dropping it stops the download; the data received so far are kept for the next
/// attempt.
pub(super) struct Download {
    cancel: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Download {
    /// Starts a download into `folder` (None: the usual data folder) and reports it as `Event::Download`.
    ///
    /// # Errors
    /// Returns an error if the system cannot start a thread.
    pub fn start(folder: Option<PathBuf>, sender: EventSender) -> std::io::Result<Self> {
        let cancel = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&cancel);
        let thread = std::thread::Builder::new()
            .name("download".into())
            .spawn(move || run(folder, &sender, &stop))?;
        Ok(Download {
            cancel,
            thread: Some(thread),
        })
    }

    pub fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        self.cancel.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // The thread has reported its errors as events.
            let _ = thread.join();
        }
    }
}

fn run(folder: Option<PathBuf>, sender: &EventSender, cancel: &AtomicBool) {
    let (mut done, mut total) = (0, 0);
    let mut told: Option<Instant> = None;
    let mut progress = |now, of| {
        (done, total) = (now, of);
        if told.is_none_or(|t| t.elapsed() >= REPORT_INTERVAL) {
            told = Some(Instant::now());
            sender.event(Event::Download {
                done,
                total,
                finished: false,
                error: None,
            });
        }
    };
    let outcome = folder
        .or_else(crate::data::data_folder)
        .ok_or(DownloadError::NoFolder)
        .and_then(|folder| fetch(&DownloadSource::new(None), &folder, &mut progress, cancel));
    sender.event(Event::Download {
        done,
        total,
        finished: true,
        error: outcome.err().map(|e| e.to_string()),
    });
}
