use super::super::attach_command;
use super::*;
use crate::train::files::faults::{Fault, inject};
use std::os::unix::ffi::OsStrExt;

fn owner(name: &str) -> Owner {
    let kernel = name.bytes().fold(0u32, |sum, b| sum * 31 + u32::from(b));
    Owner::new(HostId {
        name: name.into(),
        kernel: format!("{kernel:08x}"),
    })
}

fn take(folder: &Path, name: &str) -> Result<Lease, RunError> {
    Lease::take(folder, &owner(name), &mut Watch::default(), Instant::now())
}

fn refusal(outcome: Result<Lease, RunError>) -> InUse {
    match outcome.err() {
        Some(RunError::InUse(in_use)) => *in_use,
        other => panic!("{other:?}"),
    }
}

/// Names and contents of a folder's files.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|f| f.unwrap())
        .filter(|f| f.file_type().unwrap().is_file())
        .map(|f| {
            (
                f.file_name().into_string().unwrap(),
                fs::read(f.path()).unwrap(),
            )
        })
        .collect();
    all.sort();
    all
}

/// The names of a folder's leases.
fn names(folder: &Path) -> Vec<String> {
    let all = files(folder).into_iter().map(|f| f.0);
    all.filter(|name| name.starts_with(FREE)).collect()
}

impl Lease {
    fn own_name(&self) -> String {
        format!("{HELD}{}", self.shared.id)
    }

    /// Simulates that the owner's process is killed: the system releases its lock, and the lease file stays.
    fn killed(self) {
        let (folder, own) = (self.shared.inner().folder.clone(), self.own_name());
        drop(self);
        fs::rename(folder.join(FREE), folder.join(own)).unwrap();
    }

    /// Simulates a file system whose locks work on each computer alone: another computer sees no lock.
    fn with_local_locks(mut self) -> Self {
        self._lock = None;
        self
    }
}

/// A clock that advances only in `wait`, and calls a function there.
struct Hands<F: FnMut(Duration) -> bool> {
    now: Instant,
    waited: Duration,
    meanwhile: F,
}

impl<F: FnMut(Duration) -> bool> Hands<F> {
    fn new(meanwhile: F) -> Self {
        Hands {
            now: Instant::now(),
            waited: Duration::ZERO,
            meanwhile,
        }
    }
}

impl<F: FnMut(Duration) -> bool> Clock for Hands<F> {
    fn now(&self) -> Instant {
        self.now + self.waited
    }

    fn wait(&mut self, time: Duration) -> bool {
        self.waited += time;
        assert!(self.waited < 3 * STALE_AFTER, "it waits for ever");
        (self.meanwhile)(self.waited)
    }
}

#[test]
fn a_run_is_one_session_s_and_says_whose() {
    let folder = tempfile::tempdir().unwrap();
    let mut mine = owner("laptop");
    mine.socket = Some(Arc::new(Mutex::new("/run/user/1/cifar-tui/7.sock".into())));
    let lease = Lease::take(folder.path(), &mine, &mut Watch::default(), Instant::now()).unwrap();
    assert!(lease.warnings.is_empty());
    assert_eq!(names(folder.path()), [lease.own_name()]);
    let text = fs::read_to_string(folder.path().join(lease.own_name())).unwrap();
    let process = format!("process = {}", std::process::id());
    for part in [
        "host = \"laptop\"",
        &process,
        "7.sock",
        "counter = 1",
        "lock = \"exclusive\"",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    lease.shared.beat().unwrap();
    let text = fs::read_to_string(folder.path().join(lease.own_name())).unwrap();
    assert!(text.contains("counter = 2"), "{text}");

    let second = refusal(take(folder.path(), "laptop"));
    assert!(second.here && second.certain);
    assert_eq!(second.holder.process, std::process::id());
    let seen = Watch::default().look(folder.path(), &mine.host, Instant::now());
    assert_eq!(seen, Some(second));
    drop(lease);
    assert_eq!(names(folder.path()), [FREE]);
    let look = |name| Watch::default().look(folder.path(), &owner(name).host, Instant::now());
    assert_eq!((look("laptop"), look("gpu-7")), (None, None));
    take(folder.path(), "gpu-7").unwrap();
}

#[test]
fn on_one_kernel_a_killed_session_s_run_is_free_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let lease = take(folder.path(), "laptop").unwrap();
    let name = lease.own_name();
    lease.killed();
    assert_eq!(names(folder.path()), [name]);
    let laptop = owner("laptop").host;
    assert_eq!(
        Watch::default().look(folder.path(), &laptop, Instant::now()),
        None
    );
    let again = take(folder.path(), "laptop").unwrap();
    assert!(again.warnings.is_empty());
    assert_eq!(names(folder.path()), [again.own_name()]);
}

