//! Which devices the selectors of classes and requests choose (`cel`), compiled once.

use std::collections::HashMap;
use std::sync::Arc;

use expressions::device::{Attribute, Device as Seen, compile};
use expressions::{Budget, Expression, Failure, Scope};
use k8s_openapi::api::resource::v1::{Device, DeviceAttribute, DeviceSelector};
use parking_lot::Mutex;

use super::pools::{DeviceId, quantity};

/// The most expressions that are kept compiled.
const MAX_COMPILED: usize = 256;

/// Compiled selectors, by their texts.
#[derive(Debug, Default)]
pub struct Compiled(Mutex<HashMap<String, Arc<Result<Expression, String>>>>);

impl Compiled {
    fn get(&self, source: &str) -> Arc<Result<Expression, String>> {
        if let Some(present) = self.0.lock().get(source) {
            return present.clone();
        }
        let compiled = Arc::new(compile(source));
        let mut all = self.0.lock();
        if all.len() >= MAX_COMPILED {
            all.clear();
        }
        all.insert(source.into(), compiled.clone());
        compiled
    }
}

/// Why it isn't known whether a selector chooses a device.
#[derive(Debug, PartialEq, Eq)]
pub enum SelectorError {
    /// All selectors together took too long.
    Budget,
    /// What is wrong with this one.
    Wrong(String),
}

fn attribute(attribute: &DeviceAttribute) -> Option<Attribute> {
    let number = attribute.int.map(Attribute::Int);
    let truth = attribute.bool.map(Attribute::Bool);
    let text = attribute.string.clone().map(Attribute::Text);
    number.or(truth).or(text).or_else(|| attribute.version.clone().map(Attribute::Version))
}

/// Whether all selectors of `owner`, a class or a claim, choose a device.
///
/// # Errors
/// When a selector doesn't compile, or has no value for this device.
pub fn choose(
    compiled: &Compiled,
    budget: &Budget,
    owner: &str,
    selectors: &[DeviceSelector],
    id: &DeviceId,
    device: &Device,
) -> Result<bool, SelectorError> {
    if selectors.is_empty() {
        return Ok(true);
    }
    let mut scope = Scope::default();
    let seen = Seen {
        driver: &id.driver,
        allows_multiple: device.allow_multiple_allocations == Some(true),
        attributes: device.attributes.iter().flatten().filter_map(|(k, v)| Some((k.as_str(), attribute(v)?))).collect(),
        capacity: device.capacity.iter().flatten().map(|(k, v)| (k.as_str(), quantity(&v.value))).collect(),
    };
    let failed = |n: usize, why: &str| {
        SelectorError::Wrong(format!("{owner}: selector #{n} on device {id}: CEL runtime error: {why}"))
    };
    scope.bind_device(&seen).map_err(|why| failed(0, &why))?;
    for (n, selector) in selectors.iter().enumerate() {
        let Some(selector) = &selector.cel else {
            let why = format!("{owner}, selector #{n}: CEL expression empty (unsupported selector type?)");
            return Err(SelectorError::Wrong(why));
        };
        let compiled = compiled.get(&selector.expression);
        let expression = compiled
            .as_ref()
            .as_ref()
            .map_err(|why| SelectorError::Wrong(format!("{owner}: selector #{n}: CEL compile error: {why}")))?;
        match expression.is_true(&scope, budget) {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(Failure::Budget) => return Err(SelectorError::Budget),
            Err(failure) => return Err(failed(n, &failure.to_string())),
        }
    }
    Ok(true)
}
