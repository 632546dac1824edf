//! Tests of hostile input: names with control characters wherever text is printed, and files that are not regular
//! files.

use crate::support::{Place, TINY, write_batches};
use cifar_tui::cli;
use cifar_tui::domain::text::is_hidden;
use cifar_tui::train::checkpoint::Checkpoint;
use std::io::Write;
use std::path::Path;

/// Sets the window's title, clears the screen, changes colours by ESC and by C1, changes the text direction, contains a
/// character without a width, and adds a line that looks like a message of the program.
const NAME: &str = "\u{1b}]0;title\u{7}\u{1b}[2J\u{9b}31m\u{202e}\u{200b}\u{7f}\nfaked line";

/// Every command that ends by itself, with hostile arguments. `RUN`, `DATA` and `NAME` are replaced by the names made
/// by [`corpus`].
const COMMANDS: &[&[&str]] = &[
    &[
        "train", "--data", "DATA", "--epochs", "1", "--arch", TINY, "--runs", "new",
    ],
    &[
        "train", "--resume", "runs/RUN", "--data", "data", "--json", "--runs", "runs",
    ],
    &[
        "train", "--resume", "runs/RUN", "--data", "data", "--epochs", "2", "--runs", "runs",
    ],
    &[
        "train",
        "--resume",
        "bad.safetensors",
        "--data",
        "data",
        "--runs",
        "runs",
    ],
    &["train", "--resume", "NAME", "--runs", "runs"],
    &[
        "train", "--name", "NAME", "--data", "data", "--runs", "runs",
    ],
    &["train", "--arch", "NAME"],
    &[
        "fork",
        "RUN",
        "--data",
        "data",
        "--epochs",
        "2",
        "--headless",
        "--runs",
        "runs",
    ],
    &["fork", "RUN@NAME", "--runs", "runs"],
    &["fork", "NAME@best", "--set", "NAME=NAME", "--runs", "runs"],
    &[
        "fork",
        "bad.safetensors",
        "--epochs",
        "2",
        "--json",
        "--runs",
        "runs",
    ],
    &["attach", "RUN", "--runs", "runs"],
    &["send", "RUN", "pause", "--runs", "runs"],
    &["send", "pause", "--runs", "NAME"],
    &["send", "NAME"],
    &["send", "set", "NAME=1"],
    &["send", "set", "optimizer=NAME"],
    &["watch", "RUN", "--runs", "runs", "--json"],
    &["protocol"],
    &["eval", "RUN", "--runs", "runs", "--data", "DATA"],
    &["eval", "RUN", "--runs", "runs", "--data", "DATA", "--json"],
    &["eval", "RUN", "--runs", "runs"],
    &["eval", "bad.safetensors", "--data", "data"],
    &["eval", "NAME", "--split", "NAME"],
    &[
        "predict",
        "RUN",
        "DATA/NAME.png",
        "NAME.png",
        "--runs",
        "runs",
    ],
    &[
        "predict",
        "RUN",
        "DATA/NAME.png",
        "--runs",
        "runs",
        "--json",
    ],
    &["runs", "list", "--runs", "runs"],
    &["runs", "list", "--runs", "runs", "--json"],
    &["runs", "list", "--runs", "NAME"],
    &["runs", "show", "RUN", "--runs", "runs"],
    &["runs", "show", "RUN", "--runs", "runs", "--json"],
    &["runs", "show", "NAME", "--runs", "runs"],
    &["runs", "compare", "RUN", "one", "--runs", "runs"],
    &["runs", "export", "RUN", "--runs", "runs"],
    &["data", "info", "--data", "DATA"],
    &["data", "info", "--data", "DATA", "--json"],
    &["data", "info", "--data", "parquet"],
    &["data", "info", "--data", "cifar-10-binary.tar.gz"],
    &["data", "info", "--data", "pickles"],
    &["data", "info", "--data", "odd"],
    &["data", "info", "--data", "NAME"],
    &["data", "info", "--config", "hostile.toml"],
    &["data", "info", "--config", "broken.toml"],
    &["data", "info", "--config", "NAME"],
    &["data", "verify", "--data", "DATA"],
    &["data", "download"],
    &[
        "bench",
        "--data",
        "DATA",
        "--arch",
        TINY,
        "--seconds",
        "0.01",
    ],
    &["bench", "--data", "NAME"],
    &[
        "bench",
        "--explain",
        "--gpu",
        "h200",
        "--data",
        "DATA",
        "--arch",
        TINY,
    ],
    &[
        "sweep", "seed=1,2", "--name", "NAME", "--data", "DATA", "--arch", TINY, "--epochs", "1",
        "--runs", "new",
    ],
    &[
        "sweep", "seed=3,4", "--name", "NAME", "--data", "DATA", "--arch", TINY, "--runs", "new",
    ],
    &["sweep", "--resume", "NAME", "--json", "--runs", "new"],
    &["sweep", "NAME=1,2", "NAME", "--runs", "new"],
    &["sweep", "--resume", "../NAME", "--runs", "runs"],
    &["find-lr", "RUN", "--runs", "runs", "--data", "DATA"],
    &["find-lr", "--data", "NAME", "--arch", TINY],
    &["doctor", "--data", "NAME", "--runs", "runs/RUN"],
    &["doctor", "--data", "DATA", "--json"],
    &["config", "show", "--data", "DATA", "--runs", "NAME"],
    &["keys"],
    &["recipes"],
    &["config", "init"],
    &["config", "set", "NAME", "1"],
    &["config", "set", "data", "NAME"],
    &["NAME"],
];

