//! A value and the path that leads to it, with the checks that all kinds share.

use std::net::IpAddr;

use apimachinery::{Cause, LabelSelector, ObjectExt as _, Quantity, names};
use serde_json::{Value, json};

/// Where the causes go.
pub type Causes = Vec<Cause>;

/// What is wrong with addresses and networks that some read in another way than others. Objects from before this was refused keep them.
pub const STRICT: [&str; 5] = [
    "must not have leading 0s",
    "must not be an IPv4-mapped IPv6 address",
    "must not have leading 0s in IP or prefix length",
    "must not have an IPv4-mapped IPv6 address",
    "must not have bits set beyond the prefix length",
];

/// Whether a text would be an address of IPv4 without zeros that some take for the sign of octal numbers.
fn has_leading_zeros(text: &str) -> bool {
    let plain = |part: &str| match part.trim_start_matches('0') {
        "" if !part.is_empty() => "0".to_string(),
        rest => rest.to_string(),
    };
    let all: Vec<String> = text.split('.').map(plain).collect();
    all.join(".").parse::<std::net::Ipv4Addr>().is_ok()
}

/// A field of an object under check.
#[derive(Clone)]
pub struct Field<'a> {
    /// What it holds; null if it is absent.
    pub value: &'a Value,
    /// The path from the root, as causes of a Status have it: `spec.containers[0].name`.
    pub path: String,
}

impl<'a> Field<'a> {
    /// The object itself.
    pub fn root(value: &'a Value) -> Self {
        Field { value, path: String::new() }
    }

    /// A value that is known to be at `path`.
    pub fn new(value: &'a Value, path: impl Into<String>) -> Self {
        Field { value, path: path.into() }
    }

