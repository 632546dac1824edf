//! Tests of faults: a process killed at any moment, damaged files, hostile archives.

use crate::support::{Place, json, write_batches};
use cifar_tui::train::checkpoint::Checkpoint;
use cifar_tui::train::saver::{LAST, PREVIOUS};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Networks with checkpoints of some kB, some hundred kB and some MB.
const SIZES: [&str; 3] = [
    "conv 4 s4, relu, pool, drop, dense 10",
    "conv 8 s4, relu, dense 64, relu, dense 10",
    "conv 8 s2, relu, dense 256, relu, dense 10",
];

/// A small deterministic random generator (xorshift).
struct Xorshift(u64);

impl Xorshift {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

fn content(path: &Path) -> Checkpoint {
    let mut checkpoint = Checkpoint::read(path).unwrap();
    let run_state = &mut checkpoint.run_state;
    (run_state.started, run_state.elapsed) = (0.0, 0.0);
    (run_state.metrics_bytes, run_state.totals.seconds) = (0, 0.0);
    run_state.run.clear();
    checkpoint
}

/// The step and epoch events in the metrics, without times.
fn lines(place: &Place, run: &str) -> Vec<serde_json::Value> {
    let mut lines = json(&place.read(&format!("runs/{run}/metrics.jsonl")));
    lines.retain(|l| l["event"] != "started");
    for line in &mut lines {
        for key in ["images_per_s", "elapsed", "eta"] {
            line.as_object_mut().unwrap().remove(key);
        }
    }
    lines
}

/// Temporary files that a save left behind.
fn strays(run: &Path) -> usize {
    let Ok(files) = std::fs::read_dir(run) else {
        return 0;
    };
    let names = files.map(|f| f.unwrap().file_name());
    names
        .filter(|n| n.to_string_lossy().ends_with(".tmp"))
        .count()
}

/// Kills one run `kills` times with SIGKILL at random moments and resumes it each time. Then lets it end and compares
/// it with a run that was not killed.
fn killed(arch: &str, kills: u64, epochs: &str, random: &mut Xorshift) {
    let place = Place::with_data();
    let common = [
        "--arch", arch, "--epochs", epochs, "--batch", "16", "--runs", "runs",
    ];
    let common = [&["train", "--device", "cpu", "--data", "data"][..], &common].concat();
    place
        .run(&[&common[..], &["--name", "whole"]].concat())
        .exits(0);
    let (run, last) = (
        place.path("runs/killed"),
        place.path("runs/killed").join(LAST),
    );
    let (mut done, mut landed_in_save, mut longest) = (0, 0, 0);
    while done < kills {
        let resumed = [
            "train", "--device", "cpu", "--data", "data", "--runs", "runs", "--resume", "killed",
            "--json",
        ];
        let fresh = [&common[..], &["--name", "killed", "--json"]].concat();
        let args = if last.exists() {
            &resumed[..]
        } else {
            &fresh[..]
        };
        if !last.exists() && run.exists() {
            // Killed before its first save.
            std::fs::remove_dir_all(&run).unwrap();
        }
        let mut child = place.command(args).stdout(Stdio::piped()).spawn().unwrap();
        let mut told = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        // Wait for a random number of saves, and then for some microseconds, so that the kill hits a step or the next
        // save.
        let mut saves = random.below(6);
        while told.read_line(&mut line).unwrap() > 0 {
            let saved =
                line.contains("\"event\":\"checkpoint\"") && !line.contains("\"best\":true");
            line.clear();
            saves -= u64::from(saved && saves > 0);
            if saves == 0 {
                break;
            }
        }
        std::thread::sleep(Duration::from_micros(random.below(20_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        done += 1;
        landed_in_save += strays(&run);
        // Every checkpoint reported as saved must exist.
        let mut saved = None;
        line.clear();
        while told.read_line(&mut line).unwrap() > 0 {
            if let Ok(event) = serde_json::from_str::<serde_json::Value>(&line)
                && event["event"] == "checkpoint"
            {
                saved = event["step"].as_u64();
            }
            line.clear();
        }
        if last.exists() {
            let step = Checkpoint::read(&last).unwrap().run_state.step;
            assert!(
                saved.is_none_or(|s| s <= step),
                "{saved:?} was saved, {step} is there"
            );
            longest = longest.max(step);
        } else {
            assert_eq!(saved, None);
        }
        if run.join(PREVIOUS).exists() {
            Checkpoint::read(&run.join(PREVIOUS)).unwrap();
        }
        if std::fs::read_to_string(run.join("metrics.jsonl")).is_ok_and(|m| m.contains("\"done\""))
        {
            // The run had ended before it was killed: start another one.
            std::fs::remove_dir_all(&run).unwrap();
        }
    }
    assert!(longest > 0, "never killed after a step was saved");
    if last.exists() {
        place
            .run(&[
                "train", "--device", "cpu", "--data", "data", "--runs", "runs", "--resume",
                "killed",
            ])
            .exits(0);
        assert_eq!(
            content(&last),
            content(&place.path("runs/whole").join(LAST))
        );
        assert_eq!(lines(&place, "killed"), lines(&place, "whole"));
        assert_eq!(strays(&run), 0);
    }
    println!("{arch}: {kills} kills, {landed_in_save} within a save, as far as step {longest}");
}

#[test]
fn a_run_killed_at_any_moment_resumes_with_identical_results() {
    killed(SIZES[0], 4, "30", &mut Xorshift(0x1234_5678_9abc_def1));
}

/// Kills runs of a network 20 times each.
fn kill_runs(runs: u32, arch: &str, mut random: Xorshift) {
    for _ in 0..runs {
        killed(arch, 20, "120", &mut random);
    }
}

#[test]
#[ignore = "the long form: 300 kills over three sizes"]
fn three_hundred_kills() {
    for arch in SIZES {
        kill_runs(5, arch, Xorshift(0x0dd_ba11_cafe_f00d));
    }
}

#[test]
#[ignore = "the longest form: 1,000 kills"]
fn a_thousand_kills_of_a_small_network() {
    kill_runs(50, SIZES[0], Xorshift(0x0dd_ba11_cafe_f00d));
}

#[test]
#[ignore = "the longest form: 1,000 kills"]
fn a_thousand_kills_of_a_middling_network() {
    kill_runs(50, SIZES[1], Xorshift(0x5eed_0fca_b1e5_0002));
}

#[test]
#[ignore = "the longest form: 1,000 kills"]
fn a_thousand_kills_of_a_large_network() {
    kill_runs(50, SIZES[2], Xorshift(0x5eed_0fca_b1e5_0003));
}

/// `data info` of a file or folder: exit code, standard error, peak memory in MiB and seconds.
fn info(place: &Place, data: &str) -> (Option<i32>, String, i64, Duration) {
    let begin = Instant::now();
    let mut command = place.command(&["data", "info", "--data", data]);
    let child = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    measured(child, begin)
}

fn measured(
    mut child: std::process::Child,
    begin: Instant,
) -> (Option<i32>, String, i64, Duration) {
    let mut text = String::new();
    let mut stderr = child.stderr.take().unwrap();
    std::io::Read::read_to_string(&mut stderr, &mut text).unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    let mut status = 0;
    // SAFETY: plain numbers, for which zero is a value; the child has not been waited for.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::wait4(pid, &mut status, 0, &mut usage), pid);
        usage
    };
    let code = libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status));
    (code, text, usage.ru_maxrss / 1024, begin.elapsed())
}

/// Asserts that the input is refused with exit code 1 and one paragraph that names the file, without a panic, quickly
/// and with little memory.
fn refused(place: &Place, what: &str, data: &str, named: &str) {
    let (code, text, peak, time) = info(place, data);
    println!("{what}: {peak} MiB, {time:?}: {}", text.trim());
    assert_eq!(code, Some(1), "{what}: {text}");
    assert_eq!(text.trim().lines().count(), 1, "{what}: {text}");
    assert!(
        text.starts_with("error: ") && text.contains(named),
        "{what}: {text}"
    );
    assert!(!text.contains("panicked"), "{what}: {text}");
    assert!(peak <= 512, "{what} took {peak} MiB");
}

fn header(name: &[u8], kind: u8, size: u64) -> Vec<u8> {
    let mut block = [0u8; 512];
    block[..name.len()].copy_from_slice(name);
    block[100..108].copy_from_slice(b"0000644\0");
    block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    block[148..156].fill(b' ');
    block[156] = kind;
    block[157..162].copy_from_slice(b"/etc/");
    block[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block.to_vec()
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(bytes).unwrap();
    gz.finish().unwrap()
}

/// A gzip file that expands to `count` times `unit`. `unit` is compressed once to a block that ends at a byte boundary,
/// which is then repeated.
fn bomb(unit: &[u8], count: usize) -> Vec<u8> {
    let mut packer = flate2::Compress::new(flate2::Compression::best(), false);
    let mut block = Vec::with_capacity(unit.len() / 500 + 4096);
    packer
        .compress_vec(unit, &mut block, flate2::FlushCompress::Full)
        .unwrap();
    assert_eq!(packer.total_in(), unit.len() as u64);
    let mut file = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff".to_vec();
    (0..count).for_each(|_| file.extend_from_slice(&block));
    file
}

/// An entry of `size` zeros.
fn zeros(name: &str, size: usize) -> Vec<u8> {
    [header(name.as_bytes(), b'0', size as u64), vec![0; size]].concat()
}

/// 40 hostile archives: (description, bytes).
fn hostile_archives() -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    let batch = vec![7u8; 3073];
    let file = |name: &[u8]| [header(name, b'0', 3073), batch.clone(), vec![0; 511]].concat();
    let end = vec![0u8; 1024];
    for name in [
        "../data_batch_1.bin",
        "../../../../../../../../tmp/data_batch_1.bin",
        "a/../../data_batch_1.bin",
        "./../data_batch_1.bin",
        "..",
        "a/..",
        "/data_batch_1.bin",
        "/etc/passwd",
        "//etc/passwd",
        "/",
        "\u{1b}]0;title\u{7}/data_batch_1.bin",
        "a\nb/data_batch_1.bin",
    ] {
        all.push((
            format!("name {name:?}"),
            [file(name.as_bytes()), end.clone()].concat(),
        ));
    }
    all.push((
        "name that is no UTF-8".into(),
        [file(b"\xff\xfe/data_batch_1.bin"), end.clone()].concat(),
    ));
    for kind in *b"123467SVMDKL" {
        let bytes = [header(b"data_batch_1.bin", kind, 0), end.clone()].concat();
        all.push((format!("entry of type {}", char::from(kind)), bytes));
    }
    for size in [3072u64, 3073 * 10_001, 1 << 30, (1 << 33) - 1] {
        all.push((
            format!("claim of {size} bytes"),
            header(b"data_batch_1.bin", b'0', size),
        ));
    }
    all.push((
        "duplicates".into(),
        [
            file(b"data_batch_1.bin"),
            file(b"x/data_batch_1.bin"),
            end.clone(),
        ]
        .concat(),
    ));
    all.push((
        "1,000 entries".into(),
        [
            (0..1000)
                .flat_map(|i| header(format!("f{i}").as_bytes(), b'0', 0))
                .collect(),
            end.clone(),
        ]
        .concat(),
    ));
    all.push((
        "an extended header of 1 GiB".into(),
        header(b"x", b'x', 1 << 30),
    ));
    all.push(("a checksum that is wrong".into(), {
        let mut h = header(b"data_batch_1.bin", b'0', 0);
        h[0] ^= 1;
        [h, end.clone()].concat()
    }));
    all.push(("nothing".into(), Vec::new()));
    all.push(("only zeros".into(), end.clone()));
    all.push((
        "noise".into(),
        (0..4096u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect(),
    ));
    let mut all: Vec<_> = all
        .into_iter()
        .map(|(what, tar)| (what, gz(&tar)))
        .collect();
    all.push(("no gzip".into(), b"PK\x03\x04 something else".to_vec()));
    all.push((
        "a gzip cut short".into(),
        gz(&file(b"data_batch_1.bin"))[..40].to_vec(),
    ));
    all.push((
        "a gzip header of 8 MB".into(),
        [&b"\x1f\x8b\x08\x08\0\0\0\0\0\xff"[..], &vec![b'n'; 8 << 20]].concat(),
    ));
    // Archives that expand to 10 GiB. The first contains the data after its end mark, which is not read; in the others
    // each entry is small enough, but their sum is too large.
    all.push((
        "10 GiB after the end mark".into(),
        bomb(&vec![0; 1 << 20], 10 << 10),
    ));
    all.push((
        "10 GiB in entries of 16 MiB".into(),
        bomb(&zeros("f", (16 << 20) - 512), 640),
    ));
    all.push((
        "10 GiB in one kind of entry".into(),
        bomb(&zeros("x/f", (24 << 20) - 512), 427),
    ));
    all
}

#[test]
fn a_bomb_expands_to_the_expected_size() {
    let unit = zeros("f", 1 << 20);
    let file = bomb(&unit, 3);
    let mut unpacked = Vec::new();
    // A gzip file without its end gives all bytes and then an error.
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&file[..]), &mut unpacked)
        .unwrap_err();
    assert!(unpacked == unit.repeat(3));
}

