//! Tests of randomly damaged files of every format.

use super::*;

/// Reads `count` damaged files of each format: each must give an error or images (a damaged pixel cannot be detected),
/// never a panic. Every second archive is damaged before it is compressed.
fn mutations(count: u32) {
    let dir = tempfile::tempdir().unwrap();
    let tars = [python_files(), binary_files()].map(|files| {
        let folder = match files[0].0.ends_with(".bin") || files[0].0.ends_with(".txt") {
            true => "cifar-10-batches-bin",
            false => "cifar-10-batches-py",
        };
        (folder, tar_of(&entries(folder, &files)))
    });
    for (format, path, files) in fixtures(&dir) {
        let whole: Vec<_> = files.iter().map(|file| fs::read(file).unwrap()).collect();
        let inside = tars.iter().find(|(folder, _)| {
            format.contains("archive")
                && folder.contains(if format.contains("python") {
                    "py"
                } else {
                    "bin"
                })
        });
        let (mut refused, mut slowest) = (0, std::time::Duration::ZERO);
        for number in 0..count {
            let which = number as usize % files.len();
            let bytes = match inside {
                Some((_, tar)) if number % 2 == 0 => packed(&mutated(tar, number)),
                _ => mutated(&whole[which], number),
            };
            fs::write(&files[which], bytes).unwrap();
            let begin = std::time::Instant::now();
            if let Err(error) = load_at(&path) {
                refused += 1;
                assert!(
                    !error.to_string().contains('\n'),
                    "{format} {number}: {error}"
                );
            }
            slowest = slowest.max(begin.elapsed());
            fs::write(&files[which], &whole[which]).unwrap();
        }
        assert!(refused > count / 10, "{format}: {refused} of {count}");
        println!("{format}: {refused} of {count} refused, the slowest in {slowest:?}");
    }
}

#[test]
fn small_sets_are_the_fuzz_targets_seeds() {
    is_seed("pickle", "batch", &python_batch(0..1));
    is_seed("pickle", "batch_of_python_3", &python3_batch(0..1));
    is_seed("pickle", "meta", &python_meta());
    is_seed(
        "parquet",
        "rows",
        &parquet_file(vec![png(0), png(1)], vec![1, 2]),
    );
    for (name, folder, files) in [
        ("python", "cifar-10-batches-py", python_files()),
        ("binary", "cifar-10-batches-bin", binary_files()),
    ] {
        is_seed("tarball", name, &tar_of(&entries(folder, &files)));
    }
}

#[test]
fn mutations_never_panic() {
    mutations(150);
}

#[test]
#[ignore = "the long form: 20,000 for each reader"]
fn twenty_thousand_mutations_never_panic() {
    mutations(20_000);
}
