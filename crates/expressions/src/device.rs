//! Devices as the selectors of claims and device classes see them (`resource.k8s.io`, `CELDeviceSelector`): the variable `device`.

use std::collections::HashMap;
use std::sync::LazyLock;

use apimachinery::Quantity;
use cel::ExecutionError;
use cel::common::traits::{Container, Indexer, Iterable, Sizer};
use cel::common::types::{CelBool, CelInt, CelMap, CelMapKey, CelString, Type as CelType};
use cel::common::value::{CowVal, Val};
use serde_json::{Value, json};

use crate::check::{Checker, Node, Type};
use crate::library::{amount, version};
use crate::{Expression, Scope, check_source, depth, parse};

/// The variable that a selector sees.
const VARIABLE: &str = "device";
/// The longest selector, in bytes (upstream's `CELSelectorExpressionMaxLength`).
pub const MAX_BYTES: usize = 10 << 10;

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attribute {
    /// A whole number.
    Int(i64),
    /// A truth.
    Bool(bool),
    /// A text.
    Text(String),
    /// A semantic version.
    Version(String),
}

/// A device.
#[derive(Debug, Clone, Default)]
pub struct Device<'a> {
    /// The driver that offers it.
    pub driver: &'a str,
    /// Whether several claims may have it at a time.
    pub allows_multiple: bool,
    /// Its attributes, by their names, with or without a domain.
    pub attributes: Vec<(&'a str, Attribute)>,
    /// What it has of what, by name, with or without a domain.
    pub capacity: Vec<(&'a str, Quantity)>,
}

/// Maps by domain. One that isn't there is an empty map, so that an expression may ask for an attribute of any driver.
#[derive(Debug, Clone)]
struct Domains {
    present: CelMap<'static>,
    absent: CelMap<'static>,
}

impl Domains {
    fn of(driver: &str, members: impl Iterator<Item = (String, Boxed)>) -> Boxed {
        let mut domains: HashMap<String, HashMap<CelMapKey<'static>, Boxed>> = HashMap::new();
        for (name, value) in members {
            // A name without a domain is of the driver's own.
            let (domain, id) = name.split_once('/').unwrap_or((driver, &name));
            domains.entry(domain.into()).or_default().insert(CelMapKey::from(id.to_string()), value);
        }
        let present: HashMap<CelMapKey<'static>, Boxed> = domains
            .into_iter()
            .map(|(domain, members)| (CelMapKey::from(domain), Box::new(CelMap::from(members)) as Boxed))
            .collect();
        Box::new(Domains { present: CelMap::from(present), absent: CelMap::from(HashMap::new()) })
    }
}

type Boxed = Box<dyn Val + 'static>;

impl Val for Domains {
    fn get_type(&self) -> &CelType {
        <Self as Val>::cel_type()
    }

    fn cel_type() -> &'static CelType {
        <CelMap<'static> as Val>::cel_type()
    }

    fn as_container(&self) -> Option<&dyn Container> {
        self.present.as_container()
    }

    fn as_indexer<'b, 'v>(&'b self) -> Option<&'b (dyn Indexer + 'v)>
    where
        Self: 'v,
    {
        Some(self)
    }

    fn into_indexer<'v>(self: Box<Self>) -> Option<Box<dyn Indexer + 'v>>
    where
        Self: 'v,
    {
        Some(self)
    }

    fn as_iterable<'b, 'v>(&'b self) -> Option<&'b (dyn Iterable + 'v)>
    where
        Self: 'v,
    {
        self.present.as_iterable()
    }

    fn as_sizer(&self) -> Option<&dyn Sizer> {
        self.present.as_sizer()
    }

    fn equals(&self, other: &dyn Val) -> bool {
        self.present.equals(other)
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
        Box::new(self.clone())
    }
}

impl Indexer for Domains {
    fn get<'b, 'v>(&'b self, key: &dyn Val) -> Result<CowVal<'b, 'v>, ExecutionError>
    where
        Self: 'v,
    {
        match self.present.get(key) {
            Err(ExecutionError::NoSuchKey(_)) => Ok(CowVal::Borrowed(&self.absent)),
            other => other,
        }
    }

    fn steal<'v>(self: Box<Self>, key: &dyn Val) -> Result<Box<dyn Val + 'v>, ExecutionError>
    where
        Self: 'v,
    {
        self.get(key).map(CowVal::into_owned)
    }
}

impl Attribute {
    fn value(&self) -> Result<Boxed, String> {
        Ok(match self {
            Attribute::Int(number) => Box::new(CelInt::from(*number)),
            Attribute::Bool(truth) => Box::new(CelBool::from(*truth)),
            Attribute::Text(text) => Box::new(CelString::from(text.clone())),
            Attribute::Version(text) => version(text).map_err(|e| format!("parse semantic version: {e}"))?,
        })
    }
}

impl Scope<'_> {
    /// Gives the variable of selectors a device.
    ///
    /// # Errors
    /// When a version is none.
    pub fn bind_device(&mut self, device: &Device<'_>) -> Result<(), String> {
        let mut attributes = Vec::with_capacity(device.attributes.len());
        for (name, attribute) in &device.attributes {
            let value = attribute.value().map_err(|why| format!("attribute {name}: {why}"))?;
            attributes.push(((*name).to_string(), value));
        }
        let capacity = device.capacity.iter().map(|(name, of)| ((*name).to_string(), amount(*of)));
        let members: [(&str, Boxed); 4] = [
            ("driver", Box::new(CelString::from(device.driver.to_string()))),
            ("allowMultipleAllocations", Box::new(CelBool::from(device.allows_multiple))),
            ("attributes", Domains::of(device.driver, attributes.into_iter())),
            ("capacity", Domains::of(device.driver, capacity)),
        ];
        let members: HashMap<CelMapKey<'static>, Boxed> =
            members.into_iter().map(|(name, value)| (CelMapKey::from(name), value)).collect();
        self.context.add_variable_as_val(VARIABLE, Box::new(CelMap::from(members)));
        Ok(())
    }
}

/// The object that `device` is; what it holds is known by name.
static NOTHING: LazyLock<Value> = LazyLock::new(|| json!({"type": "object", "properties": {}}));

/// Reads a selector of devices.
///
/// # Errors
/// In words, as [`Expression::compile`], and when it uses a field that devices don't have, or its value is no bool.
pub fn compile(source: &str) -> Result<Expression, String> {
    if source.len() > MAX_BYTES {
        return Err(format!("the expression has {} bytes; the most is {MAX_BYTES}", source.len()));
    }
    check_source(source)?;
    let by_domain = |of: Type<'static>| Type::map(Type::Text, Type::map(Type::Text, of));
    depth::guarded(source, || {
        let program = parse(source)?;
        let nothing = Type::Object(Node { schema: &NOTHING, is_resource: false });
        let variables = vec![
            (VARIABLE.to_string(), nothing),
            (format!("{VARIABLE}.driver"), Type::Text),
            (format!("{VARIABLE}.allowMultipleAllocations"), Type::Bool),
            (format!("{VARIABLE}.attributes"), by_domain(Type::Dyn)),
            (format!("{VARIABLE}.capacity"), by_domain(Type::Opaque("kubernetes.Quantity"))),
        ];
        let of = Checker::new(program.source_info(), variables).of(program.expression())?;
        match of {
            Type::Bool | Type::Dyn => Expression::compile(source, &[VARIABLE]),
            other => Err(format!("must evaluate to bool or the unknown type, not {other}")),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Budget, Failure};

    fn selects(source: &str) -> Result<bool, String> {
        let text = |text: &str| Attribute::Text(text.into());
        let device = Device {
            driver: "gpu.example.com",
            allows_multiple: false,
            attributes: vec![
                ("model", text("a100")),
                ("other.example.com/model", text("b200")),
                ("slots", Attribute::Int(4)),
                ("shared", Attribute::Bool(true)),
                ("firmware", Attribute::Version("1.10.0".into())),
            ],
            capacity: vec![("memory", "40Gi".parse().unwrap())],
        };
        let expression = compile(source)?;
        let mut scope = Scope::default();
        scope.bind_device(&device)?;
        expression.is_true(&scope, &Budget::new(Budget::REQUEST)).map_err(|failure| failure.to_string())
    }

    #[test]
    fn selectors_see_devices_as_upstreams_do() {
        for (source, is) in [
            ("device.driver == 'gpu.example.com'", true),
            ("device.attributes['gpu.example.com'].model == 'a100'", true),
            ("device.attributes['other.example.com'].model == 'a100'", false),
            ("device.attributes['gpu.example.com'].slots >= 4 && device.attributes['gpu.example.com'].shared", true),
            ("device.attributes['gpu.example.com'].firmware.isGreaterThan(semver('1.9.0'))", true),
            ("device.capacity['gpu.example.com'].memory.compareTo(quantity('32Gi')) >= 0", true),
            ("device.capacity['gpu.example.com'].memory.isLessThan(quantity('32Gi'))", false),
            ("!device.allowMultipleAllocations", true),
            // Of a domain that isn't there nothing is there, and asking for it is no mistake.
            ("has(device.attributes['absent.example.com'].model)", false),
            ("'absent.example.com' in device.attributes", false),
            ("'gpu.example.com' in device.attributes", true),
            ("device.attributes['gpu.example.com'].?colour.orValue('') == ''", true),
            ("device.attributes.exists(domain, domain == 'other.example.com')", true),
            ("device.attributes['gpu.example.com'].shared", true),
        ] {
            assert_eq!(selects(source), Ok(is), "{source}");
        }
    }

    #[test]
    fn what_is_no_selector_is_refused() {
        for (source, why) in [
            ("device.driver", "must evaluate to bool or the unknown type, not string"),
            ("device.colour == 'red'", "undefined field 'colour'"),
            ("claim.name == 'x'", "undeclared reference to 'claim'"),
            ("device.driver ==", "Syntax error"),
            ("", "the expression is empty"),
        ] {
            let told = selects(source).unwrap_err();
            assert!(told.contains(why) || why == "Syntax error", "{source}: {told}");
        }
        let told = selects("device.attributes['absent.example.com'].model == 'x'").unwrap_err();
        assert_eq!(told, "no such key: model");
        assert!(compile(&format!("true || '{}' == ''", "x".repeat(MAX_BYTES))).is_err());
        let costly = "device.attributes.all(a, device.attributes.all(b, device.attributes.all(c, true)))";
        let mut scope = Scope::default();
        scope.bind_device(&Device::default()).unwrap();
        assert_eq!(compile(costly).unwrap().is_true(&scope, &Budget::new(1)), Err(Failure::Budget));
    }
}
