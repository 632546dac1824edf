//! Tests of pickles as Python 2 and 3 write them, and of hostile ones.

use super::*;

#[test]
fn serde_pickle_reads_the_same_labels_from_our_batches() {
    let value: serde_pickle::Value = serde_pickle::value_from_slice(
        &python_batch(0..4),
        serde_pickle::DeOptions::new().replace_unresolved_globals(),
    )
    .unwrap();
    let serde_pickle::Value::Dict(dict) = value else {
        panic!("no dictionary")
    };
    let labels = &dict[&serde_pickle::HashableValue::Bytes(b"labels".to_vec())];
    let expected = (0..4)
        .map(|i| serde_pickle::Value::I64(label(i).into()))
        .collect();
    assert_eq!(*labels, serde_pickle::Value::List(expected));
}

#[test]
fn batches_that_python_3_wrote_again_are_read() {
    let dir = tempfile::tempdir().unwrap();
    write_all(dir.path(), &[("batches.meta".into(), python_meta())]);
    for (b, name) in BATCHES.iter().enumerate() {
        write_all(dir.path(), &[((*name).into(), python3_batch(numbers(b)))]);
    }
    let data = load_at(dir.path()).unwrap();
    assert!((data.train, data.test) == expected_images());
}

fn pickled(bytes: &[u8]) -> DataError {
    let dir = tempfile::tempdir().unwrap();
    write_all(dir.path(), &python_files());
    fs::write(dir.path().join("data_batch_2"), bytes).unwrap();
    let error = load_at(dir.path()).unwrap_err();
    assert_reports(&error, &dir.path().join("data_batch_2"), "byte");
    error
}

#[test]
fn hostile_pickles_are_refused() {
    // Python's own unpickler would start a program here.
    let error = pickled(b"\x80\x02cposix\nsystem\nU\x04true\x85R.");
    assert!(error.to_string().contains("global posix.system"), "{error}");
    // 100,000 nested containers of each kind.
    let deep = 100_000;
    let nested = [
        [vec![b']'; deep], vec![b'a'; deep]].concat(),
        [vec![b')'], vec![0x85; deep]].concat(),
        vec![b'('; deep],
        [vec![b'}'; deep], vec![b's'; deep]].concat(),
    ];
    for body in nested {
        let error = pickled(&[b"\x80\x02", &body[..], b"."].concat());
        assert!(error.to_string().contains("nested too deep"), "{error}");
    }
    // Lengths without the bytes that they announce.
    for claim in [
        &b"\x80\x02}(T\xff\xff\xff\x7f"[..],
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x80\x02}r\xff\xff\xff\xff",
    ] {
        pickled(claim);
    }
    let float = python_batch(0..3);
    let at = float.windows(2).position(|w| w == b"u1").unwrap();
    let float = [&float[..at], b"f4", &float[at + 2..]].concat();
    assert!(pickled(&float).to_string().contains("'u1'"));
}

#[test]
fn an_intact_pickle_in_another_form_is_not_called_damaged() {
    let float = python_batch(0..3);
    let at = float.windows(2).position(|w| w == b"u1").unwrap();
    let float = [&float[..at], b"f4", &float[at + 2..]].concat();
    for (bytes, why) in [
        // Bytes as Python 3 writes them in protocol 2, an array as NumPy 2 writes it in protocol 5, and protocol 0.
        (&b"\x80\x02}(c_codecs\nencode\n"[..], "_codecs.encode"),
        (
            b"\x80\x05}(\x8c\x13numpy._core.numeric\x8c\x0b_frombuffer\x93",
            "numpy._core.numeric._frombuffer",
        ),
        (b"(dp0\nVdata\n", "pickle protocol 0"),
        (&float, "unsigned bytes"),
    ] {
        let text = pickled(bytes).to_string();
        assert!(
            text.contains(why) && text.contains("protocol 3 or 4"),
            "{text}"
        );
        assert!(!text.contains("damaged"), "{text}");
    }
    let hostile = pickled(b"\x80\x02cposix\nsystem\n").to_string();
    assert!(hostile.contains("damaged"), "{hostile}");
}

/// A source in memory.
struct InMemory<'a>(&'a [u8]);

impl pickle::PickleSource for InMemory<'_> {
    fn fill(&mut self, buffer: &mut [u8]) -> std::io::Result<()> {
        std::io::Read::read_exact(&mut self.0, buffer)
    }

    fn pass(&mut self, length: u64) -> std::io::Result<()> {
        let length = usize::try_from(length).map_err(std::io::Error::other)?;
        self.0 = self
            .0
            .get(length..)
            .ok_or(std::io::ErrorKind::UnexpectedEof)?;
        Ok(())
    }
}

#[test]
fn mutated_pickles_never_panic() {
    for whole in [python_batch(0..3), python3_batch(0..3), python_meta()] {
        for number in 0..2000 {
            // An error or a value are both right; the value must be readable without a panic.
            if let Ok(pickle) = pickle::read(&mut InMemory(&mutated(&whole, number))) {
                let _ = (
                    pickle.matrix("data"),
                    pickle.numbers("labels"),
                    pickle.texts("label_names"),
                );
            }
        }
    }
}