fn corpus() -> Place {
    let place = Place::with_data();
    place.train(&["--name", "one", "--epochs", "1"]).exits(0);
    // A run with the hostile name in its folder, note, metrics and checkpoint.
    let (one, run) = (place.path("runs/one"), place.path("runs").join(NAME));
    std::fs::create_dir(&run).unwrap();
    std::fs::write(run.join("note.txt"), NAME).unwrap();
    let metrics = std::fs::read_to_string(one.join("metrics.jsonl")).unwrap();
    let metrics = metrics.lines().map(|line| {
        let mut event: serde_json::Value = serde_json::from_str(line).unwrap();
        if event["event"] == "started" {
            event["data"]["name"] = NAME.into();
            event["params"]["architecture"] = NAME.into();
        }
        format!("{event}\n")
    });
    std::fs::write(run.join("metrics.jsonl"), metrics.collect::<String>()).unwrap();
    let mut checkpoint = Checkpoint::read(&one.join("last.safetensors")).unwrap();
    checkpoint.run_state.classes.fill(NAME.into());
    checkpoint.run_state.run = NAME.into();
    for file in ["last.safetensors", "best.safetensors"] {
        std::fs::write(run.join(file), checkpoint.encode().unwrap()).unwrap();
    }
    checkpoint.run_state.architecture = NAME.into();
    checkpoint.run_state.data.name = NAME.into();
    place.write("bad.safetensors", checkpoint.encode().unwrap());
    // A data set with the hostile name as its folder and in its classes, and a picture in it.
    let data = place.path(&format!("{NAME}-data"));
    write_batches(&data, 24);
    let classes = (0..10).map(|i| format!("{i}{}\n", NAME.replace('\n', "")));
    std::fs::write(data.join("batches.meta.txt"), classes.collect::<String>()).unwrap();
    let picture = data.join(format!("{NAME}.png"));
    image::RgbImage::new(32, 32).save(picture).unwrap();
    // Files that are quoted in their error messages.
    std::fs::create_dir(place.path("parquet")).unwrap();
    for split in ["train", "test"] {
        place.write(&format!("parquet/{split}.parquet"), parquet(NAME));
    }
    let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(
        Vec::new(),
        flate2::Compression::fast(),
    ));
    let mut header = tar::Header::new_ustar();
    header.set_size(0);
    header.set_cksum();
    tar.append_data(&mut header, format!("x/{NAME}"), &[][..])
        .unwrap();
    place.write(
        "cifar-10-binary.tar.gz",
        tar.into_inner().unwrap().finish().unwrap(),
    );
    std::fs::create_dir(place.path("pickles")).unwrap();
    for i in 1..=5 {
        place.write(&format!("pickles/data_batch_{i}"), "");
    }
    let name = NAME.as_bytes();
    let global = [
        b"\x80\x04\x8c",
        &[name.len() as u8][..],
        name,
        b"\x8c\x01x\x93.",
    ]
    .concat();
    place.write("pickles/batches.meta", global);
    std::fs::create_dir_all(place.path("odd")).unwrap();
    place.write(&format!("odd/{NAME}.npz"), "PK\x03\x04 x_train.npy");
    place.write(
        "hostile.toml",
        format!("{:?} = 1\n", "NAME").replace("NAME", r"\u001b[31m\nfaked line"),
    );
    place.write(
        "broken.toml",
        format!("# {NAME}\nepochs = 1\n\u{1b}[31m = \n"),
    );
    place
}

