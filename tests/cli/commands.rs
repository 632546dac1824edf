//! Tests of `eval`, `predict`, `runs`, `data` and `bench` on a tiny run.

use crate::support::{Place, TINY, write_batches};

fn trained() -> Place {
    let place = Place::with_data();
    place
        .train(&["--name", "one", "--epochs", "2", "--dropout", "0"])
        .exits(0);
    place
}

#[test]
fn eval_agrees_with_the_run_and_predict_sorts_its_classes() {
    let place = Place::with_data();
    #[rustfmt::skip]
    let trained = place
        .train(&["--name", "one", "--epochs", "2", "--dropout", "0", "--average-decay", "0.9"])
        .exits(0);
    assert!(trained.out.contains(" (average "), "{}", trained.out);
    let eval = |args: &[&str]| {
        let done = place.run(&[&["eval", "--runs", "runs", "--json"], args].concat());
        done.exits(0).json().remove(0)
    };
    let metrics = crate::support::json(&place.read("runs/one/metrics.jsonl"));
    let recorded = |split: &str, weights: &str| {
        let mut of = metrics.iter().filter(|e| {
            e["event"] == "evaluation" && e["split"] == split && e["weights"] == weights
        });
        of.next_back().unwrap()
    };
    for (split, weights) in [
        ("test", "last"),
        ("test", "average"),
        ("validation", "last"),
        ("validation", "average"),
    ] {
        let file = "runs/one/last.safetensors";
        let scored = eval(&[file, "--split", split, "--weights", weights]);
        let recorded = recorded(split, weights);
        let what = format!("{split}, {weights}");
        assert_eq!(scored["confusion"], recorded["confusion"], "{what}");
        assert_eq!(scored["weights"], weights, "{what}");
        let [a, b] = [&scored, recorded].map(|e| e["loss"].as_f64().unwrap());
        assert!((a - b).abs() < 1e-6, "{what}: {a} and {b}");
    }
    let shown = place
        .run(&["runs", "show", "one", "--runs", "runs"])
        .exits(0);
    let test = percent_of(recorded("test", "average"));
    assert!(
        shown.out.contains(&format!("(average {test}")),
        "{}",
        shown.out
    );
    let best = eval(&["one"]);
    assert!(
        best["checkpoint"]
            .as_str()
            .unwrap()
            .ends_with("best.safetensors")
    );
    let text = place.run(&["eval", "one", "--runs", "runs"]).exits(0).out;
    for part in [
        "accuracy",
        "precision",
        "airplane",
        "most confused",
        "test images: CIFAR-10 (",
    ] {
        assert!(text.contains(part), "'{part}' is missing in\n{text}");
    }
    assert!(best["learned_from"].is_null(), "{best}");

    image::RgbImage::from_fn(64, 48, |x, y| image::Rgb([x as u8, y as u8, 9]))
        .save(place.path("a.png"))
        .unwrap();
    image::RgbImage::from_pixel(20, 90, image::Rgb([9, 99, 199]))
        .save(place.path("b.jpg"))
        .unwrap();
    let done = place.run(&[
        "predict", "one", "a.png", "b.jpg", "--runs", "runs", "--json",
    ]);
    let lines = done.exits(0).json();
    assert_eq!(lines.len(), 2);
    let last = lines[0]["probabilities"].clone();
    let done = place.run(&[
        "predict",
        "one",
        "a.png",
        "--runs",
        "runs",
        "--json",
        "--weights",
        "average",
    ]);
    let average = done.exits(0).json().remove(0);
    assert_eq!(average["weights"], "average");
    assert!(lines[0].get("weights").is_none() && average["probabilities"] != last);
    for line in lines {
        let p: Vec<f64> = line["probabilities"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["probability"].as_f64().unwrap())
            .collect();
        assert_eq!(p.len(), 10);
        assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-4 && p.is_sorted_by(|a, b| a >= b));
        assert_eq!(line["class"], line["probabilities"][0]["class"]);
    }
    let done = place.run(&["predict", "one", "a.png", "absent.png", "--runs", "runs"]);
    let done = done.exits(1).says(&["absent.png"]);
    assert!(
        done.out.contains("a.png: "),
        "what can be read is still answered"
    );
}

/// An evaluation's accuracy, as it is shown.
fn percent_of(evaluation: &serde_json::Value) -> String {
    format!("{:.1}%", 100.0 * evaluation["accuracy"].as_f64().unwrap())
}

