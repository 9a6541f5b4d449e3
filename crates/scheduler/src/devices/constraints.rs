//! What the devices of a claim must have in common (`matchAttribute`), or each of its own (`distinctAttribute`).

use k8s_openapi::api::resource::v1::{Device, DeviceAttribute, DeviceConstraint};

use super::pools::DeviceId;

/// The value of an attribute that is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Single<'a> {
    Text(&'a str),
    Int(i64),
    Bool(bool),
    Version(&'a str),
}

impl<'a> Single<'a> {
    fn of(attribute: &'a DeviceAttribute) -> Option<Self> {
        let text = attribute.string.as_deref().map(Single::Text);
        let number = attribute.int.map(Single::Int);
        let truth = attribute.bool.map(Single::Bool);
        text.or(number).or(truth).or_else(|| attribute.version.as_deref().map(Single::Version))
    }
}

/// The attribute of a device by its full name, `domain/name`; the driver's own may be without a domain.
fn find<'a>(device: &'a Device, driver: &str, name: &str) -> Option<Single<'a>> {
    let attributes = device.attributes.as_ref()?;
    let own = || name.split_once('/').filter(|(domain, _)| *domain == driver).and_then(|(_, id)| attributes.get(id));
    Single::of(attributes.get(name).or_else(own)?)
}

/// A constraint, with the values of the devices that were chosen so far.
#[derive(Debug)]
pub struct Constraint<'a> {
    attribute: &'a str,
    is_distinct: bool,
    /// The requests that it is about; all of them if there are none.
    requests: &'a [String],
    chosen: Vec<Single<'a>>,
}

impl<'a> Constraint<'a> {
    /// The constraint; none for one of a kind that isn't known.
    pub fn of(constraint: &'a DeviceConstraint) -> Option<Self> {
        let (attribute, is_distinct) = match (&constraint.match_attribute, &constraint.distinct_attribute) {
            (Some(attribute), _) => (attribute, false),
            (None, Some(attribute)) => (attribute, true),
            (None, None) => return None,
        };
        let requests = constraint.requests.as_deref().unwrap_or_default();
        Some(Constraint { attribute, is_distinct, requests, chosen: Vec::new() })
    }

    fn is_about(&self, request: &str, full_name: &str) -> bool {
        self.requests.is_empty() || self.requests.iter().any(|name| name == request || name == full_name)
    }

    /// Adds a device for a request; whether the constraint allows it.
    pub fn add(&mut self, request: &str, full_name: &str, id: &DeviceId, device: &'a Device) -> bool {
        if !self.is_about(request, full_name) {
            return true;
        }
        let Some(value) = find(device, &id.driver, self.attribute) else { return false };
        let allows = match self.is_distinct {
            true => !self.chosen.contains(&value),
            false => self.chosen.first().is_none_or(|first| *first == value),
        };
        if allows {
            self.chosen.push(value);
        }
        allows
    }

    /// Takes back the device that was added last for a request.
    pub fn remove(&mut self, request: &str, full_name: &str) {
        if self.is_about(request, full_name) {
            self.chosen.pop();
        }
    }
}
