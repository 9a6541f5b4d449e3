//! What a scalar without quotes means in YAML 1.1, as far as Go's reader follows it.

use serde_json::{Number, Value};

#[derive(Debug, Clone, PartialEq)]
pub enum Scalar {
    Null,
    Bool(bool),
    Integer(i64),
    /// Beyond the range of signed integers.
    Large(u64),
    Float(f64),
    Text(String),
    /// `<<`.
    Merge,
}

impl Scalar {
    /// As a key of a JSON object; none for what can't be one.
    pub fn as_key(&self) -> Option<String> {
        match self {
            Scalar::Text(text) => Some(text.clone()),
            Scalar::Integer(n) => Some(n.to_string()),
            Scalar::Bool(b) => Some(b.to_string()),
            Scalar::Float(n) => Some(float_key(*n)),
            Scalar::Merge => Some("<<".into()),
            Scalar::Null | Scalar::Large(_) => None,
        }
    }

    pub fn into_json(self) -> Result<Value, String> {
        Ok(match self {
            Scalar::Null => Value::Null,
            Scalar::Bool(b) => b.into(),
            Scalar::Integer(n) => n.into(),
            Scalar::Large(n) => n.into(),
            Scalar::Float(n) => float(n)?,
            Scalar::Text(text) => text.into(),
            Scalar::Merge => "<<".into(),
        })
    }
}

/// As Go's encoder writes it: without a fraction, it is a whole number.
fn float(n: f64) -> Result<Value, String> {
    // The bounds are what the integers can hold without loss of range.
    if n.fract() == 0.0 && n.abs() < 9.2e18 {
        return Ok((n as i64).into());
    }
    Number::from_f64(n).map(Value::Number).ok_or_else(|| format!("unsupported value: {n}"))
}

/// In the shortest form of single precision, as upstream writes keys.
fn float_key(n: f64) -> String {
    if n.is_nan() {
        return ".nan".into();
    }
    if n.is_infinite() {
        return if n > 0.0 { ".inf".into() } else { "-.inf".into() };
    }
    let single = n as f32;
    let exponent = if single == 0.0 { 0 } else { single.abs().log10().floor() as i32 };
    if (-4..6).contains(&exponent) {
        return single.to_string();
    }
    let text = format!("{single:e}");
    match text.split_once('e') {
        Some((mantissa, power)) => {
            let (sign, digits) = power.strip_prefix('-').map_or(("+", power), |digits| ("-", digits));
            format!("{mantissa}e{sign}{digits:0>2}")
        }
        None => text,
    }
}

/// A plain scalar without a tag.
pub fn read(text: &str) -> Scalar {
    if let Some(word) = word(text) {
        return word;
    }
    match text.as_bytes().first() {
        Some(b'0'..=b'9' | b'+' | b'-') => number(text).unwrap_or_else(|| Scalar::Text(text.into())),
        Some(b'.') if is_float(text) => text.parse().map_or_else(|_| Scalar::Text(text.into()), Scalar::Float),
        _ => Scalar::Text(text.into()),
    }
}

/// A scalar with one of YAML's own tags.
pub fn read_as(tag: &str, text: &str) -> Result<Scalar, String> {
    let refuse = || format!("cannot decode `{}` as a !!{tag}", text.chars().take(64).collect::<String>());
    match tag {
        "str" | "timestamp" => Ok(Scalar::Text(text.into())),
        "binary" => {
            use base64::Engine as _;
            let packed: String = text.split_whitespace().collect();
            let bytes = base64::engine::general_purpose::STANDARD.decode(packed).map_err(|_| refuse())?;
            Ok(Scalar::Text(String::from_utf8_lossy(&bytes).into_owned()))
        }
        "bool" | "int" | "float" | "null" => match (tag, read(text)) {
            ("bool", value @ Scalar::Bool(_)) | ("null", value @ Scalar::Null) => Ok(value),
            ("int", value @ (Scalar::Integer(_) | Scalar::Large(_))) | ("float", value @ Scalar::Float(_)) => Ok(value),
            ("float", Scalar::Integer(n)) => Ok(Scalar::Float(n as f64)),
            _ => Err(refuse()),
        },
        _ => Ok(Scalar::Text(text.into())),
    }
}

fn word(text: &str) -> Option<Scalar> {
    Some(match text {
        "" | "~" | "null" | "Null" | "NULL" => Scalar::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Scalar::Bool(true),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => Scalar::Bool(false),
        ".nan" | ".NaN" | ".NAN" => Scalar::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => Scalar::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => Scalar::Float(f64::NEG_INFINITY),
        "<<" => Scalar::Merge,
        _ => return None,
    })
}

fn number(text: &str) -> Option<Scalar> {
    let plain = text.replace('_', "");
    let (negative, digits) = match plain.as_bytes().first()? {
        b'-' => (true, &plain[1..]),
        b'+' => (false, &plain[1..]),
        _ => (false, &plain[..]),
    };
    let signed = digits.len() != plain.len();
    let (radix, body) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', b'o' | b'O', ..] => (8, &digits[2..]),
        [b'0', b'b' | b'B', ..] => (2, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    // A second sign would be taken by the parser of the standard library.
    if !body.is_empty() && body.bytes().all(|b| b.is_ascii_alphanumeric()) {
        let sign = if negative { "-" } else { "" };
        if let Ok(n) = i64::from_str_radix(&format!("{sign}{body}"), radix) {
            return Some(Scalar::Integer(n));
        }
        if !signed && let Ok(n) = u64::from_str_radix(body, radix) {
            return Some(Scalar::Large(n));
        }
    }
    if is_float(&plain) { plain.parse().ok().map(Scalar::Float).filter(finite) } else { None }
}

fn finite(scalar: &Scalar) -> bool {
    !matches!(scalar, Scalar::Float(n) if n.is_infinite())
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn is_float(text: &str) -> bool {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['-', '+']).unwrap_or(exponent))),
        None => (unsigned, None),
    };
    let fits = match mantissa.split_once('.') {
        Some(("", fraction)) => digits(fraction),
        Some((whole, fraction)) => digits(whole) && (fraction.is_empty() || digits(fraction)),
        None => digits(mantissa),
    };
    fits && exponent.is_none_or(digits)
}

/// Whether a text without quotes would be read as something else than itself, also by readers that know YAML 1.1's
/// numbers in base 60.
pub fn is_plain_text(text: &str) -> bool {
    let sixty = text.contains(':') && text.bytes().all(|b| b.is_ascii_digit() || b":+-_.".contains(&b));
    matches!(read(text), Scalar::Text(_)) && !sixty
}