#[test]
fn a_session_on_another_computer_is_found_by_its_counter_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let theirs = take(folder.path(), "gpu-7").unwrap().with_local_locks();
    let mut said = Vec::new();
    let mut clock = Hands::new(|waited| {
        // The counter changes every three seconds, as normal.
        if waited.as_secs().is_multiple_of(3) {
            theirs.shared.beat().unwrap();
        }
        true
    });
    let outcome = Lease::wait_and_take(folder.path(), &owner("laptop"), &mut clock, |in_use| {
        said.push(in_use.to_string());
    });
    assert!(clock.waited <= 2 * HEARTBEAT, "{:?}", clock.waited);
    let in_use = refusal(outcome.map(|_| unreachable!()));
    assert!(in_use.certain && !in_use.here);
    let command = attach_command(folder.path(), Some("gpu-7"));
    assert!(command.starts_with("cifar-tui attach gpu-7:/"), "{command}");
    let text = in_use.to_string();
    assert!(
        text.contains("open on gpu-7") && text.contains(&command),
        "{text}"
    );
    assert!(
        !text.contains("60 s") && said.len() == 1 && said[0].contains("60 s"),
        "{said:?}"
    );
    theirs.shared.check().unwrap();
    assert_eq!(names(folder.path()), [theirs.own_name()]);
}

#[test]
fn a_lease_that_stands_still_for_a_minute_is_taken_over_and_its_owner_stops_when_it_wakes() {
    let folder = tempfile::tempdir().unwrap();
    let theirs = take(folder.path(), "gpu-7").unwrap().with_local_locks();
    let held = theirs.own_name();
    let mut clock = Hands::new(|waited| {
        assert!(waited <= STALE_AFTER + HEARTBEAT);
        assert_eq!(names(folder.path()), std::slice::from_ref(&held));
        true
    });
    let taken = Lease::wait_and_take(folder.path(), &owner("laptop"), &mut clock, |_| {});
    assert!(clock.waited >= STALE_AFTER, "{:?}", clock.waited);
    let mine = taken.unwrap().unwrap();
    assert_eq!(mine.warnings.len(), 1);
    assert!(mine.warnings[0].contains("gpu-7") && mine.warnings[0].contains("60 s"));
    assert_eq!(names(folder.path()), [mine.own_name()]);

    // The suspended session continues: it writes nothing more, not even its counter, and reports who has the run.
    let before = files(folder.path());
    let permit = theirs.permit();
    assert!(theirs.lost().is_none());
    let why = permit().unwrap_err().to_string();
    assert!(
        why.contains("taken over") && why.contains("on laptop"),
        "{why}"
    );
    assert!(theirs.shared.beat().is_err() && permit().is_err());
    assert_eq!(theirs.on_loss().try_iter().count(), 1);
    assert_eq!(theirs.lost().unwrap().by.as_ref().unwrap().host, "laptop");
    drop(theirs);
    assert_eq!(files(folder.path()), before);
    mine.shared.check().unwrap();
}

#[test]
fn the_counter_notices_the_loss_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let theirs = take(folder.path(), "gpu-7").unwrap().with_local_locks();
    let other = format!("{HELD}00000000-1");
    fs::rename(
        folder.path().join(theirs.own_name()),
        folder.path().join(&other),
    )
    .unwrap();
    assert!(theirs.shared.beat().is_err());
    assert!(theirs.lost().is_some() && theirs.on_loss().try_recv().is_ok());
    assert_eq!(names(folder.path()), [other]);
}

#[test]
fn waiting_ends_when_the_one_who_waits_gives_up() {
    let folder = tempfile::tempdir().unwrap();
    let _theirs = take(folder.path(), "gpu-7").unwrap().with_local_locks();
    let mut clock = Hands::new(|waited| waited < Duration::from_secs(5));
    let taken = Lease::wait_and_take(folder.path(), &owner("laptop"), &mut clock, |_| {});
    assert!(taken.unwrap().is_none());
    assert_eq!(clock.waited, Duration::from_secs(5));
}

