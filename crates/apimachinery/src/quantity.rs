//! `resource.Quantity`: fixed-point numbers with decimal or binary suffixes.

use std::fmt;
use std::str::FromStr;

use serde_json::Value;

/// An amount in billionths, which is the finest grain that the API keeps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quantity {
    nano: i128,
}

const NANO: i128 = 1_000_000_000;
const SUFFIXES: [(&str, i128); 16] = [
    ("Ki", NANO << 10),
    ("Mi", NANO << 20),
    ("Gi", NANO << 30),
    ("Ti", NANO << 40),
    ("Pi", NANO << 50),
    ("Ei", NANO << 60),
    ("n", 1),
    ("u", 1_000),
    ("m", 1_000_000),
    ("k", NANO * 1_000),
    ("M", NANO * 1_000_000),
    ("G", NANO * 1_000_000_000),
    ("T", NANO * 1_000_000_000_000),
    ("P", NANO * 1_000_000_000_000_000),
    ("E", NANO * 1_000_000_000_000_000_000),
    ("", NANO),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
pub struct QuantityError;

impl Quantity {
    pub const ZERO: Quantity = Quantity { nano: 0 };

    /// Reads a quantity as objects hold it: text, or a number.
    pub fn from_json(value: &Value) -> Option<Self> {
        value.as_str().map_or_else(|| value.to_string().parse().ok(), |text| text.parse().ok())
    }

    pub fn from_milli(milli: i64) -> Self {
        Quantity { nano: i128::from(milli) * 1_000_000 }
    }
    pub fn from_int(value: i64) -> Self {
        Quantity { nano: i128::from(value) * NANO }
    }
    /// Whole units, rounded up as upstream's `Value()` does.
    pub fn value(self) -> i64 {
        self.rounded_up(NANO)
    }
    /// Thousandths, rounded up as upstream's `MilliValue()` does.
    pub fn milli(self) -> i64 {
        self.rounded_up(1_000_000)
    }
    fn rounded_up(self, unit: i128) -> i64 {
        let up = self.nano.div_euclid(unit) + i128::from(self.nano.rem_euclid(unit) != 0);
        i64::try_from(up).unwrap_or(if up > 0 { i64::MAX } else { i64::MIN })
    }
    /// As a floating-point number, which may be a little off.
    pub fn as_f64(self) -> f64 {
        self.nano as f64 / NANO as f64
    }
    pub fn is_negative(self) -> bool {
        self.nano < 0
    }
}

impl Quantity {
    /// With the largest suffix that divides it: of the binary family (`1Gi`) or the decimal one (`1500m`, `2k`).
    pub fn canonical(self, binary: bool) -> String {
        let family: &[&str] = if binary {
            &["Ei", "Pi", "Ti", "Gi", "Mi", "Ki", ""]
        } else {
            &["E", "P", "T", "G", "M", "k", "", "m", "u", "n"]
        };
        let unit = |suffix: &str| SUFFIXES.iter().find(|(s, _)| *s == suffix).map_or(1, |(_, unit)| *unit);
        let fits = family.iter().find(|s| self.nano != 0 && self.nano % unit(s) == 0);
        fits.map_or_else(|| self.to_string(), |suffix| format!("{}{suffix}", self.nano / unit(suffix)))
    }
}

impl std::ops::Sub for Quantity {
    type Output = Quantity;
    fn sub(self, other: Quantity) -> Quantity {
        Quantity { nano: self.nano.saturating_sub(other.nano) }
    }
}

impl std::ops::Add for Quantity {
    type Output = Quantity;
    fn add(self, other: Quantity) -> Quantity {
        Quantity { nano: self.nano.saturating_add(other.nano) }
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let split = text.find(|c: char| !(c.is_ascii_digit() || "+-.".contains(c))).unwrap_or(text.len());
        let (number, suffix) = text.split_at(split);
        let (negative, digits) = match number.as_bytes().first() {
            Some(b'-') => (true, &number[1..]),
            Some(b'+') => (false, &number[1..]),
            _ => (false, number),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if (whole.is_empty() && fraction.is_empty()) || !all_digits(whole) || !all_digits(fraction) {
            return Err(QuantityError);
        }
        if whole.len() > 18 || fraction.len() > 18 {
            return Err(QuantityError);
        }
        let mantissa: i128 = format!("{whole}{fraction}").parse().unwrap_or(0);
        let unit = unit_of(suffix)?;
        let scale = 10i128.pow(fraction.len() as u32);
        let product = mantissa.checked_mul(unit).ok_or(QuantityError)?;
        // What is finer than a billionth is rounded up, as upstream does.
        let nano = product / scale + i128::from(product % scale != 0);
        Ok(Quantity { nano: if negative { -nano } else { nano } })
    }
}

fn unit_of(suffix: &str) -> Result<i128, QuantityError> {
    if let Some((_, unit)) = SUFFIXES.iter().find(|(s, _)| *s == suffix) {
        return Ok(*unit);
    }
    let exponent = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError)?;
    let exponent: i32 = exponent.parse().map_err(|_| QuantityError)?;
    match exponent {
        0..=18 => Ok(NANO * 10i128.pow(exponent as u32)),
        -9..=-1 => Ok(NANO / 10i128.pow(-exponent as u32)),
        _ => Err(QuantityError),
    }
}

/// The shortest decimal form: whole units, else thousandths, else billionths.
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, suffix) in [(NANO, ""), (1_000_000, "m"), (1_000, "u"), (1, "n")] {
            if self.nano % unit == 0 {
                return write!(f, "{}{suffix}", self.nano / unit);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_and_exponents_are_understood() {
        for (text, milli) in [
            ("100m", 100),
            ("0.1", 100),
            (".5", 500),
            ("1", 1000),
            ("1e3", 1_000_000),
            ("2Ki", 2_048_000),
            ("-1", -1000),
            ("1500u", 2),
        ] {
            assert_eq!(text.parse::<Quantity>().map(Quantity::milli), Ok(milli), "{text}");
        }
        assert_eq!("1Gi".parse::<Quantity>().unwrap().value(), 1 << 30);
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in ["", "Gi", "1 Gi", "1GiB", "1.2.3", "--1", "1e99", "9".repeat(60).as_str()] {
            assert_eq!(bad.parse::<Quantity>(), Err(QuantityError), "{bad:?}");
        }
    }
}