    /// The member `key` of an object; null if there is none.
    pub fn at(&self, key: &str) -> Field<'a> {
        let path = if self.path.is_empty() { key.to_string() } else { format!("{}.{key}", self.path) };
        Field { value: self.value.at(&[key]), path }
    }

    /// The elements of a list.
    pub fn items(&self) -> impl Iterator<Item = Field<'a>> + use<'a> {
        let path = self.path.clone();
        let items = self.value.as_array().map(Vec::as_slice).unwrap_or_default();
        items.iter().enumerate().map(move |(i, value)| Field { value, path: format!("{path}[{i}]") })
    }

    /// The members of a map.
    pub fn entries(&self) -> impl Iterator<Item = (&'a str, Field<'a>)> + use<'a> {
        let path = self.path.clone();
        let map = self.value.as_object().into_iter().flatten();
        map.map(move |(key, value)| (key.as_str(), Field { value, path: format!("{path}[{key}]") }))
    }

    /// Whether it is there and not null.
    pub fn is_set(&self) -> bool {
        !self.value.is_null()
    }

    /// Its text; empty if it is something else.
    pub fn text(&self) -> &'a str {
        self.value.as_str().unwrap_or("")
    }

    /// The texts of a list.
    pub fn texts(&self) -> Vec<&'a str> {
        self.items().map(|item| item.text()).collect()
    }
    /// Whether it is absent, or an empty text, list or map.
    pub fn is_empty(&self) -> bool {
        match self.value {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        }
    }

    /// Adds the cause that the value is invalid (`FieldValueInvalid`).
    pub fn invalid(&self, why: &str, causes: &mut Causes) {
        causes.push(Cause::invalid(&self.path, self.value, why));
    }

    /// Adds the cause that nothing may be here (`FieldValueForbidden`).
    pub fn forbid(&self, why: &str, causes: &mut Causes) {
        causes.push(Cause::forbidden(&self.path, why));
    }

    /// Demands that there is something; whether there is.
    pub fn require(&self, detail: &str, causes: &mut Causes) -> bool {
        if self.is_empty() {
            causes.push(Cause::required(&self.path, detail));
        }
        !self.is_empty()
    }

    /// What is set must be one of `allowed`.
    pub fn one_of(&self, allowed: &[&str], causes: &mut Causes) {
        if self.is_set() && !allowed.contains(&self.text()) {
            causes.push(Cause::not_supported(&self.path, self.value, allowed));
        }
    }

    /// It must be set, and one of `allowed`.
    pub fn must_be(&self, allowed: &[&str], causes: &mut Causes) {
        if self.is_empty() {
            causes.push(Cause::required(&self.path, ""));
        } else {
            self.one_of(allowed, causes);
        }
    }

    /// A number, if set, between two bounds, both included.
    pub fn range(&self, low: i64, high: i64, causes: &mut Causes) {
        if self.value.as_i64().is_some_and(|n| !(low..=high).contains(&n)) {
            self.invalid(&format!("must be between {low} and {high}, inclusive"), causes);
        }
    }

    /// A number, if set, of 0 or more.
    pub fn not_negative(&self, causes: &mut Causes) {
        if self.value.as_i64().is_some_and(|n| n < 0) {
            self.invalid("must be greater than or equal to 0", causes);
        }
    }

    /// A number, if set, of 1 or more.
    pub fn positive(&self, causes: &mut Causes) {
        if self.value.as_i64().is_some_and(|n| n <= 0) {
            self.invalid("must be greater than 0", causes);
        }
    }

    /// A text, if set, that `check` lets through.
    pub fn is(&self, check: fn(&str) -> Result<(), String>, causes: &mut Causes) {
        if !self.text().is_empty()
            && let Err(why) = check(self.text())
        {
            self.invalid(&why, causes);
        }
    }

    /// Like [`is`](Self::is), of a text that a pointer holds: one that is empty is said, too (what isn't said isn't kept).
    pub fn is_if_said(&self, check: fn(&str) -> Result<(), String>, causes: &mut Causes) {
        if self.is_set()
            && let Err(why) = check(self.text())
        {
            self.invalid(&why, causes);
        }
    }

    /// An address in a form that everybody reads alike (KEP-4858): what an object has already may stay ([`STRICT`]).
    pub fn address(&self, causes: &mut Causes) {
        match self.text().parse::<IpAddr>() {
            Ok(IpAddr::V6(ip)) if ip.to_ipv4_mapped().is_some() => self.invalid(STRICT[1], causes),
            Ok(_) => {}
            Err(_) if has_leading_zeros(self.text()) => self.invalid(STRICT[0], causes),
            Err(_) => self.invalid("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)", causes),
        }
    }

    /// Refuses addresses that mean another machine for everybody who reads them (upstream's `ValidateNonSpecialIP`).
    pub fn not_special(&self, causes: &mut Causes) {
        let Ok(ip) = self.text().parse::<IpAddr>() else { return };
        let ip = ip.to_canonical();
        let link_local = match ip {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
        };
        let why = match ip {
            _ if ip.is_unspecified() => format!("may not be unspecified ({ip})"),
            _ if ip.is_loopback() => "may not be in the loopback range (127.0.0.0/8, ::1/128)".into(),
            _ if link_local => "may not be in the link-local range (169.254.0.0/16, fe80::/10)".into(),
            _ if ip.is_multicast() => "may not be in the multicast range (224.0.0.0/4, ff00::/8)".into(),
            IpAddr::V4(v4) if v4.is_broadcast() => "may not be the broadcast address".into(),
            _ => return,
        };
        self.invalid(&why, causes);
    }

    /// A network such as `10.0.0.0/8`.
    pub fn network(&self, causes: &mut Causes) -> Option<ipnet::IpNet> {
        let text = self.text().trim();
        let read = text.parse::<ipnet::IpNet>().ok();
        let mapped = |network: &ipnet::IpNet| matches!(network.addr(), IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some());
        let zeros = |address: &str| address.parse::<IpAddr>().is_err() && has_leading_zeros(address);
        if text.split_once('/').is_some_and(|(address, _)| zeros(address)) {
            self.invalid(STRICT[2], causes);
        } else {
            match &read {
                Some(network) if mapped(network) => self.invalid(STRICT[3], causes),
                Some(network) if network.trunc() != *network => self.invalid(STRICT[4], causes),
                Some(_) => {}
                None => self.invalid("must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)", causes),
            }
        }
        read
    }

    /// An amount that isn't negative.
    pub fn quantity(&self, causes: &mut Causes) -> Option<Quantity> {
        let text = self.value.as_str().map(String::from).unwrap_or_else(|| self.value.to_string());
        match text.parse::<Quantity>() {
            Ok(amount) if amount.is_negative() => {
                self.invalid("must be greater than or equal to 0", causes);
                None
            }
            Ok(amount) => Some(amount),
            Err(why) => {
                self.invalid(&why.to_string(), causes);
                None
            }
        }
    }

    /// A number or a percentage (`IntOrString`), if set: not negative, and of percent no more than a hundred if
    /// `whole` says so.
    pub fn share(&self, whole: bool, causes: &mut Causes) {
        if let Some(text) = self.value.as_str() {
            let percent = text.strip_suffix('%').and_then(|n| n.parse::<u32>().ok());
            match percent {
                None => self.invalid("a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')", causes),
                Some(n) if whole && n > 100 => self.invalid("must not be greater than 100%", causes),
                Some(_) => {}
            }
        } else {
            self.not_negative(causes);
        }
    }

    /// A selector of labels (`metav1.LabelSelector`).
    pub fn selector(&self, causes: &mut Causes) -> Option<LabelSelector> {
        for expression in self.at("matchExpressions").items() {
            let (operator, values) = (expression.at("operator"), expression.at("values"));
            expression.at("key").is(names::qualified_name, causes);
            match operator.text() {
                "In" | "NotIn" => {
                    values.require("must be specified when `operator` is 'In' or 'NotIn'", causes);
                }
                "Exists" | "DoesNotExist" => {
                    if !values.is_empty() {
                        values.forbid("may not be specified when `operator` is 'Exists' or 'DoesNotExist'", causes);
                    }
                }
                _ => operator.invalid("not a valid selector operator", causes),
            }
        }
        super::meta::labels(self.at("matchLabels").value, &self.at("matchLabels").path, causes);
        LabelSelector::from_json(self.value).ok()
    }

    /// Refuses a change.
    pub fn immutable(&self, old: Option<&Value>, causes: &mut Causes) {
        let Some(old) = old else { return };
        let keys: Vec<&str> = self.path.split('.').collect();
        if old.at(&keys) != self.value {
            self.invalid(super::IMMUTABLE, causes);
        }
    }

    /// Refuses an element whose `key` an earlier one has.
    pub fn unique(&self, key: &str, causes: &mut Causes) {
        let mut seen = std::collections::HashSet::new();
        for item in self.items() {
            let of = item.at(key);
            if of.is_set() && !seen.insert(of.value.to_string()) {
                causes.push(Cause::duplicate(&of.path, of.value));
            }
        }
    }

    /// The number of a port, 1 to 65535.
    pub fn port(&self, causes: &mut Causes) {
        super::port_number(self.value, &self.path, causes);
    }

    /// The number of a port, or the name of one (IANA_SVC_NAME).
    pub fn port_or_name(&self, causes: &mut Causes) {
        super::port_or_name(self.value, &self.path, causes);
    }

    /// Exactly one of `members` must be set. Returns it.
    pub fn one_member(&self, members: &[&'static str], what: &str, causes: &mut Causes) -> Option<&'static str> {
        let set: Vec<&'static str> = members.iter().copied().filter(|m| self.at(m).is_set()).collect();
        match set.as_slice() {
            [] => causes.push(Cause::required(&self.path, &format!("must specify a {what}"))),
            [_] => {}
            _ => self.forbid(&format!("may not specify more than 1 {what}"), causes),
        }
        set.first().copied()
    }
}

/// Too many elements in a list.
pub fn too_many(field: &Field<'_>, most: usize, causes: &mut Causes) {
    let count = field.value.as_array().map_or(0, Vec::len);
    if count > most {
        let message = format!("Too many: {count}: must have at most {most} items");
        causes.push(Cause { reason: "FieldValueTooMany", field: field.path.clone(), message });
    }
}

/// More bytes than a text may have.
pub fn too_long(path: impl Into<String>, most: usize) -> Cause {
    let message = format!("Too long: may not be more than {most} bytes");
    Cause { reason: "FieldValueTooLong", field: path.into(), message }
}

/// A cause for a value that isn't in the object as such.
pub fn invalid_text(path: impl Into<String>, text: &str, why: &str) -> Cause {
    Cause::invalid(path, &json!(text), why)
}
