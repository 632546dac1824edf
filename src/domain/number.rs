//! Floats in JSON. JSON has no NaN and no infinity, and serde_json writes both as null; but a loss that diverged must
//! be distinguishable from a missing one. Use as `#[serde(with = "number")]` on an `f32` or `f64`
//! field: finite values are numbers, the others the strings "NaN", "inf" and "-inf".

use serde::{Deserialize, Deserializer, Serializer, de::Error};

/// A float type that this module can write.
pub trait Float: Copy {
    fn to_f64(self) -> f64;
    fn from_f64(value: f64) -> Self;
}

impl Float for f64 {
    fn to_f64(self) -> f64 {
        self
    }
    fn from_f64(value: f64) -> Self {
        value
    }
}

impl Float for f32 {
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
    fn from_f64(value: f64) -> Self {
        value as f32
    }
}

/// For fields of `Option<f32>` or `Option<f64>`: `#[serde(default, with = "number::optional")]`. None is null.
pub mod optional {
    use super::Float;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(bound = "F: Float")]
    struct Number<F: Float>(#[serde(with = "super")] F);

    /// # Errors
    /// Returns an error if the serializer fails.
    pub fn serialize<F: Float, S: Serializer>(value: &Option<F>, to: S) -> Result<S::Ok, S::Error> {
        value.map(Number).serialize(to)
    }

    /// # Errors
    /// Returns an error if the value is not null, a number or one of the three words.
    pub fn deserialize<'de, F: Float, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<F>, D::Error> {
        let number = Option::<Number<F>>::deserialize(from)?;
        Ok(number.map(|number| number.0))
    }
}

/// # Errors
/// Returns an error if the serializer fails.
pub fn serialize<F: Float, S: Serializer>(value: &F, serializer: S) -> Result<S::Ok, S::Error> {
    let value = value.to_f64();
    if value.is_finite() {
        serializer.serialize_f64(value)
    } else if value.is_nan() {
        serializer.serialize_str("NaN")
    } else {
        serializer.serialize_str(if value > 0.0 { "inf" } else { "-inf" })
    }
}

/// # Errors
/// Returns an error if the value is neither a number nor one of the three words.
pub fn deserialize<'de, F: Float, D: Deserializer<'de>>(deserializer: D) -> Result<F, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(f64),
        Word(String),
    }
    match Written::deserialize(deserializer)? {
        Written::Number(value) => Ok(F::from_f64(value)),
        Written::Word(word) => match word.as_str() {
            "NaN" => Ok(F::from_f64(f64::NAN)),
            "inf" => Ok(F::from_f64(f64::INFINITY)),
            "-inf" => Ok(F::from_f64(f64::NEG_INFINITY)),
            other => Err(D::Error::custom(format!("'{other}' is not a number"))),
        },
    }
}

/// The index of the largest number, the first of equals; a NaN is larger than all numbers. 0 without numbers.
pub fn argmax(numbers: &[f32]) -> usize {
    let mut best = 0;
    for (i, &v) in numbers.iter().enumerate() {
        if v > numbers[best] || (v.is_nan() && !numbers[best].is_nan()) {
            best = i;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    #[derive(Serialize, Deserialize)]
    struct Held(#[serde(with = "super")] f32);

    #[test]
    fn the_first_of_equals_is_the_largest_and_nan_above_all() {
        for (numbers, expected) in [
            (&[0.0, 1.0, 1.0][..], 1),
            (&[0.0, f32::NAN, 1.0], 1),
            (&[f32::NAN, f32::NAN], 0),
            (&[-1.0, -2.0], 0),
            (&[], 0),
        ] {
            assert_eq!(super::argmax(numbers), expected, "{numbers:?}");
        }
    }

    #[test]
    fn every_kind_of_float_comes_back() {
        for value in [0.0, -1.5, 1e-30, f32::MAX, f32::INFINITY, f32::NEG_INFINITY] {
            let text = serde_json::to_string(&Held(value)).unwrap();
            assert_eq!(
                serde_json::from_str::<Held>(&text).unwrap().0.to_bits(),
                value.to_bits(),
                "{text}"
            );
        }
        let text = serde_json::to_string(&Held(f32::NAN)).unwrap();
        assert_eq!(text, "\"NaN\"");
        assert!(serde_json::from_str::<Held>(&text).unwrap().0.is_nan());
        assert!(serde_json::from_str::<Held>("\"nothing\"").is_err());
    }
}
