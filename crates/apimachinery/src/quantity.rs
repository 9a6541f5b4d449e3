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

/// Why a text isn't a quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// It isn't a number with a suffix.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// Its number isn't one.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    /// Its suffix is unknown.
    #[error("unable to parse quantity's suffix")]
    Suffix,
    /// Upstream goes on with numbers of any length.
    #[error("quantities must be less than 10^29")]
    TooLarge,
}

/// Which suffixes an amount is written with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// `m`, `k`, `M` …
    Decimal,
    /// `Ki`, `Mi` …
    Binary,
    /// `e3`, `e6` …
    Exponent,
}

impl Quantity {
    /// Zero.
    pub const ZERO: Quantity = Quantity { nano: 0 };

    /// Reads a quantity as objects hold it: text, or a number.
    pub fn from_json(value: &Value) -> Option<Self> {
        value.as_str().map_or_else(|| value.to_string().parse().ok(), |text| text.parse().ok())
    }

    /// A number of thousandths.
    pub fn from_milli(milli: i64) -> Self {
        Quantity { nano: i128::from(milli).saturating_mul(1_000_000) }
    }
    /// A whole number.
    pub fn from_int(value: i64) -> Self {
        Quantity { nano: i128::from(value).saturating_mul(NANO) }
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
        let exact = self.nano.checked_rem_euclid(unit) == Some(0);
        let up = self.nano.checked_div_euclid(unit).unwrap_or(0).saturating_add(i128::from(!exact));
        i64::try_from(up).unwrap_or(if up > 0 { i64::MAX } else { i64::MIN })
    }
    /// As a floating-point number, which may be a little off.
    pub fn as_f64(self) -> f64 {
        self.nano as f64 / NANO as f64
    }
    /// Whether it is below zero.
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
        let whole = |suffix: &&&str| self.nano != 0 && self.nano.checked_rem(unit(suffix)) == Some(0);
        let fits = family.iter().find(whole).and_then(|suffix| Some((suffix, self.nano.checked_div(unit(suffix))?)));
        fits.map_or_else(|| self.to_string(), |(suffix, number)| format!("{number}{suffix}"))
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

/// What upstream takes larger amounts of the binary format for.
const LARGEST_BINARY: i128 = i64::MAX as i128 * NANO;

/// The parts of a quantity's text.
struct Parts<'a> {
    negative: bool,
    /// The digits before and after the point; without zeros in front.
    whole: &'a str,
    fraction: &'a str,
    format: Format,
    /// Of two for the binary format, else of ten.
    exponent: i32,
}

impl<'a> Parts<'a> {
    fn read(text: &'a str) -> Result<Self, QuantityError> {
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            Some(_) => (false, text),
            None => return Err(QuantityError::Format),
        };
        let digits = |s: &str| s.bytes().take_while(u8::is_ascii_digit).count();
        let (whole, rest) = rest.split_at(digits(rest));
        let (fraction, rest) = match rest.strip_prefix('.') {
            Some(rest) => rest.split_at(digits(rest)),
            None => ("", rest),
        };
        let letters = rest.bytes().take_while(|b| b"eEinumkKMGTP".contains(b)).count();
        let power = &rest[letters..];
        let power = power.strip_prefix(['-', '+']).unwrap_or(power);
        if !power.bytes().all(|b| b.is_ascii_digit()) {
            return Err(QuantityError::Format);
        }
        if whole.is_empty() && fraction.is_empty() {
            return Err(if rest.is_empty() { QuantityError::Format } else { QuantityError::Numeric });
        }
        let (format, exponent) = Self::suffix(rest)?;
        Ok(Parts { negative, whole: whole.trim_start_matches('0'), fraction, format, exponent })
    }

    fn suffix(suffix: &str) -> Result<(Format, i32), QuantityError> {
        const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
        const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
        let place = |family: &[&str]| i32::try_from(family.iter().position(|s| *s == suffix)?).ok();
        if let Some(i) = place(&DECIMAL) {
            return Ok((Format::Decimal, i.saturating_sub(3).saturating_mul(3)));
        }
        if let Some(i) = place(&BINARY) {
            return Ok((Format::Binary, i.saturating_add(1).saturating_mul(10)));
        }
        let exponent = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError::Suffix)?;
        Ok((Format::Exponent, exponent.parse().map_err(|_| QuantityError::Suffix)?))
    }

    /// The digits as a number that is `10^-scale` as large, what is finer than a billionth being rounded up.
    fn mantissa(&self) -> Result<(i128, u32, bool), QuantityError> {
        const FINEST: usize = 27;
        let kept = self.fraction.len().min(FINEST);
        let lost = self.fraction[kept..].bytes().any(|b| b != b'0');
        let fraction = &self.fraction[..kept];
        let digits = format!("{}{fraction}", self.whole);
        let digits = digits.trim_start_matches('0');
        let number = if digits.is_empty() { 0 } else { digits.parse().map_err(|_| QuantityError::TooLarge)? };
        Ok((number, kept as u32, lost))
    }

    fn nano(&self) -> Result<i128, QuantityError> {
        let (mantissa, scale, lost) = self.mantissa()?;
        if lost && self.format != Format::Binary && self.exponent > 18 {
            return Err(QuantityError::TooLarge);
        }
        let power = |n: i32| u32::try_from(n).ok().and_then(|n| 10i128.checked_pow(n));
        let (factor, divisor) = match self.format {
            Format::Binary => {
                let factor = u32::try_from(self.exponent).ok().and_then(|n| 2i128.checked_pow(n)?.checked_mul(NANO));
                let divisor = 10i128.checked_pow(scale);
                (factor.ok_or(QuantityError::TooLarge)?, divisor.ok_or(QuantityError::TooLarge)?)
            }
            _ => {
                // Billionths, and what the digits after the point take away.
                let exponent = self.exponent.saturating_add(9).saturating_sub(scale as i32);
                if exponent >= 0 {
                    (if mantissa == 0 { 1 } else { power(exponent).ok_or(QuantityError::TooLarge)? }, 1)
                } else {
                    // Anything is at least a billionth.
                    (1, power(exponent.saturating_neg()).unwrap_or(i128::MAX))
                }
            }
        };
        let product = match (mantissa.checked_mul(factor), self.format) {
            (Some(product), _) => product,
            // Upstream's cap.
            (None, Format::Binary) => LARGEST_BINARY,
            (None, _) => return Err(QuantityError::TooLarge),
        };
        let more = i128::from(product.checked_rem(divisor) != Some(0) || lost);
        let nano = product.checked_div(divisor).and_then(|whole| whole.checked_add(more));
        let mut nano = nano.ok_or(QuantityError::TooLarge)?;
        if self.format == Format::Binary {
            nano = nano.min(LARGEST_BINARY);
        }
        Ok(if self.negative { nano.saturating_neg() } else { nano })
    }

    /// Whether upstream keeps the text as it is (`ParseQuantity`, "reuse the string").
    fn is_kept(&self) -> bool {
        let whole = if self.whole.is_empty() { "0" } else { self.whole };
        let length = i32::try_from(whole.len().saturating_add(self.fraction.len())).unwrap_or(i32::MAX);
        let precise = match self.format {
            Format::Binary if self.fraction.is_empty() => {
                14i32.saturating_sub(length).saturating_sub(self.exponent.saturating_mul(3) / 10)
            }
            Format::Binary => -1,
            _ => 18i32.saturating_sub(length),
        };
        if precise < 0 {
            return false;
        }
        if self.format == Format::Binary {
            return whole.parse::<i64>().is_ok_and(|n| n & 7 != 0);
        }
        let scale = self.exponent.saturating_sub(self.fraction.len() as i32);
        let shifted = format!("{whole}{}", self.fraction);
        scale >= -9 && scale % 3 == 0 && !shifted.ends_with("000") && !shifted.starts_with('0')
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        Ok(Quantity { nano: Parts::read(text)?.nano()? })
    }
}

