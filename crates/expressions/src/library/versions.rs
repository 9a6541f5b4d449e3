//! Semantic versions: `semver('1.2.3')`.

use std::cmp::Ordering;

use cel::common::types::{CelBool, CelInt, CelString};
use cel::common::value::Val;
use cel::{DeclarationError, Env, add_member_overload, add_overload};

use super::function::{Outcome, failed, opaque};

opaque!(Version(semver::Version), VERSION = "kubernetes.Semver");

/// A version as a value of the language.
pub(crate) fn version(text: &str) -> Result<Box<dyn Val>, String> {
    semver::Version::parse(text).map(|version| Box::new(Version(version)) as Box<dyn Val>).map_err(|e| e.to_string())
}

fn semver(text: &CelString<'_>) -> Outcome<Version> {
    semver::Version::parse(text.inner()).map(Version).or_else(|e| failed("semver", e))
}

fn is_semver(text: &CelString<'_>) -> CelBool {
    semver::Version::parse(text.inner()).is_ok().into()
}

/// Versions that people write: with a `v` before them, without minor or patch, with zeros at the front.
fn tolerant(text: &str) -> Result<semver::Version, semver::Error> {
    let text = text.trim_start_matches('v');
    let end = text.find(['-', '+']).unwrap_or(text.len());
    let (numbers, rest) = text.split_at(end);
    let mut parts: Vec<String> = numbers
        .split('.')
        .map(|part| match part.trim_start_matches('0') {
            "" if !part.is_empty() => "0".to_string(),
            other => other.to_string(),
        })
        .collect();
    // What comes after the numbers needs all three of them.
    if rest.is_empty() {
        parts.resize(parts.len().max(3), "0".into());
    }
    semver::Version::parse(&format!("{}{rest}", parts.join(".")))
}

fn semver_normalized(text: &CelString<'_>, normalize: &CelBool) -> Outcome<Version> {
    match *normalize.inner() {
        true => tolerant(text.inner()).map(Version).or_else(|e| failed("semver", e)),
        false => semver(text),
    }
}

fn is_semver_normalized(text: &CelString<'_>, normalize: &CelBool) -> CelBool {
    semver_normalized(text, normalize).is_ok().into()
}

fn part(number: u64) -> CelInt {
    CelInt::from(i64::try_from(number).unwrap_or(i64::MAX))
}

fn major(of: &Version) -> CelInt {
    part(of.0.major)
}

fn minor(of: &Version) -> CelInt {
    part(of.0.minor)
}

fn patch(of: &Version) -> CelInt {
    part(of.0.patch)
}

fn version_less(of: &Version, other: &Version) -> CelBool {
    (of.0.cmp_precedence(&other.0) == Ordering::Less).into()
}

fn version_greater(of: &Version, other: &Version) -> CelBool {
    (of.0.cmp_precedence(&other.0) == Ordering::Greater).into()
}

fn version_compare(of: &Version, other: &Version) -> CelInt {
    CelInt::from(of.0.cmp_precedence(&other.0) as i64)
}

pub(super) fn declare(env: &mut Env) -> Result<(), DeclarationError> {
    env.add_type(VERSION.to_owned())?;
    add_overload!(env, fn semver: (CelString) -> Result<Version>)?;
    add_overload!(env, fn is_semver: (CelString) -> CelBool)?;
    add_overload!(env, fn semver_normalized: (CelString, CelBool) -> Result<Version>, name = "semver")?;
    add_overload!(env, fn is_semver_normalized: (CelString, CelBool) -> CelBool, name = "isSemver")?;
    add_member_overload!(env, fn major: (Version) -> CelInt)?;
    add_member_overload!(env, fn minor: (Version) -> CelInt)?;
    add_member_overload!(env, fn patch: (Version) -> CelInt)?;
    add_member_overload!(env, fn version_less: (Version, Version) -> CelBool, name = "isLessThan")?;
    add_member_overload!(env, fn version_greater: (Version, Version) -> CelBool, name = "isGreaterThan")?;
    add_member_overload!(env, fn version_compare: (Version, Version) -> CelInt, name = "compareTo")
}