#[test]
fn forty_hostile_archives_are_refused_and_nothing_is_written() {
    let place = Place::new();
    let all = hostile_archives();
    assert!(all.len() >= 40, "{}", all.len());
    std::fs::create_dir_all(place.path("in/deep")).unwrap();
    let names = ["cifar-10-binary.tar.gz", "cifar-10-python.tar.gz"];
    for (i, (what, bytes)) in all.iter().enumerate() {
        let name = format!("in/deep/{}", names[i % 2]);
        place.write(&name, bytes);
        refused(&place, what, &name, names[i % 2]);
        std::fs::remove_file(place.path(&name)).unwrap();
    }
    for folder in ["in", "in/deep"] {
        let left: Vec<_> = std::fs::read_dir(place.path(folder))
            .unwrap()
            .map(|f| f.unwrap().file_name())
            .collect();
        assert!(left.iter().all(|f| f == "deep"), "{left:?}");
    }
}

#[test]
fn bad_input_is_one_paragraph_that_says_what_to_do() {
    let place = Place::with_data();
    let batch = std::fs::read(place.path("data/data_batch_2.bin")).unwrap();
    place.write("data/data_batch_2.bin", &batch[..batch.len() - 100]);
    refused(&place, "truncated", "data", "data_batch_2.bin");
    let mut wrong = batch.clone();
    wrong[3073 * 5] = 77;
    place.write("data/data_batch_2.bin", &wrong);
    refused(&place, "a wrong label", "data", "data_batch_2.bin");
    place.write("data/data_batch_2.bin", vec![0; 3073 * 200_000]);
    refused(&place, "600 MB of batch", "data", "data_batch_2.bin");
    std::fs::remove_file(place.path("data/data_batch_2.bin")).unwrap();
    refused(&place, "a missing batch", "data", "data_batch_2.bin");
    std::fs::create_dir(place.path("empty")).unwrap();
    refused(&place, "an empty folder", "empty", "empty");
    // Files named like python batches with other contents.
    std::fs::create_dir(place.path("py")).unwrap();
    let deep = [
        &b"\x80\x02"[..],
        &vec![b']'; 100_000],
        &vec![b'a'; 100_000],
        b".",
    ]
    .concat();
    for (what, bytes, why) in [
        (
            "an unknown global",
            &b"\x80\x02cposix\nsystem\nU\x04true\x85R."[..],
            "posix.system",
        ),
        ("nested 100,000 deep", &deep[..], "nested too deep"),
        ("a string of 4 GiB", b"\x80\x02}(T\xff\xff\xff\xff", "byte"),
    ] {
        let names = (1..=5).map(|i| format!("data_batch_{i}"));
        for name in names.chain(["test_batch".into(), "batches.meta".into()]) {
            place.write(&format!("py/{name}"), bytes);
        }
        refused(&place, what, "py", "batches.meta");
        refused(&place, what, "py", why);
    }
    // Wrong settings: exit code 2.
    for (text, named) in [
        ("learning_rte = 0.1", "learning_rte"),
        ("dropout = 2.0", "dropout"),
        ("epochs = many", "epochs"),
    ] {
        place.write("config.toml", text);
        let done = place
            .run(&["data", "info", "--data", "data"])
            .exits(2)
            .says(&["config.toml", named]);
        // An error of TOML syntax has several lines, with a mark under the position; all others are one line.
        let toml = done.err.contains("not valid TOML");
        assert!(toml || done.err.trim().lines().count() == 1, "{}", done.err);
    }
    std::fs::remove_file(place.path("config.toml")).unwrap();
    // Checkpoints: empty, of another network, truncated.
    write_batches(&place.path("data"), 24);
    place
        .train(&["--data", "data", "--name", "one", "--epochs", "1"])
        .exits(0);
    let last = std::fs::read(place.path("runs/one/last.safetensors")).unwrap();
    place.write("cut.safetensors", &last[..last.len() / 2]);
    let mut huge = last.clone();
    huge[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    place.write("huge.safetensors", &huge);
    let mut other = Checkpoint::read(&place.path("runs/one/last.safetensors")).unwrap();
    other.run_state.architecture = "dense 16, relu, dense 10".into();
    place.write("other.safetensors", other.encode().unwrap());
    for file in [
        "cut.safetensors",
        "huge.safetensors",
        "none.safetensors",
        "other.safetensors",
    ] {
        for args in [
            &["eval", file, "--data", "data"][..],
            &[
                "train", "--resume", file, "--data", "data", "--runs", "runs", "--epochs", "9",
            ],
        ] {
            let begin = Instant::now();
            let mut command: Command = place.command(args);
            let child = command
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let (code, text, peak, _) = measured(child, begin);
            println!("{args:?}: {peak} MiB: {}", text.trim());
            assert_eq!(code, Some(1), "{args:?}: {text}");
            assert!(text.contains(file) && !text.contains("panicked"), "{text}");
            assert!(peak <= 512, "{peak} MiB");
        }
    }
}