#[test]
fn scoring_an_average_that_a_checkpoint_lacks_is_refused() {
    let place = trained();
    for command in [&["eval", "one"][..], &["predict", "one", "a.png"]] {
        let args = [command, &["--runs", "runs", "--weights", "average"]].concat();
        place
            .run(&args)
            .exits(1)
            .says(&["best.safetensors", "no average of the weights"]);
    }
}

#[test]
fn predict_stays_small_on_large_pictures_and_warns_of_a_cut_one() {
    let place = trained();
    image::RgbImage::from_fn(6000, 4000, |x, y| image::Rgb([x as u8, y as u8, 9]))
        .save(place.path("large.jpg"))
        .unwrap();
    image::RgbImage::new(5000, 5000)
        .save(place.path("large.png"))
        .unwrap();
    for picture in ["large.jpg", "large.png"] {
        let args = ["predict", "one", picture, "--runs", "runs"];
        let (code, out, peak) = crate::support::measured(&mut place.command(&args));
        assert_eq!(code, Some(0), "{out}");
        // Decoded whole, the pictures take 72 and 75 MB; with a small picture the process takes about 20 MiB.
        assert!(peak < 80, "{picture} took {peak} MiB");
    }
    let whole = std::fs::read(place.path("large.jpg")).unwrap();
    place.write("cut.jpg", &whole[..whole.len() / 2]);
    let done = place
        .run(&["predict", "one", "cut.jpg", "--runs", "runs", "--json"])
        .exits(0)
        .says(&["warning: cut.jpg ends before its picture does"]);
    assert_eq!(done.json()[0]["cut_short"], true);
    let mut header = image::RgbImage::new(1, 1);
    header.put_pixel(0, 0, image::Rgb([9; 3]));
    header.save(place.path("huge.bmp")).unwrap();
    let mut bytes = std::fs::read(place.path("huge.bmp")).unwrap();
    bytes[18..26].copy_from_slice(&[0x20, 0x4e, 0, 0, 0x20, 0x4e, 0, 0]);
    place.write("huge.bmp", bytes);
    place
        .run(&["predict", "one", "huge.bmp", "--runs", "runs"])
        .exits(1)
        .says(&["huge.bmp is too large: 20000x20000 pixels"]);
}

#[test]
fn verify_says_what_it_compared() {
    let place = Place::with_data();
    let done = place.run(&["data", "verify"]).exits(1);
    assert!(
        done.out.contains("all 144 images can be read"),
        "{}",
        done.out
    );
    done.says(&["it has 120 training images", "where 50000 were published"]);
}

#[test]
fn eval_says_when_a_run_is_scored_on_other_data_than_it_learned_from() {
    let place = trained();
    write_batches(&place.path("other"), 25);
    let eval = |args: &[&str]| {
        let args = [&["eval", "one", "--runs", "runs"], args].concat();
        place.run(&args).exits(0)
    };
    let other = eval(&["--data", "other"]);
    assert!(
        other.out.contains("25 test images: CIFAR-10 ("),
        "{}",
        other.out
    );
    let other = other.says(&["warning: the run was trained on CIFAR-10 (", "other"]);
    assert!(!other.err.contains("is unknown"), "{}", other.err);
    let held_out = eval(&["--data", "other", "--split", "validation", "--json"]);
    assert_eq!(held_out.json()[0]["learned_from"], "CIFAR-10");
    held_out.says(&["whether the run was trained on some of these images is unknown"]);
    assert_eq!(eval(&[]).err, "");
}