/// A parquet file with one column of this name, without rows.
fn parquet(name: &str) -> Vec<u8> {
    use parquet::basic::Type as Physical;
    use parquet::schema::types::Type;
    let column = Type::primitive_type_builder(name, Physical::INT64)
        .build()
        .unwrap();
    let schema = Type::group_type_builder("schema").with_fields(vec![column.into()]);
    let schema = schema.build().unwrap();
    let writer = parquet::file::writer::SerializedFileWriter::new(
        Vec::new(),
        schema.into(),
        Default::default(),
    );
    writer.unwrap().into_inner().unwrap()
}

#[test]
fn no_command_prints_what_a_terminal_acts_on_or_fakes_a_line() {
    let place = corpus();
    let mut quoted = 0;
    for args in COMMANDS {
        let args: Vec<String> = args
            .iter()
            .map(|arg| match *arg {
                "DATA" => format!("{NAME}-data"),
                "DATA/NAME.png" => format!("{NAME}-data/{NAME}.png"),
                arg => arg.replace("RUN", NAME).replace("NAME", NAME),
            })
            .collect();
        let mut command = place.command(&args.iter().map(String::as_str).collect::<Vec<_>>());
        let url = format!("http://127.0.0.1:1/{NAME}");
        let output = command.env("CIFAR_TUI_DOWNLOAD_URL", url).output().unwrap();
        for (stream, bytes) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
            let text = std::str::from_utf8(bytes).unwrap();
            let hidden = text.chars().find(|c| is_hidden(*c) && *c != '\n');
            assert_eq!(hidden, None, "{args:?}, {stream}: {text:?}");
            for line in text.lines() {
                assert!(
                    !line.starts_with("faked line"),
                    "{args:?}, {stream}: {text}"
                );
            }
            quoted += usize::from(text.contains("faked line"));
        }
        if args.iter().any(|arg| arg == "--json") {
            crate::support::json(std::str::from_utf8(&output.stdout).unwrap());
        }
    }
    assert!(
        quoted > 20,
        "the corpus was quoted by {quoted} outputs only"
    );
}

/// Collects the names of all subcommands that have no subcommands.
fn leaves(command: &clap::Command, path: &[String], out: &mut Vec<Vec<String>>) {
    let subcommands: Vec<_> = command.get_subcommands().collect();
    if subcommands.is_empty() {
        out.push(path.to_vec());
    }
    for sub in subcommands {
        leaves(sub, &[path, &[sub.get_name().to_owned()]].concat(), out);
    }
}

#[test]
fn the_corpus_contains_every_command() {
    let mut all = Vec::new();
    leaves(&cli::command(), &[], &mut all);
    for path in all {
        let named = COMMANDS
            .iter()
            .any(|args| args.iter().zip(&path).filter(|(a, b)| a == b).count() == path.len());
        assert!(named, "no line of COMMANDS runs {path:?}");
    }
}

fn fifo(path: &Path) {
    let path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: a valid C string that lives over the call.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
}

