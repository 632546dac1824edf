use super::*;

/// Checks every function of the trait on special values (NaN, infinities, zeros, a subnormal), lane by lane.
struct Check;

impl Kernel for Check {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let values = [
            -1.5f32,
            0.0,
            -0.0,
            f32::NAN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            2.0,
            1e-40,
        ];
        let same = |a: f32, b: f32| a == b || a.is_nan() && b.is_nan();
        for (i, &a) in values.iter().enumerate() {
            for &b in &values {
                let n = S::LANES;
                // Use different values in neighbouring lanes: a in odd ones, b in even ones.
                let x: Vec<f32> = (0..n).map(|l| if l % 2 == 1 { a } else { b }).collect();
                let y: Vec<f32> = (0..n).map(|l| if l % 2 == 1 { b } else { a }).collect();
                let mut out = vec![7.0f32; n];
                // SAFETY: Level::run chose S; every vector is n long.
                unsafe {
                    let (v, w) = (S::load(x.as_ptr()), S::load(y.as_ptr()));
                    v.relu().store(out.as_mut_ptr());
                    let relu = |v: f32| if v < 0.0 { 0.0 } else { v };
                    assert!((0..n).all(|l| same(out[l], relu(x[l]))), "relu {a} {b}");
                    v.add(w).mul(S::splat(2.0)).store(out.as_mut_ptr());
                    assert!((0..n).all(|l| same(out[l], (x[l] + y[l]) * 2.0)));
                    v.mul_add(w, S::splat(3.0)).store(out.as_mut_ptr());
                    assert!((0..n).all(|l| same(out[l], x[l].mul_add(y[l], 3.0))));
                    let bits = S::bits(v.beats(w));
                    assert!((0..n).all(|l| (bits >> l & 1 == 1) == (x[l] > y[l] || x[l].is_nan())));
                    let bits = S::bits(v.nonzero());
                    assert!((0..n).all(|l| (bits >> l & 1 == 1) == (x[l] != 0.0)));
                    v.select(v.nonzero(), w).store(out.as_mut_ptr());
                    assert!((0..n).all(|l| same(out[l], if x[l] != 0.0 { x[l] } else { y[l] })));
                    let bits = S::bits(v.equals(w));
                    assert!((0..n).all(|l| (bits >> l & 1 == 1) == (x[l] == y[l])));
                    let count = v.compress(v.nonzero(), out.as_mut_ptr());
                    let nonzero: Vec<f32> = x.iter().copied().filter(|&v| v != 0.0).collect();
                    assert_eq!(count, nonzero.len());
                    assert!((0..count).all(|l| same(out[l], nonzero[l])));
                    for count in 0..=n {
                        let mut part = vec![7.0f32; n];
                        S::load_part(x.as_ptr(), count).store(out.as_mut_ptr());
                        v.store_part(part.as_mut_ptr(), count);
                        let mut bytes = vec![9u8; n];
                        S::splat(i as f32).store_bytes(bytes.as_mut_ptr(), count);
                        for l in 0..n {
                            let within = l < count;
                            assert!(same(out[l], if within { x[l] } else { 0.0 }));
                            assert!(same(part[l], if within { x[l] } else { 7.0 }));
                            assert_eq!(bytes[l], if within { i as u8 } else { 9 });
                        }
                        S::load_bytes(bytes.as_ptr(), count).store(out.as_mut_ptr());
                        for (l, &number) in out.iter().enumerate() {
                            assert_eq!(number, if l < count { i as f32 } else { 0.0 });
                        }
                    }
                    S::zero().store(out.as_mut_ptr());
                    assert!(out.iter().all(|&v| v == 0.0));
                }
            }
        }
    }
}

#[test]
fn every_level_computes_the_same_lanes() {
    for level in Level::available() {
        level.run(Check);
    }
}

#[test]
fn levels_can_be_masked_off() {
    assert_eq!(Level::at_most(Some("portable")), Level::Portable);
    assert_eq!(Level::at_most(None), *Level::available().last().unwrap());
    assert!(Level::at_most(Some("avx2")) <= Level::Avx2);
    for level in Level::available() {
        assert_eq!(Level::from_name(level.name()), Some(level));
    }
}