#[test]
fn of_two_that_take_a_run_at_the_same_time_one_gets_it() {
    let folder = tempfile::tempdir().unwrap();
    // Both sessions saw the same stale lease.
    let theirs = take(folder.path(), "gpu-7").unwrap();
    theirs.killed();
    let seen = leases(folder.path()).unwrap();
    assert!(rename_all(folder.path(), &seen, "b-1").unwrap());
    assert!(!rename_all(folder.path(), &seen, "c-1").unwrap());
    assert_eq!(names(folder.path()), [format!("{HELD}b-1")]);
    // Both sessions saw no lease, as in a run of an older version of the program.
    fs::remove_file(folder.path().join(format!("{HELD}b-1"))).unwrap();
    assert!(rename_all(folder.path(), &[], "b-2").unwrap());
    assert!(!rename_all(folder.path(), &[], "c-2").unwrap());
    assert_eq!(names(folder.path()), [FREE, &format!("{HELD}b-2")]);
    // A free lease beside it has no effect.
    let laptop = owner("laptop");
    let in_use = Watch::default().look(folder.path(), &laptop.host, Instant::now());
    assert!(in_use.is_some());
    // Each session has renamed one of two leases: neither keeps the run.
    let folder = tempfile::tempdir().unwrap();
    for name in ["x-1", "y-1"] {
        fs::write(folder.path().join(format!("{HELD}{name}")), "").unwrap();
    }
    let seen = leases(folder.path()).unwrap();
    fs::rename(
        folder.path().join(&seen[1].file),
        folder.path().join("lease-d-1"),
    )
    .unwrap();
    assert!(!rename_all(folder.path(), &seen, "e-1").unwrap());
}

#[test]
fn a_crash_at_any_moment_of_taking_and_freeing_a_run_leaves_it_to_the_next() {
    let taken = |fault| {
        let folder = tempfile::tempdir().unwrap();
        take(folder.path(), "laptop").unwrap().killed();
        let injected = inject(folder.path(), fault);
        let lease = take(folder.path(), "laptop");
        let freed = lease.is_ok();
        drop(lease);
        (injected.done(), freed, folder)
    };
    let (operations, ..) = taken(None);
    assert!(operations.len() >= 4, "{operations:?}");
    for at in 0..operations.len() {
        for fault in [Fault::CrashBefore { at }, Fault::CrashAfter { at }] {
            let (_, _, folder) = taken(Some(fault));
            assert_eq!(names(folder.path()).len(), 1, "{fault:?}");
            let again = take(folder.path(), "laptop").unwrap();
            assert_eq!(names(folder.path()), [again.own_name()], "{fault:?}");
            drop(again);
            // Another computer treats the run as in use until it has watched the lease for long enough or the lease is
            // released.
            let (_, _, folder) = taken(Some(fault));
            let freed = names(folder.path()) == [FREE];
            let mut clock = Hands::new(|_| true);
            let other = Lease::wait_and_take(folder.path(), &owner("gpu-7"), &mut clock, |_| {});
            assert_eq!(names(folder.path()), [other.unwrap().unwrap().own_name()]);
            assert_eq!(clock.waited < STALE_AFTER, freed, "{fault:?}");
        }
    }
}

#[test]
fn without_locks_the_lease_alone_keeps_others_out_and_one_warning_says_so() {
    for code in [libc::ENOLCK, libc::ENOTSUP] {
        let folder = tempfile::tempdir().unwrap();
        let deny = Fault::Deny {
            op: FileOp::Lock,
            code,
        };
        let _injected = inject(folder.path(), Some(deny));
        let lease = take(folder.path(), "laptop").unwrap();
        assert_eq!(lease.warnings.len(), 1);
        assert!(
            lease.warnings[0].contains("no locks"),
            "{:?}",
            lease.warnings
        );
        for name in ["laptop", "gpu-7"] {
            let second = refusal(take(folder.path(), name));
            assert_eq!((second.certain, second.here), (false, name == "laptop"));
            let mut clock = Hands::new(|_| lease.shared.beat().is_ok());
            let outcome = Lease::wait_and_take(folder.path(), &owner(name), &mut clock, |_| {});
            assert!(refusal(outcome.map(|_| unreachable!())).certain);
        }
        lease.killed();
        let mut clock = Hands::new(|_| true);
        let again = Lease::wait_and_take(folder.path(), &owner("laptop"), &mut clock, |_| {});
        assert!(again.unwrap().is_some() && clock.waited >= STALE_AFTER);
    }
    let folder = tempfile::tempdir().unwrap();
    let deny = Fault::Deny {
        op: FileOp::Lock,
        code: libc::EIO,
    };
    let _injected = inject(folder.path(), Some(deny));
    let error = take(folder.path(), "laptop").err().unwrap();
    assert!(matches!(error, RunError::Io { .. }), "{error}");
}

