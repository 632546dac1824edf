//! Damages bytes for tests, as faulty disks, interrupted transfers and attackers do. Deterministic for each number.

use super::rng::{Rng, Stream};

/// Bytes that often reveal errors in readers: signs, limits, brackets, quotes and line ends.
const SPECIAL: &[u8] = b"\x00\x01\x7f\x80\xff\n\"'[]{}(),.=-+ 09ex#";
/// Sizes and counts that often reveal errors in readers.
const LARGE: [u64; 6] = [0, 1, 0x7fff_ffff, 0xffff_ffff, 1 << 40, u64::MAX];

/// Returns `whole` with one to four random changes, determined by `number`.
pub fn mutated(whole: &[u8], number: u32) -> Vec<u8> {
    let rng = Rng::new(0xbad, Stream::Sample, number.into());
    let mut at = 0;
    let mut below = |limit: usize| {
        at += 1;
        rng.word(at) as usize % limit.max(1)
    };
    let mut bytes = whole.to_vec();
    for _ in 0..=below(4) {
        let n = bytes.len();
        if n == 0 {
            break;
        }
        // Half of the changes are near the beginning or the end, where most formats have their structure.
        let place = match below(4) {
            0 => below(n.min(400)),
            1 => n - 1 - below(n.min(400)),
            _ => below(n),
        };
        match below(8) {
            0 => bytes[place] ^= 1 << below(8),
            1 => bytes[place] = below(256) as u8,
            2 => bytes[place] = SPECIAL[below(SPECIAL.len())],
            3 => bytes.truncate(place),
            4 => drop(bytes.drain(place..(place + 1 + below(40)).min(n))),
            5 => {
                let some = bytes[place..(place + 1 + below(40)).min(n)].to_vec();
                bytes.splice(place..place, some);
            }
            6 => {
                let byte = SPECIAL[below(SPECIAL.len())];
                bytes.splice(place..place, std::iter::repeat_n(byte, 1 + below(300)));
            }
            _ => {
                let width = [2, 4, 8][below(3)];
                let number = LARGE[below(LARGE.len())].to_le_bytes();
                for (byte, new) in bytes[place..].iter_mut().zip(&number[..width]) {
                    *byte = *new;
                }
            }
        }
    }
    bytes
}

/// Asserts that a seed file of a fuzz target contains these bytes. With UPDATE=1, writes it.
pub fn is_seed(target: &str, name: &str, bytes: &[u8]) {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds");
    let file = folder.join(target).join(name);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all(folder.join(target)).unwrap();
        std::fs::write(&file, bytes).unwrap();
    }
    let same = std::fs::read(&file).is_ok_and(|seed| seed == bytes);
    assert!(
        same,
        "{target}/{name}: run the tests once with UPDATE=1 to write the seeds anew"
    );
}
