//! Numbers in words, alike in every front end.

/// With thousands separators: `40,000`.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Seconds as `0:07`, `12:03`, `1:02:03` or `3d 04:05`.
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() {
        return "?".into();
    }
    let s = seconds.max(0.0) as u64;
    match s {
        0..3600 => format!("{}:{:02}", s / 60, s % 60),
        3600..86_400 => format!("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60),
        _ => format!("{}d {:02}:{:02}", s / 86_400, s / 3600 % 24, s / 60 % 60),
    }
}

/// Bytes as `812 B`, `0.8 MB`, `1.2 GB` (powers of ten, as files are counted).
pub fn bytes(n: u64) -> String {
    let n = n as f64;
    match n {
        n if n < 1e3 => format!("{n} B"),
        n if n < 1e5 => format!("{:.1} kB", n / 1e3),
        n if n < 1e9 => format!("{:.1} MB", n / 1e6),
        _ => format!("{:.1} GB", n / 1e9),
    }
}

/// A share as `59.6%`; NaN stays NaN.
pub fn percent(share: f64) -> String {
    match share.is_finite() {
        true => format!("{:.1}%", share * 100.0),
        false => format!("{share}"),
    }
}

/// A loss, a norm or the like, short whatever its size: `1.128`, `23.46`, `1234`, `2.0e15`, `4.2e-6`, `NaN`, `inf`.
/// A number below 10 has `decimals` decimals, a larger one as many digits in all.
pub fn compact(value: f64, decimals: usize) -> String {
    let size = value.abs();
    if !value.is_finite() {
        return value.to_string();
    }
    if size >= 1e5 || size != 0.0 && size < 0.1f64.powi(decimals as i32) {
        return format!("{value:.1e}");
    }
    let digits = size.max(1.0).log10().floor() as usize;
    let decimals = decimals.saturating_sub(digits);
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_write_them() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_000), "1,000");
        assert_eq!(grouped(12_345_678), "12,345,678");
        assert_eq!(duration(7.4), "0:07");
        assert_eq!(duration(3723.0), "1:02:03");
        assert_eq!(duration(-1.0), "0:00");
        assert_eq!(bytes(512), "512 B");
        assert_eq!(bytes(1_440_000), "1.4 MB");
        assert_eq!(bytes(170_498_071), "170.5 MB");
        assert_eq!(percent(0.5961), "59.6%");
        assert_eq!(percent(f64::NAN), "NaN");
        for (value, text) in [
            (0.0, "0.000"),
            (1.12849, "1.128"),
            (23.456, "23.46"),
            (1234.5, "1234"),
            (99_999.0, "99999"),
            (2e15, "2.0e15"),
            (-3.5e-6, "-3.5e-6"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(compact(value, 3), text);
        }
    }
}
