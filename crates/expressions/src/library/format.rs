//! Named formats (`format.dns1123Label().validate(…)`), which say what is wrong with a text.

use apimachinery::names;
use base64::Engine as _;
use cel::common::types::{CelList, CelOptional, CelString};
use cel::common::value::{CowVal, Val};
use cel::{DeclarationError, Env};

use super::function::{Outcome, failed, opaque};
use crate::budget;

opaque!(Format(&'static str), FORMAT = "kubernetes.NamedFormat");

pub const NAMES: [&str; 13] = [
    "dns1123Label",
    "dns1123Subdomain",
    "dns1035Label",
    "qualifiedName",
    "dns1123LabelPrefix",
    "dns1123SubdomainPrefix",
    "dns1035LabelPrefix",
    "labelValue",
    "uri",
    "uuid",
    "byte",
    "date",
    "datetime",
];

/// How long upstream takes the pattern of a format to be, which its price comes from.
fn pattern_size(format: &str) -> u64 {
    match format {
        "dns1123Label" | "dns1035Label" | "dns1123LabelPrefix" | "dns1035LabelPrefix" => 30,
        "dns1123Subdomain" | "dns1123SubdomainPrefix" | "qualifiedName" => 60,
        "labelValue" => 40,
        "uri" => 1103,
        "byte" => 84,
        "uuid" => 84,
        _ => 150,
    }
}

/// What is wrong with a text; nothing if it has the format.
fn mistakes(format: &str, text: &str) -> Vec<String> {
    let told = |found: Result<(), String>| found.err().into_iter().collect();
    let plain = |good: bool, why: &str| if good { Vec::new() } else { vec![why.to_string()] };
    match format {
        "dns1123Label" => told(names::dns1123_label(text)),
        "dns1123Subdomain" => told(names::dns1123_subdomain(text)),
        "dns1035Label" => told(names::dns1035_label(text)),
        "dns1123LabelPrefix" => told(names::dns1123_label(&without_dash(text))),
        "dns1123SubdomainPrefix" => told(names::dns1123_subdomain(&without_dash(text))),
        "dns1035LabelPrefix" => told(names::dns1035_label(&without_dash(text))),
        "qualifiedName" => told(names::qualified_name(text)),
        "labelValue" => told(names::label_value(text)),
        "uri" => super::urls::parse_url(text).err().into_iter().collect(),
        "uuid" => plain(is_uuid(text), "does not match the UUID format"),
        "byte" => plain(base64::engine::general_purpose::STANDARD.decode(text).is_ok(), "invalid base64"),
        "date" => plain(text.parse::<chrono::NaiveDate>().is_ok(), "invalid date"),
        _ => plain(chrono::DateTime::parse_from_rfc3339(text).is_ok(), "invalid datetime"),
    }
}

/// A prefix may end with a dash, as something comes after it.
fn without_dash(text: &str) -> String {
    match text.strip_suffix('-') {
        Some(start) if text.len() > 1 => format!("{start}a"),
        _ => text.into(),
    }
}

fn is_uuid(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    let hex = parts.concat();
    (lengths == [8, 4, 4, 4, 12] || lengths == [32]) && hex.bytes().all(|c| c.is_ascii_hexdigit())
}

fn named<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Outcome<CowVal<'b, 'v>> {
    let wanted = arguments.first().and_then(|a| a.downcast_ref::<CelString>());
    let found = wanted.and_then(|name| NAMES.into_iter().find(|known| *known == name.inner()));
    let optional = found.map_or_else(CelOptional::none, |name| CelOptional::of(Box::new(Format(name))));
    Ok(CowVal::owned(optional))
}

fn validate<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Outcome<CowVal<'b, 'v>> {
    let format = arguments.first().and_then(|a| a.downcast_ref::<Format>());
    let text = arguments.get(1).and_then(|a| a.downcast_ref::<CelString>());
    let (Some(format), Some(text)) = (format, text) else { return failed("validate", "it is for formats and texts") };
    let size = (text.inner().chars().count() as u64 + 1).div_ceil(10);
    budget::spend(size.saturating_mul(pattern_size(format.0).div_ceil(4)))?;
    let wrong = mistakes(format.0, text.inner());
    if wrong.is_empty() {
        return Ok(CowVal::owned(CelOptional::none()));
    }
    let wrong: Vec<Box<dyn Val + 'v>> =
        wrong.into_iter().map(|text| -> Box<dyn Val + 'v> { Box::new(CelString::from(text)) }).collect();
    Ok(CowVal::owned(CelOptional::of(Box::new(CelList::from(wrong)))))
}

macro_rules! constants {
    ($env:ident, $($at:literal => $function:ident),*) => {
        $(
            fn $function<'b, 'v>(_: Vec<CowVal<'b, 'v>>) -> Outcome<CowVal<'b, 'v>> {
                Ok(CowVal::owned(Format(NAMES[$at])))
            }
            let name = format!("format.{}", NAMES[$at]);
            $env.add_overload(&name, &name, vec![], $function)?;
        )*
    };
}

pub fn declare(env: &mut Env) -> Result<(), DeclarationError> {
    env.add_type(FORMAT.to_owned())?;
    env.add_overload("format.named", "format-named", vec![cel::common::types::STRING_TYPE], named)?;
    let text = cel::common::types::STRING_TYPE;
    env.add_member_overload("validate", "format-validate", FORMAT.to_owned(), vec![text], validate)?;
    constants!(env, 0 => at0, 1 => at1, 2 => at2, 3 => at3, 4 => at4, 5 => at5, 6 => at6, 7 => at7, 8 => at8,
        9 => at9, 10 => at10, 11 => at11, 12 => at12);
    Ok(())
}
