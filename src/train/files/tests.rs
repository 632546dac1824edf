use super::faults::{Fault, inject};
use super::*;

#[test]
fn lines_wait_for_room_and_are_written_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lines");
    let mut lines = Folder::from(folder.path()).append_to("lines", 0).unwrap();
    let short = inject(folder.path(), Some(Fault::Short { at: 0 }));
    lines.add(b"one\n").unwrap();
    let error = lines.flush().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    assert_eq!(fs::read(&path).unwrap(), b"on");
    drop(short);
    let full = inject(folder.path(), Some(Fault::Full));
    lines.add(b"two\n").unwrap();
    assert!(lines.flush().is_err());
    drop(full);
    lines.add(b"three\n").unwrap();
    lines.flush().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"one\ntwo\nthree\n");
    lines.add(b"gone").unwrap();
    lines.cut(4).unwrap();
    lines.add(b"2\n").unwrap();
    drop(lines);
    assert_eq!(fs::read(&path).unwrap(), b"one\n2\n");
}

#[test]
fn a_pipe_in_place_of_a_file_is_refused_without_blocking() {
    let folder = tempfile::tempdir().unwrap();
    let mine = Folder::from(folder.path());
    for name in ["lines", "state.tmp"] {
        crate::files::tests::make_fifo(&folder.path().join(name));
    }
    for outcome in [
        mine.append_to("lines", 0).map(drop),
        mine.write("state", b"x"),
    ] {
        let why = outcome.unwrap_err().to_string();
        assert!(why.contains("a named pipe (FIFO), not a regular"), "{why}");
    }
    // The permit allows the operation again.
    mine.write("state", b"x").unwrap();
    assert_eq!(fs::read(folder.path().join("state")).unwrap(), b"x");
}

#[test]
fn strays_are_swept_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.tmp", "last.safetensors.tmp", "note.txt"] {
        fs::write(folder.path().join(name), "x").unwrap();
    }
    fs::create_dir(folder.path().join("folder.tmp")).unwrap();
    Folder::from(folder.path()).sweep().unwrap();
    let names: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|f| f.unwrap().file_name())
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

#[test]
fn without_its_permit_a_folder_does_not_change() {
    let folder = tempfile::tempdir().unwrap();
    let allowed = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let asked = Arc::clone(&allowed);
    let permit: Permit = Arc::new(
        move || match asked.load(std::sync::atomic::Ordering::SeqCst) {
            true => Ok(()),
            false => Err(io::Error::other("not any more")),
        },
    );
    let mine = Folder::with_permit(folder.path(), permit);
    mine.write("a", b"1").unwrap();
    let mut lines = mine.append_to("lines", 0).unwrap();
    lines.add(b"one\n").unwrap();
    lines.flush().unwrap();
    fs::write(folder.path().join("b.tmp"), "another's").unwrap();
    let all = || {
        let mut all: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|f| f.unwrap().path())
            .map(|path| (fs::read(&path).unwrap(), path))
            .collect();
        all.sort();
        all
    };
    let before = all();
    allowed.store(false, std::sync::atomic::Ordering::SeqCst);
    lines.add(b"two\n").unwrap();
    let refused = [
        mine.write("a", b"2"),
        mine.write("b", b"2"),
        mine.keep_as("a", "c"),
        mine.sweep(),
        mine.append_to("lines", 0).map(drop),
        mine.append_to_new("d").map(drop),
        lines.flush(),
        lines.cut(0),
    ];
    for outcome in refused {
        assert_eq!(outcome.unwrap_err().to_string(), "not any more");
    }
    lines.add(b"three\n").unwrap();
    drop(lines);
    assert_eq!(all(), before);
}