#[test]
fn a_file_that_is_not_a_checkpoint_is_named() {
    let place = trained();
    let eval = |file: &str| place.run(&["eval", file, "--runs", "runs"]);
    eval("absent").exits(1).says(&["absent", "cifar-tui runs"]);
    let mut bytes = std::fs::read(place.path("runs/one/last.safetensors")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    place.write("flipped.safetensors", &bytes);
    eval("flipped.safetensors")
        .exits(1)
        .says(&["flipped.safetensors", "damaged"]);
    place.write("cut.safetensors", &bytes[..100]);
    eval("cut.safetensors")
        .exits(1)
        .says(&["cut.safetensors", "damaged"]);
}

#[test]
fn runs_are_listed_shown_compared_and_exported() {
    let place = trained();
    let other = ["--name", "two", "--epochs", "1", "--lr", "0.01"];
    place.train(&other).exits(0);
    let runs = |args: &[&str]| place.run(&[&["runs"], args, &["--runs", "runs"]].concat());
    let list = runs(&[]).exits(0).out;
    assert!(
        list.contains("one") && list.contains("two") && list.contains("done"),
        "{list}"
    );
    assert!(list.contains("learning_rate 0.01"), "{list}");
    let show = runs(&["show", "one"]).exits(0).out;
    assert!(
        show.contains("outcome") && show.contains("* dropout"),
        "{show}"
    );
    let compare = runs(&["compare", "one", "two"]).exits(0).out;
    let row = compare
        .lines()
        .find(|l| l.starts_with("learning_rate"))
        .unwrap();
    assert!(row.contains("0.001") && row.contains("0.01"), "{row}");
    assert!(
        !compare.contains("weight_decay"),
        "what is equal is left out:\n{compare}"
    );
    let csv = runs(&["export", "one"]).exits(0).out;
    assert_eq!(csv.lines().count(), 3, "{csv}");
    assert!(csv.starts_with("epoch,step,train_loss"));
    let views: Vec<_> = csv.lines().map(|l| l.rsplit(',').next().unwrap()).collect();
    assert_eq!(views, ["tta", "none", "none"]);
    let epochs = runs(&["export", "one", "--format", "json"]).exits(0).json();
    assert_eq!(epochs[0].as_array().unwrap().len(), 2);
    runs(&["show", "absent"])
        .exits(1)
        .says(&["absent", "cifar-tui runs"]);
}

#[test]
fn data_says_what_is_found_and_verify_that_it_is_not_the_published_one() {
    let place = Place::with_data();
    let text = place.run(&["data"]).exits(0).out;
    assert!(
        text.contains("binary batches") && text.contains("airplane"),
        "{text}"
    );
    let info = place
        .run(&["data", "info", "--json"])
        .exits(0)
        .json()
        .remove(0);
    assert_eq!((&info["train"], &info["test"]), (&120.into(), &24.into()));
    place
        .run(&["data", "verify"])
        .exits(1)
        .says(&["not CIFAR-10"]);
}

#[test]
fn bench_ends_with_one_line_of_json() {
    let place = Place::with_data();
    let args = [
        "bench",
        "--arch",
        TINY,
        "--batch",
        "8",
        "--seconds",
        "0.05",
        "--data",
        "data",
    ];
    let done = place
        .run(&[&args[..], &["--json", "--eval"]].concat())
        .exits(0);
    let report = done.json().pop().unwrap();
    for key in [
        "images_per_s",
        "ms_per_step",
        "equivalent_gflop_per_s",
        "peak_gflop_per_s",
        "equivalent_per_peak",
        "eval_images_per_s",
    ] {
        assert!(report[key].as_f64().unwrap() > 0.0, "{key} in {report}");
    }
    let shares = report["shares"].as_array().unwrap();
    let sum: f64 = shares.iter().map(|s| s["share"].as_f64().unwrap()).sum();
    assert!((sum - 1.0).abs() < 1e-6 && shares.len() >= 4, "{report}");
    let text = place.run(&args).exits(0).out;
    for part in [
        "images/s",
        "optimizer",
        "equivalent:",
        "peak of",
        "times that",
    ] {
        assert!(text.contains(part), "'{part}' is missing in\n{text}");
    }
}

#[test]
fn bench_explains_each_launch_of_a_gpu_that_is_not_here() {
    let place = Place::new();
    let args = [
        "bench",
        "--explain",
        "--gpu",
        "h200",
        "--arch",
        TINY,
        "--batch",
        "8",
    ];
    let report = place
        .run(&[&args[..], &["--json"]].concat())
        .exits(0)
        .json()
        .remove(0);
    assert_eq!(report["gpu"], "NVIDIA H200");
    for (table, kernel) in [("training", "backward"), ("scoring", "score")] {
        let table = &report[table];
        let launches = table["launches"].as_array().unwrap();
        assert!(
            launches.iter().any(|row| row["kernel"] == kernel),
            "{table}"
        );
        let sum: f64 = launches
            .iter()
            .map(|row| row["floor_us"].as_f64().unwrap())
            .sum();
        assert!(
            (sum - table["floor_us"].as_f64().unwrap()).abs() < 1e-6,
            "{table}"
        );
        assert!(table["measured_us"].is_null(), "{table}");
    }
    let floor = &report["run"]["floor"];
    let seconds = |key: &str| floor[key].as_f64().unwrap();
    assert!(seconds("training") > seconds("final_score"), "{report}");
    let text = place.run(&args).exits(0).out;
    for part in ["conv1", "forward", "floor us", "images/s", "on CIFAR-10"] {
        assert!(text.contains(part), "'{part}' is missing in\n{text}");
    }
    // Of 120 images, 96 are trained on.
    let place = Place::with_data();
    let done = place
        .run(&[&args[..], &["--data", "data"]].concat())
        .exits(0);
    assert!(done.out.contains("180 training steps"), "{}", done.out);
}

#[test]
fn bench_trains_several_networks_at_once() {
    let place = Place::new();
    let bench = |networks: &str| {
        let args = [
            "bench",
            "--device",
            "cpu",
            "--threads",
            "2",
            "--arch",
            "conv 4 s4, relu, dense 10",
        ];
        let more = ["--networks", networks, "--seconds", "0.05", "--json"];
        place.run(&[&args[..], &more].concat())
    };
    for networks in [1, 2] {
        let report = bench(&networks.to_string()).exits(0).json().remove(0);
        assert_eq!(report["networks"], networks);
        let [steps, batch, seconds, speed] =
            ["steps", "batch", "seconds", "images_per_s"].map(|key| report[key].as_f64().unwrap());
        let images = steps * batch * f64::from(networks);
        assert!((speed * seconds / images - 1.0).abs() < 1e-6, "{report}");
    }
    bench("1000").exits(1).says(&["at once", "not 1000"]);
    place
        .run(&["bench", "--suite", "--networks", "2"])
        .exits(2)
        .says(&["cannot be used with"]);
}

#[test]
fn bench_explain_says_what_to_do_without_a_gpu() {
    let place = Place::new();
    place
        .run(&["bench", "--explain", "--device", "cpu"])
        .exits(1)
        .says(&["CPU", "--gpu NAME", "h200"]);
    place
        .run(&["bench", "--explain", "--gpu", "voodoo2"])
        .exits(2)
        .says(&["voodoo2", "h200"]);
    place
        .run(&["bench", "--gpu", "h200"])
        .exits(2)
        .says(&["--explain"]);
    for other in [["--suite"].as_slice(), &["--eval"], &["--device", "cuda"]] {
        let args = [&["bench", "--explain", "--gpu", "h200"], other].concat();
        place.run(&args).exits(2).says(&["cannot be used with"]);
    }
}

#[test]
fn find_lr_tests_a_new_network_or_that_of_a_run_which_stays_as_it_is() {
    let place = trained();
    let find = |args: &[&str]| place.run(&[&["find-lr", "--runs", "runs"], args].concat());
    let new = [
        "--data",
        "data",
        "--architecture",
        TINY,
        "--batch-size",
        "8",
    ];
    let test = find(&[&new[..], &["--steps", "40", "--json"]].concat())
        .exits(0)
        .json()
        .remove(0);
    assert_eq!(
        (&test["run"], &test["step"]),
        (&serde_json::Value::Null, &0.into())
    );
    let rates: Vec<f64> = test["points"]
        .as_array()
        .unwrap()
        .iter()
        .map(|point| point["rate"].as_f64().unwrap())
        .collect();
    assert!(rates[0] == 1e-6 && rates.is_sorted(), "{rates:?}");
    assert_eq!(rates.len() == 40, test["end"] == "all-rates", "{test}");

    let file = place.path("runs/one/last.safetensors");
    let before = std::fs::read(&file).unwrap();
    let test = find(&["one", "--json"]).exits(0).json().remove(0);
    assert_eq!(test["run"], "one");
    assert!(test["step"].as_u64().unwrap() > 0);
    assert!(std::fs::read(&file).unwrap() == before);
    let shown = find(&["one"]).exits(0).out;
    assert!(
        shown.starts_with("one, step ") && shown.contains("smoothed"),
        "{shown}"
    );

    for (args, says) in [
        (&["two"][..], "'two' is neither a checkpoint file nor a run"),
        (
            &["one", "--dropout", "0.1"],
            "--dropout has no effect on `find-lr RUN`",
        ),
        (&["--steps", "5"], "20"),
    ] {
        let done = find(args);
        assert_ne!(done.code, Some(0), "{args:?}");
        done.says(&[says]);
    }
}