#[test]
fn who_only_reads_the_lock_does_not_keep_the_owner_out() {
    let folder = tempfile::tempdir().unwrap();
    drop(take(folder.path(), "laptop").unwrap());
    let reader = File::open(folder.path().join(LOCK)).unwrap();
    reader.lock_shared().unwrap();
    let lease = take(folder.path(), "laptop").unwrap();
    let text = fs::read_to_string(folder.path().join(lease.own_name())).unwrap();
    assert!(text.contains("lock = \"shared\""), "{text}");
    assert!(!refusal(take(folder.path(), "laptop")).certain);
    drop(reader);
    assert!(!refusal(take(folder.path(), "laptop")).certain);
    // After its process has ended, the exclusive lock is available again, which proves it.
    lease.killed();
    take(folder.path(), "laptop").unwrap();
}

#[test]
fn a_copied_run_is_free_and_the_run_it_was_copied_from_is_not_touched() {
    let runs = tempfile::tempdir().unwrap();
    let [run, copy] = ["run", "copy"].map(|name| runs.path().join(name));
    fs::create_dir(&run).unwrap();
    fs::create_dir(&copy).unwrap();
    let lease = take(&run, "laptop").unwrap();
    for (name, bytes) in files(&run) {
        fs::write(copy.join(name), bytes).unwrap();
    }
    let other = take(&copy, "laptop").unwrap();
    assert_eq!(names(&copy), [other.own_name()]);
    lease.shared.check().unwrap();
    assert_eq!(names(&run), [lease.own_name()]);
}

#[test]
fn a_lease_follows_its_folder_and_a_folder_that_is_gone_is_no_loss() {
    let runs = tempfile::tempdir().unwrap();
    let [old, new] = ["old", "new"].map(|name| runs.path().join(name));
    fs::create_dir(&old).unwrap();
    let lease = take(&old, "laptop").unwrap();
    fs::rename(&old, &new).unwrap();
    let error = lease.shared.check().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(lease.lost().is_none());
    lease.moved_to(&new);
    lease.shared.beat().unwrap();
    drop(lease);
    assert_eq!(names(&new), [FREE]);
}

#[test]
fn looking_changes_nothing_and_nothing_in_a_folder_makes_it_fail_or_wait() {
    let folder = tempfile::tempdir().unwrap();
    let look = || Watch::default().look(folder.path(), &owner("laptop").host, Instant::now());
    assert_eq!(look(), None);
    assert!(files(folder.path()).is_empty());
    // Pipes with the names of the files, a folder, random bytes, control characters.
    for name in [LOCK, FREE, "lease-pipe"] {
        let path = folder.path().join(name);
        let path = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
        // SAFETY: the path is a string that ends in 0.
        assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
    }
    fs::create_dir(folder.path().join("lease-folder")).unwrap();
    assert_eq!(look(), None);
    fs::remove_file(folder.path().join(LOCK)).unwrap();
    let held = folder.path().join("lease-ffffffff-1");
    for text in [
        &b"\xff\0\x1b]0;title\x07"[..],
        &vec![b'x'; 1 << 20],
        b"owner = 1",
        b"",
    ] {
        fs::write(&held, text).unwrap();
        let in_use = look().unwrap();
        assert!(!in_use.here && !in_use.certain);
        assert_eq!(in_use.holder, Holder::unknown());
    }
    let before = files(folder.path());
    let holder = Holder {
        owner: "ffffffff-1".into(),
        host: "a\u{1b}[2J\nb".into(),
        ..Holder::unknown()
    };
    fs::write(&held, holder.text().unwrap()).unwrap();
    let text = look().unwrap().to_string();
    assert!(!text.contains(char::is_control), "{text:?}");
    assert_eq!(files(folder.path()).len(), before.len());
}

#[test]
fn commands_that_attach_are_quoted() {
    let plain = attach_command(Path::new("/nfs/runs/one"), Some("gpu-7"));
    assert_eq!(plain, "cifar-tui attach gpu-7:/nfs/runs/one");
    let odd = attach_command(Path::new("/my runs/one"), Some("gpu-7"));
    assert_eq!(odd, "cifar-tui attach 'gpu-7:/my runs/one'");
    let here = attach_command(Path::new("/my runs/one"), None);
    assert_eq!(here, "cifar-tui attach one --runs '/my runs'");
}