#[test]
fn files_that_are_not_regular_are_refused_at_once() {
    let place = Place::with_data();
    place.train(&["--name", "one", "--epochs", "1"]).exits(0);
    std::fs::remove_file(place.path("data/data_batch_3.bin")).unwrap();
    fifo(&place.path("data/data_batch_3.bin"));
    for name in ["a.png", "x.toml", "x.safetensors", "cifar-10-python.tar.gz"] {
        fifo(&place.path(name));
    }
    std::fs::create_dir_all(place.path("runs/piped")).unwrap();
    fifo(&place.path("runs/piped/metrics.jsonl"));
    std::fs::create_dir(place.path("hf")).unwrap();
    for split in ["train", "test"] {
        fifo(&place.path(&format!("hf/{split}.parquet")));
    }
    write_batches(&place.path("good"), 24);
    for (args, code, named) in [
        (
            &["data", "info", "--data", "data"][..],
            1,
            "data_batch_3.bin",
        ),
        (
            &["data", "info", "--data", "cifar-10-python.tar.gz"],
            1,
            "cifar-10-python.tar.gz",
        ),
        (&["data", "info", "--data", "hf"], 1, "train.parquet"),
        (
            &["train", "--data", "data", "--runs", "runs"],
            1,
            "data_batch_3.bin",
        ),
        (&["predict", "one", "a.png", "--runs", "runs"], 1, "a.png"),
        (
            &["predict", "one", "/dev/zero", "--runs", "runs"],
            1,
            "/dev/zero",
        ),
        (&["eval", "x.safetensors"], 1, "x.safetensors"),
        (
            &["train", "--resume", "x.safetensors", "--data", "good"],
            1,
            "x.safetensors",
        ),
        (&["config", "--config", "x.toml"], 2, "x.toml"),
        (&["config", "--config", "/dev/zero"], 2, "/dev/zero"),
    ] {
        place
            .run(args)
            .exits(code)
            .says(&[named, "not a regular file"]);
    }
    let list = place.run(&["runs", "--runs", "runs"]).exits(0).out;
    assert!(
        list.contains("unreadable") && list.contains("FIFO"),
        "{list}"
    );
    fifo(&place.path("config.toml"));
    place
        .run(&["config"])
        .exits(2)
        .says(&["config.toml", "not a regular file"]);
    let doctor = place.run(&["doctor"]).exits(0).out;
    assert!(
        doctor.contains("config.toml") && doctor.contains("not a regular file"),
        "{doctor}"
    );
}

#[test]
fn a_run_with_a_pipe_among_its_files_is_refused_at_once() {
    let place = Place::with_data();
    for name in ["lock", "log.txt", "metrics.jsonl"] {
        let (run, path) = (format!("no-{name}"), format!("runs/no-{name}/{name}"));
        place
            .train(&["--data", "data", "--name", &run, "--epochs", "1"])
            .exits(0);
        std::fs::remove_file(place.path(&path)).unwrap();
        fifo(&place.path(&path));
        place
            .train(&["--data", "data", "--resume", &run, "--epochs", "2"])
            .exits(1)
            .says(&[&path, "a named pipe (FIFO), not a regular file"]);
    }
}

#[test]
fn a_line_of_a_gigabyte_needs_bounded_memory() {
    let place = Place::with_data();
    place.train(&["--name", "one", "--epochs", "1"]).exits(0);
    // The file is sparse: it reads as zeros and takes no space on the disk.
    let path = place.path("runs/one/metrics.jsonl");
    let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
    let length = file.metadata().unwrap().len();
    file.set_len(length + (1 << 30)).unwrap();
    file.write_all(b"\n").unwrap();
    let (code, out, peak) =
        crate::support::measured(&mut place.command(&["runs", "--runs", "runs"]));
    assert_eq!(code, Some(0));
    assert!(
        out.contains("done") && out.contains("longer than 1 MiB: 1"),
        "{out}"
    );
    assert!(peak < 128, "{peak} MiB");
}