impl Quantity {
    /// The one way in which upstream writes an amount: `0.1` is `100m`, `1024Mi` is `1Gi`.
    ///
    /// # Errors
    /// When `text` is no amount.
    pub fn canonical_text(text: &str) -> Result<String, QuantityError> {
        Self::rounded_text(text, 1)
    }

    /// The same for amounts of resources, which are whole thousandths, rounded up.
    ///
    /// # Errors
    /// When `text` is no amount.
    pub fn canonical_resource(text: &str) -> Result<String, QuantityError> {
        Self::rounded_text(text, NANO / 1000)
    }

    fn rounded_text(text: &str, finest: i128) -> Result<String, QuantityError> {
        let text = text.trim();
        let parts = Parts::read(text)?;
        let exact = parts.nano()?;
        let nano = match exact.checked_rem(finest) {
            Some(0) | None => exact,
            // Away from zero.
            Some(rest) => {
                let finest = if exact > 0 { finest } else { finest.saturating_neg() };
                exact.checked_sub(rest).and_then(|exact| exact.checked_add(finest)).ok_or(QuantityError::TooLarge)?
            }
        };
        if nano == exact && nano != 0 && parts.is_kept() {
            return Ok(text.into());
        }
        Ok(write(nano, parts.format))
    }
}

/// Writes an amount with suffixes of `format`.
fn write(nano: i128, format: Format) -> String {
    let whole = nano / NANO;
    if nano == 0 {
        return "0".into();
    }
    if format == Format::Binary && nano % NANO == 0 && whole.abs() >= 1024 {
        let (mut number, mut suffix) = (whole, 0usize);
        while number % 1024 == 0 && suffix < 6 {
            number /= 1024;
            suffix = suffix.saturating_add(1);
        }
        return format!("{number}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][suffix]);
    }
    let (mut number, mut exponent) = (nano, -9i32);
    let most = if format == Format::Exponent { 27 } else { 18 };
    while number % 1000 == 0 && exponent < most {
        number /= 1000;
        exponent = exponent.saturating_add(3);
    }
    if format == Format::Exponent {
        return if exponent == 0 { number.to_string() } else { format!("{number}e{exponent}") };
    }
    let suffix = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"][(exponent.saturating_add(9) / 3) as usize];
    format!("{number}{suffix}")
}

/// The shortest decimal form: whole units, else thousandths, else billionths.
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, suffix) in [(NANO, ""), (1_000_000, "m"), (1_000, "u"), (1, "n")] {
            if self.nano.checked_rem(unit) == Some(0) {
                return write!(f, "{}{suffix}", self.nano.checked_div(unit).unwrap_or(0));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
