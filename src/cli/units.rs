//! Figures as people read them.

use std::fmt;

/// Bytes, with the largest unit that leaves a whole number or at least two digits.
pub(super) struct Bytes(pub(super) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = ["B", "KiB", "MiB", "GiB"];
        let larger =
            |&n: &u32| n == 0 || self.0 >= 10 << (10 * n) || self.0 > 0 && self.0.is_multiple_of(1 << (10 * n));
        let unit = (0..4).rev().find(larger).unwrap_or(0);
        f.pad(&format!("{} {}", self.0 >> (10 * unit), units[unit as usize]))
    }
}

/// Nanoseconds, with two or three digits that count.
pub(super) struct Ns(pub(super) u64);

impl fmt::Display for Ns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, name) = match self.0 {
            0..1_000 => return f.pad(&format!("{} ns", self.0)),
            1_000..1_000_000 => (1e3, "us"),
            1_000_000..1_000_000_000 => (1e6, "ms"),
            1_000_000_000..120_000_000_000 => (1e9, "s"),
            _ => return f.pad(&Age(self.0 / 1_000_000_000).to_string()),
        };
        let n = self.0 as f64 / unit;
        f.pad(&if n < 9.95 { format!("{n:.1} {name}") } else { format!("{n:.0} {name}") })
    }
}

/// Seconds, as `h:mm:ss`, with the days before it.
pub(super) struct Age(pub(super) u64);

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, hours, minutes, seconds) = (self.0 / 86_400, self.0 / 3600 % 24, self.0 / 60 % 60, self.0 % 60);
        if days > 0 {
            write!(f, "{days}d ")?;
        }
        write!(f, "{hours}:{minutes:02}:{seconds:02}")
    }
}

/// A rate, with at least two digits that count.
pub(super) struct Rate(pub(super) f64);

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.0;
        f.pad(&match n {
            _ if n <= 0.0 => "0".to_owned(),
            _ if n < 9.95 => format!("{n:.1}"),
            _ if n < 99_999.5 => format!("{n:.0}"),
            _ if n < 9.95e6 => format!("{:.0}k", n / 1e3),
            _ => format!("{:.0}M", n / 1e6),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_told_in_a_unit_that_suits_them() {
        let shown =
            [0, 9, 4096, 5000, 10_240, 1 << 20, (1 << 20) + 1, 944 << 20, 1 << 30].map(|n| Bytes(n).to_string());
        assert_eq!(shown, ["0 B", "9 B", "4 KiB", "5000 B", "10 KiB", "1 MiB", "1024 KiB", "944 MiB", "1 GiB"]);
    }

    #[test]
    fn times_and_rates_have_the_digits_that_count() {
        let shown =
            [0, 999, 1000, 9_949, 9_960, 1_500_000, 119_000_000_000, 3_723_000_000_000].map(|n| Ns(n).to_string());
        assert_eq!(shown, ["0 ns", "999 ns", "1.0 us", "9.9 us", "10 us", "1.5 ms", "119 s", "1:02:03"]);
        assert_eq!(Age(90_061).to_string(), "1d 1:01:01");
        let shown = [0.0, 0.25, 12.3, 99_999.0, 123_456.0, 2e7].map(|n| Rate(n).to_string());
        assert_eq!(shown, ["0", "0.2", "12", "99999", "123k", "20M"]);
    }
}
